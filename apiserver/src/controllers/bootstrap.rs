//! Objects that exist in every cluster: system namespaces, priority classes, flow control,
//! bootstrap RBAC.

use crate::options::Options;
use api::registry::Registry;
use api::status::Result;
use api::{Value, json};
use component::gates::Gates;
use endpoints::server::Server;
use std::sync::atomic::Ordering;
use std::time::Duration;

const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];
const FLOWCONTROL: &str = "flowcontrol.apiserver.k8s.io";

/// Makes what is missing, again and again until all is there; after that, once in a while.
pub async fn run(server: &Server, _options: &Options, gates: &Gates) {
    server.store.wait_ready().await;
    let mut pause = Duration::from_millis(200);
    while let Err(error) = everything(&*server.registry, gates).await {
        tracing::warn!(%error, "the objects of every cluster cannot be made yet, trying again");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(10));
    }
    server.special.bootstrapped.store(true, Ordering::Release);
    loop {
        tokio::time::sleep(Duration::from_secs(60)).await;
        super::note("system namespaces", namespaces(&*server.registry).await);
        super::note("flow control", flow_control(&*server.registry).await);
    }
}

async fn everything(registry: &dyn Registry, gates: &Gates) -> Result<()> {
    namespaces(registry).await?;
    priority_classes(registry).await?;
    let gate = |g: &str| gates.enabled(g);
    auth::authz::bootstrap::reconcile(registry, &gate).await?;
    flow_control(registry).await
}

/// Creates an object unless it is there.
pub async fn ensure(registry: &dyn Registry, gr: (&str, &str), namespace: &str, object: Value) -> Result<()> {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    if registry.get(gr, namespace, name).is_some() {
        return Ok(());
    }
    match registry.create(gr, namespace, object).await {
        Err(e) if e.reason != "AlreadyExists" => Err(e),
        _ => Ok(()),
    }
}

async fn namespaces(registry: &dyn Registry) -> Result<()> {
    for name in NAMESPACES {
        ensure(registry, ("", "namespaces"), "", json!({"metadata": {"name": name}})).await?;
    }
    Ok(())
}

async fn priority_classes(registry: &dyn Registry) -> Result<()> {
    let classes = [
        (
            "system-node-critical",
            2_000_001_000,
            "Used for system critical pods that must not be moved from their current node.",
        ),
        (
            "system-cluster-critical",
            2_000_000_000,
            "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
        ),
    ];
    for (name, value, description) in classes {
        let class = json!({"metadata": {"name": name}, "value": value, "description": description});
        ensure(registry, ("scheduling.k8s.io", "priorityclasses"), "", class).await?;
    }
    Ok(())
}

/// The default priority levels and flow schemas.
async fn flow_control(registry: &dyn Registry) -> Result<()> {
    let all: Value =
        serde_json::from_str(include_str!("flowcontrol.json")).map_err(api::status::Status::internal)?;
    for resource in ["prioritylevelconfigurations", "flowschemas"] {
        for object in all[resource].as_array().into_iter().flatten() {
            ensure(registry, (FLOWCONTROL, resource), "", object.clone()).await?;
        }
    }
    Ok(())
}
