//! InterPodAffinity: pods that must or would rather be near to, or apart from, other pods.

use crate::cache::Snapshot;
use crate::framework::{
    CycleState, Filter, MAX_NODE_SCORE, NodeNames, Plugin, PreFilter, PreScore, Score, Status,
};
use crate::node_info::NodeInfo;
use crate::pod_info::{AffinityTerm, PodInfo};
use crate::queue::ClusterEvent;
use serde::Deserialize;
use std::collections::HashMap;
use std::sync::Arc;

pub const NAME: &str = "InterPodAffinity";
const FILTER_STATE: &str = "InterPodAffinity/filter";
const SCORE_STATE: &str = "InterPodAffinity/score";

/// `InterPodAffinityArgs`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Args {
    #[serde(rename = "apiVersion")]
    _api_version: String,
    #[serde(rename = "kind")]
    _kind: String,
    /// How much a required affinity of a running pod counts for a pod that it selects.
    pub hard_pod_affinity_weight: i64,
    pub ignore_preferred_terms_of_existing_pods: bool,
}

impl Default for Args {
    fn default() -> Self {
        Args {
            _api_version: String::new(),
            _kind: String::new(),
            hard_pod_affinity_weight: 1,
            ignore_preferred_terms_of_existing_pods: false,
        }
    }
}

pub struct InterPodAffinity(pub Args);

/// (topology key, value) → number of matches, or weight.
type Counts = HashMap<(String, String), i64>;

fn bump(counts: &mut Counts, term: &AffinityTerm, node: &NodeInfo, by: i64) {
    if let Some(value) = node.label(&term.topology_key) {
        *counts.entry((term.topology_key.clone(), value.to_owned())).or_default() += by;
    }
}

fn count_at(counts: &Counts, key: &str, node: &NodeInfo) -> i64 {
    node.label(key).and_then(|v| counts.get(&(key.to_owned(), v.to_owned()))).copied().unwrap_or(0)
}

impl Plugin for InterPodAffinity {
    fn name(&self) -> &'static str {
        NAME
    }
    fn events(&self) -> Vec<ClusterEvent> {
        use ClusterEvent::{
            AssignedPodAdded, AssignedPodRemoved, AssignedPodUpdated, NamespaceChanged, NodeAdded,
            NodeLabels, PodUpdated,
        };
        let pods = [AssignedPodAdded, AssignedPodRemoved, AssignedPodUpdated, PodUpdated];
        pods.into_iter().chain([NamespaceChanged, NodeAdded, NodeLabels]).collect()
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

// === filtering ===

#[derive(Clone, Default)]
struct FilterState {
    /// Where running pods with required anti-affinity do not want this pod.
    refused: Counts,
    /// Where pods are that this pod must be near to; counted for pods that match all its terms.
    near: Counts,
    /// Where pods are that this pod must be apart from.
    apart: Counts,
}

impl FilterState {
    fn count(&mut self, pod: &PodInfo, other: &PodInfo, node: &NodeInfo, s: &Snapshot, by: i64) {
        let labels = |ns: &str| s.namespace_labels(ns);
        for term in other.required_anti_affinity.iter().filter(|t| t.matches(pod, &labels)) {
            bump(&mut self.refused, term, node, by);
        }
        if !pod.required_affinity.is_empty()
            && pod.required_affinity.iter().all(|t| t.matches(other, &labels))
        {
            pod.required_affinity.iter().for_each(|t| bump(&mut self.near, t, node, by));
        }
        for term in pod.required_anti_affinity.iter().filter(|t| t.matches(other, &labels)) {
            bump(&mut self.apart, term, node, by);
        }
    }
}

impl PreFilter for InterPodAffinity {
    fn pre_filter(
        &self,
        state: &mut CycleState,
        pod: &PodInfo,
        snapshot: &Snapshot,
    ) -> Result<NodeNames, Status> {
        let mut s = FilterState::default();
        let own_terms = !pod.required_affinity.is_empty() || !pod.required_anti_affinity.is_empty();
        if own_terms {
            for node in &snapshot.nodes {
                node.pods.iter().for_each(|other| s.count(pod, other, node, snapshot, 1));
            }
        } else {
            for node in snapshot.nodes_with_required_anti_affinity() {
                node.pods.iter().for_each(|other| s.count(pod, other, node, snapshot, 1));
            }
            if s.refused.is_empty() {
                return Err(Status::skip());
            }
        }
        state.put(FILTER_STATE, s);
        Ok(None)
    }

    fn add_pod(&self, state: &mut CycleState, pod: &PodInfo, other: &PodInfo, node: &NodeInfo, s: &Snapshot) {
        if let Some(data) = state.get_mut::<FilterState>(FILTER_STATE) {
            data.count(pod, other, node, s, 1);
        }
    }

    fn remove_pod(
        &self,
        state: &mut CycleState,
        pod: &PodInfo,
        other: &PodInfo,
        node: &NodeInfo,
        s: &Snapshot,
    ) {
        if let Some(data) = state.get_mut::<FilterState>(FILTER_STATE) {
            data.count(pod, other, node, s, -1);
        }
    }
}

impl Filter for InterPodAffinity {
    fn filter(&self, state: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Status {
        let Some(s) = state.get::<FilterState>(FILTER_STATE) else { return Status::success() };
        if !near_enough(s, pod, node) {
            return Status::unresolvable("node(s) didn't match pod affinity rules");
        }
        if pod.required_anti_affinity.iter().any(|t| count_at(&s.apart, &t.topology_key, node) > 0) {
            return Status::unschedulable("node(s) didn't match pod anti-affinity rules");
        }
        let unwanted =
            |((key, value), n): (&(String, String), &i64)| *n > 0 && node.label(key) == Some(value);
        if s.refused.iter().any(unwanted) {
            return Status::unschedulable("node(s) didn't satisfy existing pods anti-affinity rules");
        }
        Status::success()
    }
}

/// All terms hold on the node; or the pod is the first of a group whose terms select itself.
fn near_enough(s: &FilterState, pod: &PodInfo, node: &NodeInfo) -> bool {
    let mut present = true;
    for term in &pod.required_affinity {
        if node.label(&term.topology_key).is_none() {
            return false;
        }
        present &= count_at(&s.near, &term.topology_key, node) > 0;
    }
    let nobody = s.near.values().all(|n| *n == 0);
    present || nobody && pod.required_affinity.iter().all(|t| t.matches(pod, &|_| None))
}

// === scoring ===

impl PreScore for InterPodAffinity {
    fn pre_score(
        &self,
        state: &mut CycleState,
        pod: &PodInfo,
        _: &[Arc<NodeInfo>],
        snapshot: &Snapshot,
    ) -> Status {
        let own = !pod.preferred_affinity.is_empty() || !pod.preferred_anti_affinity.is_empty();
        if !own && self.0.ignore_preferred_terms_of_existing_pods {
            return Status::skip();
        }
        let mut weights = Counts::new();
        if own {
            for node in &snapshot.nodes {
                node.pods.iter().for_each(|other| self.weigh(&mut weights, pod, other, node, snapshot));
            }
        } else {
            for node in snapshot.nodes_with_affinity() {
                let with = node.pods.iter().filter(|p| p.has_affinity());
                with.for_each(|other| self.weigh(&mut weights, pod, other, node, snapshot));
            }
        }
        if weights.is_empty() {
            return Status::skip();
        }
        state.put(SCORE_STATE, weights);
        Status::success()
    }
}

impl InterPodAffinity {
    fn weigh(&self, weights: &mut Counts, pod: &PodInfo, other: &PodInfo, node: &NodeInfo, s: &Snapshot) {
        let labels = |ns: &str| s.namespace_labels(ns);
        let mut of = |terms: &[(i64, AffinityTerm)], whom: &PodInfo, sign: i64| {
            for (weight, term) in terms.iter().filter(|(_, t)| t.matches(whom, &labels)) {
                bump(weights, term, node, sign * weight);
            }
        };
        of(&pod.preferred_affinity, other, 1);
        of(&pod.preferred_anti_affinity, other, -1);
        if !self.0.ignore_preferred_terms_of_existing_pods {
            of(&other.preferred_affinity, pod, 1);
            of(&other.preferred_anti_affinity, pod, -1);
        }
        let hard = self.0.hard_pod_affinity_weight;
        for term in other.required_affinity.iter().filter(|t| hard > 0 && t.matches(pod, &labels)) {
            bump(weights, term, node, hard);
        }
    }
}

impl Score for InterPodAffinity {
    fn score(&self, state: &CycleState, _: &PodInfo, node: &NodeInfo, _: &Snapshot) -> i64 {
        let Some(weights) = state.get::<Counts>(SCORE_STATE) else { return 0 };
        weights.iter().filter(|((key, value), _)| node.label(key) == Some(value)).map(|(_, w)| w).sum()
    }

    fn normalize(&self, _: &CycleState, _: &PodInfo, _: &[Arc<NodeInfo>], scores: &mut [i64]) {
        let min = scores.iter().copied().min().unwrap_or(0);
        let spread = scores.iter().copied().max().unwrap_or(0) - min;
        for s in scores.iter_mut() {
            *s = if spread > 0 { MAX_NODE_SCORE * (*s - min) / spread } else { 0 };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod_info::testing::{labelled, node};
    use serde_json::{Value, json};

    fn term(app: &str) -> Value {
        json!({"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": app}}})
    }
    fn required(kind: &str, app: &str) -> Value {
        json!({"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": [term(app)]}}})
    }
    fn cluster(a: PodInfo) -> Snapshot {
        let mut nodes: Vec<NodeInfo> = ["a", "b"]
            .iter()
            .map(|name| {
                let mut n = NodeInfo::default();
                n.set_node(node(name, json!({"zone": name}), json!({}), json!({})));
                n
            })
            .collect();
        nodes[0].add_pod(Arc::new(a));
        Snapshot::of(nodes)
    }
    fn fits(s: &Snapshot, pod: &PodInfo) -> Vec<String> {
        let plugin = InterPodAffinity(Args::default());
        let mut state = CycleState::default();
        // A skip leaves no state, and the filter then passes everything.
        let _ = plugin.pre_filter(&mut state, pod, s);
        let ok = |n: &&Arc<NodeInfo>| plugin.filter(&state, pod, n).is_success();
        s.nodes.iter().filter(ok).map(|n| n.name().to_owned()).collect()
    }

    #[test]
    fn near_apart_and_refused() {
        let db = || labelled("db", json!({"app": "db"}), json!({}));
        let web = |spec| labelled("web", json!({"app": "web"}), spec);
        assert_eq!(fits(&cluster(db()), &web(required("podAffinity", "db"))), ["a"]);
        assert_eq!(fits(&cluster(db()), &web(required("podAntiAffinity", "db"))), ["b"]);
        assert_eq!(fits(&cluster(db()), &web(required("podAffinity", "cache"))), [""; 0]);
        assert_eq!(
            fits(&cluster(db()), &web(required("podAffinity", "web"))),
            ["a", "b"],
            "the first of its group"
        );
        let shy = labelled("shy", json!({}), required("podAntiAffinity", "web"));
        assert_eq!(fits(&cluster(shy), &web(json!({}))), ["b"]);
    }

    #[test]
    fn preferences_pull_and_push() {
        let plugin = InterPodAffinity(Args::default());
        let s = cluster(labelled("db", json!({"app": "db"}), json!({})));
        let likes = json!({"affinity": {"podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": 10, "podAffinityTerm": term("db")}]}}});
        let pod = labelled("web", json!({}), likes);
        let mut state = CycleState::default();
        assert!(plugin.pre_score(&mut state, &pod, &s.nodes, &s).is_success());
        let mut scores: Vec<i64> = s.nodes.iter().map(|n| plugin.score(&state, &pod, n, &s)).collect();
        assert_eq!(scores, [10, 0]);
        plugin.normalize(&state, &pod, &s.nodes, &mut scores);
        assert_eq!(scores, [100, 0]);
    }
}
