//! Discovery, `/version` and the OpenAPI documents: made once per resource table, sent as shared bytes.

use crate::body::Body;
use crate::call::Call;
use crate::negotiate::{Accepted, Media, Offers};
use crate::respond;
use api::resources::{GroupVersion, Table};
use api::status::{Result, Status};
use api::{Value, discovery};
use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, ETAG, HeaderValue, IF_NONE_MATCH, VARY};
use http::{Method, Response};
use parking_lot::Mutex;
use sha2::{Digest, Sha512};
use std::sync::Arc;

const V2: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// The aggregated documents of one resource table and what other servers have beside it.
#[derive(Default)]
pub struct Cache {
    made: Mutex<Option<Made>>,
}

#[derive(Clone)]
struct Made {
    table: Arc<Table>,
    others: Arc<aggregator::State>,
    /// The table with the versions of other servers.
    whole: Arc<Table>,
    core: Document,
    groups: Document,
}

#[derive(Clone)]
struct Document {
    text: Bytes,
    etag: HeaderValue,
}

fn document(v: &Value) -> Document {
    let mut text = v.to_string().into_bytes();
    text.push(b'\n');
    let hash: String = Sha512::digest(&text).iter().map(|b| format!("{b:02X}")).collect();
    let etag = HeaderValue::from_str(&format!("\"{hash}\"")).unwrap_or(HeaderValue::from_static("\"0\""));
    Document { text: text.into(), etag }
}

impl Cache {
    fn get(&self, table: &Arc<Table>, others: &Arc<aggregator::State>) -> Made {
        let mut slot = self.made.lock();
        let current = |m: &&Made| Arc::ptr_eq(&m.table, table) && Arc::ptr_eq(&m.others, others);
        if let Some(made) = slot.as_ref().filter(current) {
            return made.clone();
        }
        let foreign = others.group_versions();
        let whole = if foreign.is_empty() { table.clone() } else { Arc::new(table.with_foreign(foreign)) };
        let entry = |gv: &GroupVersion| others.discovery(&gv.group, &gv.version);
        let made = Made {
            core: document(&discovery::aggregated_with(&whole, true, &entry)),
            groups: document(&discovery::aggregated_with(&whole, false, &entry)),
            table: table.clone(),
            others: others.clone(),
            whole,
        };
        slot.insert(made).clone()
    }
}

/// The documents of this moment.
fn now(call: &Call) -> Made {
    let server = &call.server;
    server.discovery.get(&server.table.load_full(), &server.aggregation.state())
}

/// Answers a path of this module; `Ok(None)` for any other.
pub fn serve(call: &Call) -> Result<Option<Response<Body>>> {
    let path = call.info.path.trim_end_matches('/');
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    if !matches!(parts[0], "api" | "apis" | "version") && !path.is_empty() {
        return Ok(None);
    }
    let made = now(call);
    let table = &made.whole;
    // These paths answer whatever the method; all others are routes of GET.
    let any = match parts.as_slice() {
        ["apis"] | [""] => true,
        ["apis", group] => table.versions(group).next().is_some(),
        _ => false,
    };
    if !any && call.method != Method::GET && known(table, &parts) {
        return Err(crate::verbs::method_not_allowed());
    }
    if !any && call.method != Method::GET {
        return Ok(None);
    }
    if parts == ["version"] {
        let accept = call.headers.get(ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or_default();
        crate::negotiate::one_of(accept, &["application/json"])?;
    } else if !any && known(table, &parts) {
        crate::negotiate::routable(&call.headers, false, call.server.speaks_cbor())?;
    }
    match parts.as_slice() {
        ["version"] => version(call, &call.server.settings.version).map(Some),
        [""] => plain(call, &root(call, table)).map(Some),
        ["api"] => match aggregated(call) {
            true => Ok(Some(send(call, &made.core))),
            false => object(call, &discovery::api_versions(&call.server.special.external_address)).map(Some),
        },
        ["apis"] => match aggregated(call) {
            true => Ok(Some(send(call, &made.groups))),
            false => object(call, &discovery::group_list(table)).map(Some),
        },
        ["apis", group] => answer(call, discovery::group(table, group)),
        ["api", version] => answer(call, discovery::resource_list(table, "", version)),
        ["apis", group, version] => answer(call, discovery::resource_list(table, group, version)),
        _ => Ok(None),
    }
}

fn known(table: &Table, parts: &[&str]) -> bool {
    match parts {
        ["version" | "api"] => true,
        ["api", version] => table.versions("").any(|v| v.version == *version),
        ["apis", group] => table.versions(group).next().is_some(),
        ["apis", group, version] => table.versions(group).any(|v| v.version == *version),
        _ => false,
    }
}

/// Whether the path lies in a group that is served: what is missing there is the router's to say.
pub fn under_served_group(call: &Call) -> bool {
    let mut parts = call.info.path.split('/').skip(1);
    let table = now(call).whole;
    match (parts.next(), parts.next()) {
        (Some("api"), Some(_)) => true,
        (Some("apis"), Some(group)) => table.versions(group).next().is_some(),
        _ => false,
    }
}

fn answer(call: &Call, found: Option<Value>) -> Result<Option<Response<Body>>> {
    found.map(|v| object(call, &v)).transpose()
}

/// Whether the client prefers the aggregated form to the plain ones.
fn aggregated(call: &Call) -> bool {
    let accept = call.headers.get(ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    accept.split(',').map(str::trim).take_while(|c| *c != "application/json" && *c != "*/*").any(|c| {
        c.contains("g=apidiscovery.k8s.io")
            && c.contains("as=APIGroupDiscoveryList")
            && c.contains("v=v2")
            && !c.contains("v=v2beta")
    })
}

fn send(call: &Call, d: &Document) -> Response<Body> {
    let fresh = call.headers.get(IF_NONE_MATCH).is_some_and(|v| *v == d.etag);
    let mut r = if fresh {
        respond::bytes(304, V2, Bytes::new())
    } else {
        respond::json(call, 200, d.text.clone(), false)
    };
    r.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(V2));
    r.headers_mut().insert(ETAG, d.etag.clone());
    r.headers_mut().insert(VARY, HeaderValue::from_static("Accept"));
    r.headers_mut().insert(http::header::CACHE_CONTROL, HeaderValue::from_static("public"));
    r
}

fn object(call: &Call, v: &Value) -> Result<Response<Body>> {
    let accepted = call.accepted(Offers::PLAIN)?;
    match accepted.media {
        Media::Json => {
            let kind = v["kind"].as_str().unwrap_or_default();
            let message = api::schema::message(&format!("k8s.io.apimachinery.pkg.apis.meta.v1.{kind}"));
            let mut text = Vec::with_capacity(4096);
            match message {
                Some(message) => api::json::write_ordered(message, v, &mut text),
                None => api::json::write(v, &mut text),
            }
            text.push(b'\n');
            Ok(respond::json(call, 200, text.into(), accepted.pretty))
        }
        _ => respond::value(call, 200, v, accepted),
    }
}

/// Fields of `/version` in the order in which clients print them.
const VERSION: [&str; 13] = [
    "major",
    "minor",
    "emulationMajor",
    "emulationMinor",
    "minCompatibilityMajor",
    "minCompatibilityMinor",
    "gitVersion",
    "gitCommit",
    "gitTreeState",
    "buildDate",
    "goVersion",
    "compiler",
    "platform",
];

fn version(call: &Call, v: &Value) -> Result<Response<Body>> {
    let lines: Vec<String> = VERSION.iter().map(|k| format!("  {k:?}: {}", v[*k])).collect();
    let text = format!("{{\n{}\n}}", lines.join(",\n"));
    Ok(respond::json(call, 200, text.into(), false))
}

fn plain(call: &Call, v: &Value) -> Result<Response<Body>> {
    let text = serde_json::to_vec_pretty(v).map_err(Status::internal)?;
    Ok(respond::json(call, 200, text.into(), Accepted::PLAIN_JSON.pretty))
}

/// The paths that the server has.
fn root(call: &Call, table: &Table) -> Value {
    let mut paths: Vec<String> = ["/.well-known/openid-configuration", "/api", "/api/v1", "/apis", "/apis/"]
        .iter()
        .chain(&[
            "/metrics",
            "/metrics/slis",
            "/openapi/v2",
            "/openapi/v3",
            "/openapi/v3/",
            "/openid/v1/jwks",
        ])
        .chain(&["/version"])
        .map(|p| (*p).to_owned())
        .chain(call.server.health.paths())
        .chain(call.server.special.zpages.paths())
        .collect();
    for group in table.groups() {
        paths.push(format!("/apis/{group}"));
        paths.extend(table.versions(group).map(|v| format!("/apis/{}", v.api_version())));
    }
    paths.sort();
    api::json!({"paths": paths})
}
