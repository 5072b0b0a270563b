//! NodeResourcesBalancedAllocation: prefers nodes whose resources would be used evenly.

use crate::cache::Snapshot;
use crate::framework::{CycleState, MAX_NODE_SCORE, Plugin, PreScore, Score, Status};
use crate::node_info::NodeInfo;
use crate::plugins::node_resources_fit::{WeightedResource, cpu_and_memory};
use crate::pod_info::PodInfo;
use serde::Deserialize;
use std::sync::Arc;

pub const NAME: &str = "NodeResourcesBalancedAllocation";

/// `NodeResourcesBalancedAllocationArgs`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Args {
    #[serde(rename = "apiVersion", default)]
    _api_version: String,
    #[serde(rename = "kind", default)]
    _kind: String,
    #[serde(default = "cpu_and_memory")]
    pub resources: Vec<WeightedResource>,
}

impl Default for Args {
    fn default() -> Self {
        Args { _api_version: String::new(), _kind: String::new(), resources: cpu_and_memory() }
    }
}

pub struct BalancedAllocation(pub Args);

impl Plugin for BalancedAllocation {
    fn name(&self) -> &'static str {
        NAME
    }
    fn as_pre_score(&self) -> Option<&dyn PreScore> {
        Some(self)
    }
    fn as_score(&self) -> Option<&dyn Score> {
        Some(self)
    }
}

impl PreScore for BalancedAllocation {
    /// A pod that requests nothing cannot unbalance a node.
    fn pre_score(&self, _: &mut CycleState, pod: &PodInfo, _: &[Arc<NodeInfo>], _: &Snapshot) -> Status {
        if self.0.resources.iter().all(|r| pod.requests.get(&r.name) == 0) {
            Status::skip()
        } else {
            Status::success()
        }
    }
}

impl Score for BalancedAllocation {
    fn score(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo, _: &Snapshot) -> i64 {
        let fractions: Vec<f64> = self
            .0
            .resources
            .iter()
            .filter(|r| node.allocatable.get(&r.name) > 0)
            .map(|r| {
                let used = node.requested.get(&r.name) + pod.requests.get(&r.name);
                (used as f64 / node.allocatable.get(&r.name) as f64).min(1.0)
            })
            .collect();
        ((1.0 - deviation(&fractions)) * MAX_NODE_SCORE as f64) as i64
    }
}

fn deviation(fractions: &[f64]) -> f64 {
    match fractions {
        [] | [_] => 0.0,
        [a, b] => (a - b).abs() / 2.0,
        many => {
            let mean = many.iter().sum::<f64>() / many.len() as f64;
            (many.iter().map(|f| (f - mean).powi(2)).sum::<f64>() / many.len() as f64).sqrt()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::deviation;

    #[test]
    fn even_use_deviates_least() {
        assert_eq!(deviation(&[0.5, 0.5]), 0.0);
        assert_eq!(deviation(&[1.0, 0.0]), 0.5);
        assert!((deviation(&[0.0, 0.5, 1.0]) - 0.408).abs() < 0.001);
    }
}
