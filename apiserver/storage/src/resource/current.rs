//! The objects that are there now: in key order for lists, by key for single reads.

use std::borrow::Borrow;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use rustc_hash::FxHashSet;

use crate::Object;
use crate::sorted::SortedMap;

/// Both sides of one set of objects. A search through the sorted side touches a dozen objects all over memory,
/// which is what a single read would spend most of its time on; the hashed side costs some nine bytes an object.
#[derive(Default)]
pub(super) struct Current {
    sorted: SortedMap,
    by_key: FxHashSet<ByKey>,
}

impl Current {
    /// Of objects in ascending order of distinct keys.
    #[expect(clippy::mutable_key_type, reason = "hashed by its key alone, which never changes")]
    pub(super) fn from_sorted(objects: Vec<Arc<Object>>) -> Current {
        let by_key = objects.iter().cloned().map(ByKey).collect();
        Current { sorted: SortedMap::from_sorted(objects), by_key }
    }

    pub(super) fn get(&self, key: &str) -> Option<&Arc<Object>> {
        self.by_key.get(key).map(|o| &o.0)
    }

    /// Inserts or replaces; answers what was there.
    pub(super) fn insert(&mut self, object: Arc<Object>) -> Option<Arc<Object>> {
        self.by_key.replace(ByKey(object.clone()));
        self.sorted.insert(object)
    }

    pub(super) fn remove(&mut self, key: &str) -> Option<Arc<Object>> {
        self.by_key.remove(key);
        // A set that was large once keeps its room otherwise.
        if self.by_key.len() * 8 < self.by_key.capacity() {
            self.by_key.shrink_to(self.by_key.len() * 2);
        }
        self.sorted.remove(key)
    }

    pub(super) fn sorted(&self) -> &SortedMap {
        &self.sorted
    }
}

/// An object that is found by its key.
struct ByKey(Arc<Object>);

impl Borrow<str> for ByKey {
    fn borrow(&self) -> &str {
        &self.0.key
    }
}

impl Hash for ByKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.key.hash(state);
    }
}

impl PartialEq for ByKey {
    fn eq(&self, other: &ByKey) -> bool {
        self.0.key == other.0.key
    }
}

impl Eq for ByKey {}
