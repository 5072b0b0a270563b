//! Single fields of a message, found without the field table.

use super::{Result, wire};
use crate::time;
use smallvec::SmallVec;

/// Seconds and nanoseconds; `None` for the zero time.
pub(crate) fn timestamp(bytes: &[u8]) -> Result<Option<(i64, u32)>> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let secs = number(bytes, 1)? as i64;
    let nanos = (number(bytes, 2)? as i32).clamp(0, 999_999_999) as u32;
    Ok(if secs == time::ZERO_SECONDS && nanos == 0 { None } else { Some((secs, nanos)) })
}

/// A varint field of a small message, zero if absent.
pub(crate) fn number(bytes: &[u8], wanted: u32) -> Result<u64> {
    let mut pos = 0;
    let mut found = 0;
    while pos < bytes.len() {
        let (n, w) = wire::tag(bytes, &mut pos)?;
        if n == wanted && w == wire::VARINT {
            found = wire::varint(bytes, &mut pos)?;
        } else {
            wire::skip(bytes, &mut pos, w)?;
        }
    }
    Ok(found)
}

/// The payloads of a repeated length-delimited field. Ends after the first error.
pub(crate) fn repeated(bytes: &[u8], wanted: u32) -> impl Iterator<Item = Result<&[u8]>> {
    let mut pos = 0;
    std::iter::from_fn(move || {
        while pos < bytes.len() {
            let step = wire::tag(bytes, &mut pos).and_then(|(n, w)| {
                if n == wanted && w == wire::LEN {
                    wire::payload(bytes, &mut pos).map(Some)
                } else {
                    wire::skip(bytes, &mut pos, w).map(|()| None)
                }
            });
            match step {
                Ok(None) => {}
                Ok(Some(payload)) => return Some(Ok(payload)),
                Err(e) => {
                    pos = bytes.len();
                    return Some(Err(e));
                }
            }
        }
        None
    })
}

pub(crate) type Entries<'a> = SmallVec<[(&'a [u8], &'a [u8]); 16]>;

/// Keys and values of a map field, in wire order.
pub(crate) fn map_entries(bytes: &[u8], number: u32) -> Result<Entries<'_>> {
    let mut out = Entries::new();
    for entry in repeated(bytes, number) {
        let entry = entry?;
        let mut pos = 0;
        let (mut key, mut value): (&[u8], &[u8]) = (&[], &[]);
        while pos < entry.len() {
            match wire::tag(entry, &mut pos)? {
                (1, wire::LEN) => key = wire::payload(entry, &mut pos)?,
                (2, wire::LEN) => value = wire::payload(entry, &mut pos)?,
                (_, w) => wire::skip(entry, &mut pos, w)?,
            }
        }
        out.push((key, value));
    }
    Ok(out)
}
