//! The resources that pods have been granted, which may lag behind what their specs ask for.
//!
//! A resize is granted as a whole or not at all ([`resize`] decides); until then the pod runs with what it had. What
//! was *allocated* and what has been *actuated* are both kept on disk, so that a kubelet that starts anew goes on
//! where the other stopped.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, Pod, PodCondition, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use parking_lot::Mutex;

use crate::pod::PodExt;
use crate::status::now;

mod checkpoint;
pub mod resize;

use checkpoint::Checkpoint;
pub use checkpoint::PodResources;

/// Resources granted and given, and how resizes stand.
pub struct Allocations {
    allocated: Checkpoint,
    actuated: Checkpoint,
    conditions: Mutex<HashMap<String, Conditions>>,
    pending: Mutex<Vec<String>>,
}

/// The conditions of a pod that is being resized.
#[derive(Debug, Clone, Default)]
struct Conditions {
    pending: Option<PodCondition>,
    in_progress: Option<PodCondition>,
}

impl Allocations {
    /// What the files below `root` say.
    pub fn new(root: &Path) -> Self {
        Self {
            allocated: Checkpoint::open(root.join("allocated_pods_state")),
            actuated: Checkpoint::open(root.join("actuated_pods_state")),
            conditions: Mutex::default(),
            pending: Mutex::default(),
        }
    }

    /// The pod with the resources that it was granted.
    pub fn view(&self, pod: &Arc<Pod>) -> Arc<Pod> {
        match self.allocated.get(pod.uid()) {
            Some(granted) if differs(pod, &granted) => Arc::new(with_resources(pod, &granted)),
            _ => pod.clone(),
        }
    }

    /// Whether the pod asks for other resources than it was granted.
    pub fn differs(&self, pod: &Pod) -> bool {
        self.allocated.get(pod.uid()).is_some_and(|granted| differs(pod, &granted))
    }

    /// Grants the pod what it asks for.
    pub fn allocate(&self, pod: &Pod) {
        self.allocated.change(pod.uid(), |granted| *granted = asked(pod));
    }

    /// What the containers of a pod, and its cgroup, have in fact.
    pub fn actuated(&self, uid: &str) -> PodResources {
        self.actuated.get(uid).unwrap_or_default()
    }

    /// Notes what a container was given.
    pub fn set_actuated(&self, uid: &str, container: &str, resources: &ResourceRequirements) {
        self.actuated.change(uid, |pod| drop(pod.containers.insert(container.into(), resources.clone())));
    }

    /// Notes what the pod as a whole was given.
    pub fn set_pod_actuated(&self, pod: &Pod) {
        let resources = pod.spec().resources.clone();
        if resources.is_some() {
            self.actuated.change(pod.uid(), |known| known.pod = resources);
        }
    }

    /// Forgets a pod.
    pub fn remove(&self, uid: &str) {
        self.allocated.remove(uid);
        self.actuated.remove(uid);
        self.conditions.lock().remove(uid);
        self.pending.lock().retain(|pending| pending != uid);
    }

    /// Forgets all pods but these.
    pub fn retain(&self, uids: &HashSet<String>) {
        self.allocated.retain(uids);
        self.actuated.retain(uids);
    }

    /// Takes over the conditions that a pod already shows, after a restart.
    pub fn recall(&self, pod: &Pod) {
        let shown = pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
        for condition in shown {
            let mut all = self.conditions.lock();
            match condition.type_.as_str() {
                "PodResizePending" => {
                    all.entry(pod.uid().into()).or_default().pending = Some(condition.clone());
                }
                "PodResizeInProgress" => {
                    all.entry(pod.uid().into()).or_default().in_progress = Some(condition.clone());
                }
                _ => {}
            }
        }
    }

    /// How many resizes wait, by reason, and how many are under way.
    pub fn counts(&self) -> (HashMap<String, usize>, usize) {
        let all = self.conditions.lock();
        let mut pending = HashMap::new();
        for condition in all.values().filter_map(|own| own.pending.as_ref()) {
            let reason = condition.reason.clone().unwrap_or_default().to_lowercase();
            *pending.entry(reason).or_default() += 1;
        }
        (pending, all.values().filter(|own| own.in_progress.is_some()).count())
    }

    /// The conditions to show.
    pub fn conditions(&self, uid: &str) -> Vec<PodCondition> {
        let all = self.conditions.lock();
        let own = all.get(uid).cloned().unwrap_or_default();
        own.pending.into_iter().chain(own.in_progress).collect()
    }

    /// Says that a resize has to wait. Returns whether that is news.
    fn set_pending(&self, pod: &Pod, reason: &str, message: &str) -> bool {
        let mut all = self.conditions.lock();
        let slot = &mut all.entry(pod.uid().into()).or_default().pending;
        let fresh = condition("PodResizePending", slot.as_ref(), reason, message, pod.metadata.generation);
        let news = slot.as_ref().is_none_or(|old| {
            old.reason != fresh.reason || old.observed_generation != fresh.observed_generation
        });
        let changed = news || slot.as_ref().is_some_and(|old| old.message != fresh.message);
        if changed {
            *slot = Some(fresh);
        }
        news
    }

    fn clear_pending(&self, uid: &str) -> bool {
        self.conditions.lock().get_mut(uid).is_some_and(|own| own.pending.take().is_some())
    }

    /// Says that a resize is under way: `error` tells what is in its way. Returns the generation that it is of if
    /// that is news.
    pub fn set_in_progress(&self, pod: &Pod, error: Option<&str>) -> Option<i64> {
        let mut all = self.conditions.lock();
        let slot = &mut all.entry(pod.uid().into()).or_default().in_progress;
        let (old_reason, old_message) = slot
            .as_ref()
            .map(|c| (c.reason.clone().unwrap_or_default(), c.message.clone().unwrap_or_default()))
            .unwrap_or_default();
        let (reason, message) = match error {
            Some(message) => ("Error".to_string(), message.to_string()),
            None => (old_reason.clone(), old_message.clone()),
        };
        // The generation stays that of the beginning.
        let generation = slot.as_ref().map_or(pod.metadata.generation, |c| c.observed_generation);
        if slot.is_some() && reason == old_reason && message == old_message {
            return None;
        }
        *slot = Some(condition("PodResizeInProgress", slot.as_ref(), &reason, &message, generation));
        Some(generation.unwrap_or(0))
    }

    /// Says that a resize is done. Returns its generation if one was under way.
    pub fn clear_in_progress(&self, uid: &str) -> Option<i64> {
        let mut all = self.conditions.lock();
        let done = all.get_mut(uid)?.in_progress.take()?;
        Some(done.observed_generation.unwrap_or(0))
    }

    /// A pod that ended is not resized any more.
    pub fn clear_conditions(&self, uid: &str) {
        self.conditions.lock().remove(uid);
        self.pending.lock().retain(|pending| pending != uid);
    }
}

fn condition(
    kind: &str,
    old: Option<&PodCondition>,
    reason: &str,
    message: &str,
    generation: Option<i64>,
) -> PodCondition {
    let text = |t: &str| (!t.is_empty()).then(|| t.to_string());
    let same = old.filter(|o| o.reason.as_deref().unwrap_or_default() == reason);
    PodCondition {
        type_: kind.into(),
        status: "True".into(),
        reason: text(reason),
        message: text(message),
        last_probe_time: Some(now()),
        last_transition_time: same.and_then(|o| o.last_transition_time.clone()).or_else(|| Some(now())),
        observed_generation: generation,
    }
}

/// What a pod's spec asks for.
fn asked(pod: &Pod) -> PodResources {
    let containers = pod.spec().containers.iter().chain(pod.init_containers());
    PodResources {
        containers: containers.map(|c| (c.name.clone(), c.resources.clone().unwrap_or_default())).collect(),
        pod: pod.spec().resources.clone(),
    }
}

fn differs(pod: &Pod, granted: &PodResources) -> bool {
    let empty = ResourceRequirements::default();
    let of = |c: &Container| c.resources.clone().unwrap_or_default();
    let mut containers = pod.spec().containers.iter().chain(pod.init_containers());
    containers.any(|c| granted.containers.get(&c.name).is_some_and(|have| !same(have, &of(c))))
        || !same(granted.pod.as_ref().unwrap_or(&empty), pod.spec().resources.as_ref().unwrap_or(&empty))
}

/// Whether two mean the same.
pub fn same(a: &ResourceRequirements, b: &ResourceRequirements) -> bool {
    same_list(a.requests.as_ref(), b.requests.as_ref()) && same_list(a.limits.as_ref(), b.limits.as_ref())
}

fn same_list(a: Option<&BTreeMap<String, Quantity>>, b: Option<&BTreeMap<String, Quantity>>) -> bool {
    use volumes::quantity::milli;
    let read = |list: Option<&BTreeMap<String, Quantity>>| -> BTreeMap<String, Option<i128>> {
        list.into_iter().flatten().map(|(name, q)| (name.clone(), milli(&q.0))).collect()
    };
    read(a) == read(b)
}

/// The pod with other resources.
pub fn with_resources(pod: &Pod, granted: &PodResources) -> Pod {
    let mut pod = pod.clone();
    if let Some(spec) = &mut pod.spec {
        spec.resources = granted.pod.clone();
        for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
            if let Some(have) = granted.containers.get(&container.name) {
                container.resources = Some(have.clone());
            }
        }
    }
    pod
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(cpu: &str) -> Arc<Pod> {
        Arc::new(
            serde_json::from_value(json!({"metadata": {"name": "p", "uid": "u", "generation": 2},
                "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}}))
            .unwrap(),
        )
    }

    #[test]
    fn a_pod_keeps_what_it_was_granted() {
        let dir = tempfile::tempdir().unwrap();
        let all = Allocations::new(dir.path());
        all.allocate(&pod("1"));
        assert!(!all.differs(&pod("1000m")));
        assert!(all.differs(&pod("2")));
        let again = Allocations::new(dir.path());
        assert_eq!(*again.view(&pod("2")), *pod("1"));
        again.remove("u");
        assert_eq!(*again.view(&pod("2")), *pod("2"));
    }

    #[test]
    fn conditions_keep_their_generation() {
        let dir = tempfile::tempdir().unwrap();
        let all = Allocations::new(dir.path());
        assert!(all.set_pending(&pod("1"), "Deferred", "no room"));
        assert!(!all.set_pending(&pod("1"), "Deferred", "still no room"));
        assert_eq!(all.conditions("u")[0].message.as_deref(), Some("still no room"));
        assert_eq!(all.set_in_progress(&pod("1"), None), Some(2));
        assert_eq!(all.set_in_progress(&pod("1"), None), None);
        assert_eq!(all.set_in_progress(&pod("1"), Some("busy")), Some(2));
        assert_eq!(all.set_in_progress(&pod("1"), None), None);
        assert_eq!(all.clear_in_progress("u"), Some(2));
        assert_eq!(all.conditions("u").len(), 1);
    }
}
