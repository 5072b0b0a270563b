//! The three kinds of patch, with upstream's limits and error statuses.

mod strategic;

pub use strategic::strategic;

use api::Value;
use api::status::{Cause, Details, Status};

const MAX_OPERATIONS: usize = 10_000;
/// What `copy` operations of one patch may add up to.
const MAX_COPIED: usize = 3 << 20;

/// 422 for a patch that is well formed but cannot be carried out.
fn unprocessable(why: impl std::fmt::Display) -> Status {
    let mut s = Status::new(422, "Invalid", "the server rejected our request due to an error in our request");
    s.details = Some(Box::new(Details {
        causes: vec![Cause {
            reason: "UnexpectedServerResponse".into(),
            message: why.to_string(),
            field: String::new(),
        }],
        ..Default::default()
    }));
    s
}

/// JSON patch (RFC 6902).
pub fn json_patch(document: &mut Value, patch: &[u8]) -> Result<(), Status> {
    let operations: Vec<Value> = serde_json::from_slice(patch)
        .map_err(|e| Status::bad_request(format!("error decoding patch: {e}")))?;
    if operations.len() > MAX_OPERATIONS {
        return Err(Status::too_large(format!(
            "Request entity is too large: The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {}",
            operations.len()
        )));
    }
    let operations: json_patch::Patch = serde_json::from_value(operations.into())
        .map_err(|e| Status::bad_request(format!("error decoding patch: {e}")))?;
    let mut copied = 0;
    for operation in &operations.0 {
        if let json_patch::PatchOperation::Copy(copy) = operation
            && let Ok(source) = copy.from.resolve(document)
        {
            copied += size(source);
            if copied > MAX_COPIED {
                return Err(unprocessable(format!(
                    "Unable to complete the copy, the accumulated size increase of copy is {copied}, exceeding the limit {MAX_COPIED}"
                )));
            }
        }
        json_patch::patch(document, std::slice::from_ref(operation)).map_err(|e| unprocessable(e.kind))?;
    }
    Ok(())
}

/// About as many bytes as the value's JSON has.
fn size(v: &Value) -> usize {
    match v {
        Value::String(s) => s.len() + 2,
        Value::Array(a) => a.iter().map(|v| size(v) + 1).sum::<usize>() + 2,
        Value::Object(m) => m.iter().map(|(k, v)| k.len() + size(v) + 4).sum::<usize>() + 2,
        _ => 5,
    }
}

/// JSON merge patch (RFC 7386).
pub fn merge_patch(document: &mut Value, patch: &Value) -> Result<(), Status> {
    if !patch.is_object() {
        return Err(Status::bad_request("Invalid JSON Document"));
    }
    json_patch::merge(document, patch);
    Ok(())
}

#[cfg(test)]
mod tests;
