//! Asks who has which.

use std::path::Path;

use anyhow::anyhow;
use kubelet_plugins::pod_resources_api::pod_resources_lister_client::PodResourcesListerClient;
use kubelet_plugins::pod_resources_api::{
    AllocatableResourcesRequest, ContainerDevices, ContainerMemory, ListPodResourcesRequest, TopologyInfo,
};
use serde_json::{Value, json};

/// Prints what all pods have and what there is to be had.
pub async fn show(kubelet: &Path) -> anyhow::Result<()> {
    let socket = kubelet.join("pod-resources/kubelet.sock");
    let channel = kubelet_plugins::connect(&socket).await.map_err(|e| anyhow!(e))?;
    let mut client = PodResourcesListerClient::new(channel);
    let pods = client.list(ListPodResourcesRequest {}).await?.into_inner().pod_resources;
    let all = client.get_allocatable_resources(AllocatableResourcesRequest {}).await?.into_inner();
    let mut shown = serde_json::Map::new();
    for pod in pods {
        let containers = pod.containers.iter().map(|c| {
            let claims = c.dynamic_resources.iter().map(|d| {
                let devices = d.claim_resources.iter().map(|r| {
                    let cdi: Vec<&str> = r.cdi_devices.iter().map(|c| c.name.as_str()).collect();
                    json!({"driver": r.driver_name, "pool": r.pool_name, "device": r.device_name, "cdi": cdi})
                });
                json!({"claim": d.claim_name, "devices": devices.collect::<Vec<_>>()})
            });
            json!({
                "name": c.name,
                "devices": devices(&c.devices),
                "cpus": c.cpu_ids,
                "memory": memory(&c.memory),
                "claims": claims.collect::<Vec<_>>(),
            })
        });
        shown.insert(format!("{}/{}", pod.namespace, pod.name), containers.collect());
    }
    let allocatable = json!({
        "devices": devices(&all.devices), "cpus": all.cpu_ids, "memory": memory(&all.memory),
    });
    println!("{}", json!({"pods": shown, "allocatable": allocatable}));
    Ok(())
}

fn nodes(topology: Option<&TopologyInfo>) -> Vec<i64> {
    topology.map(|t| t.nodes.iter().map(|n| n.id).collect()).unwrap_or_default()
}

fn devices(all: &[ContainerDevices]) -> Value {
    all.iter()
        .map(
            |d| json!({"resource": d.resource_name, "ids": d.device_ids, "numa": nodes(d.topology.as_ref())}),
        )
        .collect()
}

fn memory(all: &[ContainerMemory]) -> Value {
    all.iter()
        .map(|m| json!({"type": m.memory_type, "size": m.size, "numa": nodes(m.topology.as_ref())}))
        .collect()
}
