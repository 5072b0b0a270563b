//! Request bodies to trees, strictly by the field table.
//!
//! [`parse`] turns text into a tree and notes duplicate keys; [`conform`] brings the tree into the
//! canonical form of a message: unknown fields and nulls dropped (and reported), numbers range-checked,
//! quantities, times and base64 checked and rewritten, empty values dropped and zero values of
//! fields that are always written filled in. A conformed tree equals what [`crate::protobuf::to_value`]
//! reads from its encoded bytes, so trees from clients and from storage compare equal.

use crate::schema::{self, Message};
use crate::{GroupVersionKind, Map, Value, protobuf};

mod conform;
mod order;
mod parse;

pub use conform::{Conformed, conform};
pub use parse::{Parsed, parse_json, parse_plain, parse_yaml};

/// Media types of bodies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Json,
    Yaml,
    Protobuf,
    /// Behind a gate: the caller decides whether it is spoken.
    Cbor,
}

impl Format {
    /// From a `Content-Type`; an empty one is JSON. Parameters count for nothing but must be well formed.
    pub fn of(content_type: &str) -> Option<Self> {
        if content_type.is_empty() {
            return Some(Format::Json);
        }
        match crate::media::essence(content_type)?.as_str() {
            "application/json" => Some(Format::Json),
            "application/yaml" => Some(Format::Yaml),
            "application/vnd.kubernetes.protobuf" => Some(Format::Protobuf),
            "application/cbor" => Some(Format::Cbor),
            _ => None,
        }
    }
}

/// A body that cannot be understood.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Error {
    /// Not even JSON, YAML or an envelope.
    #[error("{0}")]
    Syntax(String),
    #[error("Object 'Kind' is missing in '{0}'")]
    MissingKind(String),
    #[error("Object 'apiVersion' is missing in '{0}'")]
    MissingVersion(String),
    #[error(
        "no kind {kind:?} is registered for version {version:?} in scheme \"pkg/api/legacyscheme/scheme.go:30\""
    )]
    NotRegistered { kind: String, version: String },
    /// A value that does not fit its field.
    #[error("{0}")]
    Value(String),
}

/// A failed decoding, with what is known of the object for the error text.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    pub error: Error,
    pub gvk: Option<GroupVersionKind>,
}

impl Failure {
    /// The sentence of the 400 that the client gets.
    pub fn message(&self, expected_kind: &str, body: &[u8]) -> String {
        match &self.gvk {
            Some(gvk) if !gvk.kind.is_empty() => format!(
                "{} in version {:?} cannot be handled as a {expected_kind}: {}",
                gvk.kind, gvk.version, self.error
            ),
            _ => format!(
                "the object provided is unrecognized (must be of type {expected_kind}): {} ({})",
                self.error,
                summary(body)
            ),
        }
    }

    /// [`Failure::message`] as a 400.
    pub fn to_status(&self, expected_kind: &str, body: &[u8]) -> crate::status::Status {
        crate::status::Status::bad_request(self.message(expected_kind, body))
    }
}

fn summary(body: &[u8]) -> String {
    const MAX: usize = 30;
    let head = &body[..body.len().min(MAX)];
    let more = if body.len() > MAX { " ..." } else { "" };
    match body.first() {
        None => "<empty>".into(),
        Some(b'{') => format!("{}{more}", String::from_utf8_lossy(head)),
        Some(_) => format!("{}{more}", head.iter().map(|b| format!("{b:02x}")).collect::<String>()),
    }
}

/// A decoded body.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoded {
    pub gvk: GroupVersionKind,
    /// Canonical, with `apiVersion` and `kind`.
    pub value: Value,
    /// `unknown field "spec.foo"`, `duplicate field "spec.x"`: warnings, or errors under strict validation.
    pub strict: Vec<String>,
}

/// `strict decoding error: unknown field "a", unknown field "b"`
pub fn strict_error(problems: &[String]) -> String {
    format!("strict decoding error: {}", problems.join(", "))
}

/// Decodes a body of a built-in kind. A body that names no kind is of kind `default`.
pub fn decode(format: Format, body: &[u8], default: Option<&GroupVersionKind>) -> Result<Decoded, Failure> {
    if format == Format::Protobuf {
        return decode_protobuf(body, default);
    }
    let parsed = parse(format, body).map_err(|error| Failure { error, gvk: None })?;
    let mut decoded = decode_value(parsed, default)?;
    if format == Format::Json {
        order::as_written(body, &mut decoded.strict);
    }
    Ok(decoded)
}

/// Text to a tree; protobuf has no tree without a message.
pub fn parse(format: Format, body: &[u8]) -> Result<Parsed, Error> {
    match format {
        Format::Json => parse_json(body),
        Format::Yaml => parse_yaml(body),
        Format::Cbor => crate::cbor::parse(body),
        Format::Protobuf => Err(Error::Syntax("protobuf is not supported for this kind".into())),
    }
}

/// Decodes a tree that was parsed already.
pub fn decode_value(parsed: Parsed, default: Option<&GroupVersionKind>) -> Result<Decoded, Failure> {
    let Parsed { mut value, duplicates } = parsed;
    if value.is_null() {
        value = Value::Object(Map::new());
    }
    let gvk = kind_of(&value, default)?;
    let fail = |error| Failure { error, gvk: Some(gvk.clone()) };
    let message = schema::for_kind(&gvk)
        .ok_or_else(|| fail(Error::NotRegistered { kind: gvk.kind.clone(), version: gvk.api_version() }))?;
    let Conformed { unknown } = conform(message, &mut value).map_err(|e| fail(Error::Value(e)))?;
    let mut strict = duplicates;
    strict.extend(unknown);
    set_kind(&mut value, &gvk);
    Ok(Decoded { gvk, value, strict })
}

/// `apiVersion` and `kind` of a tree, filled up from the default.
pub fn kind_of(value: &Value, default: Option<&GroupVersionKind>) -> Result<GroupVersionKind, Failure> {
    let fail = |error| Failure { error, gvk: None };
    let nothing = Map::new();
    let Some(map) = value.as_object().or_else(|| value.is_null().then_some(&nothing)) else {
        let what = crate::print::json_type(value);
        return Err(fail(Error::Syntax(format!(
            "couldn't get version/kind; json parse error: json: cannot unmarshal {what} into Go value of type struct {{ APIVersion string \"json:\\\"apiVersion,omitempty\\\"\"; Kind string \"json:\\\"kind,omitempty\\\"\" }}"
        ))));
    };
    for key in ["kind", "apiVersion"] {
        if let Some(v) = map.get(key).filter(|v| !(v.is_string() || v.is_null())) {
            let what = crate::print::json_type(v);
            return Err(fail(Error::Syntax(format!(
                "couldn't get version/kind; json parse error: json: cannot unmarshal {what} into Go struct field .{key} of type string"
            ))));
        }
    }
    let text = |key: &str| map.get(key).and_then(Value::as_str).unwrap_or_default();
    let (kind, api_version) = (text("kind"), text("apiVersion"));
    if api_version.matches('/').count() > 1 {
        return Err(fail(Error::Syntax(format!("unexpected GroupVersion string: {api_version}"))));
    }
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let mut gvk = GroupVersionKind::new(group, version, kind);
    if let Some(d) = default {
        if kind.is_empty() {
            gvk.kind.clone_from(&d.kind);
        }
        if api_version.is_empty() {
            gvk.group.clone_from(&d.group);
            gvk.version.clone_from(&d.version);
        }
    }
    let shown = || value.to_string().chars().take(512).collect();
    if gvk.kind.is_empty() {
        return Err(fail(Error::MissingKind(shown())));
    }
    if gvk.version.is_empty() {
        return Err(Failure { error: Error::MissingVersion(shown()), gvk: Some(gvk) });
    }
    Ok(gvk)
}

fn set_kind(value: &mut Value, gvk: &GroupVersionKind) {
    if let Some(map) = value.as_object_mut() {
        map.insert("apiVersion".into(), gvk.api_version().into());
        map.insert("kind".into(), gvk.kind.as_str().into());
    }
}

fn decode_protobuf(body: &[u8], default: Option<&GroupVersionKind>) -> Result<Decoded, Failure> {
    let opened =
        protobuf::unenvelope(body).map_err(|e| Failure { error: Error::Syntax(e.to_string()), gvk: None })?;
    let mut gvk = opened.gvk();
    if let (true, Some(d)) = (gvk.kind.is_empty() || gvk.version.is_empty(), default) {
        gvk = d.clone();
    }
    let fail = |error| Failure { error, gvk: Some(gvk.clone()) };
    let message = schema::for_kind(&gvk)
        .ok_or_else(|| fail(Error::NotRegistered { kind: gvk.kind.clone(), version: gvk.api_version() }))?;
    let value = protobuf_value(message, &gvk, opened.raw).map_err(|e| fail(Error::Value(e)))?;
    Ok(Decoded { gvk, value, strict: vec![] })
}

fn protobuf_value(message: &'static Message, gvk: &GroupVersionKind, raw: &[u8]) -> Result<Value, String> {
    let mut value = protobuf::to_value(message, Some(gvk), raw).map_err(|e| e.to_string())?;
    conform(message, &mut value)?;
    Ok(value)
}

#[cfg(test)]
mod tests;
