//! What a pod's status says, as every workload controller reads it.

use k8s_openapi::api::core::v1::{Pod, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// The phase, `Pending` when none is set yet.
pub fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or("Pending")
}

/// The pod has ended, whatever the outcome.
pub fn finished(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// The pod counts as a replica: neither ended nor on its way out.
pub fn active(pod: &Pod) -> bool {
    !finished(pod) && pod.metadata.deletion_timestamp.is_none()
}

/// The pod is on its way out and has not ended yet.
pub fn terminating(pod: &Pod) -> bool {
    !finished(pod) && pod.metadata.deletion_timestamp.is_some()
}

/// The condition of that type.
pub fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.as_ref()?.iter().find(|c| c.type_ == kind)
}

/// The Ready condition is True.
pub fn ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|c| c.status == "True")
}

/// When the pod became ready.
pub fn ready_since(pod: &Pod) -> Option<&Time> {
    condition(pod, "Ready").filter(|c| c.status == "True")?.last_transition_time.as_ref()
}

/// The pod has been ready for `min_ready` seconds at `now`.
pub fn available(pod: &Pod, min_ready: i32, now: jiff::Timestamp) -> bool {
    if !ready(pod) {
        return false;
    }
    min_ready == 0 || seconds_until_available(pod, min_ready, now) == Some(0)
}

/// Seconds until a ready pod counts as available; `None` for a pod that is not ready.
pub fn seconds_until_available(pod: &Pod, min_ready: i32, now: jiff::Timestamp) -> Option<i64> {
    if !ready(pod) {
        return None;
    }
    let Some(since) = ready_since(pod) else { return Some(i64::from(min_ready)) };
    let due = since.0.as_millisecond() + i64::from(min_ready) * 1000;
    let left = due - now.as_millisecond();
    Some(if left <= 0 { 0 } else { (left + 999) / 1000 })
}

/// The node the pod is bound to, empty when none.
pub fn node(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).unwrap_or_default()
}

/// The largest restart count over init and app containers as the deletion ranking sees them: first of the
/// containers that run all the time, then of the rest.
pub fn max_restarts(pod: &Pod) -> (i32, i32) {
    let Some(status) = &pod.status else { return (0, 0) };
    let most = |statuses: &Option<Vec<k8s_openapi::api::core::v1::ContainerStatus>>| {
        statuses.iter().flatten().map(|s| s.restart_count).max().unwrap_or(0)
    };
    (most(&status.container_statuses), most(&status.init_container_statuses))
}

/// The cost a user gave the pod's deletion; unreadable values count as 0.
pub fn deletion_cost(pod: &Pod) -> i32 {
    let value = pod.metadata.annotations.as_ref();
    let value = value.and_then(|a| a.get("controller.kubernetes.io/pod-deletion-cost"));
    value.filter(|v| !v.starts_with('+')).and_then(|v| v.parse().ok()).unwrap_or(0)
}

/// Every init and app container of a pod, init containers first.
pub fn containers(pod: &Pod) -> impl Iterator<Item = &k8s_openapi::api::core::v1::Container> {
    pod.spec.iter().flat_map(|s| s.init_containers.iter().flatten().chain(s.containers.iter()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn availability_waits_for_min_ready_seconds() {
        let pod: Pod = serde_json::from_value(json!({"status": {"conditions": [
            {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}}))
        .unwrap();
        let at = |s: &str| s.parse::<jiff::Timestamp>().unwrap();
        assert!(available(&pod, 0, at("2026-01-01T00:00:00Z")));
        assert!(!available(&pod, 10, at("2026-01-01T00:00:09Z")));
        assert_eq!(seconds_until_available(&pod, 10, at("2026-01-01T00:00:09Z")), Some(1));
        assert!(available(&pod, 10, at("2026-01-01T00:00:10Z")));
    }
}
