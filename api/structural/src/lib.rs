//! Structural schemas (KEP-1693) at work: what of an object is known, what is filled in, what is wrong with it.
//!
//! A schema is the JSON of `openAPIV3Schema` as the definition has it; the definition's own validation has made
//! sure that it is structural.

mod defaults;
pub mod format;
mod prune;
pub mod rules;
mod validate;

pub use defaults::fill;
pub use prune::{prune, unknown_in};
pub use validate::{Patterns, part, validate};

use api::Value;

const EMBEDDED: &str = "x-kubernetes-embedded-resource";
const PRESERVE: &str = "x-kubernetes-preserve-unknown-fields";
const INT_OR_STRING: &str = "x-kubernetes-int-or-string";
const LIST_TYPE: &str = "x-kubernetes-list-type";
const LIST_KEYS: &str = "x-kubernetes-list-map-keys";

fn flag(schema: &Value, key: &str) -> bool {
    schema.get(key).and_then(Value::as_bool).unwrap_or_default()
}

/// The schema of a property, or of whatever `additionalProperties` allow.
fn property<'a>(schema: &'a Value, name: &str) -> Option<&'a Value> {
    schema.get("properties").and_then(|p| p.get(name)).or_else(|| additional(schema))
}

/// The schema that properties without one of their own have.
fn additional(schema: &Value) -> Option<&Value> {
    schema.get("additionalProperties").filter(|a| a.is_object())
}

#[cfg(test)]
mod tests;
