//! Validation of the schemas in definitions.

use super::structural::{named, structural};
use crate::checks;
use crate::value::Get;
use api::Value;
use api::field::{Error, ErrorList, Path};
use std::collections::HashSet;

const TYPES: [&str; 6] = ["array", "boolean", "integer", "number", "object", "string"];

/// What is asked of schemas, unless those stored before lacked it.
pub struct Options {
    structural: bool,
    known_types: bool,
}

impl Options {
    pub fn new(stored: &[Value]) -> Self {
        let schemas = || stored.iter().map(|v| v.at("schema").at("openAPIV3Schema")).filter(|s| !s.is_null());
        Options {
            structural: schemas().all(|s| structural(s, &Path::new("")).is_empty()),
            known_types: schemas().all(known_types),
        }
    }
}

fn known_types(s: &Value) -> bool {
    if !s.is_object() {
        return true;
    }
    let own = s.text("type");
    (own.is_empty() || TYPES.contains(&own))
        && named(s, "properties").all(|(_, inner)| known_types(inner))
        && ["items", "additionalProperties", "not"].iter().all(|k| known_types(s.at(k)))
        && ["allOf", "anyOf", "oneOf"].iter().all(|k| s.list(k).iter().all(known_types))
}

/// What a schema may say next to `properties` if the status of it is cut out.
const AT_ROOT: [(&str, &str); 22] = [
    ("Description", "description"),
    ("Type", "type"),
    ("Format", "format"),
    ("Title", "title"),
    ("Maximum", "maximum"),
    ("ExclusiveMaximum", "exclusiveMaximum"),
    ("Minimum", "minimum"),
    ("ExclusiveMinimum", "exclusiveMinimum"),
    ("MaxLength", "maxLength"),
    ("MinLength", "minLength"),
    ("Pattern", "pattern"),
    ("MaxItems", "maxItems"),
    ("MinItems", "minItems"),
    ("UniqueItems", "uniqueItems"),
    ("MultipleOf", "multipleOf"),
    ("Required", "required"),
    ("Items", "items"),
    ("Properties", "properties"),
    ("ExternalDocs", "externalDocs"),
    ("Example", "example"),
    ("XPreserveUnknownFields", "x-kubernetes-preserve-unknown-fields"),
    ("XValidations", "x-kubernetes-validations"),
];

/// The schema of a version.
pub fn schema(s: &Value, status: bool, options: &Options, at: &Path, e: &mut ErrorList) {
    if s.is_null() {
        return;
    }
    if status {
        root(s, at, e);
    }
    if s.flag("nullable") {
        e.push(Error::forbidden(&at.child("nullable"), "nullable cannot be true at the root"));
    }
    if options.structural {
        let errors = structural(s, at);
        if errors.is_empty() {
            super::defaults::check(s, at, e);
        }
        e.extend(errors);
    }
    walk(s, &Place { options, no_defaults: None, root: true, meta: false }, at, e);
    if e.is_empty() && options.structural {
        super::rules::check(s, at, e);
    }
}

fn root(s: &Value, at: &Path, e: &mut ErrorList) {
    let kind = s.text("type");
    if !kind.is_empty() && kind != "object" {
        let text = "only \"object\" is allowed as the type at the root of the schema if the status subresource is enabled";
        e.push(Error::invalid(&at.child("type"), kind, text));
    }
    let unknown = |k: &String| !AT_ROOT.iter().any(|(_, json)| json == k);
    if s.as_object().is_some_and(|o| o.iter().any(|(k, v)| unknown(k) && !crate::value::is_zero(v))) {
        let names: Vec<&str> = AT_ROOT.iter().map(|(name, _)| *name).collect();
        let text = format!(
            "only [{}] fields are allowed at the root of the schema if the status subresource is enabled",
            names.join(" ")
        );
        e.push(Error::invalid(at, s.clone(), text));
    }
}

/// Where in the whole schema one stands.
#[derive(Clone, Copy)]
struct Place<'a> {
    options: &'a Options,
    no_defaults: Option<&'a str>,
    root: bool,
    meta: bool,
}

fn walk(s: &Value, place: &Place<'_>, at: &Path, e: &mut ErrorList) {
    if !s.is_object() {
        return;
    }
    let inside = Place { root: false, ..*place };
    standard(s, place, at, e);
    if s.flag("uniqueItems") {
        let text = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
        e.push(Error::forbidden(&at.child("uniqueItems"), text));
    }
    let additional = s.at("additionalProperties");
    if !additional.is_null() {
        if s.len("properties") > 0 && additional.as_bool() != Some(true) {
            let text = "additionalProperties and properties are mutual exclusive";
            e.push(Error::forbidden(&at.child("additionalProperties"), text));
        }
        let no_defaults = if place.meta {
            Some("inside additionalProperties applying to object metadata")
        } else {
            inside.no_defaults
        };
        walk(additional, &Place { no_defaults, ..inside }, &at.child("additionalProperties"), e);
    }
    for (key, inner) in named(s, "properties") {
        let at = at.child("properties").key(key);
        let own = (place.root || s.flag("x-kubernetes-embedded-resource"))
            && matches!(key, "metadata" | "kind" | "apiVersion");
        let why = format!("in top-level {key}");
        let no_defaults = if own && place.root { Some(why.as_str()) } else { inside.no_defaults };
        walk(inner, &Place { meta: own || inside.meta, no_defaults, ..inside }, &at, e);
    }
    walk(s.at("not"), &inside, &at.child("not"), e);
    for key in ["allOf", "oneOf", "anyOf"] {
        for (i, inner) in s.list(key).iter().enumerate() {
            walk(inner, &inside, &at.child(key).index(i), e);
        }
    }
    walk(s.at("items"), &inside, &at.child("items"), e);
    extensions(s, at, e);
    rules(s, &at.child("x-kubernetes-validations"), e);
}

/// What of JSON schema is taken at all.
fn standard(s: &Value, place: &Place<'_>, at: &Path, e: &mut ErrorList) {
    let kind = s.text("type");
    if place.options.known_types && !kind.is_empty() {
        checks::one_of(kind, &TYPES, &at.child("type"), e);
    }
    if let (true, Some(why)) = (s.has("default"), place.no_defaults) {
        e.push(Error::forbidden(&at.child("default"), format!("must not be set {why}")));
    }
    for key in ["id", "additionalItems", "patternProperties", "definitions", "dependencies", "$ref"] {
        if s.has(key) {
            e.push(Error::forbidden(&at.child(key), format!("{key} is not supported")));
        }
    }
    if kind == "null" {
        let text = "type cannot be set to null, use nullable as an alternative";
        e.push(Error::forbidden(&at.child("type"), text));
    }
    if s.at("items").is_array() {
        let text = "items must be a schema object and not an array";
        e.push(Error::forbidden(&at.child("items"), text));
    }
    if place.meta && s.flag("x-kubernetes-embedded-resource") {
        let text = "must not be used inside of resource meta";
        e.push(Error::forbidden(&at.child("x-kubernetes-embedded-resource"), text));
    }
}

fn extensions(s: &Value, at: &Path, e: &mut ErrorList) {
    const OPEN: &str = "x-kubernetes-preserve-unknown-fields";
    const MAP: &str = "x-kubernetes-map-type";
    const LIST: &str = "x-kubernetes-list-type";
    if s.at(OPEN).as_bool() == Some(false) {
        e.push(Error::invalid(&at.child(OPEN), false, "must be true or undefined"));
    }
    if let Some(kind) = s.opt_text(MAP) {
        of_type(s, "object", MAP, at, e);
        checks::one_of(kind, &["atomic", "granular"], &at.child(MAP), e);
    }
    let list = s.opt_text(LIST);
    let (item, at_item) = (s.at("items"), at.child("items"));
    let is_array = list.is_none() || of_type(s, "array", LIST, at, e);
    if is_array && list == Some("set") {
        let text = "must be atomic as item of a list with x-kubernetes-list-type=set";
        let inner = item.opt_text(LIST);
        if item.text("type") == "array" && inner.is_some_and(|t| t != "atomic") {
            e.push(Error::invalid(&at_item.child(LIST), inner.unwrap_or_default(), text));
        }
        if item.text("type") == "object" && item.text(MAP) != "atomic" {
            e.push(Error::invalid(&at_item.child(MAP), item.at(MAP).clone(), text));
        }
    }
    if let Some(kind) = list {
        checks::listed(kind, &["atomic", "set", "map"], &at.child(LIST), e);
    }
    if s.len(KEYS) > 0 && list != Some("map") {
        let text = "must be map if x-kubernetes-list-map-keys is non-empty";
        e.push(match list {
            None => Error::required(&at.child(LIST), text),
            Some(kind) => Error::invalid(&at.child(LIST), kind, text),
        });
    }
    if list == Some("map") {
        map_list(s, at, e);
    }
    if let Some(kind @ ("map" | "set")) = list
        && item.flag("nullable")
    {
        let text = format!("cannot be nullable when x-kubernetes-list-type is {kind}");
        e.push(Error::forbidden(&at_item.child("nullable"), text));
    }
    if list == Some("map") {
        keys_there(s, item, &at_item.child("properties"), e);
    }
}

const KEYS: &str = "x-kubernetes-list-map-keys";

fn of_type(s: &Value, wanted: &str, why: &str, at: &Path, e: &mut ErrorList) -> bool {
    let kind = s.text("type");
    let text = format!("must be {wanted} if {why} is specified");
    if kind.is_empty() {
        e.push(Error::required(&at.child("type"), text));
    } else if kind != wanted {
        e.push(Error::invalid(&at.child("type"), kind, text));
    }
    kind == wanted
}

fn map_list(s: &Value, at: &Path, e: &mut ErrorList) {
    if s.len(KEYS) == 0 {
        let text = "must not be empty if x-kubernetes-list-type is map";
        e.push(Error::required(&at.child(KEYS), text));
    }
    let (item, at_item) = (s.at("items"), at.child("items"));
    if item.is_null() {
        let text = "must have a schema if x-kubernetes-list-type is map";
        return e.push(Error::required(&at_item, text));
    }
    if item.is_array() {
        let text = "must only have a single schema if x-kubernetes-list-type is map";
        return e.push(Error::invalid(&at_item, item.clone(), text));
    }
    let kind = item.text("type");
    if kind != "object" {
        let text = "must be object if parent array's x-kubernetes-list-type is map";
        return e.push(Error::invalid(&at_item.child("type"), kind, text));
    }
    let mut seen = HashSet::new();
    for key in s.texts(KEYS) {
        let whole = s.at(KEYS).clone();
        match item.at("properties").at(key) {
            Value::Null => {
                let text = "entries must all be names of item properties";
                e.push(Error::invalid(&at.child(KEYS), whole.clone(), text));
            }
            property if matches!(property.text("type"), "array" | "object") => {
                let text = "must be a scalar type if parent array's x-kubernetes-list-type is map";
                let at = at_item.child("properties").key(key).child("type");
                e.push(Error::invalid(&at, kind, text));
            }
            _ => {}
        }
        if !seen.insert(key) {
            e.push(Error::invalid(&at.child(KEYS), whole, "must not contain duplicate entries"));
        }
    }
}

/// A key must always be there: required, or with a default, and never null.
fn keys_there(s: &Value, item: &Value, at: &Path, e: &mut ErrorList) {
    for key in s.texts(KEYS) {
        let property = item.at("properties").at(key);
        if property.is_null() {
            continue;
        }
        let at = at.key(key);
        if !property.has("default") && !item.texts("required").any(|r| r == key) {
            let text = "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property";
            e.push(Error::required(&at.child("default"), text));
        }
        if property.flag("nullable") {
            let text = "this property is in x-kubernetes-list-map-keys, so it cannot be nullable";
            e.push(Error::forbidden(&at.child("nullable"), text));
        }
    }
}

/// The texts around expressions; what the expressions say is looked at once all else is well.
fn rules(s: &Value, at: &Path, e: &mut ErrorList) {
    const REASONS: [&str; 4] =
        ["FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"];
    const EMPTY: &str = "must be non-empty if specified";
    let lines = |text: &str| text.contains(['\n', '\r']);
    for (i, r) in s.list("x-kubernetes-validations").iter().enumerate() {
        let at = at.index(i);
        let (rule, message) = (r.text("rule").trim(), r.text("message"));
        if rule.is_empty() {
            e.push(Error::required(&at.child("rule"), "rule is not specified"));
        } else if !message.is_empty() && message.trim().is_empty() {
            e.push(Error::invalid(&at.child("message"), message, EMPTY));
        } else if lines(message.trim()) {
            e.push(Error::invalid(&at.child("message"), message, "must not contain line breaks"));
        } else if lines(rule) && message.is_empty() {
            let text = "message must be specified if rule contains line breaks";
            e.push(Error::required(&at.child("message"), text));
        }
        let by_expression = r.text("messageExpression");
        if !by_expression.is_empty() && by_expression.trim().is_empty() {
            let text = "messageExpression must be non-empty if specified";
            e.push(Error::required(&at.child("messageExpression"), text));
        }
        checks::opt_one_of(r, "reason", &REASONS, &at, e);
        let path = r.text("fieldPath");
        if !path.is_empty() && path.trim().is_empty() {
            e.push(Error::invalid(&at.child("fieldPath"), path, EMPTY));
        }
        if lines(path) {
            e.push(Error::invalid(&at.child("fieldPath"), path, "must not contain line breaks"));
        }
        if !path.is_empty() && expressions::rules::field_path(path, s).is_none() {
            e.push(Error::invalid(&at.child("fieldPath"), path, "must be a valid path"));
        }
    }
}
