//! Secrets.

use super::configmap::{DATA_LIMIT, decoded_len, frozen};
use crate::checks::texts;
use crate::metadata::{Checks, immutable};
use crate::table::{age, name};
use crate::value::{Get, Put};
use crate::{Context, Kind, Operation, PLAIN, names};
use api::Value;
use api::field::{Error, ErrorList, Path};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;

pub static ROOM: Kind =
    Kind { defaults, prepare, validate, warnings, row: Some(row), metadata_checks: Checks::BOTH, ..PLAIN };

/// Of a certificate or key that is none. Whether the two fit each other is not looked at.
fn warnings(_: &Context<'_>, new: &Value, _: Option<&Value>) -> Vec<String> {
    if new.text("type") != "kubernetes.io/tls" {
        return Vec::new();
    }
    let blocks = |key: &str| {
        let bytes = BASE64_STANDARD.decode(new.at("data").text(key)).unwrap_or_default();
        pem::parse_many(bytes).unwrap_or_default()
    };
    for (key, what) in [("tls.crt", "certificate"), ("tls.key", "key")] {
        if blocks(key).is_empty() {
            return vec![format!("tls: failed to find any PEM data in {what} input")];
        }
    }
    Vec::new()
}

fn defaults(o: &mut Value) {
    o.fill_zero("type", "Opaque");
    merge_string_data(o);
}

/// `stringData` is write-only: it ends up in `data`.
fn merge_string_data(o: &mut Value) {
    let Some(Value::Object(plain)) = o.unset("stringData") else { return };
    for (key, text) in plain {
        let encoded = base64::engine::general_purpose::STANDARD.encode(text.as_str().unwrap_or_default());
        o.ensure("data").set(&key, encoded);
    }
}

fn row(o: &Value) -> Vec<Value> {
    vec![name(o), o.text("type").into(), o.len("data").into(), age(o)]
}

/// An update that says no type keeps the stored one.
fn prepare(op: Operation, _: &Context<'_>, new: &mut Value, old: Option<&Value>) {
    if let Some(old) = old.filter(|_| op == Operation::Update)
        && new.text("type").is_empty()
    {
        new.copy_from(old, "type");
    }
}

/// Keys that a type of secret needs.
const NEEDED: &[(&str, &[&str])] = &[
    ("kubernetes.io/dockercfg", &[".dockercfg"]),
    ("kubernetes.io/dockerconfigjson", &[".dockerconfigjson"]),
    ("kubernetes.io/ssh-auth", &["ssh-privatekey"]),
    ("kubernetes.io/tls", &["tls.crt", "tls.key"]),
];

fn validate(_: &Context<'_>, new: &Value, old: Option<&Value>, e: &mut ErrorList) {
    if let Some(old) = old {
        immutable(new.at("type"), old.at("type"), &Path::new("type"), e);
        frozen(new, old, &["data"], e);
    }
    let (at, data) = (Path::new("data"), new.at("data"));
    let mut size = 0;
    for (key, value) in new.entries("data") {
        texts(key, names::config_key(key), &at.key(key), e);
        size += decoded_len(value.as_str().unwrap_or_default());
    }
    if size > DATA_LIMIT {
        e.push(Error::too_long(&at, DATA_LIMIT));
    }
    let kind = new.text("type");
    for key in NEEDED.iter().find(|(k, _)| *k == kind).map(|(_, keys)| *keys).unwrap_or_default() {
        let present = if kind.ends_with("ssh-auth") { data.len(key) > 0 } else { data.has(key) };
        if !present {
            e.push(Error::required(&at.key(key), ""));
        } else if kind.contains("docker") && !is_json_object(data.text(key)) {
            let why = json_error(data.text(key));
            e.push(Error::invalid(&at.key(key), "<secret contents redacted>", why));
        }
    }
    match kind {
        "kubernetes.io/service-account-token" => {
            const NAME: &str = "kubernetes.io/service-account.name";
            if new.at("metadata").at("annotations").text(NAME).is_empty() {
                e.push(Error::required(&Path::new("metadata").child("annotations").key(NAME), ""));
            }
        }
        "kubernetes.io/basic-auth" if !data.has("username") && !data.has("password") => {
            e.push(Error::required(&at.key("username"), ""));
            e.push(Error::required(&at.key("password"), ""));
        }
        _ => {}
    }
}

/// What is wrong with the JSON, as far as its start tells.
fn json_error(encoded: &str) -> String {
    let bytes = base64::engine::general_purpose::STANDARD.decode(encoded).unwrap_or_default();
    match bytes.iter().find(|b| !b.is_ascii_whitespace()) {
        None => "unexpected end of JSON input".to_owned(),
        Some(b) if !b"{[\"-0123456789tfn".contains(b) => {
            format!("invalid character '{}' looking for beginning of value", char::from(*b))
        }
        Some(_) => "invalid JSON".to_owned(),
    }
}

fn is_json_object(encoded: &str) -> bool {
    let Ok(bytes) = base64::engine::general_purpose::STANDARD.decode(encoded) else { return false };
    serde_json::from_slice::<Value>(&bytes).is_ok_and(|v| v.is_object() || v.is_null())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Room;
    use api::json;

    #[test]
    fn plain_text_becomes_data() {
        let mut s = json!({"stringData": {"a": "hi"}, "data": {"b": "eA=="}});
        defaults(&mut s);
        assert_eq!(s, json!({"type": "Opaque", "data": {"a": "aGk=", "b": "eA=="}}));
    }

    #[test]
    fn checked() {
        let tls = json!({"type": "kubernetes.io/tls", "data": {"tls.crt": "", "tls.key": ""}});
        for (new, old, want) in [
            (tls.clone(), None, vec![]),
            (
                json!({"type": "kubernetes.io/tls", "data": {"tls.crt": ""}}),
                None,
                vec!["data[tls.key]: Required value"],
            ),
            (
                json!({"type": "kubernetes.io/dockerconfigjson", "data": {".dockerconfigjson": "eA=="}}),
                None,
                vec![
                    "data[.dockerconfigjson]: Invalid value: \"<secret contents redacted>\": invalid character 'x' looking for beginning of value",
                ],
            ),
            (
                json!({"type": "Opaque", "data": tls["data"]}),
                Some(&tls),
                vec!["type: Invalid value: \"Opaque\": field is immutable"],
            ),
            (
                json!({"type": "kubernetes.io/basic-auth"}),
                None,
                vec!["data[username]: Required value", "data[password]: Required value"],
            ),
        ] {
            let got: Vec<String> =
                ROOM.validate(&Context::default(), &new, old).iter().map(ToString::to_string).collect();
            assert_eq!(got, want);
        }
    }
}
