//! `componentstatuses`: deprecated, and still what some people type first.

use crate::body::Body;
use crate::call::Call;
use crate::negotiate::{Offers, Shape};
use crate::respond;
use crate::served::Served;
use api::status::{Result, Status};
use api::{Value, json};
use http::Response;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;

/// The components that stand beside this server on its machine.
const LOCAL: [(&str, u16); 2] = [("scheduler", 10259), ("controller-manager", 10257)];

/// Answers GET and LIST.
pub async fn serve(call: &Call, served: &Arc<Served>) -> Result<Response<Body>> {
    let mut accepted = call.accepted(Offers::PLAIN)?;
    accepted.shape = Shape::Object;
    call.warn("v1 ComponentStatus is deprecated in v1.19+");
    if call.info.verb == "get" {
        let name = call.info.name.as_str();
        let found = all(call).await.into_iter().find(|c| c["metadata"]["name"] == name);
        let mut one = found.ok_or_else(|| served.not_found(name))?;
        one["kind"] = "ComponentStatus".into();
        one["apiVersion"] = "v1".into();
        return respond::value(call, 200, &one, accepted);
    }
    if call.info.verb != "list" {
        return Err(Status::method_not_supported("", "componentstatuses", call.info.verb));
    }
    let list =
        json!({"kind": "ComponentStatusList", "apiVersion": "v1", "metadata": {}, "items": all(call).await});
    respond::value(call, 200, &list, accepted)
}

async fn all(call: &Call) -> Vec<Value> {
    let mut out = Vec::new();
    for (name, port) in LOCAL {
        let reached =
            tokio::time::timeout(Duration::from_secs(2), TcpStream::connect(("127.0.0.1", port))).await;
        out.push(status(name, matches!(reached, Ok(Ok(_))), &format!("cannot reach 127.0.0.1:{port}")));
    }
    let etcd = call.server.store.healthy().await;
    out.push(status("etcd-0", etcd.is_ok(), &etcd.err().map(|e| e.to_string()).unwrap_or_default()));
    out
}

fn status(name: &str, healthy: bool, why: &str) -> Value {
    let (status, message) = if healthy { ("True", "ok") } else { ("False", why) };
    json!({
        "metadata": {"name": name},
        "conditions": [{"type": "Healthy", "status": status, "message": message}],
    })
}
