//! Answers remembered for a while, in bounded memory.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

const CAPACITY: usize = 4096;

pub(super) struct Cache<K, V> {
    map: Mutex<HashMap<K, (Instant, V)>>,
}

impl<K: Eq + Hash, V: Clone> Cache<K, V> {
    pub(super) fn new() -> Cache<K, V> {
        Cache { map: Mutex::new(HashMap::new()) }
    }

    pub(super) fn get(&self, key: &K) -> Option<V> {
        let map = self.map.lock();
        map.get(key).filter(|(until, _)| *until > Instant::now()).map(|(_, v)| v.clone())
    }

    pub(super) fn put(&self, key: K, value: V, ttl: Duration) {
        if ttl.is_zero() {
            return;
        }
        let mut map = self.map.lock();
        let now = Instant::now();
        if map.len() >= CAPACITY {
            map.retain(|_, (until, _)| *until > now);
        }
        // Full of answers that still hold: somebody floods us with credentials; forgetting all is cheap and safe.
        if map.len() >= CAPACITY {
            map.clear();
        }
        map.insert(key, (now + ttl, value));
    }
}
