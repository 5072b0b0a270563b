//! VolumeZone: a pod runs in a zone in which its bound volumes are.

use crate::cache::Snapshot;
use crate::framework::{CycleState, Filter, NodeNames, Plugin, PreFilter, Status};
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;
use crate::queue::ClusterEvent;
use crate::views::Views;
use crate::volumes;

pub const NAME: &str = "VolumeZone";
const LABELS: [&str; 4] = [
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
];

pub struct VolumeZone(pub Views);

/// Label and the values of it that a volume allows.
type Zones = Vec<(String, Vec<String>)>;

impl Plugin for VolumeZone {
    fn name(&self) -> &'static str {
        NAME
    }
    fn events(&self) -> Vec<ClusterEvent> {
        use ClusterEvent::{NodeAdded, NodeLabels, PvChanged, PvcChanged, StorageClassChanged};
        vec![NodeAdded, NodeLabels, PvChanged, PvcChanged, StorageClassChanged]
    }
    fn as_pre_filter(&self) -> Option<&dyn PreFilter> {
        Some(self)
    }
    fn as_filter(&self) -> Option<&dyn Filter> {
        Some(self)
    }
}

impl PreFilter for VolumeZone {
    fn pre_filter(&self, state: &mut CycleState, pod: &PodInfo, _: &Snapshot) -> Result<NodeNames, Status> {
        let mut zones = Zones::new();
        for claim in volumes::claims(&self.0, pod) {
            let Some(volume) = volumes::volume_name(&claim).and_then(|n| self.0.volume(n)) else { continue };
            for (key, value) in volume.metadata.labels.iter().flatten() {
                if LABELS.contains(&key.as_str()) {
                    zones.push((key.clone(), value.split("__").map(str::to_owned).collect()));
                }
            }
        }
        if zones.is_empty() {
            return Err(Status::skip());
        }
        state.put(NAME, zones);
        Ok(None)
    }
}

impl Filter for VolumeZone {
    fn filter(&self, state: &CycleState, _: &PodInfo, node: &NodeInfo) -> Status {
        let zones = state.get::<Zones>(NAME).map(Vec::as_slice).unwrap_or_default();
        if !LABELS.iter().any(|l| node.label(l).is_some()) {
            return Status::success();
        }
        let inside = |(key, values): &(String, Vec<String>)| {
            node.label(key).is_some_and(|v| values.iter().any(|x| x == v))
        };
        if zones.iter().all(inside) {
            Status::success()
        } else {
            Status::unresolvable("node(s) had no available volume zone")
        }
    }
}
