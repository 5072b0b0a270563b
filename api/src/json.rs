//! JSON text as Go's encoder writes it: `<`, `>`, `&`, U+2028 and U+2029 escaped, bad UTF-8 replaced.

use crate::Value;
use crate::protobuf::read::Sink;
use base64::Engine;

/// What is null was not said: drops it from objects at any depth.
pub fn discard_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, v| !v.is_null());
            map.values_mut().for_each(discard_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(discard_nulls),
        _ => {}
    }
}

/// Appends the text of a value, keys sorted, no spaces, no final newline.
pub fn write(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(b) => out.extend_from_slice(if *b { b"true" } else { b"false" }),
        Value::Number(n) => write_number(n, out),
        Value::String(s) => write_str(s, out),
        Value::Array(items) => {
            out.push(b'[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                write(item, out);
            }
            out.push(b']');
        }
        Value::Object(map) => {
            out.push(b'{');
            for (i, (key, item)) in map.iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                write_str(key, out);
                out.push(b':');
                write(item, out);
            }
            out.push(b'}');
        }
    }
}

/// As [`write()`], with the keys in the order of the message; what it does not know comes last.
pub fn write_ordered(message: &'static crate::schema::Message, value: &Value, out: &mut Vec<u8>) {
    let Value::Object(map) = value else { return write(value, out) };
    let known = |key: &str| message.flat_field(key).map(|f| f.field);
    let mut keys: Vec<&String> = map.keys().collect();
    let place = |key: &str| {
        let own = known(key).and_then(|f| message.fields.iter().position(|g| std::ptr::eq(f, g)));
        match (own, key) {
            (Some(i), _) => i + 2,
            (None, "kind") => 0,
            (None, "apiVersion") => 1,
            (None, _) => usize::MAX,
        }
    };
    keys.sort_by_key(|k| place(k));
    out.push(b'{');
    for (i, key) in keys.into_iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        write_str(key, out);
        out.push(b':');
        let inner = known(key).and_then(crate::schema::Field::message).filter(|m| m.special.is_none());
        match (inner, &map[key]) {
            (Some(inner), Value::Array(items)) => {
                out.push(b'[');
                for (i, item) in items.iter().enumerate() {
                    if i > 0 {
                        out.push(b',');
                    }
                    write_ordered(inner, item, out);
                }
                out.push(b']');
            }
            (Some(inner), item) => write_ordered(inner, item, out),
            (None, item) => write(item, out),
        }
    }
    out.push(b'}');
}

/// The text of a value as a string.
pub fn to_string(value: &Value) -> String {
    let mut out = Vec::new();
    write(value, &mut out);
    String::from_utf8(out).unwrap_or_default()
}

fn write_number(n: &serde_json::Number, out: &mut Vec<u8>) {
    if let Some(i) = n.as_i64() {
        write_int(i, out);
    } else if let Some(u) = n.as_u64() {
        out.extend_from_slice(itoa::Buffer::new().format(u).as_bytes());
    } else {
        write_double(n.as_f64().unwrap_or(0.0), out);
    }
}

/// Appends an integer.
#[inline]
pub fn write_int(i: i64, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(i).as_bytes());
}

/// Appends a float: shortest digits, exponents only outside of 1e-6 .. 1e21.
pub fn write_double(v: f64, out: &mut Vec<u8>) {
    let text = if v != 0.0 && (v.abs() < 1e-6 || v.abs() >= 1e21) {
        let text = format!("{v:e}");
        match text.split_once('e') {
            Some((digits, exp)) if !exp.starts_with('-') => format!("{digits}e+{exp}"),
            _ => text,
        }
    } else {
        format!("{v}")
    };
    out.extend_from_slice(text.as_bytes());
}

const PLAIN: u8 = 0;
/// Not ASCII: may be U+2028, or no UTF-8 at all.
const WIDE: u8 = 1;

/// Per byte: 0 as it is, 1 not ASCII, `u` for `\u00xx`, else the letter after the backslash.
static ESCAPES: [u8; 256] = {
    let mut t = [PLAIN; 256];
    let mut i = 0;
    while i < 256 {
        if i < 0x20 {
            t[i] = b'u';
        } else if i >= 0x80 {
            t[i] = WIDE;
        }
        i += 1;
    }
    t[b'"' as usize] = b'"';
    t[b'\\' as usize] = b'\\';
    t[b'\n' as usize] = b'n';
    t[b'\r' as usize] = b'r';
    t[b'\t' as usize] = b't';
    t[8] = b'b';
    t[12] = b'f';
    t[b'<' as usize] = b'u';
    t[b'>' as usize] = b'u';
    t[b'&' as usize] = b'u';
    t
};

/// Appends a quoted string.
#[inline]
pub fn write_str(s: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    escape(s, out);
    out.push(b'"');
}

/// A quoted string.
pub fn text(s: &str) -> String {
    let mut out = Vec::with_capacity(s.len() + 2);
    write_str(s, &mut out);
    String::from_utf8_lossy(&out).into_owned()
}

/// Appends a quoted string from bytes that may be no UTF-8.
#[inline]
pub fn write_bytes_str(bytes: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    if is_plain(bytes) {
        out.extend_from_slice(bytes);
    } else {
        match std::str::from_utf8(bytes) {
            Ok(s) => escape(s, out),
            Err(_) => escape(&String::from_utf8_lossy(bytes), out),
        }
    }
    out.push(b'"');
}

/// Whether nothing in it needs a second look. Written so that it vectorises.
#[inline]
fn is_plain(bytes: &[u8]) -> bool {
    fn ok(b: u8) -> bool {
        (0x20..0x80).contains(&b) & (b != b'"') & (b != b'\\') & (b != b'<') & (b != b'>') & (b != b'&')
    }
    let mut chunks = bytes.chunks_exact(16);
    chunks.by_ref().all(|c| c.iter().fold(true, |all, &b| all & ok(b)))
        && chunks.remainder().iter().fold(true, |all, &b| all & ok(b))
}

fn escape(s: &str, out: &mut Vec<u8>) {
    let bytes = s.as_bytes();
    let mut start = 0;
    let mut i = 0;
    while i < bytes.len() {
        let b = bytes[i];
        let how = ESCAPES[b as usize];
        if how == PLAIN {
            i += 1;
            continue;
        }
        if how == WIDE {
            // U+2028 and U+2029 are E2 80 A8 and E2 80 A9.
            if b == 0xe2 && bytes.get(i + 1) == Some(&0x80) && matches!(bytes.get(i + 2), Some(0xa8 | 0xa9)) {
                out.extend_from_slice(&bytes[start..i]);
                out.extend_from_slice(if bytes[i + 2] == 0xa8 { b"\\u2028" } else { b"\\u2029" });
                i += 3;
                start = i;
            } else {
                i += 1;
            }
            continue;
        }
        out.extend_from_slice(&bytes[start..i]);
        push_escape(b, how, out);
        i += 1;
        start = i;
    }
    out.extend_from_slice(&bytes[start..]);
}

fn push_escape(b: u8, how: u8, out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    if how == b'u' {
        out.extend_from_slice(&[b'\\', b'u', b'0', b'0', HEX[(b >> 4) as usize], HEX[(b & 15) as usize]]);
    } else {
        out.extend_from_slice(&[b'\\', how]);
    }
}

/// Appends a JSON document without its white space and escaped as the rest is.
/// The document was parsed when it was stored; only its strings are followed here.
pub fn compact(raw: &[u8], out: &mut Vec<u8>) {
    let busy = |b: &u8| *b <= b' ' || *b >= 0x80 || matches!(b, b'<' | b'>' | b'&');
    if !raw.iter().fold(false, |any, b| any | busy(b)) {
        out.extend_from_slice(raw);
        return;
    }
    let text = String::from_utf8_lossy(raw);
    let bytes = text.as_bytes();
    let (mut in_string, mut escaped) = (false, false);
    let mut i = 0;
    while i < bytes.len() {
        let b = bytes[i];
        match b {
            b' ' | b'\t' | b'\n' | b'\r' if !in_string => {}
            b'<' | b'>' | b'&' => push_escape(b, b'u', out),
            0xe2 if bytes.get(i + 1) == Some(&0x80) && matches!(bytes.get(i + 2), Some(0xa8 | 0xa9)) => {
                out.extend_from_slice(if bytes[i + 2] == 0xa8 { b"\\u2028" } else { b"\\u2029" });
                i += 2;
            }
            _ => {
                if b == b'"' && !escaped {
                    in_string = !in_string;
                }
                out.push(b);
            }
        }
        escaped = in_string && b == b'\\' && !escaped;
        i += 1;
    }
}

/// The walk's end that writes text.
pub struct Text<'a>(pub &'a mut Vec<u8>);

impl Text<'_> {
    #[inline]
    fn comma(&mut self) {
        if !matches!(self.0.last(), Some(b'{' | b'[')) {
            self.0.push(b',');
        }
    }
}

impl Sink for Text<'_> {
    fn begin_object(&mut self) {
        self.0.push(b'{');
    }
    fn end_object(&mut self) {
        self.0.push(b'}');
    }
    fn begin_array(&mut self) {
        self.0.push(b'[');
    }
    fn end_array(&mut self) {
        self.0.push(b']');
    }
    #[inline]
    fn key(&mut self, _name: &'static str, quoted: &'static str) {
        self.comma();
        self.0.extend_from_slice(quoted.as_bytes());
    }
    fn map_key(&mut self, key: &[u8]) {
        self.comma();
        write_bytes_str(key, self.0);
        self.0.push(b':');
    }
    #[inline]
    fn element(&mut self) {
        self.comma();
    }
    fn null(&mut self) {
        self.0.extend_from_slice(b"null");
    }
    fn bool(&mut self, v: bool) {
        self.0.extend_from_slice(if v { b"true" } else { b"false" });
    }
    fn int(&mut self, v: i64) {
        write_int(v, self.0);
    }
    fn double(&mut self, v: f64) {
        write_double(v, self.0);
    }
    #[inline]
    fn string(&mut self, v: &[u8]) {
        write_bytes_str(v, self.0);
    }
    fn plain(&mut self, v: &str) {
        self.0.push(b'"');
        self.0.extend_from_slice(v.as_bytes());
        self.0.push(b'"');
    }
    fn base64(&mut self, v: &[u8]) {
        self.0.push(b'"');
        let start = self.0.len();
        let engine = base64::engine::general_purpose::STANDARD;
        self.0.resize(start + v.len().div_ceil(3) * 4, 0);
        let written = engine.encode_slice(v, &mut self.0[start..]).unwrap_or(0);
        self.0.truncate(start + written);
        self.0.push(b'"');
    }
    fn raw(&mut self, v: &[u8]) -> Result<(), String> {
        compact(v, self.0);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_escaped_as_go_does() {
        let cases: [(&[u8], &str); 6] = [
            (b"plain", "\"plain\""),
            (b"a<b>&\"\\\n\t\x01\x08\x0c\x7f", "\"a\\u003cb\\u003e\\u0026\\\"\\\\\\n\\t\\u0001\\b\\f\x7f\""),
            ("\u{2028}é\u{2029}".as_bytes(), "\"\\u2028é\\u2029\""),
            (b"bad\xff", "\"bad\u{fffd}\""),
            (b"0123456789abcdef0123456789abcde<", "\"0123456789abcdef0123456789abcde\\u003c\""),
            (b"", "\"\""),
        ];
        for (input, want) in cases {
            let mut out = Vec::new();
            write_bytes_str(input, &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), want);
        }
    }

    #[test]
    fn numbers_and_raw_documents() {
        for (v, want) in [(1.0, "1"), (0.5, "0.5"), (1e21, "1e+21"), (1e-7, "1e-7"), (-2.5e22, "-2.5e+22")] {
            let mut out = Vec::new();
            write_double(v, &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), want);
        }
        let mut out = Vec::new();
        compact(br#"{ "a" : [1, 2], "b <": "x \" y" }"#, &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), r#"{"a":[1,2],"b \u003c":"x \" y"}"#);
    }
}
