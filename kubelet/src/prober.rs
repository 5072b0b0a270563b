//! Probes: one task for each probe of each container, from the pod's start to its end.
//!
//! A task waits until its container runs, probes it at its period, and changes the container's verdict once enough
//! results in a row agree. A changed verdict wakes the pod's worker.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::core::v1::{Container, Pod, Probe};
use kubelet_server::Took;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;

use crate::actions::{Verdict, Verdicts};
use crate::events::Events;
use crate::model::{self, PodState, State};
use crate::pod::{Kind, PodExt};
use crate::status::Health;

mod run;

/// Which of a container's probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Type {
    Liveness,
    Readiness,
    Startup,
}

impl Type {
    /// As events spell it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
            Self::Startup => "Startup",
        }
    }
}

/// Results by container id and probe.
#[derive(Default)]
struct Results(Mutex<HashMap<(String, Type), Verdict>>);

impl Results {
    fn get(&self, id: &str, which: Type) -> Option<Verdict> {
        self.0.lock().get(&(id.to_string(), which)).copied()
    }

    /// Returns whether that is news.
    fn set(&self, id: &str, which: Type, verdict: Verdict) -> bool {
        self.0.lock().insert((id.to_string(), which), verdict) != Some(verdict)
    }

    fn remove(&self, id: &str, which: Type) {
        self.0.lock().remove(&(id.to_string(), which));
    }
}

/// How long to wait before asking a container again that was not ready when it was first asked.
const EARLY: [Duration; 5] = [
    Duration::from_millis(60),
    Duration::from_millis(120),
    Duration::from_millis(240),
    Duration::from_millis(480),
    Duration::from_millis(900),
];

/// How the attempts of a probe ended.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tally {
    /// How many: successful, failed, unknown.
    pub results: [u64; 3],
    /// How long those took that succeeded.
    pub took: Took,
}

/// How probes of a container ended.
type Counts = Mutex<HashMap<(String, String, Type), Tally>>;

/// All probes of this node.
pub struct Prober {
    results: Arc<Results>,
    runtime: cri::Runtime,
    events: Events,
    pods: Mutex<HashMap<String, Probed>>,
    counts: Arc<Counts>,
}

/// A pod that is probed.
struct Probed {
    state: watch::Sender<Seen>,
    tasks: HashMap<(String, Type), AbortHandle>,
}

impl Drop for Probed {
    fn drop(&mut self) {
        for task in self.tasks.values() {
            task.abort();
        }
    }
}

/// What probes need to know of a pod's containers.
#[derive(Debug, Clone, Default)]
struct Seen {
    containers: HashMap<String, SeenContainer>,
    ip: Option<String>,
    /// Only readiness counts any more.
    ending: bool,
}

#[derive(Debug, Clone)]
struct SeenContainer {
    id: String,
    state: State,
    started_at: i64,
}

impl Prober {
    /// No probes yet.
    pub fn new(runtime: cri::Runtime, events: Events) -> Self {
        Self { results: Arc::default(), runtime, events, pods: Mutex::default(), counts: Arc::default() }
    }

    /// Tells the probes of a pod what runs of it, starting them where needed. `wake` is told of new verdicts.
    /// A container that the apiserver holds ready stays so until a probe says otherwise, so that a restart of the
    /// kubelet disturbs nothing.
    pub fn update(&self, pod: &Pod, state: &PodState, ips: &[String], ending: bool, wake: &Arc<Notify>) {
        let mut containers = HashMap::new();
        for c in &state.containers {
            let seen = || SeenContainer { id: c.id.clone(), state: c.state, started_at: c.started_at };
            containers.entry(c.name.clone()).or_insert_with(seen);
        }
        let seen = Seen { containers, ip: ips.first().cloned(), ending };
        let mut pods = self.pods.lock();
        let probed = pods
            .entry(pod.uid().to_string())
            .or_insert_with(|| Probed { state: watch::channel(Seen::default()).0, tasks: HashMap::new() });
        probed.state.send_replace(seen);
        for (kind, container) in pod.all_containers() {
            if kind == Kind::Init || kind == Kind::Ephemeral {
                continue;
            }
            let probes = [
                (Type::Startup, &container.startup_probe),
                (Type::Readiness, &container.readiness_probe),
                (Type::Liveness, &container.liveness_probe),
            ];
            for (which, probe) in probes {
                let Some(probe) = probe else { continue };
                let key = (container.name.clone(), which);
                if !probed.tasks.contains_key(&key) && !ending {
                    let task = self.task(pod, kind, &container, which, probe, probed.state.subscribe(), wake);
                    // Known at once, not only when the task gets its turn: the status is asked for next.
                    let runs = state.containers.iter().find(|c| Some(&c.id) == task.trusted.as_ref());
                    if let Some(running) = runs.filter(|c| c.state == State::Running) {
                        self.results.set(&running.id, which, Verdict::Success);
                    }
                    probed.tasks.insert(key, tokio::spawn(task.run()).abort_handle());
                }
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "all of it is the task")]
    fn task(
        &self,
        pod: &Pod,
        kind: Kind,
        container: &Container,
        which: Type,
        probe: &Probe,
        state: watch::Receiver<Seen>,
        wake: &Arc<Notify>,
    ) -> Task {
        let statuses = pod.status.as_ref().and_then(|s| s.container_statuses.as_deref()).unwrap_or_default();
        let init = pod.status.as_ref().and_then(|s| s.init_container_statuses.as_deref()).unwrap_or_default();
        let good = |s: &&k8s_openapi::api::core::v1::ContainerStatus| match which {
            Type::Startup => s.started == Some(true),
            _ => s.ready,
        };
        let mut named = statuses.iter().chain(init).filter(|s| s.name == container.name);
        let was_ready = named.find(good);
        let trusted =
            was_ready.and_then(|s| s.container_id.as_deref()?.rsplit("://").next().map(str::to_string));
        Task {
            pod: pod.clone(),
            kind,
            container: container.clone(),
            which,
            probe: probe.clone(),
            state,
            results: self.results.clone(),
            runtime: self.runtime.clone(),
            events: self.events.clone(),
            counts: self.counts.clone(),
            wake: wake.clone(),
            trusted,
        }
    }

    /// Ends the probes of a pod.
    pub fn remove(&self, uid: &str, state: &PodState) {
        self.pods.lock().remove(uid);
        for container in &state.containers {
            for which in [Type::Liveness, Type::Readiness, Type::Startup] {
                self.results.remove(&container.id, which);
            }
        }
        self.counts.lock().retain(|(pod, ..), _| pod != uid);
    }

    /// The health of a running container.
    pub fn health(&self, spec: &Container, id: &str) -> Health {
        let passes = |probe: &Option<Probe>, which| {
            probe.is_none() || self.results.get(id, which) == Some(Verdict::Success)
        };
        Health {
            started: passes(&spec.startup_probe, Type::Startup),
            ready: passes(&spec.readiness_probe, Type::Readiness),
        }
    }

    /// How each probe ended, as (pod uid, container, type, tally).
    pub fn counts(&self) -> Vec<(String, String, Type, Tally)> {
        self.counts
            .lock()
            .iter()
            .map(|((uid, name, which), n)| (uid.clone(), name.clone(), *which, *n))
            .collect()
    }
}

impl Verdicts for Prober {
    fn liveness(&self, id: &str) -> Option<Verdict> {
        self.results.get(id, Type::Liveness)
    }
    fn startup(&self, id: &str) -> Option<Verdict> {
        self.results.get(id, Type::Startup)
    }
}

/// One probe of one container.
struct Task {
    pod: Pod,
    kind: Kind,
    container: Container,
    which: Type,
    probe: Probe,
    state: watch::Receiver<Seen>,
    results: Arc<Results>,
    runtime: cri::Runtime,
    events: Events,
    counts: Arc<Counts>,
    wake: Arc<Notify>,
    /// The id of a container that was ready before the kubelet started.
    trusted: Option<String>,
}

impl Task {
    fn seen(&mut self) -> (Option<SeenContainer>, Option<String>, bool) {
        let seen = self.state.borrow_and_update();
        (seen.containers.get(&self.container.name).cloned(), seen.ip.clone(), seen.ending)
    }

    fn set(&self, id: &str, verdict: Verdict) {
        if self.results.set(id, self.which, verdict) {
            self.wake.notify_one();
        }
    }

    async fn run(mut self) {
        let mut known = String::new();
        loop {
            let (container, _, ending) = self.seen();
            if ending && self.which != Type::Readiness {
                if !known.is_empty() {
                    self.results.set(&known, self.which, Verdict::Success);
                }
                return;
            }
            let running = container.filter(|c| c.state == State::Running);
            match running {
                Some(container) if container.id != known => {
                    if !known.is_empty() {
                        self.results.remove(&known, self.which);
                    }
                    known = container.id.clone();
                    let first = match self.which {
                        Type::Liveness => Verdict::Success,
                        _ if self.trusted.as_deref() == Some(&known) => Verdict::Success,
                        Type::Startup => Verdict::Unknown,
                        Type::Readiness => Verdict::Failure,
                    };
                    self.set(&known, first);
                    if !(self.which == Type::Startup && first == Verdict::Success) {
                        self.watch_container(&container).await;
                    }
                }
                _ => {
                    if running.is_none() && !known.is_empty() && self.which == Type::Readiness {
                        self.set(&known, Verdict::Failure);
                    }
                    if self.state.changed().await.is_err() {
                        return;
                    }
                }
            }
        }
    }

    /// Probes one run of the container until it does not run any more or its fate is sealed.
    async fn watch_container(&mut self, container: &SeenContainer) {
        let delay = seconds(self.probe.initial_delay_seconds, 0);
        let until = model::time(container.started_at) + delay;
        let wait = until.duration_since(SystemTime::now()).unwrap_or_default().min(delay);
        if !self.pause(container, wait).await {
            return;
        }
        if self.which != Type::Startup
            && self.container.startup_probe.is_some()
            && !self.wait_for_start(container).await
        {
            return;
        }
        let period = seconds(self.probe.period_seconds, 10);
        let (mut row, mut last) = (0i32, None);
        let mut early = self.may_hurry().then(|| EARLY.iter().filter(|pause| **pause < period));
        loop {
            let Some(verdict) = self.probe_once(container).await else {
                // What could not be found out counts neither way.
                if !self.pause(container, period).await {
                    return;
                }
                continue;
            };
            row = if last == Some(verdict) { row + 1 } else { 1 };
            last = Some(verdict);
            let needed = match verdict {
                Verdict::Success => self.probe.success_threshold.unwrap_or(1),
                Verdict::Failure => self.probe.failure_threshold.unwrap_or(3),
                Verdict::Unknown => i32::MAX,
            };
            if row >= needed {
                self.set(&container.id, verdict);
                let sealed = match self.which {
                    Type::Liveness => verdict == Verdict::Failure,
                    Type::Startup => true,
                    Type::Readiness => false,
                };
                if sealed {
                    // Nothing more to find out about this run.
                    return;
                }
            }
            let began = tokio::time::Instant::now();
            if let Some(mut pauses) = early.take()
                && verdict == Verdict::Failure
            {
                match self.hurry(container, &mut pauses).await {
                    None => return,
                    Some(true) => (row, last) = (1, Some(Verdict::Success)),
                    Some(false) => {}
                }
            }
            if !self.pause(container, period.saturating_sub(began.elapsed())).await {
                return;
            }
        }
    }

    /// Whether it is worth asking again soon after the container began: its readiness is waited for, one success is
    /// enough, and asking costs little.
    fn may_hurry(&self) -> bool {
        let probe = &self.probe;
        self.which == Type::Readiness
            && self.container.startup_probe.is_none()
            && probe.initial_delay_seconds.unwrap_or(0) == 0
            && probe.success_threshold.unwrap_or(1) == 1
            && (probe.http_get.is_some() || probe.tcp_socket.is_some() || probe.grpc.is_some())
    }

    /// A container that has only just begun is rarely ready when it is first asked. It is asked again a few times
    /// before a whole period has gone by; what it says then counts only if it is ready. `None` when its run is over.
    async fn hurry(
        &mut self,
        container: &SeenContainer,
        pauses: &mut (dyn Iterator<Item = &Duration> + Send),
    ) -> Option<bool> {
        for pause in pauses {
            if !self.pause(container, *pause).await {
                return None;
            }
            let (_, ip, ending) = self.seen();
            if ending {
                return Some(false);
            }
            let (runtime, ip) = (&self.runtime, ip.as_deref());
            let outcome = run::probe(runtime, &self.probe, &self.container, &container.id, ip).await;
            if matches!(outcome, run::Outcome::Success | run::Outcome::Warning(_)) {
                self.set(&container.id, Verdict::Success);
                return Some(true);
            }
        }
        Some(false)
    }

    async fn wait_for_start(&mut self, container: &SeenContainer) -> bool {
        loop {
            if self.results.get(&container.id, Type::Startup) == Some(Verdict::Success) {
                return true;
            }
            if !self.pause(container, Duration::from_millis(250)).await {
                return false;
            }
        }
    }

    /// Waits; `false` as soon as this run of the container is over.
    async fn pause(&mut self, container: &SeenContainer, time: Duration) -> bool {
        let sleep = tokio::time::sleep(time);
        tokio::pin!(sleep);
        loop {
            let (now, _, ending) = self.seen();
            let same = now.is_some_and(|c| c.id == container.id && c.state == State::Running);
            if !same || (ending && self.which != Type::Readiness) {
                return false;
            }
            tokio::select! {
                () = &mut sleep => return true,
                changed = self.state.changed() => if changed.is_err() { return false },
            }
        }
    }

    /// Probes once; an error is tried again twice, and then has no verdict.
    async fn probe_once(&mut self, container: &SeenContainer) -> Option<Verdict> {
        let mut outcome = run::Outcome::Error("no attempt".into());
        let began = std::time::Instant::now();
        for _ in 0..3 {
            let (_, ip, _) = self.seen();
            outcome =
                run::probe(&self.runtime, &self.probe, &self.container, &container.id, ip.as_deref()).await;
            if !matches!(outcome, run::Outcome::Error(_)) {
                break;
            }
        }
        let name = self.which.name();
        let event = |reason: &str, message: String| {
            self.events.container(&self.pod, self.kind, &self.container.name, "Warning", reason, &message);
        };
        let (verdict, slot) = match outcome {
            run::Outcome::Success => (Verdict::Success, 0),
            run::Outcome::Warning(said) => {
                event("ProbeWarning", format!("{name} probe warning: {said}"));
                (Verdict::Success, 0)
            }
            run::Outcome::Failure(said) => {
                event("Unhealthy", format!("{name} probe failed: {said}"));
                (Verdict::Failure, 1)
            }
            run::Outcome::Error(error) => {
                event("Unhealthy", format!("{name} probe errored and resulted in unknown state: {error}"));
                return None;
            }
        };
        let key = (self.pod.uid().to_string(), self.container.name.clone(), self.which);
        let mut counts = self.counts.lock();
        let tally = counts.entry(key).or_default();
        tally.results[slot] += 1;
        if verdict == Verdict::Success {
            tally.took.add(began.elapsed().as_secs_f64());
        }
        Some(verdict)
    }
}

fn seconds(value: Option<i32>, default: u64) -> Duration {
    let value = value.and_then(|v| u64::try_from(v).ok());
    Duration::from_secs(value.filter(|v| *v > 0 || default == 0).unwrap_or(default))
}

#[cfg(test)]
mod tests;
