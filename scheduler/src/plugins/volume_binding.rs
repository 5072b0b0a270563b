//! VolumeBinding: bound claims keep a pod near their volume; unbound ones that wait for their first consumer are bound
//! (or their provisioning is asked for) once the node is chosen.

use crate::cache::Snapshot;
use crate::framework::{CycleState, Filter, NodeNames, Plugin, PreBind, PreFilter, Reserve, Status};
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;
use crate::queue::ClusterEvent;
use crate::views::Views;
use crate::volumes::{self, SELECTED_NODE};
use async_trait::async_trait;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use parking_lot::Mutex;
use scheduling::resources::amount;
use scheduling::selector::Selector;
use serde_json::json;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

pub const NAME: &str = "VolumeBinding";
const STATE: &str = "VolumeBinding";
/// How often the claims are looked at while they are being bound; the store behind is fed by a watch.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

pub struct VolumeBinding {
    client: Client,
    views: Views,
    bind_timeout: Duration,
    /// Volumes promised to claims by pods that are being bound: volume → pod uid.
    promised: Mutex<HashMap<String, String>>,
}

#[derive(Clone, Default)]
struct State {
    bound: Vec<Arc<PersistentVolumeClaim>>,
    waiting: Vec<Arc<PersistentVolumeClaim>>,
}

/// What is to be done for one claim on the chosen node.
enum Decision {
    Bind(Arc<PersistentVolumeClaim>, Arc<PersistentVolume>),
    Provision(Arc<PersistentVolumeClaim>),
}

impl VolumeBinding {
    pub fn new(client: Client, views: Views, bind_timeout: Duration) -> VolumeBinding {
        VolumeBinding { client, views, bind_timeout, promised: Mutex::default() }
    }

    /// Decisions for all waiting claims, or the reason why the node cannot do.
    fn decide(
        &self,
        waiting: &[Arc<PersistentVolumeClaim>],
        node: &NodeInfo,
    ) -> Result<Vec<Decision>, &'static str> {
        let mut taken: HashSet<String> = self.promised.lock().keys().cloned().collect();
        let mut decisions = Vec::new();
        for claim in waiting {
            let class = self.views.class(volumes::class_name(claim));
            if let Some(volume) = self.best_volume(claim, node, &taken) {
                taken.insert(volume.metadata.name.clone().unwrap_or_default());
                decisions.push(Decision::Bind(claim.clone(), volume));
            } else if class.is_some_and(|c| volumes::can_provision(&c, node.labels())) {
                decisions.push(Decision::Provision(claim.clone()));
            } else {
                return Err("node(s) didn't find available persistent volumes to bind");
            }
        }
        Ok(decisions)
    }

    /// The smallest free volume that satisfies the claim and reaches the node.
    fn best_volume(
        &self,
        claim: &PersistentVolumeClaim,
        node: &NodeInfo,
        taken: &HashSet<String>,
    ) -> Option<Arc<PersistentVolume>> {
        let wanted = requested(claim);
        let fits = |v: &Arc<PersistentVolume>| {
            let name = v.metadata.name.as_deref().unwrap_or("");
            !taken.contains(name)
                && suits(v, claim)
                && capacity(v) >= wanted
                && volumes::reaches(v, node.name(), node.labels())
        };
        self.views.volumes.list().into_iter().filter(fits).min_by_key(|v| capacity(v))
    }

    async fn carry_out(&self, decision: &Decision, node: &str) -> Result<(), kube::Error> {
        let params = PatchParams::default();
        match decision {
            Decision::Bind(claim, volume) => {
                let reference = json!({
                    "apiVersion": "v1", "kind": "PersistentVolumeClaim",
                    "namespace": claim.metadata.namespace, "name": claim.metadata.name,
                    "uid": claim.metadata.uid, "resourceVersion": claim.metadata.resource_version,
                });
                let patch = json!({
                    "metadata": {
                        "resourceVersion": volume.metadata.resource_version,
                        "annotations": {"pv.kubernetes.io/bound-by-controller": "yes"},
                    },
                    "spec": {"claimRef": reference},
                });
                let api: Api<PersistentVolume> = Api::all(self.client.clone());
                let name = volume.metadata.name.as_deref().unwrap_or("");
                api.patch(name, &params, &Patch::Merge(patch)).await.map(drop)
            }
            Decision::Provision(claim) => {
                let patch = json!({"metadata": {
                    "resourceVersion": claim.metadata.resource_version,
                    "annotations": {SELECTED_NODE: node},
                }});
                let namespace = claim.metadata.namespace.as_deref().unwrap_or("");
                let api: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), namespace);
                let name = claim.metadata.name.as_deref().unwrap_or("");
                api.patch(name, &params, &Patch::Merge(patch)).await.map(drop)
            }
        }
    }

    fn still_unbound(&self, waiting: &[Arc<PersistentVolumeClaim>]) -> bool {
        waiting.iter().any(|c| {
            let now = self.views.claim(
                c.metadata.namespace.as_deref().unwrap_or(""),
                c.metadata.name.as_deref().unwrap_or(""),
            );
            now.is_none_or(|c| !volumes::is_bound(&c))
        })
    }
}

fn requested(claim: &PersistentVolumeClaim) -> i64 {
    let requests = claim.spec.as_ref().and_then(|s| s.resources.as_ref()).and_then(|r| r.requests.as_ref());
    requests.and_then(|r| r.get("storage")).map_or(0, |q| amount("storage", q))
}

fn capacity(volume: &PersistentVolume) -> i64 {
    let capacity = volume.spec.as_ref().and_then(|s| s.capacity.as_ref());
    capacity.and_then(|c| c.get("storage")).map_or(0, |q| amount("storage", q))
}

/// Everything about a free volume that does not depend on the node, but for its size.
fn suits(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let (Some(v), Some(c)) = (&volume.spec, &claim.spec) else { return false };
    let free = v.claim_ref.is_none() && volume.metadata.deletion_timestamp.is_none();
    let reserved = v.claim_ref.as_ref().is_some_and(|r| {
        r.name == claim.metadata.name
            && r.namespace == claim.metadata.namespace
            && (r.uid.is_none() || r.uid == claim.metadata.uid)
    });
    let available = volume.status.as_ref().and_then(|s| s.phase.as_deref()).is_none_or(|p| p == "Available");
    let modes =
        c.access_modes.iter().flatten().all(|m| v.access_modes.iter().flatten().any(|have| have == m));
    let mode = |m: &Option<String>| m.as_deref().unwrap_or("Filesystem").to_owned();
    let selected =
        c.selector.as_ref().is_none_or(|s| Selector::of(Some(s)).matches(volume.metadata.labels.as_ref()));
    (free && available || reserved)
        && v.storage_class_name.as_deref().unwrap_or("") == volumes::class_name(claim)
        && mode(&v.volume_mode) == mode(&c.volume_mode)
        && modes
        && selected
}

impl Plugin for VolumeBinding {
    fn name(&self) -> &'static str {
        NAME
    }
    fn events(&self) -> Vec<ClusterEvent> {
        use ClusterEvent::{
            CsiNodeChanged, NodeAdded, NodeLabels, PvChanged, PvcChanged, StorageClassChanged,
        };
        vec![CsiNodeChanged, NodeAdded, NodeLabels, PvChanged, PvcChanged, StorageClassChanged]
    }
    fn as_pre_filter(&self) -> Option<&dyn PreFilter> {
        Some(self)
    }
    fn as_filter(&self) -> Option<&dyn Filter> {
        Some(self)
    }
    fn as_reserve(&self) -> Option<&dyn Reserve> {
        Some(self)
    }
    fn as_pre_bind(&self) -> Option<&dyn PreBind> {
        Some(self)
    }
}

impl PreFilter for VolumeBinding {
    fn pre_filter(&self, state: &mut CycleState, pod: &PodInfo, _: &Snapshot) -> Result<NodeNames, Status> {
        let names = volumes::claim_names(pod);
        if names.is_empty() {
            return Err(Status::skip());
        }
        let mut found = State::default();
        for name in names {
            let Some(claim) = self.views.claim(pod.namespace(), &name) else {
                return Err(Status::unresolvable(format!("persistentvolumeclaim {name:?} not found")));
            };
            if claim.metadata.deletion_timestamp.is_some() {
                return Err(Status::unresolvable(format!("persistentvolumeclaim {name:?} is being deleted")));
            }
            let class = self.views.class(volumes::class_name(&claim));
            if volumes::is_bound(&claim) {
                found.bound.push(claim);
            } else if volumes::waits_for_consumer(class.as_deref()) && volumes::volume_name(&claim).is_none()
            {
                found.waiting.push(claim);
            } else {
                return Err(Status::unresolvable("pod has unbound immediate PersistentVolumeClaims"));
            }
        }
        state.put(STATE, found);
        Ok(None)
    }
}

impl Filter for VolumeBinding {
    fn filter(&self, state: &CycleState, _: &PodInfo, node: &NodeInfo) -> Status {
        let Some(state) = state.get::<State>(STATE) else { return Status::success() };
        for claim in &state.bound {
            let Some(volume) = volumes::volume_name(claim).and_then(|n| self.views.volume(n)) else {
                return Status::unresolvable(
                    "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)",
                );
            };
            if !volumes::reaches(&volume, node.name(), node.labels()) {
                return Status::unresolvable("node(s) didn't match PersistentVolume's node affinity");
            }
        }
        match self.decide(&state.waiting, node) {
            Ok(_) => Status::success(),
            Err(reason) => Status::unresolvable(reason),
        }
    }
}

#[async_trait]
impl Reserve for VolumeBinding {
    async fn reserve(&self, state: &CycleState, pod: &PodInfo, node: &str) -> Status {
        let Some(waiting) = state.get::<State>(STATE).map(|s| &s.waiting) else { return Status::success() };
        let Some(node) = state.get::<Arc<NodeInfo>>("node") else {
            return Status::error(format!("node {node} is gone"));
        };
        match self.decide(waiting, node) {
            Err(reason) => Status::unresolvable(reason),
            Ok(decisions) => {
                let mut promised = self.promised.lock();
                for d in decisions {
                    if let Decision::Bind(_, volume) = d {
                        promised
                            .insert(volume.metadata.name.clone().unwrap_or_default(), pod.uid().to_owned());
                    }
                }
                Status::success()
            }
        }
    }

    async fn unreserve(&self, _: &CycleState, pod: &PodInfo, _: &str) {
        self.promised.lock().retain(|_, uid| uid != pod.uid());
    }
}

#[async_trait]
impl PreBind for VolumeBinding {
    async fn pre_bind(&self, state: &CycleState, pod: &PodInfo, node: &str) -> Status {
        let Some(waiting) = state.get::<State>(STATE).map(|s| s.waiting.clone()) else {
            return Status::success();
        };
        let Some(info) = state.get::<Arc<NodeInfo>>("node").cloned() else { return Status::success() };
        if waiting.is_empty() {
            return Status::success();
        }
        // The pod's own promises must not count as taken when the same decision is made again.
        self.promised.lock().retain(|_, uid| uid != pod.uid());
        let decisions = match self.decide(&waiting, &info) {
            Ok(decisions) => decisions,
            Err(reason) => return Status::unresolvable(reason),
        };
        for decision in &decisions {
            if let Err(e) = self.carry_out(decision, node).await {
                return Status::error(format!("binding volumes: {e}"));
            }
        }
        let bound = async {
            while self.still_unbound(&waiting) {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        };
        match tokio::time::timeout(self.bind_timeout, bound).await {
            Ok(()) => Status::success(),
            Err(_) => Status::error("binding volumes: timed out waiting for the condition"),
        }
    }
}
