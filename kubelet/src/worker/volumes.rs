//! The volumes of a pod: made ready before its containers start, refreshed while they run.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;

use super::{Decree, Desired, Worker, deadline_in};
use crate::kubelet::Kubelet;
use crate::status::Verdict;
use crate::{model, pod};

impl Worker {
    /// Makes the volumes ready, or fresh. Returns how long to wait before the next try if one is not; without need
    /// nothing is waited for.
    pub(super) async fn set_up_volumes(&mut self, desired: &Desired, needed: bool) -> Option<Duration> {
        if self.pod_volumes.complete(&desired.pod) && !self.pod_volumes.refreshing() {
            return None;
        }
        let kubelet = self.kubelet.clone();
        let pod = desired.pod.clone();
        let facts = ::volumes::Facts {
            downward: model::downward(&kubelet.downward(), &self.ips(&pod)),
            memory_medium_limit: memory_medium_limit(&kubelet, &pod),
        };
        let deadline = deadline_in(&pod, self.started_at()).unwrap_or(Duration::MAX);
        let mut interrupt = self.desired.clone();
        let age = kubelet.config.sync_frequency;
        let patience = if needed { ::volumes::PATIENCE } else { Duration::ZERO };
        let result = tokio::select! {
            result = kubelet.volumes.bring_up(&pod, &facts, &mut self.pod_volumes, age, patience) => result,
            _ = interrupt.wait_for(Desired::must_end) => return Some(Duration::ZERO),
            () = tokio::time::sleep(deadline) => return Some(Duration::ZERO),
        };
        self.volumes = self.pod_volumes.mounted();
        match result {
            Ok(()) => None,
            Err(::volumes::NotReady(why)) if needed => {
                let full = kubelet.volumes.exhausted(&self.pod_volumes).await;
                if !full.is_empty() {
                    self.reject_for_volumes(&pod, &why);
                    for driver in full {
                        crate::storage::recount(&kubelet, &driver).await;
                    }
                    return Some(Duration::ZERO);
                }
                let message = format!("Unable to attach or mount volumes: {why}");
                kubelet.events.pod(&pod, "Warning", "FailedMount", &message);
                self.volume_failures = (self.volume_failures + 1).min(8);
                let pause = Duration::from_millis(500) * 2u32.pow(self.volume_failures - 1);
                Some(pause.min(Duration::from_secs(20)))
            }
            Err(_) => None,
        }
    }
}

impl Worker {
    /// Ends a pod whose volumes have no room on this node: elsewhere they may.
    fn reject_for_volumes(&self, pod: &Pod, why: &str) {
        let verdict = Verdict {
            reason: "VolumeAttachmentLimitExceeded".into(),
            message: format!("Node has reached its volume attachment limit, rejecting pod. {why}"),
        };
        self.kubelet.events.pod(pod, "Warning", &verdict.reason, &verdict.message);
        crate::metrics::rejected(&verdict.reason);
        let decree = Decree { verdict: Some(verdict), rejected: true, ..Default::default() };
        self.kubelet.pods.decree(&self.uid, decree);
    }
}

/// The most that memory-backed volumes of the pod may hold.
fn memory_medium_limit(kubelet: &Kubelet, pod: &Pod) -> Option<u64> {
    let limit = pod::limit_milli(pod, "memory").map(|milli| milli / 1000);
    let most = limit.unwrap_or(kubelet.machine.allocatable(&kubelet.config).memory);
    u64::try_from(most).ok().filter(|most| *most > 0)
}
