//! The parts of the API that other servers document, put into the documents of this one.
//!
//! Two servers may give one name to different definitions: the second then gets a name of its own.

use api::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const GVK: &str = "x-kubernetes-group-version-kind";

/// What other servers have.
#[derive(Clone, Debug, Default)]
pub struct Foreign {
    /// Parts of v2 documents, see [`part_of_v2`].
    pub v2: Vec<Arc<Value>>,
    /// Addresses of v3 documents, by path.
    pub v3: BTreeMap<String, String>,
}

/// Of a v2 document what lies below a path, and the definitions and parameters that it needs.
pub fn part_of_v2(whole: &Value, path: &str) -> Value {
    let below = format!("{path}/");
    let paths: api::Map<String, Value> = whole["paths"]
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(p, _)| *p == path || p.starts_with(&below))
        .map(|(p, v)| (p.clone(), v.clone()))
        .collect();
    let mut out = api::json!({"paths": paths, "definitions": {}, "parameters": {}});
    let mut open: Vec<String> = references(&out["paths"]);
    let mut seen = BTreeSet::new();
    while let Some(reference) = open.pop() {
        let Some((section, name)) = split(&reference).filter(|_| seen.insert(reference.clone())) else {
            continue;
        };
        let Some(found) = whole[section].get(name) else { continue };
        open.extend(references(found));
        out[section][name] = found.clone();
    }
    out
}

/// Section and name of `#/definitions/io.k8s.…`.
fn split(reference: &str) -> Option<(&'static str, &str)> {
    ["definitions", "parameters"].into_iter().find_map(|section| {
        let name = reference.strip_prefix("#/")?.strip_prefix(section)?.strip_prefix('/')?;
        Some((section, name))
    })
}

fn references(v: &Value) -> Vec<String> {
    let mut out = Vec::new();
    walk(v, &mut |r| out.push(r.to_owned()));
    out
}

fn walk(v: &Value, found: &mut dyn FnMut(&str)) {
    match v {
        Value::Object(map) => {
            for (key, value) in map {
                match value.as_str().filter(|_| key == "$ref") {
                    Some(reference) => found(reference),
                    None => walk(value, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|i| walk(i, found)),
        _ => {}
    }
}

fn rename(v: &mut Value, names: &BTreeMap<String, String>) {
    match v {
        Value::Object(map) => {
            for (key, value) in map.iter_mut() {
                let new = value.as_str().filter(|_| key == "$ref").and_then(|r| names.get(r));
                match new {
                    Some(new) => *value = new.as_str().into(),
                    None => rename(value, names),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|i| rename(i, names)),
        _ => {}
    }
}

/// Whether two definitions are one, whatever kinds they are listed for.
fn same(a: &Value, b: &Value) -> bool {
    let fields = |v: &Value| {
        let mut v = v.clone();
        v.as_object_mut().and_then(|m| m.remove(GVK));
        v
    };
    fields(a) == fields(b)
}

/// Puts a part of another server into a v2 document. Paths that are there already stay as they are.
pub fn add_to_v2(document: &mut Value, part: &Value) {
    let names = new_names(document, part);
    let mut part = part.clone();
    rename(&mut part, &names);
    for section in ["definitions", "parameters"] {
        let prefix = format!("#/{section}/");
        for (name, new) in part[section].as_object().cloned().unwrap_or_default() {
            let other = names.get(&format!("{prefix}{name}")).and_then(|n| n.strip_prefix(&prefix));
            let name = other.map_or(name, str::to_owned);
            match document[section].get_mut(&name) {
                None => document[section][name.as_str()] = new,
                Some(old) => add_kinds(old, &new),
            }
        }
    }
    for (path, item) in part["paths"].as_object().cloned().unwrap_or_default() {
        if document["paths"].get(&path).is_none() {
            document["paths"][path.as_str()] = item;
        }
    }
}

fn add_kinds(old: &mut Value, new: &Value) {
    for kind in new[GVK].as_array().into_iter().flatten() {
        match old.get_mut(GVK).and_then(Value::as_array_mut) {
            Some(all) if !all.contains(kind) => all.push(kind.clone()),
            Some(_) => {}
            None => old[GVK] = api::json!([kind]),
        }
    }
}

/// References that must change, because this server means something else by their names.
fn new_names(document: &Value, part: &Value) -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    for section in ["definitions", "parameters"] {
        for (name, new) in part[section].as_object().into_iter().flatten() {
            let fits = |n: &str| document[section].get(n).is_none_or(|old| same(old, new));
            if fits(name) {
                continue;
            }
            let free = (2..100).map(|i| format!("{name}_v{i}")).find(|n| fits(n));
            if let Some(free) = free {
                out.insert(format!("#/{section}/{name}"), format!("#/{section}/{free}"));
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::json;

    #[test]
    fn parts_carry_what_they_need_and_nothing_else() {
        let whole = json!({
            "paths": {"/apis/a.b/v1/cats": {"get": {"schema": {"$ref": "#/definitions/Cat"}}}, "/apis/a.b/v10/x": {}, "/api/": {}},
            "definitions": {"Cat": {"properties": {"tail": {"$ref": "#/definitions/Tail"}}}, "Tail": {"type": "string"}, "Dog": {}},
        });
        let part = part_of_v2(&whole, "/apis/a.b/v1");
        assert_eq!(part["paths"].as_object().map(|p| p.len()), Some(1));
        assert_eq!(part["definitions"].as_object().map(|p| p.len()), Some(2));
        let mut own = json!({"paths": {}, "definitions": {"Tail": {"type": "integer"}}, "parameters": {}});
        add_to_v2(&mut own, &part);
        assert_eq!(own["definitions"]["Tail"]["type"], "integer");
        assert_eq!(own["definitions"]["Tail_v2"]["type"], "string");
        assert_eq!(own["definitions"]["Cat"]["properties"]["tail"]["$ref"], "#/definitions/Tail_v2");
        assert_eq!(own["paths"]["/apis/a.b/v1/cats"]["get"]["schema"]["$ref"], "#/definitions/Cat");
    }
}
