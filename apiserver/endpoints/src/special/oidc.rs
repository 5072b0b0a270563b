//! The documents by which others verify service account tokens.

use crate::body::Body;
use crate::call::Call;
use crate::{negotiate, respond};
use api::status::Result;
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{Method, Response};

/// Answers the two paths; `None` for any other.
pub fn serve(call: &Call) -> Option<Result<Response<Body>>> {
    let issuer = call.server.special.issuer.as_ref()?;
    let (document, media) = match call.info.path.trim_end_matches('/') {
        "/.well-known/openid-configuration" => {
            (issuer.openid_configuration(&call.server.special.external_address).ok()?, "application/json")
        }
        "/openid/v1/jwks" => (issuer.jwks(), "application/jwk-set+json"),
        _ => return None,
    };
    if call.method != Method::GET {
        return Some(Err(crate::verbs::method_not_allowed()));
    }
    let accept = call.headers.get(ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    Some(negotiate::one_of(accept, &[media]).and_then(|()| send(&document, media)))
}

/// Keys of the configuration in the order of its specification, then any others.
const ORDER: [&str; 5] = [
    "issuer",
    "jwks_uri",
    "response_types_supported",
    "subject_types_supported",
    "id_token_signing_alg_values_supported",
];

fn ordered(document: &api::Value) -> Vec<u8> {
    let Some(map) = document.as_object() else { return api::json::to_string(document).into_bytes() };
    let known = ORDER.iter().filter_map(|k| map.get(*k).map(|v| (*k, v)));
    let others = map.iter().map(|(k, v)| (k.as_str(), v)).filter(|(k, _)| !ORDER.contains(k));
    let pairs: Vec<String> =
        known.chain(others).map(|(k, v)| format!("{k:?}:{}", api::json::to_string(v))).collect();
    format!("{{{}}}", pairs.join(",")).into_bytes()
}

fn send(document: &api::Value, media: &'static str) -> Result<Response<Body>> {
    let text = ordered(document);
    let mut r = respond::bytes(200, "application/json", text);
    r.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media));
    r.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("public, max-age=3600"));
    Ok(r)
}
