//! `metadata.managedFields`: who set which field, kept up to date on every ordinary write.

use crate::reset::Filter;
use crate::set::Set;
use crate::typed::{Diff, compare};
use crate::typing::Type;
use api::{Map, Value, decode, json, time};
use std::collections::BTreeMap;
use std::sync::{Mutex, OnceLock, PoisonError};

/// More managers than this by update are merged into one.
const MAX_UPDATE_MANAGERS: usize = 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    Apply,
    Update,
}

impl Operation {
    fn as_str(self) -> &'static str {
        match self {
            Operation::Apply => "Apply",
            Operation::Update => "Update",
        }
    }
}

/// Who writes: one entry of `managedFields` without its fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manager {
    pub name: String,
    pub operation: Operation,
    pub api_version: String,
    /// Empty for the object itself.
    pub subresource: String,
}

impl Manager {
    pub fn update(name: &str, api_version: &str, subresource: &str) -> Self {
        Self::new(name, Operation::Update, api_version, subresource)
    }

    pub fn apply(name: &str, api_version: &str, subresource: &str) -> Self {
        Self::new(name, Operation::Apply, api_version, subresource)
    }

    fn new(name: &str, operation: Operation, api_version: &str, subresource: &str) -> Self {
        let name = if name.is_empty() { "unknown" } else { name };
        Manager {
            name: name.into(),
            operation,
            api_version: api_version.into(),
            subresource: subresource.into(),
        }
    }

    /// Appliers are the same manager whatever version they apply at.
    fn same(&self, other: &Self) -> bool {
        self.name == other.name
            && self.operation == other.operation
            && self.subresource == other.subresource
            && (self.operation == Operation::Apply || self.api_version == other.api_version)
    }
}

/// The manager name of a request: `fieldManager`, or the user agent up to the first `/`, without what is
/// not printable and at most 128 bytes long.
pub fn manager_name<'a>(field_manager: &'a str, user_agent: &'a str) -> &'a str {
    if !field_manager.is_empty() {
        return field_manager;
    }
    let name = user_agent.split('/').next().unwrap_or_default();
    let printable = name.find(|c: char| c.is_control()).map_or(name, |i| &name[..i]);
    let end = (0..=printable.len().min(128)).rev().find(|i| printable.is_char_boundary(*i)).unwrap_or(0);
    &printable[..end]
}

/// One decoded entry.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    pub manager: Manager,
    pub time: Option<String>,
    pub set: Set,
}

impl Entry {
    fn decode(v: &Value) -> Result<Entry, String> {
        let text = |key: &str| v.get(key).and_then(Value::as_str).unwrap_or_default();
        let operation = match text("operation") {
            "Apply" => Operation::Apply,
            "Update" => Operation::Update,
            other => return Err(format!("operation is {other:?} but should be Apply or Update")),
        };
        if text("apiVersion").is_empty() {
            return Err("apiVersion must not be empty".into());
        }
        match text("fieldsType") {
            "FieldsV1" => {}
            "" => return Err("missing fieldsType in managed fields entry".into()),
            other => return Err(format!("invalid fieldsType: {other}")),
        }
        let set = match v.get("fieldsV1") {
            Some(fields) if !fields.is_null() => Set::from_value(fields)?,
            _ => Set::new(),
        };
        Ok(Entry {
            manager: Manager::new(text("manager"), operation, text("apiVersion"), text("subresource")),
            time: v.get("time").and_then(Value::as_str).map(str::to_owned),
            set,
        })
    }

    fn encode(self) -> Value {
        let mut out = Map::new();
        out.insert("manager".into(), self.manager.name.into());
        out.insert("operation".into(), self.manager.operation.as_str().into());
        out.insert("apiVersion".into(), self.manager.api_version.into());
        if let Some(time) = self.time.filter(|t| !t.is_empty()) {
            out.insert("time".into(), time.into());
        }
        out.insert("fieldsType".into(), "FieldsV1".into());
        out.insert("fieldsV1".into(), self.set.to_value());
        if !self.manager.subresource.is_empty() {
            out.insert("subresource".into(), self.manager.subresource.into());
        }
        out.into()
    }

    fn seconds(&self) -> i64 {
        self.time.as_deref().and_then(time::parse_rfc3339).map_or(0, |t| t.0)
    }
}

/// All entries of an object.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Managed(pub Vec<Entry>);

impl Managed {
    pub fn decode(object: Option<&Value>) -> Result<Managed, String> {
        let list = object.and_then(raw_entries).unwrap_or_default();
        list.iter().map(Entry::decode).collect::<Result<_, _>>().map(Managed)
    }

    pub fn take(&mut self, manager: &Manager) -> Option<Entry> {
        let i = self.0.iter().position(|e| e.manager.same(manager))?;
        Some(self.0.swap_remove(i))
    }

    pub fn put(&mut self, entry: Entry) {
        self.take(&entry.manager);
        if !entry.set.is_empty() {
            self.0.push(entry);
        }
    }

    /// Takes from all others what was changed or removed.
    pub fn disown(&mut self, except: Option<&Manager>, diff: &Diff) {
        for e in self.0.iter_mut().filter(|e| !except.is_some_and(|m| e.manager.same(m))) {
            for set in [&diff.modified, &diff.added, &diff.removed] {
                e.set.remove_all(set, false);
            }
        }
        self.0.retain(|e| !e.set.is_empty());
    }

    /// Writes the entries into an object, in upstream's order.
    pub fn encode_into(mut self, object: &mut Value) {
        self.0.sort_by(|a, b| {
            a.manager
                .operation
                .cmp(&b.manager.operation)
                .then_with(|| a.seconds().cmp(&b.seconds()))
                .then_with(|| a.manager.name.cmp(&b.manager.name))
                .then_with(|| a.manager.api_version.cmp(&b.manager.api_version))
                .then_with(|| a.manager.subresource.cmp(&b.manager.subresource))
        });
        let Some(meta) = object.get_mut("metadata").and_then(Value::as_object_mut) else { return };
        if self.0.is_empty() {
            meta.remove("managedFields");
        } else {
            let list: Vec<Value> = self.0.into_iter().map(Entry::encode).collect();
            meta.insert("managedFields".into(), list.into());
        }
    }

    /// Merges the oldest updaters of each version into `ancient-changes` when there are too many.
    fn cap(&mut self) {
        let mut updaters: Vec<Entry> = Vec::new();
        let count = self.0.iter().filter(|e| e.manager.operation == Operation::Update).count();
        if count <= MAX_UPDATE_MANAGERS {
            return;
        }
        self.0.retain(|e| {
            let keep = e.manager.operation == Operation::Apply;
            if !keep {
                updaters.push(e.clone());
            }
            keep
        });
        updaters
            .sort_by(|a, b| a.seconds().cmp(&b.seconds()).then_with(|| a.manager.name.cmp(&b.manager.name)));
        let mut left = updaters.len();
        let mut waiting: Vec<Entry> = Vec::new();
        let mut buckets: Vec<Entry> = Vec::new();
        for e in updaters {
            let version = e.manager.api_version.clone();
            if left <= MAX_UPDATE_MANAGERS {
                self.0.push(e);
                continue;
            }
            if let Some(b) = buckets.iter_mut().find(|b| b.manager.api_version == version) {
                b.set.union_with(&e.set);
                b.time = e.time;
                left -= 1;
            } else if let Some(i) = waiting.iter().position(|w| w.manager.api_version == version) {
                let mut bucket = waiting.swap_remove(i);
                bucket.set.union_with(&e.set);
                bucket.time = e.time;
                bucket.manager = Manager::update("ancient-changes", &version, "");
                buckets.push(bucket);
                left -= 1;
            } else {
                waiting.push(e);
            }
        }
        self.0.extend(waiting);
        self.0.extend(buckets);
    }
}

fn raw_entries(object: &Value) -> Option<&[Value]> {
    object.get("metadata")?.get("managedFields")?.as_array().map(Vec::as_slice)
}

/// A client that sends an empty list, or one empty entry, wants tracking to begin anew.
fn is_reset(object: &Value) -> bool {
    match raw_entries(object) {
        Some([]) => true,
        Some([one]) => one.as_object().is_some_and(Map::is_empty),
        _ => false,
    }
}

/// An update that says nothing new but for the times of the entries changes nothing.
pub fn keep_times(live: &Value, new: &mut Value) {
    let timeless = |v: &Value| -> Vec<Value> {
        let mut list = raw_entries(v).unwrap_or_default().to_vec();
        list.iter_mut().filter_map(Value::as_object_mut).for_each(|e| drop(e.remove("time")));
        list
    };
    if raw_entries(live) == raw_entries(new) || timeless(live) != timeless(new) {
        return;
    }
    let (mut a, mut b) = (live.clone(), new.clone());
    strip(&mut a);
    strip(&mut b);
    if a == b {
        *new = live.clone();
    }
}

/// Removes the entries from an object.
pub fn strip(object: &mut Value) {
    if let Some(meta) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        meta.remove("managedFields");
    }
}

/// Fields that nobody owns: the server sets them.
pub(crate) fn server_fields() -> &'static Set {
    static FIELDS: OnceLock<Set> = OnceLock::new();
    FIELDS.get_or_init(|| {
        Set::of_fields(&[
            &["apiVersion"],
            &["kind"],
            &["metadata"],
            &["metadata", "name"],
            &["metadata", "namespace"],
            &["metadata", "creationTimestamp"],
            &["metadata", "selfLink"],
            &["metadata", "uid"],
            &["metadata", "clusterName"],
            &["metadata", "generation"],
            &["metadata", "managedFields"],
            &["metadata", "resourceVersion"],
        ])
    })
}

/// What an object of a kind is before anything is set: the left side of a create.
pub(crate) fn empty_object(ty: Type<'_>) -> &'static Value {
    // One entry a kind, made once; there are as many as the field table has kinds.
    static EMPTY: Mutex<BTreeMap<&'static str, &'static Value>> = Mutex::new(BTreeMap::new());
    static NOTHING: OnceLock<Value> = OnceLock::new();
    let Type::Message(m) = ty else { return NOTHING.get_or_init(|| json!({})) };
    let mut held = EMPTY.lock().unwrap_or_else(PoisonError::into_inner);
    held.entry(m.name).or_insert_with(|| {
        let mut out = json!({});
        // An empty object always fits.
        let _ = decode::conform(m, &mut out);
        Box::leak(Box::new(out))
    })
}

/// Whether the objects share a version with the manager, or how to get there.
pub trait Versions {
    /// `object` at another version; `None` if that version does not exist any more.
    fn convert(&self, object: &Value, api_version: &str) -> Option<Value>;
    /// The type at a version.
    fn typing(&self, api_version: &str) -> Option<Type<'_>>;
}

/// Kinds with one version, or whose versions have the same shape.
pub struct OneVersion<'a>(pub Type<'a>);

impl Versions for OneVersion<'_> {
    fn convert(&self, object: &Value, api_version: &str) -> Option<Value> {
        let mut out = object.clone();
        out.as_object_mut()?.insert("apiVersion".into(), api_version.into());
        Some(out)
    }
    fn typing(&self, _: &str) -> Option<Type<'_>> {
        Some(self.0)
    }
}

/// Differences at the version of each manager, computed once a version.
pub(crate) fn disown_everywhere(
    managed: &mut Managed,
    versions: &dyn Versions,
    filter: &Filter,
    at: &Manager,
    live: &Value,
    new: &Value,
    diff: &Diff,
) {
    let foreign: Vec<String> =
        managed.0.iter().map(|e| e.manager.api_version.clone()).filter(|v| *v != at.api_version).collect();
    if foreign.is_empty() {
        managed.disown(Some(at), diff);
        return;
    }
    let mut by_version: Vec<(String, Option<Diff>)> = Vec::new();
    for version in foreign {
        if by_version.iter().any(|(v, _)| *v == version) {
            continue;
        }
        let at_version = || {
            let (old, new) = (versions.convert(live, &version)?, versions.convert(new, &version)?);
            Some(compare(versions.typing(&version)?, Some(&old), Some(&new)).map(|s| filter.apply(s)))
        };
        let d = at_version();
        by_version.push((version, d));
    }
    managed.0.retain_mut(|e| {
        if e.manager.same(at) {
            return true;
        }
        let diff = match by_version.iter().find(|(v, _)| *v == e.manager.api_version) {
            None => Some(diff),
            Some((_, d)) => d.as_ref(),
        };
        // The version is gone, and the entry with it.
        let Some(diff) = diff else { return false };
        for set in [&diff.modified, &diff.added, &diff.removed] {
            e.set.remove_all(set, false);
        }
        !e.set.is_empty()
    });
}

/// Brings `new.metadata.managedFields` up to date for a create, update, patch or status write.
///
/// `live` is `None` for a create. `now` is the time of the request (RFC 3339). Never fails: entries
/// that cannot be read are dropped, as upstream drops them.
pub fn update(
    versions: &dyn Versions,
    live: Option<&Value>,
    new: &mut Value,
    manager: &Manager,
    filter: &Filter,
    now: &str,
) {
    let Some(ty) = versions.typing(&manager.api_version) else { return };
    if new.get("metadata").is_none_or(|m| !m.is_object()) {
        return;
    }
    let mut managed = current(live, new, !manager.subresource.is_empty());
    strip(new);
    // Objects from before tracking began are left alone until someone applies.
    if managed.0.is_empty() && live.is_some() {
        return;
    }
    let live = live.unwrap_or_else(|| empty_object(ty));
    record(versions, ty, live, new, &mut managed, manager, filter, now);
    managed.cap();
    managed.encode_into(new);
}

/// Entries to start from: the request's own if it may and does send any, else the stored ones.
fn current(live: Option<&Value>, new: &Value, subresource: bool) -> Managed {
    let stored = || Managed::decode(live).unwrap_or_default();
    if subresource {
        return stored();
    }
    if is_reset(new) {
        return Managed::default();
    }
    match Managed::decode(Some(new)) {
        Ok(m) if !m.0.is_empty() => m,
        _ => stored(),
    }
}

/// The time of an entry; some writes leave none.
pub(crate) fn stamp(now: &str) -> Option<String> {
    Some(now.to_owned()).filter(|t| !t.is_empty())
}

/// The change from `live` to `new`, put down to `manager`.
#[expect(clippy::too_many_arguments, reason = "one step of two public functions, with no state of its own")]
pub(crate) fn record(
    versions: &dyn Versions,
    ty: Type<'_>,
    live: &Value,
    new: &Value,
    managed: &mut Managed,
    manager: &Manager,
    filter: &Filter,
    now: &str,
) {
    let diff = compare(ty, Some(live), Some(new)).map(|s| filter.apply(s));
    // The manager's own earlier entry takes part: it loses what others' fields lose by removal.
    let nobody = Manager { name: String::new(), ..manager.clone() };
    disown_everywhere(managed, versions, filter, &nobody, live, new, &diff);
    let mut mine = diff.modified.union(&diff.added);
    mine.remove_all(server_fields(), false);
    mine.member = false;
    if mine.is_empty() {
        return;
    }
    if let Some(previous) = managed.take(manager) {
        mine.union_with(&previous.set);
    }
    managed.put(Entry { manager: manager.clone(), time: stamp(now), set: mine });
}

#[cfg(test)]
mod tests;
