//! Request bodies: media type, limits, strictness.

use crate::call::Call;
use crate::negotiate::{JSON, PROTOBUF, YAML};
use crate::query::FieldValidation;
use api::decode::{self, Failure, Format};
use api::schema::Message;
use api::status::{Result, Status};
use api::{GroupVersionKind, Value};
use bytes::Bytes;

/// Reads the body as an object of a kind.
pub async fn object(
    call: &Call,
    message: Option<&'static Message>,
    gvk: &GroupVersionKind,
    validation: FieldValidation,
) -> Result<Value> {
    let body = call.bytes().await?;
    let format = format(call, message.is_some())?;
    decode(call, message, gvk, validation, format, &body)
}

fn format(call: &Call, builtin: bool) -> Result<Format> {
    match Format::of(call.content_type()) {
        Some(f) if builtin || f != Format::Protobuf => Ok(f),
        _ if builtin => Err(Status::unsupported_media_type(&[JSON, YAML, PROTOBUF])),
        _ => Err(Status::unsupported_media_type(&[JSON, YAML])),
    }
}

/// Decodes bytes as an object of a kind.
pub fn decode(
    call: &Call,
    message: Option<&'static Message>,
    gvk: &GroupVersionKind,
    validation: FieldValidation,
    format: Format,
    body: &Bytes,
) -> Result<Value> {
    let unreadable = |f: Failure| f.to_status(&gvk.kind, body);
    let (found, mut value, strict) = if message.is_some() {
        let decoded = decode::decode(format, body, Some(gvk)).map_err(unreadable)?;
        (decoded.gvk, decoded.value, decoded.strict)
    } else {
        let parsed = decode::parse(format, body).map_err(|error| unreadable(Failure { error, gvk: None }))?;
        let found = decode::kind_of(&parsed.value, Some(gvk)).map_err(unreadable)?;
        (found, parsed.value, parsed.duplicates)
    };
    expect_kind(&found, gvk)?;
    take_strict(call, validation, gvk, strict)?;
    ensure_metadata(&mut value);
    Ok(value)
}

/// A tree that was made here (by a patch) rather than sent, brought into canonical form.
pub fn conform(
    call: &Call,
    message: &'static Message,
    gvk: &GroupVersionKind,
    validation: FieldValidation,
    value: &mut Value,
) -> Result<()> {
    let done = decode::conform(message, value).map_err(|e| {
        let mut s = Status::bad_request(format!(
            "{} in version {:?} cannot be handled as a {}: {e}",
            gvk.kind, gvk.version, gvk.kind
        ));
        s.code = 400;
        s
    })?;
    value["kind"] = gvk.kind.as_str().into();
    value["apiVersion"] = gvk.api_version().into();
    ensure_metadata(value);
    take_strict(call, validation, gvk, done.unknown)
}

fn ensure_metadata(value: &mut Value) {
    if !value["metadata"].is_object() {
        value["metadata"] = Value::Object(Default::default());
    }
}

/// The version of the body is that of the path, and so is its kind.
fn expect_kind(found: &GroupVersionKind, gvk: &GroupVersionKind) -> Result<()> {
    if found == gvk {
        return Ok(());
    }
    if (&found.group, &found.version) != (&gvk.group, &gvk.version) {
        return Err(Status::bad_request(format!(
            "the API version in the data ({}) does not match the expected API version ({})",
            found.api_version(),
            gvk.api_version()
        )));
    }
    Err(Status::bad_request(format!(
        "{} in version {:?} cannot be handled as a {}: converting ({}.{}) to ({}.{}): unknown conversion",
        found.kind, found.version, gvk.kind, found.version, found.kind, gvk.group, gvk.kind
    )))
}

/// Unknown and duplicate fields: a warning each, or one refusal.
pub fn take_strict(
    call: &Call,
    validation: FieldValidation,
    gvk: &GroupVersionKind,
    problems: Vec<String>,
) -> Result<()> {
    match validation {
        FieldValidation::Strict if !problems.is_empty() => Err(Status::bad_request(format!(
            "{} in version {:?} cannot be handled as a {}: {}",
            gvk.kind,
            gvk.version,
            gvk.kind,
            decode::strict_error(&problems)
        ))),
        FieldValidation::Warn => {
            problems.into_iter().for_each(|p| call.warn(p));
            Ok(())
        }
        _ => Ok(()),
    }
}

/// `DeleteOptions`, which every group may send under its own name.
pub fn delete_options(call: &Call, body: Bytes) -> Result<Value> {
    let format = format(call, true)?;
    let unreadable = |e: decode::Error| Status::bad_request(e.to_string());
    let message = api::schema::message("k8s.io.apimachinery.pkg.apis.meta.v1.DeleteOptions");
    if format == Format::Protobuf {
        let opened = crate::envelope::message(&body)
            .ok_or_else(|| Status::bad_request("the body is no protobuf object"))?;
        let message = message.ok_or_else(|| Status::internal("DeleteOptions has no field table"))?;
        return api::protobuf::to_value(message, None, &opened)
            .map_err(|e| Status::bad_request(e.to_string()));
    }
    let mut value = decode::parse(format, &body).map_err(unreadable)?.value;
    let kind = value["kind"].as_str().unwrap_or("DeleteOptions");
    if kind != "DeleteOptions" {
        return Err(Status::bad_request(format!(
            "no kind {kind:?} is registered for the internal version of group \"meta.k8s.io\" in scheme \"pkg/runtime/scheme.go:100\""
        )));
    }
    if let Some(message) = message {
        decode::conform(message, &mut value).map_err(Status::bad_request)?;
    }
    Ok(value)
}
