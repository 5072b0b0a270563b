//! Stored protobuf bytes as clients get them: the same bytes, with `metadata.resourceVersion` put in.
//!
//! etcd holds `k8s\0` and a `runtime.Unknown`; the revision is not part of it. A protobuf reader gets the
//! stored message with that one field replaced; nothing is decoded.

use bytes::{BufMut, Bytes, BytesMut};
use std::sync::Arc;
use storage::{Object, Wire};

const MAGIC: &[u8; 4] = b"k8s\0";
/// Field of `ObjectMeta` that holds the resource version.
const RESOURCE_VERSION: u64 = 6;

fn varint(buf: &[u8]) -> Option<(u64, usize)> {
    let mut value = 0u64;
    for (i, b) in buf.iter().enumerate().take(10) {
        value |= u64::from(b & 0x7f).checked_shl(7 * i as u32)?;
        if b & 0x80 == 0 {
            return Some((value, i + 1));
        }
    }
    None
}

fn put_varint(out: &mut BytesMut, mut v: u64) {
    while v >= 0x80 {
        out.put_u8((v as u8 & 0x7f) | 0x80);
        v >>= 7;
    }
    out.put_u8(v as u8);
}

fn varint_len(v: u64) -> usize {
    (64 - (v | 1).leading_zeros() as usize).div_ceil(7)
}

/// One field: number, offset of its tag, and the range of its payload (whole for varints).
struct Field {
    number: u64,
    at: usize,
    start: usize,
    end: usize,
}

fn field(buf: &[u8], at: usize) -> Option<Field> {
    let (tag, n) = varint(buf.get(at..)?)?;
    let body = at + n;
    let (start, end) = match tag & 7 {
        0 => (body, body + varint(buf.get(body..)?)?.1),
        1 => (body, body + 8),
        2 => {
            let (len, n) = varint(buf.get(body..)?)?;
            (body + n, (body + n).checked_add(usize::try_from(len).ok()?)?)
        }
        5 => (body, body + 4),
        _ => return None,
    };
    (end <= buf.len()).then_some(Field { number: tag >> 3, at, start, end })
}

/// The message inside the envelope.
pub fn message(stored: &Bytes) -> Option<Bytes> {
    let body = stored.strip_prefix(MAGIC)?;
    let mut at = 0;
    while at < body.len() {
        let f = field(body, at)?;
        if f.number == 2 {
            return Some(stored.slice(f.start + MAGIC.len()..f.end + MAGIC.len()));
        }
        at = f.end;
    }
    None
}

/// A stored message cut open where the resource version belongs, without copying it.
pub struct Spliced {
    /// What stands in front of the metadata, its new header included.
    meta_head: Bytes,
    before: Bytes,
    version: Bytes,
    after: Bytes,
    rest: Bytes,
}

impl Spliced {
    /// Opens the message of a stored object.
    pub fn open(stored: &Bytes, revision: i64) -> Option<Self> {
        let raw = message(stored)?;
        let meta = field(&raw, 0)?;
        if meta.number != 1 {
            return None;
        }
        let inner = raw.slice(meta.start..meta.end);
        let (cut, resume) = place(&inner)?;
        let digits = revision.to_string();
        let mut version = BytesMut::with_capacity(digits.len() + 2);
        version.put_u8((RESOURCE_VERSION as u8) << 3 | 2);
        put_varint(&mut version, digits.len() as u64);
        version.extend_from_slice(digits.as_bytes());
        let (before, after) = (inner.slice(..cut), inner.slice(resume..));
        let len = before.len() + version.len() + after.len();
        let mut meta_head = BytesMut::with_capacity(8);
        meta_head.put_u8(0x0a);
        put_varint(&mut meta_head, len as u64);
        Some(Spliced {
            meta_head: meta_head.freeze(),
            before,
            version: version.freeze(),
            after,
            rest: raw.slice(meta.end..),
        })
    }

    /// What of its length does not depend on the revision.
    pub fn lengths(raw: &Bytes) -> Option<Wire> {
        let meta = field(raw, 0).filter(|f| f.number == 1)?;
        let (cut, resume) = place(&raw[meta.start..meta.end])?;
        let (meta_len, rest) = (meta.end - meta.start - (resume - cut), raw.len() - meta.end);
        Some(Wire { meta: u32::try_from(meta_len).ok()?, rest: u32::try_from(rest).ok()? })
    }

    /// The length of a message of these lengths at a revision.
    pub fn len_at(wire: Wire, revision: i64) -> usize {
        let digits = revision.checked_ilog10().map_or(1, |n| n as usize + 1);
        let meta = wire.meta as usize + 2 + digits;
        1 + varint_len(meta as u64) + meta + wire.rest as usize
    }

    pub fn len(&self) -> usize {
        self.parts().iter().map(|p| p.len()).sum()
    }

    pub fn is_empty(&self) -> bool {
        false
    }

    fn parts(&self) -> [&Bytes; 5] {
        [&self.meta_head, &self.before, &self.version, &self.after, &self.rest]
    }

    pub fn write(&self, out: &mut BytesMut) {
        self.parts().iter().for_each(|p| out.extend_from_slice(p));
    }
}

/// Where the resource version goes in metadata, and where what follows it begins.
fn place(meta: &[u8]) -> Option<(usize, usize)> {
    let mut at = 0;
    while at < meta.len() {
        let f = field(meta, at)?;
        if f.number >= RESOURCE_VERSION {
            return Some((at, if f.number == RESOURCE_VERSION { f.end } else { f.at }));
        }
        at = f.end;
    }
    Some((at, at))
}

/// Wraps a message for the wire: magic, type and raw bytes.
pub fn wrap(api_version: &str, kind: &str, len: usize, write: impl FnOnce(&mut BytesMut)) -> Bytes {
    let mut out = BytesMut::with_capacity(len + kind.len() + api_version.len() + 32);
    head(&mut out, api_version, kind, len);
    write(&mut out);
    out.extend_from_slice(TAIL);
    out.freeze()
}

/// Content encoding and type, both empty, as upstream's encoder writes them.
const TAIL: &[u8] = &[0x1a, 0, 0x22, 0];

fn head(out: &mut BytesMut, api_version: &str, kind: &str, len: usize) {
    out.extend_from_slice(MAGIC);
    let mut type_meta = BytesMut::new();
    text(&mut type_meta, 1, api_version);
    text(&mut type_meta, 2, kind);
    out.put_u8(0x0a);
    put_varint(out, type_meta.len() as u64);
    out.extend_from_slice(&type_meta);
    out.put_u8(0x12);
    put_varint(out, len as u64);
}

fn text(out: &mut BytesMut, number: u8, s: &str) {
    out.put_u8(number << 3 | 2);
    put_varint(out, s.len() as u64);
    out.extend_from_slice(s.as_bytes());
}

/// A stored object as a protobuf answer.
pub fn object(stored: &Bytes, revision: i64, api_version: &str, kind: &str) -> Option<Bytes> {
    let spliced = Spliced::open(stored, revision)?;
    Some(wrap(api_version, kind, spliced.len(), |out| spliced.write(out)))
}

/// What a list's metadata says.
#[derive(Clone, Debug, Default)]
pub struct ListMeta {
    pub resource_version: String,
    pub continue_token: String,
    pub remaining: Option<i64>,
}

impl ListMeta {
    fn message(&self) -> BytesMut {
        let mut m = BytesMut::new();
        text(&mut m, 1, "");
        text(&mut m, 2, &self.resource_version);
        text(&mut m, 3, &self.continue_token);
        if let Some(n) = self.remaining {
            m.put_u8(0x20);
            put_varint(&mut m, n as u64);
        }
        m
    }
}

/// A list as pieces: head, items one by one, tail. `items` are whole messages of the item kind.
pub fn list(
    api_version: &str,
    kind: &str,
    meta: &ListMeta,
    items: Vec<Item>,
) -> impl Iterator<Item = Bytes> + Send + use<> {
    let meta = meta.message();
    let total =
        1 + varint_len(meta.len() as u64) + meta.len() + items.iter().map(Item::framed_len).sum::<usize>();
    let mut first = BytesMut::new();
    head(&mut first, api_version, kind, total);
    first.put_u8(0x0a);
    put_varint(&mut first, meta.len() as u64);
    first.extend_from_slice(&meta);
    std::iter::once(first.freeze())
        .chain(items.into_iter().map(|i| i.framed()))
        .chain(std::iter::once(Bytes::from_static(TAIL)))
}

/// One item of a protobuf list.
pub enum Item {
    /// An object of the stored version, unpacked when its turn comes, and its length until then.
    Stored(Arc<Object>, usize),
    Whole(Bytes),
}

impl Item {
    fn len(&self) -> usize {
        match self {
            Item::Stored(_, len) => *len,
            Item::Whole(b) => b.len(),
        }
    }
    fn framed_len(&self) -> usize {
        1 + varint_len(self.len() as u64) + self.len()
    }
    fn framed(self) -> Bytes {
        let mut out = BytesMut::with_capacity(self.framed_len());
        out.put_u8(0x12);
        put_varint(&mut out, self.len() as u64);
        match self {
            Item::Stored(object, _) => {
                if let Some(s) = Spliced::open(&object.bytes(), object.revision) {
                    s.write(&mut out);
                }
            }
            Item::Whole(b) => out.extend_from_slice(&b),
        }
        out.freeze()
    }
}

/// A frame of a protobuf watch: length, then a `WatchEvent` around the enveloped object.
pub fn watch_frame(kind: &str, object: &[u8]) -> Bytes {
    let raw = 1 + varint_len(object.len() as u64) + object.len();
    let total = 2 + kind.len() + 1 + varint_len(raw as u64) + raw;
    let mut out = BytesMut::with_capacity(total + 4);
    out.put_u32(total as u32);
    text(&mut out, 1, kind);
    out.put_u8(0x12);
    put_varint(&mut out, raw as u64);
    out.put_u8(0x0a);
    put_varint(&mut out, object.len() as u64);
    out.extend_from_slice(object);
    out.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(meta: &[u8]) -> Bytes {
        let mut raw = BytesMut::new();
        raw.put_u8(0x0a);
        put_varint(&mut raw, meta.len() as u64);
        raw.extend_from_slice(meta);
        raw.extend_from_slice(&[0x12, 1, 9]);
        wrap("v1", "Pod", raw.len(), |o| o.extend_from_slice(&raw))
    }

    #[test]
    fn the_revision_takes_its_place_among_the_fields() {
        // name=a, resourceVersion="" (as the encoder writes it), generation=3
        for with_empty in [true, false] {
            let mut meta = vec![0x0a, 1, b'a'];
            if with_empty {
                meta.extend([0x32, 0]);
            }
            meta.extend([0x38, 3]);
            let out = object(&stored(&meta), 42, "v1", "Pod").unwrap();
            let raw = message(&out).unwrap();
            let inner = message(&stored(&meta)).unwrap();
            for revision in [0, 1, 9, 10, 99, 100, 123_456_789_012] {
                let spliced = Spliced::open(&stored(&meta), revision).unwrap();
                assert_eq!(Spliced::len_at(Spliced::lengths(&inner).unwrap(), revision), spliced.len());
            }
            assert_eq!(&raw[..], [0x0a, 9, 0x0a, 1, b'a', 0x32, 2, b'4', b'2', 0x38, 3, 0x12, 1, 9]);
        }
    }

    #[test]
    fn torn_bytes_are_refused() {
        let whole = stored(&[0x0a, 1, b'a']);
        for cut in 0..whole.len() - 8 {
            assert!(object(&whole.slice(..cut), 1, "v1", "Pod").is_none(), "{cut}");
        }
    }

    #[test]
    fn a_list_adds_up() {
        let items = vec![Item::Whole(Bytes::from_static(&[1; 200])), Item::Whole(Bytes::new())];
        let all: Vec<u8> = list("v1", "PodList", &ListMeta::default(), items).flatten().collect();
        let raw = message(&Bytes::from(all.clone())).unwrap();
        assert_eq!(&raw[raw.len() - 2..], [0x12, 0]);
        assert!(all.ends_with(TAIL));
    }
}
