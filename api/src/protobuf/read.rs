//! The walk over protobuf bytes that both ways out share.
//!
//! Protobuf is in number order, JSON in declaration order: a message is scanned once for where each
//! field stands, then its fields are emitted in the order of the table. The positions live on one
//! scratch stack, so nothing is allocated per field or per message.

use super::fields::{map_entries, number, repeated, timestamp};
use super::{Error, MAX_DEPTH, Result, wire};
use crate::GroupVersionKind;
use crate::schema::{self, Field, Kind, Label, Message, Special};
use crate::time;

/// Receives the JSON form, in order.
pub trait Sink {
    fn begin_object(&mut self);
    fn end_object(&mut self);
    fn begin_array(&mut self);
    fn end_array(&mut self);
    /// A key of the table; `quoted` is `"name":`.
    fn key(&mut self, name: &'static str, quoted: &'static str);
    /// A key of a map, not necessarily UTF-8.
    fn map_key(&mut self, key: &[u8]);
    /// Before each element of an array.
    fn element(&mut self);
    fn null(&mut self);
    fn bool(&mut self, v: bool);
    fn int(&mut self, v: i64);
    fn double(&mut self, v: f64);
    fn string(&mut self, v: &[u8]);
    /// Text that needs no escaping.
    fn plain(&mut self, v: &str);
    fn base64(&mut self, v: &[u8]);
    /// A JSON document inside the message.
    fn raw(&mut self, v: &[u8]) -> std::result::Result<(), String>;
}

#[derive(Clone, Copy)]
struct Span {
    start: u32,
    end: u32,
}

const ABSENT: Span = Span { start: u32::MAX, end: 0 };

impl Span {
    fn of(self, bytes: &[u8]) -> Option<&[u8]> {
        if self.start == u32::MAX { None } else { bytes.get(self.start as usize..self.end as usize) }
    }
}

pub struct Walker<'a, S> {
    pub sink: S,
    spans: Vec<Span>,
    depth: usize,
    resource_version: Option<&'a str>,
}

impl<'a, S: Sink> Walker<'a, S> {
    pub fn new(sink: S, resource_version: Option<&'a str>) -> Self {
        Walker { sink, spans: Vec::with_capacity(128), depth: 0, resource_version }
    }

    /// A whole object.
    pub fn top(&mut self, m: &'static Message, gvk: Option<&GroupVersionKind>, bytes: &[u8]) -> Result<()> {
        if m.special.is_some() {
            return self.special(m, bytes);
        }
        if u32::try_from(bytes.len()).is_err() {
            return Err(Error::Truncated);
        }
        self.sink.begin_object();
        if let Some(gvk) = gvk {
            self.sink.key("kind", "\"kind\":");
            self.sink.string(gvk.kind.as_bytes());
            self.sink.key("apiVersion", "\"apiVersion\":");
            self.sink.string(gvk.api_version().as_bytes());
        }
        self.body(m, bytes)?;
        self.sink.end_object();
        Ok(())
    }

    /// A message's value.
    fn message(&mut self, m: &'static Message, bytes: &[u8]) -> Result<()> {
        if m.special.is_some() {
            return self.special(m, bytes);
        }
        self.sink.begin_object();
        self.body(m, bytes)?;
        self.sink.end_object();
        Ok(())
    }

    /// A core kind inside another object.
    fn embedded(&mut self, m: &'static Message, bytes: &[u8]) -> Result<()> {
        self.sink.begin_object();
        self.sink.key("kind", "\"kind\":");
        self.sink.plain(m.short);
        self.sink.key("apiVersion", "\"apiVersion\":");
        self.sink.plain("v1");
        self.body(m, bytes)?;
        self.sink.end_object();
        Ok(())
    }

    /// A message's keys, without the braces: inlined messages have none.
    fn body(&mut self, m: &'static Message, bytes: &[u8]) -> Result<()> {
        if self.depth >= MAX_DEPTH {
            return Err(Error::Depth);
        }
        let base = self.spans.len();
        self.spans.resize(base + m.fields.len(), ABSENT);
        self.scan(m, bytes, base)?;
        let versioned =
            self.depth == 1 && self.resource_version.is_some() && std::ptr::eq(m, schema::object_meta());
        self.depth += 1;
        for (i, field) in m.fields.iter().enumerate() {
            if versioned && field.number == 6 {
                self.sink.key(field.json, field.json_key);
                self.sink.plain(self.resource_version.unwrap_or_default());
                continue;
            }
            let span = self.spans[base + i];
            match span.of(bytes) {
                None => self.absent(field)?,
                Some(value) => match field.label {
                    Label::One => self.one(field, value)?,
                    Label::List => self.list(field, value)?,
                    Label::Map => self.map(field, value)?,
                },
            }
        }
        self.depth -= 1;
        self.spans.truncate(base);
        Ok(())
    }

    /// Where each field stands: the last value of a single one, first tag to last end of a repeated one.
    fn scan(&mut self, m: &'static Message, bytes: &[u8], base: usize) -> Result<()> {
        let mut pos = 0;
        while pos < bytes.len() {
            let at = pos;
            let (number, wire) = wire::tag(bytes, &mut pos)?;
            let Some(i) = m.index_of(number) else {
                wire::skip(bytes, &mut pos, wire)?;
                continue;
            };
            let field = &m.fields[i];
            let wanted = wire_type(field);
            let packed = wire == wire::LEN && wanted != wire::LEN && field.label == Label::List;
            if wire != wanted && !packed {
                return Err(Error::WireType { wire, field: field.proto });
            }
            let span = &mut self.spans[base + i];
            if field.label != Label::One {
                wire::skip(bytes, &mut pos, wire)?;
                let start = if span.start == u32::MAX { at as u32 } else { span.start };
                *span = Span { start, end: pos as u32 };
            } else if wire == wire::LEN {
                let len = wire::payload(bytes, &mut pos)?.len();
                *span = Span { start: (pos - len) as u32, end: pos as u32 };
            } else {
                let start = pos;
                wire::skip(bytes, &mut pos, wire)?;
                *span = Span { start: start as u32, end: pos as u32 };
            }
        }
        Ok(())
    }

    /// A field that is not on the wire.
    fn absent(&mut self, f: &'static Field) -> Result<()> {
        if f.label == Label::One && !f.nullable {
            return match f.kind {
                Kind::Bytes if f.omitempty => Ok(()),
                Kind::Bytes => {
                    self.key(f);
                    self.sink.null();
                    Ok(())
                }
                _ => self.one(f, &[]),
            };
        }
        if !f.omitempty {
            self.key(f);
            self.sink.null();
        }
        Ok(())
    }

    fn key(&mut self, f: &'static Field) {
        self.sink.key(f.json, f.json_key);
    }

    /// A single field. An empty `value` of a number is zero.
    fn one(&mut self, f: &'static Field, value: &[u8]) -> Result<()> {
        // Pointers are written when they are there, values only when they say something.
        let drop_empty = f.omitempty && !f.nullable;
        match f.kind {
            Kind::Message(m) => {
                let m = m.message();
                if f.inline && m.special.is_none() {
                    return self.body(m, value);
                }
                if f.omitzero && !f.nullable && is_zero_time(m, value)? {
                    return Ok(());
                }
                if drop_empty && m.special == Some(Special::Strings) && value.is_empty() {
                    return Ok(());
                }
                self.key(f);
                self.message(m, value)
            }
            Kind::String => {
                if !(drop_empty && value.is_empty()) {
                    self.key(f);
                    self.sink.string(value);
                }
                Ok(())
            }
            Kind::Bytes => {
                if !(drop_empty && value.is_empty()) {
                    self.key(f);
                    self.sink.base64(value);
                }
                Ok(())
            }
            Kind::Bool | Kind::Int32 | Kind::Int64 => {
                let n = if value.is_empty() { 0 } else { wire::varint(value, &mut 0)? };
                if !(drop_empty && n == 0) {
                    self.key(f);
                    self.scalar(f.kind, n);
                }
                Ok(())
            }
            Kind::Double => {
                let v = double(value);
                if !(drop_empty && v == 0.0) {
                    self.key(f);
                    self.sink.double(v);
                }
                Ok(())
            }
        }
    }

    fn scalar(&mut self, kind: Kind, n: u64) {
        match kind {
            Kind::Bool => self.sink.bool(n != 0),
            Kind::Int32 => self.sink.int(i64::from(n as i32)),
            _ => self.sink.int(n as i64),
        }
    }

    /// A repeated field; `bytes` reaches from its first tag to the end of its last element.
    fn list(&mut self, f: &'static Field, bytes: &[u8]) -> Result<()> {
        self.key(f);
        self.sink.begin_array();
        let mut pos = 0;
        while pos < bytes.len() {
            let (number, wire) = wire::tag(bytes, &mut pos)?;
            if number != f.number {
                wire::skip(bytes, &mut pos, wire)?;
                continue;
            }
            match f.kind {
                Kind::Message(m) => {
                    self.sink.element();
                    let value = wire::payload(bytes, &mut pos)?;
                    if f.embeds_type_meta() {
                        self.embedded(m.message(), value)?;
                    } else {
                        self.message(m.message(), value)?;
                    }
                }
                Kind::String => {
                    self.sink.element();
                    self.sink.string(wire::payload(bytes, &mut pos)?);
                }
                Kind::Bytes => {
                    self.sink.element();
                    self.sink.base64(wire::payload(bytes, &mut pos)?);
                }
                _ if wire == wire::LEN => {
                    let packed = wire::payload(bytes, &mut pos)?;
                    let mut at = 0;
                    while at < packed.len() {
                        self.list_scalar(f.kind, packed, &mut at)?;
                    }
                }
                _ => self.list_scalar(f.kind, bytes, &mut pos)?,
            }
        }
        self.sink.end_array();
        Ok(())
    }

    fn list_scalar(&mut self, kind: Kind, bytes: &[u8], pos: &mut usize) -> Result<()> {
        self.sink.element();
        if matches!(kind, Kind::Double) {
            let start = *pos;
            wire::skip(bytes, pos, wire::FIXED64)?;
            self.sink.double(double(&bytes[start..*pos]));
        } else {
            let n = wire::varint(bytes, pos)?;
            self.scalar(kind, n);
        }
        Ok(())
    }

    /// A map: entries sorted by key, the last of equal keys wins, as from a Go map.
    fn map(&mut self, f: &'static Field, bytes: &[u8]) -> Result<()> {
        let mut entries = map_entries(bytes, f.number)?;
        if !entries.is_sorted_by(|a, b| a.0 < b.0) {
            entries.reverse();
            entries.sort_by_key(|e| e.0);
            entries.dedup_by_key(|e| e.0);
        }
        self.key(f);
        self.sink.begin_object();
        for (key, value) in entries {
            self.sink.map_key(key);
            match f.kind {
                Kind::Message(m) => self.message(m.message(), value)?,
                Kind::Bytes => self.sink.base64(value),
                _ => self.sink.string(value),
            }
        }
        self.sink.end_object();
        Ok(())
    }

    fn special(&mut self, m: &'static Message, bytes: &[u8]) -> Result<()> {
        match m.special {
            Some(Special::Quantity) => match wire::find(bytes, 1)? {
                Some(text) if !text.is_empty() => self.sink.string(text),
                _ => self.sink.plain("0"),
            },
            Some(Special::Time) => match timestamp(bytes)? {
                None => self.sink.null(),
                Some((secs, _)) => self.sink.plain(time::Text::seconds(secs).as_str()),
            },
            Some(Special::MicroTime) => match timestamp(bytes)? {
                None => self.sink.null(),
                Some((secs, nanos)) => self.sink.plain(time::Text::micros(secs, nanos / 1000).as_str()),
            },
            Some(Special::Duration) => {
                let nanos = number(bytes, 1)? as i64;
                self.sink.plain(&time::format_duration(nanos));
            }
            Some(Special::IntOrString) => match number(bytes, 1)? {
                0 => self.sink.int(i64::from(number(bytes, 2)? as i32)),
                _ => self.sink.string(wire::find(bytes, 3)?.unwrap_or_default()),
            },
            Some(Special::Raw) => match wire::find(bytes, 1)? {
                Some(text) if !text.is_empty() => {
                    self.sink.raw(text).map_err(|e| Error::Json(m.short, e))?;
                }
                _ => self.sink.null(),
            },
            Some(Special::Unknown) => match wire::find(bytes, 2)? {
                Some(text) if !text.is_empty() => {
                    self.sink.raw(text).map_err(|e| Error::Json(m.short, e))?;
                }
                _ => self.sink.null(),
            },
            Some(Special::Strings) => self.strings(bytes, 1)?,
            Some(Special::GroupVersion) => {
                let group = wire::find(bytes, 1)?.unwrap_or_default();
                let version = wire::find(bytes, 2)?.unwrap_or_default();
                if group.is_empty() {
                    self.sink.string(version);
                } else {
                    self.sink.string(&[group, b"/", version].concat());
                }
            }
            Some(Special::SchemaOrBool) => match wire::find(bytes, 2)? {
                Some(schema) => self.nested(m, schema)?,
                None => self.sink.bool(number(bytes, 1)? != 0),
            },
            Some(Special::SchemaOrArray) => {
                let mut many = repeated(bytes, 2).peekable();
                if many.peek().is_some() {
                    self.sink.begin_array();
                    for schema in many {
                        self.sink.element();
                        self.nested(m, schema?)?;
                    }
                    self.sink.end_array();
                } else {
                    self.schema_or_null(m, bytes)?;
                }
            }
            Some(Special::SchemaOrStrings) => {
                if repeated(bytes, 2).next().is_some() {
                    self.strings(bytes, 2)?;
                } else {
                    self.schema_or_null(m, bytes)?;
                }
            }
            Some(Special::Timestamp) | None => self.sink.null(),
        }
        Ok(())
    }

    fn schema_or_null(&mut self, m: &'static Message, bytes: &[u8]) -> Result<()> {
        match wire::find(bytes, 1)? {
            Some(schema) => self.nested(m, schema),
            None => {
                self.sink.null();
                Ok(())
            }
        }
    }

    /// The schema inside one of the `JSONSchemaPropsOr…` types.
    fn nested(&mut self, m: &'static Message, bytes: &[u8]) -> Result<()> {
        match m.fields.iter().find_map(Field::message) {
            Some(props) => self.message(props, bytes),
            None => Err(Error::BadTag),
        }
    }

    fn strings(&mut self, bytes: &[u8], field: u32) -> Result<()> {
        let mut items = repeated(bytes, field).peekable();
        if items.peek().is_none() {
            self.sink.null();
            return Ok(());
        }
        self.sink.begin_array();
        for item in items {
            self.sink.element();
            self.sink.string(item?);
        }
        self.sink.end_array();
        Ok(())
    }
}

pub(crate) fn wire_type(f: &Field) -> u8 {
    match (f.label, f.kind) {
        (Label::Map, _) | (_, Kind::String | Kind::Bytes | Kind::Message(_)) => wire::LEN,
        (_, Kind::Double) => wire::FIXED64,
        _ => wire::VARINT,
    }
}

fn double(value: &[u8]) -> f64 {
    <[u8; 8]>::try_from(value).map_or(0.0, f64::from_le_bytes)
}

fn is_zero_time(m: &Message, value: &[u8]) -> Result<bool> {
    match m.special {
        Some(Special::Time | Special::MicroTime) => Ok(timestamp(value)?.is_none()),
        _ => Ok(value.is_empty()),
    }
}
