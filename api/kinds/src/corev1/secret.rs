//! Secrets.

use crate::table::{age, name};
use crate::value::{Get, Put};
use crate::{Kind, PLAIN};
use api::Value;

pub static ROOM: Kind = Kind { defaults, row: Some(row), ..PLAIN };

fn defaults(o: &mut Value) {
    o.fill_zero("type", "Opaque");
    merge_string_data(o);
}

/// `stringData` is write-only: it ends up in `data`.
fn merge_string_data(o: &mut Value) {
    use base64::Engine;
    let Some(Value::Object(plain)) = o.unset("stringData") else { return };
    for (key, text) in plain {
        let encoded = base64::engine::general_purpose::STANDARD.encode(text.as_str().unwrap_or_default());
        o.ensure("data").set(&key, encoded);
    }
}

fn row(o: &Value) -> Vec<Value> {
    vec![name(o), o.text("type").into(), o.len("data").into(), age(o)]
}
