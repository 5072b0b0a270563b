//! Laying a configuration over an object without asking who owns what, as mutating admission policies do.

use crate::typed;
use crate::typing::{Shape, Type};
use api::Value;

/// The object with the configuration merged in. Lists and maps that can only be replaced whole may not be in it.
pub fn overlay(ty: Type<'_>, live: &Value, config: &Value) -> Result<Value, String> {
    let mut wrong = Vec::new();
    typed::validate(ty, config, &mut String::new(), &mut wrong);
    if let Some(first) = wrong.into_iter().next() {
        return Err(format!("failed to convert patch object to typed object: {first}"));
    }
    let mut found = Vec::new();
    atomics(ty, config, &mut String::new(), &mut found);
    if !found.is_empty() {
        let list = found.join(", ");
        return Err(format!(
            "invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: {list}"
        ));
    }
    Ok(typed::merge(ty, Some(live), Some(config)).unwrap_or_default())
}

fn atomics(ty: Type<'_>, value: &Value, path: &mut String, found: &mut Vec<String>) {
    if !value.is_object() && !value.is_array() {
        return;
    }
    if matches!(ty.shape(None, Some(value)), Shape::Leaf) {
        return found.push(path.clone());
    }
    let length = path.len();
    match value {
        Value::Object(map) => {
            for (key, inner) in map {
                if let Some(child) = ty.child(key) {
                    path.push('.');
                    path.push_str(key);
                    atomics(child.ty, inner, path, found);
                    path.truncate(length);
                }
            }
        }
        Value::Array(items) => {
            for (i, inner) in items.iter().enumerate() {
                path.push_str(&format!("[{i}]"));
                atomics(ty.element(), inner, path, found);
                path.truncate(length);
            }
        }
        _ => {}
    }
}
