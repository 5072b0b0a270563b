//! What a controller has written and not yet seen come back.
//!
//! A cache may lag behind this process's own writes. Acting on it again would create or delete too much, so a
//! key waits until the cache shows what its last reconcile did.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;

use crate::informer::Shared;
use crate::meta::{Key, MetaExt};

/// After so long a write is no longer waited for: its event must have been lost with the object.
const PATIENCE: Duration = Duration::from_secs(300);

struct Pending {
    since: Instant,
    created: HashMap<String, (Key, u64)>,
    deleted: HashMap<String, Key>,
}

/// Unseen pod writes by owner.
#[derive(Default)]
pub struct Expectations(Mutex<HashMap<Key, Pending>>);

impl Expectations {
    /// This pod was created for `owner`.
    pub fn created(&self, owner: &Key, pod: &Pod) {
        let mut all = self.0.lock();
        let pending = entry(&mut all, owner);
        pending.created.insert(pod.uid().to_owned(), (pod.key(), pod.rv()));
    }

    /// This pod was deleted for `owner`.
    pub fn deleted(&self, owner: &Key, pod: &Pod) {
        let mut all = self.0.lock();
        let pending = entry(&mut all, owner);
        pending.deleted.insert(pod.uid().to_owned(), pod.key());
    }

    /// Whether the cache shows everything that was written for `owner`.
    pub fn satisfied(&self, owner: &Key, pods: &Shared<Pod>) -> bool {
        let mut all = self.0.lock();
        let Some(pending) = all.get_mut(owner) else { return true };
        let newest = pods.newest();
        pending.created.retain(|uid, (key, rv)| {
            let seen = pods.get(key).is_some_and(|p| p.uid() == uid);
            !seen && (*rv == 0 || newest < *rv)
        });
        pending.deleted.retain(|uid, key| pods.get(key).is_some_and(|p| p.uid() == uid && !p.deleting()));
        let done = pending.created.is_empty() && pending.deleted.is_empty();
        if done || pending.since.elapsed() > PATIENCE {
            all.remove(owner);
            return true;
        }
        false
    }

    /// The owner is gone.
    pub fn forget(&self, owner: &Key) {
        self.0.lock().remove(owner);
    }

    /// The uids whose deletion is still unseen.
    pub fn deletions(&self, owner: &Key) -> HashSet<String> {
        self.0.lock().get(owner).map(|p| p.deleted.keys().cloned().collect()).unwrap_or_default()
    }
}

fn entry<'a>(all: &'a mut HashMap<Key, Pending>, owner: &Key) -> &'a mut Pending {
    let pending = all.entry(owner.clone()).or_insert_with(|| Pending {
        since: Instant::now(),
        created: HashMap::new(),
        deleted: HashMap::new(),
    });
    pending.since = Instant::now();
    pending
}

/// The newest resource version written for each key: a cache older than that is not acted on.
#[derive(Default)]
pub struct Written(Mutex<HashMap<Key, (u64, Instant)>>);

impl Written {
    /// Something was written for `key`, and the server gave it this version.
    pub fn note(&self, key: &Key, version: u64) {
        let mut all = self.0.lock();
        let entry = all.entry(key.clone()).or_insert((0, Instant::now()));
        *entry = (entry.0.max(version), Instant::now());
    }

    /// Whether a cache that has seen `newest` shows what was written for `key`.
    pub fn seen(&self, key: &Key, newest: u64) -> bool {
        let mut all = self.0.lock();
        let Some((version, since)) = all.get(key).copied() else { return true };
        if newest >= version || since.elapsed() > PATIENCE {
            all.remove(key);
            return true;
        }
        false
    }
}
