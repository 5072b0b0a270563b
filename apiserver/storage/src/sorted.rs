//! The cache's map: objects sorted by key, with snapshots that cost one reference count.
//!
//! Two levels of vectors, both copied on write only while a snapshot still looks at them. A key
//! costs eight bytes beyond its object, iteration is a walk through arrays, and a reader that has
//! taken a snapshot never meets the writer again.

use std::sync::Arc;

use crate::Object;

/// A leaf is split when it outgrows this.
const LEAF: usize = 128;

type Leaf = Arc<Vec<Arc<Object>>>;

/// Sorted objects. Cloning takes a snapshot.
#[derive(Clone, Default)]
pub(crate) struct SortedMap {
    /// No leaf is empty.
    leaves: Arc<Vec<Leaf>>,
    len: usize,
}

impl SortedMap {
    /// Builds from objects in ascending order of distinct keys.
    pub(crate) fn from_sorted(objects: Vec<Arc<Object>>) -> SortedMap {
        let len = objects.len();
        let leaves = objects.chunks(LEAF * 3 / 4).map(|c| Arc::new(c.to_vec())).collect();
        SortedMap { leaves: Arc::new(leaves), len }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn get(&self, key: &str) -> Option<&Arc<Object>> {
        let leaf = &self.leaves[self.leaf_of(key)?];
        let at = leaf.binary_search_by(|o| (*o.key).cmp(key)).ok()?;
        Some(&leaf[at])
    }

    /// Inserts or replaces; answers what was there.
    pub(crate) fn insert(&mut self, object: Arc<Object>) -> Option<Arc<Object>> {
        let leaves = Arc::make_mut(&mut self.leaves);
        if leaves.is_empty() {
            leaves.push(Arc::new(vec![object]));
            self.len = 1;
            return None;
        }
        let n = leaves.partition_point(|l| *l[0].key <= *object.key).saturating_sub(1);
        let leaf = Arc::make_mut(&mut leaves[n]);
        match leaf.binary_search_by(|o| o.key.cmp(&object.key)) {
            Ok(at) => Some(std::mem::replace(&mut leaf[at], object)),
            Err(at) => {
                leaf.insert(at, object);
                self.len += 1;
                if leaf.len() > LEAF {
                    // Keys often come in ascending order: then leave the left one nearly full.
                    let cut = if at + 1 == leaf.len() { LEAF * 7 / 8 } else { LEAF / 2 };
                    let right = leaf.split_off(cut);
                    leaf.shrink_to_fit();
                    leaves.insert(n + 1, Arc::new(right));
                }
                None
            }
        }
    }

    pub(crate) fn remove(&mut self, key: &str) -> Option<Arc<Object>> {
        let n = self.leaf_of(key)?;
        let at = self.leaves[n].binary_search_by(|o| (*o.key).cmp(key)).ok()?;
        let leaves = Arc::make_mut(&mut self.leaves);
        let leaf = Arc::make_mut(&mut leaves[n]);
        let object = leaf.remove(at);
        if leaf.is_empty() {
            leaves.remove(n);
        }
        self.len -= 1;
        Some(object)
    }

    /// Objects from the first key not below `start` on.
    pub(crate) fn from(&self, start: &str) -> Iter<'_> {
        let (leaf, at) = self.position(start);
        Iter { leaves: &self.leaves, leaf, at }
    }

    /// How many keys lie in `[start, end)`.
    pub(crate) fn count(&self, start: &str, end: &str) -> usize {
        let (a, b) = (self.position(start), self.position(end));
        if b <= a {
            return 0;
        }
        let between: usize = self.leaves[a.0..b.0].iter().map(|l| l.len()).sum();
        between + b.1 - a.1
    }

    fn leaf_of(&self, key: &str) -> Option<usize> {
        self.leaves.partition_point(|l| *l[0].key <= *key).checked_sub(1)
    }

    fn position(&self, start: &str) -> (usize, usize) {
        match self.leaf_of(start) {
            None => (0, 0),
            Some(n) => match self.leaves[n].partition_point(|o| *o.key < *start) {
                at if at == self.leaves[n].len() => (n + 1, 0),
                at => (n, at),
            },
        }
    }
}

/// A walk in key order.
#[derive(Clone)]
pub(crate) struct Iter<'a> {
    leaves: &'a [Leaf],
    leaf: usize,
    at: usize,
}

impl<'a> Iterator for Iter<'a> {
    type Item = &'a Arc<Object>;

    fn next(&mut self) -> Option<Self::Item> {
        let leaf = self.leaves.get(self.leaf)?;
        let object = &leaf[self.at];
        self.at += 1;
        if self.at == leaf.len() {
            self.leaf += 1;
            self.at = 0;
        }
        Some(object)
    }
}

/// A walk that owns its snapshot.
pub(crate) struct Walk {
    map: SortedMap,
    leaf: usize,
    at: usize,
}

impl Walk {
    pub(crate) fn new(map: SortedMap, start: &str) -> Walk {
        let (leaf, at) = map.position(start);
        Walk { map, leaf, at }
    }
}

impl Iterator for Walk {
    type Item = Arc<Object>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut iter = Iter { leaves: &self.map.leaves, leaf: self.leaf, at: self.at };
        let object = iter.next().cloned();
        (self.leaf, self.at) = (iter.leaf, iter.at);
        object
    }
}

/// The first key after all keys that begin with `prefix`.
pub(crate) fn prefix_end(prefix: &str) -> String {
    let mut end = prefix.to_owned();
    // Prefixes are ours and end with a slash (or are whole keys): '/' + 1 is '0'.
    match end.pop() {
        Some('/') => end.push('0'),
        Some(c) => {
            end.push(c);
            end.push(char::MAX);
        }
        None => end.push(char::MAX),
    }
    end
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn object(key: &str, revision: i64) -> Arc<Object> {
        Arc::new(Object {
            key: key.into(),
            revision,
            create_revision: revision,
            packed: crate::pack::Packed::Plain(Default::default()),
            attributes: Default::default(),
            lease: 0,
            stale: false,
            corrupt: None,
            json: Default::default(),
            budget: Arc::new(crate::object::JsonBudget::new(0)),
        })
    }

    #[test]
    fn agrees_with_a_btreemap_and_keeps_snapshots() {
        let (mut map, mut model) = (SortedMap::default(), BTreeMap::new());
        let mut seed = 7u64;
        let mut kept = Vec::new();
        for i in 0..20_000i64 {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let key = format!("/r/{:04}", (seed >> 33) % 1500);
            if seed >> 62 == 0 {
                let was = map.remove(&key).map(|o| o.revision);
                assert_eq!(was, model.remove(&key));
            } else {
                let was = map.insert(object(&key, i)).map(|o| o.revision);
                assert_eq!(was, model.insert(key, i));
            }
            if i % 4000 == 0 {
                kept.push((map.clone(), model.clone()));
            }
        }
        kept.push((map, model));
        for (map, model) in kept {
            assert_eq!(map.len(), model.len());
            for start in ["", "/r/0700", "/r/9", "/r/07005"] {
                let got: Vec<_> = map.from(start).map(|o| (o.key.to_string(), o.revision)).collect();
                let want: Vec<_> = model.range(start.to_owned()..).map(|(k, v)| (k.clone(), *v)).collect();
                assert_eq!(got, want);
            }
            let want = model.range("/r/01".to_owned().."/r/02".to_owned()).count();
            assert_eq!(map.count("/r/01", "/r/02"), want);
            assert_eq!(map.get("/r/0100").map(|o| o.revision), model.get("/r/0100").copied());
        }
    }

    #[test]
    fn ascending_load() {
        let all: Vec<_> = (0..1000).map(|i| object(&format!("/r/{i:04}"), i)).collect();
        let map = SortedMap::from_sorted(all.clone());
        let mut grown = SortedMap::default();
        for o in all {
            grown.insert(o);
        }
        assert!(map.from("").map(|o| &o.key).eq(grown.from("").map(|o| &o.key)));
        assert_eq!(SortedMap::default().from("").count(), 0);
        assert!(SortedMap::default().get("x").is_none());
    }
}
