//! `/openapi/v2` and `/openapi/v3`: documents of the resource table of the moment, made when first asked for.

use crate::body::Body;
use crate::call::Call;
use crate::respond;
use crate::served::Routes;
use api::resources::Table;
use api::status::{Result, Status};
use bytes::Bytes;
use http::Response;
use http::header::{
    ACCEPT, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, ETAG, EXPIRES, HeaderValue, IF_NONE_MATCH,
    LOCATION, VARY,
};
use openapi::{Document, Documents, Form};
use parking_lot::Mutex;
use std::sync::Arc;

const JSON: &str = "application/json";
const V2_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
/// What older clients call the same: not a legal media type, but widely sent.
const V2_PROTOBUF_OLD: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
const V3_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v3.v1.0+protobuf";
const V3_PROTOBUF_OLD: &str = "application/com.github.proto-openapi.spec.v3@v1.0+protobuf";
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
        let Some(media) = media(call, V2_PROTOBUF, V2_PROTOBUF_OLD) else { return Ok(bare(406)) };
        let make = move || {
            Some(if media == JSON { documents.v2_json().clone() } else { documents.v2_protobuf().clone() })
        };
        return send(call, media, made(make).await?);
    }
    // A slash at the end names another document, which there is not.
    let Some(of) = call.info.path.strip_prefix("/openapi/v3/").map(str::to_owned) else {
        let root = made(move || Some(documents.v3_root().clone())).await?;
        return Ok(root.map_or_else(nothing, |d| respond::bytes(200, "text/plain; charset=utf-8", d.plain())));
    };
    let Some(media) = media(call, V3_PROTOBUF, V3_PROTOBUF_OLD) else { return Ok(bare(406)) };
    let form = if media == JSON { Form::Json } else { Form::Protobuf };
    let document = made(move || documents.v3(&of, form)).await?;
    let asked = call.query.get("hash").unwrap_or_default();
    match &document {
        Some(d) if !asked.is_empty() && asked != d.hash => moved(path, &d.hash),
        _ => {
            let mut r = send(call, media, document)?;
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

/// The first form among those the client accepts, the best liked before others; JSON for one that does not care.
fn media(call: &Call, protobuf: &'static str, old: &str) -> Option<&'static str> {
    let accept = call.headers.get(ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or("*/*");
    let weight = |clause: &str| {
        let q = clause.split(';').skip(1).find_map(|p| p.trim().strip_prefix("q=")?.parse::<f32>().ok());
        q.unwrap_or(1.0)
    };
    let mut clauses: Vec<&str> = accept.split(',').collect();
    clauses.sort_by(|a, b| weight(b).total_cmp(&weight(a)));
    clauses.iter().map(|clause| clause.split(';').next().unwrap_or_default().trim()).find_map(|media| {
        match media {
            "" | "*/*" | "*/json" | "application/*" | JSON => Some(JSON),
            media if media == protobuf || media == old => Some(protobuf),
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
