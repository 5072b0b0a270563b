//! An APIService for every group version that this server itself has, so that the list of them is whole.

use api::registry::Registry;
use api::status::Result;
use api::{Value, json};
use endpoints::server::Server;
use endpoints::write::now;
use std::time::Duration;

const GR: (&str, &str) = ("apiregistration.k8s.io", "apiservices");

pub async fn run(server: &Server) {
    server.store.wait_ready().await;
    loop {
        super::note("local APIServices", once(server, &*server.registry).await);
        tokio::time::sleep(Duration::from_secs(60)).await;
    }
}

async fn once(server: &Server, registry: &dyn Registry) -> Result<()> {
    let table = server.table.load_full();
    for gv in table.group_versions() {
        let name = format!("{}.{}", gv.version, gv.group);
        if gv.group == "apiregistration.k8s.io" || registry.get(GR, "", &name).is_some() {
            continue;
        }
        let Some(priority) = gv.group_priority_minimum else { continue };
        let mut spec = json!({
            "version": gv.version, "groupPriorityMinimum": priority,
            "versionPriority": gv.version_priority.unwrap_or(15),
        });
        if !gv.group.is_empty() {
            spec["group"] = gv.group.as_str().into();
        }
        make(registry, &name, spec).await?;
    }
    Ok(())
}

async fn make(registry: &dyn Registry, name: &str, spec: Value) -> Result<()> {
    let object = json!({
        "metadata": {"name": name, "labels": {"kube-aggregator.kubernetes.io/automanaged": "onstart"}},
        "spec": spec,
    });
    super::bootstrap::ensure(registry, GR, "", object).await?;
    let mut have = registry.get_live(GR, "", name).await?;
    have["status"] = json!({"conditions": [{
        "type": "Available", "status": "True", "reason": "Local",
        "message": "Local APIServices are always available", "lastTransitionTime": now(),
    }]});
    registry.update(GR, "status", have).await.map(drop)
}
