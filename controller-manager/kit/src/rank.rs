//! Which pods go first when there are too many.

use std::cmp::Ordering;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use rustc_hash::FxHashMap;

use crate::pod;

/// The `n` pods to delete first. `related` are the pods of every replica set with the same owner: a pod
/// that shares its node with more of them goes earlier.
pub fn to_delete(pods: &[Arc<Pod>], related: &[Arc<Pod>], n: usize, now: jiff::Timestamp) -> Vec<Arc<Pod>> {
    if n >= pods.len() {
        return pods.to_vec();
    }
    let mut on_node: FxHashMap<&str, usize> = FxHashMap::default();
    for other in related.iter().filter(|p| pod::active(p)) {
        *on_node.entry(pod::node(other)).or_default() += 1;
    }
    let mut ranked: Vec<(usize, &Arc<Pod>)> =
        pods.iter().map(|p| (on_node.get(pod::node(p)).copied().unwrap_or(0), p)).collect();
    ranked.sort_by(|a, b| order(a, b, now));
    ranked.into_iter().take(n).map(|(_, pod)| pod.clone()).collect()
}

fn order(a: &(usize, &Arc<Pod>), b: &(usize, &Arc<Pod>), now: jiff::Timestamp) -> Ordering {
    let ((rank_a, a), (rank_b, b)) = (a, b);
    let assigned = |p: &Pod| !pod::node(p).is_empty();
    assigned(a)
        .cmp(&assigned(b))
        .then_with(|| phase_order(a).cmp(&phase_order(b)))
        .then_with(|| pod::ready(a).cmp(&pod::ready(b)))
        .then_with(|| pod::deletion_cost(a).cmp(&pod::deletion_cost(b)))
        .then_with(|| rank_b.cmp(rank_a))
        .then_with(|| by_age(a, b, pod::ready_since(a), pod::ready_since(b), now))
        .then_with(|| pod::max_restarts(b).cmp(&pod::max_restarts(a)))
        .then_with(|| {
            let (x, y) = (&a.metadata.creation_timestamp, &b.metadata.creation_timestamp);
            by_age(a, b, x.as_ref(), y.as_ref(), now)
        })
}

fn phase_order(p: &Pod) -> u8 {
    match pod::phase(p) {
        "Pending" => 0,
        "Unknown" => 1,
        _ => 2,
    }
}

/// Younger first, on a logarithmic scale: pods of about the same age are told apart by uid, which spreads
/// deletions evenly.
fn by_age(a: &Pod, b: &Pod, x: Option<&Time>, y: Option<&Time>, now: jiff::Timestamp) -> Ordering {
    match (x, y) {
        (None, None) => Ordering::Equal,
        (None, Some(_)) => Ordering::Less,
        (Some(_), None) => Ordering::Greater,
        (Some(x), Some(y)) if x == y => Ordering::Equal,
        (Some(x), Some(y)) => {
            magnitude(x, now).cmp(&magnitude(y, now)).then_with(|| a.metadata.uid.cmp(&b.metadata.uid))
        }
    }
}

fn magnitude(t: &Time, now: jiff::Timestamp) -> i64 {
    let age = now.duration_since(t.0).as_nanos().max(0) as f64;
    if age <= 0.0 { -1 } else { age.log2() as i64 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(name: &str, node: &str, phase: &str, ready: Option<&str>, cost: &str) -> Arc<Pod> {
        let conditions: Vec<_> = ready
            .iter()
            .map(|t| json!({"type": "Ready", "status": "True", "lastTransitionTime": t}))
            .collect();
        Arc::new(
            serde_json::from_value(json!({
                "metadata": {"name": name, "uid": name, "annotations": {"controller.kubernetes.io/pod-deletion-cost": cost}},
                "spec": {"nodeName": node, "containers": []},
                "status": {"phase": phase, "conditions": conditions},
            }))
            .unwrap(),
        )
    }

    #[test]
    fn least_useful_pods_go_first() {
        let pods = vec![
            pod("old", "n1", "Running", Some("2026-01-01T00:00:00Z"), "0"),
            pod("young", "n1", "Running", Some("2026-01-01T09:59:00Z"), "0"),
            pod("cheap", "n1", "Running", Some("2026-01-01T00:00:00Z"), "-5"),
            pod("unready", "n1", "Running", None, "0"),
            pod("pending", "n1", "Pending", None, "0"),
            pod("unassigned", "", "Pending", None, "100"),
        ];
        let now = "2026-01-01T10:00:00Z".parse().unwrap();
        let names: Vec<_> =
            to_delete(&pods, &[], 5, now).iter().map(|p| p.metadata.name.clone().unwrap()).collect();
        assert_eq!(names, ["unassigned", "pending", "unready", "cheap", "young"]);
    }

    #[test]
    fn doubled_up_pods_go_before_single_ones() {
        let pods = vec![
            pod("single", "n1", "Running", Some("2026-01-01T00:00:00Z"), ""),
            pod("double", "n2", "Running", Some("2026-01-01T00:00:00Z"), ""),
        ];
        let mut related = pods.clone();
        related.push(pod("other", "n2", "Running", Some("2026-01-01T00:00:00Z"), ""));
        let now = "2026-01-01T10:00:00Z".parse().unwrap();
        let first = to_delete(&pods, &related, 1, now);
        assert_eq!(first[0].metadata.name.as_deref(), Some("double"));
    }
}
