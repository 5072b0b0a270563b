//! One stored object as the cache holds it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;

use crate::Attributes;

/// An object at one revision. Shared by the cache, all readers and all watchers, never changed.
pub struct Object {
    /// The whole etcd key.
    pub key: Box<str>,
    /// Mod revision: the `resourceVersion`. For the object of a `Deleted` event, the deletion's.
    pub revision: i64,
    /// Revision of the creation.
    pub create_revision: i64,
    /// The value as stored, after decryption.
    pub bytes: Bytes,
    /// Labels and selectable fields.
    pub attributes: Attributes,
    /// The lease that will delete it, 0 for none.
    pub lease: i64,
    /// Stored under an old encryption key or none: a write that changes nothing else is due.
    pub stale: bool,
    /// Why `bytes` could not be had, if so.
    pub(crate) corrupt: Option<Box<str>>,
    pub(crate) json: Mutex<Option<Bytes>>,
    pub(crate) budget: Arc<JsonBudget>,
}

/// How many bytes of lazily made JSON are alive; shared by all objects of a store.
#[derive(Debug, Default)]
pub(crate) struct JsonBudget {
    pub(crate) used: AtomicUsize,
}

impl Object {
    /// The JSON form: made by `make` at first use and shared from then on by all who ask.
    ///
    /// Under memory pressure the store drops it again, so `make` must be repeatable.
    pub fn json(&self, make: impl FnOnce(&Object) -> Bytes) -> Bytes {
        if let Some(json) = self.json.lock().as_ref() {
            return json.clone();
        }
        let made = make(self);
        let mut slot = self.json.lock();
        if slot.is_none() {
            self.budget.used.fetch_add(made.len(), Ordering::Relaxed);
            *slot = Some(made.clone());
        }
        made
    }

    /// The JSON form if somebody has made it already. A large list uses this and encodes the rest
    /// without keeping it, so that one `kubectl get -A` does not double the memory of the server.
    pub fn cached_json(&self) -> Option<Bytes> {
        self.json.lock().clone()
    }

    pub(crate) fn drop_json(&self) {
        if let Some(json) = self.json.lock().take() {
            self.budget.used.fetch_sub(json.len(), Ordering::Relaxed);
        }
    }

    /// The same bytes under another revision, as events about something that is gone need it.
    pub(crate) fn at_revision(&self, revision: i64) -> Object {
        Object {
            key: self.key.clone(),
            revision,
            create_revision: self.create_revision,
            bytes: self.bytes.clone(),
            attributes: self.attributes.clone(),
            lease: self.lease,
            stale: self.stale,
            corrupt: self.corrupt.clone(),
            json: Mutex::new(None),
            budget: self.budget.clone(),
        }
    }

    /// What it weighs, roughly, without JSON.
    pub(crate) fn weight(&self) -> usize {
        size_of::<Object>() + self.key.len() + self.bytes.len() + self.attributes.size()
    }
}

impl Drop for Object {
    fn drop(&mut self) {
        if let Some(json) = self.json.get_mut().take() {
            self.budget.used.fetch_sub(json.len(), Ordering::Relaxed);
        }
    }
}

impl std::fmt::Debug for Object {
    /// Without the bytes: they may be a Secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Object")
            .field("key", &self.key)
            .field("revision", &self.revision)
            .field("bytes", &self.bytes.len())
            .finish_non_exhaustive()
    }
}
