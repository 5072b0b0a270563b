//! NodePorts: two pods cannot take the same port of a node.

use crate::cache::Snapshot;
use crate::framework::{CycleState, Filter, NodeNames, Plugin, PreFilter, Status};
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;
use crate::queue::ClusterEvent;

pub const NAME: &str = "NodePorts";

pub struct NodePorts;

impl Plugin for NodePorts {
    fn name(&self) -> &'static str {
        NAME
    }
    fn events(&self) -> Vec<ClusterEvent> {
        vec![ClusterEvent::NodeAdded, ClusterEvent::AssignedPodRemoved]
    }
    fn as_pre_filter(&self) -> Option<&dyn PreFilter> {
        Some(self)
    }
    fn as_filter(&self) -> Option<&dyn Filter> {
        Some(self)
    }
}

impl PreFilter for NodePorts {
    fn pre_filter(&self, _: &mut CycleState, pod: &PodInfo, _: &Snapshot) -> Result<NodeNames, Status> {
        if pod.host_ports.is_empty() { Err(Status::skip()) } else { Ok(None) }
    }
}

impl Filter for NodePorts {
    fn filter(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Status {
        let taken = |p| node.host_ports.iter().any(|t| t.conflicts(p));
        if pod.host_ports.iter().any(taken) {
            Status::unschedulable("node(s) didn't have free ports for the requested pod ports")
        } else {
            Status::success()
        }
    }
}
