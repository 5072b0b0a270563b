//! Evicts pods: one that exceeds its own limits of local storage, and, when the node runs short of something, the one
//! whose end does the least harm.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Pod, PodCondition};
use tokio_util::sync::CancellationToken;

use super::rank::{self, Parts, Use};
use super::signals::{self, Left};
use super::thresholds::{self, Threshold};
use super::{Pressure, shown, storage};
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
        let evicted = act(&kubelet, &thresholds, &due, &observed).await;
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
    /// Thresholds that were met and are not over yet: since when, and whether anything was done about them. What
    /// was acted upon is over only once as much as was asked for has been freed.
    met: HashMap<(&'static str, bool), (Instant, bool)>,
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
            if self.met.get(&key).is_some_and(|(_, acted)| *acted) {
                at += threshold.reclaim.of(left.capacity);
            }
            if left.available >= at {
                self.met.remove(&key);
                continue;
            }
            let (since, acted) = self.met.entry(key).or_insert((now, false));
            let index = match threshold.resource() {
                "memory" => 0,
                "pids" => 2,
                _ => 1,
            };
            self.seen[index] = Some(now);
            if now.duration_since(*since) >= threshold.patience.unwrap_or_default() {
                *acted = true;
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
async fn act(
    kubelet: &Arc<Kubelet>,
    all: &[Threshold],
    due: &[&Threshold],
    observed: &Observed,
) -> Option<String> {
    if kubelet.config.local_storage_capacity_isolation {
        let mut any = None;
        for pod in kubelet.pods.active() {
            if let Some((limit, message)) = storage::exceeded(kubelet, &pod).await
                && evict(kubelet, &pod, message, None, AT_ONCE)
            {
                crate::metrics::evicted(limit);
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
    let disks = Disks::of(kubelet).await;
    if reclaim(kubelet, threshold, all, disks).await {
        tracing::info!(resource, "Able to reduce resource pressure without evicting pods.");
        return None;
    }
    let left = observed.get(threshold.signal)?;
    let mut pods = rank::usage(kubelet, resource, disks.parts(threshold.signal)).await;
    rank::sort(&mut pods, resource);
    for (pod, used) in &pods {
        let (message, annotations) = words(threshold, left, pod, used);
        let most = i64::from(kubelet.config.eviction_max_pod_grace_period);
        let grace = match threshold.patience {
            None => AT_ONCE,
            Some(_) => pod.spec().termination_grace_period_seconds.map_or(most, |own| own.min(most)),
        };
        if evict(kubelet, pod, message, Some(annotations), grace) {
            crate::metrics::evicted(threshold.signal);
            return Some(pod.uid().to_string());
        }
    }
    tracing::warn!(resource, "Unable to evict any pods from the node");
    None
}

/// Which files share a disk.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Disks {
    /// All.
    One,
    /// Images and the containers' layers apart from the node's files.
    ImagesApart,
    /// Only the images apart.
    Split,
}

impl Disks {
    async fn of(kubelet: &Kubelet) -> Disks {
        let places = kubelet.places.get(&kubelet.runtime).await;
        match (places.images_apart(kubelet.root()), places.containers_apart()) {
            (false, _) => Self::One,
            (true, false) => Self::ImagesApart,
            (true, true) => Self::Split,
        }
    }

    /// What of a pod counts for a disk that is short.
    fn parts(self, signal: &str) -> Parts {
        let node = signal.starts_with("nodefs");
        match self {
            Self::One => Parts { node_files: true, layers: true },
            Self::ImagesApart => Parts { node_files: node, layers: !node },
            Self::Split => Parts { node_files: node, layers: node },
        }
    }

    /// What can be thrown away to relieve a disk: dead containers, unused images.
    fn waste(self, signal: &str) -> (bool, bool) {
        let node = signal.starts_with("nodefs");
        match self {
            Self::One => (true, true),
            Self::ImagesApart => (!node, !node),
            Self::Split => (node, !node),
        }
    }
}

/// Frees disk without harm to pods: dead containers and unused images. Returns whether that was enough.
async fn reclaim(kubelet: &Arc<Kubelet>, threshold: &Threshold, all: &[Threshold], disks: Disks) -> bool {
    if !matches!(threshold.resource(), "ephemeral-storage" | "inodes") {
        return false;
    }
    let (containers, images) = disks.waste(threshold.signal);
    if !containers && !images {
        return false;
    }
    crate::gc::free_disk(kubelet, containers, images).await;
    let observed = signals::observe(kubelet).await;
    all.iter().all(|threshold| {
        observed.get(threshold.signal).is_none_or(|left| {
            left.available >= threshold.value.of(left.capacity) + threshold.reclaim.of(left.capacity)
        })
    })
}

/// The message of an eviction, and what its event tells programs.
fn words(threshold: &Threshold, left: &Left, pod: &Pod, used: &Use) -> (String, BTreeMap<String, String>) {
    let resource = threshold.resource();
    let mut message = format!(
        "The node was low on resource: {resource}. Threshold quantity: {}, available: {}. ",
        threshold.quantity(left.capacity),
        shown(resource, left.available)
    );
    let mut annotations = BTreeMap::new();
    let of_pod = pod.spec().resources.as_ref().and_then(|r| r.requests.as_ref()?.get(resource));
    if let Some(request) = of_pod.filter(|_| resource == "memory") {
        let use_ = shown(resource, used.total);
        message.push_str(&format!(
            "Pod {} was using {use_}, request is {}, has larger consumption of {resource}. ",
            pod.name(),
            canonical(&request.0)
        ));
        annotations.insert("offending_pod".into(), pod.name().to_string());
        annotations.insert("offending_pod_usage".into(), use_);
    }
    let (mut names, mut amounts) = (Vec::new(), Vec::new());
    for (name, use_) in used.containers.iter().filter(|_| matches!(resource, "memory" | "ephemeral-storage"))
    {
        let mut all = pod.spec().containers.iter().chain(pod.init_containers());
        let Some(container) = all.find(|c| c.name == *name) else { continue };
        let request = container.resources.as_ref().and_then(|r| r.requests.as_ref()?.get(resource));
        let least = request.and_then(|r| volumes::quantity::units(&r.0)).unwrap_or(0);
        if *use_ > least {
            let use_ = shown(resource, *use_);
            let request = request.map_or_else(|| "0".to_string(), |r| canonical(&r.0));
            message.push_str(&format!(
                "Container {name} was using {use_}, request is {request}, has larger consumption of {resource}. "
            ));
            names.push(name.as_str());
            amounts.push(use_);
        }
    }
    annotations.insert("offending_containers".into(), names.join(","));
    annotations.insert("offending_containers_usage".into(), amounts.join(","));
    annotations.insert("starved_resource".into(), resource.to_string());
    (message, annotations)
}

fn canonical(text: &str) -> String {
    api::quantity::Quantity::parse(text).map_or_else(|_| text.to_string(), |q| q.to_string())
}

/// Evicts a pod; `false` for one that is critical or ending already. The node's shortage is told as a disruption, with
/// annotations; what the pod itself did wrong is not.
fn evict(
    kubelet: &Kubelet,
    pod: &Pod,
    message: String,
    shortage: Option<BTreeMap<String, String>>,
    grace: i64,
) -> bool {
    let ending = kubelet.pods.get(pod.uid()).is_none_or(|d| d.removed || d.decree.is_some());
    if pod.is_critical() || ending {
        return false;
    }
    tracing::warn!(pod = pod.formatted(), qos = pod::qos(pod), message, "Evicting a pod");
    let condition = shortage.is_some().then(|| PodCondition {
        type_: "DisruptionTarget".into(),
        status: "True".into(),
        reason: Some("TerminationByKubelet".into()),
        message: Some(message.clone()),
        last_transition_time: Some(crate::status::now()),
        observed_generation: pod.metadata.generation,
        ..Default::default()
    });
    kubelet.events.annotated(pod, shortage.unwrap_or_default(), "Warning", "Evicted", &message);
    let decree = Decree {
        verdict: Some(Verdict { reason: "Evicted".into(), message }),
        grace: Some(grace),
        conditions: condition.into_iter().collect(),
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

    #[test]
    fn words_of_an_eviction() {
        let config = |signal: &str, value: &str| {
            let mut config = KubeletConfiguration::defaults();
            config.eviction_hard = [(signal.to_string(), value.to_string())].into();
            config.enforce_node_allocatable.clear();
            thresholds::parse(&config).unwrap().remove(0)
        };
        let pod: Pod = serde_json::from_value(serde_json::json!({"metadata": {"name": "p"}, "spec": {
            "containers": [{"name": "modest", "resources": {"requests": {"memory": "1Gi"}}}, {"name": "greedy"}]}}))
        .unwrap();
        let containers = vec![("modest".to_string(), 5 << 20), ("greedy".to_string(), 3 << 10)];
        let used = Use { total: 0, containers };
        let left = |available| Left { available, capacity: 2 << 30 };
        let (text, annotations) = words(&config("memory.available", "1G"), &left(50 << 20), &pod, &used);
        assert_eq!(
            text,
            "The node was low on resource: memory. Threshold quantity: 1G, available: 50Mi. Container greedy was using 3Ki, request is 0, has larger consumption of memory. "
        );
        let told = |key: &str| annotations.get(key).map(String::as_str);
        assert_eq!(told("offending_containers"), Some("greedy"));
        assert_eq!(told("offending_containers_usage"), Some("3Ki"));
        assert_eq!(told("starved_resource"), Some("memory"));
        let (text, _) = words(&config("pid.available", "25%"), &left(12000), &pod, &used);
        assert_eq!(text, "The node was low on resource: pids. Threshold quantity: 512Mi, available: 12k. ");
    }
}
