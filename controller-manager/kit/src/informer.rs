//! Shared informers: each resource is listed and watched once a process, whoever reads it.
//!
//! The store drops what no controller reads (`managedFields`), keeps an index by controlling owner, and
//! knows the newest resource version it has seen, so that a reconcile can tell whether its own last
//! writes have come back yet.

use std::any::{Any, TypeId};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Debug;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::StreamExt;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, Resource};
use parking_lot::{Mutex, RwLock};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::meta::{Key, MetaExt, controller_of};

/// One difference between what the store held and what it holds now.
pub enum Change<K> {
    Added(Arc<K>),
    Updated { old: Arc<K>, new: Arc<K> },
    Deleted(Arc<K>),
}

impl<K> Change<K> {
    /// The object as it is now, or as it last was.
    pub fn object(&self) -> &Arc<K> {
        match self {
            Change::Added(object) | Change::Deleted(object) => object,
            Change::Updated { new, .. } => new,
        }
    }

    /// The state before an update.
    pub fn old(&self) -> Option<&Arc<K>> {
        match self {
            Change::Updated { old, .. } => Some(old),
            _ => None,
        }
    }

    /// Whether the object is gone.
    pub fn deleted(&self) -> bool {
        matches!(self, Change::Deleted(_))
    }
}

/// What an informer can hold.
pub trait Watched:
    Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static
{
}
impl<K> Watched for K where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static
{
}

type Handler<K> = Box<dyn Fn(&Change<K>) + Send + Sync>;
type KeyFn<K> = Box<dyn Fn(&K) -> Option<String> + Send + Sync>;

struct Index<K> {
    name: &'static str,
    key: KeyFn<K>,
    entries: HashMap<String, BTreeSet<Key>>,
}

impl<K> Index<K> {
    fn insert(&mut self, at: &Key, object: &K) {
        if let Some(key) = (self.key)(object) {
            self.entries.entry(key).or_default().insert(at.clone());
        }
    }

    fn remove(&mut self, at: &Key, object: &K) {
        let Some(key) = (self.key)(object) else { return };
        if let Some(set) = self.entries.get_mut(&key) {
            set.remove(at);
            if set.is_empty() {
                self.entries.remove(&key);
            }
        }
    }
}

struct Store<K> {
    objects: BTreeMap<Key, Arc<K>>,
    indexes: Vec<Index<K>>,
}

/// The shared informer of one resource (or of the part of it that a field selector names).
pub struct Shared<K> {
    store: RwLock<Store<K>>,
    /// Held while a change is applied and told, so that a new handler misses nothing and hears nothing twice.
    handlers: Mutex<Vec<Handler<K>>>,
    newest: AtomicU64,
    synced: watch::Sender<bool>,
}

const OWNER: &str = "owner";

impl<K: Watched> Shared<K> {
    fn new() -> Shared<K> {
        let owner = Index { name: OWNER, key: Box::new(owner_index::<K>), entries: HashMap::new() };
        Shared {
            store: RwLock::new(Store { objects: BTreeMap::new(), indexes: vec![owner] }),
            handlers: Mutex::new(Vec::new()),
            newest: AtomicU64::new(0),
            synced: watch::Sender::new(false),
        }
    }

    /// The object of that key.
    pub fn get(&self, key: &Key) -> Option<Arc<K>> {
        self.store.read().objects.get(key).cloned()
    }

    /// Every object, in order of key.
    pub fn list(&self) -> Vec<Arc<K>> {
        self.store.read().objects.values().cloned().collect()
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.store.read().objects.len()
    }

    /// Whether there is no object.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The objects of one namespace.
    pub fn namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        let store = self.store.read();
        let from = Key::new(namespace, "");
        store
            .objects
            .range((Bound::Included(from), Bound::Unbounded))
            .take_while(|(key, _)| key.namespace == namespace)
            .map(|(_, object)| object.clone())
            .collect()
    }

    /// The objects whose controlling owner has this uid.
    pub fn owned(&self, uid: &str) -> Vec<Arc<K>> {
        self.by(OWNER, uid)
    }

    /// The objects of a namespace that no controller owns.
    pub fn orphans(&self, namespace: &str) -> Vec<Arc<K>> {
        self.by(OWNER, &format!("/{namespace}"))
    }

    /// The objects that an index made with [`Shared::index`] files under `key`.
    pub fn by(&self, index: &str, key: &str) -> Vec<Arc<K>> {
        let store = self.store.read();
        let Some(index) = store.indexes.iter().find(|i| i.name == index) else { return Vec::new() };
        let Some(keys) = index.entries.get(key) else { return Vec::new() };
        keys.iter().filter_map(|key| store.objects.get(key).cloned()).collect()
    }

    /// Files objects under what `key` says of them. Asking twice for the same name changes nothing.
    pub fn index(&self, name: &'static str, key: impl Fn(&K) -> Option<String> + Send + Sync + 'static) {
        let mut store = self.store.write();
        if store.indexes.iter().any(|i| i.name == name) {
            return;
        }
        let mut index = Index { name, key: Box::new(key), entries: HashMap::new() };
        for (at, object) in &store.objects {
            index.insert(at, object);
        }
        store.indexes.push(index);
    }

    /// Calls `handler` for each object there is and for every change from now on. Handlers run on the
    /// informer's task: they enqueue keys and return.
    pub fn watch(&self, handler: impl Fn(&Change<K>) + Send + Sync + 'static) {
        let mut handlers = self.handlers.lock();
        for object in self.list() {
            handler(&Change::Added(object));
        }
        handlers.push(Box::new(handler));
    }

    /// The newest resource version seen in any event.
    pub fn newest(&self) -> u64 {
        self.newest.load(Ordering::Acquire)
    }

    /// Waits until the first list is in the store.
    pub async fn synced(&self) {
        let mut seen = self.synced.subscribe();
        // The sender lives as long as self: waiting cannot fail.
        let _ = seen.wait_for(|synced| *synced).await;
    }

    /// Whether the first list is in the store.
    pub fn has_synced(&self) -> bool {
        *self.synced.borrow()
    }

    /// Puts an object into the store, telling handlers; also how tests fill one.
    pub fn apply(&self, object: K) {
        let handlers = self.handlers.lock();
        let key = object.key();
        let rv = object.rv();
        let new = Arc::new(object);
        let old = {
            let mut store = self.store.write();
            let old = store.objects.insert(key.clone(), new.clone());
            for index in &mut store.indexes {
                if let Some(old) = &old {
                    index.remove(&key, old);
                }
                index.insert(&key, &new);
            }
            old
        };
        self.newest.fetch_max(rv, Ordering::AcqRel);
        let changes = differences(old, new);
        for change in &changes {
            handlers.iter().for_each(|handler| handler(change));
        }
    }

    /// Takes an object out of the store, telling handlers.
    pub fn remove(&self, key: &Key, last: Option<K>) {
        let handlers = self.handlers.lock();
        let old = {
            let mut store = self.store.write();
            let old = store.objects.remove(key);
            if let Some(old) = &old {
                for index in &mut store.indexes {
                    index.remove(key, old);
                }
            }
            old
        };
        if let Some(last) = &last {
            self.newest.fetch_max(last.rv(), Ordering::AcqRel);
        }
        let Some(gone) = last.map(Arc::new).or(old) else { return };
        let change = Change::Deleted(gone);
        handlers.iter().for_each(|handler| handler(&change));
    }

    fn finish_list(&self, seen: &BTreeSet<Key>) {
        let gone: Vec<Key> =
            self.store.read().objects.keys().filter(|key| !seen.contains(*key)).cloned().collect();
        for key in gone {
            self.remove(&key, None);
        }
        self.synced.send_replace(true);
    }

    async fn run(self: Arc<Self>, api: Api<K>, config: watcher::Config, shutdown: CancellationToken) {
        let mut events = watcher::watcher(api, config).modify(trim).default_backoff().boxed();
        let mut listing = BTreeSet::new();
        loop {
            let event = tokio::select! {
                () = shutdown.cancelled() => return,
                event = events.next() => event,
            };
            match event {
                None => return,
                Some(Err(error)) => {
                    tracing::warn!(kind = %K::kind(&()), %error, "watch failed, it will be tried again");
                }
                Some(Ok(Event::Apply(object))) => self.apply(object),
                Some(Ok(Event::Delete(object))) => self.remove(&object.key(), Some(object)),
                Some(Ok(Event::Init)) => listing.clear(),
                Some(Ok(Event::InitApply(object))) => {
                    listing.insert(object.key());
                    self.apply(object);
                }
                Some(Ok(Event::InitDone)) => {
                    self.finish_list(&listing);
                    listing = BTreeSet::new();
                }
            }
        }
    }
}

/// An object that was deleted and made again under its name between two lists is two changes, not an update.
fn differences<K: Watched>(old: Option<Arc<K>>, new: Arc<K>) -> Vec<Change<K>> {
    match old {
        None => vec![Change::Added(new)],
        Some(old) if old.uid() != new.uid() => vec![Change::Deleted(old), Change::Added(new)],
        Some(old) if old.m().resource_version == new.m().resource_version => Vec::new(),
        Some(old) => vec![Change::Updated { old, new }],
    }
}

fn owner_index<K: Watched>(object: &K) -> Option<String> {
    if let Some(owner) = controller_of(object.m()) {
        return Some(owner.uid.clone());
    }
    let namespace = object.m().namespace.as_ref()?;
    Some(format!("/{namespace}"))
}

/// Managed fields are large and no controller reads them; an update without them leaves them as they are.
fn trim<K: Watched>(object: &mut K) {
    object.meta_mut().managed_fields = None;
}

/// All shared informers of the process.
pub struct Informers {
    client: Client,
    running: Mutex<HashMap<(TypeId, String), Box<dyn Any + Send + Sync>>>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

impl Informers {
    /// No informer runs until it is asked for; all stop with `shutdown`.
    pub fn new(client: Client, shutdown: CancellationToken) -> Informers {
        Informers { client, running: Mutex::default(), tasks: TaskTracker::new(), shutdown }
    }

    /// The informer of all objects of a type, started at the first call.
    pub fn get<K: Watched>(&self) -> Arc<Shared<K>> {
        self.selected("")
    }

    /// The informer of the objects of a type that a field selector names.
    pub fn selected<K: Watched>(&self, fields: &str) -> Arc<Shared<K>> {
        let mut running = self.running.lock();
        let slot = (TypeId::of::<K>(), fields.to_owned());
        if let Some(shared) = running.get(&slot).and_then(|any| any.downcast_ref::<Arc<Shared<K>>>()) {
            return shared.clone();
        }
        let shared = Arc::new(Shared::<K>::new());
        let mut config = watcher::Config::default();
        if !fields.is_empty() {
            config = config.fields(fields);
        }
        let api = all::<K>(self.client.clone());
        self.tasks.spawn(shared.clone().run(api, config, self.shutdown.clone()));
        running.insert(slot, Box::new(shared.clone()));
        shared
    }

    /// Waits for every informer task to end, after shutdown.
    pub async fn stopped(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}

fn all<K: Watched>(client: Client) -> Api<K> {
    Api::all(client)
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::json;

    fn pod(name: &str, uid: &str, rv: &str, owner: Option<&str>) -> Pod {
        let owners: Vec<_> = owner
            .iter()
            .map(|uid| json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": uid, "controller": true}))
            .collect();
        serde_json::from_value(json!({"metadata": {"name": name, "namespace": "n", "uid": uid,
            "resourceVersion": rv, "ownerReferences": owners}}))
        .unwrap()
    }

    #[test]
    fn indexes_and_handlers_follow_the_store() {
        let shared = Shared::<Pod>::new();
        shared.apply(pod("a", "1", "5", Some("o")));
        let log = Arc::new(Mutex::new(Vec::new()));
        let sink = log.clone();
        shared.watch(move |change| {
            let kind = match change {
                Change::Added(_) => "add",
                Change::Updated { .. } => "update",
                Change::Deleted(_) => "delete",
            };
            sink.lock().push(format!("{kind} {}", change.object().name()));
        });
        shared.apply(pod("b", "2", "6", None));
        assert_eq!(shared.owned("o").len(), 1);
        assert_eq!(shared.orphans("n").len(), 1);
        shared.apply(pod("b", "2", "7", Some("o")));
        shared.apply(pod("b", "2", "7", Some("o")));
        assert_eq!((shared.owned("o").len(), shared.orphans("n").len()), (2, 0));
        shared.apply(pod("b", "3", "8", None));
        shared.finish_list(&BTreeSet::from([Key::new("n", "b")]));
        assert_eq!(shared.newest(), 8);
        assert_eq!(shared.namespace("n").len(), 1);
        assert_eq!(*log.lock(), ["add a", "add b", "update b", "delete b", "add b", "delete a"]);
    }
}
