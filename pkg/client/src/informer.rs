//! Shared informers: one watch of a resource, a local store of its objects, and everybody in the process who wants to
//! hear of changes.
//!
//! The initial state comes by a streaming list where the server has it and by list pages otherwise. After a break the
//! informer catches up by comparing: what is gone is reported as deleted, what changed as updated, nothing twice.
//! Objects are stored without `managedFields`, which nobody here reads and which are often most of an object.

use std::collections::HashSet;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, InitialListStrategy};
use kube::{Api, Resource};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::store::{Key, Store};

/// A change of an object.
#[derive(Debug)]
pub enum Event<K> {
    /// The object is new (or was there when the listener came).
    Added(Arc<K>),
    /// The object has changed; on a resync both are the same.
    Updated {
        /// Before.
        old: Arc<K>,
        /// Now.
        new: Arc<K>,
    },
    /// The object is gone; this is its last known state.
    Deleted(Arc<K>),
}

impl<K> Clone for Event<K> {
    fn clone(&self) -> Event<K> {
        match self {
            Event::Added(o) => Event::Added(o.clone()),
            Event::Updated { old, new } => Event::Updated { old: old.clone(), new: new.clone() },
            Event::Deleted(o) => Event::Deleted(o.clone()),
        }
    }
}

impl<K: Resource> Event<K> {
    /// The object as it is now, or as it last was.
    pub fn object(&self) -> &Arc<K> {
        match self {
            Event::Added(o) | Event::Deleted(o) => o,
            Event::Updated { new, .. } => new,
        }
    }

    /// The object's key.
    pub fn key(&self) -> Key {
        Key::of(&**self.object())
    }
}

type Handler<K> = Box<dyn FnMut(&Event<K>) -> bool + Send>;
type Transform<K> = Box<dyn Fn(&mut K) + Send + Sync>;

struct Shared<K> {
    store: Store<K>,
    /// Handlers run under this lock, so that one who joins late hears of every object exactly once.
    handlers: Mutex<Vec<Handler<K>>>,
    synced: watch::Sender<bool>,
}

/// A shared informer; clones share everything.
pub struct Informer<K: Resource> {
    source: Arc<Source<K>>,
    shared: Arc<Shared<K>>,
}

struct Source<K> {
    api: Api<K>,
    config: watcher::Config,
    transform: Mutex<Option<Transform<K>>>,
    resync: Mutex<Option<Duration>>,
}

impl<K: Resource> Clone for Informer<K> {
    fn clone(&self) -> Informer<K> {
        Informer { source: self.source.clone(), shared: self.shared.clone() }
    }
}

impl<K> Informer<K>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    /// An informer of what `api` and `config` select. Nothing happens until [`Informer::run`].
    pub fn new(api: Api<K>, config: watcher::Config) -> Informer<K> {
        let source = Source {
            api,
            config: config.streaming_lists(),
            transform: Mutex::default(),
            resync: Mutex::default(),
        };
        let shared =
            Shared { store: Store::new(), handlers: Mutex::default(), synced: watch::Sender::new(false) };
        Informer { source: Arc::new(source), shared: Arc::new(shared) }
    }

    /// Shrinks each object before it is stored, after `managedFields` have been dropped.
    #[must_use]
    pub fn transform(self, f: impl Fn(&mut K) + Send + Sync + 'static) -> Informer<K> {
        *self.source.transform.lock() = Some(Box::new(f));
        self
    }

    /// Tells handlers of every object about each `period` (stretched by up to a half, so that daemons spread out).
    #[must_use]
    pub fn resync(self, period: Duration) -> Informer<K> {
        *self.source.resync.lock() = Some(period).filter(|p| !p.is_zero());
        self
    }

    /// An index by which [`Store::by_index`] finds objects.
    #[must_use]
    pub fn index(
        self,
        name: &'static str,
        of: impl Fn(&K) -> Vec<String> + Send + Sync + 'static,
    ) -> Informer<K> {
        self.shared.store.add_index(name, of);
        self
    }

    /// The objects.
    pub fn store(&self) -> Store<K> {
        self.shared.store.clone()
    }

    /// Calls `handler` for each object there is and each change from now on, in order. Handlers are quick and never
    /// block: they put a key into a queue.
    pub fn on_event(&self, mut handler: impl FnMut(&Event<K>) + Send + 'static) {
        self.register(Box::new(move |event| {
            handler(event);
            true
        }));
    }

    /// The same as a channel. The channel has no bound: whoever holds it reads it or drops it.
    pub fn subscribe(&self) -> mpsc::UnboundedReceiver<Event<K>> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.register(Box::new(move |event| sender.send(event.clone()).is_ok()));
        receiver
    }

    fn register(&self, mut handler: Handler<K>) {
        let mut handlers = self.shared.handlers.lock();
        for object in self.shared.store.list() {
            handler(&Event::Added(object));
        }
        handlers.push(handler);
    }

    /// Whether the first list is complete.
    pub fn has_synced(&self) -> bool {
        *self.shared.synced.borrow()
    }

    /// Waits for the first list.
    pub async fn synced(&self) {
        let mut receiver = self.shared.synced.subscribe();
        // An error means that the sender is gone, which cannot be: we hold it.
        let _ = receiver.wait_for(|s| *s).await;
    }

    /// Watches until shutdown. Run it once.
    pub async fn run(self, shutdown: CancellationToken) {
        let mut config = self.source.config.clone();
        loop {
            match self.watch(config.clone(), &shutdown).await {
                End::Shutdown => return,
                End::NoStreamingList => {
                    tracing::info!(resource = %self.source.api.resource_url(), "Server has no streaming lists, listing in pages");
                    config.initial_list_strategy = InitialListStrategy::ListWatch;
                }
            }
        }
    }

    async fn watch(&self, config: watcher::Config, shutdown: &CancellationToken) -> End {
        let streaming = config.initial_list_strategy == InitialListStrategy::StreamingList;
        let mut stream = watcher::watcher(self.source.api.clone(), config).default_backoff().boxed();
        let mut stale = HashSet::new();
        let mut resync = Box::pin(self.next_resync());
        loop {
            let event = tokio::select! {
                () = shutdown.cancelled() => return End::Shutdown,
                () = resync.as_mut() => {
                    self.resync_now();
                    resync.set(self.next_resync());
                    continue;
                }
                event = stream.next() => event,
            };
            match event {
                Some(Ok(event)) => self.apply(event, &mut stale),
                Some(Err(error)) if streaming && refuses_streaming(&error) => return End::NoStreamingList,
                Some(Err(error)) => {
                    tracing::warn!(resource = %self.source.api.resource_url(), %error, "Failed to watch, trying again");
                }
                None => return End::Shutdown,
            }
        }
    }

    fn apply(&self, event: watcher::Event<K>, stale: &mut HashSet<Key>) {
        match event {
            watcher::Event::Init => *stale = self.shared.store.keys(),
            watcher::Event::InitApply(object) => {
                stale.remove(&Key::of(&object));
                self.put(object);
            }
            watcher::Event::InitDone => {
                stale.drain().for_each(|key| self.remove(&key, None));
                self.shared.synced.send_replace(true);
            }
            watcher::Event::Apply(object) => self.put(object),
            watcher::Event::Delete(object) => self.remove(&Key::of(&object), Some(object)),
        }
    }

    fn put(&self, mut object: K) {
        self.shrink(&mut object);
        let key = Key::of(&object);
        let new = Arc::new(object);
        let mut handlers = self.shared.handlers.lock();
        let event = match self.shared.store.put(key, new.clone()) {
            Some(old) if same_version(&*old, &*new) => return,
            Some(old) => Event::Updated { old, new },
            None => Event::Added(new),
        };
        tell(&mut handlers, &event);
    }

    fn remove(&self, key: &Key, last: Option<K>) {
        let mut handlers = self.shared.handlers.lock();
        let Some(known) = self.shared.store.remove(key) else { return };
        let object = match last {
            Some(mut last) => {
                self.shrink(&mut last);
                Arc::new(last)
            }
            None => known,
        };
        tell(&mut handlers, &Event::Deleted(object));
    }

    fn shrink(&self, object: &mut K) {
        object.meta_mut().managed_fields = None;
        if let Some(transform) = &*self.source.transform.lock() {
            transform(object);
        }
    }

    async fn next_resync(&self) {
        let period = *self.source.resync.lock();
        match period {
            Some(period) => tokio::time::sleep(period.mul_f64(1.0 + rand::random::<f64>() / 2.0)).await,
            None => std::future::pending().await,
        }
    }

    fn resync_now(&self) {
        let mut handlers = self.shared.handlers.lock();
        for object in self.shared.store.list() {
            tell(&mut handlers, &Event::Updated { old: object.clone(), new: object });
        }
    }
}

enum End {
    Shutdown,
    NoStreamingList,
}

fn tell<K>(handlers: &mut Vec<Handler<K>>, event: &Event<K>) {
    handlers.retain_mut(|handler| handler(event));
}

fn same_version<K: Resource>(a: &K, b: &K) -> bool {
    let (a, b) = (&a.meta().resource_version, &b.meta().resource_version);
    a.is_some() && a == b
}

/// A server without the feature says that `sendInitialEvents` is forbidden, as an invalid or bad request; one whose
/// etcd is too old for it answers with an internal error that names what is missing.
fn refuses_streaming(error: &watcher::Error) -> bool {
    let status = match error {
        watcher::Error::WatchStartFailed(kube::Error::Api(status)) => status,
        watcher::Error::WatchError(status) => status,
        _ => return false,
    };
    matches!(status.code, 400 | 422) || status.message.contains("RequestWatchProgress")
}

#[cfg(test)]
mod tests;
