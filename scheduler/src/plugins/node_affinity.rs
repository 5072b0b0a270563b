//! NodeAffinity: `nodeSelector` and required node affinity decide, preferred terms score.

use crate::cache::Snapshot;
use crate::framework::{
    CycleState, Filter, NodeNames, Plugin, PreFilter, PreScore, Score, Status, default_normalize,
};
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;
use crate::queue::ClusterEvent;
use k8s_openapi::api::core::v1::{NodeAffinity as Affinity, NodeSelectorRequirement, NodeSelectorTerm};
use scheduling::affinity::{Term, Terms, preferred};
use std::collections::BTreeSet;
use std::sync::Arc;

pub const NAME: &str = "NodeAffinity";

/// With the profile's `addedAffinity`, which holds for all its pods.
#[derive(Default)]
pub struct NodeAffinity {
    added_required: Option<Terms>,
    added_preferred: Vec<(i64, Term)>,
}

impl NodeAffinity {
    pub fn new(added: Option<&Affinity>) -> NodeAffinity {
        let Some(added) = added else { return NodeAffinity::default() };
        let preferred = added.preferred_during_scheduling_ignored_during_execution.iter().flatten();
        NodeAffinity {
            added_required: added.required_during_scheduling_ignored_during_execution.as_ref().map(Terms::of),
            added_preferred: preferred.map(|p| (i64::from(p.weight), Term::of(&p.preference))).collect(),
        }
    }
}

impl Plugin for NodeAffinity {
    fn name(&self) -> &'static str {
        NAME
    }
    fn events(&self) -> Vec<ClusterEvent> {
        vec![ClusterEvent::NodeAdded, ClusterEvent::NodeLabels, ClusterEvent::PodUpdated]
    }
    fn as_pre_filter(&self) -> Option<&dyn PreFilter> {
        Some(self)
    }
    fn as_filter(&self) -> Option<&dyn Filter> {
        Some(self)
    }
    fn as_pre_score(&self) -> Option<&dyn PreScore> {
        Some(self)
    }
    fn as_score(&self) -> Option<&dyn Score> {
        Some(self)
    }
}

impl PreFilter for NodeAffinity {
    fn pre_filter(&self, _: &mut CycleState, pod: &PodInfo, _: &Snapshot) -> Result<NodeNames, Status> {
        if self.added_required.is_none() && pod.required_nodes.is_any() {
            return Err(Status::skip());
        }
        let names = named_nodes(pod);
        if names.as_ref().is_some_and(BTreeSet::is_empty) {
            return Err(Status::unresolvable("pod affinity terms conflict"));
        }
        Ok(names)
    }
}

/// The nodes that all terms name by `metadata.name`; `None` when a term does not.
fn named_nodes(pod: &PodInfo) -> NodeNames {
    let affinity = pod.pod.spec.as_ref()?.affinity.as_ref()?.node_affinity.as_ref()?;
    let terms = &affinity.required_during_scheduling_ignored_during_execution.as_ref()?.node_selector_terms;
    let mut names = BTreeSet::new();
    for term in terms {
        names.extend(names_of(term)?);
    }
    (!terms.is_empty()).then_some(names)
}

fn names_of(term: &NodeSelectorTerm) -> NodeNames {
    let is_name = |f: &&NodeSelectorRequirement| f.key == "metadata.name" && f.operator == "In";
    term.match_fields
        .iter()
        .flatten()
        .filter(is_name)
        .map(|f| f.values.iter().flatten().cloned().collect::<BTreeSet<String>>())
        .reduce(|a, b| a.intersection(&b).cloned().collect())
}

impl Filter for NodeAffinity {
    fn filter(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Status {
        let Some(object) = &node.node else { return Status::error("node not found") };
        if self.added_required.as_ref().is_some_and(|t| !t.matches(node.name(), node.labels())) {
            return Status::unresolvable("node(s) didn't match scheduler-enforced node affinity");
        }
        if pod.required_nodes.matches(object) {
            Status::success()
        } else {
            Status::unresolvable("node(s) didn't match Pod's node affinity/selector")
        }
    }
}

impl PreScore for NodeAffinity {
    fn pre_score(&self, state: &mut CycleState, pod: &PodInfo, _: &[Arc<NodeInfo>], _: &Snapshot) -> Status {
        let terms = preferred(&pod.pod);
        if terms.is_empty() && self.added_preferred.is_empty() {
            return Status::skip();
        }
        state.put(NAME, terms);
        Status::success()
    }
}

impl Score for NodeAffinity {
    fn score(&self, state: &CycleState, _: &PodInfo, node: &NodeInfo, _: &Snapshot) -> i64 {
        let own = state.get::<Vec<(i64, Term)>>(NAME).map(Vec::as_slice).unwrap_or_default();
        let terms = own.iter().chain(&self.added_preferred);
        terms.filter(|(_, t)| t.matches(node.name(), node.labels())).map(|(weight, _)| weight).sum()
    }
    fn normalize(&self, _: &CycleState, _: &PodInfo, _: &[Arc<NodeInfo>], scores: &mut [i64]) {
        default_normalize(scores, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod_info::testing::{node, pod};
    use serde_json::json;

    #[test]
    fn selector_names_and_preferences() {
        let plugin = NodeAffinity::new(None);
        let mut n = NodeInfo::default();
        n.set_node(node("n", json!({"disk": "ssd"}), json!({}), json!({})));
        let mut state = CycleState::default();
        let s = Snapshot::default();
        let plain = pod("p", json!({}));
        assert_eq!(plugin.pre_filter(&mut state, &plain, &s), Err(Status::skip()));
        let other = pod("p", json!({"nodeSelector": {"disk": "hdd"}}));
        assert!(!plugin.filter(&state, &other, &n).is_success());
        let named = pod(
            "p",
            json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n"]}]}]}}}}),
        );
        assert_eq!(plugin.pre_filter(&mut state, &named, &s), Ok(Some(["n".to_owned()].into())));
        let likes = pod(
            "p",
            json!({"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": 7, "preference": {"matchExpressions": [{"key": "disk", "operator": "Exists"}]}}]}}}),
        );
        assert!(plugin.pre_score(&mut state, &likes, &[], &s).is_success());
        assert_eq!(plugin.score(&state, &likes, &n, &s), 7);
    }
}
