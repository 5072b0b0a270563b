//! Resources that nobody asks for: their memory is given back, and the first one who asks has them loaded again.
//!
//! Only resources whose [`crate::Spec`] allows it rest (custom ones: there may be thousands, most of them idle). At the
//! start they are loaded like all others, so that clients which come back after a restart find the history they need.
//! While one rests, the stream only counts its objects.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::Resource;
use super::cache::{Cache, Raw};

/// When a resource was last needed, and whether it rests.
pub(super) struct Rest {
    started: Instant,
    /// Milliseconds since `started`.
    used: AtomicU64,
    resting: AtomicBool,
    /// How many objects there are while memory does not hold them.
    count: AtomicI64,
}

impl Default for Rest {
    fn default() -> Rest {
        Rest {
            started: Instant::now(),
            used: AtomicU64::new(0),
            resting: AtomicBool::new(false),
            count: AtomicI64::new(0),
        }
    }
}

impl Rest {
    fn mark(&self) {
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.used.store(now, Ordering::SeqCst);
    }

    fn idle(&self) -> Duration {
        self.started.elapsed().saturating_sub(Duration::from_millis(self.used.load(Ordering::SeqCst)))
    }
}

impl Resource {
    /// Whether memory does not hold it because nobody has asked for it.
    pub fn resting(&self) -> bool {
        self.rest.resting.load(Ordering::SeqCst)
    }

    /// Has it loaded if it rests, and waits for that: for readers of [`Resource::snapshot`], who cannot wait.
    pub async fn awake(&self) {
        self.touch();
        if !self.ready() {
            self.wait_ready().await;
        }
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        if self.resting() {
            return usize::try_from(self.rest.count.load(Ordering::Acquire)).unwrap_or(0);
        }
        self.cache.read().objects().len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Somebody needs it. The mark comes before the question and rest asks the other way round, so that one of the two
    /// sees the other.
    pub(super) fn touch(&self) {
        if self.spec.rests.is_none() {
            return;
        }
        self.rest.mark();
        if self.rest.resting.swap(false, Ordering::SeqCst) && self.cluster.positioned() {
            // Otherwise the stream loads it when it takes its position.
            if let Some(me) = self.me.upgrade() {
                me.begin_load();
            }
        }
    }

    /// Gives memory back if nobody has needed it for long. Called by the stream, between two batches of changes.
    pub(super) fn rest_if_idle(&self) {
        let Some(after) = self.spec.rests else { return };
        if self.resting() || !self.ready() {
            return;
        }
        if self.watchers() > 0 || self.changed.receiver_count() > 0 {
            self.rest.mark();
        }
        if self.rest.idle() < after {
            return;
        }
        let mut cache = self.cache.write();
        self.rest.resting.store(true, Ordering::SeqCst);
        if self.rest.idle() < after || self.watchers() > 0 {
            self.rest.resting.store(false, Ordering::SeqCst);
            return;
        }
        let count = i64::try_from(cache.objects().len()).unwrap_or(i64::MAX);
        self.rest.count.store(count, Ordering::Release);
        self.ready.send_replace(false);
        let empty = Cache::after(&cache, self.spec.indexed_fields.len());
        let gone = std::mem::replace(&mut *cache, empty);
        drop(cache);
        drop(gone);
        tracing::debug!(prefix = self.prefix(), count, "Nobody asks for it: its memory is given back");
    }

    /// Counts instead of applying.
    pub(super) fn count(&self, batch: &[Raw]) {
        let change: i64 = batch.iter().map(Raw::difference).sum();
        self.rest.count.fetch_add(change, Ordering::AcqRel);
    }
}

/// All of these that are to be in memory.
pub(crate) fn awake(all: Vec<Arc<Resource>>) -> Vec<Arc<Resource>> {
    all.into_iter().filter(|r| !r.resting()).collect()
}
