//! Answers of pods, services and nodes on their way back: pages and redirects lead through the proxy again.

use super::links::Page;
use super::target::Backend;
use crate::body::Body;
use crate::call::Call;
use api::status::{Result, Status};
use bytes::Bytes;
use flate2::Compression;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderValue, LOCATION};
use http::{Response, response::Parts};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use std::io::{Read, Write};

/// A page may be this long, packed or not; a longer one is an error.
const MAX_PAGE: usize = 16 << 20;

/// The response to the client.
pub async fn through_proxy(
    call: &Call,
    backend: &Backend,
    mut parts: Parts,
    body: Incoming,
) -> Result<Response<Body>> {
    let path = call.uri.path();
    let marker = format!("/{}/proxy", call.info.name);
    let end = path.find(&marker).map_or(path.len(), |i| i + marker.len());
    let host = call.headers.get(HOST).and_then(|h| h.to_str().ok()).unwrap_or_default();
    let page = Page { prefix: &path[..end], hosts: [&backend.authority, host] };
    if let Some(to) = parts.headers.get(LOCATION).and_then(|l| l.to_str().ok()) {
        if let Some(to) = page.rewrite(to).and_then(|to| HeaderValue::from_str(&to).ok()) {
            parts.headers.insert(LOCATION, to);
        }
        return Ok(Response::from_parts(parts, Body::foreign(body)));
    }
    let Some(packing) = Packing::of(&parts) else {
        return Ok(Response::from_parts(parts, Body::foreign(body)));
    };
    let bytes = Limited::new(body, MAX_PAGE).collect().await.map_err(Status::internal)?.to_bytes();
    let bytes = match packing.unpack(&bytes).map(String::from_utf8) {
        Ok(Ok(text)) => {
            parts.headers.remove(CONTENT_LENGTH);
            packing.pack(page.rewrite_html(&text)).map_err(Status::internal)?
        }
        // What is no text, or not packed as it says, is not ours to mend.
        _ => bytes,
    };
    Ok(Response::from_parts(parts, Body::foreign(Full::new(bytes))))
}

/// How a page is packed on the wire.
#[derive(Clone, Copy)]
enum Packing {
    Plain,
    Gzip,
    Deflate,
}

impl Packing {
    /// `None` for what is no page, or is packed in an unknown way.
    fn of(parts: &Parts) -> Option<Packing> {
        let text =
            |name| parts.headers.get(name).and_then(|v: &HeaderValue| v.to_str().ok()).unwrap_or_default();
        let media = text(CONTENT_TYPE).split(';').next().unwrap_or_default().trim();
        if media != "text/html" {
            return None;
        }
        match text(CONTENT_ENCODING) {
            "" => Some(Packing::Plain),
            "gzip" => Some(Packing::Gzip),
            "deflate" => Some(Packing::Deflate),
            _ => None,
        }
    }

    fn unpack(self, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
        let mut out = Vec::new();
        let limit = MAX_PAGE as u64 + 1;
        match self {
            Packing::Plain => out.extend_from_slice(bytes),
            Packing::Gzip => {
                flate2::read::GzDecoder::new(bytes).take(limit).read_to_end(&mut out)?;
            }
            Packing::Deflate => {
                flate2::read::DeflateDecoder::new(bytes).take(limit).read_to_end(&mut out)?;
            }
        }
        if out.len() > MAX_PAGE {
            return Err(std::io::ErrorKind::FileTooLarge.into());
        }
        Ok(out)
    }

    fn pack(self, page: String) -> std::io::Result<Bytes> {
        Ok(match self {
            Packing::Plain => page.into(),
            Packing::Gzip => {
                let mut out = flate2::write::GzEncoder::new(Vec::new(), Compression::default());
                out.write_all(page.as_bytes())?;
                out.finish()?.into()
            }
            Packing::Deflate => {
                let mut out = flate2::write::DeflateEncoder::new(Vec::new(), Compression::default());
                out.write_all(page.as_bytes())?;
                out.finish()?.into()
            }
        })
    }
}
