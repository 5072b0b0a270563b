//! `/openapi/v2` and `/openapi/v3`: documents of the resource table of the moment, made when first asked for.

use crate::body::Body;
use crate::call::Call;
use crate::served::Routes;
use crate::{negotiate, respond};
use api::resources::Table;
use api::status::{Result, Status};
use bytes::Bytes;
use http::Response;
use http::header::{
    ACCEPT, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, ETAG, EXPIRES, HeaderValue, IF_NONE_MATCH,
    LOCATION, VARY,
};
use openapi::{Document, Documents};
use parking_lot::Mutex;
use std::sync::Arc;

const JSON: &str = "application/json";
const V2_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
/// What older clients call the same: not a legal media type, but widely sent.
const V2_PROTOBUF_OLD: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
const V3: &str = "/openapi/v3";

/// What documents were made of, and the documents.
type Made = (Arc<Table>, Arc<aggregator::State>, Arc<Documents>);

/// The documents of one resource table and what other servers have beside it.
#[derive(Default)]
pub struct Cache {
    made: Mutex<Option<Made>>,
}

impl Cache {
    fn get(&self, table: Arc<Table>, others: Arc<aggregator::State>, routes: Arc<Routes>) -> Arc<Documents> {
        let mut slot = self.made.lock();
        if let Some((of, and, documents)) = slot.as_ref()
            && Arc::ptr_eq(of, &table)
            && Arc::ptr_eq(and, &others)
        {
            return documents.clone();
        }
        let documents = Documents::new((*table).clone(), openapi::Options::default(), move |r| {
            routes.find(&r.group, &r.version, &r.resource)?.room.schema().cloned()
        });
        let documents = Arc::new(documents.and(others.documents()));
        *slot = Some((table, others, documents.clone()));
        documents
    }
}

/// Answers a path of this module; `None` for any other.
pub async fn serve(call: &Call) -> Option<Result<Response<Body>>> {
    let path = call.info.path.trim_end_matches('/');
    if call.info.path == "/openapi/v2/" {
        return None;
    }
    if path != "/openapi/v2" && path != V3 && !path.starts_with("/openapi/v3/") {
        return None;
    }
    // Any method will do. The list of documents has no other form than its own path.
    if call.info.path == "/openapi/v3/" {
        return Some(Ok(nothing()));
    }
    Some(answer(call, path).await)
}

async fn answer(call: &Call, path: &str) -> Result<Response<Body>> {
    let server = &call.server;
    let others = server.aggregation.state();
    if let Some(service) = path.strip_prefix("/openapi/v3/").and_then(|p| others.of_document(p)) {
        return crate::proxy::aggregated(call, service).await;
    }
    let documents = server.openapi.get(server.table.load_full(), others, server.routes.load_full());
    if path == "/openapi/v2" {
        let Some(media) = v2_media(call) else { return Ok(bare(406)) };
        let make = move || {
            Some(if media == JSON { documents.v2_json().clone() } else { documents.v2_protobuf().clone() })
        };
        return send(call, media, made(make).await?);
    }
    let Some(of) = path.strip_prefix("/openapi/v3/").map(str::to_owned) else {
        let root = made(move || Some(documents.v3_root().clone())).await?;
        return Ok(root.map_or_else(nothing, |d| respond::bytes(200, "text/plain; charset=utf-8", d.plain())));
    };
    let accept = call.headers.get(ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    if negotiate::one_of(accept, &[JSON, "application/*"]).is_err() {
        return Ok(bare(406));
    }
    let document = made(move || documents.v3(&of)).await?;
    let asked = call.query.get("hash").unwrap_or_default();
    match &document {
        Some(d) if !asked.is_empty() && asked != d.hash => moved(path, &d.hash),
        _ => {
            let mut r = send(call, JSON, document)?;
            if !asked.is_empty() && r.status() == 200 {
                // The hash in its address makes it the same for ever.
                r.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("public, immutable"));
                r.headers_mut().insert(EXPIRES, in_a_year()?);
            }
            Ok(r)
        }
    }
}

/// Making a document takes the processor for a while: not on the threads that serve requests.
async fn made(make: impl FnOnce() -> Option<Document> + Send + 'static) -> Result<Option<Document>> {
    tokio::task::spawn_blocking(make).await.map_err(Status::internal)
}

/// The first form among those the client accepts; JSON for one that does not care.
fn v2_media(call: &Call) -> Option<&'static str> {
    let accept = call.headers.get(ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or("*/*");
    accept.split(',').map(|clause| clause.split(';').next().unwrap_or_default().trim()).find_map(|media| {
        match media {
            "" | "*/*" | "application/*" | JSON => Some(JSON),
            V2_PROTOBUF | V2_PROTOBUF_OLD => Some(V2_PROTOBUF),
            _ => None,
        }
    })
}

fn send(call: &Call, media: &'static str, document: Option<Document>) -> Result<Response<Body>> {
    let Some(document) = document else { return Ok(nothing()) };
    let etag = header(&format!("\"{}\"", document.hash))?;
    let mut r = if call.headers.get(IF_NONE_MATCH) == Some(&etag) {
        respond::bytes(304, media, Bytes::new())
    } else if respond::wants_gzip(&call.headers) {
        let mut r = respond::bytes(200, media, document.gzip);
        r.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        r
    } else {
        respond::bytes(200, media, Bytes::from(document.plain()))
    };
    r.headers_mut().insert(ETAG, etag);
    r.headers_mut().append(VARY, HeaderValue::from_static("Accept-Encoding"));
    r.headers_mut().append(VARY, HeaderValue::from_static("Accept"));
    Ok(r)
}

fn nothing() -> Response<Body> {
    bare(404)
}

/// Not even a text.
fn bare(code: u16) -> Response<Body> {
    let mut r = respond::bytes(code, "text/plain", Bytes::new());
    r.headers_mut().remove(CONTENT_TYPE);
    r
}

fn moved(path: &str, hash: &str) -> Result<Response<Body>> {
    let mut r = respond::text(301, String::new());
    r.headers_mut().insert(LOCATION, header(&format!("{path}?hash={hash}"))?);
    Ok(r)
}

fn in_a_year() -> Result<HeaderValue> {
    let then = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(365 * 24);
    header(&then.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string())
}

fn header(text: &str) -> Result<HeaderValue> {
    HeaderValue::from_str(text).map_err(Status::internal)
}
