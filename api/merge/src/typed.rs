//! The walks over typed values that ownership is made of: comparing, merging, listing and removing fields.

use crate::set::{Key, Set};
use crate::typing::{Shape, Type};
use api::{Map, Value};
use std::collections::BTreeMap;

/// What changed from one object to another.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Diff {
    pub removed: Set,
    pub modified: Set,
    pub added: Set,
}

impl Diff {
    fn is_empty(&self) -> bool {
        self.removed.is_empty() && self.modified.is_empty() && self.added.is_empty()
    }

    fn put(&mut self, key: impl FnOnce() -> Key, child: Diff) {
        if child.is_empty() {
            return;
        }
        let key = key();
        self.removed.put(key.clone(), child.removed);
        self.modified.put(key.clone(), child.modified);
        self.added.put(key, child.added);
    }

    /// Applies a function to all three.
    pub(crate) fn map(self, f: impl Fn(Set) -> Set) -> Diff {
        Diff { removed: f(self.removed), modified: f(self.modified), added: f(self.added) }
    }
}

type Object = Map<String, Value>;

fn entries(v: Option<&Value>) -> Option<&Object> {
    v.and_then(Value::as_object)
}

fn items(v: Option<&Value>) -> &[Value] {
    v.and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn is_vacant(v: Option<&Value>) -> bool {
    match v {
        None | Some(Value::Null) => true,
        Some(Value::Object(m)) => m.is_empty(),
        Some(Value::Array(a)) => a.is_empty(),
        Some(_) => false,
    }
}

/// The path element of a map's key.
fn field_key(ty: Type<'_>, name: &str) -> Key {
    match ty.static_key(name) {
        Some(key) => Key::Borrowed(key),
        None => {
            let mut key = String::with_capacity(name.len() + 2);
            key.push_str("f:");
            key.push_str(name);
            Key::Owned(key)
        }
    }
}

/// The path element of an item of a set or keyed list.
pub(crate) fn item_key(shape: &Shape<'_>, element: Type<'_>, item: &Value) -> Result<Key, String> {
    let Shape::Keyed(keys) = shape else {
        return match item {
            Value::Object(_) => Err("associative list without keys has an element that's a map type".into()),
            Value::Array(_) => Err("not supported: associative list with lists as elements".into()),
            Value::Null => Err("associative list without keys has an element that's an explicit null".into()),
            scalar => Ok(Key::Owned(format!("v:{scalar}"))),
        };
    };
    let Value::Object(map) = item else {
        return Err(match item {
            Value::Null => "associative list with keys may not have a null element".into(),
            _ => "associative list with keys may not have non-map elements".into(),
        });
    };
    let mut out = String::from("k:{");
    for key in keys {
        let text = match map.get(*key) {
            Some(v) => v.to_string(),
            None => match element.key_default(key) {
                Some(text) => text,
                None => continue,
            },
        };
        if out.len() > 3 {
            out.push(',');
        }
        out.push('"');
        out.push_str(key);
        out.push_str("\":");
        out.push_str(&text);
    }
    if out.len() == 3 {
        let quoted: Vec<String> = keys.iter().map(|k| format!("{k:?}")).collect();
        return Err(format!(
            "associative list with keys has an element that omits all key fields [{}] (and doesn't have default values for any key fields)",
            quoted.join(" ")
        ));
    }
    out.push('}');
    Ok(Key::Owned(out))
}

/// What `rhs` removes from, changes in and adds to `lhs`. Items without a key are passed over.
pub fn compare(ty: Type<'_>, lhs: Option<&Value>, rhs: Option<&Value>) -> Diff {
    let mut out = Diff::default();
    let (l, r) = match (lhs, rhs) {
        (Some(l), Some(r)) => (l, r),
        (Some(gone), None) => {
            out.removed = whole(ty, gone);
            return out;
        }
        (None, Some(new)) => {
            out.added = whole(ty, new);
            return out;
        }
        (None, None) => return out,
    };
    let shape = ty.shape(lhs, rhs);
    if shape == Shape::Leaf || (is_vacant(lhs) && is_vacant(rhs)) || !fits(&shape, lhs, rhs) {
        out.modified.member = l != r;
        return out;
    }
    match shape {
        Shape::Map => compare_maps(ty, entries(lhs), entries(rhs), &mut out),
        _ => compare_lists(&shape, ty.element(), items(lhs), items(rhs), &mut out),
    }
    out
}

/// Every field of a value that comes or goes as a whole, and the value itself.
fn whole(ty: Type<'_>, v: &Value) -> Set {
    let mut out = Set::leaf();
    let shape = ty.shape(Some(v), None);
    if shape == Shape::Leaf || is_vacant(Some(v)) || !fits(&shape, Some(v), None) {
        return out;
    }
    if shape != Shape::Map {
        let element = ty.element();
        for item in items(Some(v)) {
            if let Ok(key) = item_key(&shape, element, item) {
                // Items that share a key are owned as one.
                let twice = out.child(&key).is_some();
                out.put(key, if twice { Set::leaf() } else { whole(element, item) });
            }
        }
        return out;
    }
    let map = entries(Some(v));
    for (key, v) in map.into_iter().flatten() {
        let child = ty.child(key).map_or(Type::Deduced, |c| c.ty);
        out.put(field_key(ty, key), whole(child, v));
    }
    // A struct's null fields come and go with it.
    for name in ty.always_written().filter(|n| map.is_some_and(|m| !m.contains_key(*n))) {
        out.put(field_key(ty, name), Set::leaf());
    }
    out
}

/// Whether the values are what the type says they are.
fn fits(shape: &Shape<'_>, lhs: Option<&Value>, rhs: Option<&Value>) -> bool {
    [lhs, rhs].into_iter().flatten().all(|v| match v {
        Value::Null => true,
        Value::Object(_) => *shape == Shape::Map,
        Value::Array(_) => *shape != Shape::Map,
        _ => false,
    })
}

fn compare_maps(ty: Type<'_>, lhs: Option<&Object>, rhs: Option<&Object>, out: &mut Diff) {
    let mut one = |key: &str, a: Option<&Value>, b: Option<&Value>| {
        let child = ty.child(key);
        let (child, always) = child.map_or((Type::Deduced, false), |c| (c.ty, c.always));
        // What is always written is null on a side that has the struct but not the field.
        let null = |side: Option<&Object>| (always && side.is_some()).then_some(&Value::Null);
        out.put(|| field_key(ty, key), compare(child, a.or(null(lhs)), b.or(null(rhs))));
    };
    for (key, a) in lhs.into_iter().flatten() {
        one(key, Some(a), rhs.and_then(|m| m.get(key)));
    }
    for (key, b) in rhs.into_iter().flatten() {
        if lhs.is_none_or(|m| !m.contains_key(key)) {
            one(key, None, Some(b));
        }
    }
}

fn compare_lists(shape: &Shape<'_>, element: Type<'_>, lhs: &[Value], rhs: &[Value], out: &mut Diff) {
    type Pair<'v> = (Vec<&'v Value>, Vec<&'v Value>);
    let mut by_key: BTreeMap<Key, Pair<'_>> = BTreeMap::new();
    for item in lhs {
        if let Ok(key) = item_key(shape, element, item) {
            by_key.entry(key).or_default().0.push(item);
        }
    }
    for item in rhs {
        if let Ok(key) = item_key(shape, element, item) {
            by_key.entry(key).or_default().1.push(item);
        }
    }
    for (key, (l, r)) in by_key {
        let mut child = match (l.as_slice(), r.as_slice()) {
            ([] | [_], [] | [_]) => compare(element, l.first().copied(), r.first().copied()),
            // Items that share a key are owned as one.
            ([_, _, ..], [_, _, ..]) => {
                let mut d = Diff::default();
                d.modified.member = l != r;
                d
            }
            ([_, _, ..], _) => {
                let mut d = r.first().map_or_else(Diff::default, |r| compare(element, None, Some(r)));
                d.removed.member = true;
                d
            }
            (_, _) => {
                let mut d = l.first().map_or_else(Diff::default, |l| compare(element, Some(l), None));
                d.added.member = true;
                d
            }
        };
        let child = std::mem::take(&mut child);
        out.put(|| key, child);
    }
}

/// The fields that an applied configuration names.
pub fn field_set(ty: Type<'_>, value: &Value) -> Set {
    let shape = ty.shape(Some(value), None);
    if shape == Shape::Leaf || !fits(&shape, Some(value), None) {
        return Set::leaf();
    }
    let mut out = Set::new();
    if shape == Shape::Map {
        for (key, v) in entries(Some(value)).into_iter().flatten() {
            let child = ty.child(key);
            let named = child.as_ref().is_some_and(|c| c.named);
            let mut set = field_set(child.map_or(Type::Deduced, |c| c.ty), v);
            let empty_map = v.as_object().is_some_and(Map::is_empty);
            set.member |= v.is_null() || empty_map || !named;
            out.put(field_key(ty, key), set);
        }
        return out;
    }
    for item in items(Some(value)) {
        let Ok(key) = item_key(&shape, ty.element(), item) else { continue };
        let mut set = field_set(ty.element(), item);
        set.member = true;
        let twice = out.child(&key).is_some();
        out.put(key, if twice { Set::leaf() } else { set });
    }
    out
}

/// `config` merged over `live`. Duplicate items of `config` must have been refused before.
pub(crate) fn merge(ty: Type<'_>, live: Option<&Value>, config: Option<&Value>) -> Option<Value> {
    let shape = ty.shape(live, config);
    if shape == Shape::Leaf || (is_vacant(live) && is_vacant(config)) || !fits(&shape, live, config) {
        return config.or(live).cloned();
    }
    if shape != Shape::Map {
        let merged = merge_lists(&shape, ty.element(), items(live), items(config));
        return (!merged.is_empty()).then_some(Value::Array(merged));
    }
    let (lhs, rhs) = (entries(live), entries(config));
    let mut out = Object::new();
    let mut one = |key: &String, a: Option<&Value>, b: Option<&Value>| {
        let child = ty.child(key).map_or(Type::Deduced, |c| c.ty);
        if let Some(v) = merge(child, a, b) {
            out.insert(key.clone(), v);
        }
    };
    for (key, a) in lhs.into_iter().flatten() {
        one(key, Some(a), rhs.and_then(|m| m.get(key)));
    }
    for (key, b) in rhs.into_iter().flatten() {
        if lhs.is_none_or(|m| !m.contains_key(key)) {
            one(key, None, Some(b));
        }
    }
    (!out.is_empty()).then_some(Value::Object(out))
}

/// Items of both lists, shared ones merged: the configuration's order holds among its own items, and
/// items that only the live list has keep their place between them.
fn merge_lists(shape: &Shape<'_>, element: Type<'_>, live: &[Value], config: &[Value]) -> Vec<Value> {
    let keyed = |list: &'_ [Value]| -> Vec<Option<Key>> {
        list.iter().map(|i| item_key(shape, element, i).ok()).collect()
    };
    let (live_keys, config_keys) = (keyed(live), keyed(config));
    let in_live = |key: &Option<Key>| live_keys.iter().position(|k| k.is_some() && k == key);
    let in_config = |key: &Option<Key>| key.is_some() && config_keys.contains(key);
    let duplicated = |key: &Option<Key>| live_keys.iter().filter(|k| *k == key).count() > 1;
    let mut shared = config_keys.iter().filter(|k| in_live(k).is_some());
    let mut next_shared = shared.next();
    let mut done: Vec<&Option<Key>> = Vec::new();
    let mut out = Vec::with_capacity(live.len().max(config.len()));
    let (mut l, mut r) = (0, 0);
    while l < live.len() || r < config.len() {
        if l < live.len() && r < config.len() {
            let key = &live_keys[l];
            if key.is_some() && *key == config_keys[r] {
                let base = (!duplicated(key)).then_some(&live[l]);
                out.extend(merge(element, base, Some(&config[r])));
                done.push(key);
                (l, r) = (l + 1, r + 1);
                next_shared = shared.next();
                continue;
            }
            if in_config(key) && next_shared.is_some_and(|n| n != key) {
                l += 1;
                continue;
            }
        }
        if l < live.len() {
            let key = &live_keys[l];
            if !in_config(key) {
                out.push(live[l].clone());
                l += 1;
                continue;
            }
            if done.contains(&key) {
                l += 1;
            }
        }
        if r < config.len() {
            let key = &config_keys[r];
            done.push(key);
            let base = in_live(key).filter(|_| !duplicated(key)).map(|i| &live[i]);
            out.extend(merge(element, base, Some(&config[r])));
            r += 1;
            if next_shared == Some(key) {
                next_shared = shared.next();
            }
        }
    }
    out
}

/// `value` without the members of `gone`; `None` when nothing is left and nothing was inside.
pub(crate) fn remove(ty: Type<'_>, value: &Value, gone: &Set) -> Option<Value> {
    let shape = ty.shape(Some(value), None);
    match (&shape, value) {
        (Shape::Map, Value::Object(map)) if !map.is_empty() => {
            let mut matched = false;
            let mut out = Object::new();
            for (key, v) in map {
                let Some(sub) = gone.child(&field_key(ty, key)) else {
                    out.insert(key.clone(), v.clone());
                    continue;
                };
                if sub.member {
                    continue;
                }
                matched = true;
                let child = ty.child(key).map_or(Type::Deduced, |c| c.ty);
                out.insert(key.clone(), remove(child, v, sub).unwrap_or_else(|| emptied(v)));
            }
            (matched || !out.is_empty()).then_some(Value::Object(out))
        }
        (Shape::Set | Shape::Keyed(_), Value::Array(list)) if !list.is_empty() => {
            let mut matched = false;
            let mut out = Vec::with_capacity(list.len());
            for item in list {
                let sub = item_key(&shape, ty.element(), item).ok().and_then(|k| gone.child(&k));
                match sub {
                    None => out.push(item.clone()),
                    Some(s) if s.member => {}
                    Some(s) => {
                        matched = true;
                        out.push(remove(ty.element(), item, s).unwrap_or_else(|| emptied(item)));
                    }
                }
            }
            (matched || !out.is_empty()).then_some(Value::Array(out))
        }
        (Shape::Leaf, v) if !v.is_object() && !v.is_array() => Some(v.clone()),
        _ => None,
    }
}

fn emptied(v: &Value) -> Value {
    match v {
        Value::Object(_) => Object::new().into(),
        Value::Array(_) => Vec::<Value>::new().into(),
        _ => Value::Null,
    }
}

/// The set with every named field on the way to a member made a member too.
pub(crate) fn with_named_fields(set: &Set, ty: Type<'_>) -> Set {
    let mut out = Set::new();
    out.member = set.member;
    for (key, child) in set.children() {
        let (child_ty, named) = match key.strip_prefix("f:") {
            Some(name) => ty.child(name).map_or((Type::Deduced, false), |c| (c.ty, c.named)),
            None => (ty.element(), false),
        };
        let mut inner = with_named_fields(child, child_ty);
        inner.member |= named;
        out.put(key.clone(), inner);
    }
    out
}

mod validate;

pub(crate) use validate::validate;

#[cfg(test)]
mod tests;
