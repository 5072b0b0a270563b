//! The objects an informer knows, by key and by index.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::hash::Hash;
use std::sync::Arc;

use kube::Resource;
use parking_lot::RwLock;

/// `namespace/name`, or `name` of a cluster-scoped object. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(Arc<str>);

impl Key {
    /// The key of a name in a namespace; an empty namespace is none.
    pub fn new(namespace: &str, name: &str) -> Key {
        match namespace {
            "" => Key(name.into()),
            ns => Key(format!("{ns}/{name}").into()),
        }
    }

    /// The key of a cluster-scoped name.
    pub fn cluster(name: &str) -> Key {
        Key(name.into())
    }

    /// An object's key.
    pub fn of<K: Resource>(object: &K) -> Key {
        let meta = object.meta();
        Key::new(meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default())
    }

    /// The namespace; empty if there is none.
    pub fn namespace(&self) -> &str {
        self.0.split_once('/').map_or("", |(ns, _)| ns)
    }

    /// The name.
    pub fn name(&self) -> &str {
        self.0.split_once('/').map_or(&self.0, |(_, name)| name)
    }

    /// `namespace/name`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<&str> for Key {
    fn from(text: &str) -> Key {
        Key(text.into())
    }
}

type IndexFn<K> = Arc<dyn Fn(&K) -> Vec<String> + Send + Sync>;

struct Index<K> {
    of: IndexFn<K>,
    keys: HashMap<String, HashSet<Key>>,
}

struct Inner<K> {
    objects: HashMap<Key, Arc<K>>,
    indices: HashMap<&'static str, Index<K>>,
}

/// A read view of an informer's objects; clones share it.
pub struct Store<K> {
    inner: Arc<RwLock<Inner<K>>>,
}

impl<K> Clone for Store<K> {
    fn clone(&self) -> Store<K> {
        Store { inner: self.inner.clone() }
    }
}

impl<K> Default for Store<K> {
    fn default() -> Store<K> {
        Store { inner: Arc::new(RwLock::new(Inner { objects: HashMap::new(), indices: HashMap::new() })) }
    }
}

/// The index that every namespaced store has.
const BY_NAMESPACE: &str = "namespace";

impl<K: Resource + Send + Sync + 'static> Store<K> {
    pub(crate) fn new() -> Store<K> {
        let store = Store::default();
        store.add_index(BY_NAMESPACE, |k: &K| k.meta().namespace.clone().into_iter().collect());
        store
    }

    /// The object of a key.
    pub fn get(&self, key: &Key) -> Option<Arc<K>> {
        self.inner.read().objects.get(key).cloned()
    }

    /// Whether there is an object of this key.
    pub fn contains(&self, key: &Key) -> bool {
        self.inner.read().objects.contains_key(key)
    }

    /// Every object.
    pub fn list(&self) -> Vec<Arc<K>> {
        self.inner.read().objects.values().cloned().collect()
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.inner.read().objects.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The objects of a namespace.
    pub fn by_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        self.by_index(BY_NAMESPACE, namespace)
    }

    /// The objects that an index gives this value; none if there is no such index.
    pub fn by_index(&self, index: &str, value: &str) -> Vec<Arc<K>> {
        let inner = self.inner.read();
        let keys = inner.indices.get(index).and_then(|i| i.keys.get(value));
        keys.into_iter().flatten().filter_map(|k| inner.objects.get(k).cloned()).collect()
    }

    /// Adds an index over the objects there are and all that come.
    pub fn add_index(&self, name: &'static str, of: impl Fn(&K) -> Vec<String> + Send + Sync + 'static) {
        let mut inner = self.inner.write();
        let mut index = Index { of: Arc::new(of), keys: HashMap::new() };
        for (key, object) in &inner.objects {
            index.add(key, object);
        }
        inner.indices.insert(name, index);
    }

    /// Puts an object; returns the one it replaces.
    pub(crate) fn put(&self, key: Key, object: Arc<K>) -> Option<Arc<K>> {
        let inner = &mut *self.inner.write();
        let old = inner.objects.get(&key).cloned();
        for index in inner.indices.values_mut() {
            if let Some(old) = &old {
                index.remove(&key, old);
            }
            index.add(&key, &object);
        }
        inner.objects.insert(key, object);
        old
    }

    pub(crate) fn remove(&self, key: &Key) -> Option<Arc<K>> {
        let inner = &mut *self.inner.write();
        let old = inner.objects.remove(key)?;
        inner.indices.values_mut().for_each(|i| i.remove(key, &old));
        Some(old)
    }

    pub(crate) fn keys(&self) -> HashSet<Key> {
        self.inner.read().objects.keys().cloned().collect()
    }
}

impl<K> Index<K> {
    fn add(&mut self, key: &Key, object: &K) {
        for value in (self.of)(object) {
            self.keys.entry(value).or_default().insert(key.clone());
        }
    }

    fn remove(&mut self, key: &Key, object: &K) {
        for value in (self.of)(object) {
            if let Some(keys) = self.keys.get_mut(&value) {
                keys.remove(key);
                if keys.is_empty() {
                    self.keys.remove(&value);
                }
            }
        }
    }
}
