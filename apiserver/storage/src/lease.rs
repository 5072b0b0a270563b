//! Leases for objects that expire (events): shared by what is written within a short window, since
//! etcd pays for every lease.

use std::time::Duration;

use rustc_hash::FxHashMap;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::Result;
use crate::etcd::Etcd;

/// Objects that may hang on one lease: their deletion is one transaction.
const OBJECTS: usize = 1000;
/// Different times to live remembered at once.
const KINDS: usize = 16;

pub(crate) struct Leases {
    /// The longest window.
    window: Duration,
    current: Mutex<FxHashMap<u64, Lease>>,
}

struct Lease {
    id: i64,
    until: Instant,
    objects: usize,
}

impl Leases {
    pub(crate) fn new(window: Duration) -> Leases {
        Leases { window, current: Mutex::default() }
    }

    /// A lease that lives at least `ttl` and little longer; `fresh` forces a new one.
    pub(crate) async fn get(&self, etcd: &Etcd, ttl: Duration, fresh: bool) -> Result<i64> {
        let seconds = ttl.as_secs().max(1);
        // Held while a lease is granted: others of that moment want the same one.
        let mut current = self.current.lock().await;
        if let Some(lease) = current.get_mut(&seconds).filter(|l| !fresh && l.objects < OBJECTS)
            && Instant::now() < lease.until
        {
            lease.objects += 1;
            return Ok(lease.id);
        }
        let window = self.window.min(Duration::from_secs(seconds).mul_f64(0.05)).as_secs();
        let until = Instant::now() + Duration::from_secs(window);
        let granted = i64::try_from(seconds + window).unwrap_or(i64::MAX);
        let answer = etcd.call(etcd.lease().grant(granted, None)).await?;
        if current.len() >= KINDS {
            current.clear();
        }
        current.insert(seconds, Lease { id: answer.id(), until, objects: 1 });
        Ok(answer.id())
    }
}
