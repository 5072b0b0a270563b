//! Whether a resize is granted: at once if the node has room, when room appears otherwise.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use serde::Serialize;

use super::{same_list, with_resources};
use crate::admission;
use crate::kubelet::Kubelet;
use crate::pod::{self, PodExt};

const INFEASIBLE: &str = "Infeasible";
const DEFERRED: &str = "Deferred";

/// A pod's spec may ask for other resources than before: grants them, or notes that they have to wait.
pub fn notice(kubelet: &Kubelet, pod: &Pod) {
    let allocations = &kubelet.allocations;
    if !allocations.differs(pod) {
        if allocations.clear_pending(pod.uid()) {
            kubelet.pods.wake(pod.uid());
        }
        return;
    }
    {
        let mut pending = allocations.pending.lock();
        if !pending.iter().any(|uid| uid == pod.uid()) {
            pending.push(pod.uid().to_string());
        }
    }
    retry(kubelet, "pod_updated");
}

/// Looks again at all resizes that wait: those that ask for less first, then by priority, class and age.
///
/// `trigger` is why, as the metric names it.
pub fn retry(kubelet: &Kubelet, trigger: &str) {
    let waiting = std::mem::take(&mut *kubelet.allocations.pending.lock());
    if waiting.is_empty() {
        return;
    }
    let mut pods: Vec<Arc<Pod>> = waiting
        .iter()
        .filter_map(|uid| kubelet.pods.get(uid))
        .filter(|desired| !desired.removed && desired.decree.is_none())
        .filter_map(|desired| desired.target)
        .collect();
    pods.sort_by_cached_key(|pod| rank(kubelet, pod));
    let mut left = Vec::new();
    for pod in pods {
        if decide(kubelet, &pod, trigger) == Decision::Deferred {
            left.push(pod.uid().to_string());
        }
    }
    let mut pending = kubelet.allocations.pending.lock();
    left.retain(|uid| !pending.contains(uid));
    pending.extend(left);
}

#[derive(PartialEq)]
enum Decision {
    Done,
    Deferred,
}

fn rank(kubelet: &Kubelet, pod: &Pod) -> (bool, i32, bool, Option<String>) {
    let granted = kubelet.allocations.allocated.get(pod.uid()).unwrap_or_default();
    let before = with_resources(pod, &granted);
    let more = ["cpu", "memory"].iter().any(|r| pod::request_milli(pod, r) > pod::request_milli(&before, r));
    let conditions = kubelet.allocations.conditions(pod.uid());
    let since = conditions.iter().find(|c| c.type_ == "PodResizePending");
    let since = since.and_then(|c| c.last_transition_time.as_ref()).map(|t| t.0.to_string());
    (more, -pod.spec().priority.unwrap_or(0), pod::qos(pod) != "Guaranteed", since)
}

fn decide(kubelet: &Kubelet, pod: &Pod, trigger: &str) -> Decision {
    let allocations = &kubelet.allocations;
    let uid = pod.uid();
    if !allocations.differs(pod) {
        if allocations.clear_pending(uid) {
            kubelet.pods.wake(uid);
        }
        return Decision::Done;
    }
    let refusal = infeasible(kubelet, pod)
        .map(|(detail, message)| {
            crate::metrics::resizes::infeasible(detail);
            (INFEASIBLE, message)
        })
        .or_else(|| admission::fits(kubelet, pod).err().map(|verdict| (DEFERRED, verdict.message)));
    let Some((reason, message)) = refusal else {
        allocations.allocate(pod);
        if allocations.clear_pending(uid) {
            crate::metrics::resizes::accepted(trigger);
        }
        allocations.clear_in_progress(uid);
        allocations.set_in_progress(pod, None);
        let told = summary(pod, pod.metadata.generation.unwrap_or(0), None);
        kubelet.events.pod(pod, "Normal", "ResizeStarted", &format!("Pod resize started: {told}"));
        kubelet.pods.reallocated(kubelet, uid);
        return Decision::Done;
    };
    if allocations.set_pending(pod, reason, &message) {
        let told = summary(pod, pod.metadata.generation.unwrap_or(0), Some(&message));
        let event = if reason == INFEASIBLE { "ResizeInfeasible" } else { "ResizeDeferred" };
        let shown = if reason == INFEASIBLE { INFEASIBLE.to_string() } else { out_of(kubelet, pod) };
        kubelet.events.pod(pod, "Warning", event, &format!("Pod resize {shown}: {told}"));
    }
    kubelet.pods.wake(uid);
    if reason == DEFERRED { Decision::Deferred } else { Decision::Done }
}

/// The reason of the admission that failed, as events name it.
fn out_of(kubelet: &Kubelet, pod: &Pod) -> String {
    admission::fits(kubelet, pod).err().map_or_else(|| DEFERRED.into(), |verdict| verdict.reason)
}

/// Why a resize can never be, in short for the metric and in words: exclusive CPUs and memory are not given in parts,
/// and what a container may swap follows from what it asked for when it began.
fn infeasible(kubelet: &Kubelet, pod: &Pod) -> Option<(&'static str, String)> {
    let granted = kubelet.allocations.allocated.get(pod.uid())?;
    if swaps(kubelet, pod, &granted) {
        return Some(("swap_limitation", "In-place resize of containers with swap is not supported.".into()));
    }
    let of_pod = |resources: Option<&ResourceRequirements>| resources.cloned().unwrap_or_default();
    if !super::same(&of_pod(granted.pod.as_ref()), &of_pod(pod.spec().resources.as_ref()))
        && !kubelet.gates.enabled("InPlacePodLevelResourcesVerticalScaling")
    {
        let message = "InPlacePodLevelResourcesVerticalScaling is disabled".to_string();
        return Some(("plr_feature_gate_off", message));
    }
    if pod::qos(pod) != "Guaranteed" {
        return None;
    }
    let changed = |name: &str| {
        let only = |resources: Option<&ResourceRequirements>| {
            let requests = resources.and_then(|r| r.requests.as_ref());
            requests.and_then(|r| r.get(name)).map(|q| [(name.to_string(), q.clone())].into())
        };
        let containers = pod.spec().containers.iter().chain(pod.init_containers());
        let differs = |c: &Container| {
            !same_list(only(c.resources.as_ref()).as_ref(), only(granted.containers.get(&c.name)).as_ref())
        };
        containers.filter(|c| granted.containers.contains_key(&c.name)).any(differs)
    };
    for (manager, policy, resource) in [
        ("CPU", &kubelet.config.cpu_manager_policy, "cpu"),
        ("Memory", &kubelet.config.memory_manager_policy, "memory"),
    ] {
        if policy.eq_ignore_ascii_case("static") && changed(resource) {
            let policy = if manager == "CPU" { "static" } else { "Static" };
            let detail = match manager {
                "CPU" => "guaranteed_pod_cpu_manager_static_policy",
                _ => "guaranteed_pod_memory_manager_static_policy",
            };
            return Some((
                detail,
                format!(
                    "Resize is infeasible for Guaranteed Pods alongside {manager} Manager policy {policy:?}"
                ),
            ));
        }
    }
    None
}

/// Whether the memory request of a container that may swap is to change while it runs.
fn swaps(kubelet: &Kubelet, pod: &Pod, granted: &super::PodResources) -> bool {
    let before = with_resources(pod, granted);
    let memory = |c: &Container| {
        let requests = c.resources.as_ref().and_then(|r| r.requests.as_ref());
        volumes::quantity::get_milli(requests, "memory").unwrap_or(0)
    };
    let restarts = |c: &Container| {
        let mut policies = c.resize_policy.iter().flatten();
        policies.any(|p| p.resource_name == "memory" && p.restart_policy == "RestartContainer")
    };
    let node = &kubelet.node_resources;
    let may_swap = |pod: &Pod, c: &Container| node.swap.of_container(pod, c, node.memory) > 0;
    let old = before.spec().containers.iter().chain(before.init_containers());
    let new = pod.spec().containers.iter().chain(pod.init_containers());
    old.zip(new).any(|(old, new)| {
        memory(old) != memory(new) && !restarts(old) && (may_swap(&before, old) || may_swap(pod, new))
    })
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Summary {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    init_containers: Vec<Asked>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    containers: Vec<Asked>,
    generation: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Serialize)]
struct Asked {
    name: String,
    resources: ResourceRequirements,
}

/// The resources of a pod as events tell them.
pub fn summary(pod: &Pod, generation: i64, error: Option<&str>) -> String {
    let list = |containers: &[Container]| {
        let asked = |c: &Container| Asked {
            name: c.name.clone(),
            resources: c.resources.clone().unwrap_or_default(),
        };
        containers.iter().map(asked).collect()
    };
    let summary = Summary {
        init_containers: list(pod.init_containers()),
        containers: list(&pod.spec().containers),
        generation,
        error: error.filter(|e| !e.is_empty()).map(str::to_string),
    };
    serde_json::to_string(&summary).unwrap_or_default()
}
