//! What a worker says of its pod: its status, and the mirror of a static pod.

use std::time::{Duration, Instant, SystemTime};

use k8s_openapi::api::core::v1::{Pod, PodStatus};

use super::{Desired, Worker};
use crate::mirror;
use crate::pod::PodExt;
use crate::status::{self, Verdict};

/// How long a static pod's mirror is waited for before anything is told of the pod.
const MIRROR_PATIENCE: Duration = Duration::from_secs(5);

impl Worker {
    /// Gives the present status out and tells the probes. Returns it.
    pub(super) fn publish(
        &mut self,
        desired: &Desired,
        terminal: bool,
        verdict: Option<&Verdict>,
    ) -> PodStatus {
        let kubelet = &self.kubelet;
        let pod = &desired.pod;
        let target = Self::shown_by(desired);
        let shown = target.as_ref().and_then(|t| t.status.clone());
        let old = kubelet.statuses.get(&self.uid).or(shown).unwrap_or_default();
        let ending = terminal || desired.must_end();
        if let Some(status) = target.as_ref().and_then(|t| self.long_ended(t)) {
            kubelet.statuses.set(&self.uid, target, status.clone());
            return status;
        }
        let early = self.mirror_may_come(desired);
        if !early {
            // What was found out about a static pod before this kubelet began is written on its mirror.
            let remembered = target.as_ref().filter(|_| pod.is_static());
            let remembered = remembered.map(|t| Pod { status: t.status.clone(), ..(**pod).clone() });
            let pod = remembered.as_ref().unwrap_or(pod);
            kubelet.prober.update(pod, &self.state, &self.ips(pod), ending, &self.wake);
        }
        let decree = desired.decree.clone().unwrap_or_default();
        if let Some(verdict) = decree.verdict.as_ref().filter(|_| decree.rejected) {
            let status = status::rejected(pod, verdict);
            kubelet.statuses.set(&self.uid, target.clone(), status.clone());
            return status;
        }
        // Of a pod that ended before this kubelet began, and left nothing, the apiserver knows more.
        let nothing = self.state.sandboxes.is_empty() && self.state.containers.is_empty();
        let ended = pod.is_terminal() && !pod.is_deleting() && !pod.is_static();
        if ended && nothing && desired.decree.is_none() {
            return old;
        }
        let mut status = status::generate(&status::Inputs {
            pod,
            state: &self.state,
            old: &old,
            waiting: &self.waiting,
            health: &|spec, id| kubelet.prober.health(spec, id),
            runtime: &kubelet.runtime_info.load().name,
            host_ips: &kubelet.host_ips.load(),
            terminal,
            verdict: verdict.or(decree.verdict.as_ref()),
            extra_conditions: &decree.conditions,
            resize_conditions: &kubelet.allocations.conditions(&self.uid),
            actuated: &kubelet.allocations.actuated(&self.uid),
            recursive_read_only: kubelet.recursive_read_only(),
        });
        crate::managers::health::show(kubelet, pod, &mut status);
        if early {
            return status;
        }
        kubelet.statuses.set(&self.uid, target.clone(), status.clone());
        if status.phase.as_deref() == Some("Running")
            && let Some(seen) = self.seen.take()
        {
            let made = pod.metadata.creation_timestamp.as_ref().map(|t| t.0.into());
            let total = made.and_then(|made| SystemTime::now().duration_since(made).ok());
            let network = !pod.host_network();
            crate::metrics::pods::running(seen.elapsed(), total, self.on_images, network);
        }
        status
    }

    /// The status of a pod that had ended before this kubelet first saw it and of which the runtime knows nothing: it
    /// stays as it is.
    fn long_ended(&self, shown: &Pod) -> Option<PodStatus> {
        let nothing = self.state.containers.is_empty() && self.state.sandboxes.is_empty();
        let first = self.kubelet.statuses.get(&self.uid).is_none_or(|s| Some(s) == shown.status);
        shown.status.clone().filter(|_| nothing && first && shown.is_terminal())
    }

    /// Whether a static pod's mirror may still come with the apiserver's first list: until then nobody knows what was
    /// told of the pod before, so nothing is.
    fn mirror_may_come(&self, desired: &Desired) -> bool {
        desired.pod.is_static()
            && desired.target.is_none()
            && self.kubelet.client.is_some()
            && !desired.must_end()
            && !self.kubelet.pods.api_known()
            && self.born.elapsed() < MIRROR_PATIENCE
    }

    pub(super) fn lacks_mirror(&self, desired: &Desired) -> bool {
        let wants = desired.pod.is_static() && self.kubelet.client.is_some();
        wants && mirror::is_needed(&desired.pod, desired.target.as_deref())
    }

    /// Sees to it that a static pod has its mirror.
    pub(super) fn mirror(&mut self, desired: &Desired) {
        let Some(client) = self.kubelet.client.clone() else { return };
        let Some(node) = self.kubelet.node.load_full() else { return };
        let recent = self.mirror_tried.is_some_and(|at| at.elapsed() < Duration::from_secs(3));
        if desired.pod.is_static() && !recent && mirror::is_needed(&desired.pod, desired.target.as_deref()) {
            self.mirror_tried = Some(Instant::now());
            let (pod, target) = (desired.pod.clone(), desired.target.clone());
            tokio::spawn(async move {
                if let Err(error) = mirror::replace(&client, &pod, target.as_deref(), &node).await {
                    tracing::warn!(pod = pod.formatted(), %error, "Failed creating a mirror pod");
                }
            });
        }
    }
}
