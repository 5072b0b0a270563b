//! The protobuf form of OpenAPI v3 (`openapi.v3.Document` of gnostic).

use super::{Object, Out, any, double, extensions, flag, integer, named, nested, text, texts};
use api::Value;
use api::protobuf::wire::{self, put_bytes};

/// A v3 document as protobuf.
pub fn encode(document: &Value) -> Vec<u8> {
    let mut out = Vec::with_capacity(1 << 20);
    let empty = Object::new();
    let d = document.as_object().unwrap_or(&empty);
    text(&mut out, 1, d, "openapi");
    if let Some(info) = d.get("info").and_then(Value::as_object) {
        nested(&mut out, 2, |out| {
            text(out, 1, info, "title");
            text(out, 2, info, "description");
            text(out, 6, info, "version");
        });
    }
    if d.contains_key("paths") {
        nested(&mut out, 4, |out| named(out, 1, d.get("paths"), path_item));
    }
    if let Some(components) = d.get("components").and_then(Value::as_object) {
        nested(&mut out, 5, |out| {
            if components.contains_key("schemas") {
                nested(out, 1, |out| named(out, 1, components.get("schemas"), schema_or_reference));
            }
            if components.contains_key("securitySchemes") {
                nested(out, 7, |out| named(out, 1, components.get("securitySchemes"), security_scheme));
            }
        });
    }
    security(&mut out, 6, d);
    out
}

/// The first of two alternatives, or a reference as the second.
fn or_reference(out: &mut Out, v: &Value, body: impl FnOnce(&mut Out, &Object)) {
    let Some(o) = v.as_object() else { return };
    match o.get("$ref").and_then(Value::as_str) {
        Some(r) => nested(out, 2, |out| put_bytes(out, 1, r.as_bytes())),
        None => nested(out, 1, |out| body(out, o)),
    }
}

fn list<'a>(o: &'a Object, key: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    o.get(key).and_then(Value::as_array).into_iter().flatten()
}

fn security(out: &mut Out, number: u32, o: &Object) {
    for requirement in list(o, "security") {
        nested(out, number, |out| {
            named(out, 1, Some(requirement), |out, scopes| {
                for scope in scopes.as_array().into_iter().flatten().filter_map(Value::as_str) {
                    put_bytes(out, 1, scope.as_bytes());
                }
            })
        });
    }
}

fn security_scheme(out: &mut Out, v: &Value) {
    or_reference(out, v, |out, o| {
        for (number, key) in
            ["type", "description", "name", "in", "scheme", "bearerFormat"].iter().enumerate()
        {
            text(out, number as u32 + 1, o, key);
        }
    });
}

fn path_item(out: &mut Out, v: &Value) {
    let Some(o) = v.as_object() else { return };
    let methods =
        [("get", 4), ("put", 5), ("post", 6), ("delete", 7), ("options", 8), ("head", 9), ("patch", 10)];
    text(out, 2, o, "summary");
    text(out, 3, o, "description");
    for (method, number) in methods {
        if let Some(op) = o.get(method).and_then(Value::as_object) {
            nested(out, number, |out| operation(out, op));
        }
    }
    parameters(out, 13, o);
    extensions(out, 14, o);
}

fn operation(out: &mut Out, o: &Object) {
    texts(out, 1, o, "tags");
    text(out, 2, o, "summary");
    text(out, 3, o, "description");
    text(out, 5, o, "operationId");
    parameters(out, 6, o);
    if let Some(body) = o.get("requestBody") {
        nested(out, 7, |out| {
            or_reference(out, body, |out, o| {
                text(out, 1, o, "description");
                content(out, 2, o);
                flag(out, 3, o, "required");
            });
        });
    }
    if let Some(responses) = o.get("responses").and_then(Value::as_object) {
        nested(out, 8, |out| {
            if let Some(default) = responses.get("default") {
                nested(out, 1, |out| response(out, default));
            }
            for (code, r) in responses.iter().filter(|(c, _)| *c != "default") {
                nested(out, 2, |out| {
                    put_bytes(out, 1, code.as_bytes());
                    nested(out, 2, |out| response(out, r));
                });
            }
        });
    }
    flag(out, 10, o, "deprecated");
    security(out, 11, o);
    extensions(out, 13, o);
}

fn response(out: &mut Out, v: &Value) {
    or_reference(out, v, |out, o| {
        text(out, 1, o, "description");
        content(out, 3, o);
    });
}

fn content(out: &mut Out, number: u32, o: &Object) {
    if o.contains_key("content") {
        nested(out, number, |out| {
            named(out, 1, o.get("content"), |out, media| {
                if let Some(s) = media.get("schema") {
                    nested(out, 1, |out| schema_or_reference(out, s));
                }
            });
        });
    }
}

fn parameters(out: &mut Out, number: u32, o: &Object) {
    for p in list(o, "parameters") {
        nested(out, number, |out| {
            or_reference(out, p, |out, o| {
                text(out, 1, o, "name");
                text(out, 2, o, "in");
                text(out, 3, o, "description");
                flag(out, 4, o, "required");
                flag(out, 5, o, "deprecated");
                flag(out, 6, o, "allowEmptyValue");
                text(out, 7, o, "style");
                flag(out, 8, o, "explode");
                flag(out, 9, o, "allowReserved");
                if let Some(s) = o.get("schema") {
                    nested(out, 10, |out| schema_or_reference(out, s));
                }
                content(out, 13, o);
                extensions(out, 14, o);
            });
        });
    }
}

fn schema_or_reference(out: &mut Out, v: &Value) {
    or_reference(out, v, schema);
}

fn schemas(out: &mut Out, number: u32, o: &Object, key: &str) {
    for s in list(o, key) {
        nested(out, number, |out| schema_or_reference(out, s));
    }
}

fn schema(out: &mut Out, o: &Object) {
    flag(out, 1, o, "nullable");
    flag(out, 3, o, "readOnly");
    flag(out, 4, o, "writeOnly");
    if let Some(docs) = o.get("externalDocs").and_then(Value::as_object) {
        nested(out, 6, |out| {
            text(out, 1, docs, "description");
            text(out, 2, docs, "url");
        });
    }
    if let Some(example) = o.get("example") {
        any(out, 7, example);
    }
    flag(out, 8, o, "deprecated");
    text(out, 9, o, "title");
    double(out, 10, o, "multipleOf");
    double(out, 11, o, "maximum");
    flag(out, 12, o, "exclusiveMaximum");
    double(out, 13, o, "minimum");
    flag(out, 14, o, "exclusiveMinimum");
    integer(out, 15, o, "maxLength");
    integer(out, 16, o, "minLength");
    text(out, 17, o, "pattern");
    integer(out, 18, o, "maxItems");
    integer(out, 19, o, "minItems");
    flag(out, 20, o, "uniqueItems");
    integer(out, 21, o, "maxProperties");
    integer(out, 22, o, "minProperties");
    texts(out, 23, o, "required");
    for e in list(o, "enum") {
        any(out, 24, e);
    }
    text(out, 25, o, "type");
    schemas(out, 26, o, "allOf");
    schemas(out, 27, o, "oneOf");
    schemas(out, 28, o, "anyOf");
    if let Some(not) = o.get("not").and_then(Value::as_object) {
        nested(out, 29, |out| schema(out, not));
    }
    if let Some(items) = o.get("items") {
        nested(out, 30, |out| nested(out, 1, |out| schema_or_reference(out, items)));
    }
    if o.get("properties").is_some_and(Value::is_object) {
        nested(out, 31, |out| named(out, 1, o.get("properties"), schema_or_reference));
    }
    match o.get("additionalProperties") {
        Some(Value::Bool(b)) => nested(out, 32, |out| boolean(out, 2, *b)),
        Some(s) => nested(out, 32, |out| nested(out, 1, |out| schema_or_reference(out, s))),
        None => {}
    }
    if let Some(default) = o.get("default") {
        scalar(out, default);
    }
    text(out, 34, o, "description");
    text(out, 35, o, "format");
    extensions(out, 36, o);
}

/// A default; of one that is a list or an object this form knows only that it is there.
fn scalar(out: &mut Out, v: &Value) {
    match v {
        Value::Number(n) => nested(out, 33, |out| {
            wire::put_tag(out, 1, wire::FIXED64);
            out.extend_from_slice(&n.as_f64().unwrap_or_default().to_le_bytes());
        }),
        Value::Bool(b) => nested(out, 33, |out| boolean(out, 2, *b)),
        Value::String(s) => nested(out, 33, |out| put_bytes(out, 3, s.as_bytes())),
        _ => nested(out, 33, |_| {}),
    }
}

fn boolean(out: &mut Out, number: u32, v: bool) {
    wire::put_tag(out, number, wire::VARINT);
    out.push(u8::from(v));
}
