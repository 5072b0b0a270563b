//! PodTopologySpread: keeps a group of pods even over the values of a node label (KEP-895, KEP-3022, KEP-3094).

use crate::cache::Snapshot;
use crate::framework::{
    CycleState, Filter, MAX_NODE_SCORE, NodeNames, Plugin, PreFilter, PreScore, Score, Status,
};
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;
use crate::queue::ClusterEvent;
use k8s_openapi::api::core::v1::TopologySpreadConstraint;
use scheduling::selector::Selector;
use scheduling::taints::{self, NO_EXECUTE, NO_SCHEDULE};
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

pub const NAME: &str = "PodTopologySpread";
const FILTER_STATE: &str = "PodTopologySpread/filter";
const SCORE_STATE: &str = "PodTopologySpread/score";
const HOSTNAME: &str = "kubernetes.io/hostname";
/// Score of a node that a constraint does not concern.
const IGNORED: i64 = -1;

/// `PodTopologySpreadArgs`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Args {
    #[serde(rename = "apiVersion")]
    _api_version: String,
    #[serde(rename = "kind")]
    _kind: String,
    pub default_constraints: Vec<TopologySpreadConstraint>,
    pub defaulting_type: Option<String>,
}

/// Answers which pods belong together when the pod itself does not say: the selectors of Services and owners.
pub type DefaultSelector = Arc<dyn Fn(&PodInfo) -> Option<Selector> + Send + Sync>;

pub struct PodTopologySpread {
    defaults: Vec<TopologySpreadConstraint>,
    default_selector: DefaultSelector,
}

#[derive(Clone, Debug)]
struct Constraint {
    max_skew: i64,
    key: String,
    selector: Selector,
    min_domains: i64,
    honor_affinity: bool,
    honor_taints: bool,
}

impl PodTopologySpread {
    pub fn new(args: Args, default_selector: DefaultSelector) -> PodTopologySpread {
        let defaults = match args.defaulting_type.as_deref() {
            None | Some("System" | "") => system_defaults(),
            Some(_) => args.default_constraints,
        };
        PodTopologySpread { defaults, default_selector }
    }

    /// The pod's own constraints of one kind, or the profile's with the pod's group as selector.
    fn constraints(&self, pod: &PodInfo, action: &str) -> Vec<Constraint> {
        let own =
            pod.pod.spec.as_ref().and_then(|s| s.topology_spread_constraints.as_deref()).unwrap_or_default();
        let wanted = |c: &&TopologySpreadConstraint| c.when_unsatisfiable == action;
        if !own.is_empty() {
            return own.iter().filter(wanted).map(|c| Constraint::of(c, pod)).collect();
        }
        let defaults: Vec<&TopologySpreadConstraint> = self.defaults.iter().filter(wanted).collect();
        if defaults.is_empty() {
            return Vec::new();
        }
        let Some(selector) = (self.default_selector)(pod) else { return Vec::new() };
        let of = |c: &&TopologySpreadConstraint| Constraint {
            selector: selector.clone(),
            ..Constraint::of(c, pod)
        };
        defaults.iter().map(of).collect()
    }

    fn uses_defaults(pod: &PodInfo) -> bool {
        pod.pod.spec.as_ref().and_then(|s| s.topology_spread_constraints.as_ref()).is_none_or(Vec::is_empty)
    }
}

fn system_defaults() -> Vec<TopologySpreadConstraint> {
    let constraint = |key: &str, max_skew| TopologySpreadConstraint {
        max_skew,
        topology_key: key.into(),
        when_unsatisfiable: "ScheduleAnyway".into(),
        ..Default::default()
    };
    vec![constraint(HOSTNAME, 3), constraint("topology.kubernetes.io/zone", 5)]
}

impl Constraint {
    fn of(c: &TopologySpreadConstraint, pod: &PodInfo) -> Constraint {
        let mut selector = Selector::of(c.label_selector.as_ref());
        for key in c.match_label_keys.iter().flatten() {
            if let Some(value) = pod.labels().and_then(|l| l.get(key)) {
                selector.require(key, "In", std::slice::from_ref(value));
            }
        }
        Constraint {
            max_skew: i64::from(c.max_skew),
            key: c.topology_key.clone(),
            selector,
            min_domains: i64::from(c.min_domains.unwrap_or(1)),
            honor_affinity: c.node_affinity_policy.as_deref() != Some("Ignore"),
            honor_taints: c.node_taints_policy.as_deref() == Some("Honor"),
        }
    }

    /// Whether pods on the node are counted at all.
    fn counts_node(&self, pod: &PodInfo, node: &NodeInfo) -> bool {
        let affine = || node.node.as_ref().is_some_and(|n| pod.required_nodes.matches(n));
        let effects = [NO_SCHEDULE, NO_EXECUTE];
        let borne =
            || taints::first_untolerated(node.taints(), taints::tolerations(&pod.pod), &effects).is_none();
        (!self.honor_affinity || affine()) && (!self.honor_taints || borne())
    }

    fn counts_pod(&self, pod: &PodInfo, other: &PodInfo) -> bool {
        other.namespace() == pod.namespace() && !other.deleting() && self.selector.matches(other.labels())
    }

    fn matching_on(&self, pod: &PodInfo, node: &NodeInfo) -> i64 {
        node.pods.iter().filter(|p| self.counts_pod(pod, p)).count() as i64
    }
}

impl Plugin for PodTopologySpread {
    fn name(&self) -> &'static str {
        NAME
    }
    fn events(&self) -> Vec<ClusterEvent> {
        use ClusterEvent::{
            AssignedPodAdded, AssignedPodRemoved, AssignedPodUpdated, NodeAdded, NodeLabels, NodeTaints,
            PodUpdated,
        };
        vec![
            AssignedPodAdded,
            AssignedPodRemoved,
            AssignedPodUpdated,
            NodeAdded,
            NodeLabels,
            NodeTaints,
            PodUpdated,
        ]
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

#[derive(Clone)]
struct FilterState {
    /// Each constraint with the number of matching pods in each domain.
    constraints: Vec<(Constraint, BTreeMap<String, i64>)>,
}

impl FilterState {
    fn change(&mut self, pod: &PodInfo, other: &PodInfo, node: &NodeInfo, by: i64) {
        let eligible = self.constraints.iter().all(|(c, _)| node.label(&c.key).is_some());
        for (c, counts) in self.constraints.iter_mut().filter(|_| eligible) {
            if let Some(n) = node.label(&c.key).and_then(|d| counts.get_mut(d))
                && c.counts_node(pod, node)
                && c.counts_pod(pod, other)
            {
                *n += by;
            }
        }
    }
}

impl PreFilter for PodTopologySpread {
    fn pre_filter(
        &self,
        state: &mut CycleState,
        pod: &PodInfo,
        snapshot: &Snapshot,
    ) -> Result<NodeNames, Status> {
        let constraints = self.constraints(pod, "DoNotSchedule");
        if constraints.is_empty() {
            return Err(Status::skip());
        }
        let mut counted: Vec<(Constraint, BTreeMap<String, i64>)> =
            constraints.into_iter().map(|c| (c, BTreeMap::new())).collect();
        for node in &snapshot.nodes {
            if !counted.iter().all(|(c, _)| node.label(&c.key).is_some()) {
                continue;
            }
            for (c, counts) in &mut counted {
                if c.counts_node(pod, node)
                    && let Some(domain) = node.label(&c.key)
                {
                    *counts.entry(domain.to_owned()).or_default() += c.matching_on(pod, node);
                }
            }
        }
        state.put(FILTER_STATE, FilterState { constraints: counted });
        Ok(None)
    }

    fn add_pod(&self, state: &mut CycleState, pod: &PodInfo, other: &PodInfo, node: &NodeInfo, _: &Snapshot) {
        if let Some(s) = state.get_mut::<FilterState>(FILTER_STATE) {
            s.change(pod, other, node, 1);
        }
    }

    fn remove_pod(
        &self,
        state: &mut CycleState,
        pod: &PodInfo,
        other: &PodInfo,
        node: &NodeInfo,
        _: &Snapshot,
    ) {
        if let Some(s) = state.get_mut::<FilterState>(FILTER_STATE) {
            s.change(pod, other, node, -1);
        }
    }
}

impl Filter for PodTopologySpread {
    fn filter(&self, state: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Status {
        let Some(state) = state.get::<FilterState>(FILTER_STATE) else { return Status::success() };
        for (c, counts) in &state.constraints {
            let Some(domain) = node.label(&c.key) else {
                return Status::unresolvable(
                    "node(s) didn't match pod topology spread constraints (missing required label)",
                );
            };
            let few = (counts.len() as i64) < c.min_domains;
            let least = if few { 0 } else { counts.values().copied().min().unwrap_or(0) };
            let own = i64::from(c.selector.matches(pod.labels()));
            let here = counts.get(domain).copied().unwrap_or(0);
            if here + own - least > c.max_skew {
                return Status::unschedulable("node(s) didn't match pod topology spread constraints");
            }
        }
        Status::success()
    }
}

// === scoring ===

#[derive(Clone)]
struct ScoreState {
    constraints: Vec<ScoredConstraint>,
    ignored: std::collections::BTreeSet<String>,
}

#[derive(Clone)]
struct ScoredConstraint {
    constraint: Constraint,
    counts: HashMap<String, i64>,
    /// Larger domains get a larger weight, so that one with few values does not drown the others.
    weight: f64,
}

impl PreScore for PodTopologySpread {
    fn pre_score(
        &self,
        state: &mut CycleState,
        pod: &PodInfo,
        nodes: &[Arc<NodeInfo>],
        snapshot: &Snapshot,
    ) -> Status {
        let constraints = self.constraints(pod, "ScheduleAnyway");
        if constraints.is_empty() || nodes.is_empty() {
            return Status::skip();
        }
        let require_all = !Self::uses_defaults(pod);
        let has_all = |n: &NodeInfo| constraints.iter().all(|c| n.label(&c.key).is_some());
        let ignored: std::collections::BTreeSet<String> =
            nodes.iter().filter(|n| require_all && !has_all(n)).map(|n| n.name().to_owned()).collect();
        let candidates: Vec<&Arc<NodeInfo>> = nodes.iter().filter(|n| !ignored.contains(n.name())).collect();
        let scored = constraints
            .iter()
            .map(|c| {
                let mut counts: HashMap<String, i64> =
                    candidates.iter().filter_map(|n| n.label(&c.key)).map(|d| (d.to_owned(), 0)).collect();
                let size = if c.key == HOSTNAME { candidates.len() } else { counts.len() };
                if c.key != HOSTNAME {
                    let counted = |n: &&Arc<NodeInfo>| (!require_all || has_all(n)) && c.counts_node(pod, n);
                    for n in snapshot.nodes.iter().filter(counted) {
                        if let Some(count) = n.label(&c.key).and_then(|d| counts.get_mut(d)) {
                            *count += c.matching_on(pod, n);
                        }
                    }
                }
                ScoredConstraint { constraint: c.clone(), counts, weight: (size as f64 + 2.0).ln() }
            })
            .collect();
        state.put(SCORE_STATE, ScoreState { constraints: scored, ignored });
        Status::success()
    }
}

impl Score for PodTopologySpread {
    fn score(&self, state: &CycleState, pod: &PodInfo, node: &NodeInfo, _: &Snapshot) -> i64 {
        let Some(s) = state.get::<ScoreState>(SCORE_STATE) else { return 0 };
        if s.ignored.contains(node.name()) {
            return IGNORED;
        }
        let mut score = 0.0;
        for c in &s.constraints {
            if let Some(domain) = node.label(&c.constraint.key) {
                let count = if c.constraint.key == HOSTNAME {
                    c.constraint.matching_on(pod, node)
                } else {
                    c.counts.get(domain).copied().unwrap_or(0)
                };
                score += count as f64 * c.weight + (c.constraint.max_skew - 1) as f64;
            }
        }
        score.round() as i64
    }

    fn normalize(&self, _: &CycleState, _: &PodInfo, _: &[Arc<NodeInfo>], scores: &mut [i64]) {
        let known = || scores.iter().copied().filter(|s| *s != IGNORED);
        let (min, max) = (known().min().unwrap_or(0), known().max().unwrap_or(0));
        for s in scores.iter_mut() {
            *s = match *s {
                IGNORED => 0,
                _ if max == 0 => MAX_NODE_SCORE,
                n => MAX_NODE_SCORE * (max + min - n) / max,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod_info::testing::{labelled, node};
    use serde_json::{Value, json};

    fn cluster(pods: &[(&str, usize)]) -> Snapshot {
        let nodes = pods.iter().map(|(name, count)| {
            let mut n = NodeInfo::default();
            n.set_node(node(name, json!({"zone": name}), json!({}), json!({})));
            for i in 0..*count {
                n.add_pod(Arc::new(labelled(&format!("{name}-{i}"), json!({"app": "a"}), json!({}))));
            }
            n
        });
        Snapshot::of(nodes.collect())
    }

    fn spread(action: &str, extra: Value) -> PodInfo {
        let mut c = json!({"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": action,
            "labelSelector": {"matchLabels": {"app": "a"}}});
        if let (Some(c), Some(extra)) = (c.as_object_mut(), extra.as_object()) {
            c.extend(extra.clone());
        }
        labelled("new", json!({"app": "a"}), json!({"topologySpreadConstraints": [c]}))
    }

    fn plugin() -> PodTopologySpread {
        PodTopologySpread::new(Args::default(), Arc::new(|_| None))
    }

    fn fits(s: &Snapshot, pod: &PodInfo) -> Vec<String> {
        let mut state = CycleState::default();
        assert!(plugin().pre_filter(&mut state, pod, s).is_ok());
        let ok = |n: &&Arc<NodeInfo>| plugin().filter(&state, pod, n).is_success();
        s.nodes.iter().filter(ok).map(|n| n.name().to_owned()).collect()
    }

    #[test]
    fn the_skew_is_kept() {
        let s = cluster(&[("a", 2), ("b", 1), ("c", 1)]);
        assert_eq!(fits(&s, &spread("DoNotSchedule", json!({}))), ["b", "c"]);
        assert_eq!(fits(&s, &spread("DoNotSchedule", json!({"minDomains": 5}))), [""; 0]);
        assert_eq!(fits(&s, &spread("DoNotSchedule", json!({"maxSkew": 2}))), ["a", "b", "c"]);
    }

    #[test]
    fn emptier_domains_score_higher() {
        let s = cluster(&[("a", 2), ("b", 0)]);
        let pod = spread("ScheduleAnyway", json!({}));
        let mut state = CycleState::default();
        assert!(plugin().pre_score(&mut state, &pod, &s.nodes, &s).is_success());
        let mut scores: Vec<i64> = s.nodes.iter().map(|n| plugin().score(&state, &pod, n, &s)).collect();
        plugin().normalize(&state, &pod, &s.nodes, &mut scores);
        assert_eq!(scores, [0, 100]);
    }
}
