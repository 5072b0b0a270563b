//! Requests that are passed on: to kubelets (logs, exec, attach, port-forward), to nodes, pods and services.
//!
//! What leaves here carries none of the client's credentials. An upgraded connection is joined to the client's
//! only after the backend has said 101, only for SPDY and WebSocket, and a backend cannot redirect us.

mod aggregated;
mod links;
mod location;
mod pages;
mod target;
mod translate;
mod transport;

pub use aggregated::{Aggregated, aggregated};
pub use transport::{Kubelets, Options};

use crate::admit::Review;
use crate::body::Body;
use crate::call::Call;
use crate::served::Served;
use crate::{admit, respond, verbs, websocket};
use api::status::{Result, Status};
use api::{Value, json};
use futures::StreamExt;
use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, COOKIE, HOST, HeaderName, HeaderValue, PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use std::sync::Arc;
use target::Backend;

/// Headers that belong to one connection, not to the request.
const HOP: [HeaderName; 7] =
    [CONNECTION, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE];
/// Text of a backend's failure that is passed on.
const MAX_ERROR: usize = 10 * 1024;

async fn admit_connect(call: &Call, served: &Arc<Served>, options: &'static str) -> Result<()> {
    let t = verbs::target(call, served, options);
    let review: Review<'_> = t.review("CONNECT");
    let mut value = connect_options(call, options);
    admit::mutate(&review, &mut value, None).await?;
    admit::validate(&review, &value, None).await
}

/// What the client asks for, as the object that admission looks at.
fn connect_options(call: &Call, kind: &str) -> Value {
    let mut out = json!({"kind": kind, "apiVersion": "v1"});
    let words = |key: &str| call.query.all(key).map(str::to_owned).collect::<Vec<_>>();
    match kind {
        "PodExecOptions" | "PodAttachOptions" => {
            for name in ["stdin", "stdout", "stderr", "tty"].into_iter().filter(|n| call.query.flag(n)) {
                out[name] = json!(true);
            }
            if let Some(name) = call.query.get("container").filter(|n| !n.is_empty()) {
                out["container"] = json!(name);
            }
            if kind == "PodExecOptions" {
                out["command"] = json!(words("command"));
            }
        }
        "PodPortForwardOptions" => {
            let ports = words("ports")
                .iter()
                .flat_map(|p| p.split(','))
                .filter_map(|p| p.parse().ok())
                .collect::<Vec<i32>>();
            if !ports.is_empty() {
                out["ports"] = json!(ports);
            }
        }
        _ if !call.info.rest.is_empty() => out["path"] = json!(format!("/{}", call.info.rest.join("/"))),
        _ => {}
    }
    out
}

/// `pods/log`.
pub async fn log(call: &Call, pods: &Arc<Served>) -> Result<Response<Body>> {
    let pod = stored(call, pods).await?;
    let backend = location::log(call, &pod).await?;
    let request = request(call, http::Method::GET, &backend, &HeaderMap::new(), None)?;
    let response = send(call, &backend, request).await?;
    if response.status() != StatusCode::OK {
        return Err(kubelet_error(call, response).await);
    }
    if websocket::wanted(&call.headers) {
        let pieces = response.into_body().into_data_stream();
        let pieces = pieces.take_while(|p| std::future::ready(p.is_ok())).filter_map(|p| async { p.ok() });
        return Ok(websocket::serve_bytes(call, pieces));
    }
    let media = response.headers().get(http::header::CONTENT_TYPE).cloned();
    let mut out = respond::bytes(200, "text/plain", Body::foreign(response.into_body()));
    if let Some(media) = media {
        out.headers_mut().insert(http::header::CONTENT_TYPE, media);
    }
    Ok(out)
}

async fn stored(call: &Call, served: &Arc<Served>) -> Result<Value> {
    let key = served.key(&call.info.namespace, &call.info.name)?;
    let t = verbs::target(call, served, "");
    let found = served.stored()?.resource.get(&key, storage::ReadVersion::Consistent).await;
    let object = found.map_err(|e| t.storage_error(e))?.ok_or_else(|| served.not_found(t.name))?;
    served.value(&object)
}

/// What a kubelet complained about, as a status of ours.
async fn kubelet_error(call: &Call, response: Response<Incoming>) -> Status {
    let code = response.status().as_u16();
    let text = Limited::new(response.into_body(), MAX_ERROR).collect().await;
    let text = text.map(|b| String::from_utf8_lossy(&b.to_bytes()).into_owned()).unwrap_or_default();
    match code {
        400 => Status::bad_request(text),
        404 => {
            let mut s = Status::not_found("", &call.info.resource, &call.info.name);
            s.message = format!(
                "the server could not find the requested resource ( {}/{} {})",
                call.info.resource, call.info.subresource, call.info.name
            );
            s
        }
        _ => Status::internal(text),
    }
}

/// `pods/exec`, `pods/attach`, `pods/portforward`.
pub async fn stream(call: &Call, pods: &Arc<Served>, how: &str) -> Result<Response<Body>> {
    let pod = stored(call, pods).await?;
    let options = match how {
        "exec" => "PodExecOptions",
        "attach" => "PodAttachOptions",
        _ => "PodPortForwardOptions",
    };
    admit_connect(call, pods, options).await?;
    may_create(call).await?;
    let backend = location::stream(call, &pod, how).await?;
    if !wants_upgrade(&call.headers) {
        return Err(Status::bad_request("Upgrade request required"));
    }
    match translate::wanted(call, &pod, how) {
        Some(translate::How::Remote) => translate::remote(call, &backend).await,
        Some(translate::How::Tunnel(protocol)) => translate::tunnel(call, &backend, &protocol).await,
        None => upgrade(call, &backend).await,
    }
}

/// A stream does things in a container: being allowed to read the pod by a GET is not enough for that.
async fn may_create(call: &Call) -> Result<()> {
    if call.info.verb == "create"
        || !call.server.settings.gates.enabled("AuthorizePodWebsocketUpgradeCreatePermission")
    {
        return Ok(());
    }
    let mut attributes = crate::server::attributes(call);
    attributes.verb = "create";
    let verdict = call.server.authorizer.authorize(&attributes).await;
    if verdict.allowed() { Ok(()) } else { Err(attributes.forbidden(&verdict.reason)) }
}

/// `nodes/proxy`, `pods/proxy`, `services/proxy`.
pub async fn proxy(call: &Call, served: &Arc<Served>) -> Result<Response<Body>> {
    let options = match call.info.resource.as_str() {
        "nodes" => "NodeProxyOptions",
        "services" => "ServiceProxyOptions",
        _ => "PodProxyOptions",
    };
    admit_connect(call, served, options).await?;
    let backend = location::proxied(call).await?;
    // A folder without its slash would break every relative link of the page.
    if call.info.rest.is_empty()
        && call.query.get("path").is_none()
        && !call.uri.path().ends_with('/')
        && matches!(call.method, http::Method::GET | http::Method::HEAD)
    {
        let to =
            format!("{}/{}", call.uri.path(), call.uri.query().map(|q| format!("?{q}")).unwrap_or_default());
        let mut r = respond::text(301, "");
        if let Ok(v) = HeaderValue::from_str(&to) {
            r.headers_mut().insert(http::header::LOCATION, v);
        }
        return Ok(r);
    }
    if wants_upgrade(&call.headers) {
        return upgrade(call, &backend).await;
    }
    let body = call.take_body();
    let request = request(call, call.method.clone(), &backend, &call.headers, body)?;
    let response = forward(call, &backend, request).await?;
    let (mut parts, body) = response.into_parts();
    HOP.iter().for_each(|h| drop(parts.headers.remove(h)));
    pages::through_proxy(call, &backend, parts, body).await
}

/// Whether the client wants to leave HTTP for a protocol that may be passed through.
pub fn wants_upgrade(headers: &HeaderMap) -> bool {
    let asks = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .any(|v| v.split(',').any(|t| t.trim().eq_ignore_ascii_case("upgrade")));
    asks && headers.contains_key(UPGRADE)
}

fn may_pass(headers: &HeaderMap) -> bool {
    headers
        .get(UPGRADE)
        .and_then(|v| v.to_str().ok())
        .is_some_and(|v| v.eq_ignore_ascii_case("websocket") || v.to_ascii_lowercase().starts_with("spdy/"))
}

type Out = http_body_util::combinators::UnsyncBoxBody<bytes::Bytes, hyper::Error>;

fn request(
    call: &Call,
    method: http::Method,
    backend: &Backend,
    headers: &HeaderMap,
    body: Option<Incoming>,
) -> Result<Request<Out>> {
    let body = match body {
        Some(b) => b.boxed_unsync(),
        None => http_body_util::Empty::new().map_err(|never| match never {}).boxed_unsync(),
    };
    let mut out =
        Request::builder().method(method).uri(&backend.path).body(body).map_err(Status::internal)?;
    for (name, value) in headers {
        let secret = [AUTHORIZATION, COOKIE, HOST, CONTENT_LENGTH].contains(name) && *name != CONTENT_LENGTH;
        if !HOP.contains(name) && !secret {
            out.headers_mut().append(name.clone(), value.clone());
        }
    }
    let host = HeaderValue::from_str(&backend.authority).map_err(Status::internal)?;
    out.headers_mut().insert(HOST, host);
    if let Some(peer) = call.peer
        && let Ok(v) = HeaderValue::from_str(&peer.ip().to_string())
    {
        out.headers_mut().append("x-forwarded-for", v);
    }
    Ok(out)
}

async fn forward(call: &Call, backend: &Backend, request: Request<Out>) -> Result<Response<Incoming>> {
    connect(call, backend).await?.send_request(request).await.map_err(|e| unreachable_backend(&e))
}

/// For what must not be redirected.
async fn send(call: &Call, backend: &Backend, request: Request<Out>) -> Result<Response<Incoming>> {
    let response = forward(call, backend, request).await?;
    if response.status().is_redirection() && response.status() != StatusCode::NOT_MODIFIED {
        let s =
            Status::new(502, "", "the backend attempted to redirect this request, which is not permitted");
        return Err(s);
    }
    Ok(response)
}

fn unreachable_backend(e: &dyn std::fmt::Display) -> Status {
    let mut s = Status::unavailable(format!("error trying to reach service: {e}"));
    s.code = 503;
    s
}

async fn connect(call: &Call, backend: &Backend) -> Result<hyper::client::conn::http1::SendRequest<Out>> {
    let io = transport::open(call, backend).await.map_err(|e| unreachable_backend(&e))?;
    let (sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(io)).await.map_err(|e| unreachable_backend(&e))?;
    call.server.tasks.spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "connection to a backend ended");
        }
    });
    Ok(sender)
}

/// Asks the backend to switch protocols and, once it has, joins the two connections.
async fn upgrade(call: &Call, backend: &Backend) -> Result<Response<Body>> {
    if !may_pass(&call.headers) {
        return Err(Status::bad_request("unable to upgrade: only SPDY and WebSocket can be passed through"));
    }
    let Some(client) = call.take_upgrade() else {
        return Err(Status::bad_request("Upgrade request required"));
    };
    let mut request = request(call, call.method.clone(), backend, &call.headers, None)?;
    ask_upgrade(call, request.headers_mut());
    let response = send(call, backend, request).await?;
    join(call, client, response)
}

fn ask_upgrade(call: &Call, headers: &mut HeaderMap) {
    for name in [CONNECTION, UPGRADE] {
        if let Some(v) = call.headers.get(&name) {
            headers.insert(name, v.clone());
        }
    }
    headers.remove(CONTENT_LENGTH);
}

/// Joins the client's connection to the backend's, if the backend has switched protocols.
fn join(
    call: &Call,
    client: hyper::upgrade::OnUpgrade,
    mut response: Response<Incoming>,
) -> Result<Response<Body>> {
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        // No tunnel: the answer is passed on and the connection to the backend is let go.
        let (mut parts, body) = response.into_parts();
        HOP.iter().for_each(|h| drop(parts.headers.remove(h)));
        return Ok(Response::from_parts(parts, Body::foreign(body)));
    }
    let headers = response.headers().clone();
    let backend = hyper::upgrade::on(&mut response);
    let stop = call.server.stopping.clone();
    call.server.tasks.spawn(async move {
        let joined = async {
            let (client, backend) = tokio::try_join!(client, backend).map_err(std::io::Error::other)?;
            let (mut client, mut backend) = (TokioIo::new(client), TokioIo::new(backend));
            tokio::io::copy_bidirectional(&mut client, &mut backend).await
        };
        tokio::select! {
            ended = joined => if let Err(error) = ended { tracing::debug!(%error, "tunnel ended") },
            () = stop.cancelled() => {}
        }
    });
    let mut out = Response::new(Body::empty());
    *out.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *out.headers_mut() = headers;
    Ok(out)
}
