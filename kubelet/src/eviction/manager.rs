//! Evicts pods: one that exceeds its own limits of local storage, and, when the node runs short of something, the one
//! whose end does the least harm.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Pod, PodCondition};
use tokio_util::sync::CancellationToken;

use super::rank::{self, Parts, Use};
use super::signals::{self, Left};
use super::thresholds::{self, Amount, Threshold};
use super::{Pressure, binary, storage};
use crate::kubelet::Kubelet;
use crate::pod::{self, PodExt};
use crate::status::Verdict;
use crate::worker::Decree;

const PERIOD: Duration = Duration::from_secs(10);
/// How long an evicted pod may take to end before another is looked for.
const SETTLE: Duration = Duration::from_secs(30);
/// The grace period of pods that have to go at once.
const AT_ONCE: i64 = 1;

type Observed = BTreeMap<&'static str, Left>;

/// Watches over limits and thresholds until the shutdown.
pub async fn run(kubelet: Arc<Kubelet>, shutdown: CancellationToken) {
    // The configuration was checked when it was read.
    let thresholds = thresholds::parse(&kubelet.config).unwrap_or_default();
    let mut watch = Watch::new(kubelet.config.eviction_pressure_transition_period);
    tokio::select! {
        // Pods that run already are found before anything is decided.
        () = shutdown.cancelled() => return,
        () = tokio::time::sleep(PERIOD) => {}
    }
    loop {
        let observed = signals::observe(&kubelet).await;
        let due = watch.look(&thresholds, &observed, Instant::now());
        if **kubelet.pressure.load() != watch.pressure {
            kubelet.pressure.store(Arc::new(watch.pressure));
            kubelet.node_changed.notify_one();
        }
        let evicted = act(&kubelet, &due, &observed).await;
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = wait(&kubelet, evicted.as_deref()) => {}
        }
    }
}

/// Until the next look: at once after an evicted pod has ended.
async fn wait(kubelet: &Kubelet, evicted: Option<&str>) {
    let end = evicted.and_then(|uid| Some((uid, kubelet.pods.end_of(uid)?)));
    let Some((uid, mut end)) = end else { return tokio::time::sleep(PERIOD).await };
    if tokio::time::timeout(SETTLE, end.wait_for(|ended| *ended)).await.is_err()
        && let Some(desired) = kubelet.pods.get(uid)
    {
        let message = "Container runtime did not kill the pod within specified grace period.";
        kubelet.events.pod(&desired.pod, "Warning", "ExceededGracePeriod", message);
    }
}

/// What is remembered between looks.
struct Watch {
    hold: Duration,
    /// Thresholds that were met and are not over yet, since when.
    met: HashMap<(&'static str, bool), Instant>,
    /// When each kind of pressure was last seen.
    seen: [Option<Instant>; 3],
    pressure: Pressure,
}

impl Watch {
    fn new(hold: Duration) -> Self {
        Self { hold, met: HashMap::new(), seen: [None; 3], pressure: Pressure::default() }
    }

    /// Which thresholds call for action now.
    fn look<'a>(&mut self, all: &'a [Threshold], observed: &Observed, now: Instant) -> Vec<&'a Threshold> {
        let mut due = Vec::new();
        for threshold in all {
            let key = (threshold.signal, threshold.patience.is_some());
            let Some(left) = observed.get(threshold.signal) else { continue };
            let mut at = threshold.value.of(left.capacity);
            if self.met.contains_key(&key) {
                at += threshold.reclaim.of(left.capacity);
            }
            if left.available >= at {
                self.met.remove(&key);
                continue;
            }
            let since = *self.met.entry(key).or_insert(now);
            let index = match threshold.resource() {
                "memory" => 0,
                "pids" => 2,
                _ => 1,
            };
            self.seen[index] = Some(now);
            if now.duration_since(since) >= threshold.patience.unwrap_or_default() {
                due.push(threshold);
            }
        }
        let on = |at: Option<Instant>| at.is_some_and(|at| at == now || now.duration_since(at) < self.hold);
        let [memory, disk, pid] = self.seen.map(on);
        self.pressure = Pressure { memory, disk, pid };
        // Memory is the most urgent, and what is hard more than what is soft.
        due.sort_by_key(|t| (t.resource() != "memory", t.patience.is_some()));
        due
    }
}

/// Does what has to be done; returns the UID of a pod that was evicted.
async fn act(kubelet: &Arc<Kubelet>, due: &[&Threshold], observed: &Observed) -> Option<String> {
    if kubelet.config.local_storage_capacity_isolation {
        let mut any = None;
        for pod in kubelet.pods.active() {
            if let Some(message) = storage::exceeded(kubelet, &pod).await
                && evict(kubelet, &pod, message, AT_ONCE)
            {
                crate::metrics::evicted("ephemeral-storage");
                any = Some(pod.uid().to_string());
            }
        }
        if any.is_some() {
            return any;
        }
    }
    let threshold = due.first()?;
    let resource = threshold.resource();
    tracing::warn!(resource, signal = threshold.signal, "Attempting to reclaim");
    kubelet.events.node("Warning", "EvictionThresholdMet", &format!("Attempting to reclaim {resource}"));
    if reclaim(kubelet, threshold).await {
        tracing::info!(resource, "Able to reduce resource pressure without evicting pods.");
        return None;
    }
    let left = observed.get(threshold.signal)?;
    let places = kubelet.places.get(&kubelet.runtime).await;
    let images_apart = places.images_apart(kubelet.root());
    let layers_apart = if places.containers_apart() { false } else { images_apart };
    let parts = Parts {
        node_files: threshold.signal.starts_with("nodefs") || !layers_apart,
        layers: !threshold.signal.starts_with("nodefs") || !layers_apart,
    };
    let mut pods = rank::usage(kubelet, resource, parts).await;
    rank::sort(&mut pods, resource);
    for (pod, used) in &pods {
        let message = words(threshold, left, pod, used);
        let grace = match threshold.patience {
            None => AT_ONCE,
            Some(_) => i64::from(kubelet.config.eviction_max_pod_grace_period),
        };
        if evict(kubelet, pod, message, grace) {
            crate::metrics::evicted(threshold.signal);
            return Some(pod.uid().to_string());
        }
    }
    tracing::warn!(resource, "Unable to evict any pods from the node");
    None
}

/// Frees disk without harm to pods: dead containers and unused images. Returns whether that was enough.
async fn reclaim(kubelet: &Arc<Kubelet>, threshold: &Threshold) -> bool {
    if !matches!(threshold.resource(), "ephemeral-storage" | "inodes") {
        return false;
    }
    crate::gc::free_disk(kubelet).await;
    let observed = signals::observe(kubelet).await;
    let Some(left) = observed.get(threshold.signal) else { return false };
    left.available >= threshold.value.of(left.capacity) + threshold.reclaim.of(left.capacity)
}

/// The message of an eviction.
fn words(threshold: &Threshold, left: &Left, pod: &Pod, used: &Use) -> String {
    let resource = threshold.resource();
    let amount = |n: i64| if matches!(resource, "inodes" | "pids") { n.to_string() } else { binary(n) };
    let value = match threshold.value {
        Amount::Units(units) => units,
        share => share.of(left.capacity),
    };
    let mut message = format!(
        "The node was low on resource: {resource}. Threshold quantity: {}, available: {}. ",
        amount(value),
        kibi(resource, left.available)
    );
    let containers = pod.spec().containers.iter().chain(pod.init_containers());
    for container in containers {
        let Some((_, use_)) = used.containers.iter().find(|(name, _)| *name == container.name) else {
            continue;
        };
        let request = container.resources.as_ref().and_then(|r| r.requests.as_ref());
        let request = volumes::quantity::get(request, resource).unwrap_or(0);
        if matches!(resource, "memory" | "ephemeral-storage") && *use_ > request {
            message.push_str(&format!(
                "Container {} was using {}, request is {}, has larger consumption of {resource}. ",
                container.name,
                kibi(resource, *use_),
                binary(request)
            ));
        }
    }
    message
}

/// A measured amount: bytes in Ki, as it comes from files of the kernel.
fn kibi(resource: &str, n: i64) -> String {
    match resource {
        "inodes" | "pids" => n.to_string(),
        _ if n % 1024 == 0 => format!("{}Ki", n / 1024),
        _ => n.to_string(),
    }
}

/// Evicts a pod; `false` for one that is critical or ending already.
fn evict(kubelet: &Kubelet, pod: &Pod, message: String, grace: i64) -> bool {
    let ending = kubelet.pods.get(pod.uid()).is_none_or(|d| d.removed || d.decree.is_some());
    if pod.is_critical() || ending {
        return false;
    }
    tracing::warn!(pod = pod.formatted(), qos = pod::qos(pod), message, "Evicting a pod");
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
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::KubeletConfiguration;

    #[test]
    fn thresholds_over_time() {
        let mut config = KubeletConfiguration::defaults();
        let map =
            |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        config.eviction_hard = map(&[("memory.available", "100"), ("nodefs.available", "10%")]);
        config.eviction_soft = map(&[("memory.available", "200")]);
        config.eviction_soft_grace_period = map(&[("memory.available", "30s")]);
        config.eviction_minimum_reclaim = map(&[("memory.available", "50")]);
        config.enforce_node_allocatable.clear();
        let all = thresholds::parse(&config).unwrap();
        let mut watch = Watch::new(Duration::from_secs(60));
        let start = Instant::now();
        let mut look = |after: u64, memory: i64, disk: i64| {
            let left = |available| Left { available, capacity: 1000 };
            let observed =
                Observed::from([("memory.available", left(memory)), ("nodefs.available", left(disk))]);
            let due = watch.look(&all, &observed, start + Duration::from_secs(after));
            let due: Vec<(&str, bool)> = due.iter().map(|t| (t.signal, t.patience.is_some())).collect();
            (due, watch.pressure.memory, watch.pressure.disk)
        };
        assert_eq!(look(0, 500, 500), (vec![], false, false));
        // Soft: the node says so at once, but waits.
        assert_eq!(look(10, 190, 500), (vec![], true, false));
        assert_eq!(look(40, 190, 500), (vec![("memory.available", true)], true, false));
        let hard_first =
            vec![("memory.available", false), ("memory.available", true), ("nodefs.available", false)];
        assert_eq!(look(50, 90, 99), (hard_first, true, true));
        // Over the threshold, but not by as much as is asked for.
        assert_eq!(look(60, 140, 500).0, [("memory.available", false), ("memory.available", true)]);
        assert_eq!(look(70, 300, 500), (vec![], true, true));
        // Pressure is believed to be over only after a while.
        assert_eq!(look(109, 300, 500), (vec![], true, true));
        assert_eq!(look(121, 300, 500), (vec![], false, false));
    }
}
