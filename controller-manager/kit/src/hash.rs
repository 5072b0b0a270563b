//! The short hashes in names and labels: FNV-1a, written in an alphabet that spells no words.

use serde::Serialize;
use serde_json::Value;

/// Characters of generated names: no vowels, no digits that look like letters.
pub const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// FNV-1 style 32-bit hash, continued from `state`.
pub fn fnv32a(state: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(state, |h, b| (h ^ u32::from(*b)).wrapping_mul(16_777_619))
}

/// FNV-1 (multiply, then xor), the variant that controller revisions are named by.
pub fn fnv32(state: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(state, |h, b| h.wrapping_mul(16_777_619) ^ u32::from(*b))
}

/// The start value of both.
pub const OFFSET: u32 = 2_166_136_261;

/// Writes a number's decimal digits in the safe alphabet.
pub fn safe_encode(text: &str) -> String {
    text.bytes().map(|b| char::from(ALPHABET[usize::from(b) % ALPHABET.len()])).collect()
}

/// `n` random characters of the safe alphabet.
pub fn random_suffix(n: usize) -> String {
    use rand::RngExt;
    let mut rng = rand::rng();
    (0..n).map(|_| char::from(ALPHABET[rng.random_range(0..ALPHABET.len())])).collect()
}

/// The hash of a pod template and a collision count, stable over processes and key order.
pub fn template_hash<T: Serialize>(template: &T, collisions: Option<i32>) -> String {
    let value = serde_json::to_value(template).unwrap_or(Value::Null);
    let mut h = fnv32a(OFFSET, sorted_json(&value).as_bytes());
    if let Some(count) = collisions {
        h = fnv32a(h, &(count as u32).to_le_bytes());
        h = fnv32a(h, &[0; 4]);
    }
    safe_encode(&h.to_string())
}

/// JSON with sorted keys and the escapes that Go's encoder makes, so that bytes which upstream wrote and
/// bytes that we write compare equal.
pub fn sorted_json(value: &Value) -> String {
    let mut out = String::new();
    write_sorted(value, &mut out);
    out
}

fn write_sorted(value: &Value, out: &mut String) {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_by(|a, b| a.0.cmp(b.0));
            out.push('{');
            for (i, (key, item)) in entries.into_iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                out.push_str(&api::json::text(key));
                out.push(':');
                write_sorted(item, out);
            }
            out.push('}');
        }
        Value::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                write_sorted(item, out);
            }
            out.push(']');
        }
        Value::String(text) => out.push_str(&api::json::text(text)),
        other => out.push_str(&other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn fnv_known_answers() {
        assert_eq!(fnv32a(OFFSET, b"a"), 0xe40c_292c);
        assert_eq!(fnv32(OFFSET, b"a"), 0x050c_5d7e);
    }

    #[test]
    fn encodes_without_vowels() {
        assert_eq!(safe_encode("0123456789"), "456789bcdf");
        assert_eq!(random_suffix(5).len(), 5);
    }

    #[test]
    fn keys_are_sorted_and_html_escaped() {
        assert_eq!(
            sorted_json(&json!({"b": "<&>", "a": [1, null]})),
            r#"{"a":[1,null],"b":"\u003c\u0026\u003e"}"#
        );
    }

    #[test]
    fn collisions_change_the_hash() {
        let t = json!({"spec": {}});
        assert_ne!(template_hash(&t, None), template_hash(&t, Some(1)));
        assert_eq!(template_hash(&t, Some(1)), template_hash(&t, Some(1)));
    }
}
