//! The node controller: gives a node that kubelet registered as uninitialized its provider id, labels and addresses,
//! then takes the taint off that kept pods away; later keeps the addresses up to date.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use client::{Key, Recorder, WorkQueue, object_ref};
use k8s_openapi::api::core::v1::{Node, NodeAddress};
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use crate::manager::Context;
use crate::provider::{InstanceMetadata, Instances};

pub const UNINITIALIZED: &str = "node.cloudprovider.kubernetes.io/uninitialized";
const PROVIDED_IP: &str = "alpha.kubernetes.io/provided-node-ip";

/// Runs the controller until shutdown.
pub async fn run(ctx: Context, workers: usize, refresh: Duration) {
    let Some(instances) = ctx.provider.instances() else { return };
    let queue: WorkQueue<Key> = WorkQueue::new("Node");
    let add = queue.clone();
    ctx.nodes.on_event(move |event| {
        if is_uninitialized(event.object()) {
            add.add(event.key());
        }
    });
    let sync =
        Arc::new(Sync { recorder: ctx.recorder("cloud-node-controller"), instances, ctx: ctx.clone() });
    let refresher = sync.clone();
    let work = queue.work(workers, ctx.shutdown.clone(), move |key| {
        let sync = sync.clone();
        async move { sync.initialize(&key).await }
    });
    tokio::join!(work, refresher.refresh_forever(refresh));
}

struct Sync {
    ctx: Context,
    instances: Arc<dyn Instances>,
    recorder: Recorder,
}

fn is_uninitialized(node: &Node) -> bool {
    taints(node).any(|t| t.key == UNINITIALIZED)
}

fn taints(node: &Node) -> impl Iterator<Item = &k8s_openapi::api::core::v1::Taint> {
    node.spec.iter().flat_map(|s| s.taints.iter().flatten())
}

impl Sync {
    async fn initialize(&self, key: &Key) -> anyhow::Result<()> {
        let api: Api<Node> = Api::all(self.ctx.client.clone());
        let Some(node) = api.get_opt(key.name()).await? else { return Ok(()) };
        if !is_uninitialized(&node) {
            return Ok(());
        }
        let metadata =
            self.instances.metadata(&node).await.context("failed to get instance metadata for node")?;
        self.update_addresses(&api, &node, &metadata).await?;
        let params = PatchParams::default();
        let fresh = api.patch(key.name(), &params, &Patch::Merge(initialized(&node, &metadata))).await?;
        tracing::info!(node = key.name(), "Successfully initialized node with cloud provider");
        self.recorder.event(&object_ref(&fresh), "Normal", "Synced", "Node synced successfully");
        Ok(())
    }

    async fn update_addresses(
        &self,
        api: &Api<Node>,
        node: &Node,
        metadata: &InstanceMetadata,
    ) -> anyhow::Result<()> {
        let current = node.status.as_ref().and_then(|s| s.addresses.clone()).unwrap_or_default();
        let provided = node.metadata.annotations.as_ref().and_then(|a| a.get(PROVIDED_IP));
        let wanted = addresses(&current, &metadata.addresses, provided.map(String::as_str))?;
        if wanted.is_empty() || wanted == current {
            return Ok(());
        }
        let name = node.metadata.name.as_deref().unwrap_or_default();
        let patch = json!({"status": {"addresses": wanted}});
        api.patch_status(name, &PatchParams::default(), &Patch::Merge(patch)).await?;
        Ok(())
    }

    async fn refresh_forever(&self, period: Duration) {
        self.ctx.nodes.synced().await;
        loop {
            tokio::select! {
                () = self.ctx.shutdown.cancelled() => return,
                () = tokio::time::sleep(period) => self.refresh().await,
            }
        }
    }

    async fn refresh(&self) {
        let api: Api<Node> = Api::all(self.ctx.client.clone());
        for node in self.ctx.nodes.store().list() {
            if is_uninitialized(&node) {
                continue;
            }
            let name = node.metadata.name.as_deref().unwrap_or_default();
            let updated = match self.instances.metadata(&node).await {
                Ok(metadata) => self.update_addresses(&api, &node, &metadata).await,
                Err(error) => Err(error.into()),
            };
            if let Err(error) = updated {
                tracing::error!(node = name, %error, "Error getting instance metadata for node addresses");
            }
        }
    }
}

/// The patch that initializes a node; it fails if the node has changed meanwhile, because taints are a whole list.
fn initialized(node: &Node, metadata: &InstanceMetadata) -> serde_json::Value {
    let left: Vec<_> = taints(node).filter(|t| t.key != UNINITIALIZED).collect();
    let mut spec = json!({"taints": left});
    let has_id = node.spec.as_ref().and_then(|s| s.provider_id.as_ref()).is_some_and(|p| !p.is_empty());
    if !has_id && !metadata.provider_id.is_empty() {
        spec["providerID"] = metadata.provider_id.clone().into();
    }
    json!({
        "metadata": {"resourceVersion": node.metadata.resource_version, "labels": labels(metadata)},
        "spec": spec,
    })
}

fn labels(metadata: &InstanceMetadata) -> BTreeMap<String, String> {
    let mut out: BTreeMap<String, String> = BTreeMap::new();
    for (name, value) in &metadata.additional_labels {
        // A cloud does not decide what Kubernetes' own labels say.
        let domain = name.split_once('/').map_or("", |(d, _)| d);
        let reserved = |root: &str| domain == root || domain.ends_with(&format!(".{root}"));
        if reserved("kubernetes.io") || reserved("k8s.io") {
            tracing::warn!(label = name, "Discarding node label with reserved domain");
            continue;
        }
        out.insert(name.clone(), value.clone());
    }
    for (value, names) in [
        (&metadata.instance_type, ["beta.kubernetes.io/instance-type", "node.kubernetes.io/instance-type"]),
        (&metadata.zone, ["failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone"]),
        (&metadata.region, ["failure-domain.beta.kubernetes.io/region", "topology.kubernetes.io/region"]),
    ] {
        if !value.is_empty() {
            out.extend(names.map(|n| (n.to_owned(), value.clone())));
        }
    }
    out
}

/// The addresses a node should have: the cloud's, the host name that kubelet reported, and of its own address's type
/// only that which kubelet was told to use.
fn addresses(
    current: &[NodeAddress],
    cloud: &[NodeAddress],
    provided: Option<&str>,
) -> anyhow::Result<Vec<NodeAddress>> {
    let mut out = cloud.to_vec();
    if !out.iter().any(|a| a.type_ == "Hostname") {
        out.extend(current.iter().filter(|a| a.type_ == "Hostname").cloned());
    }
    let Some(ips) = provided.filter(|_| !cloud.is_empty()) else { return Ok(out) };
    let mut first = Vec::new();
    for ip in ips.split(',') {
        let Some(found) = out.iter().find(|a| a.address == ip.trim()) else {
            bail!("failed to get node address from cloud provider that matches ip: {ip}");
        };
        first.push(found.clone());
    }
    out.retain(|a| !first.iter().any(|f| f.type_ == a.type_));
    first.extend(out);
    Ok(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(kind: &str, address: &str) -> NodeAddress {
        NodeAddress { type_: kind.into(), address: address.into() }
    }

    #[test]
    fn addresses_respect_host_name_and_provided_address() {
        let (host, a, b) =
            (address("Hostname", "n"), address("InternalIP", "10.0.0.1"), address("InternalIP", "10.0.0.2"));
        let cloud = [a.clone(), b.clone()];
        assert_eq!(
            addresses(std::slice::from_ref(&host), &cloud, None).unwrap(),
            [a.clone(), b.clone(), host.clone()]
        );
        assert_eq!(addresses(std::slice::from_ref(&host), &cloud, Some("10.0.0.2")).unwrap(), [b, host]);
        assert!(addresses(&[], &cloud, Some("10.9.9.9")).is_err());
    }

    #[test]
    fn labels_of_a_cloud_are_not_kubernetes_own() {
        let additional =
            [("x.k8s.io/a", "1"), ("example.com/b", "2")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        let metadata =
            InstanceMetadata { zone: "z".into(), additional_labels: additional.into(), ..Default::default() };
        let names: Vec<String> = labels(&metadata).into_keys().collect();
        assert_eq!(
            names,
            ["example.com/b", "failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone"]
        );
    }
}
