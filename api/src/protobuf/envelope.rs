//! What stands around protobuf objects: the storage envelope, lists, frames of a watch.

use super::{Error, Result, peek, wire};
use crate::GroupVersionKind;

/// The first bytes of every enveloped object.
pub const MAGIC: [u8; 4] = *b"k8s\0";

/// The content of an envelope.
#[derive(Debug, PartialEq)]
pub struct Unwrapped<'a> {
    pub api_version: &'a str,
    pub kind: &'a str,
    pub raw: &'a [u8],
    pub content_type: &'a str,
}

impl Unwrapped<'_> {
    pub fn gvk(&self) -> GroupVersionKind {
        let (group, version) = self.api_version.split_once('/').unwrap_or(("", self.api_version));
        GroupVersionKind::new(group, version, self.kind)
    }
}

fn put_head(out: &mut Vec<u8>, api_version: &str, kind: &str) {
    out.extend_from_slice(&MAGIC);
    let len = |s: &str| 1 + wire::varint_len(s.len() as u64) + s.len();
    wire::put_tag(out, 1, wire::LEN);
    wire::put_varint(out, (len(api_version) + len(kind)) as u64);
    wire::put_bytes(out, 1, api_version.as_bytes());
    wire::put_bytes(out, 2, kind.as_bytes());
}

/// `raw` as it stands in etcd and in protobuf bodies.
pub fn envelope(gvk: &GroupVersionKind, raw: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(raw.len() + 64);
    put_head(&mut out, &gvk.api_version(), &gvk.kind);
    wire::put_bytes(&mut out, 2, raw);
    put_tail(&mut out);
    out
}

fn put_tail(out: &mut Vec<u8>) {
    wire::put_bytes(out, 3, b"");
    wire::put_bytes(out, 4, b"");
}

/// Opens an envelope without copying.
pub fn unenvelope(bytes: &[u8]) -> Result<Unwrapped<'_>> {
    let body = bytes.strip_prefix(&MAGIC).ok_or(Error::NoMagic)?;
    let mut out = Unwrapped { api_version: "", kind: "", raw: b"", content_type: "" };
    let text = |b| std::str::from_utf8(b).map_err(|_| Error::BadTag);
    let mut pos = 0;
    while pos < body.len() {
        match wire::tag(body, &mut pos)? {
            (1, wire::LEN) => {
                let head = wire::payload(body, &mut pos)?;
                out.api_version = text(wire::find(head, 1)?.unwrap_or_default())?;
                out.kind = text(wire::find(head, 2)?.unwrap_or_default())?;
            }
            (2, wire::LEN) => out.raw = wire::payload(body, &mut pos)?,
            (4, wire::LEN) => out.content_type = text(wire::payload(body, &mut pos)?)?,
            (_, w) => wire::skip(body, &mut pos, w)?,
        }
    }
    Ok(out)
}

/// `metadata` of a list.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ListMeta<'a> {
    pub resource_version: &'a str,
    pub continue_: &'a str,
    pub remaining_item_count: Option<i64>,
}

impl ListMeta<'_> {
    /// The `metav1.ListMeta` message.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        wire::put_bytes(&mut out, 1, b"");
        wire::put_bytes(&mut out, 2, self.resource_version.as_bytes());
        wire::put_bytes(&mut out, 3, self.continue_.as_bytes());
        if let Some(n) = self.remaining_item_count {
            wire::put_tag(&mut out, 4, wire::VARINT);
            wire::put_varint(&mut out, n as u64);
        }
        out
    }

    /// The JSON object, e.g. `{"resourceVersion":"5"}`.
    pub fn to_json(&self, out: &mut Vec<u8>) {
        out.push(b'{');
        let mut sep = "";
        for (key, text) in [("resourceVersion", self.resource_version), ("continue", self.continue_)] {
            if !text.is_empty() {
                out.extend_from_slice(format!("{sep}\"{key}\":").as_bytes());
                crate::json::write_str(text, out);
                sep = ",";
            }
        }
        if let Some(n) = self.remaining_item_count {
            out.extend_from_slice(format!("{sep}\"remainingItemCount\":{n}").as_bytes());
        }
        out.push(b'}');
    }
}

/// A list from the raw bytes of its items, which are not decoded. Each item comes with its
/// resource version, or with `None` if its bytes hold it already. No envelope.
pub fn encode_list<'a>(
    meta: &ListMeta<'_>,
    items: impl IntoIterator<Item = (&'a [u8], Option<&'a str>)>,
) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    wire::put_bytes(&mut out, 1, &meta.encode());
    for (raw, version) in items {
        encode_list_item(raw, version, &mut out)?;
    }
    Ok(out)
}

/// Appends one item of a list, for lists that are streamed.
pub fn encode_list_item(raw: &[u8], resource_version: Option<&str>, out: &mut Vec<u8>) -> Result<()> {
    match resource_version {
        None => {
            wire::put_bytes(out, 2, raw);
            Ok(())
        }
        Some(version) => wire::put_nested(out, 2, |out| peek::set_resource_version_into(raw, version, out)),
    }
}

/// Start of an enveloped list of known length: everything before the list's own bytes, so that a
/// list can be streamed: `body_len` bytes of list follow.
pub fn envelope_head(gvk: &GroupVersionKind, body_len: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    put_head(&mut out, &gvk.api_version(), &gvk.kind);
    wire::put_tag(&mut out, 2, wire::LEN);
    wire::put_varint(&mut out, body_len as u64);
    out
}

/// What follows the body of an envelope: empty content encoding and content type.
pub const ENVELOPE_TAIL: [u8; 4] = [0x1a, 0, 0x22, 0];

/// One frame of a protobuf watch: length, then a `WatchEvent` around an already enveloped object.
pub fn watch_event(kind: &str, enveloped: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(enveloped.len() + 32);
    out.extend_from_slice(&[0; 4]);
    wire::put_bytes(&mut out, 1, kind.as_bytes());
    let inner = 1 + wire::varint_len(enveloped.len() as u64) + enveloped.len();
    wire::put_tag(&mut out, 2, wire::LEN);
    wire::put_varint(&mut out, inner as u64);
    wire::put_bytes(&mut out, 1, enveloped);
    let len = (out.len() - 4) as u32;
    out[..4].copy_from_slice(&len.to_be_bytes());
    out
}

/// The raw `PartialObjectMetadata` of an object's bytes: only its metadata, with that resource version.
pub fn partial_metadata(raw: &[u8], resource_version: &str) -> Result<Vec<u8>> {
    let meta = wire::find(raw, 1)?.unwrap_or_default();
    let mut sliced = Vec::with_capacity(meta.len() + 8);
    wire::put_bytes(&mut sliced, 1, meta);
    peek::set_resource_version(&sliced, resource_version)
}
