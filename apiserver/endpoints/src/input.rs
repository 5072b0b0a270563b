//! Request bodies: media type, limits, strictness.

use crate::call::Call;
use crate::negotiate::{CBOR, JSON, PROTOBUF, YAML};
use crate::query::FieldValidation;
use crate::served::Served;
use api::decode::{self, Failure, Format};
use api::status::{Result, Status};
use api::{GroupVersionKind, Value};
use bytes::Bytes;

/// Reads the body as an object of a built-in kind.
pub async fn object(call: &Call, gvk: &GroupVersionKind, validation: FieldValidation) -> Result<Value> {
    let body = call.bytes().await?;
    let format = format(call, true)?;
    let decoded = decode::decode(format, &body, Some(gvk)).map_err(|f| f.to_status(&gvk.kind, &body))?;
    expect_kind(&decoded.gvk, gvk)?;
    take_strict(call, validation, gvk, decoded.strict)?;
    let mut value = decoded.value;
    ensure_metadata(&mut value);
    Ok(value)
}

/// Reads the body as an object of a resource that is served.
pub async fn served(call: &Call, served: &Served, validation: FieldValidation) -> Result<Value> {
    if served.message.is_some() {
        return object(call, &served.gvk, validation).await;
    }
    let body = call.bytes().await?;
    let format = format(call, false)?;
    let unreadable = |f: Failure| f.to_status(&served.gvk.kind, &body);
    let parsed = decode::parse(format, &body).map_err(|error| unreadable(Failure { error, gvk: None }))?;
    let found = decode::kind_of(&parsed.value, Some(&served.gvk)).map_err(unreadable)?;
    expect_kind(&found, &served.gvk)?;
    let mut value = parsed.value;
    prune(call, served, validation, parsed.duplicates, &mut value)?;
    Ok(value)
}

/// Drops what a custom object's schema does not know; `problems` are those that were found before.
pub fn prune(
    call: &Call,
    served: &Served,
    validation: FieldValidation,
    mut problems: Vec<String>,
    value: &mut Value,
) -> Result<()> {
    value["kind"] = served.gvk.kind.as_str().into();
    value["apiVersion"] = served.api_version.as_str().into();
    ensure_metadata(value);
    let unknown = served.room.prune(value).map_err(|e| {
        Status::bad_request(format!(
            "{} in version {:?} cannot be handled as a {}: {e}",
            served.gvk.kind, served.gvk.version, served.gvk.kind
        ))
    })?;
    problems.extend(unknown.into_iter().map(|path| format!("unknown field {path:?}")));
    take_strict(call, validation, &served.gvk, problems)
}

fn format(call: &Call, builtin: bool) -> Result<Format> {
    let cbor = call.server.speaks_cbor();
    let found = Format::of(call.content_type_header()).filter(|f| match f {
        Format::Protobuf => builtin,
        Format::Cbor => cbor,
        _ => true,
    });
    found.ok_or_else(|| {
        let mut names = vec![JSON, YAML, PROTOBUF];
        names.extend(cbor.then_some(CBOR));
        Status::unsupported_media_type(&names)
    })
}

/// Says what an object is, and gives it metadata if it has none.
pub fn label(gvk: &GroupVersionKind, value: &mut Value) {
    value["kind"] = gvk.kind.as_str().into();
    value["apiVersion"] = gvk.api_version().into();
    ensure_metadata(value);
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
        "{} in version {:?} cannot be handled as a {}: {}",
        found.kind,
        found.version,
        gvk.kind,
        no_conversion(&found.kind, &found.version, gvk)
    )))
}

/// Why an object of one kind is no object of another, with upstream's name of its internal type.
pub fn no_conversion(kind: &str, version: &str, gvk: &GroupVersionKind) -> String {
    let short = version.rsplit('/').next().unwrap_or_default();
    let group = gvk.group.split('.').next().unwrap_or_default();
    let package = if group.is_empty() { "core" } else { group };
    format!("converting ({short}.{kind}) to ({package}.{}): unknown conversion", gvk.kind)
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
            for p in problems {
                match p.strip_prefix("yaml: unmarshal errors:\n") {
                    Some(lines) => lines.split('\n').for_each(|line| call.warn(line.trim_start())),
                    None => call.warn(p),
                }
            }
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
        let opened = crate::envelope::message(&body).ok_or_else(|| {
            let text =
                "provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]";
            Status::bad_request(text)
        })?;
        let message = message.ok_or_else(|| Status::internal("DeleteOptions has no field table"))?;
        return api::protobuf::to_value(message, None, &opened)
            .map_err(|e| Status::bad_request(e.to_string()));
    }
    let mut value = decode::parse(format, &body).map_err(unreadable)?.value;
    let default = GroupVersionKind::new("meta.k8s.io", "v1", "DeleteOptions");
    let found = decode::kind_of(&value, Some(&default)).map_err(|f| unreadable(f.error))?;
    if found.kind != "DeleteOptions" {
        return Err(Status::bad_request(format!(
            "no kind {:?} is registered for version {:?} in scheme \"k8s.io/apimachinery/pkg/apis/meta/internalversion/scheme/register.go:27\"",
            found.kind,
            found.api_version()
        )));
    }
    if value.is_null() {
        return Ok(Value::Object(Default::default()));
    }
    if let Some(message) = message {
        decode::conform(message, &mut value).map_err(Status::bad_request)?;
    }
    Ok(value)
}
