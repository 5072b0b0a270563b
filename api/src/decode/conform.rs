//! Bringing a tree into the canonical form of its message, in place.

use super::parse::MAX_PROBLEMS;
use crate::schema::{Field, Flat, Kind, Label, Message, Special};
use crate::{Map, Value, quantity, time};
use base64::Engine;
use std::fmt::Write;

/// What was dropped on the way.
#[derive(Debug, Default, PartialEq)]
pub struct Conformed {
    /// `unknown field "spec.foo"`
    pub unknown: Vec<String>,
}

/// Makes `value` canonical. The error is the text of the first value that does not fit.
pub fn conform(message: &'static Message, value: &mut Value) -> Result<Conformed, String> {
    let mut walk = Walk { path: Vec::with_capacity(16), unknown: Vec::new() };
    match value {
        Value::Object(map) => walk.body(message, map, true)?,
        other => {
            return Err(format!(
                "json: cannot unmarshal {} into Go value of type {}",
                crate::print::json_type(other),
                message.go_type()
            ));
        }
    }
    Ok(Conformed { unknown: walk.unknown })
}

enum Step {
    Field(&'static Flat),
    Index(usize),
    Key(String),
}

struct Walk {
    path: Vec<Step>,
    unknown: Vec<String>,
}

/// Whether the value stays in its object.
type Keep = Result<bool, String>;

impl Walk {
    fn body(&mut self, m: &'static Message, map: &mut Map<String, Value>, top: bool) -> Result<(), String> {
        let mut failed = None;
        map.retain(|key, value| {
            if failed.is_some() {
                return true;
            }
            if m.type_meta && (key == "apiVersion" || key == "kind") {
                return top;
            }
            let Some(flat) = m.flat_field(key) else {
                self.note_unknown(key);
                return false;
            };
            self.path.push(Step::Field(flat));
            let keep = self.field(flat.field, value);
            self.path.pop();
            keep.unwrap_or_else(|e| {
                failed = Some(e);
                true
            })
        });
        match failed {
            Some(e) => Err(e),
            None => {
                fill(m, map);
                Ok(())
            }
        }
    }

    fn note_unknown(&mut self, key: &str) {
        if self.unknown.len() >= MAX_PROBLEMS {
            return;
        }
        let mut path = String::new();
        for step in &self.path {
            let _ = match step {
                Step::Field(f) => write!(path, "{}{}", if path.is_empty() { "" } else { "." }, f.name),
                Step::Index(i) => write!(path, "[{i}]"),
                Step::Key(k) => write!(path, ".{k}"),
            };
        }
        let dot = if path.is_empty() { "" } else { "." };
        self.unknown.push(format!("unknown field \"{path}{dot}{key}\""));
    }

    /// Go's text: the declaring struct, then the field names on the way, then the wanted type.
    fn mismatch(&self, found: &Value, wanted: &str) -> String {
        let names: Vec<&str> = self
            .path
            .iter()
            .filter_map(|s| if let Step::Field(f) = s { Some(f.go_path) } else { None })
            .collect();
        let owner =
            self.path.iter().rev().find_map(|s| if let Step::Field(f) = s { Some(f.owner) } else { None });
        let numeric = wanted.starts_with("int") || wanted.starts_with("float");
        let found = match found {
            Value::Number(n) if numeric => format!("number {n}"),
            v => crate::print::json_type(v).to_owned(),
        };
        format!(
            "json: cannot unmarshal {found} into Go struct field {}.{} of type {wanted}",
            owner.unwrap_or_default(),
            names.join(".")
        )
    }

    fn field(&mut self, f: &'static Field, value: &mut Value) -> Keep {
        if value.is_null() {
            return Ok(false);
        }
        match f.label {
            Label::One => self.one(f, value),
            Label::List => self.list(f, value),
            Label::Map => self.map(f, value),
        }
    }

    fn one(&mut self, f: &'static Field, value: &mut Value) -> Keep {
        if let Kind::Message(m) = f.kind {
            return self.message(f, m.message(), value);
        }
        self.scalar(f, value)?;
        // An empty value says nothing, unless the field is a pointer.
        Ok(!(f.omitempty && !f.nullable && is_zero(value)))
    }

    fn scalar(&mut self, f: &'static Field, value: &mut Value) -> Result<(), String> {
        let ok = match f.kind {
            Kind::String => value.is_string(),
            Kind::Bool => value.is_boolean(),
            Kind::Int32 => value.as_i64().is_some_and(|n| i32::try_from(n).is_ok()),
            Kind::Int64 => value.as_i64().is_some(),
            Kind::Double => {
                if let Some(n) = value.as_f64()
                    && !value.is_i64()
                    && n.fract() == 0.0
                    && n.abs() < 1e15
                {
                    *value = Value::from(n as i64);
                }
                value.is_number()
            }
            Kind::Bytes => match value {
                Value::String(text) => {
                    canonical_base64(text)?;
                    true
                }
                _ => false,
            },
            Kind::Message(_) => true,
        };
        if ok { Ok(()) } else { Err(self.mismatch(value, &go_type(f))) }
    }

    fn list(&mut self, f: &'static Field, value: &mut Value) -> Keep {
        let Value::Array(items) = value else {
            return Err(self.mismatch(value, &format!("[]{}", go_type(f))));
        };
        for (i, item) in items.iter_mut().enumerate() {
            self.path.push(Step::Index(i));
            let result = self.element(f, item);
            self.path.pop();
            result?;
        }
        // An empty list of managers is a request to forget them all. Where the field is always written, an
        // empty list is not yet null: whoever writes it owns it.
        Ok(!items.is_empty() || !f.omitempty || f.json == "managedFields")
    }

    fn map(&mut self, f: &'static Field, value: &mut Value) -> Keep {
        let Value::Object(entries) = value else {
            let wanted = match go_type(f) {
                quantity if quantity == "resource.Quantity" => "v1.ResourceList".into(),
                other => format!("map[string]{other}"),
            };
            return Err(self.mismatch(value, &wanted));
        };
        for (key, item) in entries.iter_mut() {
            if matches!(f.kind, Kind::Message(_)) {
                self.path.push(Step::Key(key.clone()));
                let result = self.element(f, item);
                self.path.pop();
                result?;
            } else {
                self.element(f, item)?;
            }
        }
        Ok(!entries.is_empty())
    }

    /// An element of a list or map: it stays whatever it is, null is the zero value.
    fn element(&mut self, f: &'static Field, item: &mut Value) -> Result<(), String> {
        if item.is_null() {
            *item = zero(f.kind).unwrap_or(Value::Null);
        }
        if item.is_null() && matches!(f.kind, Kind::Bytes) {
            *item = "".into();
        }
        let Kind::Message(m) = f.kind else { return self.scalar(f, item) };
        if item.is_null() {
            return Ok(());
        }
        self.message(f, m.message(), item)?;
        if let (true, Value::Object(map)) = (f.embeds_type_meta(), item) {
            map.insert("apiVersion".into(), "v1".into());
            map.insert("kind".into(), m.short.into());
        }
        Ok(())
    }

    fn message(&mut self, f: &'static Field, m: &'static Message, value: &mut Value) -> Keep {
        if m.special.is_some() {
            return self.special(f, m, value);
        }
        match value {
            Value::Object(map) => {
                self.body(m, map, false)?;
                Ok(true)
            }
            other => Err(self.mismatch(other, m.go_type())),
        }
    }

    fn special(&mut self, f: &'static Field, m: &'static Message, value: &mut Value) -> Keep {
        let text = |v: &Value| match v {
            Value::String(s) => Ok(s.clone()),
            v => Err(self.mismatch(v, "string")),
        };
        match m.special {
            Some(Special::Quantity) => {
                let canonical = quantity::canonical(value).map_err(|e| e.to_string())?;
                let canonical = canonical.into_owned();
                *value = canonical.into();
            }
            Some(Special::Time | Special::Timestamp) => {
                let text = text(value)?;
                let (secs, nanos) =
                    time::parse_rfc3339(&text).ok_or_else(|| time::go_error(&text, "Z07:00"))?;
                if secs == time::ZERO_SECONDS && nanos == 0 {
                    return Ok(false);
                }
                *value = time::format_rfc3339(secs).into();
            }
            Some(Special::MicroTime) => {
                let text = text(value)?;
                let (secs, nanos) = time::parse_rfc3339(&text)
                    .filter(|_| six_digits(&text))
                    .ok_or_else(|| time::go_error(&text, ".000000Z07:00"))?;
                if secs == time::ZERO_SECONDS && nanos == 0 {
                    return Ok(false);
                }
                *value = time::format_micro(secs, nanos).into();
            }
            Some(Special::Duration) => {
                let nanos = time::parse_duration(&text(value)?)?;
                *value = time::format_duration(nanos).into();
            }
            Some(Special::IntOrString) => {
                let fits = value.as_i64().is_some_and(|n| i32::try_from(n).is_ok());
                if !(value.is_string() || fits) {
                    return Err(self.mismatch(value, "int32"));
                }
            }
            Some(Special::Strings) => {
                let Value::Array(items) = &*value else {
                    return Err(self.mismatch(value, m.go_type()));
                };
                if let Some(bad) = items.iter().find(|i| !i.is_string()) {
                    return Err(self.mismatch(bad, "string"));
                }
                return Ok(!items.is_empty());
            }
            Some(Special::GroupVersion) => {
                text(value)?;
            }
            Some(Special::SchemaOrBool) if value.is_boolean() => {}
            Some(Special::SchemaOrArray | Special::SchemaOrStrings) if value.is_array() => {
                return self.schemas(f, m, value);
            }
            Some(Special::SchemaOrBool | Special::SchemaOrArray | Special::SchemaOrStrings) => {
                return self.schema(f, m, value);
            }
            Some(Special::Raw | Special::Unknown) | None => {}
        }
        Ok(true)
    }

    fn schema(&mut self, f: &'static Field, m: &'static Message, value: &mut Value) -> Keep {
        match (m.fields.iter().find_map(Field::message), value) {
            (Some(props), value @ Value::Object(_)) => self.message(f, props, value),
            (_, other) => Err(self.mismatch(other, m.go_type())),
        }
    }

    fn schemas(&mut self, f: &'static Field, m: &'static Message, value: &mut Value) -> Keep {
        for item in value.as_array_mut().into_iter().flatten() {
            let is_names = m.special == Some(Special::SchemaOrStrings);
            if is_names && !item.is_string() {
                return Err(self.mismatch(item, "string"));
            }
            if !is_names {
                self.schema(f, m, item)?;
            }
        }
        Ok(true)
    }
}

fn is_zero(v: &Value) -> bool {
    match v {
        Value::Bool(b) => !b,
        Value::Number(n) => n.as_f64() == Some(0.0),
        Value::String(s) => s.is_empty(),
        _ => false,
    }
}

/// Go accepts line breaks inside base64 and writes none.
fn canonical_base64(text: &mut String) -> Result<(), String> {
    if text.contains(['\n', '\r']) {
        text.retain(|c| c != '\n' && c != '\r');
    }
    match base64::engine::general_purpose::STANDARD.decode(text.as_bytes()) {
        Ok(_) => Ok(()),
        Err(
            base64::DecodeError::InvalidByte(at, _)
            | base64::DecodeError::InvalidLastSymbol { offset: at, .. },
        ) => Err(format!("illegal base64 data at input byte {at}")),
        Err(_) => Err(format!("illegal base64 data at input byte {}", text.len() / 4 * 4)),
    }
}

fn six_digits(text: &str) -> bool {
    text.split_once('.').is_some_and(|(_, t)| t.bytes().take_while(u8::is_ascii_digit).count() == 6)
}

/// The type as Go prints it.
fn go_type(f: &Field) -> String {
    match (f.kind, f.string_type) {
        (_, Some(t)) => {
            let mut parts = t.rsplit('.');
            let (name, package) = (parts.next().unwrap_or(t), parts.next().unwrap_or_default());
            format!("{package}.{name}")
        }
        (Kind::String, _) if f.json == "uid" => "types.UID".into(),
        (Kind::String, _) => "string".into(),
        (Kind::Bytes, _) => "[]uint8".into(),
        (Kind::Bool, _) => "bool".into(),
        (Kind::Int32, _) => "int32".into(),
        (Kind::Int64, _) => "int64".into(),
        (Kind::Double, _) => "float64".into(),
        (Kind::Message(m), _) => m.message().go_type().into(),
    }
}

/// The zero value as JSON shows it; `None` where that is null.
fn zero(kind: Kind) -> Option<Value> {
    Some(match kind {
        Kind::String => "".into(),
        Kind::Bytes => return None,
        Kind::Bool => false.into(),
        Kind::Int32 | Kind::Int64 | Kind::Double => 0.into(),
        Kind::Message(m) => match m.special {
            None => {
                let mut map = Map::new();
                fill(m.message(), &mut map);
                map.into()
            }
            Some(Special::Quantity) => "0".into(),
            Some(Special::IntOrString) => 0.into(),
            Some(Special::Duration) => "0s".into(),
            Some(Special::GroupVersion) => "".into(),
            Some(Special::SchemaOrBool) => false.into(),
            Some(_) => return None,
        },
    })
}

/// Adds the zero values of absent fields that are always written.
fn fill(m: &'static Message, map: &mut Map<String, Value>) {
    for f in &m.fields {
        if f.label != Label::One || f.nullable {
            continue;
        }
        let always = match f.kind {
            Kind::Message(inner) if f.inline && inner.special.is_none() => {
                fill(inner.message(), map);
                false
            }
            Kind::Message(_) => !f.omitzero,
            _ => !f.omitempty,
        };
        if always
            && !map.contains_key(f.json)
            && let Some(v) = zero(f.kind)
        {
            map.insert(f.json.to_owned(), v);
        }
    }
}
