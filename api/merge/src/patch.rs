//! The three kinds of patch, with upstream's limits and error statuses.

mod json;
mod strategic;
mod unstructured;

pub use json::{Operations, json_patch};
pub use strategic::{printed, strategic};
pub use unstructured::mismatch;

use api::Value;
use api::status::{Details, Status};
use serde_json::map::Entry;

/// 422 for a patch that is well formed but cannot be carried out. Upstream does not say why.
fn unprocessable() -> Status {
    let mut s = Status::new(422, "Invalid", "the server rejected our request due to an error in our request");
    s.details = Some(Box::new(Details::default()));
    s
}

/// The error of a patch that should be an object and is something else; null is an empty one.
pub fn expect_object(patch: &Value) -> Result<(), String> {
    match patch {
        Value::Object(_) | Value::Null => Ok(()),
        other => {
            let found = api::print::json_type(other);
            Err(format!("json: cannot unmarshal {found} into Go value of type map[string]interface {{}}"))
        }
    }
}

/// JSON merge patch (RFC 7386).
pub fn merge_patch(document: &mut Value, patch: &Value) -> Result<(), Status> {
    if !patch.is_object() {
        return Err(Status::bad_request("Invalid JSON Patch"));
    }
    merge(document, patch);
    Ok(())
}

fn merge(document: &mut Value, patch: &Value) {
    let (Value::Object(old), Value::Object(new)) = (&mut *document, patch) else {
        *document = without_nulls(patch);
        return;
    };
    for (key, value) in new {
        if value.is_null() {
            old.remove(key);
            continue;
        }
        match old.entry(key.as_str()) {
            Entry::Occupied(mut slot) if !slot.get().is_null() => merge(slot.get_mut(), value),
            Entry::Occupied(mut slot) => *slot.get_mut() = without_nulls(value),
            Entry::Vacant(slot) => {
                slot.insert(without_nulls(value));
            }
        }
    }
}

/// A value that is new to the document: its nulls remove nothing.
fn without_nulls(v: &Value) -> Value {
    match v {
        Value::Object(map) => {
            let kept = map.iter().filter(|(_, v)| !v.is_null());
            Value::Object(kept.map(|(k, v)| (k.clone(), without_nulls(v))).collect())
        }
        Value::Array(items) => items.iter().map(without_nulls).collect(),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests;
