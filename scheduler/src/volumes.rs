//! What the volume plugins share: a pod's claims and the state that they are in.

use crate::pod_info::PodInfo;
use crate::views::Views;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use scheduling::affinity::Terms;
use scheduling::selector::Labels;
use std::sync::Arc;

pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
pub const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";

/// Names of the claims that the pod uses, those of generic ephemeral volumes included.
pub fn claim_names(pod: &PodInfo) -> Vec<String> {
    let volumes = pod.pod.spec.as_ref().and_then(|s| s.volumes.as_deref()).unwrap_or_default();
    volumes
        .iter()
        .filter_map(|v| match (&v.persistent_volume_claim, &v.ephemeral) {
            (Some(claim), _) => Some(claim.claim_name.clone()),
            (None, Some(_)) => Some(format!("{}-{}", pod.name(), v.name)),
            (None, None) => None,
        })
        .collect()
}

/// The pod's claims that exist.
pub fn claims(views: &Views, pod: &PodInfo) -> Vec<Arc<PersistentVolumeClaim>> {
    claim_names(pod).iter().filter_map(|n| views.claim(pod.namespace(), n)).collect()
}

pub fn volume_name(claim: &PersistentVolumeClaim) -> Option<&str> {
    claim.spec.as_ref()?.volume_name.as_deref().filter(|n| !n.is_empty())
}

/// Bound, and marked so by the controller.
pub fn is_bound(claim: &PersistentVolumeClaim) -> bool {
    let marked = claim.metadata.annotations.as_ref().is_some_and(|a| a.contains_key(BIND_COMPLETED));
    volume_name(claim).is_some() && marked
}

pub fn class_name(claim: &PersistentVolumeClaim) -> &str {
    claim.spec.as_ref().and_then(|s| s.storage_class_name.as_deref()).unwrap_or("")
}

pub fn waits_for_consumer(class: Option<&StorageClass>) -> bool {
    class.and_then(|c| c.volume_binding_mode.as_deref()) == Some("WaitForFirstConsumer")
}

/// Whether a new volume can be made for a node with those labels.
pub fn can_provision(class: &StorageClass, labels: Option<&Labels>) -> bool {
    let topologies = class.allowed_topologies.as_deref().unwrap_or_default();
    let allowed = topologies.is_empty()
        || topologies.iter().any(|t| {
            t.match_label_expressions
                .iter()
                .flatten()
                .all(|e| labels.and_then(|l| l.get(&e.key)).is_some_and(|v| e.values.contains(v)))
        });
    class.provisioner != NO_PROVISIONER && allowed
}

/// Whether the volume can be reached from the node.
pub fn reaches(volume: &PersistentVolume, node: &str, labels: Option<&Labels>) -> bool {
    let required =
        volume.spec.as_ref().and_then(|s| s.node_affinity.as_ref()).and_then(|a| a.required.as_ref());
    required.is_none_or(|r| Terms::of(r).matches(node, labels))
}
