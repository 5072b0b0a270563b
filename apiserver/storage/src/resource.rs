//! One resource: its cache, reads, writes and watchers.
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;

use crate::{Error, Event, List, ListOptions, Object, ReadVersion, Result, WatchOptions};

/// One resource: its cache, reads, writes and watchers. Keys are whole etcd keys below its prefix.
pub struct Resource {
    pub(crate) prefix: String,
}

impl Resource {
    /// `/registry/pods/`.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }
    /// Whether it has been loaded.
    pub fn ready(&self) -> bool {
        false
    }
    /// Waits until it has been loaded.
    pub async fn wait_ready(&self) {}
    /// Reads one object.
    pub async fn get(&self, _key: &str, _version: ReadVersion) -> Result<Option<Arc<Object>>> {
        Err(Error::NotReady)
    }
    /// Reads one object straight from etcd (a retry after a conflict).
    pub async fn get_live(&self, _key: &str) -> Result<Option<Arc<Object>>> {
        Err(Error::NotReady)
    }
    /// Lists what lies below `key_prefix` (the resource's prefix, or longer by `namespace/`).
    pub async fn list(&self, _key_prefix: &str, _options: ListOptions) -> Result<List> {
        Err(Error::NotReady)
    }
    /// Watches what lies below `key_prefix`; a `key_prefix` without a slash at its end is one key.
    pub async fn watch(&self, _key_prefix: &str, _options: WatchOptions) -> Result<Watcher> {
        Err(Error::NotReady)
    }
    /// Creates; `AlreadyExists` if the key is taken.
    pub async fn create(&self, _key: &str, _value: Bytes, _ttl: Option<Duration>) -> Result<Arc<Object>> {
        Err(Error::NotReady)
    }
    /// Replaces the object whose mod revision is `expected`; else `Conflict`.
    pub async fn update(&self, _key: &str, _expected: i64, _value: Bytes, _ttl: Option<Duration>) -> Result<Arc<Object>> {
        Err(Error::NotReady)
    }
    /// Deletes the object whose mod revision is `expected`; answers the revision of the deletion.
    pub async fn delete(&self, _key: &str, _expected: i64) -> Result<i64> {
        Err(Error::NotReady)
    }
    /// What memory holds now; no waiting, no copying.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot { revision: 0 }
    }
    /// The revision of the last event of this resource.
    pub fn revision(&self) -> i64 {
        0
    }
    /// Changes with every event of this resource (value: [`Resource::revision`]), for in-process
    /// readers that recompute something from [`Resource::snapshot`].
    pub fn subscribe(&self) -> tokio::sync::watch::Receiver<i64> {
        tokio::sync::watch::channel(0).1
    }
}

/// An unchanging view of a resource.
#[derive(Clone)]
pub struct Snapshot {
    /// Contains every change up to here.
    pub revision: i64,
}

impl Snapshot {
    /// One object.
    pub fn get(&self, _key: &str) -> Option<&Arc<Object>> {
        None
    }
    /// All objects below a prefix, ordered by key.
    pub fn list<'a>(&'a self, _key_prefix: &'a str) -> impl Iterator<Item = &'a Arc<Object>> {
        std::iter::empty()
    }
    /// All objects that have the value in the indexed field; `None` if the field is not indexed.
    pub fn by_index(&self, _field: &str, _value: &str) -> Option<impl Iterator<Item = &Arc<Object>>> {
        None::<std::iter::Empty<_>>
    }
    /// How many objects there are.
    pub fn len(&self) -> usize {
        0
    }
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        true
    }
}

/// A running watch. Dropping it ends it. Also a [`futures::Stream`].
pub struct Watcher {}

impl Watcher {
    /// The next event; `None` after an [`Event::Error`] or when the store shuts down.
    pub async fn next(&mut self) -> Option<Event> {
        None
    }
    /// The next event if there is one already: lets a server send what is due in one write.
    pub fn try_next(&mut self) -> Option<Event> {
        None
    }
}

impl futures::Stream for Watcher {
    type Item = Event;
    fn poll_next(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Option<Event>> {
        Poll::Ready(None)
    }
}
