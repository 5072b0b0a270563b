//! VolumeRestrictions: a claim that only one pod may use is used by one pod; some disks mount only once a node.

use crate::cache::Snapshot;
use crate::framework::{CycleState, Filter, NodeNames, Plugin, PreFilter, Status};
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;
use crate::queue::ClusterEvent;
use crate::views::Views;
use crate::volumes;
use k8s_openapi::api::core::v1::Volume;

pub const NAME: &str = "VolumeRestrictions";

pub struct VolumeRestrictions(pub Views);

impl Plugin for VolumeRestrictions {
    fn name(&self) -> &'static str {
        NAME
    }
    fn events(&self) -> Vec<ClusterEvent> {
        vec![ClusterEvent::AssignedPodRemoved, ClusterEvent::NodeAdded, ClusterEvent::PvcChanged]
    }
    fn as_pre_filter(&self) -> Option<&dyn PreFilter> {
        Some(self)
    }
    fn as_filter(&self) -> Option<&dyn Filter> {
        Some(self)
    }
}

/// Claims with the access mode ReadWriteOncePod.
#[derive(Clone)]
struct Exclusive(Vec<String>);

impl PreFilter for VolumeRestrictions {
    fn pre_filter(&self, state: &mut CycleState, pod: &PodInfo, _: &Snapshot) -> Result<NodeNames, Status> {
        let exclusive: Vec<String> = volumes::claims(&self.0, pod)
            .iter()
            .filter(|c| {
                let modes = c.spec.as_ref().and_then(|s| s.access_modes.as_deref()).unwrap_or_default();
                modes.iter().any(|m| m == "ReadWriteOncePod")
            })
            .filter_map(|c| c.metadata.name.clone())
            .collect();
        let disks = pod.pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()).any(|v| disk(v).is_some());
        if exclusive.is_empty() && !disks {
            return Err(Status::skip());
        }
        state.put(NAME, Exclusive(exclusive));
        Ok(None)
    }
}

impl Filter for VolumeRestrictions {
    fn filter(&self, state: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Status {
        let exclusive = state.get::<Exclusive>(NAME).map(|e| e.0.as_slice()).unwrap_or_default();
        let same_namespace = || node.pods.iter().filter(|p| p.namespace() == pod.namespace());
        if !exclusive.is_empty()
            && same_namespace().any(|p| volumes::claim_names(p).iter().any(|c| exclusive.contains(c)))
        {
            return Status::unschedulable(
                "node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by another pod",
            );
        }
        let wanted: Vec<(String, bool)> =
            pod.pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()).filter_map(disk).collect();
        let clash = |v: &Volume| {
            disk(v)
                .is_some_and(|(id, read_only)| wanted.iter().any(|(w, ro)| *w == id && !(*ro && read_only)))
        };
        if node.pods.iter().any(|p| p.pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()).any(clash)) {
            return Status::unschedulable("node(s) had no available disk");
        }
        Status::success()
    }
}

/// An identity for disks that cannot be attached twice, and whether it is only read.
fn disk(volume: &Volume) -> Option<(String, bool)> {
    if let Some(d) = &volume.gce_persistent_disk {
        return Some((format!("gce/{}", d.pd_name), d.read_only.unwrap_or(false)));
    }
    if let Some(d) = &volume.aws_elastic_block_store {
        return Some((format!("aws/{}", d.volume_id), false));
    }
    if let Some(d) = &volume.iscsi {
        return Some((format!("iscsi/{}/{}", d.iqn, d.lun), d.read_only.unwrap_or(false)));
    }
    let d = volume.rbd.as_ref()?;
    let image = format!("rbd/{}/{}/{}", d.monitors.join(","), d.pool.as_deref().unwrap_or(""), d.image);
    Some((image, d.read_only.unwrap_or(false)))
}
