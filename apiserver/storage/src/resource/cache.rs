//! What memory holds of a resource: the objects, their indexes, and the latest changes.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use etcd_client::KeyValue;
use rustc_hash::FxHashMap;

use crate::sorted::{Iter, SortedMap};
use crate::{Config, Object};

use super::Resource;
use super::current::Current;

/// Views kept for clients that page through a list.
const PAGES: usize = 16;
/// How long such a client may take between two pages before etcd has to be asked.
const PAGE_AGE: Duration = Duration::from_secs(90);

/// An event as etcd sent it.
pub(crate) struct Raw {
    key: Box<str>,
    value: Bytes,
    revision: i64,
    create_revision: i64,
    lease: i64,
    delete: bool,
}

impl Raw {
    pub(crate) fn new(key: &str, kv: &KeyValue, delete: bool) -> Raw {
        Raw {
            key: key.into(),
            value: Bytes::copy_from_slice(kv.value()),
            revision: kv.mod_revision(),
            create_revision: kv.create_revision(),
            lease: kv.lease(),
            delete,
        }
    }

    /// By how much it changes the number of objects.
    pub(super) fn difference(&self) -> i64 {
        match (self.delete, self.create_revision == self.revision) {
            (true, _) => -1,
            (false, true) => 1,
            (false, false) => 0,
        }
    }
}

/// An event with its object made; `object` is none for a deletion.
pub(crate) struct Prepared {
    key: Box<str>,
    revision: i64,
    object: Option<Arc<Object>>,
}

/// A change that was applied: what history remembers and watchers are served from.
pub(crate) struct Change {
    pub(crate) revision: i64,
    pub(crate) new: Option<Arc<Object>>,
    pub(crate) old: Option<Arc<Object>>,
    gone: OnceLock<Arc<Object>>,
}

impl Change {
    pub(crate) fn key(&self) -> &str {
        self.new.as_ref().or(self.old.as_ref()).map_or("", |o| &o.key)
    }

    /// The old state under the revision of the change, made once for all watchers it leaves.
    pub(crate) fn gone(&self, old: &Object) -> Arc<Object> {
        self.gone.get_or_init(|| Arc::new(old.at_revision(self.revision))).clone()
    }

    fn weight(&self) -> usize {
        // The new state is in the cache anyway until it becomes the next change's old one.
        128 + self.old.as_ref().map_or(0, |o| o.weight())
    }
}

/// Everything behind the resource's lock.
pub(crate) struct Cache {
    /// While loading: the events that have come since.
    loading: Option<Vec<Prepared>>,
    generation: u64,
    objects: Current,
    index: Vec<FxHashMap<Box<str>, SortedMap>>,
    history: VecDeque<Arc<Change>>,
    history_bytes: usize,
    /// History holds every change after this revision.
    pub(super) floor: i64,
    /// The revision of the last change (or of the load).
    pub(super) last: i64,
    pages: VecDeque<Page>,
}

struct Page {
    revision: i64,
    objects: SortedMap,
    taken: Instant,
}

impl Cache {
    pub(super) fn new(indexes: usize) -> Cache {
        Cache {
            loading: Some(Vec::new()),
            generation: 0,
            objects: Current::default(),
            index: vec![FxHashMap::default(); indexes],
            history: VecDeque::new(),
            history_bytes: 0,
            floor: 0,
            last: 0,
            pages: VecDeque::new(),
        }
    }

    /// What is left of a cache whose memory is given back: empty, with a generation that no load under way has.
    pub(super) fn after(gone: &Cache, indexes: usize) -> Cache {
        Cache { loading: None, generation: gone.generation + 1, ..Cache::new(indexes) }
    }

    pub(super) fn objects(&self) -> &SortedMap {
        self.objects.sorted()
    }

    pub(super) fn get(&self, key: &str) -> Option<&Arc<Object>> {
        self.objects.get(key)
    }

    pub(super) fn by_index(&self, index: usize, value: &str) -> SortedMap {
        self.index[index].get(value).cloned().unwrap_or_default()
    }

    /// The changes after a revision not below the floor.
    pub(super) fn since(&self, revision: i64) -> impl Iterator<Item = &Arc<Change>> {
        let at = self.history.partition_point(|c| c.revision <= revision);
        self.history.range(at..)
    }

    /// Starts buffering; answers the generation that the load has to name when it is done.
    pub(super) fn begin(&mut self) -> u64 {
        self.loading = Some(Vec::new());
        self.generation += 1;
        self.generation
    }

    /// Takes over a load, with the events that came meanwhile. `false` if a newer load has begun.
    pub(super) fn install(
        &mut self,
        generation: u64,
        revision: i64,
        objects: Vec<Arc<Object>>,
        fields: &[String],
        config: &Config,
    ) -> bool {
        if generation != self.generation {
            return false;
        }
        let Some(buffered) = self.loading.take() else { return false };
        for (map, field) in self.index.iter_mut().zip(fields) {
            let mut by_value: FxHashMap<&str, Vec<Arc<Object>>> = FxHashMap::default();
            for object in &objects {
                let value = object.attributes.field(field);
                if !value.is_empty() {
                    by_value.entry(value).or_default().push(object.clone());
                }
            }
            *map = by_value.into_iter().map(|(v, o)| (v.into(), SortedMap::from_sorted(o))).collect();
        }
        self.objects = Current::from_sorted(objects);
        self.history.clear();
        self.history_bytes = 0;
        self.pages.clear();
        self.floor = revision;
        self.last = revision;
        self.apply(buffered, fields, config);
        true
    }

    /// Applies events in order; those that a load has already seen are passed over.
    pub(super) fn apply(
        &mut self,
        events: Vec<Prepared>,
        fields: &[String],
        config: &Config,
    ) -> Vec<Arc<Change>> {
        if let Some(buffer) = &mut self.loading {
            buffer.extend(events);
            return Vec::new();
        }
        let seen = self.last;
        let mut changes = Vec::with_capacity(events.len());
        for event in events.into_iter().filter(|e| e.revision > seen) {
            let old = match &event.object {
                Some(object) => self.objects.insert(object.clone()),
                None => self.objects.remove(&event.key),
            };
            self.last = self.last.max(event.revision);
            if old.is_none() && event.object.is_none() {
                continue;
            }
            self.reindex(old.as_ref(), event.object.as_ref(), fields);
            let change =
                Arc::new(Change { revision: event.revision, new: event.object, old, gone: OnceLock::new() });
            self.remember(change.clone(), config);
            changes.push(change);
        }
        changes
    }

    /// Puts a decrypted object in the place of itself, unless it has changed since.
    pub(super) fn mend(&mut self, old: &Arc<Object>, new: Arc<Object>, fields: &[String]) {
        if self.objects.get(&old.key).is_some_and(|now| Arc::ptr_eq(now, old)) {
            self.objects.insert(new.clone());
            self.reindex(Some(old), Some(&new), fields);
        }
    }

    fn reindex(&mut self, old: Option<&Arc<Object>>, new: Option<&Arc<Object>>, fields: &[String]) {
        for (map, field) in self.index.iter_mut().zip(fields) {
            let was = old.map_or("", |o| o.attributes.field(field));
            let is = new.map_or("", |o| o.attributes.field(field));
            if was != is
                && !was.is_empty()
                && let (Some(objects), Some(old)) = (map.get_mut(was), old)
            {
                objects.remove(&old.key);
                if objects.len() == 0 {
                    map.remove(was);
                }
            }
            if let (Some(new), false) = (new, is.is_empty()) {
                match map.get_mut(is) {
                    Some(objects) => {
                        objects.insert(new.clone());
                    }
                    None => {
                        map.insert(is.into(), SortedMap::from_sorted(vec![new.clone()]));
                    }
                }
            }
        }
    }

    fn remember(&mut self, change: Arc<Change>, config: &Config) {
        self.history_bytes += change.weight();
        self.history.push_back(change);
        while self.history.len() > config.history_events || self.history_bytes > config.history_bytes {
            let Some(first) = self.history.front() else { break };
            // All changes of one revision (a lease that expired) go together, or a watch from the
            // revision before would see only some of them.
            let revision = first.revision;
            while self.history.front().is_some_and(|c| c.revision == revision) {
                let Some(gone) = self.history.pop_front() else { break };
                self.history_bytes -= gone.weight();
            }
            self.floor = revision;
        }
    }

    /// Puts changes from before the load in front of history, which then reaches down to `floor`.
    pub(super) fn prepend(&mut self, floor: i64, changes: Vec<Arc<Change>>, config: &Config) {
        let room = config.history_events.saturating_sub(self.history.len());
        let weight: usize = changes.iter().map(|c| c.weight()).sum();
        if floor >= self.floor || changes.len() > room || self.history_bytes + weight > config.history_bytes {
            return;
        }
        for change in changes.into_iter().rev() {
            self.history_bytes += change.weight();
            self.history.push_front(change);
        }
        self.floor = floor;
    }

    /// Remembers the view of a list whose client will come back for more.
    pub(super) fn keep_page(&mut self, revision: i64, objects: SortedMap) {
        if self.pages.iter().any(|p| p.revision == revision) {
            return;
        }
        if self.pages.len() == PAGES {
            self.pages.pop_front();
        }
        self.pages.push_back(Page { revision, objects, taken: Instant::now() });
    }

    /// The state at exactly this revision, if memory still has it.
    pub(super) fn at(&self, revision: i64, applied: i64) -> Option<SortedMap> {
        if self.loading.is_none() && self.last <= revision && revision <= applied.max(self.last) {
            return Some(self.objects().clone());
        }
        self.pages.iter().find(|p| p.revision == revision).map(|p| p.objects.clone())
    }

    /// Takes out views that have not been asked for in time, to be dropped outside the lock.
    pub(super) fn take_old_pages(&mut self) -> Vec<SortedMap> {
        let mut old = Vec::new();
        while self.pages.front().is_some_and(|p| p.taken.elapsed() > PAGE_AGE) {
            old.extend(self.pages.pop_front().map(|p| p.objects));
        }
        old
    }

    /// All objects in memory, those of history too.
    pub(super) fn for_each_object(&self, work: impl Fn(&Object)) {
        self.objects().from("").for_each(|o| work(o));
        for change in &self.history {
            for object in [&change.new, &change.old].into_iter().flatten().chain(change.gone.get()) {
                work(object);
            }
        }
    }
}

impl Resource {
    /// Applies events of the stream; answers what watchers have to hear.
    pub(crate) fn apply(&self, batch: Vec<Raw>) -> Vec<Arc<Change>> {
        self.received(batch.len());
        if self.resting() {
            self.count(&batch);
            return Vec::new();
        }
        let prepared = batch.into_iter().map(|raw| self.prepare(raw)).collect();
        let (changes, last) = {
            let mut cache = self.cache.write();
            let changes = cache.apply(prepared, &self.spec.indexed_fields, &self.cluster.config);
            (changes, cache.last)
        };
        if !changes.is_empty() {
            self.changed.send_replace(last);
        }
        changes
    }

    /// Decodes outside the lock.
    fn prepare(&self, raw: Raw) -> Prepared {
        let object = (!raw.delete)
            .then(|| self.object(&raw.key, raw.value, raw.revision, raw.create_revision, raw.lease));
        Prepared { key: raw.key, revision: raw.revision, object }
    }

    /// A change as history would have remembered it, from an event with its previous value.
    pub(super) fn past_change(
        &self,
        revision: i64,
        new: Option<Arc<Object>>,
        old: Option<Arc<Object>>,
    ) -> Arc<Change> {
        Arc::new(Change { revision, new, old, gone: OnceLock::new() })
    }

    /// What memory holds now; no waiting, no copying.
    pub fn snapshot(&self) -> Snapshot {
        self.touch();
        // Read in this order: everything up to `applied` is in the cache that is locked after.
        let applied = self.cluster.progress.applied();
        let cache = self.cache.read();
        Snapshot { revision: applied.max(cache.last), objects: cache.objects().clone() }
    }

    /// Like [`Resource::snapshot`], only with the objects that have this value in an indexed field;
    /// `None` if the field is not indexed.
    pub fn snapshot_by_index(&self, field: &str, value: &str) -> Option<Snapshot> {
        let index = self.index_of(field)?;
        self.touch();
        let applied = self.cluster.progress.applied();
        let cache = self.cache.read();
        Some(Snapshot { revision: applied.max(cache.last), objects: cache.by_index(index, value) })
    }
}

/// An unchanging view of a resource.
#[derive(Clone)]
pub struct Snapshot {
    /// Contains every change up to here.
    pub revision: i64,
    pub(super) objects: SortedMap,
}

impl Snapshot {
    /// One object.
    pub fn get(&self, key: &str) -> Option<&Arc<Object>> {
        self.objects.get(key)
    }

    /// All objects whose key begins with the prefix, in key order.
    pub fn list<'a>(&'a self, key_prefix: &'a str) -> impl Iterator<Item = &'a Arc<Object>> {
        self.objects.from(key_prefix).take_while(move |o| o.key.starts_with(key_prefix))
    }

    /// All objects in key order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Object>> {
        let all: Iter<'_> = self.objects.from("");
        all
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.objects.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.objects.len() == 0
    }
}
