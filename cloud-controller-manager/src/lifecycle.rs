//! The node lifecycle controller: a node that is not ready and whose machine is gone is deleted; one whose machine is
//! shut down is tainted, so that its pods move.

use std::sync::Arc;
use std::time::Duration;

use client::{Recorder, is_not_found, object_ref};
use k8s_openapi::api::core::v1::{Node, Taint};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::json;

use crate::manager::Context;
use crate::provider::Instances;

const SHUTDOWN: &str = "node.cloudprovider.kubernetes.io/shutdown";

/// Runs the controller until shutdown. A cloud tells nobody that a machine is gone: it has to be asked.
pub async fn run(ctx: Context, period: Duration) {
    let Some(instances) = ctx.provider.instances() else { return };
    let monitor = Monitor {
        api: Api::all(ctx.client.clone()),
        recorder: ctx.recorder("cloud-node-lifecycle-controller"),
        instances,
    };
    tokio::select! {
        () = ctx.shutdown.cancelled() => return,
        () = ctx.nodes.synced() => {}
    }
    loop {
        for node in ctx.nodes.store().list() {
            if let Err(error) = monitor.check(&node).await {
                let name = node.metadata.name.as_deref().unwrap_or_default();
                tracing::error!(
                    node = name,
                    error = format!("{error:#}"),
                    "Error checking node against the cloud"
                );
            }
        }
        tokio::select! {
            () = ctx.shutdown.cancelled() => return,
            () = tokio::time::sleep(period) => {}
        }
    }
}

struct Monitor {
    api: Api<Node>,
    instances: Arc<dyn Instances>,
    recorder: Recorder,
}

impl Monitor {
    async fn check(&self, node: &Node) -> anyhow::Result<()> {
        match ready(node) {
            // A node that never reported is still starting.
            None => Ok(()),
            Some(true) => self.set_taint(node, false).await,
            Some(false) if !self.instances.exists(node).await? => self.delete(node).await,
            Some(false) if self.instances.is_shut_down(node).await? => self.set_taint(node, true).await,
            Some(false) => Ok(()),
        }
    }

    async fn delete(&self, node: &Node) -> anyhow::Result<()> {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        let about = object_ref(node);
        let message = format!("Deleting node {name} because it does not exist in the cloud provider");
        self.recorder.event(&about, "Normal", "DeletingNode", &message);
        match self.api.delete(name, &DeleteParams::default()).await {
            Ok(_) => Ok(()),
            Err(error) if is_not_found(&error) => Ok(()),
            Err(error) => {
                let message = format!("Failed deleting node {name}: {error}");
                self.recorder.event(&about, "Warning", "DeletingNodeFailed", &message);
                Err(error.into())
            }
        }
    }

    async fn set_taint(&self, node: &Node, wanted: bool) -> anyhow::Result<()> {
        let mut taints: Vec<Taint> =
            node.spec.iter().flat_map(|s| s.taints.iter().flatten()).cloned().collect();
        if taints.iter().any(|t| t.key == SHUTDOWN) == wanted {
            return Ok(());
        }
        taints.retain(|t| t.key != SHUTDOWN);
        if wanted {
            taints.push(Taint { key: SHUTDOWN.into(), effect: "NoSchedule".into(), ..Taint::default() });
        }
        let name = node.metadata.name.as_deref().unwrap_or_default();
        let patch = json!({"metadata": {"resourceVersion": node.metadata.resource_version}, "spec": {"taints": taints}});
        self.api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await?;
        Ok(())
    }
}

/// Whether the node says that it is ready; `None` if it never said anything.
fn ready(node: &Node) -> Option<bool> {
    let conditions = node.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|c| c.type_ == "Ready").map(|c| c.status == "True")
}
