//! SchedulingGates: a pod with `spec.schedulingGates` is not tried before they are all removed.

use crate::framework::{Plugin, PreEnqueue, Status};
use crate::pod_info::PodInfo;
use crate::queue::ClusterEvent;

pub const NAME: &str = "SchedulingGates";

pub struct SchedulingGates;

impl Plugin for SchedulingGates {
    fn name(&self) -> &'static str {
        NAME
    }
    fn events(&self) -> Vec<ClusterEvent> {
        vec![ClusterEvent::PodUpdated]
    }
    fn as_pre_enqueue(&self) -> Option<&dyn PreEnqueue> {
        Some(self)
    }
}

impl PreEnqueue for SchedulingGates {
    fn pre_enqueue(&self, pod: &PodInfo) -> Status {
        let gates = pod.pod.spec.as_ref().and_then(|s| s.scheduling_gates.as_deref()).unwrap_or_default();
        if gates.is_empty() {
            return Status::success();
        }
        let names: Vec<&str> = gates.iter().map(|g| g.name.as_str()).collect();
        Status::unresolvable(format!("waiting for scheduling gates: [{}]", names.join(" "))).by(NAME)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod_info::testing::pod;
    use serde_json::json;

    #[test]
    fn gates_keep_a_pod_out() {
        assert!(SchedulingGates.pre_enqueue(&pod("p", json!({}))).is_success());
        let gated = pod("p", json!({"schedulingGates": [{"name": "a"}, {"name": "b"}]}));
        assert_eq!(SchedulingGates.pre_enqueue(&gated).reasons, ["waiting for scheduling gates: [a b]"]);
    }
}
