//! Varints, tags and lengths, checked.

use super::{Error, Result};

pub const VARINT: u8 = 0;
pub const FIXED64: u8 = 1;
pub const LEN: u8 = 2;
pub const FIXED32: u8 = 5;

/// A varint at `*pos`, which is moved past it.
#[inline]
pub fn varint(bytes: &[u8], pos: &mut usize) -> Result<u64> {
    match bytes.get(*pos) {
        Some(&b) if b < 0x80 => {
            *pos += 1;
            Ok(u64::from(b))
        }
        _ => varint_slow(bytes, pos),
    }
}

fn varint_slow(bytes: &[u8], pos: &mut usize) -> Result<u64> {
    let mut value = 0u64;
    for shift in (0..70).step_by(7) {
        let b = *bytes.get(*pos).ok_or(Error::Truncated)?;
        *pos += 1;
        if shift < 64 {
            value |= u64::from(b & 0x7f) << shift;
        }
        if b < 0x80 {
            return Ok(value);
        }
    }
    Err(Error::BadTag)
}

/// A tag at `*pos`: field number and wire type.
#[inline]
pub fn tag(bytes: &[u8], pos: &mut usize) -> Result<(u32, u8)> {
    let t = varint(bytes, pos)?;
    let number = u32::try_from(t >> 3).map_err(|_| Error::BadTag)?;
    if number == 0 { Err(Error::BadTag) } else { Ok((number, (t & 7) as u8)) }
}

/// A length-delimited payload at `*pos`.
#[inline]
pub fn payload<'a>(bytes: &'a [u8], pos: &mut usize) -> Result<&'a [u8]> {
    let len = usize::try_from(varint(bytes, pos)?).map_err(|_| Error::Truncated)?;
    let end = pos.checked_add(len).ok_or(Error::Truncated)?;
    let out = bytes.get(*pos..end).ok_or(Error::Truncated)?;
    *pos = end;
    Ok(out)
}

/// Moves past a value of that wire type.
#[inline]
pub fn skip(bytes: &[u8], pos: &mut usize, wire: u8) -> Result<()> {
    match wire {
        VARINT => varint(bytes, pos).map(drop),
        LEN => payload(bytes, pos).map(drop),
        FIXED64 | FIXED32 => {
            let end = *pos + if wire == FIXED64 { 8 } else { 4 };
            if end > bytes.len() {
                return Err(Error::Truncated);
            }
            *pos = end;
            Ok(())
        }
        _ => Err(Error::BadTag),
    }
}

/// The last payload of a length-delimited field, without decoding anything else.
pub fn find(bytes: &[u8], number: u32) -> Result<Option<&[u8]>> {
    let mut pos = 0;
    let mut found = None;
    while pos < bytes.len() {
        let (n, wire) = tag(bytes, &mut pos)?;
        if n == number && wire == LEN {
            found = Some(payload(bytes, &mut pos)?);
        } else {
            skip(bytes, &mut pos, wire)?;
        }
    }
    Ok(found)
}

pub fn put_varint(out: &mut Vec<u8>, mut v: u64) {
    while v >= 0x80 {
        out.push(v as u8 | 0x80);
        v >>= 7;
    }
    out.push(v as u8);
}

pub fn put_tag(out: &mut Vec<u8>, number: u32, wire: u8) {
    put_varint(out, u64::from(number) << 3 | u64::from(wire));
}

pub fn put_bytes(out: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    put_tag(out, number, LEN);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

pub fn varint_len(v: u64) -> usize {
    (64 - (v | 1).leading_zeros() as usize).div_ceil(7)
}

/// Writes a length-delimited field whose length is known only after it is written. One byte is
/// kept for the length; longer bodies are moved, which is cheaper than sizing everything first.
pub fn put_nested<E>(
    out: &mut Vec<u8>,
    number: u32,
    body: impl FnOnce(&mut Vec<u8>) -> std::result::Result<(), E>,
) -> std::result::Result<(), E> {
    put_tag(out, number, LEN);
    let start = out.len();
    out.push(0);
    body(out)?;
    let len = out.len() - start - 1;
    let width = varint_len(len as u64);
    if width > 1 {
        out.resize(out.len() + width - 1, 0);
        out.copy_within(start + 1..start + 1 + len, start + width);
    }
    let mut v = len as u64;
    for slot in &mut out[start..start + width] {
        *slot = v as u8 | 0x80;
        v >>= 7;
    }
    out[start + width - 1] &= 0x7f;
    Ok(())
}
