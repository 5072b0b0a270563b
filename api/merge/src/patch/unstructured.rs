//! Why a merged tree is no object of its kind, in the words of upstream's converter from trees to
//! structs. Strategic merge patches report this; everything else reports the JSON decoder's words.

use api::Value;
use api::schema::{Field, Kind, Label, Message};

/// The first value that does not fit its field, in the order of the fields; `None` if none is found.
pub fn mismatch(message: &'static Message, value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::Object(map) => message.flat().iter().find_map(|f| field(f.field, map.get(f.name)?)),
        other => Some(format!("cannot restore struct from: {}", kind_of(other))),
    }
}

fn field(f: &'static Field, value: &Value) -> Option<String> {
    if value.is_null() {
        return None;
    }
    match (f.label, value) {
        (Label::One, v) => item(f, v),
        (Label::List, Value::Array(items)) => items.iter().find_map(|v| item(f, v)),
        (Label::List, v) => Some(format!("cannot restore slice from {}", kind_of(v))),
        (Label::Map, Value::Object(map)) => map.values().find_map(|v| item(f, v)),
        (Label::Map, v) => Some(format!("cannot restore map from {}", kind_of(v))),
    }
}

fn item(f: &'static Field, value: &Value) -> Option<String> {
    if value.is_null() {
        return None;
    }
    if let Kind::Message(m) = f.kind {
        // Types with an encoding of their own are asked themselves.
        return if m.special.is_some() { None } else { mismatch(m.message(), value) };
    }
    let (fits, kind) = match f.kind {
        Kind::String => (value.is_string(), "string"),
        Kind::Bool => (value.is_boolean(), "bool"),
        Kind::Int32 => (whole(value), "int32"),
        Kind::Int64 => (whole(value), "int64"),
        Kind::Double => (value.is_number(), "float64"),
        Kind::Bytes if value.is_string() || value.is_array() => (true, ""),
        Kind::Bytes => return Some(format!("cannot restore slice from {}", kind_of(value))),
        Kind::Message(_) => (true, ""),
    };
    if fits {
        return None;
    }
    // Go would convert these, JSON would not.
    let convertible = match kind {
        "string" => value.is_i64() || value.is_u64(),
        "int32" | "int64" => value.is_f64(),
        _ => false,
    };
    let wanted = f.string_type.map_or(kind.to_owned(), |t| {
        let mut parts = t.rsplit('.');
        let (name, package) = (parts.next().unwrap_or(t), parts.next().unwrap_or_default());
        format!("{package}.{name}")
    });
    Some(if convertible {
        format!("cannot convert {} to {wanted}", kind_of(value))
    } else {
        format!("unrecognized type: {kind}")
    })
}

fn whole(v: &Value) -> bool {
    v.is_i64() || v.is_u64() || v.as_f64().is_some_and(|n| n.fract() == 0.0)
}

/// What Go calls the kind of a value in a tree.
fn kind_of(v: &Value) -> &'static str {
    match v {
        Value::Null => "invalid",
        Value::Bool(_) => "bool",
        Value::Number(n) if n.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "slice",
        Value::Object(_) => "map",
    }
}
