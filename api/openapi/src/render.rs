//! Writing paths and definitions as a document of either version.

use crate::definitions::{self, Dialect};
use crate::paths::{Content, Item, Operation, Parameter, Place};
use crate::{Definitions, Source, names, texts};
use api::resources::Origin;
use api::{Map, Value, json};
use std::collections::BTreeMap;

fn describe(code: u16) -> &'static str {
    match code {
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        _ => "Unauthorized",
    }
}

fn place(p: &Parameter) -> &'static str {
    match p.place {
        Place::Query => "query",
        Place::Path => "path",
    }
}

fn content_schema(c: &Content, dialect: Dialect) -> Option<Value> {
    match c {
        Content::Definition(name) => Some(dialect.reference(name)),
        Content::Text => Some(json!({"type": "string"})),
        Content::Nothing => None,
    }
}

/// The kind that an operation is about.
fn kind(o: &Operation) -> &str {
    o.gvk.as_ref().and_then(|g| g["kind"].as_str()).unwrap_or_default()
}

/// The kind that all operations of a path are about.
fn kind_of(item: &Item) -> &str {
    item.operations.first().map(kind).unwrap_or_default()
}

/// Properties that both versions write alike.
fn common(o: &Operation, path: &str) -> Map<String, Value> {
    let mut out = Map::new();
    if let Some(text) = texts::operation(o, path) {
        out.insert("description".into(), text.into());
    }
    out.insert("operationId".into(), o.id.as_str().into());
    out.insert("tags".into(), json!([o.tag]));
    if !o.action.is_empty() {
        out.insert("x-kubernetes-action".into(), o.action.into());
    }
    if let Some(gvk) = &o.gvk {
        out.insert("x-kubernetes-group-version-kind".into(), gvk.clone());
    }
    out
}

/// Parameters that stand once in the document and are referred to.
#[derive(Default)]
struct Shared(BTreeMap<String, Value>);

impl Shared {
    /// A parameter of v2. Those that differ in meaning from place to place stay where they are.
    fn parameter(&mut self, p: &Parameter, kind: &str) -> Value {
        let text = texts::parameter(p, kind);
        let mut v = json!({"description": text, "in": place(p), "name": p.name, "type": p.r#type, "uniqueItems": true});
        if p.place == Place::Path {
            v["required"] = true.into();
        }
        if matches!(p.name, "dryRun" | "fieldValidation" | "name") {
            return v;
        }
        let key = format!("{}-{}", p.name, if p.place == Place::Path { "path" } else { p.r#type });
        self.0.insert(key.clone(), v);
        json!({"$ref": format!("#/parameters/{key}")})
    }

    fn body(&mut self, definition: &str, required: bool) -> Value {
        let mut v = json!({"in": "body", "name": "body", "schema": Dialect::V2.reference(definition)});
        if required {
            v["required"] = true.into();
        }
        v
    }
}

fn operation_v2(o: &Operation, path: &str, shared: &mut Shared) -> Value {
    let mut out = common(o, path);
    out.insert("schemes".into(), json!(["https"]));
    for (key, types) in [("consumes", &o.consumes), ("produces", &o.produces)] {
        if !types.is_empty() {
            out.insert(key.into(), types.clone().into());
        }
    }
    let mut parameters: Vec<(&str, Value)> =
        o.parameters.iter().map(|p| (p.name, shared.parameter(p, kind(o)))).collect();
    if let Some((definition, required)) = &o.body {
        parameters.push(("body", shared.body(definition, *required)));
    }
    parameters.sort_by_key(|p| p.0);
    if !parameters.is_empty() {
        out.insert("parameters".into(), parameters.into_iter().map(|p| p.1).collect());
    }
    let mut responses = Map::new();
    for (code, content) in &o.responses {
        let mut r = json!({"description": describe(*code)});
        if let Some(schema) = content_schema(content, Dialect::V2) {
            r["schema"] = schema;
        }
        responses.insert(code.to_string(), r);
    }
    out.insert("responses".into(), responses.into());
    out.into()
}

fn operation_v3(o: &Operation, path: &str) -> Value {
    let mut out = common(o, path);
    if !o.parameters.is_empty() {
        let parameters = o.parameters.iter().map(|p| parameter_v3(p, kind(o))).collect();
        out.insert("parameters".into(), parameters);
    }
    if let Some((definition, required)) = &o.body {
        let schema = Dialect::V3.reference(definition);
        let content: Map<String, Value> =
            o.consumes.iter().map(|t| ((*t).to_owned(), json!({"schema": schema}))).collect();
        let mut body = json!({"content": content});
        if *required {
            body["required"] = true.into();
        }
        out.insert("requestBody".into(), body);
    }
    let mut responses = Map::new();
    for (code, content) in &o.responses {
        let mut r = json!({"description": describe(*code)});
        if let Some(schema) = content_schema(content, Dialect::V3) {
            let content: Map<String, Value> =
                o.produces.iter().map(|t| ((*t).to_owned(), json!({"schema": schema}))).collect();
            r["content"] = content.into();
        }
        responses.insert(code.to_string(), r);
    }
    out.insert("responses".into(), responses.into());
    out.into()
}

fn parameter_v3(p: &Parameter, kind: &str) -> Value {
    let schema = json!({"type": p.r#type, "uniqueItems": true});
    let text = texts::parameter(p, kind);
    let mut v = json!({"description": text, "in": place(p), "name": p.name, "schema": schema});
    if p.place == Place::Path {
        v["required"] = true.into();
    }
    v
}

fn info(source: &Source<'_>) -> Value {
    json!({"title": "Kubernetes", "version": source.options.version})
}

fn bearer() -> Value {
    json!({"BearerToken": {
        "description": "Bearer Token authentication", "in": "header", "name": "authorization", "type": "apiKey"
    }})
}

pub fn v2(source: &Source<'_>, items: Vec<Item>) -> Value {
    let mut shared = Shared::default();
    let mut paths = Map::new();
    for item in &items {
        let mut out = Map::new();
        for o in &item.operations {
            out.insert(o.method.into(), operation_v2(o, &item.path, &mut shared));
        }
        if !item.shared.is_empty() {
            let list = item.shared.iter().map(|p| shared.parameter(p, kind_of(item))).collect();
            out.insert("parameters".into(), list);
        }
        paths.insert(item.path.clone(), out.into());
    }
    let definitions = reachable(source, &items, Dialect::V2, None);
    json!({
        "swagger": "2.0", "info": info(source), "paths": paths, "definitions": definitions,
        "parameters": shared.0, "security": [{"BearerToken": []}], "securityDefinitions": bearer(),
    })
}

/// `own` is the group version of the document, if it is that of one.
pub fn v3(source: &Source<'_>, items: Vec<Item>, own: Option<(&str, &str)>) -> Value {
    let mut paths = Map::new();
    for item in &items {
        let mut out = Map::new();
        for o in &item.operations {
            out.insert(o.method.into(), operation_v3(o, &item.path));
        }
        if !item.shared.is_empty() {
            let list = item.shared.iter().map(|p| parameter_v3(p, kind_of(item))).collect();
            out.insert("parameters".into(), list);
        }
        paths.insert(item.path.clone(), out.into());
    }
    let mut components = json!({"securitySchemes": bearer()});
    let definitions = reachable(source, &items, Dialect::V3, own);
    if !definitions.is_empty() {
        components["schemas"] = json!(definitions);
    }
    json!({"openapi": "3.0.0", "info": info(source), "paths": paths, "components": components})
}

/// The definitions that the operations refer to, directly or not.
fn reachable(
    source: &Source<'_>,
    items: &[Item],
    dialect: Dialect,
    own: Option<(&str, &str)>,
) -> Definitions {
    let mut waiting: Vec<String> = Vec::new();
    for o in items.iter().flat_map(|i| &i.operations) {
        waiting.extend(o.body.iter().map(|b| b.0.clone()));
        waiting.extend(o.responses.iter().filter_map(|(_, c)| match c {
            Content::Definition(name) => Some(name.clone()),
            _ => None,
        }));
    }
    let mut out = Definitions::new();
    while let Some(name) = waiting.pop() {
        if out.contains_key(&name) {
            continue;
        }
        let schema = definitions::schema(&name, dialect, source.options.enums, own)
            .or_else(|| custom_schema(source, &name, dialect))
            .unwrap_or_else(|| json!({"type": "object"}));
        references(&schema, &mut waiting);
        out.insert(name, schema);
    }
    texts::describe(&mut out);
    out
}

fn custom_schema(source: &Source<'_>, name: &str, dialect: Dialect) -> Option<Value> {
    for r in source.table.rows().iter().filter(|r| r.origin == Origin::Custom) {
        let item = names::custom(&r.group, &r.version, &r.kind);
        if item == name {
            return Some(definitions::custom(r, (source.schema_of)(r), dialect));
        }
        if names::custom(&r.group, &r.version, &r.list_kind()) == name {
            return Some(definitions::custom_list(r, &item, dialect));
        }
    }
    None
}

fn references(v: &Value, out: &mut Vec<String>) {
    match v {
        Value::Object(map) => {
            // `$ref` is also the name of a property, whose value is a schema.
            if let Some(Value::String(r)) = map.get("$ref") {
                out.extend(r.rsplit('/').next().map(str::to_owned));
            }
            map.values().for_each(|v| references(v, out));
        }
        Value::Array(items) => items.iter().for_each(|v| references(v, out)),
        _ => {}
    }
}
