//! Config maps.

use crate::checks::texts;
use crate::metadata::Checks;
use crate::table::{age, name};
use crate::value::Get;
use crate::{Context, Kind, PLAIN, names};
use api::Value;
use api::field::{Error, ErrorList, Path};

pub static ROOM: Kind = Kind { validate, row: Some(row), metadata_checks: Checks::BOTH, ..PLAIN };

fn row(o: &Value) -> Vec<Value> {
    vec![name(o), (o.len("data") + o.len("binaryData")).into(), age(o)]
}

/// All the data of a config map or secret together may not be larger.
pub const DATA_LIMIT: usize = 1024 * 1024;
pub const FROZEN: &str = "field is immutable when `immutable` is set";

fn validate(_: &Context<'_>, new: &Value, old: Option<&Value>, e: &mut ErrorList) {
    if let Some(old) = old {
        frozen(new, old, &["data", "binaryData"], e);
    }
    let mut size = 0;
    for (field, encoded) in [("data", false), ("binaryData", true)] {
        for (key, value) in new.entries(field) {
            let at = Path::new(field).key(key);
            texts(key, names::config_key(key), &at, e);
            if !encoded && new.at("binaryData").has(key) {
                e.push(Error::invalid(&at, key, "duplicate of key present in binaryData"));
            }
            let length = value.as_str().map_or(0, str::len);
            size += if encoded { decoded_len(value.as_str().unwrap_or_default()) } else { length };
        }
    }
    if size > DATA_LIMIT {
        e.push(Error::too_long(&Path::new("[]"), DATA_LIMIT));
    }
}

/// What an immutable config map or secret may not change any more.
pub fn frozen(new: &Value, old: &Value, fields: &[&str], e: &mut ErrorList) {
    if !old.flag("immutable") {
        return;
    }
    if !new.flag("immutable") {
        e.push(Error::forbidden(&Path::new("immutable"), FROZEN));
    }
    for field in fields {
        if !crate::value::same(new.at(field), old.at(field)) {
            e.push(Error::forbidden(&Path::new(field), FROZEN));
        }
    }
}

/// Bytes behind base64 text.
pub fn decoded_len(text: &str) -> usize {
    let padding = text.bytes().rev().take_while(|b| *b == b'=').count();
    (text.len() / 4 * 3).saturating_sub(padding)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Room;
    use api::json;

    #[test]
    fn checked() {
        let frozen = json!({"immutable": true, "data": {"a": "1"}});
        for (new, old, want) in [
            (json!({"data": {"a": "1"}}), None, None),
            (
                json!({"data": {"a b": "1"}}),
                None,
                Some("data[a b]: Invalid value: \"a b\": a valid config key"),
            ),
            (
                json!({"data": {"a": "1"}, "binaryData": {"a": ""}}),
                None,
                Some("data[a]: Invalid value: \"a\": duplicate of key present in binaryData"),
            ),
            (
                json!({"data": {"a": "x".repeat(DATA_LIMIT + 1)}}),
                None,
                Some("[]: Too long: may not be more than 1048576 bytes"),
            ),
            (
                json!({"immutable": true, "data": {"a": "2"}}),
                Some(&frozen),
                Some("data: Forbidden: field is immutable when `immutable` is set"),
            ),
            (
                json!({"data": {"a": "1"}}),
                Some(&frozen),
                Some("immutable: Forbidden: field is immutable when `immutable` is set"),
            ),
        ] {
            let got = ROOM.validate(&Context::default(), &new, old);
            let first = got.first().map(ToString::to_string);
            assert!(
                match (&first, want) {
                    (None, None) => true,
                    (Some(g), Some(w)) => g.starts_with(w),
                    _ => false,
                },
                "{first:?} {want:?}"
            );
        }
    }
}
