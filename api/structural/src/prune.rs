//! Pruning: fields that the schema does not know are dropped, and named.

use super::{EMBEDDED, PRESERVE, additional, flag};
use api::{Map, Value, decode};

/// The message of every object's metadata.
const OBJECT_META: &str = "k8s.io.apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// Drops what is not known from a whole object and returns the paths of it, e.g. `spec.foo`. An object whose
/// metadata is not metadata at all is an error.
pub fn prune(object: &mut Value, schema: Option<&Value>) -> Result<Vec<String>, String> {
    let mut pruner = Pruner { unknown: Vec::new(), path: String::new() };
    match schema {
        Some(schema) => pruner.value(object, schema, true)?,
        None => pruner.metadata(object)?,
    }
    Ok(pruner.unknown)
}

/// The paths that a part of an object has and its schema does not know.
pub fn unknown_in(part: &Value, schema: &Value) -> Vec<String> {
    let mut pruner = Pruner { unknown: Vec::new(), path: String::new() };
    let whole = flag(schema, EMBEDDED);
    match pruner.value(&mut part.clone(), schema, whole) {
        Ok(()) => pruner.unknown,
        Err(why) => vec![why],
    }
}

struct Pruner {
    unknown: Vec<String>,
    path: String,
}

impl Pruner {
    /// Runs `work` below a step of the path.
    fn below<T>(&mut self, step: &str, work: impl FnOnce(&mut Self) -> T) -> T {
        let length = self.path.len();
        if !self.path.is_empty() && !step.starts_with('[') {
            self.path.push('.');
        }
        self.path.push_str(step);
        let out = work(self);
        self.path.truncate(length);
        out
    }

    /// `whole`: an object with a kind and metadata of its own.
    fn value(&mut self, value: &mut Value, schema: &Value, whole: bool) -> Result<(), String> {
        match value {
            Value::Object(_) => self.object(value, schema, whole || flag(schema, EMBEDDED)),
            Value::Array(items) => {
                let Some(of) = schema.get("items") else { return Ok(()) };
                items
                    .iter_mut()
                    .enumerate()
                    .try_for_each(|(i, item)| self.below(&format!("[{i}]"), |p| p.value(item, of, false)))
            }
            _ => Ok(()),
        }
    }

    fn object(&mut self, value: &mut Value, schema: &Value, whole: bool) -> Result<(), String> {
        if whole {
            self.metadata(value)?;
        }
        let Some(map) = value.as_object_mut() else { return Ok(()) };
        let keep = flag(schema, PRESERVE)
            || schema.get("additionalProperties").and_then(Value::as_bool) == Some(true);
        let properties = schema.get("properties").and_then(Value::as_object);
        let mut gone = Vec::new();
        for (key, child) in map.iter_mut() {
            if whole && matches!(key.as_str(), "apiVersion" | "kind" | "metadata") {
                continue;
            }
            match properties.and_then(|p| p.get(key)).or_else(|| additional(schema)) {
                Some(of) => self.below(key, |p| p.value(child, of, false))?,
                None if keep => {}
                None => gone.push(key.clone()),
            }
        }
        self.drop_all(map, gone);
        Ok(())
    }

    fn drop_all(&mut self, map: &mut Map<String, Value>, gone: Vec<String>) {
        for key in gone {
            map.remove(&key);
            let path = self.below(&key, |p| p.path.clone());
            self.unknown.push(path);
        }
    }

    fn metadata(&mut self, object: &mut Value) -> Result<(), String> {
        let Some(metadata) = object.get_mut("metadata").filter(|m| !m.is_null()) else { return Ok(()) };
        let Some(message) = api::schema::message(OBJECT_META) else { return Ok(()) };
        let conformed = decode::conform(message, metadata)?;
        let prefix = self.below("metadata", |p| p.path.clone());
        let named = |problem: String| problem.split('"').nth(1).map(|field| format!("{prefix}.{field}"));
        self.unknown.extend(conformed.unknown.into_iter().filter_map(named));
        Ok(())
    }
}
