//! Structural schemas: every field has one type, and what is nested in `anyOf`, `allOf`, `oneOf` and
//! `not` only narrows values.

use crate::value::Get;
use api::field::{Error, ErrorList, Path};
use api::{Value, json};

#[derive(Clone, Copy, PartialEq)]
enum Level {
    Root,
    Item,
    Field,
}

/// All that is not structural, sorted.
pub fn structural(schema: &Value, at: &Path) -> ErrorList {
    let mut e = ErrorList::new();
    invariants(schema, Level::Root, at, &mut e);
    e.sort_by_cached_key(ToString::to_string);
    e
}

/// The schemas by name under a key.
pub fn named<'a>(s: &'a Value, key: &str) -> impl Iterator<Item = (&'a str, &'a Value)> {
    s.at(key).as_object().into_iter().flatten().map(|(k, v)| (k.as_str(), v))
}

fn invariants(s: &Value, level: Level, at: &Path, e: &mut ErrorList) {
    if s.is_null() {
        return;
    }
    if s.text("type") == "array" && !s.has("items") {
        e.push(Error::required(&at.child("items"), "must be specified"));
    }
    invariants(s.at("items"), Level::Item, &at.child("items"), e);
    for (key, inner) in named(s, "properties") {
        invariants(inner, Level::Field, &at.child("properties").key(key), e);
    }
    let additional = s.at("additionalProperties");
    if !additional.is_null() {
        if level == Level::Root {
            e.push(Error::forbidden(&at.child("additionalProperties"), "must not be used at the root"));
        }
        if additional.is_object() {
            invariants(additional, Level::Field, &at.child("additionalProperties"), e);
        }
    }
    let (int_or_string, embedded) =
        (s.flag("x-kubernetes-int-or-string"), s.flag("x-kubernetes-embedded-resource"));
    for key in ["x-kubernetes-preserve-unknown-fields", "x-kubernetes-embedded-resource"] {
        if int_or_string && s.flag(key) {
            let text = "must be false if x-kubernetes-int-or-string is true";
            e.push(Error::invalid(&at.child(key), true, text));
        }
    }
    let pattern = json!([{"type": "integer"}, {"type": "string"}]);
    let skip_any = *s.at("anyOf") == pattern;
    let skip_all = s.list("allOf").first().is_some_and(|a| *a.at("anyOf") == pattern);
    values(s, skip_any, skip_all, at, e);
    types(s, level, embedded, at, e);
    metadata(s, level, embedded, at, e);
}

fn types(s: &Value, level: Level, embedded: bool, at: &Path, e: &mut ErrorList) {
    let (kind, at_type) = (s.text("type"), at.child("type"));
    let open = s.flag("x-kubernetes-preserve-unknown-fields");
    if embedded && kind != "object" {
        let text = "must be object if x-kubernetes-embedded-resource is true";
        if kind.is_empty() {
            e.push(Error::required(&at_type, text));
        } else {
            e.push(Error::invalid(&at_type, kind, text));
        }
    } else if kind.is_empty() && !s.flag("x-kubernetes-int-or-string") && !open {
        let text = match level {
            Level::Root => "must not be empty at the root",
            Level::Item => "must not be empty for specified array items",
            Level::Field => "must not be empty for specified object fields",
        };
        e.push(Error::required(&at_type, text));
    }
    if embedded && s.has("additionalProperties") {
        let text = "must not be used if x-kubernetes-embedded-resource is set";
        e.push(Error::forbidden(&at.child("additionalProperties"), text));
    }
    if level == Level::Root && !kind.is_empty() && kind != "object" {
        e.push(Error::invalid(&at_type, kind, "must be object at the root"));
    }
    if embedded && !open && s.len("properties") == 0 {
        let text = "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields";
        e.push(Error::required(&at.child("properties"), text));
    }
}

/// Of an object's own metadata a schema may only narrow the name.
fn metadata(s: &Value, level: Level, embedded: bool, at: &Path, e: &mut ErrorList) {
    let (properties, at) = (s.at("properties"), at.child("properties"));
    let wanted = level == Level::Root || embedded;
    for key in ["kind", "apiVersion"] {
        if wanted && properties.has(key) && properties.at(key).text("type") != "string" {
            let kind = properties.at(key).text("type");
            e.push(Error::invalid(&at.key(key).child("type"), kind, "must be string"));
        }
    }
    let Some(meta) = properties.as_object().and_then(|p| p.get("metadata")) else { return };
    let at = at.key("metadata");
    if wanted && meta.text("type") != "object" {
        e.push(Error::invalid(&at.child("type"), meta.text("type"), "must be object"));
    }
    let only_names = named(meta, "properties").all(|(k, _)| k == "name" || k == "generateName");
    let nothing_else = meta
        .as_object()
        .is_none_or(|m| m.keys().all(|k| matches!(k.as_str(), "type" | "default" | "properties")));
    if level == Level::Root && !(only_names && nothing_else) {
        let text = "must not specify anything other than name and generateName, but metadata is implicitly specified";
        e.push(Error::forbidden(&at, text));
    }
}

fn values(s: &Value, skip_any: bool, skip_all: bool, at: &Path, e: &mut ErrorList) {
    for key in ["anyOf", "allOf", "oneOf"] {
        if key == "anyOf" && skip_any {
            continue;
        }
        for (i, inner) in s.list(key).iter().enumerate() {
            nested(inner, key == "allOf" && skip_all && i == 0, &at.child(key).index(i), e);
        }
    }
    if s.has("not") {
        nested(s.at("not"), false, &at.child("not"), e);
    }
    let pattern = s.text("pattern");
    let build = || regex::RegexBuilder::new(pattern).size_limit(64 << 20).build();
    if !pattern.is_empty()
        && let Err(regex::Error::Syntax(why)) = build()
    {
        let text = format!("must be a valid regular expression, but isn't: {why}");
        e.push(Error::invalid(&at.child("pattern"), pattern, text));
    }
}

fn nested(v: &Value, skip_any: bool, at: &Path, e: &mut ErrorList) {
    values(v, skip_any, false, at, e);
    if v.at("items").is_object() {
        nested(v.at("items"), false, &at.child("items"), e);
    }
    for (key, inner) in named(v, "properties") {
        nested(inner, false, &at.child("properties").key(key), e);
    }
    const EMPTY: &str = "must be empty to be structural";
    const UNDEFINED: &str = "must be undefined to be structural";
    const FALSE: &str = "must be false to be structural";
    for (key, text) in [
        ("type", EMPTY),
        ("additionalProperties", UNDEFINED),
        ("default", UNDEFINED),
        ("title", EMPTY),
        ("description", EMPTY),
        ("nullable", FALSE),
        ("x-kubernetes-preserve-unknown-fields", FALSE),
        ("x-kubernetes-embedded-resource", FALSE),
        ("x-kubernetes-int-or-string", FALSE),
        ("x-kubernetes-list-map-keys", EMPTY),
        ("x-kubernetes-list-type", UNDEFINED),
        ("x-kubernetes-map-type", UNDEFINED),
        ("x-kubernetes-validations", EMPTY),
    ] {
        let there = match (text, v.at(key)) {
            (_, Value::Null) => false,
            (UNDEFINED, _) => true,
            (FALSE, flag) => flag.as_bool() == Some(true),
            (_, other) => !crate::value::is_zero(other),
        };
        if there {
            e.push(Error::forbidden(&at.child(key), text));
        }
    }
    if v.at("properties").as_object().is_some_and(|p| p.contains_key("metadata")) {
        let text = "must not be specified in a nested context";
        e.push(Error::forbidden(&at.child("properties").key("metadata"), text));
    }
}
