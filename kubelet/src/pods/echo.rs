//! Which changes of a pod are news to its worker, and which are only the echo of what it wrote itself.

use k8s_openapi::api::core::v1::Pod;

use crate::pod::PodExt;

/// Whether nothing of the metadata that matters here differs.
pub fn same_meta(a: &Pod, b: &Pod) -> bool {
    let (a, b) = (&a.metadata, &b.metadata);
    a.labels == b.labels
        && a.annotations == b.annotations
        && a.deletion_timestamp == b.deletion_timestamp
        && a.deletion_grace_period_seconds == b.deletion_grace_period_seconds
        && a.generation == b.generation
}

/// Conditions that readiness gates may ask for.
pub fn conditions_of_others(pod: &Pod) -> Vec<(String, String)> {
    let gates: Vec<&str> =
        pod.spec().readiness_gates.iter().flatten().map(|g| g.condition_type.as_str()).collect();
    let conditions = pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
    conditions
        .filter(|c| gates.contains(&c.type_.as_str()))
        .map(|c| (c.type_.clone(), c.status.clone()))
        .collect()
}
