//! `componentstatuses`: deprecated, and still what some people type first.

use crate::body::Body;
use crate::call::Call;
use crate::negotiate::{Offers, Shape};
use crate::served::Served;
use crate::{respond, table};
use api::status::Status;
use api::{Value, json};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// The components that stand beside this server on its machine.
const LOCAL: [(&str, u16); 2] = [("scheduler", 10259), ("controller-manager", 10257)];
/// Time that one of them has to answer, and how much of the answer is read.
const PATIENCE: Duration = Duration::from_secs(2);
const MOST: usize = 4096;

/// Answers GET and LIST.
pub async fn serve(call: &Call, served: &Arc<Served>) -> Result<Response<Body>, Status> {
    let accepted = call.accepted(Offers::ALL)?;
    let tabled = accepted.shape == Shape::Table;
    if call.info.verb == "get" {
        let name = call.info.name.as_str();
        let found = all(call).await.into_iter().find(|c| c["metadata"]["name"] == name);
        let mut one = found.ok_or_else(|| served.not_found(name))?;
        one["kind"] = "ComponentStatus".into();
        one["apiVersion"] = "v1".into();
        if tabled {
            return table::one(call, served, 200, &one, accepted);
        }
        return respond::value(call, 200, &one, accepted);
    }
    if call.info.verb != "list" {
        return Err(Status::method_not_supported("", "componentstatuses", call.info.verb));
    }
    let items = all(call).await;
    if tabled {
        return table::values(call, served, &items, accepted);
    }
    let list = json!({"kind": "ComponentStatusList", "apiVersion": "v1", "metadata": {}, "items": items});
    respond::value(call, 200, &list, accepted)
}

async fn all(call: &Call) -> Vec<Value> {
    let mut out = Vec::new();
    for (name, port) in LOCAL {
        let url = format!("https://127.0.0.1:{port}/healthz");
        let asked = match tokio::time::timeout(PATIENCE, ask(port)).await {
            Ok(asked) => asked,
            Err(_) => Err("context deadline exceeded".to_owned()),
        };
        out.push(status(name, asked.map_err(|why| format!("Get \"{url}\": {why}"))));
    }
    let store = &call.server.store;
    for i in 0..store.etcd_clusters() {
        let etcd = store.healthy(i).await;
        out.push(status(&format!("etcd-{i}"), etcd.map(|()| "ok".to_owned()).map_err(|e| e.to_string())));
    }
    out
}

/// Asks for health on this machine. Who answers is not proved: nothing is told and little is believed.
async fn ask(port: u16) -> Result<String, String> {
    let refused = |e: std::io::Error| match e.kind() {
        std::io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        _ => e.to_string(),
    };
    let stream = TcpStream::connect(("127.0.0.1", port)).await;
    let stream = stream.map_err(|e| format!("dial tcp 127.0.0.1:{port}: connect: {}", refused(e)))?;
    let config = pki::trust::client(None, None).map_err(|e| e.to_string())?;
    let name = rustls::pki_types::ServerName::from(std::net::IpAddr::from([127, 0, 0, 1]));
    let stream =
        TlsConnector::from(Arc::new(config)).connect(name, stream).await.map_err(|e| e.to_string())?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    let request = Request::get("/healthz").header("host", format!("127.0.0.1:{port}"));
    let request = request.body(Empty::<Bytes>::new()).map_err(|e| e.to_string())?;
    let asking = async {
        let response = sender.send_request(request).await.map_err(|e| e.to_string())?;
        let code = response.status();
        let body = Limited::new(response.into_body(), MOST).collect().await.map_err(|e| e.to_string())?;
        let body = String::from_utf8_lossy(&body.to_bytes()).into_owned();
        if code.is_success() {
            Ok(body)
        } else {
            Err(format!("HTTP probe failed with statuscode: {}", code.as_u16()))
        }
    };
    tokio::pin!(asking);
    tokio::select! {
        said = &mut asking => said,
        // The connection only carries: its end is seen by who asks.
        _ = connection => asking.await,
    }
}

fn status(name: &str, asked: Result<String, String>) -> Value {
    let (status, message) = match asked {
        Ok(said) => ("True", said),
        Err(why) => ("False", why),
    };
    json!({
        "metadata": {"name": name},
        "conditions": [{"type": "Healthy", "status": status, "message": message}],
    })
}
