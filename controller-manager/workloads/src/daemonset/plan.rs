//! Where a daemon set's pods have to be, and which of them are replaced next. Pure functions.

use std::collections::BTreeMap;
use std::sync::Arc;

use controller_kit::meta::{MetaExt, controller_ref};
use controller_kit::revision::HASH_LABEL;
use controller_kit::{node, pod, template};
use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetStatus};
use k8s_openapi::api::core::v1::{
    Node, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec, Taint,
    Toleration,
};

/// Pods by the node they are on or bound for.
pub(super) type ByNode = BTreeMap<String, Vec<Arc<Pod>>>;

/// What one pass does.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Plan {
    /// Nodes that get a pod.
    pub create: Vec<String>,
    pub delete: Vec<Arc<Pod>>,
    /// Failed pods, which are deleted with growing delay.
    pub failed: Vec<Arc<Pod>>,
    pub succeeded: Vec<Arc<Pod>>,
}

fn toleration(key: &str, effect: &str) -> Toleration {
    Toleration {
        key: Some(format!("node.kubernetes.io/{key}")),
        operator: Some("Exists".into()),
        effect: Some(effect.into()),
        ..Toleration::default()
    }
}

/// What every daemon pod tolerates beyond what its template says.
fn add_tolerations(spec: &mut PodSpec) {
    let mut added = vec![
        toleration("not-ready", "NoExecute"),
        toleration("unreachable", "NoExecute"),
        toleration("disk-pressure", "NoSchedule"),
        toleration("memory-pressure", "NoSchedule"),
        toleration("pid-pressure", "NoSchedule"),
        toleration("unschedulable", "NoSchedule"),
    ];
    if spec.host_network == Some(true) {
        added.push(toleration("network-unavailable", "NoSchedule"));
    }
    let all = spec.tolerations.get_or_insert_default();
    for new in added {
        match all.iter_mut().find(|t| {
            t.key == new.key && t.effect == new.effect && t.operator == new.operator && t.value == new.value
        }) {
            Some(old) => *old = new,
            None => all.push(new),
        }
    }
}

/// The pod for a node: pinned to it by affinity on its name, so that the scheduler binds it.
pub(super) fn new_pod(set: &DaemonSet, node: &str, hash: &str) -> Pod {
    let from = set.spec.as_ref().map(|s| s.template.clone()).unwrap_or_default();
    let mut pod = template::pod(&from, set.ns(), controller_ref(set));
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(HASH_LABEL.into(), hash.to_owned());
    if let Some(generation) = set.annotation("deprecated.daemonset.template.generation") {
        labels.insert("pod-template-generation".into(), generation.to_owned());
    }
    let spec = pod.spec.get_or_insert_default();
    add_tolerations(spec);
    let affinity =
        spec.affinity.get_or_insert_default().node_affinity.get_or_insert_with(NodeAffinity::default);
    affinity.required_during_scheduling_ignored_during_execution = Some(NodeSelector {
        node_selector_terms: vec![NodeSelectorTerm {
            match_expressions: None,
            match_fields: Some(vec![NodeSelectorRequirement {
                key: "metadata.name".into(),
                operator: "In".into(),
                values: Some(vec![node.to_owned()]),
            }]),
        }],
    });
    pod
}

/// The node a pod is on, or is pinned to before it is bound.
pub(super) fn target(pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    if let Some(node) = spec.node_name.as_ref().filter(|n| !n.is_empty()) {
        return Some(node.clone());
    }
    let affinity = spec.affinity.as_ref()?.node_affinity.as_ref()?;
    let required = affinity.required_during_scheduling_ignored_during_execution.as_ref()?;
    let fields = required.node_selector_terms.iter().flat_map(|t| t.match_fields.iter().flatten());
    let mut names = fields.filter(|f| f.key == "metadata.name" && f.operator == "In");
    names.find_map(|f| f.values.as_ref()?.first().cloned())
}

/// Whether a node shall have the pod, and whether it may keep one it has.
pub(super) fn should_run(set: &DaemonSet, node: &Node) -> (bool, bool) {
    let Some(mut spec) = set.spec.as_ref().and_then(|s| s.template.spec.clone()) else {
        return (false, false);
    };
    let elsewhere = spec.node_name.as_deref().is_some_and(|n| !n.is_empty() && n != node.name());
    if elsewhere || !node::affinity_matches(&spec, node) {
        return (false, false);
    }
    add_tolerations(&mut spec);
    let tolerations = spec.tolerations.unwrap_or_default();
    let mut taints = node::taints(node).to_vec();
    if node.spec.as_ref().and_then(|s| s.unschedulable) == Some(true) {
        taints.push(Taint {
            key: "node.kubernetes.io/unschedulable".into(),
            effect: "NoSchedule".into(),
            ..Taint::default()
        });
    }
    if node::untolerated(&taints, &tolerations, &["NoSchedule", "NoExecute"]).is_none() {
        return (true, true);
    }
    (false, node::untolerated(&taints, &tolerations, &["NoExecute"]).is_none())
}

fn min_ready(set: &DaemonSet) -> i32 {
    set.spec.as_ref().and_then(|s| s.min_ready_seconds).unwrap_or(0)
}

fn current(pod: &Pod, hash: &str) -> bool {
    pod.label(HASH_LABEL) == Some(hash)
}

fn oldest_first(pods: &mut [Arc<Pod>]) {
    pods.sort_by_key(|p| (pod::node(p).is_empty(), p.created(), p.name().to_owned()));
}

fn rolling(set: &DaemonSet) -> bool {
    let kind = set.spec.as_ref().and_then(|s| s.update_strategy.as_ref()).and_then(|s| s.type_.as_deref());
    kind.is_none_or(|k| k == "RollingUpdate")
}

/// maxSurge and maxUnavailable over the nodes that want a pod.
pub(super) fn limits(set: &DaemonSet, desired: usize) -> (usize, usize) {
    if !rolling(set) {
        return (0, 0);
    }
    let update =
        set.spec.as_ref().and_then(|s| s.update_strategy.as_ref()).and_then(|s| s.rolling_update.as_ref());
    let whole = i32::try_from(desired).unwrap_or(i32::MAX);
    let count = |v: Option<&_>| usize::try_from(crate::deployment::scaled(v, whole, true)).unwrap_or(0);
    let surge = count(update.and_then(|u| u.max_surge.as_ref()));
    let unavailable = match update.and_then(|u| u.max_unavailable.as_ref()) {
        None => usize::from(surge == 0),
        value => count(value),
    };
    // Neither would never move.
    (surge, if surge == 0 { unavailable.max(1) } else { unavailable })
}

/// Pods to make and to delete so that each node has what it should.
pub(super) fn manage(
    set: &DaemonSet,
    nodes: &[Arc<Node>],
    pods: &ByNode,
    hash: &str,
    now: jiff::Timestamp,
) -> Plan {
    let desired = nodes.iter().filter(|n| should_run(set, n).0).count();
    let surging = limits(set, desired).0 > 0;
    let mut plan = Plan::default();
    for node in nodes {
        let (run, keep) = should_run(set, node);
        let here = pods.get(node.name()).map(Vec::as_slice).unwrap_or_default();
        match (run, keep) {
            (true, _) if here.is_empty() => plan.create.push(node.name().to_owned()),
            (_, true) => settle(set, node.name(), here, run, surging, hash, now, &mut plan),
            _ => plan.delete.extend(here.iter().filter(|p| !p.deleting()).cloned()),
        }
    }
    // Pods for nodes that are no more and to which they were never bound.
    for (name, here) in pods {
        if !nodes.iter().any(|n| n.name() == name) {
            let unbound = |p: &&Arc<Pod>| pod::node(p).is_empty() && !p.deleting();
            plan.delete.extend(here.iter().filter(unbound).cloned());
        }
    }
    plan
}

#[expect(clippy::too_many_arguments, reason = "one node's facts")]
fn settle(
    set: &DaemonSet,
    node: &str,
    here: &[Arc<Pod>],
    run: bool,
    surging: bool,
    hash: &str,
    now: jiff::Timestamp,
    plan: &mut Plan,
) {
    let mut running = Vec::new();
    for pod in here.iter().filter(|p| !p.deleting()) {
        match pod::phase(pod) {
            "Failed" => plan.failed.push(pod.clone()),
            "Succeeded" => plan.succeeded.push(pod.clone()),
            _ => running.push(pod.clone()),
        }
    }
    oldest_first(&mut running);
    if !surging {
        plan.delete.extend(running.into_iter().skip(1));
        return;
    }
    if running.is_empty() && run {
        plan.create.push(node.to_owned());
    }
    if running.len() <= 1 {
        return;
    }
    let new = running.iter().find(|p| current(p, hash)).cloned();
    let old = running.iter().find(|p| !current(p, hash)).cloned();
    let kept = |p: &Arc<Pod>| [&new, &old].into_iter().flatten().any(|k| k.uid() == p.uid());
    plan.delete.extend(running.iter().filter(|p| !kept(p)).cloned());
    if let (Some(new), Some(old)) = (new, old)
        && (!pod::ready(&old) || pod::available(&new, min_ready(set), now))
    {
        plan.delete.push(old);
    }
}

/// A node's pod of the current template, and the one before it.
type Pair<'a> = (Option<&'a Arc<Pod>>, Option<&'a Arc<Pod>>);

/// The one new and the one old pod of a node; `None` while there are more of either.
fn pair<'a>(here: &'a [Arc<Pod>], hash: &str) -> Option<Pair<'a>> {
    let alive: Vec<_> = here.iter().filter(|p| !p.deleting()).collect();
    let new: Vec<_> = alive.iter().filter(|p| current(p, hash)).collect();
    let old: Vec<_> = alive.iter().filter(|p| !current(p, hash)).collect();
    (new.len() <= 1 && old.len() <= 1).then(|| (new.first().map(|p| **p), old.first().map(|p| **p)))
}

/// The next pods of a rolling update.
pub(super) fn roll(
    set: &DaemonSet,
    nodes: &[Arc<Node>],
    pods: &ByNode,
    hash: &str,
    now: jiff::Timestamp,
) -> Plan {
    let wanted: Vec<_> = nodes.iter().filter(|n| should_run(set, n).0).collect();
    let (surge, unavailable) = limits(set, wanted.len());
    let mut plan = Plan::default();
    if !rolling(set) {
        return plan;
    }
    let available = |p: &Pod| pod::available(p, min_ready(set), now);
    let mut down = 0;
    let mut surged = 0;
    let mut candidates = Vec::new();
    for node in &wanted {
        let here = pods.get(node.name()).map(Vec::as_slice).unwrap_or_default();
        let name = node.name().to_owned();
        match (pair(here, hash), surge) {
            (None, 0) => down += 1,
            (None, _) => surged += 1,
            (Some((None, None) | (Some(_), Some(_))), 0) => down += 1,
            (Some((Some(new), None)), 0) => down += usize::from(!available(new)),
            (Some((None, Some(old))), 0) if !available(old) => {
                // It serves nobody: replacing it costs nothing.
                plan.delete.push(old.clone());
                down += 1;
            }
            (Some((None, Some(old))), 0) => candidates.push((name, Some(old.clone()))),
            (Some((_, None)), _) => {}
            (Some((None, Some(old))), _) if !available(old) => plan.create.push(name),
            (Some((None, Some(_))), _) => candidates.push((name, None)),
            (Some((Some(new), Some(old))), _) => {
                if available(new) {
                    plan.delete.push(old.clone());
                } else {
                    surged += 1;
                }
            }
        }
    }
    let budget = if surge == 0 { unavailable.saturating_sub(down) } else { surge.saturating_sub(surged) };
    for (node, old) in candidates.into_iter().take(budget) {
        match old {
            Some(old) => plan.delete.push(old),
            None => plan.create.push(node),
        }
    }
    plan
}

/// The status over all nodes.
pub(super) fn status(
    set: &DaemonSet,
    nodes: &[Arc<Node>],
    pods: &ByNode,
    hash: &str,
    collisions: Option<i32>,
    now: jiff::Timestamp,
) -> DaemonSetStatus {
    let mut s = DaemonSetStatus {
        observed_generation: set.metadata.generation,
        collision_count: collisions.filter(|c| *c != 0),
        conditions: set.status.as_ref().and_then(|s| s.conditions.clone()),
        ..DaemonSetStatus::default()
    };
    let (mut available, mut updated) = (0, 0);
    for node in nodes {
        let mut here = pods.get(node.name()).cloned().unwrap_or_default();
        if !should_run(set, node).0 {
            s.number_misscheduled += i32::from(!here.is_empty());
            continue;
        }
        s.desired_number_scheduled += 1;
        if here.is_empty() {
            continue;
        }
        s.current_number_scheduled += 1;
        oldest_first(&mut here);
        let first = here.iter().find(|p| pod::ready(p)).unwrap_or(&here[0]);
        s.number_ready += i32::from(pod::ready(first));
        available += i32::from(pod::available(first, min_ready(set), now));
        updated += i32::from(here.iter().any(|p| current(p, hash)) && current(&here[here.len() - 1], hash));
    }
    s.updated_number_scheduled = Some(updated);
    s.number_available = Some(available);
    s.number_unavailable = Some(s.desired_number_scheduled - available);
    s
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
