//! Strategic merge patch: lists are merged by keys that the field table names, and directives say more.

use super::expect_object;
use api::schema::{Field, Kind, Label, Message, PatchStrategy};
use api::status::Status;
use api::{Map, Value};

type Object = Map<String, Value>;

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList";
const SET_ORDER: &str = "$setElementOrder";

/// Merges `patch` into `document`, an object of the message's kind. A null patch changes nothing.
pub fn strategic(message: &'static Message, document: &mut Value, patch: &Value) -> Result<(), Status> {
    expect_object(patch).map_err(Status::bad_request)?;
    let (Value::Object(original), Value::Object(patch)) = (std::mem::take(document), patch) else {
        return Ok(());
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
    if let Some(directive) = patch.get(PATCH) {
        match directive.as_str() {
            Some("replace") => {
                patch.remove(PATCH);
                return Ok(patch);
            }
            Some("delete") => return Ok(Object::new()),
            _ => return Err(bad_patch_type(directive, &patch)),
        }
    }
    retain_keys(&mut original, &mut patch)?;
    merge_ordered_lists(&mut original, &mut patch, m)?;
    for (key, value) in patch {
        if key.starts_with(DELETE_FROM) {
            delete_from_list(&mut original, &key, &value)?;
            continue;
        }
        match merge_value(original.remove(&key), value, meta(m, &key))? {
            Some(merged) => original.insert(key, merged),
            None => None,
        };
    }
    Ok(original)
}

/// The value of a key that both or only the patch have; `None` if it goes.
fn merge_value(old: Option<Value>, new: Value, meta: Meta) -> Result<Option<Value>, Status> {
    Ok(match (old, new) {
        (_, Value::Null) => None,
        (Some(Value::Object(_)), Value::Object(new)) if meta.strategy.replace => Some(new.into()),
        (Some(Value::Object(old)), Value::Object(new)) => Some(merge_map(old, new, meta.message)?.into()),
        (Some(Value::Array(_)), Value::Array(new)) if !meta.strategy.merge => Some(new.into()),
        (Some(Value::Array(old)), Value::Array(new)) => Some(merge_list(old, new, &meta)?.into()),
        (_, new) => fresh(new),
    })
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

fn delete_from_list(original: &mut Object, directive: &str, gone: &Value) -> Result<(), Status> {
    let Some(list) = directive.strip_prefix(DELETE_FROM).and_then(|rest| rest.strip_prefix('/')) else {
        return Err(bad("invalid patch format of primitive list"));
    };
    if gone.is_null() {
        original.remove(list);
    }
    if let (Some(Value::Array(items)), Value::Array(gone)) = (original.get_mut(list), gone) {
        same_types(items, gone)?;
        items.retain(|i| !gone.contains(i));
    }
    Ok(())
}

/// Lists whose order the patch gives, with or without changes to their items.
fn merge_ordered_lists(
    original: &mut Object,
    patch: &mut Object,
    m: Option<&'static Message>,
) -> Result<(), Status> {
    let directives: Vec<String> = patch.keys().filter(|k| k.starts_with(SET_ORDER)).cloned().collect();
    for directive in directives {
        let order = patch.remove(&directive).unwrap_or_default();
        let Value::Array(order) = order else { return Err(not_a_list(&order)) };
        let Some(name) = directive.strip_prefix(SET_ORDER).and_then(|rest| rest.strip_prefix('/')) else {
            return Err(bad("invalid patch format of setElementOrder list"));
        };
        if let Some(m) = m.filter(|m| m.field(name).is_none()) {
            let text = format!("unable to find api field in struct {} for the json field {name:?}", m.short);
            return Err(failed(text));
        }
        let list = |v: Option<&Value>| match v {
            None => Ok(None),
            Some(Value::Array(items)) => Ok(Some(items.clone())),
            Some(other) => Err(not_a_list(other)),
        };
        let meta = meta(m, name);
        let (old, new) = (list(original.get(name))?, list(patch.get(name))?);
        check_order(new.as_deref().unwrap_or_default(), &order, meta.key)?;
        let server = old.clone().unwrap_or_default();
        let items = new.clone().unwrap_or_default();
        let merged = match (old, new) {
            (None, None) => continue,
            (Some(old), None) => old,
            (None, Some(new)) => new.into_iter().filter_map(without_directives).collect(),
            (Some(old), Some(new)) if meta.strategy.merge => merge_list(old, new, &meta)?,
            (Some(_), Some(new)) => new,
        };
        let named = merged.iter().chain(&order).chain(&server).find(|v| no_key(v, meta.key));
        if let Some(Value::Object(map)) = named {
            return Err(no_merge_key(map, meta.key));
        }
        same_types(&server, &items)?;
        original.insert(name.to_owned(), arrange(merged, &order, &server, meta.key).into());
        patch.remove(name);
    }
    Ok(())
}

fn no_key(item: &Value, key: &str) -> bool {
    !key.is_empty() && item.as_object().is_some_and(|map| !map.contains_key(key))
}

fn not_a_list(found: &Value) -> Status {
    // Upstream prints the type as a text, which nothing is not.
    let found = if found.is_null() { "%!s(<nil>)" } else { api::print::type_of(found) };
    failed(format!("expected a []interface {{}}, but received a {found}"))
}

/// Every item of the patch must stand in the order list, in that order; deletions need not.
fn check_order(items: &[Value], order: &[Value], key: &str) -> Result<(), Status> {
    if order.is_empty() {
        return Ok(());
    }
    let mut rest = order.iter();
    for item in items.iter().filter(|i| i.get(PATCH).is_none()) {
        if let Some(Value::Object(map)) = [item].into_iter().chain(order).find(|v| no_key(v, key)) {
            return Err(no_merge_key(map, key));
        }
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

/// Lists that are merged hold items of one type, and no lists.
fn same_types(original: &[Value], patch: &[Value]) -> Result<(), Status> {
    let kind = |v: &Value| (std::mem::discriminant(v), v.is_f64());
    let mut all = original.iter().chain(patch);
    let Some(first) = all.next() else { return Ok(()) };
    if first.is_array() {
        let mut s = super::unprocessable();
        s.message = "the server rejected our request due to an error in our request".into();
        return Err(s);
    }
    if all.all(|v| kind(v) == kind(first)) {
        return Ok(());
    }
    let lists = Value::Array(vec![original.into(), patch.into()]);
    Err(failed(format!("list element types are not identical: {}", go_text(&lists))))
}

fn merge_list(original: Vec<Value>, patch: Vec<Value>, meta: &Meta) -> Result<Vec<Value>, Status> {
    same_types(&original, &patch)?;
    let Some(first) = original.first().or(patch.first()) else { return Ok(original) };
    if !first.is_object() {
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
            None => merged.push(item.clone()),
        }
    }
    let keyless = merged.iter().chain(&patch).find(|v| no_key(v, meta.key));
    if let Some(Value::Object(map)) = keyless {
        return Err(no_merge_key(map, meta.key));
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

/// A value that is new to the object: nulls say nothing there, and what has a directive goes.
fn fresh(mut v: Value) -> Option<Value> {
    api::json::discard_nulls(&mut v);
    without_directives(v)
}

fn without_directives(v: Value) -> Option<Value> {
    match v {
        Value::Object(map) if map.contains_key(PATCH) => None,
        Value::Object(map) => {
            let kept = map.into_iter().filter_map(|(k, v)| Some((k, without_directives(v)?)));
            Some(Value::Object(kept.collect()))
        }
        Value::Array(items) => Some(items.into_iter().filter_map(without_directives).collect()),
        other => Some(other),
    }
}

/// A patch as it stands in the error about its result.
pub fn printed(patch: &Value) -> String {
    let mut shown = patch.clone();
    api::json::discard_nulls(&mut shown);
    go_text(&shown)
}

/// As Go prints a map in its errors.
fn go_map(map: &Object) -> String {
    let mut pairs: Vec<(&String, String)> = map.iter().map(|(k, v)| (k, go_text(v))).collect();
    pairs.sort();
    let pairs: Vec<String> = pairs.into_iter().map(|(k, v)| format!("{k}:{v}")).collect();
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
