//! What the controllers of nodes share: references for events, pods by node, ending a pod for a reason.

pub mod ipam;
pub mod lifecycle;
pub mod podgc;
pub mod taints;
pub mod ttl;
mod zones;

use std::sync::Arc;

use controller_kit::meta::MetaExt;
use controller_kit::{Events, Shared, errors, now_time, pod};
use k8s_openapi::api::core::v1::{Node, ObjectReference, Pod, PodCondition};
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, Client};
use serde_json::json;

/// The name of the index of pods by node.
pub(crate) const BY_NODE: &str = "node";

/// Makes the index of pods by node, once.
pub(crate) fn index_by_node(pods: &Shared<Pod>) {
    pods.index(BY_NODE, |p: &Pod| Some(pod::node(p).to_owned()).filter(|n| !n.is_empty()));
}

/// The pods on a node.
pub(crate) fn pods_on(pods: &Shared<Pod>, node: &str) -> Vec<Arc<Pod>> {
    pods.by(BY_NODE, node)
}

/// Events about nodes have always named them without group.
pub(crate) fn node_reference(node: &Node) -> ObjectReference {
    ObjectReference {
        kind: Some("Node".into()),
        api_version: Some("v1".into()),
        name: node.metadata.name.clone(),
        uid: node.metadata.uid.clone(),
        ..ObjectReference::default()
    }
}

/// `Node n status is now: S`.
pub(crate) fn told_status(events: &Events, node: &Node, status: &str) {
    let text = format!("Node {} status is now: {status}", node.name());
    events.about(&node_reference(node), "Normal", status, text);
}

/// Marks a pod as failed, with a condition that says why, and deletes it.
pub(crate) async fn end_pod(
    client: &Client,
    pod: &Pod,
    condition: Option<(&str, &str)>,
    fail: bool,
    grace: Option<u32>,
) -> Result<(), kube::Error> {
    let api: Api<Pod> = Api::namespaced(client.clone(), pod.ns());
    let mut status = json!({});
    if fail && !pod::finished(pod) {
        status["phase"] = "Failed".into();
    }
    if let Some((reason, message)) = condition {
        let new = PodCondition {
            type_: "DisruptionTarget".into(),
            status: "True".into(),
            reason: Some(reason.into()),
            message: Some(message.into()),
            last_transition_time: Some(now_time()),
            observed_generation: pod.metadata.generation,
            ..PodCondition::default()
        };
        status["conditions"] = json!([new]);
    }
    if status.as_object().is_some_and(|s| !s.is_empty()) {
        let patch = json!({"metadata": {"uid": pod.uid()}, "status": status});
        let done = api.patch_status(pod.name(), &PatchParams::default(), &Patch::Strategic(patch)).await;
        if errors::optional(done)?.is_none() {
            return Ok(());
        }
    }
    let only = Preconditions { uid: pod.metadata.uid.clone(), resource_version: None };
    let params =
        DeleteParams { grace_period_seconds: grace, preconditions: Some(only), ..DeleteParams::default() };
    errors::optional(api.delete(pod.name(), &params).await)?;
    Ok(())
}
