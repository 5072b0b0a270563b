//! Tree to bytes, as upstream's generated marshalers write them.

use super::{Error, MAX_DEPTH, Result, wire};
use crate::schema::{Field, Kind, Label, Message, Special};
use crate::{Map, Value, json, quantity, time};
use base64::Engine;

type Object = Map<String, Value>;

/// The bytes of a message (without envelope). The value must have passed [`crate::decode`] or be built
/// by our own code: keys that the table does not know are not written, values of a wrong type are errors.
pub fn encode(m: &'static Message, value: &Value) -> Result<Vec<u8>> {
    let mut out = Vec::with_capacity(512);
    message(m, Some(value), &mut out, 0)?;
    Ok(out)
}

fn wrong(field: &'static str, value: &Value) -> Error {
    let shown: String = value.to_string().chars().take(64).collect();
    Error::Value(field, format!("unexpected value {shown}"))
}

/// The content of a message. An absent value is the zero value.
fn message(m: &'static Message, value: Option<&Value>, out: &mut Vec<u8>, depth: usize) -> Result<()> {
    if depth >= MAX_DEPTH {
        return Err(Error::Depth);
    }
    let value = value.filter(|v| !v.is_null());
    if m.special.is_some() {
        return special(m, value, out, depth);
    }
    match value {
        None => body(m, None, out, depth),
        Some(Value::Object(map)) => body(m, Some(map), out, depth),
        Some(other) => Err(wrong(m.short, other)),
    }
}

fn body(m: &'static Message, map: Option<&Object>, out: &mut Vec<u8>, depth: usize) -> Result<()> {
    for &i in &m.wire_order {
        let f = &m.fields[i as usize];
        if let (true, Kind::Message(inner)) = (f.inline, f.kind) {
            wire::put_nested(out, f.number, |out| body(inner.message(), map, out, depth + 1))?;
            continue;
        }
        let value = map.and_then(|map| map.get(f.json)).filter(|v| !v.is_null());
        match (f.label, value) {
            (Label::One, value) => one(f, value, out, depth)?,
            (_, None) => {}
            (Label::List, Some(Value::Array(items))) => {
                for item in items {
                    element(f, item, f.number, out, depth)?;
                }
            }
            (Label::Map, Some(Value::Object(entries))) => entries_of(f, entries, out, depth)?,
            (_, Some(other)) => return Err(wrong(f.json, other)),
        }
    }
    Ok(())
}

fn one(f: &'static Field, value: Option<&Value>, out: &mut Vec<u8>, depth: usize) -> Result<()> {
    if let Some(value) = value {
        return element(f, value, f.number, out, depth);
    }
    if f.nullable {
        return Ok(());
    }
    match f.kind {
        Kind::Bytes => {}
        Kind::String => wire::put_bytes(out, f.number, b""),
        Kind::Double => {
            wire::put_tag(out, f.number, wire::FIXED64);
            out.extend_from_slice(&0f64.to_le_bytes());
        }
        Kind::Bool | Kind::Int32 | Kind::Int64 => {
            wire::put_tag(out, f.number, wire::VARINT);
            out.push(0);
        }
        Kind::Message(m) => {
            wire::put_nested(out, f.number, |out| message(m.message(), None, out, depth + 1))?;
        }
    }
    Ok(())
}

/// One value under a tag: a single field, an element of a list, or the value of a map entry.
fn element(f: &'static Field, value: &Value, number: u32, out: &mut Vec<u8>, depth: usize) -> Result<()> {
    match f.kind {
        Kind::Message(m) => {
            wire::put_nested(out, number, |out| message(m.message(), Some(value), out, depth + 1))?;
        }
        Kind::String => {
            let text = match value {
                Value::Null => "",
                v => v.as_str().ok_or_else(|| wrong(f.json, value))?,
            };
            wire::put_bytes(out, number, text.as_bytes());
        }
        Kind::Bytes => {
            let text = value.as_str().unwrap_or_default();
            let bytes = base64::engine::general_purpose::STANDARD
                .decode(text)
                .map_err(|e| Error::Value(f.json, e.to_string()))?;
            wire::put_bytes(out, number, &bytes);
        }
        Kind::Bool => {
            wire::put_tag(out, number, wire::VARINT);
            out.push(u8::from(value.as_bool().ok_or_else(|| wrong(f.json, value))?));
        }
        Kind::Int32 => {
            let n = value.as_i64().and_then(|n| i32::try_from(n).ok()).ok_or_else(|| wrong(f.json, value))?;
            wire::put_tag(out, number, wire::VARINT);
            wire::put_varint(out, i64::from(n) as u64);
        }
        Kind::Int64 => {
            wire::put_tag(out, number, wire::VARINT);
            wire::put_varint(out, value.as_i64().ok_or_else(|| wrong(f.json, value))? as u64);
        }
        Kind::Double => {
            wire::put_tag(out, number, wire::FIXED64);
            let v = value.as_f64().ok_or_else(|| wrong(f.json, value))?;
            out.extend_from_slice(&v.to_le_bytes());
        }
    }
    Ok(())
}

fn entries_of(f: &'static Field, entries: &Object, out: &mut Vec<u8>, depth: usize) -> Result<()> {
    let entry = |key: &str, value: &Value, out: &mut Vec<u8>| {
        wire::put_nested(out, f.number, |out| {
            wire::put_bytes(out, 1, key.as_bytes());
            if value.is_null() && matches!(f.kind, Kind::Bytes) {
                return Ok(());
            }
            element(f, value, 2, out, depth)
        })
    };
    if entries.keys().is_sorted() {
        return entries.iter().try_for_each(|(k, v)| entry(k, v, out));
    }
    let mut sorted: Vec<_> = entries.iter().collect();
    sorted.sort_by_key(|e| e.0);
    sorted.into_iter().try_for_each(|(k, v)| entry(k, v, out))
}

fn special(m: &'static Message, value: Option<&Value>, out: &mut Vec<u8>, depth: usize) -> Result<()> {
    let text = || match value {
        None => Ok(""),
        Some(v) => v.as_str().ok_or_else(|| wrong(m.short, v)),
    };
    match m.special {
        Some(Special::Quantity) => {
            let canonical = match value {
                None => "0".into(),
                Some(v) => quantity::canonical(v).map_err(|e| Error::Value(m.short, e.to_string()))?,
            };
            wire::put_bytes(out, 1, canonical.as_bytes());
        }
        Some(Special::Time | Special::MicroTime | Special::Timestamp) => {
            let text = text()?;
            if text.is_empty() {
                return Ok(());
            }
            let (secs, nanos) =
                time::parse_rfc3339(text).ok_or_else(|| Error::Value(m.short, format!("no time: {text}")))?;
            let nanos = if m.special == Some(Special::MicroTime) { nanos / 1000 * 1000 } else { 0 };
            wire::put_tag(out, 1, wire::VARINT);
            wire::put_varint(out, secs as u64);
            wire::put_tag(out, 2, wire::VARINT);
            wire::put_varint(out, u64::from(nanos));
        }
        Some(Special::Duration) => {
            let text = text()?;
            let nanos = if text.is_empty() {
                0
            } else {
                time::parse_duration(text).map_err(|e| Error::Value(m.short, e))?
            };
            wire::put_tag(out, 1, wire::VARINT);
            wire::put_varint(out, nanos as u64);
        }
        Some(Special::IntOrString) => int_or_string(m, value, out)?,
        Some(Special::Raw) => {
            if let Some(v) = value {
                wire::put_nested(out, 1, |out| {
                    json::write(v, out);
                    Ok(())
                })?;
            }
        }
        Some(Special::Strings) => strings(m, value, 1, out)?,
        Some(Special::GroupVersion) => {
            let text = text()?;
            let (group, version) = text.split_once('/').unwrap_or(("", text));
            wire::put_bytes(out, 1, group.as_bytes());
            wire::put_bytes(out, 2, version.as_bytes());
        }
        Some(Special::SchemaOrBool) => {
            let allows = !matches!(value, None | Some(Value::Bool(false)));
            wire::put_tag(out, 1, wire::VARINT);
            out.push(u8::from(allows));
            if let Some(v @ Value::Object(_)) = value {
                schema(m, v, 2, out, depth)?;
            }
        }
        Some(Special::SchemaOrArray) => match value {
            Some(Value::Array(items)) => {
                for item in items {
                    schema(m, item, 2, out, depth)?;
                }
            }
            Some(v) => schema(m, v, 1, out, depth)?,
            None => {}
        },
        Some(Special::SchemaOrStrings) => match value {
            Some(Value::Array(_)) => strings(m, value, 2, out)?,
            Some(v) => schema(m, v, 1, out, depth)?,
            None => {}
        },
        Some(Special::Unknown) | None => {
            return Err(Error::Value(m.short, "cannot be encoded".into()));
        }
    }
    Ok(())
}

fn schema(m: &'static Message, v: &Value, number: u32, out: &mut Vec<u8>, depth: usize) -> Result<()> {
    match m.fields.iter().find_map(Field::message) {
        Some(props) => wire::put_nested(out, number, |out| message(props, Some(v), out, depth + 1)),
        None => Err(Error::BadTag),
    }
}

fn strings(m: &'static Message, value: Option<&Value>, number: u32, out: &mut Vec<u8>) -> Result<()> {
    let Some(value) = value else { return Ok(()) };
    for item in value.as_array().ok_or_else(|| wrong(m.short, value))? {
        let text = item.as_str().ok_or_else(|| wrong(m.short, item))?;
        wire::put_bytes(out, number, text.as_bytes());
    }
    Ok(())
}

fn int_or_string(m: &'static Message, value: Option<&Value>, out: &mut Vec<u8>) -> Result<()> {
    let (kind, number, text) = match value {
        None => (0, 0, ""),
        Some(Value::String(s)) => (1, 0, s.as_str()),
        Some(v) => {
            let n = v.as_i64().and_then(|n| i32::try_from(n).ok()).ok_or_else(|| wrong(m.short, v))?;
            (0, n, "")
        }
    };
    wire::put_tag(out, 1, wire::VARINT);
    out.push(kind);
    wire::put_tag(out, 2, wire::VARINT);
    wire::put_varint(out, i64::from(number) as u64);
    wire::put_bytes(out, 3, text.as_bytes());
    Ok(())
}
