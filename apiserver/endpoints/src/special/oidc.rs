//! The documents by which others verify service account tokens.

use crate::body::Body;
use crate::call::Call;
use crate::respond;
use api::status::{Result, Status};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{Method, Response};

/// Answers the two paths; `None` for any other.
pub fn serve(call: &Call) -> Option<Result<Response<Body>>> {
    let issuer = call.server.special.issuer.as_ref()?;
    if !matches!(call.method, Method::GET | Method::HEAD) {
        return None;
    }
    let (document, media) = match call.info.path.as_str() {
        "/.well-known/openid-configuration" => {
            (issuer.openid_configuration(&call.server.special.external_address).ok()?, "application/json")
        }
        "/openid/v1/jwks" => (issuer.jwks(), "application/jwk-set+json"),
        _ => return None,
    };
    Some(send(&document, media))
}

fn send(document: &api::Value, media: &'static str) -> Result<Response<Body>> {
    let text = serde_json::to_vec(document).map_err(Status::internal)?;
    let mut r = respond::bytes(200, "application/json", text);
    r.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media));
    r.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("public, max-age=3600"));
    Ok(r)
}
