//! Request bodies: media type, limits, strictness.

use crate::call::Call;
use crate::negotiate::{JSON, PROTOBUF, YAML};
use crate::query::FieldValidation;
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
    decode(call, message, gvk, validation, call.content_type(), &body)
}

/// Decodes bytes of a media type.
pub fn decode(
    call: &Call,
    message: Option<&'static Message>,
    gvk: &GroupVersionKind,
    _validation: FieldValidation,
    media: &str,
    body: &Bytes,
) -> Result<Value> {
    let _ = call;
    let mut value: Value = match media {
        "" | JSON => serde_json::from_slice(body).map_err(|e| bad(gvk, e))?,
        YAML => serde_saphyr::from_slice(body).map_err(|e| bad(gvk, e))?,
        PROTOBUF => {
            let message = message.ok_or_else(|| Status::unsupported_media_type(&[JSON, YAML]))?;
            let raw = crate::envelope::message(body).ok_or_else(|| bad(gvk, "no protobuf"))?;
            api::protobuf::to_value(message, Some(gvk), &raw).map_err(|e| bad(gvk, e))?
        }
        _ => return Err(Status::unsupported_media_type(&[JSON, YAML, PROTOBUF])),
    };
    if !value.is_object() {
        return Err(bad(gvk, "not an object"));
    }
    value["kind"] = gvk.kind.as_str().into();
    value["apiVersion"] = gvk.api_version().into();
    Ok(value)
}

fn bad(gvk: &GroupVersionKind, e: impl std::fmt::Display) -> Status {
    Status::bad_request(format!(
        "{} in version {:?} cannot be handled as a {}: {e}",
        gvk.kind, gvk.version, gvk.kind
    ))
}

/// `DeleteOptions`, which every group may send under its own name.
pub fn delete_options(call: &Call, body: Bytes) -> Result<Value> {
    let message = api::schema::message("k8s.io.apimachinery.pkg.apis.meta.v1.DeleteOptions");
    let gvk = GroupVersionKind::new("meta.k8s.io", "v1", "DeleteOptions");
    decode(call, message, &gvk, FieldValidation::Ignore, call.content_type(), &body)
}
