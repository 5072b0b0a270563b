//! Defaulting: absent fields get the default of their schema; a null where none is allowed counts as absent.

use super::{flag, property};
use api::{Map, Value};

/// Fills an object, or any value below one.
pub fn fill(value: &mut Value, schema: &Value) {
    match value {
        Value::Object(map) => {
            drop_nulls(map, schema);
            fill_absent(map, schema);
            for (key, child) in map.iter_mut() {
                if let Some(of) = property(schema, key) {
                    fill(child, of);
                }
            }
        }
        Value::Array(items) => {
            let Some(of) = schema.get("items") else { return };
            for item in items {
                match of.get("default") {
                    Some(default) if item.is_null() && !flag(of, "nullable") => *item = default.clone(),
                    _ => {}
                }
                fill(item, of);
            }
        }
        _ => {}
    }
}

fn drop_nulls(map: &mut Map<String, Value>, schema: &Value) {
    let allowed = |key: &str| property(schema, key).is_none_or(|of| flag(of, "nullable"));
    map.retain(|key, v| !v.is_null() || allowed(key));
}

fn fill_absent(map: &mut Map<String, Value>, schema: &Value) {
    let Some(properties) = schema.get("properties").and_then(Value::as_object) else { return };
    for (key, of) in properties {
        if let Some(default) = of.get("default")
            && !map.contains_key(key)
        {
            map.insert(key.clone(), default.clone());
        }
    }
}
