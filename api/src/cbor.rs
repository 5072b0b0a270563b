//! CBOR as the API speaks it (RFC 8949): trees to bytes and back.
//!
//! Strings travel as byte strings, because their text need not have been checked; readers take either kind. A byte
//! string that carries an "expected later encoding" tag stands for its base64 form, so `[]byte` fields read the same
//! whether they came with the tag or as base64 text. Lengths are never trusted: nothing is reserved that the input
//! does not hold.
//!
//! A serde codec cannot stand here: serde's model has no text written as bytes and no tag on a byte string, keeps quiet
//! about keys that come twice (which strict validation has to name with their path), and words its errors its own way.

use crate::decode::{Error, Parsed};
use crate::{Map, Value};
use base64::Engine;

/// Every document begins with the tag that says "this is CBOR".
pub const MAGIC: [u8; 3] = [0xd9, 0xd9, 0xf7];
/// Deeper nesting is refused.
const MAX_DEPTH: usize = 128;
/// More duplicate keys than this are not listed.
const MAX_PROBLEMS: usize = 100;

/// A whole document.
pub fn encode(value: &Value) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    out.extend_from_slice(&MAGIC);
    write(value, &mut out);
    out
}

/// One event of a watch: a document around a document that is encoded already.
pub fn watch_event(kind: &str, object: &[u8], out: &mut impl Extend<u8>) {
    let mut head = Vec::with_capacity(32);
    head.extend_from_slice(&MAGIC);
    length(5, 2, &mut head);
    text("type", &mut head);
    text(kind, &mut head);
    text("object", &mut head);
    out.extend(head);
    out.extend(object.iter().copied());
}

fn length(major: u8, n: u64, out: &mut Vec<u8>) {
    let head = major << 5;
    match n {
        0..=23 => out.push(head | n as u8),
        24..=0xff => out.extend_from_slice(&[head | 24, n as u8]),
        0x100..=0xffff => {
            out.push(head | 25);
            out.extend_from_slice(&(n as u16).to_be_bytes());
        }
        0x1_0000..=0xffff_ffff => {
            out.push(head | 26);
            out.extend_from_slice(&(n as u32).to_be_bytes());
        }
        _ => {
            out.push(head | 27);
            out.extend_from_slice(&n.to_be_bytes());
        }
    }
}

fn text(s: &str, out: &mut Vec<u8>) {
    length(2, s.len() as u64, out);
    out.extend_from_slice(s.as_bytes());
}

fn write(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Null => out.push(0xf6),
        Value::Bool(b) => out.push(if *b { 0xf5 } else { 0xf4 }),
        Value::String(s) => text(s, out),
        Value::Number(n) => match (n.as_u64(), n.as_i64()) {
            (Some(n), _) => length(0, n, out),
            (None, Some(n)) => length(1, n.unsigned_abs() - 1, out),
            (None, None) => {
                out.push(0xfb);
                out.extend_from_slice(&n.as_f64().unwrap_or_default().to_be_bytes());
            }
        },
        Value::Array(items) => {
            length(4, items.len() as u64, out);
            items.iter().for_each(|v| write(v, out));
        }
        Value::Object(map) => {
            length(5, map.len() as u64, out);
            for (k, v) in map {
                text(k, out);
                write(v, out);
            }
        }
    }
}

/// Reads one document; what follows it is an error.
pub fn parse(body: &[u8]) -> Result<Parsed, Error> {
    let mut reader = Reader { body, at: 0, duplicates: Vec::new(), path: Vec::new() };
    let value = reader.item(0).map_err(Error::Syntax)?;
    if reader.at < body.len() {
        let extra = body.len() - reader.at;
        return Err(Error::Syntax(format!(
            "cbor: {extra} bytes of extraneous data starting at index {}",
            reader.at
        )));
    }
    Ok(Parsed { value, duplicates: reader.duplicates })
}

struct Reader<'a> {
    body: &'a [u8],
    at: usize,
    duplicates: Vec<String>,
    path: Vec<String>,
}

/// Major type and argument; no argument is an indefinite length.
type Head = (u8, u8, Option<u64>);

fn base64(bytes: &[u8]) -> String {
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

impl Reader<'_> {
    fn take(&mut self, n: u64) -> Result<&[u8], String> {
        let end = usize::try_from(n).ok().and_then(|n| self.at.checked_add(n));
        let end = end.filter(|e| *e <= self.body.len()).ok_or("unexpected EOF")?;
        let out = &self.body[self.at..end];
        self.at = end;
        Ok(out)
    }

    fn head(&mut self) -> Result<Head, String> {
        let first = self.take(1)?[0];
        let (major, info) = (first >> 5, first & 31);
        let argument = match info {
            0..=23 => Some(u64::from(info)),
            24..=27 => {
                let bytes = self.take(1 << (info - 24))?;
                Some(bytes.iter().fold(0, |n, b| n << 8 | u64::from(*b)))
            }
            31 if (2..=5).contains(&major) => None,
            31 if major == 7 => return Err("cbor: unexpected \"break\" code".into()),
            _ => return Err(format!("cbor: invalid additional information {info} for type {major}")),
        };
        Ok((major, info, argument))
    }

    fn at_break(&mut self) -> Result<bool, String> {
        if self.body.get(self.at) == Some(&0xff) {
            self.at += 1;
            return Ok(true);
        }
        if self.at >= self.body.len() { Err("unexpected EOF".into()) } else { Ok(false) }
    }

    fn item(&mut self, depth: usize) -> Result<Value, String> {
        if depth > MAX_DEPTH {
            return Err(format!("cbor: exceeded max nested level {MAX_DEPTH}"));
        }
        let (major, info, argument) = self.head()?;
        match major {
            0 => argument
                .and_then(|n| i64::try_from(n).ok())
                .map(Value::from)
                .ok_or_else(|| "cbor: integer is too large".into()),
            1 => argument
                .and_then(|n| i64::try_from(n).ok())
                .map(|n| Value::from(-1 - n))
                .ok_or_else(|| "cbor: integer is too small".into()),
            2 | 3 => String::from_utf8(self.bytes(major, argument)?)
                .map(Value::from)
                .map_err(|_| "cbor: invalid UTF-8 string".into()),
            4 => self.array(argument, depth),
            5 => self.map(argument, depth),
            6 => self.tagged(argument.unwrap_or_default(), depth),
            _ => simple(info, argument.unwrap_or_default()),
        }
    }

    /// The content of a string, its pieces joined where it comes in pieces.
    fn bytes(&mut self, major: u8, argument: Option<u64>) -> Result<Vec<u8>, String> {
        if let Some(n) = argument {
            return self.take(n).map(<[u8]>::to_vec);
        }
        let mut out = Vec::new();
        while !self.at_break()? {
            match self.head()? {
                (m, _, Some(n)) if m == major => out.extend_from_slice(self.take(n)?),
                _ => return Err("cbor: wrong element type for indefinite-length string".into()),
            }
        }
        Ok(out)
    }

    fn array(&mut self, argument: Option<u64>, depth: usize) -> Result<Value, String> {
        let mut out = Vec::new();
        loop {
            match argument {
                Some(n) if out.len() as u64 >= n => break,
                None if self.at_break()? => break,
                _ => {}
            }
            self.path.push(format!("[{}]", out.len()));
            out.push(self.item(depth + 1)?);
            self.path.pop();
        }
        Ok(out.into())
    }

    fn map(&mut self, argument: Option<u64>, depth: usize) -> Result<Value, String> {
        let mut out = Map::new();
        let mut seen = 0;
        loop {
            match argument {
                Some(n) if seen >= n => break,
                None if self.at_break()? => break,
                _ => seen += 1,
            }
            let Value::String(key) = self.item(depth + 1)? else {
                return Err("cbor: cannot unmarshal a map key that is not a string".into());
            };
            self.path.push(key.clone());
            let value = self.item(depth + 1)?;
            if out.insert(key, value).is_some() && self.duplicates.len() < MAX_PROBLEMS {
                let path = self.path.join(".").replace(".[", "[");
                self.duplicates.push(format!("duplicate field {path:?}"));
            }
            self.path.pop();
        }
        Ok(out.into())
    }

    fn tagged(&mut self, tag: u64, depth: usize) -> Result<Value, String> {
        if !(21..=23).contains(&tag) {
            if matches!(tag, 2 | 3) {
                return Err("cbor: arbitrary-precision integers are not allowed".into());
            }
            return self.item(depth + 1);
        }
        let (major, _, argument) = self.head()?;
        if major != 2 {
            return Err("cbor: an expected later encoding needs a byte string".into());
        }
        let bytes = self.bytes(major, argument)?;
        Ok(match tag {
            21 => base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes).into(),
            22 => base64(&bytes).into(),
            _ => bytes.iter().map(|b| format!("{b:02X}")).collect::<String>().into(),
        })
    }
}

fn simple(info: u8, argument: u64) -> Result<Value, String> {
    let number = |n: f64| {
        serde_json::Number::from_f64(n)
            .map(Value::Number)
            .ok_or_else(|| "cbor: NaN and infinities are not allowed".to_owned())
    };
    match info {
        20 => Ok(false.into()),
        21 => Ok(true.into()),
        22 => Ok(Value::Null),
        25 => number(half(argument as u16)),
        26 => number(f64::from(f32::from_bits(argument as u32))),
        27 => number(f64::from_bits(argument)),
        _ => Err(format!("cbor: simple value {argument} is not recognized")),
    }
}

/// A half-precision number.
fn half(bits: u16) -> f64 {
    let (exponent, fraction) = (i32::from(bits >> 10 & 31), f64::from(bits & 0x3ff));
    let size = match exponent {
        0 => fraction * 2f64.powi(-24),
        31 if fraction == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        e => (fraction + 1024.0) * 2f64.powi(e - 25),
    };
    if bits & 0x8000 == 0 { size } else { -size }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json;

    #[test]
    fn trees_come_back_as_they_went() {
        let v = json!({
            "a": [0, 23, 24, 255, 256, 65536, 4294967296u64, -1, -500, i64::MIN, i64::MAX],
            "b": {"": null, "t": true, "f": false, "x": 1.5}, "c": "täxt", "d": [], "e": {},
        });
        let bytes = encode(&v);
        assert_eq!(bytes[..3], MAGIC);
        assert_eq!(parse(&bytes).unwrap(), Parsed { value: v, duplicates: vec![] });
        for cut in 0..bytes.len() {
            assert!(parse(&bytes[..cut]).is_err(), "{cut}");
        }
    }

    #[test]
    fn what_others_write_is_read() {
        let table: [(&[u8], Value); 6] = [
            (b"\xa1\x61a\xd6\x42hi", json!({"a": "aGk="})),
            (b"\xbf\x61a\x9f\x01\x02\xff\xff", json!({"a": [1, 2]})),
            (b"\x5f\x41a\x41b\xff", json!("ab")),
            (b"\xf9\x3c\x00", json!(1.0)),
            (b"\xfa\x3f\xc0\x00\x00", json!(1.5)),
            (b"\xc0\x41x", json!("x")),
        ];
        for (bytes, want) in table {
            assert_eq!(parse(bytes).unwrap().value, want, "{bytes:x?}");
        }
        let twice = parse(b"\xa1\x41a\x81\xa2\x41b\x01\x41b\x02").unwrap();
        assert_eq!(twice.duplicates, ["duplicate field \"a[0].b\""]);
    }

    #[test]
    fn nonsense_costs_nothing() {
        let deep = [0x81; 100_000];
        for bad in [&deep[..], b"\x9b\xff\xff\xff\xff\xff\xff\xff\xff", b"\xff", b"\x1c", b"\xa1\x01\x01"] {
            assert!(parse(bad).is_err());
        }
        for bad in [&b"\xf9\x7e\x00"[..], b"\xc2\x41a", b"\x41\xff", b"\xf7", b"\x01\x02", b"\x5f\x61a\xff"] {
            assert!(parse(bad).is_err(), "{bad:x?}");
        }
    }
}
