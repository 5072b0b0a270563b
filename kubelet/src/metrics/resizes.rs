//! Metrics of resizes: what was asked, what waits and why, what was done and how long it took.

use std::collections::HashMap;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use component::metrics::{CounterVec, GaugeVec, HistogramVec, counter_vec, gauge_vec, histogram_vec};
use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use parking_lot::Mutex;
use volumes::quantity::milli;

use crate::pod::PodExt;

const MILLISECONDS: &[f64] = &[
    10.0, 50.0, 100.0, 500.0, 1000.0, 2000.0, 5000.0, 10_000.0, 20_000.0, 30_000.0, 60_000.0, 120_000.0,
    300_000.0, 600_000.0,
];

metrics! {
    REQUESTED: CounterVec = counter_vec("kubelet_container_requested_resizes_total", "[ALPHA] Number of requested resizes, counted at the container level. Different resources on the same container are counted separately. The 'requirement' label refers to 'memory' or 'limits'; the 'operation' label can be one of 'add', 'remove', 'increase' or 'decrease'.", &["operation", "requirement", "resource"]);
    DURATION: HistogramVec = histogram_vec("kubelet_pod_resize_duration_milliseconds", "[ALPHA] Duration in milliseconds to actuate a pod resize", &["success"], MILLISECONDS);
    PENDING: GaugeVec = gauge_vec("kubelet_pod_pending_resizes", "[ALPHA] Number of pending resizes for pods.", &["reason"]);
    INFEASIBLE: CounterVec = counter_vec("kubelet_pod_infeasible_resizes_total", "[ALPHA] Number of infeasible resizes for pods.", &["reason_detail"]);
    IN_PROGRESS: GaugeVec = gauge_vec("kubelet_pod_in_progress_resizes", "[ALPHA] Number of in-progress resizes for pods.", &[]);
    ACCEPTED: CounterVec = counter_vec("kubelet_pod_deferred_accepted_resizes_total", "[ALPHA] Cumulative number of resizes that were accepted after being deferred.", &["retry_trigger"]);
}

static SHOWN: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// A pod asks for other resources than before.
pub fn requested(before: &Pod, now: &Pod) {
    let containers = |pod: &Pod| -> Vec<Container> {
        pod.spec().containers.iter().chain(pod.init_containers()).cloned().collect()
    };
    let old: HashMap<String, Container> =
        containers(before).into_iter().map(|c| (c.name.clone(), c)).collect();
    for container in containers(now) {
        let Some(was) = old.get(&container.name) else { continue };
        for resource in ["memory", "cpu"] {
            for requirement in ["requests", "limits"] {
                let (a, b) = (amount(was, requirement, resource), amount(&container, requirement, resource));
                if let Some(operation) = operation(a, b) {
                    REQUESTED.with(&[operation, requirement, resource]).inc();
                }
            }
        }
    }
}

fn amount(container: &Container, requirement: &str, resource: &str) -> Option<i128> {
    let resources = container.resources.as_ref()?;
    let list = if requirement == "limits" { &resources.limits } else { &resources.requests };
    list.as_ref()?.get(resource).and_then(|Quantity(q)| milli(q))
}

fn operation(before: Option<i128>, now: Option<i128>) -> Option<&'static str> {
    match (before, now) {
        (None, Some(_)) => Some("add"),
        (Some(_), None) => Some("remove"),
        (Some(a), Some(b)) if b > a => Some("increase"),
        (Some(a), Some(b)) if b < a => Some("decrease"),
        _ => None,
    }
}

/// A resize was given to running containers, or could not be.
pub fn actuated(fine: bool, since: Instant) {
    let took: Duration = since.elapsed();
    DURATION.with(&[if fine { "true" } else { "false" }]).observe(took.as_secs_f64() * 1000.0);
}

/// A resize can never be.
pub fn infeasible(detail: &str) {
    INFEASIBLE.with(&[detail]).inc();
}

/// A resize that had to wait was granted; `trigger` made the kubelet look again.
pub fn accepted(trigger: &str) {
    ACCEPTED.with(&[trigger]).inc();
}

/// How many wait, by reason, and how many are under way.
pub fn refresh(pending: &HashMap<String, usize>, in_progress: usize) {
    let mut shown = SHOWN.lock();
    for reason in shown.iter().filter(|reason| !pending.contains_key(*reason)) {
        PENDING.with(&[reason]).set(0.0);
    }
    for (reason, count) in pending {
        PENDING.with(&[reason]).set(*count as f64);
        if !shown.contains(reason) {
            shown.push(reason.clone());
        }
    }
    IN_PROGRESS.with(&[]).set(in_progress as f64);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations() {
        for (before, now, expected) in [
            (None, None, None),
            (None, Some(1), Some("add")),
            (Some(1), None, Some("remove")),
            (Some(1), Some(2), Some("increase")),
            (Some(2), Some(1), Some("decrease")),
            (Some(2), Some(2), None),
        ] {
            assert_eq!(operation(before, now), expected);
        }
    }
}
