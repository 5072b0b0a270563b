//! Strategic merge patch: lists are merged by keys that the field table names, and directives say more.

use api::schema::{Field, Kind, Label, Message, PatchStrategy};
use api::status::Status;
use api::{Map, Value};

type Object = Map<String, Value>;

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
const SET_ORDER: &str = "$setElementOrder/";

/// Merges `patch` into `document`, an object of the message's kind.
pub fn strategic(message: &'static Message, document: &mut Value, patch: &Value) -> Result<(), Status> {
    let (Value::Object(original), Value::Object(patch)) = (std::mem::take(document), patch) else {
        return Err(Status::bad_request("Invalid JSON Document"));
    };
    *document = Value::Object(merge_map(original, patch.clone(), Some(message))?);
    Ok(())
}

fn bad(text: &str) -> Status {
    Status::bad_request(text)
}

/// Errors that upstream does not classify.
fn failed(text: String) -> Status {
    Status::new(500, "", text)
}

/// How a field of an object is to be patched.
struct Meta {
    message: Option<&'static Message>,
    strategy: PatchStrategy,
    key: &'static str,
}

fn meta(m: Option<&'static Message>, name: &str) -> Meta {
    let field: Option<&'static Field> = m.and_then(|m| m.field(name));
    Meta {
        message: field.and_then(|f| match (f.label, f.kind) {
            // Maps of messages are merged key by key, their values as wholes of unknown content.
            (Label::Map, _) => None,
            (_, Kind::Message(m)) if m.special.is_none() => Some(m.message()),
            _ => None,
        }),
        strategy: field.map_or_else(PatchStrategy::default, |f| f.patch_strategy),
        key: field.and_then(|f| f.patch_merge_key).unwrap_or_default(),
    }
}

fn bad_patch_type(kind: &Value, map: &Object) -> Status {
    failed(format!("unknown patch type: {} in map: {}", go_text(kind), go_map(map)))
}

fn merge_map(mut original: Object, mut patch: Object, m: Option<&'static Message>) -> Result<Object, Status> {
    if let Some(directive) = patch.remove(PATCH) {
        return match directive.as_str() {
            Some("replace") => Ok(patch),
            Some("delete") => Ok(Object::new()),
            _ => Err(bad_patch_type(&directive, &patch)),
        };
    }
    retain_keys(&mut original, &mut patch)?;
    merge_ordered_lists(&mut original, &mut patch, m)?;
    for (key, value) in patch {
        if let Some(list) = key.strip_prefix(DELETE_FROM) {
            delete_from_list(&mut original, list, &value);
            continue;
        }
        if value.is_null() {
            original.remove(&key);
            continue;
        }
        let merged = match (original.remove(&key), value) {
            (Some(Value::Object(old)), Value::Object(new)) => {
                let meta = meta(m, &key);
                if meta.strategy.replace {
                    Value::Object(new)
                } else {
                    merge_map(old, new, meta.message)?.into()
                }
            }
            (Some(Value::Array(old)), Value::Array(new)) => {
                let meta = meta(m, &key);
                if meta.strategy.merge { merge_list(old, new, &meta)?.into() } else { Value::Array(new) }
            }
            (Some(old), new) if same_scalar(&old, &new) => new,
            (_, new) => without_directives(new),
        };
        original.insert(key, merged);
    }
    Ok(original)
}

fn same_scalar(a: &Value, b: &Value) -> bool {
    std::mem::discriminant(a) == std::mem::discriminant(b) && !a.is_object() && !a.is_array()
}

fn retain_keys(original: &mut Object, patch: &mut Object) -> Result<(), Status> {
    const FORMAT: &str = "invalid patch format of retainKeys";
    let Some(keys) = patch.remove(RETAIN_KEYS) else { return Ok(()) };
    let Value::Array(keys) = keys else { return Err(bad(FORMAT)) };
    let listed = |k: &str| keys.iter().any(|v| v.as_str() == Some(k));
    for (k, v) in patch.iter() {
        if !(v.is_null() || k.starts_with(DELETE_FROM) || k.starts_with(SET_ORDER) || listed(k)) {
            return Err(bad(FORMAT));
        }
    }
    original.retain(|k, _| listed(k));
    Ok(())
}

fn delete_from_list(original: &mut Object, list: &str, gone: &Value) {
    if let (Some(Value::Array(items)), Value::Array(gone)) = (original.get_mut(list), gone) {
        items.retain(|i| !gone.contains(i));
    }
}

/// Lists whose order the patch gives, with or without changes to their items.
fn merge_ordered_lists(
    original: &mut Object,
    patch: &mut Object,
    m: Option<&'static Message>,
) -> Result<(), Status> {
    const FORMAT: &str = "invalid patch format of setElementOrder list";
    let directives: Vec<String> = patch.keys().filter(|k| k.starts_with(SET_ORDER)).cloned().collect();
    for directive in directives {
        let name = directive[SET_ORDER.len()..].to_owned();
        let Some(Value::Array(order)) = patch.remove(&directive) else { return Err(bad(FORMAT)) };
        let list = |v: Option<Value>| match v {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Array(items)) => Ok(Some(items)),
            Some(_) => Err(bad(FORMAT)),
        };
        let meta = meta(m, &name);
        let (old, new) = (list(original.get(&name).cloned())?, list(patch.get(&name).cloned())?);
        check_order(new.as_deref().unwrap_or_default(), &order, meta.key)?;
        let merged = match (old.clone(), new) {
            (None, None) => continue,
            (Some(old), None) => old,
            (None, Some(new)) => into_list(without_directives(Value::Array(new))),
            (Some(old), Some(new)) if meta.strategy.merge => merge_list(old, new, &meta)?,
            (Some(_), Some(new)) => new,
        };
        let sorted = arrange(merged, &order, old.as_deref().unwrap_or_default(), meta.key);
        original.insert(name.clone(), sorted.into());
        patch.remove(&name);
    }
    Ok(())
}

fn into_list(v: Value) -> Vec<Value> {
    match v {
        Value::Array(items) => items,
        _ => Vec::new(),
    }
}

/// Every item of the patch must stand in the order list, in that order; deletions need not.
fn check_order(items: &[Value], order: &[Value], key: &str) -> Result<(), Status> {
    let mut rest = order.iter();
    for item in items.iter().filter(|i| i.get(PATCH).is_none()) {
        if !rest.any(|o| same_item(o, item, key)) {
            return Err(failed(format!(
                "The order in patch list:\n{}\n doesn't match $setElementOrder list:\n{}\n",
                go_text(&items.into()),
                go_text(&order.into())
            )));
        }
    }
    Ok(())
}

/// Objects are the same item if their merge keys are equal, scalars if they are equal.
fn same_item(a: &Value, b: &Value, key: &str) -> bool {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => a.get(key).is_some_and(|v| b.get(key) == Some(v)),
        _ => a == b,
    }
}

fn merge_list(original: Vec<Value>, patch: Vec<Value>, meta: &Meta) -> Result<Vec<Value>, Status> {
    let Some(first) = original.first().or(patch.first()) else { return Ok(original) };
    if first.is_array() || patch.iter().any(Value::is_array) {
        return Err(failed("lists of lists are not supported".into()));
    }
    let is_object = first.is_object();
    if original.iter().chain(&patch).any(|v| v.is_object() != is_object) {
        return Err(failed("list element types are not identical".into()));
    }
    if !is_object {
        let mut merged: Vec<Value> = Vec::with_capacity(original.len() + patch.len());
        for v in original.iter().chain(&patch) {
            if !merged.contains(v) {
                merged.push(v.clone());
            }
        }
        return Ok(arrange(merged, &patch, &original, ""));
    }
    if meta.key.is_empty() {
        let name = meta.message.map_or("", |m| m.short);
        return Err(failed(format!("cannot merge lists without merge key for {name}")));
    }
    let (original, patch) = special_elements(original, patch, meta.key)?;
    let mut merged = original.clone();
    for item in &patch {
        let Value::Object(map) = item else { continue };
        if !map.contains_key(meta.key) {
            return Err(no_merge_key(map, meta.key));
        }
        match merged.iter_mut().find(|o| same_item(o, item, meta.key)) {
            Some(slot) => {
                if let Value::Object(old) = std::mem::take(slot) {
                    *slot = merge_map(old, map.clone(), meta.message)?.into();
                }
            }
            None => merged.push(without_directives(item.clone())),
        }
    }
    Ok(arrange(merged, &patch, &original, meta.key))
}

fn no_merge_key(map: &Object, key: &str) -> Status {
    failed(format!("map: {} does not contain declared merge key: {key}", go_map(map)))
}

/// Carries out the `$patch` elements of a list and takes them out of it.
fn special_elements(
    mut original: Vec<Value>,
    patch: Vec<Value>,
    key: &str,
) -> Result<(Vec<Value>, Vec<Value>), Status> {
    let (mut plain, mut replace) = (Vec::with_capacity(patch.len()), false);
    for item in patch {
        let Some(map) = item.as_object().filter(|m| m.contains_key(PATCH)) else {
            plain.push(item);
            continue;
        };
        match map.get(PATCH).and_then(Value::as_str) {
            Some("delete") => {
                if !map.contains_key(key) {
                    return Err(no_merge_key(map, key));
                }
                original.retain(|o| !same_item(o, &item, key));
            }
            Some("replace") => replace = true,
            Some("merge") => return Err(failed("merging lists cannot yet be specified in the patch".into())),
            _ => return Err(bad_patch_type(map.get(PATCH).unwrap_or(&Value::Null), map)),
        }
    }
    Ok(if replace { (plain, vec![]) } else { (original, plain) })
}

/// Items that the patch names in its order, with the server's other items kept where they were as
/// far as the two orders allow.
fn arrange(merged: Vec<Value>, order: &[Value], server: &[Value], key: &str) -> Vec<Value> {
    let place = |list: &[Value], v: &Value| list.iter().position(|o| same_item(o, v, key));
    let (mut named, mut others): (Vec<Value>, Vec<Value>) =
        merged.into_iter().partition(|v| place(order, v).is_some());
    named.sort_by_key(|v| place(order, v));
    others.sort_by_key(|v| place(server, v));
    let mut out = Vec::with_capacity(named.len() + others.len());
    let (mut named, mut others) = (named.into_iter().peekable(), others.into_iter().peekable());
    loop {
        let take_other = match (others.peek(), named.peek()) {
            (None, None) => return out,
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (Some(o), Some(n)) => match (place(server, o), place(server, n)) {
                (Some(o), Some(n)) => o < n,
                _ => false,
            },
        };
        out.extend(if take_other { others.next() } else { named.next() });
    }
}

/// A value that is new to the object: nulls and directives say nothing there.
fn without_directives(v: Value) -> Value {
    match v {
        Value::Object(map) => map
            .into_iter()
            .filter(|(k, v)| {
                !(v.is_null()
                    || k == PATCH
                    || k == RETAIN_KEYS
                    || k.starts_with(DELETE_FROM)
                    || k.starts_with(SET_ORDER))
            })
            .map(|(k, v)| (k, without_directives(v)))
            .collect::<Object>()
            .into(),
        Value::Array(items) => {
            items.into_iter().filter(|i| i.get(PATCH).is_none()).map(without_directives).collect()
        }
        other => other,
    }
}

/// As Go prints a map in its errors.
fn go_map(map: &Object) -> String {
    let pairs: Vec<String> = map.iter().map(|(k, v)| format!("{k}:{}", go_text(v))).collect();
    format!("map[{}]", pairs.join(" "))
}

fn go_text(v: &Value) -> String {
    match v {
        Value::Null => "<nil>".into(),
        Value::String(s) => s.clone(),
        Value::Array(items) => format!("[{}]", items.iter().map(go_text).collect::<Vec<_>>().join(" ")),
        Value::Object(map) => go_map(map),
        other => other.to_string(),
    }
}
