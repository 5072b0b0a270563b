//! The words callers use: specs, read versions, list and watch options, events.

use std::sync::Arc;
use std::time::Duration;

use crate::{Attributes, Error, Identity, Object, Transformer};

/// Derives labels and selectable fields from an object's key and stored (decrypted) bytes.
pub type AttributesFn = dyn Fn(&str, &[u8]) -> Attributes + Send + Sync;

/// Turns stored values into the form that the server works on, and back.
pub trait Codec: Send + Sync {
    /// The working form, and whether a write would store something else than what is there.
    fn read(&self, stored: bytes::Bytes) -> std::result::Result<(bytes::Bytes, bool), String>;
    /// The form to store.
    fn write(&self, value: bytes::Bytes) -> std::result::Result<bytes::Bytes, String>;
}

/// What the store must know of a resource.
#[derive(Clone)]
pub struct Spec {
    /// Where it lives in etcd, with both slashes: `/registry/pods/`.
    pub prefix: String,
    /// Called once per stored version of an object.
    pub attributes: Arc<AttributesFn>,
    /// Fields by which lists and watches are answered without looking at other objects.
    pub indexed_fields: Vec<String>,
    /// Encryption at rest. [`crate::Store::resource`] sets it for a resource that has a name.
    pub transformer: Arc<dyn Transformer>,
    /// Between the stored form (decrypted) and the one the server works on, if they may differ.
    pub codec: Option<Arc<dyn Codec>>,
    /// Resource and API group as the encryption configuration names them.
    pub name: Option<(String, String)>,
    /// Its memory is given back when nobody has asked for it this long.
    pub rests: Option<Duration>,
}

impl Spec {
    /// A resource without indexes and encryption.
    pub fn new(prefix: impl Into<String>, attributes: Arc<AttributesFn>) -> Spec {
        Spec {
            prefix: prefix.into(),
            attributes,
            indexed_fields: Vec::new(),
            transformer: Arc::new(Identity),
            codec: None,
            name: None,
            rests: None,
        }
    }

    /// Says which resource this is, so that the store can encrypt it as configured; `group` is empty
    /// for core.
    pub fn named(mut self, resource: &str, group: &str) -> Spec {
        self.name = Some((resource.to_owned(), group.to_owned()));
        self
    }

    /// Lets it rest when nobody has asked for it this long.
    pub fn resting(mut self, after: Duration) -> Spec {
        self.rests = Some(after);
        self
    }

    /// Sets the codec.
    pub fn codec(mut self, codec: Arc<dyn Codec>) -> Spec {
        self.codec = Some(codec);
        self
    }

    /// Adds an indexed field.
    pub fn indexed(mut self, field: &str) -> Spec {
        self.indexed_fields.push(field.to_owned());
        self
    }

    /// Sets the encryption at rest.
    pub fn transformer(mut self, transformer: Arc<dyn Transformer>) -> Spec {
        self.transformer = transformer;
        self
    }
}

/// How fresh an answer must be; `resourceVersion` and `resourceVersionMatch` in one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ReadVersion {
    /// `resourceVersion=0`: whatever is in memory.
    Any,
    /// Unset: at least as new as everything acknowledged before the request.
    #[default]
    Consistent,
    /// `resourceVersion=N` (match `NotOlderThan`).
    NotOlderThan(i64),
    /// `resourceVersion=N` with match `Exact` (lists only; a get treats it as `NotOlderThan`).
    Exact(i64),
}

/// A selector: `id` is its canonical text; two predicates with equal ids must decide alike, so that
/// an event is filtered once for all watchers that share the id.
pub struct Predicate {
    pub(crate) id: Box<str>,
    pub(crate) matches: Box<dyn Fn(&Object) -> bool + Send + Sync>,
}

impl Predicate {
    /// A predicate named by the canonical text of its selectors.
    pub fn new(
        id: impl Into<String>,
        matches: impl Fn(&Object) -> bool + Send + Sync + 'static,
    ) -> Arc<Predicate> {
        Arc::new(Predicate { id: id.into().into_boxed_str(), matches: Box::new(matches) })
    }

    /// Whether the object is selected.
    pub fn matches(&self, object: &Object) -> bool {
        (self.matches)(object)
    }
}

impl std::fmt::Debug for Predicate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Predicate").field(&self.id).finish()
    }
}

/// "All answers have this value in this indexed field." A hint only: the predicate decides. A hint
/// for a field that the spec does not index is ignored.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct IndexHint {
    /// Name of the field.
    pub field: String,
    /// Its value, not empty.
    pub value: String,
}

/// Options of [`crate::Resource::list`].
#[derive(Debug, Clone, Default)]
pub struct ListOptions {
    /// How fresh.
    pub version: ReadVersion,
    /// At most so many items, 0 for all.
    pub limit: usize,
    /// The `continue` parameter as the client sent it; `version` is then ignored.
    pub continue_token: Option<String>,
    /// Selector.
    pub predicate: Option<Arc<Predicate>>,
    /// Index to use.
    pub index: Option<IndexHint>,
}

/// Answer of [`crate::Resource::list`].
#[derive(Debug, Default)]
pub struct List {
    /// The list's `resourceVersion`; a watch from here misses nothing.
    pub revision: i64,
    /// Ordered by key.
    pub items: Vec<Arc<Object>>,
    /// The `continue` token for the next page, if there is one.
    pub next: Option<String>,
    /// `remainingItemCount`, where it is known (no selector).
    pub remaining: Option<i64>,
}

/// Where a watch starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WatchStart {
    /// Events after this revision.
    After(i64),
    /// From the state that a read of this version sees (never `Exact`).
    State(ReadVersion),
}

/// Options of [`crate::Resource::watch`].
#[derive(Debug, Clone)]
pub struct WatchOptions {
    /// Where to start.
    pub start: WatchStart,
    /// With [`WatchStart::State`]: the objects there are first, as `Added` events.
    pub initial: bool,
    /// After those, a bookmark that says so (`sendInitialEvents=true`).
    pub initial_end_bookmark: bool,
    /// Selector; objects that enter it are `Added`, those that leave it `Deleted`.
    pub predicate: Option<Arc<Predicate>>,
    /// Index to use: events about other values do not even wake the watcher.
    pub index: Option<IndexHint>,
    /// Send a bookmark about once a minute.
    pub bookmarks: bool,
}

impl Default for WatchOptions {
    fn default() -> WatchOptions {
        WatchOptions {
            start: WatchStart::State(ReadVersion::Consistent),
            initial: false,
            initial_end_bookmark: false,
            predicate: None,
            index: None,
            bookmarks: false,
        }
    }
}

/// What a watcher sees. Objects (and the JSON they cache) are shared by all watchers.
#[derive(Debug, Clone)]
pub enum Event {
    /// Created, or has entered the selector.
    Added(Arc<Object>),
    /// Changed.
    Modified(Arc<Object>),
    /// Deleted, or has left the selector: the last state seen, under the revision of the change.
    Deleted(Arc<Object>),
    /// Everything up to this revision has been delivered.
    Bookmark {
        /// The revision.
        revision: i64,
        /// The initial state is complete (annotation `k8s.io/initial-events-end`).
        initial_events_end: bool,
    },
    /// The last event: history is lost or the watcher was too slow; list again.
    Error(Error),
}
