//! One stored object as the cache holds it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::Attributes;
use crate::pack::Packed;

/// An object at one revision. Shared by the cache, all readers and all watchers, never changed.
pub struct Object {
    /// The whole etcd key.
    pub key: Box<str>,
    /// Mod revision: the `resourceVersion`. For the object of a `Deleted` event, the deletion's.
    pub revision: i64,
    /// Revision of the creation.
    pub create_revision: i64,
    /// The value as stored, after decryption.
    pub(crate) packed: Packed,
    /// Labels and selectable fields.
    pub attributes: Attributes,
    /// The lease that will delete it, 0 for none.
    pub lease: i64,
    /// Stored under an old encryption key or none: a write that changes nothing else is due.
    pub stale: bool,
    /// Why `bytes` could not be had, if so, and what is stored.
    pub(crate) corrupt: Option<Box<Corrupt>>,
    pub(crate) json: Mutex<Option<Json>>,
    pub(crate) budget: Arc<JsonBudget>,
}

/// Lazily made JSON.
pub(crate) struct Json {
    text: Bytes,
    /// Nobody has asked for it since the last look.
    idle: bool,
}

/// A stored value that could not be decrypted.
#[derive(Clone)]
pub(crate) struct Corrupt {
    pub(crate) message: Box<str>,
    pub(crate) stored: Bytes,
}

/// How many bytes of lazily made JSON are alive; shared by all objects of a store.
#[derive(Debug)]
pub(crate) struct JsonBudget {
    used: AtomicUsize,
    limit: usize,
    /// Told when there is more than the limit; then the store drops what it finds.
    pub(crate) over: Notify,
}

impl JsonBudget {
    pub(crate) fn new(limit: usize) -> JsonBudget {
        JsonBudget { used: AtomicUsize::new(0), limit, over: Notify::new() }
    }

    /// Whether so much more may be kept. Until the store has made room there is some slack, and
    /// beyond that nothing is kept.
    fn take(&self, bytes: usize) -> bool {
        let used = self.used.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if used <= self.limit {
            return true;
        }
        self.over.notify_one();
        if used <= self.limit + self.limit / 2 {
            return true;
        }
        self.give(bytes);
        false
    }

    /// Whether there is any.
    pub(crate) fn in_use(&self) -> bool {
        self.used.load(Ordering::Relaxed) > 0
    }

    fn give(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Object {
    /// The value as stored, after decryption. Unpacks it: call it once.
    pub fn bytes(&self) -> Bytes {
        self.packed.bytes()
    }

    /// The JSON form: made by `make` at first use and shared from then on by all who ask.
    ///
    /// Under memory pressure, or when nobody asks any more, the store drops it again, so `make` must
    /// be repeatable.
    pub fn json(&self, make: impl FnOnce(&Object) -> Bytes) -> Bytes {
        if let Some(json) = self.cached_json() {
            return json;
        }
        let made = make(self);
        let mut slot = self.json.lock();
        if slot.is_none() && self.budget.take(made.len()) {
            *slot = Some(Json { text: made.clone(), idle: false });
        }
        made
    }

    /// The JSON form if somebody has made it already. A large list uses this and encodes the rest
    /// without keeping it, so that one `kubectl get -A` does not double the memory of the server.
    pub fn cached_json(&self) -> Option<Bytes> {
        let mut slot = self.json.lock();
        let json = slot.as_mut()?;
        json.idle = false;
        Some(json.text.clone())
    }

    pub(crate) fn drop_json(&self) {
        if let Some(json) = self.json.lock().take() {
            self.budget.give(json.text.len());
        }
    }

    /// Drops the JSON that nobody has asked for since the last call.
    pub(crate) fn drop_idle_json(&self) {
        let mut slot = self.json.lock();
        if slot.as_ref().is_some_and(|j| j.idle) {
            let json = slot.take();
            self.budget.give(json.map_or(0, |j| j.text.len()));
        } else if let Some(json) = slot.as_mut() {
            json.idle = true;
        }
    }

    /// The same bytes under another revision, as events about something that is gone need it.
    pub(crate) fn at_revision(&self, revision: i64) -> Object {
        Object {
            key: self.key.clone(),
            revision,
            create_revision: self.create_revision,
            packed: self.packed.duplicate(),
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
        size_of::<Object>() + self.key.len() + self.packed.weight() + self.attributes.size()
    }
}

impl Drop for Object {
    fn drop(&mut self) {
        if let Some(json) = self.json.get_mut().take() {
            self.budget.give(json.text.len());
        }
    }
}

impl std::fmt::Debug for Object {
    /// Without the bytes: they may be a Secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Object")
            .field("key", &self.key)
            .field("revision", &self.revision)
            .field("bytes", &self.packed.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_shared_and_bounded() {
        let budget = Arc::new(JsonBudget::new(1000));
        let object = |n: i64| Object {
            key: "k".into(),
            revision: n,
            create_revision: n,
            packed: Packed::Plain(Bytes::new()),
            attributes: Attributes::default(),
            lease: 0,
            stale: false,
            corrupt: None,
            json: Mutex::new(None),
            budget: budget.clone(),
        };
        let make = |_: &Object| Bytes::from(vec![b'x'; 100]);
        let objects: Vec<_> = (0..30).map(object).collect();
        for o in &objects {
            assert_eq!(o.json(make).len(), 100);
        }
        assert_eq!(objects.iter().filter(|o| o.cached_json().is_some()).count(), 15);
        assert_eq!(objects[0].json(|_| unreachable!("it was made already")).len(), 100);
        objects[0].drop_json();
        assert_eq!(budget.used.load(Ordering::Relaxed), 1400);
        objects.iter().for_each(Object::drop_idle_json);
        assert!(objects[1].cached_json().is_some(), "looked at twice before it goes");
        objects.iter().for_each(Object::drop_idle_json);
        assert_eq!(budget.used.load(Ordering::Relaxed), 100, "only the one that was asked for stays");
        drop(objects);
        assert_eq!(budget.used.load(Ordering::Relaxed), 0);
    }
}
