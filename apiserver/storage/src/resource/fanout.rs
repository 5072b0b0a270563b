//! From one change to all the watchers it concerns, and to no others.
//!
//! Watchers are grouped by what they look at (everything, a namespace, one key, an index value) and
//! by selector. A change finds its groups by lookups, evaluates each group's selector once, and
//! puts the same event into the members' mailboxes.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures::task::AtomicWaker;
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use tokio::time::Instant;

use crate::{Error, Event, Object, Predicate};

use super::cache::Change;

/// What a watcher looks at.
#[derive(Clone)]
pub(super) struct Scope {
    /// Only keys with this prefix, or (without a slash at the end) this key.
    pub(super) prefix: Box<str>,
    /// Only objects with this value in this indexed field.
    pub(super) index: Option<(usize, Box<str>)>,
    /// The hint, where the field is not indexed.
    pub(super) field: Option<(Box<str>, Box<str>)>,
    pub(super) predicate: Option<Arc<Predicate>>,
}

impl Scope {
    fn one_key(&self) -> bool {
        !self.prefix.ends_with('/')
    }

    pub(super) fn covers(&self, key: &str) -> bool {
        if self.one_key() { *key == *self.prefix } else { key.starts_with(&*self.prefix) }
    }

    /// Whether the object is selected; its key is known to be covered.
    pub(super) fn selects(&self, object: &Object, fields: &[String]) -> bool {
        let by = |name: &str, value: &str| object.attributes.field(name) == value;
        self.index.as_ref().is_none_or(|(i, v)| by(&fields[*i], v))
            && self.field.as_ref().is_none_or(|(f, v)| by(f, v))
            && self.predicate.as_ref().is_none_or(|p| p.matches(object))
    }

    /// What the change is to a watcher of this scope, if anything.
    pub(super) fn event(&self, change: &Change, fields: &[String]) -> Option<Event> {
        let new = change.new.as_ref().filter(|o| self.selects(o, fields));
        let old = change.old.as_ref().filter(|o| self.selects(o, fields));
        match (new, old) {
            (Some(new), None) => Some(Event::Added(new.clone())),
            (Some(new), Some(_)) => Some(Event::Modified(new.clone())),
            (None, Some(old)) => Some(Event::Deleted(change.gone(old))),
            (None, None) => None,
        }
    }

    /// Whether it may reject an object below its prefix.
    pub(super) fn selective(&self) -> bool {
        self.index.is_some() || self.field.is_some() || self.predicate.is_some()
    }

    fn same(&self, other: &Scope) -> bool {
        let id = |s: &Scope| s.predicate.as_ref().map(|p| p.id.clone());
        self.prefix == other.prefix
            && self.index == other.index
            && self.field == other.field
            && id(self) == id(other)
    }
}

/// A watcher's bounded queue.
pub(super) struct Mailbox {
    state: Mutex<MailboxState>,
    pub(super) waker: AtomicWaker,
    capacity: usize,
}

#[derive(Default)]
struct MailboxState {
    queue: VecDeque<Event>,
    closed: bool,
}

impl Mailbox {
    pub(super) fn new(capacity: usize) -> Mailbox {
        Mailbox { state: Mutex::default(), waker: AtomicWaker::new(), capacity }
    }

    /// Puts an event in. A full mailbox is closed instead: its owner gets what is queued, then the end.
    fn push(&self, event: Event) -> bool {
        {
            let mut state = self.state.lock();
            if state.closed {
                return false;
            }
            if state.queue.len() >= self.capacity {
                state.closed = true;
            } else {
                state.queue.push_back(event);
            }
        }
        self.waker.wake();
        true
    }

    fn close(&self, error: Option<Error>) {
        {
            let mut state = self.state.lock();
            if !state.closed {
                state.closed = true;
                state.queue.extend(error.map(Event::Error));
            }
        }
        self.waker.wake();
    }

    /// Moves all queued events to `to`; `true` if no more will come.
    pub(super) fn take(&self, to: &mut VecDeque<Event>) -> bool {
        let mut state = self.state.lock();
        if to.is_empty() {
            std::mem::swap(to, &mut state.queue);
        } else {
            to.append(&mut state.queue);
        }
        state.closed
    }
}

struct Member {
    id: u64,
    mailbox: Arc<Mailbox>,
    /// Changes up to here were seen when the watch began.
    floor: i64,
    bookmark_due: Option<Instant>,
}

struct Group {
    scope: Scope,
    members: Vec<Member>,
}

/// All watchers of a resource.
pub(super) struct Fanout {
    fields: Vec<String>,
    /// Length of the resource's own prefix.
    root: usize,
    next_id: u64,
    /// Watchers of the whole resource.
    all: Vec<Group>,
    /// Watchers below a longer prefix (a namespace).
    prefixes: FxHashMap<Box<str>, Vec<Group>>,
    /// Watchers of one key.
    keys: FxHashMap<Box<str>, Vec<Group>>,
    /// Per indexed field: watchers of one value.
    index: Vec<FxHashMap<Box<str>, Vec<Group>>>,
    /// Everything up to here has been dispatched.
    position: i64,
    count: usize,
}

impl Fanout {
    pub(super) fn new(fields: Vec<String>, root: usize) -> Fanout {
        Fanout {
            index: vec_of(fields.len()),
            fields,
            root,
            next_id: 0,
            all: Vec::new(),
            prefixes: FxHashMap::default(),
            keys: FxHashMap::default(),
            position: 0,
            count: 0,
        }
    }

    pub(super) fn join(
        &mut self,
        scope: &Scope,
        mailbox: Arc<Mailbox>,
        floor: i64,
        bookmark: Option<Duration>,
    ) -> u64 {
        self.next_id += 1;
        self.count += 1;
        self.position = self.position.max(floor);
        // Spread: a thousand watchers that came at once need not get their bookmarks at once.
        let bookmark_due =
            bookmark.map(|every| Instant::now() + every.mul_f64(0.75 + rand::random::<f64>() / 4.0));
        let member = Member { id: self.next_id, mailbox, floor, bookmark_due };
        let groups = self.groups_mut(scope);
        match groups.iter_mut().find(|g| g.scope.same(scope)) {
            Some(group) => group.members.push(member),
            None => groups.push(Group { scope: scope.clone(), members: vec![member] }),
        }
        self.next_id
    }

    pub(super) fn leave(&mut self, scope: &Scope, id: u64) {
        let groups = self.groups_mut(scope);
        let mut left = 0;
        if let Some(at) = groups.iter().position(|g| g.scope.same(scope)) {
            let members = &mut groups[at].members;
            if let Some(at) = members.iter().position(|m| m.id == id) {
                members.swap_remove(at);
                left = 1;
            }
            if members.is_empty() {
                groups.swap_remove(at);
            }
        }
        let empty = groups.is_empty();
        self.count -= left;
        if empty {
            self.prune(scope);
        }
    }

    /// How many watchers there are.
    pub(super) fn len(&self) -> usize {
        self.count
    }

    fn groups_mut(&mut self, scope: &Scope) -> &mut Vec<Group> {
        if scope.one_key() {
            self.keys.entry(scope.prefix.clone()).or_default()
        } else if let Some((i, value)) = &scope.index {
            self.index[*i].entry(value.clone()).or_default()
        } else if scope.prefix.len() > self.root {
            self.prefixes.entry(scope.prefix.clone()).or_default()
        } else {
            &mut self.all
        }
    }

    fn prune(&mut self, scope: &Scope) {
        if scope.one_key() {
            self.keys.remove(&scope.prefix);
        } else if let Some((i, value)) = &scope.index {
            self.index[*i].remove(value);
        } else {
            self.prefixes.remove(&scope.prefix);
        }
    }

    pub(super) fn dispatch(&mut self, change: &Change) {
        if self.count == 0 {
            return;
        }
        let key = change.key();
        let mut gone = 0;
        let Fanout { fields, root, all, prefixes, keys, index, .. } = self;
        gone += deliver(all, change, key, fields);
        if !prefixes.is_empty() {
            for at in key.bytes().enumerate().skip(*root).filter(|(_, b)| *b == b'/').map(|(at, _)| at) {
                if let Some(groups) = prefixes.get_mut(&key[..=at]) {
                    gone += deliver(groups, change, key, fields);
                }
            }
        }
        if let Some(groups) = keys.get_mut(key) {
            gone += deliver(groups, change, key, fields);
        }
        for (map, field) in index.iter_mut().zip(fields.iter()) {
            if map.is_empty() {
                continue;
            }
            let is = change.new.as_ref().map_or("", |o| o.attributes.field(field));
            let was = change.old.as_ref().map_or("", |o| o.attributes.field(field));
            if let Some(groups) = map.get_mut(is) {
                gone += deliver(groups, change, key, fields);
            }
            if was != is
                && let Some(groups) = map.get_mut(was)
            {
                gone += deliver(groups, change, key, fields);
            }
        }
        self.count -= gone;
    }

    pub(super) fn bookmarks(&mut self, applied: i64, every: Duration) {
        self.position = self.position.max(applied);
        let (now, revision) = (Instant::now(), self.position);
        for member in self.members_mut() {
            if member.bookmark_due.is_some_and(|due| due <= now) {
                member.bookmark_due = Some(now + every);
                let revision = revision.max(member.floor);
                member.mailbox.push(Event::Bookmark { revision, initial_events_end: false });
            }
        }
    }

    pub(super) fn close_all(&mut self, error: Option<Error>) {
        for member in self.members_mut() {
            member.mailbox.close(error.clone());
        }
        self.all.clear();
        self.prefixes.clear();
        self.keys.clear();
        self.index.iter_mut().for_each(FxHashMap::clear);
        self.count = 0;
        self.position = 0;
    }

    fn members_mut(&mut self) -> impl Iterator<Item = &mut Member> {
        let maps = [&mut self.prefixes, &mut self.keys].into_iter().chain(self.index.iter_mut());
        self.all
            .iter_mut()
            .chain(maps.flat_map(|m| m.values_mut().flatten()))
            .flat_map(|g| g.members.iter_mut())
    }
}

/// Serves the groups; answers how many members turned out to be closed.
fn deliver(groups: &mut Vec<Group>, change: &Change, key: &str, fields: &[String]) -> usize {
    let mut gone = 0;
    groups.retain_mut(|group| {
        if !group.scope.covers(key) {
            return true;
        }
        let Some(event) = group.scope.event(change, fields) else { return true };
        let before = group.members.len();
        group.members.retain(|m| change.revision <= m.floor || m.mailbox.push(event.clone()));
        gone += before - group.members.len();
        !group.members.is_empty()
    });
    gone
}

fn vec_of<T: Default>(n: usize) -> Vec<T> {
    std::iter::repeat_with(T::default).take(n).collect()
}
