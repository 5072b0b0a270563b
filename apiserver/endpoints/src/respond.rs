//! Turning what a handler found into an HTTP response.

use crate::body::Body;
use crate::call::Call;
use crate::indent::{Indenter, indent};
use crate::list::partial_of;
use crate::negotiate::{Accepted, CBOR, JSON, Media, PROTOBUF, Shape};
use crate::served::{Served, encode_json};
use crate::write::Outcome;
use api::status::{Result, Status};
use api::{GroupVersionKind, Value};
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, HeaderValue, RETRY_AFTER, VARY,
};
use http::{HeaderMap, Response, StatusCode};
use std::io::Write;
use std::sync::Arc;

/// Answers smaller than this are not worth compressing.
const COMPRESS_FROM: usize = 128 * 1024;

/// A response with a media type.
pub fn bytes(code: u16, media: &'static str, body: impl Into<Body>) -> Response<Body> {
    let mut r = Response::new(body.into());
    *r.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    r.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media));
    r.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    r
}

/// Plain text, as health checks and unknown paths answer.
pub fn text(code: u16, body: impl Into<String>) -> Response<Body> {
    let mut r = bytes(code, "text/plain; charset=utf-8", Bytes::from(body.into()));
    r.headers_mut().insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    r
}

/// Whether the client takes gzip.
pub fn wants_gzip(headers: &HeaderMap) -> bool {
    headers.get(ACCEPT_ENCODING).and_then(|v| v.to_str().ok()).is_some_and(|v| {
        v.split(',').any(|e| {
            let mut parts = e.split(';').map(str::trim);
            parts.next() == Some("gzip") && !parts.any(|p| p == "q=0" || p == "q=0.0")
        })
    })
}

/// One document, compressed if it is large and the client can read that.
fn document(call: &Call, code: u16, media: &'static str, body: Bytes) -> Response<Body> {
    if body.len() < COMPRESS_FROM || !wants_gzip(&call.headers) {
        return bytes(code, media, body);
    }
    let pieces = Gzip::new(std::iter::once(body));
    compressed(bytes(code, media, Body::pieces(pieces)))
}

/// A text of any size, compressed if the client can read that.
pub fn gzipped(call: &Call, media: &'static str, body: Bytes) -> Response<Body> {
    if !wants_gzip(&call.headers) {
        return bytes(200, media, body);
    }
    let mut r = bytes(200, media, Body::pieces(Gzip::new(std::iter::once(body))));
    r.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    r
}

fn compressed(mut r: Response<Body>) -> Response<Body> {
    r.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    r.headers_mut().insert(VARY, HeaderValue::from_static("Accept-Encoding"));
    r
}

/// A list that is made while it is sent. A `small` one is joined, so that it has a length.
pub fn pieces(
    call: &Call,
    accepted: Accepted,
    all: impl Iterator<Item = Bytes> + Send + 'static,
    small: bool,
) -> Result<Response<Body>> {
    if matches!(accepted.media, Media::Yaml | Media::Cbor) {
        let json: Vec<u8> = all.flatten().collect();
        let value: Value = serde_json::from_slice(&json).map_err(Status::internal)?;
        return self::value(call, 200, &value, accepted);
    }
    if accepted.pretty {
        let mut indenter = Indenter::default();
        let indented = all.map(move |piece| {
            let mut out = Vec::with_capacity(piece.len() * 2);
            indenter.feed(&piece, &mut out);
            Bytes::from(out)
        });
        return Ok(raw_pieces(call, JSON, indented));
    }
    if small {
        let mut joined = bytes::BytesMut::with_capacity(16 * 1024);
        all.for_each(|p| joined.extend_from_slice(&p));
        return Ok(document(call, 200, JSON, joined.freeze()));
    }
    Ok(raw_pieces(call, JSON, all))
}

/// Pieces as they are, compressed if the client can read that.
pub fn raw_pieces(
    call: &Call,
    media: &'static str,
    all: impl Iterator<Item = Bytes> + Send + 'static,
) -> Response<Body> {
    // The size is known only at the end: look whether the first stretch is worth it.
    if !wants_gzip(&call.headers) {
        return bytes(200, media, Body::pieces(all));
    }
    let mut all = all.fuse();
    let (mut ahead, mut seen) = (Vec::new(), 0);
    while seen < COMPRESS_FROM
        && let Some(piece) = all.next()
    {
        seen += piece.len();
        ahead.push(piece);
    }
    let whole = ahead.into_iter().chain(all);
    if seen < COMPRESS_FROM {
        bytes(200, media, Body::pieces(whole))
    } else {
        compressed(bytes(200, media, Body::pieces(Gzip::new(whole))))
    }
}

/// Compresses pieces as they are asked for.
struct Gzip<I> {
    pieces: I,
    encoder: Option<GzEncoder<Vec<u8>>>,
}

impl<I> Gzip<I> {
    fn new(pieces: I) -> Self {
        Gzip { pieces, encoder: Some(GzEncoder::new(Vec::new(), Compression::fast())) }
    }
}

impl<I: Iterator<Item = Bytes>> Iterator for Gzip<I> {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let encoder = self.encoder.as_mut()?;
        for piece in self.pieces.by_ref() {
            // Writing to memory does not fail.
            let _ = encoder.write_all(&piece);
            if encoder.get_ref().len() >= crate::body::CHUNK {
                return Some(std::mem::take(encoder.get_mut()).into());
            }
        }
        self.encoder.take()?.finish().ok().map(Bytes::from)
    }
}

fn gvk_of(value: &Value) -> GroupVersionKind {
    let (group, version) = {
        let text = value["apiVersion"].as_str().unwrap_or_default();
        text.split_once('/').unwrap_or(("", text))
    };
    GroupVersionKind::new(group, version, value["kind"].as_str().unwrap_or_default())
}

/// The field table of a kind; kinds of `meta.k8s.io` are known in every group.
fn message_of(gvk: &GroupVersionKind) -> Option<&'static api::schema::Message> {
    api::schema::for_kind(gvk).or_else(|| {
        (gvk.group.is_empty() || gvk.group == "meta.k8s.io")
            .then(|| api::schema::message(&format!("k8s.io.apimachinery.pkg.apis.meta.v1.{}", gvk.kind)))
            .flatten()
    })
}

/// Any object with `kind` and `apiVersion`, in the form that was negotiated.
pub fn value(call: &Call, code: u16, value: &Value, accepted: Accepted) -> Result<Response<Body>> {
    let gvk = gvk_of(value);
    let message = message_of(&gvk);
    match accepted.media {
        Media::Protobuf => {
            let message =
                message.ok_or_else(|| Status::not_acceptable(&["application/json", "application/yaml"]))?;
            let raw = api::protobuf::encode(message, value).map_err(Status::internal)?;
            let body = crate::envelope::wrap(&gvk.api_version(), &gvk.kind, raw.len(), |o| {
                o.extend_from_slice(&raw)
            });
            Ok(document(call, code, PROTOBUF, body))
        }
        Media::Json => Ok(json(call, code, encode_json(message, &gvk, value)?.into(), accepted.pretty)),
        Media::Yaml => yaml(call, code, value),
        Media::Cbor => Ok(document(call, code, CBOR, api::cbor::encode(value).into())),
    }
}

/// JSON text that is ready to be sent.
pub fn json(call: &Call, code: u16, text: Bytes, pretty: bool) -> Response<Body> {
    let text = if pretty { indent(&text).into() } else { text };
    document(call, code, JSON, text)
}

fn yaml(call: &Call, code: u16, value: &Value) -> Result<Response<Body>> {
    let text = serde_saphyr::to_string(value).map_err(Status::internal)?;
    Ok(document(call, code, crate::negotiate::YAML, text.into()))
}

/// One object of a resource, in the form that was negotiated.
pub fn object(
    call: &Call,
    served: &Arc<Served>,
    code: u16,
    outcome: &Outcome,
    accepted: Accepted,
) -> Result<Response<Body>> {
    match (accepted.shape, accepted.media, outcome) {
        (Shape::Table, ..) => crate::table::one(call, served, code, &here(served, outcome)?, accepted),
        (Shape::PartialList, ..) => Err(wrong_shape(served, "PartialObjectMetadataList", "not a list", "")),
        (Shape::Partial, ..) => {
            let meta = partial_of(&outcome.value(served)?, accepted.version);
            value(call, code, &meta, accepted)
        }
        (Shape::Object, Media::Json, Outcome::Stored(o)) => {
            Ok(json(call, code, served.json(o)?, accepted.pretty))
        }
        (Shape::Object, Media::Protobuf, Outcome::Stored(o)) => {
            Ok(document(call, code, PROTOBUF, served.protobuf(o)?))
        }
        (Shape::Object, Media::Json, Outcome::Value(_)) => {
            let text = encode_json(served.message, &served.gvk, &here(served, outcome)?)?;
            Ok(json(call, code, text.into(), accepted.pretty))
        }
        (Shape::Object, Media::Protobuf, Outcome::Value(_)) => {
            Ok(document(call, code, PROTOBUF, served.value_protobuf(&here(served, outcome)?)?))
        }
        (Shape::Object, Media::Yaml, _) => yaml(call, code, &here(served, outcome)?),
        (Shape::Object, Media::Cbor, _) => {
            Ok(document(call, code, CBOR, api::cbor::encode(&here(served, outcome)?).into()))
        }
    }
}

/// The object in the version of the request.
pub fn here(served: &Served, outcome: &Outcome) -> Result<Value> {
    served.from_stored(outcome.value(served)?)
}

/// The client wants the metadata of a list as if of an object, or the other way round.
pub fn wrong_shape(served: &Served, asked: &str, is: &str, suffix: &str) -> Status {
    // Upstream names its own type in the message.
    let group = served.group().split('.').next().unwrap_or_default();
    let package = match served.group() {
        "" | "events.k8s.io" => "core",
        "internal.apiserver.k8s.io" => "apiserverinternal",
        _ if served.message.is_none() => "unstructured",
        _ => group,
    };
    let kind = if package == "unstructured" { "Unstructured" } else { served.gvk.kind.as_str() };
    Status::new(
        406,
        "NotAcceptable",
        format!("you requested {asked}, but the requested object is {is} (*{package}.{kind}{suffix})"),
    )
}

/// A failed request as the client sees it. Clients that accept nothing that we have get indented JSON.
pub fn failure(status: &Status, accepted: Option<Accepted>) -> Response<Body> {
    let value = status.to_value();
    let media = accepted.map_or(Media::Json, |a| a.media);
    let pretty = accepted.is_none_or(|a| a.pretty);
    let gvk = GroupVersionKind::new("", "v1", "Status");
    let message = message_of(&gvk);
    let protobuf = (media == Media::Protobuf)
        .then(|| message.and_then(|m| api::protobuf::encode(m, &value).ok()))
        .flatten();
    let mut r = match (media, protobuf) {
        (_, Some(raw)) => {
            let body = crate::envelope::wrap("v1", "Status", raw.len(), |o| o.extend_from_slice(&raw));
            bytes(status.code, PROTOBUF, body)
        }
        (Media::Cbor, _) => bytes(status.code, CBOR, api::cbor::encode(&value)),
        (Media::Yaml, _) if serde_saphyr::to_string(&value).is_ok() => bytes(
            status.code,
            crate::negotiate::YAML,
            serde_saphyr::to_string(&value).unwrap_or_default().into_bytes(),
        ),
        _ => {
            let text = encode_json(message, &gvk, &value).unwrap_or_else(|_| value.to_string().into_bytes());
            bytes(status.code, JSON, if pretty { indent(&text) } else { text })
        }
    };
    if let Some(seconds) = status.details.as_ref().map(|d| d.retry_after_seconds).filter(|s| *s > 0) {
        r.headers_mut().insert(RETRY_AFTER, seconds.into());
    }
    if status.code == 403 {
        r.headers_mut().insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    }
    r
}
