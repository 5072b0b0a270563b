//! NodeResourcesFit: what a pod requests must be free on the node; how full the node would be is scored.

use crate::cache::Snapshot;
use crate::framework::{CycleState, Filter, MAX_NODE_SCORE, NodeNames, Plugin, PreFilter, Score, Status};
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;
use crate::queue::ClusterEvent;
use serde::Deserialize;

pub const NAME: &str = "NodeResourcesFit";

/// `NodeResourcesFitArgs`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Args {
    #[serde(rename = "apiVersion")]
    _api_version: String,
    #[serde(rename = "kind")]
    _kind: String,
    pub ignored_resources: Vec<String>,
    pub ignored_resource_groups: Vec<String>,
    pub scoring_strategy: Option<ScoringStrategy>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ScoringStrategy {
    #[serde(rename = "type", default)]
    pub kind: Strategy,
    #[serde(default = "cpu_and_memory")]
    pub resources: Vec<WeightedResource>,
    #[serde(default)]
    pub requested_to_capacity_ratio: Option<Ratio>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum Strategy {
    #[default]
    LeastAllocated,
    MostAllocated,
    RequestedToCapacityRatio,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WeightedResource {
    pub name: String,
    #[serde(default = "one")]
    pub weight: i64,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ratio {
    pub shape: Vec<ShapePoint>,
}

/// A corner of the scoring curve: utilization in percent, score 0 to 10.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShapePoint {
    pub utilization: i64,
    pub score: i64,
}

fn one() -> i64 {
    1
}

pub fn cpu_and_memory() -> Vec<WeightedResource> {
    ["cpu", "memory"].map(|name| WeightedResource { name: name.into(), weight: 1 }).into()
}

impl Default for ScoringStrategy {
    fn default() -> Self {
        ScoringStrategy {
            kind: Strategy::LeastAllocated,
            resources: cpu_and_memory(),
            requested_to_capacity_ratio: None,
        }
    }
}

pub struct NodeResourcesFit {
    ignored: Vec<String>,
    ignored_groups: Vec<String>,
    scoring: ScoringStrategy,
}

impl NodeResourcesFit {
    pub fn new(args: Args) -> NodeResourcesFit {
        NodeResourcesFit {
            ignored: args.ignored_resources,
            ignored_groups: args.ignored_resource_groups,
            scoring: args.scoring_strategy.unwrap_or_default(),
        }
    }

    fn is_ignored(&self, name: &str) -> bool {
        let group = name.split_once('/').map(|(g, _)| g);
        self.ignored.iter().any(|i| i == name)
            || group.is_some_and(|g| self.ignored_groups.iter().any(|i| i == g))
    }
}

impl Plugin for NodeResourcesFit {
    fn name(&self) -> &'static str {
        NAME
    }
    fn events(&self) -> Vec<ClusterEvent> {
        use ClusterEvent::{AssignedPodRemoved, AssignedPodUpdated, NodeAdded, NodeAllocatable, PodUpdated};
        vec![NodeAdded, NodeAllocatable, AssignedPodRemoved, AssignedPodUpdated, PodUpdated]
    }
    fn as_pre_filter(&self) -> Option<&dyn PreFilter> {
        Some(self)
    }
    fn as_filter(&self) -> Option<&dyn Filter> {
        Some(self)
    }
    fn as_score(&self) -> Option<&dyn Score> {
        Some(self)
    }
}

impl PreFilter for NodeResourcesFit {
    fn pre_filter(&self, _: &mut CycleState, _: &PodInfo, _: &Snapshot) -> Result<NodeNames, Status> {
        Ok(None)
    }
}

impl Filter for NodeResourcesFit {
    fn filter(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Status {
        let mut reasons = Vec::new();
        let mut hopeless = false;
        if node.pods.len() as i64 + 1 > node.max_pods {
            reasons.push("Too many pods".to_owned());
            hopeless |= node.max_pods < 1;
        }
        let scalars = pod.requests.scalar.iter().map(|(name, wanted)| (name.as_str(), *wanted));
        let basic = ["cpu", "memory", "ephemeral-storage"].map(|name| (name, pod.requests.get(name)));
        for (name, wanted) in basic.into_iter().chain(scalars) {
            let offered = node.allocatable.get(name);
            if wanted > 0 && !self.is_ignored(name) && wanted > offered - node.requested.get(name) {
                reasons.push(format!("Insufficient {name}"));
                hopeless |= wanted > offered;
            }
        }
        match (reasons.is_empty(), hopeless) {
            (true, _) => Status::success(),
            (false, true) => Status { reasons, ..Status::unresolvable("") },
            (false, false) => Status { reasons, ..Status::unschedulable("") },
        }
    }
}

/// What the node would have given out of a resource with the pod on it, and what it has.
pub fn use_with(pod: &PodInfo, node: &NodeInfo, name: &str) -> (i64, i64) {
    let (on_node, wanted) = match name {
        "cpu" | "memory" => (node.non_zero_requested.get(name), pod.non_zero_requests.get(name)),
        other => (node.requested.get(other), pod.requests.get(other)),
    };
    (on_node + wanted, node.allocatable.get(name))
}

impl Score for NodeResourcesFit {
    fn score(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo, _: &Snapshot) -> i64 {
        let (mut sum, mut weights) = (0, 0);
        for r in &self.scoring.resources {
            let (used, capacity) = use_with(pod, node, &r.name);
            if capacity > 0 {
                sum += r.weight * self.score_one(used, capacity);
                weights += r.weight;
            }
        }
        if weights == 0 { 0 } else { sum / weights }
    }
}

impl NodeResourcesFit {
    fn score_one(&self, used: i64, capacity: i64) -> i64 {
        match self.scoring.kind {
            Strategy::LeastAllocated if used > capacity => 0,
            Strategy::LeastAllocated => (capacity - used) * MAX_NODE_SCORE / capacity,
            Strategy::MostAllocated => used.min(capacity) * MAX_NODE_SCORE / capacity,
            Strategy::RequestedToCapacityRatio => {
                let utilization = (used * 100 / capacity).min(100);
                let shape = self.scoring.requested_to_capacity_ratio.as_ref();
                shape.map_or(0, |r| on_curve(&r.shape, utilization))
            }
        }
    }
}

/// Straight lines between the corners; scores are given from 0 to 10.
pub fn on_curve(shape: &[ShapePoint], x: i64) -> i64 {
    let scale = MAX_NODE_SCORE / 10;
    let Some(first) = shape.first() else { return 0 };
    if x <= first.utilization {
        return first.score * scale;
    }
    for pair in shape.windows(2) {
        let (a, b) = (&pair[0], &pair[1]);
        if x <= b.utilization {
            return (a.score
                + (b.score - a.score) * (x - a.utilization) / (b.utilization - a.utilization).max(1))
                * scale;
        }
    }
    shape.last().map_or(0, |p| p.score * scale)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod_info::testing::{node, pod};
    use serde_json::json;

    fn wants(cpu: &str) -> PodInfo {
        pod(
            "p",
            json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu, "example.com/x": "1"}}}]}),
        )
    }

    #[test]
    fn reasons_and_hopelessness() {
        let fit = NodeResourcesFit::new(Args::default());
        let mut n = NodeInfo::default();
        n.set_node(node("n", json!({}), json!({}), json!({"cpu": "2", "pods": "1", "example.com/x": "1"})));
        let state = CycleState::default();
        assert!(fit.filter(&state, &wants("2"), &n).is_success());
        assert_eq!(fit.filter(&state, &wants("3"), &n), Status::unresolvable("Insufficient cpu"));
        n.add_pod(std::sync::Arc::new(wants("500m")));
        let status = fit.filter(&state, &wants("2"), &n);
        assert_eq!(status.reasons, ["Too many pods", "Insufficient cpu", "Insufficient example.com/x"]);
        assert_eq!(status.code, crate::framework::Code::Unschedulable);
    }

    #[test]
    fn strategies() {
        let score = |kind, used| {
            let args = Args {
                scoring_strategy: Some(ScoringStrategy {
                    kind,
                    requested_to_capacity_ratio: Some(Ratio {
                        shape: vec![
                            ShapePoint { utilization: 0, score: 0 },
                            ShapePoint { utilization: 100, score: 10 },
                        ],
                    }),
                    ..Default::default()
                }),
                ..Default::default()
            };
            NodeResourcesFit::new(args).score_one(used, 100)
        };
        assert_eq!(score(Strategy::LeastAllocated, 30), 70);
        assert_eq!(score(Strategy::MostAllocated, 30), 30);
        assert_eq!(score(Strategy::RequestedToCapacityRatio, 30), 30);
    }
}
