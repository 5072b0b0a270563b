//! Evicts pods: one that exceeds its own limits of local storage, and, when the node runs short of something, the one
//! whose end does the least harm.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Pod, PodCondition};
use tokio_util::sync::CancellationToken;
use volumes::quantity;

use super::{Left, observe};
use crate::kubelet::Kubelet;
use crate::labels;
use crate::machine::threshold;
use crate::pod::{self, PodExt};
use crate::status::Verdict;
use crate::worker::Decree;

const PERIOD: Duration = Duration::from_secs(10);

/// After an eviction the node gets this long to show the effect before the next.
const SETTLE: Duration = Duration::from_secs(30);

/// Signals with the resource they are about.
const SIGNALS: [(&str, &str); 6] = [
    ("memory.available", "memory"),
    ("nodefs.available", "ephemeral-storage"),
    ("nodefs.inodesFree", "inodes"),
    ("imagefs.available", "ephemeral-storage"),
    ("imagefs.inodesFree", "inodes"),
    ("pid.available", "pids"),
];

/// Watches over limits and thresholds until the shutdown.
pub async fn run(kubelet: Arc<Kubelet>, shutdown: CancellationToken) {
    let mut soft_since: HashMap<&'static str, Instant> = HashMap::new();
    let mut last_eviction: Option<Instant> = None;
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(PERIOD) => {}
        }
        if kubelet.config.local_storage_capacity_isolation {
            enforce_storage_limits(&kubelet).await;
        }
        let settled = last_eviction.is_none_or(|at| at.elapsed() > SETTLE);
        if let Some(shortage) = shortage(&kubelet, &mut soft_since).filter(|_| settled) {
            let about = format!("Attempting to reclaim {}", shortage.resource);
            kubelet.events.node("Warning", "EvictionThresholdMet", &about);
            kubelet.node_changed.notify_one();
            if relieve(&kubelet, &shortage).await {
                last_eviction = Some(Instant::now());
            }
        }
    }
}

/// A threshold that is met.
struct Shortage {
    resource: &'static str,
    threshold: i64,
    left: Left,
    /// The grace period of pods that have to go.
    grace: i64,
}

fn shortage(kubelet: &Kubelet, soft_since: &mut HashMap<&'static str, Instant>) -> Option<Shortage> {
    let config = &kubelet.config;
    for (signal, resource) in SIGNALS {
        let (hard, soft) = (config.eviction_hard.get(signal), config.eviction_soft.get(signal));
        if hard.is_none() && soft.is_none() {
            continue;
        }
        let Some(left) = observe(kubelet, signal) else { continue };
        let hard_at = threshold(hard, left.capacity);
        if left.available < hard_at {
            return Some(Shortage { resource, threshold: hard_at, left, grace: 1 });
        }
        let soft_at = threshold(soft, left.capacity);
        if left.available >= soft_at {
            soft_since.remove(signal);
            continue;
        }
        let since = *soft_since.entry(signal).or_insert_with(Instant::now);
        let patience =
            config.eviction_soft_grace_period.get(signal).and_then(|t| component::duration::parse(t));
        if since.elapsed() >= patience.unwrap_or_default() {
            let grace = i64::from(config.eviction_max_pod_grace_period);
            return Some(Shortage { resource, threshold: soft_at, left, grace });
        }
    }
    None
}

/// Evicts the pod that has to go first. `false` if there is none.
async fn relieve(kubelet: &Kubelet, shortage: &Shortage) -> bool {
    let usage = memory_usage(kubelet).await;
    let mut pods: Vec<Arc<Pod>> = kubelet.pods.active().into_iter().filter(|p| !p.is_critical()).collect();
    let used = |pod: &Pod| usage.get(pod.uid()).copied().unwrap_or(0);
    let over = |pod: &Pod| used(pod) - pod::request_milli(pod, "memory") / 1000;
    // Those above their requests first, then the less important, then those furthest above.
    pods.sort_by_key(|pod| (over(pod) <= 0, pod.spec().priority.unwrap_or(0), std::cmp::Reverse(over(pod))));
    let Some(pod) = pods.first() else {
        tracing::warn!(resource = shortage.resource, "Unable to evict any pods from the node");
        return false;
    };
    let mut message = format!(
        "The node was low on resource: {}. Threshold quantity: {}, available: {}. ",
        shortage.resource,
        binary(shortage.threshold),
        binary(shortage.left.available)
    );
    if shortage.resource == "memory" {
        let request = pod::request_milli(pod, "memory") / 1000;
        if used(pod) > request {
            let name = pod.spec().containers.first().map(|c| c.name.clone()).unwrap_or_default();
            message.push_str(&format!(
                "Container {name} was using {}, request is {}, has larger consumption of memory. ",
                binary(used(pod)),
                if request == 0 { "0".into() } else { binary(request) }
            ));
        }
    }
    evict(kubelet, pod, message, shortage.grace);
    true
}

fn evict(kubelet: &Kubelet, pod: &Pod, message: String, grace: i64) {
    kubelet.events.pod(pod, "Warning", "Evicted", &message);
    let condition = PodCondition {
        type_: "DisruptionTarget".into(),
        status: "True".into(),
        reason: Some("TerminationByKubelet".into()),
        message: Some(message.clone()),
        last_transition_time: Some(crate::status::now()),
        observed_generation: pod.metadata.generation,
        ..Default::default()
    };
    let decree = Decree {
        verdict: Some(Verdict { reason: "Evicted".into(), message }),
        grace: Some(grace),
        conditions: vec![condition],
        rejected: false,
    };
    kubelet.pods.decree(pod.uid(), decree);
}

/// Memory in use by pod.
async fn memory_usage(kubelet: &Kubelet) -> HashMap<String, i64> {
    let mut out = HashMap::new();
    for stats in kubelet.runtime.list_container_stats(None).await.unwrap_or_default() {
        let uid = stats.attributes.and_then(|a| a.labels.get(labels::POD_UID).cloned());
        let used = stats.memory.and_then(|m| m.working_set_bytes).map(|v| v.value);
        if let (Some(uid), Some(used)) = (uid, used) {
            *out.entry(uid).or_insert(0) += i64::try_from(used).unwrap_or(i64::MAX);
        }
    }
    out
}

/// Bytes as a quantity.
fn binary(bytes: i64) -> String {
    if bytes % 1024 == 0 { format!("{}Ki", bytes / 1024) } else { bytes.to_string() }
}

/// Evicts pods that hold more local storage than they may.
async fn enforce_storage_limits(kubelet: &Arc<Kubelet>) {
    for pod in kubelet.pods.active() {
        let limits = empty_dir_limits(&pod);
        let total = pod::limit_milli(&pod, "ephemeral-storage").map(|milli| milli / 1000);
        if limits.is_empty() && total.is_none() {
            continue;
        }
        let dir = kubelet.pod_dir(pod.uid());
        let logs = crate::sandbox::log_dir(kubelet, &pod);
        let measure = move || {
            let volumes =
                |name: &str| size_of(&volumes::layout::volume_dir(&dir, volumes::layout::EMPTY_DIR, name), 0);
            let over = limits.iter().find(|(name, _, limit)| volumes(name) > *limit);
            if let Some((name, text, _)) = over {
                return Some(format!("Usage of EmptyDir volume {name:?} exceeds the limit {text:?}. "));
            }
            let total = total?;
            let all = size_of(&volumes::layout::volumes_dir(&dir).join(volumes::layout::EMPTY_DIR), 0)
                + size_of(&logs, 0);
            (all > total).then(|| {
                format!(
                    "Pod ephemeral local storage usage exceeds the total limit of containers {}. ",
                    binary(total)
                )
            })
        };
        if let Ok(Some(message)) = tokio::task::spawn_blocking(measure).await {
            evict(kubelet, &pod, message, 1);
        }
    }
}

/// Volumes on disk with a limit: (name, limit as written, in bytes).
fn empty_dir_limits(pod: &Pod) -> Vec<(String, String, i64)> {
    let volumes = pod.spec().volumes.iter().flatten();
    volumes
        .filter_map(|volume| {
            let source =
                volume.empty_dir.as_ref().filter(|e| e.medium.as_deref().unwrap_or_default().is_empty())?;
            let limit = &source.size_limit.as_ref()?.0;
            Some((volume.name.clone(), limit.clone(), quantity::units(limit).filter(|l| *l > 0)?))
        })
        .collect()
}

/// Bytes on disk of a folder; links are not followed.
fn size_of(path: &Path, depth: usize) -> i64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(meta) = std::fs::symlink_metadata(path) else { return 0 };
    let own = i64::try_from(meta.blocks()).unwrap_or(0) * 512;
    if !meta.is_dir() || depth > 64 {
        return own;
    }
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    own + entries.map(|e| size_of(&e.path(), depth + 1)).sum::<i64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_do_not_follow_links() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a"), vec![1u8; 100_000]).unwrap();
        std::os::unix::fs::symlink("/", dir.path().join("root")).unwrap();
        let size = size_of(dir.path(), 0);
        assert!((100_000..300_000).contains(&size), "{size}");
    }
}
