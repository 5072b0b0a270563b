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
    // A test that fails leaves the object as it is.
    let tests = list.iter().filter(|op| op["op"] == "test");
    let mut after = object.clone();
    match merge::patch::json_patch(&mut after, Value::from(list.clone()).to_string().as_bytes()) {
        Ok(()) => Ok(after),
        Err(_) if tests.count() > 0 && fails_only_by_test(object, &list) => Ok(object.clone()),
        Err(e) => Err(format!("JSON Patch: {}", e.message)),
    }
}

/// Whether it is a test that a patch fails by, rather than an operation that cannot be done.
fn fails_only_by_test(object: &Value, list: &[Value]) -> bool {
    let mut state = object.clone();
    for op in list {
        let one = Value::from(vec![op.clone()]).to_string();
        if merge::patch::json_patch(&mut state, one.as_bytes()).is_err() {
            return op["op"] == "test";
        }
    }
    false
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
