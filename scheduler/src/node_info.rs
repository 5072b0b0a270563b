//! A node with the pods on it and the sums of what they take.

use crate::pod_info::{HostPort, PodInfo};
use k8s_openapi::api::core::v1::{Node, Taint};
use scheduling::resources::Resources;
use scheduling::selector::Labels;
use std::collections::HashMap;
use std::sync::Arc;

#[derive(Clone, Debug, Default)]
pub struct NodeInfo {
    /// Absent while pods name a node that is not (or no longer) there.
    pub node: Option<Arc<Node>>,
    pub pods: Vec<Arc<PodInfo>>,
    pub requested: Resources,
    pub non_zero_requested: Resources,
    pub allocatable: Resources,
    pub max_pods: i64,
    pub host_ports: Vec<HostPort>,
    /// Image name → size in bytes.
    pub images: HashMap<String, i64>,
    pub pods_with_affinity: usize,
    pub pods_with_required_anti_affinity: usize,
}

impl NodeInfo {
    pub fn name(&self) -> &str {
        self.node.as_ref().and_then(|n| n.metadata.name.as_deref()).unwrap_or("")
    }
    pub fn labels(&self) -> Option<&Labels> {
        self.node.as_ref()?.metadata.labels.as_ref()
    }
    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels()?.get(key).map(String::as_str)
    }
    pub fn taints(&self) -> &[Taint] {
        self.node.as_ref().and_then(|n| n.spec.as_ref()?.taints.as_deref()).unwrap_or_default()
    }

    pub fn set_node(&mut self, node: Arc<Node>) {
        let status = node.status.as_ref();
        let allocatable = status.and_then(|s| s.allocatable.as_ref());
        self.allocatable = allocatable.map(Resources::of).unwrap_or_default();
        self.max_pods = self.allocatable.scalar.remove("pods").unwrap_or(0);
        self.images = status
            .and_then(|s| s.images.as_ref())
            .into_iter()
            .flatten()
            .flat_map(|i| i.names.iter().flatten().map(|n| (n.clone(), i.size_bytes.unwrap_or(0))))
            .collect();
        self.node = Some(node);
    }

    pub fn add_pod(&mut self, pod: Arc<PodInfo>) {
        self.requested.add(&pod.requests);
        self.non_zero_requested.add(&pod.non_zero_requests);
        self.host_ports.extend(pod.host_ports.iter().cloned());
        self.pods_with_affinity += usize::from(pod.has_affinity());
        self.pods_with_required_anti_affinity += usize::from(!pod.required_anti_affinity.is_empty());
        self.pods.push(pod);
    }

    /// True when a pod of that uid was here.
    pub fn remove_pod(&mut self, uid: &str) -> bool {
        let Some(i) = self.pods.iter().position(|p| p.uid() == uid) else { return false };
        let pod = self.pods.swap_remove(i);
        self.requested.sub(&pod.requests);
        self.non_zero_requested.sub(&pod.non_zero_requests);
        self.host_ports = self.pods.iter().flat_map(|p| p.host_ports.iter().cloned()).collect();
        self.pods_with_affinity -= usize::from(pod.has_affinity());
        self.pods_with_required_anti_affinity -= usize::from(!pod.required_anti_affinity.is_empty());
        true
    }

    pub fn is_unused(&self) -> bool {
        self.node.is_none() && self.pods.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod_info::testing;
    use serde_json::json;

    #[test]
    fn sums_follow_the_pods() {
        let mut n = NodeInfo::default();
        n.set_node(testing::node("n", json!({}), json!({}), json!({"cpu": "2", "pods": "10"})));
        assert_eq!((n.allocatable.milli_cpu, n.max_pods), (2000, 10));
        let spec = json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "300m"}},
            "ports": [{"containerPort": 1, "hostPort": 80}]}]});
        n.add_pod(Arc::new(testing::pod("p", spec)));
        assert_eq!((n.requested.milli_cpu, n.host_ports.len()), (300, 1));
        assert!(n.remove_pod("p") && !n.remove_pod("p"));
        assert!(n.requested.is_zero() && n.host_ports.is_empty());
    }
}
