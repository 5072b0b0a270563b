//! Looking into stored bytes without decoding them, and setting the resource version on the way out.

use super::{Error, Result, fields, wire};
use crate::schema::{self, Kind, Label, Message};
use smallvec::SmallVec;

/// Numbers in `metav1.ObjectMeta`; they can never change.
mod field {
    pub const NAME: u32 = 1;
    pub const GENERATE_NAME: u32 = 2;
    pub const NAMESPACE: u32 = 3;
    pub const UID: u32 = 5;
    pub const RESOURCE_VERSION: u32 = 6;
    pub const GENERATION: u32 = 7;
    pub const CREATION: u32 = 8;
    pub const DELETION: u32 = 9;
    pub const LABELS: u32 = 11;
    pub const ANNOTATIONS: u32 = 12;
    pub const FINALIZERS: u32 = 14;
}

/// The metadata that the server needs to find, filter and order objects, borrowed from the bytes.
#[derive(Debug, Default, PartialEq)]
pub struct Meta<'a> {
    pub name: &'a str,
    pub generate_name: &'a str,
    pub namespace: &'a str,
    pub uid: &'a str,
    pub resource_version: &'a str,
    pub generation: i64,
    /// Seconds since 1970.
    pub creation: Option<i64>,
    pub deletion: Option<i64>,
    pub labels: SmallVec<[(&'a str, &'a str); 8]>,
    pub annotations: SmallVec<[(&'a str, &'a str); 4]>,
    pub finalizers: SmallVec<[&'a str; 2]>,
}

impl Meta<'_> {
    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels.iter().find(|l| l.0 == key).map(|l| l.1)
    }
}

fn text(bytes: &[u8]) -> Result<&str> {
    std::str::from_utf8(bytes).map_err(|_| Error::Value("metadata", "not UTF-8".into()))
}

fn pair(entry: &[u8]) -> Result<(&str, &str)> {
    Ok((text(wire::find(entry, 1)?.unwrap_or_default())?, text(wire::find(entry, 2)?.unwrap_or_default())?))
}

/// Metadata of a raw object (no envelope).
pub fn meta(raw: &[u8]) -> Result<Meta<'_>> {
    let bytes = wire::find(raw, 1)?.unwrap_or_default();
    let mut out = Meta::default();
    let mut pos = 0;
    while pos < bytes.len() {
        let (number, w) = wire::tag(bytes, &mut pos)?;
        if w != wire::LEN {
            if (number, w) == (field::GENERATION, wire::VARINT) {
                out.generation = wire::varint(bytes, &mut pos)? as i64;
            } else {
                wire::skip(bytes, &mut pos, w)?;
            }
            continue;
        }
        let value = wire::payload(bytes, &mut pos)?;
        match number {
            field::NAME => out.name = text(value)?,
            field::GENERATE_NAME => out.generate_name = text(value)?,
            field::NAMESPACE => out.namespace = text(value)?,
            field::UID => out.uid = text(value)?,
            field::RESOURCE_VERSION => out.resource_version = text(value)?,
            field::CREATION => out.creation = fields::timestamp(value)?.map(|t| t.0),
            field::DELETION => out.deletion = fields::timestamp(value)?.map(|t| t.0),
            field::LABELS => out.labels.push(pair(value)?),
            field::ANNOTATIONS => out.annotations.push(pair(value)?),
            field::FINALIZERS => out.finalizers.push(text(value)?),
            _ => {}
        }
    }
    Ok(out)
}

/// The value at a path of JSON names (`spec.nodeName`, `status.phase`, `spec.unschedulable`), as field
/// selectors compare it; empty when absent. `None` when the path names no scalar of this message.
pub fn field_text(m: &'static Message, raw: &[u8], path: &str) -> Result<Option<String>> {
    let mut message = m;
    let mut bytes = raw;
    let mut parts = path.split('.').peekable();
    while let Some(part) = parts.next() {
        // Inlined messages have no key of their own; none of them holds a selectable field.
        let Some(f) = message.fields.iter().find(|f| f.json == part) else { return Ok(None) };
        if f.label != Label::One {
            return Ok(None);
        }
        match f.kind {
            Kind::Message(inner) if parts.peek().is_some() => {
                bytes = wire::find(bytes, f.number)?.unwrap_or_default();
                message = inner.message();
            }
            Kind::String if parts.peek().is_none() => {
                let value = wire::find(bytes, f.number)?.unwrap_or_default();
                return Ok(Some(String::from_utf8_lossy(value).into_owned()));
            }
            Kind::Bool if parts.peek().is_none() => {
                return Ok(Some((fields::number(bytes, f.number)? != 0).to_string()));
            }
            Kind::Int32 | Kind::Int64 if parts.peek().is_none() => {
                return Ok(Some((fields::number(bytes, f.number)? as i64).to_string()));
            }
            _ => return Ok(None),
        }
    }
    Ok(None)
}

/// A raw object (no envelope) with `metadata.resourceVersion` set to that; works on lists too, whose
/// metadata has it elsewhere, if `m` says so.
pub fn set_resource_version(raw: &[u8], version: &str) -> Result<Vec<u8>> {
    let mut out = Vec::with_capacity(raw.len() + version.len() + 4);
    set_resource_version_into(raw, version, &mut out)?;
    Ok(out)
}

/// As [`set_resource_version`], appended.
pub fn set_resource_version_into(raw: &[u8], version: &str, out: &mut Vec<u8>) -> Result<()> {
    let mut pos = 0;
    while pos < raw.len() {
        let at = pos;
        let (number, w) = wire::tag(raw, &mut pos)?;
        if (number, w) == (1, wire::LEN) {
            let meta = wire::payload(raw, &mut pos)?;
            wire::put_nested(out, 1, |out| splice(meta, version, out))?;
            out.extend_from_slice(&raw[pos..]);
            return Ok(());
        }
        wire::skip(raw, &mut pos, w)?;
        out.extend_from_slice(&raw[at..pos]);
    }
    // No metadata at all: write one, as upstream would.
    let empty = super::encode(schema::object_meta(), &crate::json!({}))?;
    wire::put_nested(out, 1, |out| splice(&empty, version, out))
}

/// `metadata` with the version in its place, which is before the first higher field.
fn splice(meta: &[u8], version: &str, out: &mut Vec<u8>) -> Result<()> {
    let mut pos = 0;
    while pos < meta.len() {
        let at = pos;
        let (number, w) = wire::tag(meta, &mut pos)?;
        if number > field::RESOURCE_VERSION {
            wire::put_bytes(out, field::RESOURCE_VERSION, version.as_bytes());
            out.extend_from_slice(&meta[at..]);
            return Ok(());
        }
        wire::skip(meta, &mut pos, w)?;
        if number == field::RESOURCE_VERSION {
            wire::put_bytes(out, field::RESOURCE_VERSION, version.as_bytes());
            out.extend_from_slice(&meta[pos..]);
            return Ok(());
        }
        out.extend_from_slice(&meta[at..pos]);
    }
    wire::put_bytes(out, field::RESOURCE_VERSION, version.as_bytes());
    Ok(())
}
