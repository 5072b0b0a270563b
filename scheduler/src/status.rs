//! What the scheduler writes into a pod's status when it has no node for it.

use crate::pod_info::PodInfo;
use k8s_openapi::api::core::v1::{Pod, PodCondition};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;

/// The pod as it will be once its nomination has gone through the apiserver.
pub fn with_nomination(pod: &PodInfo, node: &str) -> PodInfo {
    let mut copy = (*pod.pod).clone();
    copy.status.get_or_insert_default().nominated_node_name = Some(node.to_owned());
    PodInfo { pod: copy.into(), ..pod.clone() }
}

/// Writes the condition `PodScheduled=False`, and the nominated node if there is one; nothing if both stand already.
pub async fn write_refusal(
    client: &Client,
    pod: &PodInfo,
    reason: &str,
    message: &str,
    nominated: Option<&str>,
) -> Result<(), kube::Error> {
    let old = scheduled_condition(&pod.pod);
    let same = old.is_some_and(|c| {
        c.status == "False" && c.reason.as_deref() == Some(reason) && c.message.as_deref() == Some(message)
    });
    let nominate = nominated.filter(|n| pod.nominated_node() != Some(n));
    if same && nominate.is_none() {
        return Ok(());
    }
    let since = old.filter(|c| c.status == "False").and_then(|c| c.last_transition_time.clone());
    let since = since.unwrap_or_else(|| {
        let now = k8s_openapi::jiff::Timestamp::now();
        k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now)
    });
    let mut status = json!({"conditions": [{
        "type": "PodScheduled", "status": "False", "reason": reason, "message": message,
        "lastProbeTime": null, "lastTransitionTime": since,
        "observedGeneration": pod.pod.metadata.generation,
    }]});
    if let Some(node) = nominate {
        status["nominatedNodeName"] = node.into();
    }
    let patch = Patch::Strategic(json!({"metadata": {"uid": pod.uid()}, "status": status}));
    let api: Api<Pod> = Api::namespaced(client.clone(), pod.namespace());
    match api.patch_status(pod.name(), &PatchParams::default(), &patch).await {
        Err(e) if client::is_not_found(&e) || client::is_conflict(&e) => Ok(()),
        other => other.map(drop),
    }
}

fn scheduled_condition(pod: &Pod) -> Option<&PodCondition> {
    pod.status.as_ref()?.conditions.as_ref()?.iter().find(|c| c.type_ == "PodScheduled")
}
