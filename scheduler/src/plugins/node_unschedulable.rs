//! NodeUnschedulable: cordoned nodes take only pods that tolerate it.

use crate::framework::{CycleState, Filter, Plugin, Status};
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;
use crate::queue::ClusterEvent;
use k8s_openapi::api::core::v1::Taint;
use scheduling::taints::{self, NO_SCHEDULE};

pub const NAME: &str = "NodeUnschedulable";

pub struct NodeUnschedulable;

impl Plugin for NodeUnschedulable {
    fn name(&self) -> &'static str {
        NAME
    }
    fn events(&self) -> Vec<ClusterEvent> {
        vec![ClusterEvent::NodeAdded, ClusterEvent::NodeTaints, ClusterEvent::PodUpdated]
    }
    fn as_filter(&self) -> Option<&dyn Filter> {
        Some(self)
    }
}

impl Filter for NodeUnschedulable {
    fn filter(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Status {
        let spec = node.node.as_ref().and_then(|n| n.spec.as_ref());
        if spec.and_then(|s| s.unschedulable) != Some(true) {
            return Status::success();
        }
        let taint = Taint {
            key: "node.kubernetes.io/unschedulable".into(),
            effect: NO_SCHEDULE.into(),
            value: None,
            time_added: None,
        };
        match taints::first_untolerated(&[taint], taints::tolerations(&pod.pod), &[NO_SCHEDULE]) {
            None => Status::success(),
            Some(_) => Status::unresolvable("node(s) were unschedulable"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod_info::testing::{node, pod};
    use serde_json::json;

    #[test]
    fn cordoned_nodes_are_passed_over() {
        let mut n = NodeInfo::default();
        n.set_node(node("n", json!({}), json!({"unschedulable": true}), json!({})));
        let state = CycleState::default();
        assert!(!NodeUnschedulable.filter(&state, &pod("p", json!({})), &n).is_success());
        let bears =
            json!({"tolerations": [{"key": "node.kubernetes.io/unschedulable", "operator": "Exists"}]});
        assert!(NodeUnschedulable.filter(&state, &pod("p", bears), &n).is_success());
    }
}
