//! TaintToleration: NoSchedule and NoExecute taints must be tolerated; PreferNoSchedule ones count against a node.

use crate::cache::Snapshot;
use crate::framework::{CycleState, Filter, Plugin, Score, Status, default_normalize};
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;
use crate::queue::ClusterEvent;
use scheduling::taints::{self, NO_EXECUTE, NO_SCHEDULE, PREFER_NO_SCHEDULE};
use std::sync::Arc;

pub const NAME: &str = "TaintToleration";

pub struct TaintToleration;

impl Plugin for TaintToleration {
    fn name(&self) -> &'static str {
        NAME
    }
    fn events(&self) -> Vec<ClusterEvent> {
        vec![ClusterEvent::NodeAdded, ClusterEvent::NodeTaints, ClusterEvent::PodUpdated]
    }
    fn as_filter(&self) -> Option<&dyn Filter> {
        Some(self)
    }
    fn as_score(&self) -> Option<&dyn Score> {
        Some(self)
    }
}

impl Filter for TaintToleration {
    fn filter(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Status {
        let tolerations = taints::tolerations(&pod.pod);
        match taints::first_untolerated(node.taints(), tolerations, &[NO_SCHEDULE, NO_EXECUTE]) {
            None => Status::success(),
            Some(t) => {
                let value = t.value.as_deref().unwrap_or("");
                Status::unresolvable(format!("node(s) had untolerated taint {{{}: {value}}}", t.key))
            }
        }
    }
}

impl Score for TaintToleration {
    fn score(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo, _: &Snapshot) -> i64 {
        let tolerations = taints::tolerations(&pod.pod);
        let relevant: Vec<_> = tolerations
            .iter()
            .filter(|t| matches!(t.effect.as_deref().unwrap_or(""), "" | PREFER_NO_SCHEDULE))
            .cloned()
            .collect();
        let against = |t: &&k8s_openapi::api::core::v1::Taint| {
            t.effect == PREFER_NO_SCHEDULE && !relevant.iter().any(|r| taints::tolerates(r, t))
        };
        node.taints().iter().filter(against).count() as i64
    }
    fn normalize(&self, _: &CycleState, _: &PodInfo, _: &[Arc<NodeInfo>], scores: &mut [i64]) {
        default_normalize(scores, true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod_info::testing::{node, pod};
    use serde_json::json;

    #[test]
    fn the_reason_names_the_taint() {
        let mut n = NodeInfo::default();
        let taints = json!([{"key": "k", "value": "v", "effect": "NoSchedule"},
            {"key": "p", "effect": "PreferNoSchedule"}]);
        n.set_node(node("n", json!({}), json!({"taints": taints}), json!({})));
        let status = TaintToleration.filter(&CycleState::default(), &pod("p", json!({})), &n);
        assert_eq!(status.reasons, ["node(s) had untolerated taint {k: v}"]);
        let s = Snapshot::default();
        assert_eq!(TaintToleration.score(&CycleState::default(), &pod("p", json!({})), &n, &s), 1);
    }
}
