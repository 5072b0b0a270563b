//! Short ways to read and change objects.

use api::status::{Cause, Status};
use api::{Map, Value, json};
pub use auth::values::{at, items, name, namespace, strings, text, uid};

/// The object at a key, made if it is not there.
pub fn object_at<'a>(v: &'a mut Value, key: &str) -> &'a mut Map<String, Value> {
    if !v[key].is_object() {
        v[key] = json!({});
    }
    match v[key].as_object_mut() {
        Some(map) => map,
        None => unreachable!("was just made an object"),
    }
}

/// The list at a key, made if it is not there.
pub fn list_at<'a>(v: &'a mut Value, key: &str) -> &'a mut Vec<Value> {
    if !v[key].is_array() {
        v[key] = json!([]);
    }
    match v[key].as_array_mut() {
        Some(list) => list,
        None => unreachable!("was just made a list"),
    }
}

/// The containers of a pod (its init and ephemeral ones too), to be changed.
pub fn containers_mut(pod: &mut Value, sorts: &[&str], mut change: impl FnMut(&mut Value)) {
    for sort in sorts {
        for container in pod["spec"].get_mut(*sort).and_then(Value::as_array_mut).into_iter().flatten() {
            change(container);
        }
    }
}

pub const ALL_CONTAINERS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

pub fn labels(v: &Value) -> Map<String, Value> {
    at(v, &["metadata", "labels"]).as_object().cloned().unwrap_or_default()
}

pub fn annotation<'a>(v: &'a Value, key: &str) -> Option<&'a str> {
    at(v, &["metadata", "annotations", key]).as_str()
}

/// Several complaints in one: bracketed if there is more than one, each said once.
pub fn aggregate(mut texts: Vec<String>) -> Option<String> {
    let mut seen = std::collections::HashSet::new();
    texts.retain(|t| seen.insert(t.clone()));
    match texts.len() {
        0 => None,
        1 => texts.pop(),
        _ => Some(format!("[{}]", texts.join(", "))),
    }
}

/// Adds a cause to a status.
pub fn with_cause(mut status: Status, reason: &str, message: &str, field: &str) -> Status {
    let cause = Cause { reason: reason.into(), message: message.into(), field: field.into() };
    if let Some(details) = status.details.as_mut() {
        details.causes.push(cause);
    }
    status
}
