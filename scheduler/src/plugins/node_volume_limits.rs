//! NodeVolumeLimits: no more volumes of a CSI driver on a node than its CSINode object allows.

use crate::cache::Snapshot;
use crate::framework::{CycleState, Filter, NodeNames, Plugin, PreFilter, Status};
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;
use crate::queue::ClusterEvent;
use crate::views::Views;
use crate::volumes;
use client::Key;
use std::collections::{BTreeMap, BTreeSet};

pub const NAME: &str = "NodeVolumeLimits";

pub struct NodeVolumeLimits(pub Views);

/// Driver → handles of the volumes that it would serve.
type Attached = BTreeMap<String, BTreeSet<String>>;

impl NodeVolumeLimits {
    fn attached(&self, pod: &PodInfo, into: &mut Attached) {
        for claim in volumes::claims(&self.0, pod) {
            let name = claim.metadata.name.clone().unwrap_or_default();
            let volume = volumes::volume_name(&claim).and_then(|n| self.0.volume(n));
            let csi = volume.as_ref().and_then(|v| v.spec.as_ref()?.csi.as_ref());
            let entry = match csi {
                Some(csi) => Some((csi.driver.clone(), csi.volume_handle.clone())),
                // Not yet provisioned: it will be one volume of its class's driver.
                None => self
                    .0
                    .class(volumes::class_name(&claim))
                    .map(|c| (c.provisioner.clone(), format!("{}/{name}", pod.namespace()))),
            };
            if let Some((driver, handle)) = entry {
                into.entry(driver).or_default().insert(handle);
            }
        }
    }
}

impl Plugin for NodeVolumeLimits {
    fn name(&self) -> &'static str {
        NAME
    }
    fn events(&self) -> Vec<ClusterEvent> {
        use ClusterEvent::{AssignedPodRemoved, CsiNodeChanged, PvcChanged};
        vec![AssignedPodRemoved, CsiNodeChanged, PvcChanged]
    }
    fn as_pre_filter(&self) -> Option<&dyn PreFilter> {
        Some(self)
    }
    fn as_filter(&self) -> Option<&dyn Filter> {
        Some(self)
    }
}

impl PreFilter for NodeVolumeLimits {
    fn pre_filter(&self, state: &mut CycleState, pod: &PodInfo, _: &Snapshot) -> Result<NodeNames, Status> {
        let mut wanted = Attached::new();
        self.attached(pod, &mut wanted);
        if wanted.is_empty() {
            return Err(Status::skip());
        }
        state.put(NAME, wanted);
        Ok(None)
    }
}

impl Filter for NodeVolumeLimits {
    fn filter(&self, state: &CycleState, _: &PodInfo, node: &NodeInfo) -> Status {
        let Some(wanted) = state.get::<Attached>(NAME) else { return Status::success() };
        let Some(csi_node) = self.0.csi_nodes.get(&Key::cluster(node.name())) else {
            return Status::success();
        };
        let limits: BTreeMap<&str, i64> = csi_node
            .spec
            .drivers
            .iter()
            .filter_map(|d| Some((d.name.as_str(), i64::from(d.allocatable.as_ref()?.count?))))
            .collect();
        if !wanted.keys().any(|d| limits.contains_key(d.as_str())) {
            return Status::success();
        }
        let mut all = wanted.clone();
        node.pods.iter().for_each(|p| self.attached(p, &mut all));
        let exceeds = |(driver, handles): (&String, &BTreeSet<String>)| {
            wanted.contains_key(driver)
                && limits.get(driver.as_str()).is_some_and(|max| handles.len() as i64 > *max)
        };
        if all.iter().any(exceeds) {
            return Status::unschedulable("node(s) exceed max volume count");
        }
        Status::success()
    }
}
