//! The protobuf form of OpenAPI v2 (`openapi.v2.Document` of gnostic), which kubectl asks for.

pub mod v3;

use api::protobuf::wire::{self, put_bytes, put_nested};
use api::{Map, Value};

type Object = Map<String, Value>;
type Out = Vec<u8>;

fn nested(out: &mut Out, number: u32, body: impl FnOnce(&mut Out)) {
    let done = put_nested(out, number, |out| {
        body(out);
        Ok::<(), std::convert::Infallible>(())
    });
    match done {
        Ok(()) => {}
        Err(never) => match never {},
    }
}

fn text(out: &mut Out, number: u32, object: &Object, key: &str) {
    if let Some(s) = object.get(key).and_then(Value::as_str).filter(|s| !s.is_empty()) {
        put_bytes(out, number, s.as_bytes());
    }
}

fn texts(out: &mut Out, number: u32, object: &Object, key: &str) {
    for s in object.get(key).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
        put_bytes(out, number, s.as_bytes());
    }
}

fn flag(out: &mut Out, number: u32, object: &Object, key: &str) {
    if object.get(key).and_then(Value::as_bool) == Some(true) {
        wire::put_tag(out, number, wire::VARINT);
        out.push(1);
    }
}

fn integer(out: &mut Out, number: u32, object: &Object, key: &str) {
    if let Some(n) = object.get(key).and_then(Value::as_i64).filter(|n| *n != 0) {
        wire::put_tag(out, number, wire::VARINT);
        wire::put_varint(out, n as u64);
    }
}

fn double(out: &mut Out, number: u32, object: &Object, key: &str) {
    if let Some(n) = object.get(key).and_then(Value::as_f64).filter(|n| *n != 0.0) {
        wire::put_tag(out, number, wire::FIXED64);
        out.extend_from_slice(&n.to_le_bytes());
    }
}

/// `Any` holds YAML text.
fn any(out: &mut Out, number: u32, v: &Value) {
    let mut text = String::new();
    yaml(&mut text, v, 0);
    nested(out, number, |out| put_bytes(out, 2, text.as_bytes()));
}

/// Block YAML; the first line is written where the caller stands.
fn yaml(out: &mut String, v: &Value, indent: usize) {
    let next = |out: &mut String, first: bool| {
        if !first {
            out.extend(std::iter::repeat_n(' ', indent));
        }
    };
    match v {
        Value::Array(items) if !items.is_empty() => {
            for (i, item) in items.iter().enumerate() {
                next(out, i == 0);
                out.push_str("- ");
                yaml(out, item, indent + 2);
            }
        }
        Value::Object(fields) if !fields.is_empty() => {
            for (i, (key, field)) in fields.iter().enumerate() {
                next(out, i == 0);
                out.push_str(&scalar(key));
                out.push(':');
                let nested = match field {
                    Value::Array(items) => !items.is_empty(),
                    Value::Object(fields) => !fields.is_empty(),
                    _ => false,
                };
                if nested {
                    out.push('\n');
                    out.extend(std::iter::repeat_n(' ', indent + 4));
                    yaml(out, field, indent + 4);
                } else {
                    out.push(' ');
                    yaml(out, field, indent);
                }
            }
        }
        Value::String(s) => {
            out.push_str(&scalar(s));
            out.push('\n');
        }
        other => {
            out.push_str(&api::json::to_string(other));
            out.push('\n');
        }
    }
}

/// A string as it stands in YAML: in quotes unless it can be taken for nothing else.
fn scalar(s: &str) -> String {
    let words = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    let plain = s.starts_with(|c: char| c.is_ascii_alphabetic())
        && s.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.,/".contains(&b))
        && !words.contains(&s.to_ascii_lowercase().as_str());
    if plain { s.to_owned() } else { api::json::to_string(&Value::from(s)) }
}

fn extensions(out: &mut Out, number: u32, object: &Object) {
    for (key, v) in object.iter().filter(|(k, _)| k.starts_with("x-")) {
        nested(out, number, |out| {
            put_bytes(out, 1, key.as_bytes());
            any(out, 2, v);
        });
    }
}

/// A map as a list of named values.
fn named(out: &mut Out, number: u32, object: Option<&Value>, body: impl Fn(&mut Out, &Value)) {
    for (key, v) in object.and_then(Value::as_object).into_iter().flatten() {
        nested(out, number, |out| {
            put_bytes(out, 1, key.as_bytes());
            nested(out, 2, |out| body(out, v));
        });
    }
}

/// A v2 document as protobuf.
pub fn encode(document: &Value) -> Vec<u8> {
    let mut out = Vec::with_capacity(1 << 20);
    let empty = Object::new();
    let d = document.as_object().unwrap_or(&empty);
    text(&mut out, 1, d, "swagger");
    if let Some(info) = d.get("info").and_then(Value::as_object) {
        nested(&mut out, 2, |out| {
            text(out, 1, info, "title");
            text(out, 2, info, "version");
        });
    }
    nested(&mut out, 8, |out| named(out, 2, d.get("paths"), path_item));
    nested(&mut out, 9, |out| named(out, 1, d.get("definitions"), schema));
    nested(&mut out, 10, |out| named(out, 1, d.get("parameters"), parameter));
    for requirement in d.get("security").and_then(Value::as_array).into_iter().flatten() {
        nested(&mut out, 12, |out| named(out, 1, Some(requirement), |_, _| {}));
    }
    nested(&mut out, 13, |out| named(out, 1, d.get("securityDefinitions"), api_key));
    out
}

fn api_key(out: &mut Out, v: &Value) {
    let Some(o) = v.as_object() else { return };
    nested(out, 2, |out| {
        text(out, 1, o, "type");
        text(out, 2, o, "name");
        text(out, 3, o, "in");
        text(out, 4, o, "description");
    });
}

fn path_item(out: &mut Out, v: &Value) {
    let Some(o) = v.as_object() else { return };
    let methods =
        [("get", 2), ("put", 3), ("post", 4), ("delete", 5), ("options", 6), ("head", 7), ("patch", 8)];
    for (method, number) in methods {
        if let Some(op) = o.get(method).and_then(Value::as_object) {
            nested(out, number, |out| operation(out, op));
        }
    }
    parameters(out, 9, o);
    extensions(out, 10, o);
}

fn operation(out: &mut Out, o: &Object) {
    texts(out, 1, o, "tags");
    text(out, 3, o, "description");
    text(out, 5, o, "operationId");
    texts(out, 6, o, "produces");
    texts(out, 7, o, "consumes");
    parameters(out, 8, o);
    nested(out, 9, |out| named(out, 1, o.get("responses"), response));
    texts(out, 10, o, "schemes");
    flag(out, 11, o, "deprecated");
    extensions(out, 13, o);
}

fn response(out: &mut Out, v: &Value) {
    let Some(o) = v.as_object() else { return };
    nested(out, 1, |out| {
        text(out, 1, o, "description");
        if let Some(s) = o.get("schema") {
            nested(out, 2, |out| nested(out, 1, |out| schema(out, s)));
        }
    });
}

fn parameters(out: &mut Out, number: u32, o: &Object) {
    for p in o.get("parameters").and_then(Value::as_array).into_iter().flatten() {
        nested(out, number, |out| match p.get("$ref").and_then(Value::as_str) {
            Some(r) => nested(out, 2, |out| put_bytes(out, 1, r.as_bytes())),
            None => nested(out, 1, |out| parameter(out, p)),
        });
    }
}

fn parameter(out: &mut Out, v: &Value) {
    let Some(o) = v.as_object() else { return };
    let place = o.get("in").and_then(Value::as_str).unwrap_or_default();
    if place == "body" {
        nested(out, 1, |out| {
            text(out, 1, o, "description");
            text(out, 2, o, "name");
            text(out, 3, o, "in");
            flag(out, 4, o, "required");
            if let Some(s) = o.get("schema") {
                nested(out, 5, |out| schema(out, s));
            }
        });
        return;
    }
    // The two differ by one field (`allow_empty_value`), which shifts the numbers after it.
    let (kind, shift) = if place == "query" { (3, 1) } else { (4, 0) };
    nested(out, 2, |out| {
        nested(out, kind, |out| {
            flag(out, 1, o, "required");
            text(out, 2, o, "in");
            text(out, 3, o, "description");
            text(out, 4, o, "name");
            text(out, 5 + shift, o, "type");
            text(out, 6 + shift, o, "format");
            flag(out, 19 + shift, o, "uniqueItems");
        });
    });
}

fn schema(out: &mut Out, v: &Value) {
    let Some(o) = v.as_object() else { return };
    text(out, 1, o, "$ref");
    text(out, 2, o, "format");
    text(out, 3, o, "title");
    text(out, 4, o, "description");
    if let Some(d) = o.get("default") {
        any(out, 5, d);
    }
    double(out, 6, o, "multipleOf");
    double(out, 7, o, "maximum");
    flag(out, 8, o, "exclusiveMaximum");
    double(out, 9, o, "minimum");
    flag(out, 10, o, "exclusiveMinimum");
    integer(out, 11, o, "maxLength");
    integer(out, 12, o, "minLength");
    text(out, 13, o, "pattern");
    integer(out, 14, o, "maxItems");
    integer(out, 15, o, "minItems");
    flag(out, 16, o, "uniqueItems");
    integer(out, 17, o, "maxProperties");
    integer(out, 18, o, "minProperties");
    texts(out, 19, o, "required");
    for e in o.get("enum").and_then(Value::as_array).into_iter().flatten() {
        any(out, 20, e);
    }
    match o.get("additionalProperties") {
        Some(Value::Bool(b)) => nested(out, 21, |out| {
            wire::put_tag(out, 2, wire::VARINT);
            out.push(u8::from(*b));
        }),
        Some(s) => nested(out, 21, |out| nested(out, 1, |out| schema(out, s))),
        None => {}
    }
    if let Some(t) = o.get("type").and_then(Value::as_str) {
        nested(out, 22, |out| put_bytes(out, 1, t.as_bytes()));
    }
    if let Some(items) = o.get("items") {
        nested(out, 23, |out| nested(out, 1, |out| schema(out, items)));
    }
    for s in o.get("allOf").and_then(Value::as_array).into_iter().flatten() {
        nested(out, 24, |out| schema(out, s));
    }
    if o.get("properties").is_some_and(Value::is_object) {
        nested(out, 25, |out| named(out, 1, o.get("properties"), schema));
    }
    extensions(out, 31, o);
}
