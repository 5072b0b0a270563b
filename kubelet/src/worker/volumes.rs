//! The volumes of a pod: made ready before its containers start, refreshed while they run.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;

use super::{Desired, Worker};
use crate::kubelet::Kubelet;
use crate::pod::PodExt;
use crate::{model, pod};

impl Worker {
    /// Makes the volumes ready, or fresh. Returns how long to wait before the next try if one failed.
    pub(super) async fn set_up_volumes(&mut self, desired: &Desired, needed: bool) -> Option<Duration> {
        let stale = match self.volumes_done {
            None => true,
            Some(at) => {
                at.elapsed() >= self.kubelet.config.sync_frequency
                    && self.volumes.values().any(|v| v.refreshes)
            }
        };
        let want = desired.pod.spec().volumes.iter().flatten().filter(|v| v.image.is_none()).count();
        if !stale && (self.volumes.len() == want || !needed) {
            return None;
        }
        let kubelet = self.kubelet.clone();
        let pod = desired.pod.clone();
        let facts = ::volumes::Facts {
            downward: model::downward(&kubelet.downward(), &self.ips(&pod)),
            memory_medium_limit: memory_medium_limit(&kubelet, &pod),
        };
        let dir = kubelet.pod_dir(&self.uid);
        let mut interrupt = self.desired.clone();
        let (ready, failed) = tokio::select! {
            done = ::volumes::set_up_all(&pod, &dir, kubelet.objects(), &facts) => done,
            _ = interrupt.wait_for(Desired::must_end) => return Some(Duration::ZERO),
        };
        self.volumes = ready;
        if failed.is_empty() {
            self.volumes_done = Some(Instant::now());
            self.volume_failures = 0;
            return None;
        }
        for failure in &failed {
            tracing::warn!(pod = pod.formatted(), %failure, "Volume is not ready");
            kubelet.events.pod(&pod, "Warning", "FailedMount", &failure.to_string());
        }
        self.volume_failures = (self.volume_failures + 1).min(8);
        Some((Duration::from_millis(500) * 2u32.pow(self.volume_failures - 1)).min(Duration::from_secs(122)))
    }
}

/// The most that memory-backed volumes of the pod may hold.
fn memory_medium_limit(kubelet: &Kubelet, pod: &Pod) -> Option<u64> {
    let limit = pod::limit_milli(pod, "memory").map(|milli| milli / 1000);
    let most = limit.unwrap_or(kubelet.machine.allocatable(&kubelet.config).memory);
    u64::try_from(most).ok().filter(|most| *most > 0)
}
