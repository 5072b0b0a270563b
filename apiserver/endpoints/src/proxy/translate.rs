//! WebSocket clients and kubelets that speak SPDY only: exec and attach are translated stream by stream, port-forward
//! is SPDY within WebSocket messages already and only has to be unwrapped.
//!
//! A kubelet that says it can do that itself gets the client's connection as it is.

use super::target::Backend;
use super::{HOP, request, send, unreachable_backend};
use crate::body::Body;
use crate::call::Call;
use crate::websocket::{offered, switching};
use api::Value;
use api::status::{Cause, Details, Result, Status};
use http::header::{CONNECTION, HeaderValue, UPGRADE};
use http::{HeaderMap, Method, Response, StatusCode};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use streams::remotecommand::{self, Protocol, Wants};
use streams::{portforward, spdy, upgrade};

const V5: &str = "v5.channel.k8s.io";
const TUNNEL: &str = "SPDY/3.1+";

/// What is to be translated.
pub enum How {
    Remote,
    /// The stream protocol inside of the tunnel.
    Tunnel(String),
}

/// Whether this request is for us to translate.
pub fn wanted(call: &Call, pod: &Value, how: &str) -> Option<How> {
    if !crate::websocket::wanted(&call.headers) {
        return None;
    }
    let gates = &call.server.settings.gates;
    let gate =
        if how == "portforward" { "PortForwardWebsockets" } else { "TranslateStreamCloseWebsocketRequests" };
    let by_kubelet = gates.enabled("ExtendWebSocketsToKubelet") && declares(call, pod);
    if !gates.enabled(gate) || by_kubelet {
        return None;
    }
    let protocols = offered(&call.headers);
    if how != "portforward" {
        return protocols.contains(&V5).then_some(How::Remote);
    }
    let inner = protocols.iter().find_map(|p| p.strip_prefix(TUNNEL).filter(|p| p.ends_with("k8s.io")));
    inner.map(|p| How::Tunnel(p.to_owned()))
}

/// Whether the pod's node says that it understands WebSockets.
fn declares(call: &Call, pod: &Value) -> bool {
    let name = pod["spec"]["nodeName"].as_str().unwrap_or_default();
    let node = call.server.registry.get(("", "nodes"), "", name);
    let features = node.as_ref().and_then(|n| n["status"]["declaredFeatures"].as_array().cloned());
    features.is_some_and(|f| f.iter().any(|f| f == "ExtendWebSocketsToKubelet"))
}

enum Answer {
    Switched(Upgraded, HeaderMap),
    Other(Response<hyper::body::Incoming>),
}

/// Asks the kubelet for a SPDY connection.
async fn ask(call: &Call, backend: &Backend, protocols: &[&str]) -> Result<Answer> {
    let mut request = request(call, Method::POST, backend, &HeaderMap::new(), None)?;
    let headers = request.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static(upgrade::SPDY));
    for p in protocols {
        headers.append(
            "x-stream-protocol-version",
            HeaderValue::from_str(p).map_err(|e| Status::bad_request(e.to_string()))?,
        );
    }
    let mut response = send(call, backend, request).await?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(Answer::Other(response));
    }
    let headers = response.headers().clone();
    let io = hyper::upgrade::on(&mut response).await.map_err(|e| unreachable_backend(&e))?;
    Ok(Answer::Switched(io, headers))
}

/// Exec and attach. The client has its WebSocket whatever the kubelet says; failures come on the error channel.
pub async fn remote(call: &Call, backend: &Backend) -> Result<Response<Body>> {
    let Some(answer) = switching(&call.headers, Some(V5)) else {
        return Err(Status::bad_request("unable to upgrade: not a websocket handshake"));
    };
    let Some(client) = call.take_upgrade() else {
        return Err(Status::bad_request("Upgrade request required"));
    };
    let wants = Wants {
        stdin: call.query.flag("stdin"),
        stdout: call.query.flag("stdout"),
        stderr: call.query.flag("stderr"),
        tty: call.query.flag("tty"),
    };
    let runtime = match ask(call, backend, &remotecommand::SPDY_PROTOCOLS).await {
        Ok(Answer::Switched(io, _)) => Ok(spdy::Connection::client(TokioIo::new(io))),
        Ok(Answer::Other(response)) => Err(refused(response).await),
        Err(e) => Err(e),
    };
    let stop = call.server.stopping.clone();
    call.server.tasks.spawn(async move {
        let run = async {
            let socket = remotecommand::websocket(TokioIo::new(client.await?)).await;
            match runtime {
                Ok(runtime) => remotecommand::bridge(socket, Protocol::V5, wants, runtime).await,
                Err(status) => {
                    remotecommand::refuse(socket, Protocol::V5, status.to_value().to_string().as_bytes())
                        .await
                }
            }
        };
        tokio::select! {
            ended = run => if let Err(error) = ended { tracing::debug!(%error, "translated stream ended") },
            () = stop.cancelled() => {}
        }
    });
    Ok(answer)
}

/// What the kubelet said instead of switching, in the words of a SPDY client.
async fn refused(response: Response<hyper::body::Incoming>) -> Status {
    use http_body_util::{BodyExt, Limited};
    let body = Limited::new(response.into_body(), super::MAX_ERROR).collect().await;
    let bytes = body.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let text = match serde_json::from_slice::<Value>(&bytes) {
        Ok(status) if status["kind"] == "Status" => status["message"].as_str().unwrap_or_default().to_owned(),
        _ => String::from_utf8_lossy(&bytes).trim().to_owned(),
    };
    let text = format!("unable to upgrade connection: {text}");
    let mut s = Status::new(500, "InternalError", format!("Internal error occurred: {text}"));
    s.details = Some(Box::new(Details {
        causes: vec![Cause { message: text, ..Default::default() }],
        ..Default::default()
    }));
    s
}

/// Port-forward: the bytes of the WebSocket's messages are the kubelet's SPDY connection.
pub async fn tunnel(call: &Call, backend: &Backend, protocol: &str) -> Result<Response<Body>> {
    let (io, headers) = match ask(call, backend, &[protocol]).await? {
        Answer::Switched(io, headers) => (io, headers),
        Answer::Other(response) => {
            let (mut parts, body) = response.into_parts();
            HOP.iter().for_each(|h| drop(parts.headers.remove(h)));
            return Ok(Response::from_parts(parts, Body::foreign(body)));
        }
    };
    let chosen = headers.get("x-stream-protocol-version").and_then(|v| v.to_str().ok()).map(str::trim);
    let chosen = chosen.filter(|p| !p.is_empty()).map(|p| format!("{TUNNEL}{p}"));
    let (Some(answer), Some(client)) = (switching(&call.headers, chosen.as_deref()), call.take_upgrade())
    else {
        return Err(Status::bad_request("unable to upgrade: not a websocket handshake"));
    };
    let stop = call.server.stopping.clone();
    call.server.tasks.spawn(async move {
        let run = async {
            let socket = remotecommand::websocket(TokioIo::new(client.await?)).await;
            portforward::tunnel(socket, TokioIo::new(io)).await
        };
        tokio::select! {
            ended = run => if let Err(error) = ended { tracing::debug!(%error, "tunnel ended") },
            () = stop.cancelled() => {}
        }
    });
    Ok(answer)
}
