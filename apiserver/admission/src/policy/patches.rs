//! What mutating policies do to an object: apply configurations and JSON patches.

use super::definitions::Mutation;
use crate::objects::{at, text};
use crate::scene::Given;
use api::registry::Registry;
use api::{GroupVersionKind, GroupVersionResource, Value, json};

/// The object after a mutation.
pub fn patched(
    registry: &dyn Registry,
    resource: &GroupVersionResource,
    kind: &GroupVersionKind,
    object: &Value,
    mutation: &Mutation,
    given: Given,
) -> Result<Value, String> {
    let Given::Other(Some(value), _) = given else {
        return Err(match mutation.json_patch {
            true => "type mismatch: JSONPatchType.expression should evaluate to array".to_owned(),
            false => "unsupported return type from ApplyConfiguration expression".to_owned(),
        });
    };
    if mutation.json_patch {
        by_patch(object, &value)
    } else {
        by_apply(registry, resource, kind, object, value)
    }
}

fn by_patch(object: &Value, operations: &Value) -> Result<Value, String> {
    let mut list = Vec::new();
    for op in operations.as_array().into_iter().flatten() {
        let mut kept = json!({"op": text(op, &["op"]), "path": text(op, &["path"])});
        if !text(op, &["from"]).is_empty() {
            kept["from"] = op["from"].clone();
        }
        if let Some(value) = op.get("value") {
            kept["value"] = value.clone();
        }
        list.push(kept);
    }
    let mut after = object.clone();
    for op in &list {
        let one = Value::from(vec![op.clone()]).to_string();
        if merge::patch::json_patch(&mut after, one.as_bytes()).is_ok() {
            continue;
        }
        // A test that fails leaves the object as it is.
        return match text(op, &["op"]) {
            "test" => Ok(object.clone()),
            _ => Err(format!("JSON Patch: {}", failure(&after, op))),
        };
    }
    Ok(after)
}

/// Why an operation of a patch cannot be done.
fn failure(object: &Value, op: &Value) -> String {
    let (name, path) = (text(op, &["op"]), text(op, &["path"]));
    let (parent, key) = path.rsplit_once('/').unwrap_or(("", path));
    let there = object.pointer(parent).is_some_and(|p| p.is_object() || p.is_array());
    match name {
        "add" | "remove" | "replace" if !there => {
            format!("{name} operation does not apply: doc is missing path: {path:?}: missing value")
        }
        "remove" => format!(
            "error in remove for path: '{path}': Unable to remove nonexistent key: {}: missing value",
            key.replace("~1", "/").replace("~0", "~")
        ),
        "replace" => format!("replace operation does not apply: doc is missing key: {path}: missing value"),
        "copy" | "move" => {
            let from = text(op, &["from"]);
            format!("{name} operation does not apply: doc is missing from path: {from}: missing value")
        }
        "add" => format!("error in add for path: '{path}': value cannot be added"),
        other => format!("Unexpected kind: {other}"),
    }
}

fn by_apply(
    registry: &dyn Registry,
    resource: &GroupVersionResource,
    kind: &GroupVersionKind,
    object: &Value,
    mut config: Value,
) -> Result<Value, String> {
    if !config.is_object() {
        return Err("unsupported return type from ApplyConfiguration expression".to_owned());
    }
    config["apiVersion"] = object["apiVersion"].clone();
    config["kind"] = object["kind"].clone();
    let merged = match api::schema::for_kind(kind) {
        Some(message) => merge::overlay(merge::Type::of(message), object, &config),
        None => {
            let definition = format!("{}.{}", resource.resource, resource.group);
            let found = registry.get(("apiextensions.k8s.io", "customresourcedefinitions"), "", &definition);
            let versions = found.as_deref().map(|d| at(d, &["spec", "versions"]));
            let version = versions
                .and_then(Value::as_array)
                .and_then(|all| all.iter().find(|v| text(v, &["name"]) == resource.version));
            let schema = version.map(|v| at(v, &["schema", "openAPIV3Schema"])).filter(|s| s.is_object());
            merge::overlay(merge::Type::Custom(schema), object, &config)
        }
    };
    merged.map_err(|why| format!("error applying patch: {why}"))
}
