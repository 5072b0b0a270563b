//! Who owns which field: bookkeeping of `metadata.managedFields`.

use crate::served::Served;
use api::Value;
use api::status::Result;

/// The writer of a request.
pub struct Write<'a> {
    pub manager: &'a str,
    pub subresource: &'a str,
}

/// A new object of the storage version, with its creator recorded.
pub fn on_create(_served: &Served, value: Value, _own: &Write<'_>) -> Result<Value> {
    Ok(value)
}

/// A changed object, with the owner of what changed recorded.
pub fn on_update(_served: &Served, value: Value, _old: &Value, _own: &Write<'_>) -> Result<Value> {
    Ok(value)
}
