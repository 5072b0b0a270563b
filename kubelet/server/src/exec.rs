//! Exec, attach, port-forward and run: the client is joined to the runtime's streaming server.

use crate::query::Query;
use crate::routes::{Shared, running_container};
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use component::metrics::{CounterVec, counter_vec};
use cri::v1::{AttachRequest, ExecRequest, PodSandboxFilter, PortForwardRequest};
use http::header::{CONNECTION, UPGRADE};
use http::{HeaderMap, HeaderValue, StatusCode};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use serde::Deserialize;
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use streams::remotecommand::{self, Protocol, Wants};
use streams::{portforward, spdy, upgrade};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

type Failure = (StatusCode, String);

/// How long a command of `/run` may take.
const RUN_LIMIT: Duration = Duration::from_secs(120);

/// The pod of a path, which may name its UID, and in most paths its container.
#[derive(Deserialize)]
pub struct Target {
    namespace: String,
    pod: String,
    uid: Option<String>,
    #[serde(default)]
    container: String,
}

impl Target {
    fn pod(&self, s: &Shared) -> Result<Arc<Pod>, Failure> {
        let found = s.host.pod(&self.namespace, &self.pod, self.uid.as_deref());
        found.ok_or((StatusCode::NOT_FOUND, "pod does not exist".to_owned()))
    }

    /// The runtime's id of the container.
    fn container(&self, s: &Shared) -> Result<String, Failure> {
        let name = &self.container;
        let missing = || (StatusCode::INTERNAL_SERVER_ERROR, format!("container not found ({name:?})"));
        running_container(&*self.pod(s)?, name).ok_or_else(missing)
    }
}

pub async fn exec(State(s): State<Shared>, Path(target): Path<Target>, r: Request) -> Response {
    respond(start_exec(s, &target, r).await)
}

pub async fn attach(State(s): State<Shared>, Path(target): Path<Target>, r: Request) -> Response {
    respond(start_attach(s, &target, r).await)
}

pub async fn port_forward(State(s): State<Shared>, Path(target): Path<Target>, r: Request) -> Response {
    respond(start_port_forward(s, &target, r).await)
}

fn respond(result: Result<Response, Failure>) -> Response {
    result.unwrap_or_else(IntoResponse::into_response)
}

fn wants(query: &Query) -> Result<Wants, Failure> {
    let wants = Wants {
        stdin: query.flag("input"),
        stdout: query.flag("output"),
        stderr: query.flag("error"),
        tty: query.flag("tty"),
    };
    if !(wants.stdin || wants.stdout || wants.stderr) {
        let text = "you must specify at least 1 of stdin, stdout, stderr".to_owned();
        return Err((StatusCode::BAD_REQUEST, text));
    }
    Ok(wants)
}

async fn start_exec(s: Shared, target: &Target, r: Request) -> Result<Response, Failure> {
    count(&r);
    let query = Query::parse(r.uri().query());
    let wants = wants(&query)?;
    let container_id = target.container(&s)?;
    let request = ExecRequest {
        container_id,
        cmd: query.all("command"),
        tty: wants.tty,
        stdin: wants.stdin,
        stdout: wants.stdout,
        stderr: wants.stderr && !wants.tty,
    };
    let url = s.host.runtime().exec(request).await.map_err(runtime_failure)?;
    remote_command(s, url, wants, r).await
}

async fn start_attach(s: Shared, target: &Target, r: Request) -> Result<Response, Failure> {
    count(&r);
    let wants = wants(&Query::parse(r.uri().query()))?;
    let container_id = target.container(&s)?;
    let request = AttachRequest {
        container_id,
        stdin: wants.stdin,
        tty: wants.tty,
        stdout: wants.stdout,
        stderr: wants.stderr && !wants.tty,
    };
    let url = s.host.runtime().attach(request).await.map_err(runtime_failure)?;
    remote_command(s, url, wants, r).await
}

async fn start_port_forward(s: Shared, target: &Target, r: Request) -> Result<Response, Failure> {
    count(&r);
    let found = target.pod(&s)?;
    let sandbox = ready_sandbox(&s, &found).await?;
    let request = PortForwardRequest { pod_sandbox_id: sandbox, port: Vec::new() };
    let url = s.host.runtime().port_forward(request).await.map_err(runtime_failure)?;
    match upgrade::requested(r.headers()) {
        Some("spdy/3.1") => join_spdy(s, url, r).await,
        Some(_) => tunnel(s, url, r).await,
        None => Err(not_an_upgrade()),
    }
}

async fn ready_sandbox(s: &Shared, pod: &Pod) -> Result<String, Failure> {
    let uid = s.host.runtime_uid(pod);
    let filter = PodSandboxFilter {
        label_selector: [("io.kubernetes.pod.uid".to_owned(), uid)].into(),
        ..Default::default()
    };
    let sandboxes = s.host.runtime().list_pod_sandbox(Some(filter)).await.map_err(runtime_failure)?;
    let ready = sandboxes.into_iter().filter(|x| x.state == cri::v1::PodSandboxState::SandboxReady as i32);
    let newest = ready.max_by_key(|x| x.created_at);
    let missing = || (StatusCode::INTERNAL_SERVER_ERROR, format!("pod not found ({:?})", full_name(pod)));
    newest.map(|x| x.id).ok_or_else(missing)
}

/// How the kubelet names a pod in words.
fn full_name(pod: &Pod) -> String {
    let meta = &pod.metadata;
    format!("{}_{}", meta.name.as_deref().unwrap_or_default(), meta.namespace.as_deref().unwrap_or_default())
}

fn runtime_failure(e: cri::Error) -> Failure {
    (StatusCode::INTERNAL_SERVER_ERROR, e.to_string())
}

/// What the runtime's streaming server answered instead of taking the stream is the answer.
fn stream_failure(e: streams::Error) -> Failure {
    let streams::Error::Refused { status, text } = e else {
        return (StatusCode::INTERNAL_SERVER_ERROR, e.to_string());
    };
    match StatusCode::from_u16(status) {
        Ok(status) if status.is_client_error() || status.is_server_error() => (status, format!("{text}\n")),
        _ => {
            let text = format!("invalid upgrade response: status code {status}\n");
            (StatusCode::INTERNAL_SERVER_ERROR, text)
        }
    }
}

fn not_an_upgrade() -> Failure {
    (StatusCode::INTERNAL_SERVER_ERROR, "Upgrade request required\n".to_owned())
}

/// WebSocket streams that were asked for, by what for.
static WEBSOCKETS: LazyLock<CounterVec> = LazyLock::new(|| {
    let help = "[ALPHA] Total number of WebSocket streaming requests (exec/attach/portforward) received by the kubelet.";
    counter_vec("kubelet_websocket_streaming_requests_total", help, &["subresource"])
});

/// Counts a request for a stream that comes as WebSocket.
fn count(r: &Request) {
    if upgrade::requested(r.headers()) != Some("websocket") {
        return;
    }
    let what = match r.uri().path().split('/').nth(1) {
        Some("exec") => "exec",
        Some("attach") => "attach",
        _ => "portforward",
    };
    WEBSOCKETS.with(&[what]).inc();
}

async fn remote_command(s: Shared, url: String, wants: Wants, r: Request) -> Result<Response, Failure> {
    match upgrade::requested(r.headers()) {
        Some("spdy/3.1") => join_spdy(s, url, r).await,
        Some(_) => translate(s, url, wants, r).await,
        None => Err(not_an_upgrade()),
    }
}

fn offered<'a>(headers: &'a HeaderMap, name: &str) -> Vec<&'a str> {
    let values = headers.get_all(name).iter().filter_map(|v| v.to_str().ok());
    values.flat_map(|v| v.split(',')).map(str::trim).collect()
}

fn switching(to: &'static str) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    response.headers_mut().insert(UPGRADE, HeaderValue::from_static(to));
    response
}

/// Carries bytes between a client, once it has the answer, and the runtime.
fn carry(s: &Shared, mut r: Request, io: upgrade::Io) {
    let client = hyper::upgrade::on(&mut r);
    s.tasks.spawn(async move {
        match client.await {
            Ok(client) => upgrade::join(TokioIo::new(client), io).await,
            Err(e) => tracing::debug!("upgrade of a client: {e}"),
        }
    });
}

/// The runtime speaks the client's own protocol: only bytes are carried.
async fn join_spdy(s: Shared, url: String, r: Request) -> Result<Response, Failure> {
    let protocols = offered(r.headers(), "x-stream-protocol-version");
    let (io, answer) = upgrade::spdy_client(&url, &protocols).await.map_err(stream_failure)?;
    let mut response = switching(upgrade::SPDY);
    if let Some(chosen) = answer.headers().get("x-stream-protocol-version") {
        response.headers_mut().insert("x-stream-protocol-version", chosen.clone());
    }
    carry(&s, r, io);
    Ok(response)
}

fn websocket_response(r: &Request, protocol: Option<&'static str>) -> Result<Response, Failure> {
    let key = r.headers().get("sec-websocket-key").ok_or_else(not_an_upgrade)?;
    let accept = derive_accept_key(key.as_bytes());
    let mut response = switching("websocket");
    let accept = HeaderValue::from_str(&accept).map_err(|e| (StatusCode::BAD_REQUEST, e.to_string()))?;
    response.headers_mut().insert("sec-websocket-accept", accept);
    if let Some(p) = protocol {
        response.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static(p));
    }
    Ok(response)
}

async fn translate(s: Shared, url: String, wants: Wants, mut r: Request) -> Result<Response, Failure> {
    let names = offered(r.headers(), "sec-websocket-protocol").join(",");
    let (name, protocol) = Protocol::choose(&names)
        .ok_or_else(|| (StatusCode::FORBIDDEN, format!("no known WebSocket protocol among {names}")))?;
    let (io, _) = upgrade::spdy_client(&url, &remotecommand::SPDY_PROTOCOLS).await.map_err(stream_failure)?;
    let response = websocket_response(&r, name)?;
    let client = hyper::upgrade::on(&mut r);
    s.tasks.spawn(async move {
        let carried = async {
            let socket = remotecommand::websocket(TokioIo::new(client.await?)).await;
            remotecommand::bridge(socket, protocol, wants, spdy::Connection::client(io)).await
        };
        if let Err(e) = carried.await {
            tracing::debug!("remote command: {e}");
        }
    });
    Ok(response)
}

/// The handshake's headers that the runtime has to see.
const HANDSHAKE: [&str; 5] = [
    "sec-websocket-key",
    "sec-websocket-version",
    "sec-websocket-protocol",
    "sec-websocket-extensions",
    "origin",
];

/// The older way of WebSockets, a pair of channels a port, is the runtime's own: only bytes are carried.
async fn join_websocket(s: Shared, mut url: String, r: Request) -> Result<Response, Failure> {
    if let Some(query) = r.uri().query() {
        url = format!("{url}{}{query}", if url.contains('?') { '&' } else { '?' });
    }
    let mut headers = HeaderMap::new();
    for name in HANDSHAKE {
        for value in r.headers().get_all(name) {
            headers.append(name, value.clone());
        }
    }
    let (io, answer) = upgrade::websocket_client(&url, headers).await.map_err(stream_failure)?;
    let mut response = switching("websocket");
    for name in ["sec-websocket-accept", "sec-websocket-protocol"] {
        if let Some(value) = answer.headers().get(name) {
            response.headers_mut().insert(name, value.clone());
        }
    }
    carry(&s, r, io);
    Ok(response)
}

async fn tunnel(s: Shared, url: String, mut r: Request) -> Result<Response, Failure> {
    if !offered(r.headers(), "sec-websocket-protocol").contains(&portforward::TUNNEL_PROTOCOL) {
        return join_websocket(s, url, r).await;
    }
    let (io, _) = upgrade::spdy_client(&url, &[portforward::SPDY_PROTOCOL]).await.map_err(stream_failure)?;
    let response = websocket_response(&r, Some(portforward::TUNNEL_PROTOCOL))?;
    let client = hyper::upgrade::on(&mut r);
    s.tasks.spawn(async move {
        let carried = async {
            let socket = remotecommand::websocket(TokioIo::new(client.await?)).await;
            portforward::tunnel(socket, io).await
        };
        if let Err(e) = carried.await {
            tracing::debug!("port-forward: {e}");
        }
    });
    Ok(response)
}

/// Runs a command to its end and answers with its output.
pub async fn run(State(s): State<Shared>, Path(target): Path<Target>, r: Request) -> Response {
    let command = Query::parse(r.uri().query()).get("cmd").unwrap_or("").to_owned();
    drop(r);
    let result = async {
        let id = target.container(&s)?;
        let words = command.split_whitespace().map(str::to_owned).collect();
        let done = s.host.runtime().exec_sync(&id, words, RUN_LIMIT).await.map_err(runtime_failure)?;
        let output = [done.stdout, done.stderr].concat();
        if done.exit_code != 0 {
            let output = String::from_utf8_lossy(&output);
            let text = format!("command '{command}' exited with {}: {output}", done.exit_code);
            return Err((StatusCode::INTERNAL_SERVER_ERROR, text));
        }
        Ok(([(http::header::CONTENT_TYPE, "application/json")], output).into_response())
    };
    respond(result.await)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tower::ServiceExt;

    #[tokio::test]
    async fn paths_name_pods_with_and_without_uid() {
        let show =
            async |Path(t): Path<Target>| format!("{} {} {:?} {}", t.namespace, t.pod, t.uid, t.container);
        let router: axum::Router = axum::Router::new()
            .route("/portForward/{namespace}/{pod}", axum::routing::any(show))
            .route("/exec/{namespace}/{pod}/{container}", axum::routing::any(show))
            .route("/exec/{namespace}/{pod}/{uid}/{container}", axum::routing::any(show));
        for (path, seen) in [
            ("/portForward/n/p", "n p None "),
            ("/exec/n/p/c", "n p None c"),
            ("/exec/n/p/u/c", "n p Some(\"u\") c"),
        ] {
            let request = Request::get(path).body(Body::empty()).unwrap();
            let answer = router.clone().oneshot(request).await.unwrap();
            let body = axum::body::to_bytes(answer.into_body(), 1024).await.unwrap();
            assert_eq!(body, seen, "{path}");
        }
    }
}
