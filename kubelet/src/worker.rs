//! The worker of a pod: one task, the only writer of that pod's containers.
//!
//! A pod is first *synced*: brought to and kept in the state its spec asks for. It is *terminated* when its deletion is
//! asked for, when it has ended by itself, or by decree; then nothing of it runs, and its volumes and cgroup are
//! given back. Its files go when its object is gone. A kubelet that starts anew starts each worker at the beginning;
//! every step looks at what is there first, so nothing is done twice.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use k8s_openapi::api::core::v1::{Container, Pod, PodCondition};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use volumes::Mounted;

use crate::actions::{self, Actions};
use crate::backoff::go_duration;
use crate::container::{self, Make};
use crate::images::Waiting;
use crate::kill::{self, Order};
use crate::kubelet::Kubelet;
use crate::model::{self, PodState, State};
use crate::pod::{self, Kind, PodExt};
use crate::status::{self, Verdict};
use crate::{hooks, mirror, sandbox};

mod end;

/// What is wanted of a pod.
#[derive(Debug, Clone)]
pub struct Desired {
    /// The pod to run.
    pub pod: Arc<Pod>,
    /// The object that shows its status: itself, or the mirror of a static pod.
    pub target: Option<Arc<Pod>>,
    /// It is gone from its source.
    pub removed: bool,
    /// It has to end, whatever it says.
    pub decree: Option<Decree>,
}

/// The end of a pod by decree: rejection, eviction, shutdown.
#[derive(Debug, Clone, Default)]
pub struct Decree {
    /// The verdict for the status.
    pub verdict: Option<Verdict>,
    /// How long it may take.
    pub grace: Option<i64>,
    /// Conditions to show.
    pub conditions: Vec<PodCondition>,
    /// It was never let in.
    pub rejected: bool,
}

impl Desired {
    fn must_end(&self) -> bool {
        self.removed || self.decree.is_some() || self.pod.is_deleting() || self.pod.is_terminal()
    }
}

/// How a sync ended.
enum Outcome {
    /// Something was done; look again.
    Again,
    /// Nothing to do until then.
    Wait(Duration),
    /// The pod has ended by itself.
    Over,
}

/// The worker of one pod.
pub struct Worker {
    kubelet: Arc<Kubelet>,
    uid: String,
    desired: watch::Receiver<Desired>,
    wake: Arc<Notify>,
    shutdown: CancellationToken,
    state: PodState,
    waiting: BTreeMap<String, Waiting>,
    volumes: BTreeMap<String, Mounted>,
    volumes_done: Option<Instant>,
    volume_failures: u32,
    mirror_tried: Option<Instant>,
    failures: u32,
}

impl Worker {
    /// A worker for the pod of `desired`; `wake` tells it to look again.
    pub fn new(
        kubelet: Arc<Kubelet>,
        desired: watch::Receiver<Desired>,
        wake: Arc<Notify>,
        shutdown: CancellationToken,
    ) -> Self {
        let uid = desired.borrow().pod.uid().to_string();
        Self {
            kubelet,
            uid,
            desired,
            wake,
            shutdown,
            state: PodState::default(),
            waiting: BTreeMap::new(),
            volumes: BTreeMap::new(),
            volumes_done: None,
            volume_failures: 0,
            mirror_tried: None,
            failures: 0,
        }
    }

    /// Lives as long as the pod. `after` is awaited first: a pod of the same name that is still ending.
    pub async fn run(mut self, after: Option<watch::Receiver<bool>>) {
        if let Some(mut after) = after {
            let _ = after.wait_for(|done| *done).await;
        }
        let verdict = tokio::select! {
            () = self.shutdown.clone().cancelled_owned() => return,
            verdict = self.keep_synced() => verdict,
        };
        tokio::select! {
            // What runs goes on running; another kubelet takes over.
            () = self.shutdown.clone().cancelled_owned() => {}
            () = end::run(&mut self, verdict) => {}
        }
    }

    fn now_desired(&mut self) -> Desired {
        self.desired.borrow_and_update().clone()
    }

    /// Keeps the pod as its spec says until it has to end. Returns the verdict if the kubelet decided so.
    async fn keep_synced(&mut self) -> Option<Verdict> {
        loop {
            let desired = self.now_desired();
            if desired.must_end() {
                return None;
            }
            if let Some(verdict) = deadline_verdict(&desired.pod, self.started_at()) {
                self.kubelet.events.pod(&desired.pod, "Normal", "DeadlineExceeded", &verdict.message);
                return Some(verdict);
            }
            let wait = match self.sync(&desired).await {
                Ok(Outcome::Over) => return None,
                Ok(Outcome::Again) => {
                    self.failures = 0;
                    continue;
                }
                Ok(Outcome::Wait(wait)) => {
                    self.failures = 0;
                    wait
                }
                Err(error) => {
                    tracing::warn!(pod = desired.pod.formatted(), %error, "Error syncing pod, skipping");
                    self.failures = (self.failures + 1).min(7);
                    Duration::from_millis(250) * 2u32.pow(self.failures)
                }
            };
            let deadline = deadline_in(&desired.pod, self.started_at()).unwrap_or(wait);
            let wait = if self.lacks_mirror(&desired) { wait.min(Duration::from_secs(3)) } else { wait };
            let store = self.kubelet.store.clone();
            let objects_changed = async {
                match &store {
                    Some(store)
                        if self.volumes.values().any(|v| v.refreshes) || self.volumes_done.is_none() =>
                    {
                        store.changed.notified().await;
                    }
                    _ => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = self.desired.changed() => {}
                () = self.wake.notified() => {}
                () = objects_changed => self.volumes_done = None,
                () = tokio::time::sleep(wait.min(deadline)) => {}
            }
        }
    }

    /// When the pod was first taken up.
    fn started_at(&self) -> Option<SystemTime> {
        let status = self.kubelet.statuses.get(&self.uid)?;
        status.start_time.map(|t| t.0.into())
    }

    /// Looks at the pod and does what is to be done.
    async fn sync(&mut self, desired: &Desired) -> Result<Outcome, String> {
        let kubelet = self.kubelet.clone();
        let pod = desired.pod.clone();
        self.refresh().await?;
        let phase = self.publish(desired, false, None);
        if matches!(phase.as_str(), "Succeeded" | "Failed") {
            return Ok(Outcome::Over);
        }
        self.mirror(desired);
        let actions = actions::compute(&pod, &self.state, &kubelet.prober);
        let network = kubelet.runtime_info.load().network_down.clone();
        if let Some(reason) = network
            && actions.create_sandbox
            && !pod.host_network()
        {
            let message = format!("network is not ready: {reason}");
            kubelet.events.pod(&pod, "Warning", "NetworkNotReady", &message);
            return Ok(Outcome::Wait(Duration::from_secs(2)));
        }
        container::make_pod_dirs(&kubelet, &pod).map_err(|e| {
            let message = format!("error making pod data directories: {e}");
            kubelet.events.pod(&pod, "Warning", "Failed", &message);
            message
        })?;
        kubelet.cgroups.ensure_pod(&pod, kubelet.config.pod_pids_limit);
        let to_start = !(actions.main.is_empty() && actions.init.is_empty() && actions.ephemeral.is_empty());
        if let Some(wait) = self.set_up_volumes(desired, to_start || actions.create_sandbox).await
            && (to_start || actions.create_sandbox)
        {
            return Ok(Outcome::Wait(wait));
        }
        if self.is_interrupted() {
            return Ok(Outcome::Again);
        }
        self.perform(desired, actions).await
    }

    /// Carries the actions out.
    async fn perform(&mut self, desired: &Desired, actions: Actions) -> Result<Outcome, String> {
        let kubelet = self.kubelet.clone();
        let pod = desired.pod.clone();
        let mut acted = false;
        if actions.kill_pod {
            if actions.create_sandbox && actions.sandbox_id.is_some() {
                let message = "Pod sandbox changed, it will be killed and re-created.";
                kubelet.events.pod(&pod, "Normal", "SandboxChanged", message);
            }
            if !self.state.is_stopped() {
                kill::pod(&kubelet, &pod, &self.state, None).await.map_err(|e| e.to_string())?;
                acted = true;
            }
            if actions.create_sandbox {
                self.purge_init_containers().await;
            } else {
                return Ok(if acted { Outcome::Again } else { Outcome::Wait(idle()) });
            }
        }
        for order in &actions.kill {
            if let Some(status) = self.state.containers.iter().find(|c| c.id == order.id) {
                let how = Order { message: order.message.clone(), cause: order.cause, grace: None };
                kill::container(&kubelet, &pod, status, &how).await.map_err(|e| e.to_string())?;
                acted = true;
            }
        }
        if acted {
            self.refresh().await?;
            self.publish(desired, false, None);
        }
        let attempt = actions.attempt;
        let config = match sandbox::config(&kubelet, &pod, attempt) {
            Ok(config) => config,
            Err(error) => return Err(self.sandbox_failed(&pod, &error)),
        };
        let mut sandbox_id = actions.sandbox_id.clone().unwrap_or_default();
        if actions.create_sandbox {
            let handler = kubelet.pods.runtime_handler(&pod);
            let handler = handler.await.map_err(|error| self.sandbox_failed(&pod, &error))?;
            sandbox_id = match kubelet.runtime.run_pod_sandbox(config.clone(), &handler).await {
                Ok(id) => id,
                Err(error) => return Err(self.sandbox_failed(&pod, &error.to_string())),
            };
            self.refresh().await?;
            self.publish(desired, false, None);
            acted = true;
        }
        let mut next = idle();
        let starts = actions.ephemeral.iter().filter_map(|i| {
            let list = pod.spec().ephemeral_containers.as_ref()?;
            let spec = list.get(*i)?;
            Some((Kind::Ephemeral, pod::ephemeral(spec), spec.target_container_name.clone()))
        });
        let init = actions.init.iter().filter_map(|i| pod.init_containers().get(*i)).map(|c| {
            let kind = if pod::is_sidecar(c) { Kind::Sidecar } else { Kind::Init };
            (kind, c.clone(), None)
        });
        let main = actions
            .main
            .iter()
            .filter_map(|i| pod.spec().containers.get(*i))
            .map(|c| (Kind::Main, c.clone(), None));
        let plan: Vec<(Kind, Container, Option<String>)> = starts.chain(init).chain(main).collect();
        for (kind, spec, target) in plan {
            if self.is_interrupted() {
                return Ok(Outcome::Again);
            }
            if let Some(left) = self.back_off(&pod, kind, &spec) {
                next = next.min(left);
                self.publish(desired, false, None);
                continue;
            }
            match self.start(desired, kind, &spec, target.as_deref(), &sandbox_id, &config).await {
                Ok(()) => {
                    acted = true;
                    self.waiting.remove(&spec.name);
                    self.drop_older_runs(&spec.name).await;
                    self.refresh().await?;
                    self.publish(desired, false, None);
                }
                Err(waiting) => {
                    tracing::info!(
                        pod = pod.formatted(),
                        container = spec.name,
                        reason = waiting.reason,
                        message = waiting.message,
                        "Container start failed"
                    );
                    self.waiting.insert(spec.name.clone(), waiting);
                    self.refresh().await?;
                    self.publish(desired, false, None);
                    let retry = kubelet.images.retry_in(&pod, &spec).unwrap_or(Duration::from_secs(10));
                    next = next.min(retry.max(Duration::from_millis(500)));
                    if kind == Kind::Init {
                        break;
                    }
                }
            }
        }
        Ok(if acted && next == idle() { Outcome::Again } else { Outcome::Wait(next) })
    }

    fn sandbox_failed(&self, pod: &Pod, error: &str) -> String {
        let message = format!("Failed to create pod sandbox: {error}");
        self.kubelet.events.pod(pod, "Warning", "FailedCreatePodSandBox", &message);
        message
    }

    /// If the container ended too shortly ago: notes that it waits, and returns how long.
    fn back_off(&mut self, pod: &Pod, kind: Kind, spec: &Container) -> Option<Duration> {
        let last = self.state.containers.iter().find(|c| c.name == spec.name && c.state == State::Exited)?;
        let key = format!("{}_{}_{:x}", pod.uid(), spec.name, crate::labels::hash(spec));
        let now = SystemTime::now();
        let backoff = &self.kubelet.crash_backoff;
        if let Some(left) = backoff.remaining(&key, last.finished(), now) {
            let message =
                format!("Back-off restarting failed container {} in pod {}", spec.name, pod.formatted());
            self.kubelet.events.container(pod, kind, &spec.name, "Warning", "BackOff", &message);
            let delay = go_duration(backoff.delay(&key));
            let text =
                format!("back-off {delay} restarting failed container={} pod={}", spec.name, pod.formatted());
            self.waiting.insert(spec.name.clone(), Waiting::new("CrashLoopBackOff", text));
            return Some(left + Duration::from_millis(20));
        }
        backoff.next(&key, last.finished(), now);
        None
    }

    /// Starts one container.
    async fn start(
        &mut self,
        desired: &Desired,
        kind: Kind,
        spec: &Container,
        target: Option<&str>,
        sandbox_id: &str,
        sandbox_config: &cri::v1::PodSandboxConfig,
    ) -> Result<(), Waiting> {
        let kubelet = self.kubelet.clone();
        let pod = desired.pod.clone();
        let event = |what: &str, reason: &str, message: &str| {
            kubelet.events.container(&pod, kind, &spec.name, what, reason, message);
        };
        let handler = kubelet.pods.runtime_handler(&pod).await.unwrap_or_default();
        let mut interrupt = self.desired.clone();
        let image = tokio::select! {
            image = kubelet.images.ensure(&pod, kind, spec, kubelet.objects(), sandbox_config, &handler) => image,
            _ = interrupt.wait_for(Desired::must_end) => Err(Waiting::new("ContainerCreating", "")),
        };
        let image =
            image.inspect_err(|waiting| event("Warning", "Failed", &format!("Error: {}", waiting.reason)))?;
        let restart_count = match self.state.find(&spec.name) {
            Some(last) => last.marks.restart_count + 1,
            None => container::restart_count_from_logs(&sandbox::log_dir(&kubelet, &pod).join(&spec.name)),
        };
        let failed = |reason: &'static str, message: String| {
            event("Warning", "Failed", &format!("Error: {message}"));
            Waiting::new(reason, message)
        };
        let target_id = match target.filter(|t| !t.is_empty()) {
            None => None,
            Some(name) => match self.state.find(name) {
                Some(found) => Some(found.id.clone()),
                None => {
                    let message = format!("unable to find target container {name}");
                    return Err(failed("CreateContainerConfigError", message));
                }
            },
        };
        let make = Make {
            pod: &pod,
            container: spec,
            restart_count,
            image: &image,
            ips: &self.ips(&pod),
            volumes: &self.volumes,
            target_id: target_id.as_deref(),
        };
        let config = container::config(&kubelet, &make).await;
        let config = config.map_err(|message| failed("CreateContainerConfigError", message))?;
        let log = sandbox::log_dir(&kubelet, &pod).join(&config.log_path);
        let created = kubelet.runtime.create_container(sandbox_id, config, sandbox_config.clone()).await;
        let id = created.map_err(|error| failed("CreateContainerError", error.message))?;
        event("Normal", "Created", "Container created");
        kubelet
            .runtime
            .start_container(&id)
            .await
            .map_err(|error| failed("RunContainerError", error.message))?;
        event("Normal", "Started", "Container started");
        kubelet.relist.notify_one();
        let link = container::legacy_log_link(&pod, &spec.name, &id);
        if let Err(error) = std::os::unix::fs::symlink(&log, &link) {
            tracing::debug!(link = %link.display(), %error, "Failed to create legacy log link");
        }
        self.post_start(&pod, kind, spec, &id).await
    }

    /// Runs the postStart hook; a container whose hook fails is killed.
    async fn post_start(&mut self, pod: &Pod, kind: Kind, spec: &Container, id: &str) -> Result<(), Waiting> {
        let Some(hook) = spec.lifecycle.as_ref().and_then(|l| l.post_start.as_ref()) else { return Ok(()) };
        let kubelet = self.kubelet.clone();
        let ips = self.ips(pod);
        let mut interrupt = self.desired.clone();
        let result = tokio::select! {
            result = hooks::run(&kubelet.runtime, pod, spec, id, ips.first().map(String::as_str), hook) => result,
            _ = interrupt.wait_for(Desired::must_end) => return Ok(()),
        };
        let Err(message) = result else { return Ok(()) };
        tracing::warn!(
            pod = pod.formatted(),
            container = spec.name,
            message,
            "Failed to execute PostStartHook"
        );
        kubelet.events.container(
            pod,
            kind,
            &spec.name,
            "Warning",
            "FailedPostStartHook",
            "PostStartHook failed",
        );
        if self.refresh().await.is_ok()
            && let Some(status) = self.state.containers.iter().find(|c| c.id == id)
        {
            let order =
                Order { message: "FailedPostStartHook".into(), cause: actions::Cause::Other, grace: None };
            let _ = kill::container(&kubelet, pod, status, &order).await;
        }
        Err(Waiting::new("PostStartHookError", message))
    }

    fn ips(&self, pod: &Pod) -> Vec<String> {
        if pod.host_network() { self.kubelet.host_ips.load().to_vec() } else { self.state.ips().to_vec() }
    }

    fn is_interrupted(&self) -> bool {
        self.desired.borrow().must_end()
    }

    /// Reads the pod from the runtime.
    async fn refresh(&mut self) -> Result<(), String> {
        let fetched = model::fetch(&self.kubelet.runtime, &self.uid, &self.state).await;
        self.state = fetched.map_err(|e| format!("error determining status: {e}"))?;
        Ok(())
    }

    /// Gives the present status out and tells the probes. Returns the phase.
    fn publish(&mut self, desired: &Desired, terminal: bool, verdict: Option<&Verdict>) -> String {
        let kubelet = &self.kubelet;
        let pod = &desired.pod;
        let shown = desired.target.as_ref().and_then(|t| t.status.clone());
        let old = kubelet.statuses.get(&self.uid).or(shown).unwrap_or_default();
        let ending = terminal || desired.must_end();
        kubelet.prober.update(pod, &self.state, &self.ips(pod), ending, &self.wake);
        let decree = desired.decree.clone().unwrap_or_default();
        if let Some(verdict) = decree.verdict.as_ref().filter(|_| decree.rejected) {
            kubelet.statuses.set(&self.uid, desired.target.clone(), status::rejected(pod, verdict));
            return "Failed".into();
        }
        let status = status::generate(&status::Inputs {
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
            recursive_read_only: kubelet.recursive_read_only(),
        });
        let phase = status.phase.clone().unwrap_or_default();
        kubelet.statuses.set(&self.uid, desired.target.clone(), status);
        phase
    }

    fn lacks_mirror(&self, desired: &Desired) -> bool {
        let wants = desired.pod.is_static() && self.kubelet.client.is_some();
        wants && mirror::is_needed(&desired.pod, desired.target.as_deref())
    }

    /// Sees to it that a static pod has its mirror.
    fn mirror(&mut self, desired: &Desired) {
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

    /// Makes the volumes ready, or fresh. Returns how long to wait before the next try if one failed.
    async fn set_up_volumes(&mut self, desired: &Desired, needed: bool) -> Option<Duration> {
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
        let facts = volumes::Facts {
            downward: model::downward(&kubelet.downward(), &self.ips(&pod)),
            memory_medium_limit: memory_medium_limit(&kubelet, &pod),
        };
        let dir = kubelet.pod_dir(&self.uid);
        let mut interrupt = self.desired.clone();
        let (ready, failed) = tokio::select! {
            done = volumes::set_up_all(&pod, &dir, kubelet.objects(), &facts) => done,
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

    /// Keeps the last run of a container for its log, and removes those before.
    async fn drop_older_runs(&self, name: &str) {
        let ended = self.state.containers.iter().filter(|c| c.name == name && c.state == State::Exited);
        for old in ended.skip(1) {
            crate::gc::remove(&self.kubelet, &old.id).await;
        }
    }

    /// Removes what is left of init containers of a sandbox that is replaced, so that they run again.
    async fn purge_init_containers(&mut self) {
        let desired = self.desired.borrow().pod.clone();
        let names: Vec<&str> = desired.init_containers().iter().map(|c| c.name.as_str()).collect();
        for container in self.state.containers.iter().filter(|c| names.contains(&c.name.as_str())) {
            let _ = self.kubelet.runtime.remove_container(&container.id).await;
        }
    }
}

/// How long a pod sleeps when nothing is expected to happen: spread, so that pods do not wake together.
fn idle() -> Duration {
    Duration::from_secs(90)
}

/// The most that memory-backed volumes of the pod may hold.
fn memory_medium_limit(kubelet: &Kubelet, pod: &Pod) -> Option<u64> {
    let limit = pod::limit_milli(pod, "memory").map(|milli| milli / 1000);
    let most = limit.unwrap_or(kubelet.machine.allocatable(&kubelet.config).memory);
    u64::try_from(most).ok().filter(|most| *most > 0)
}

fn deadline(pod: &Pod, started: Option<SystemTime>) -> Option<SystemTime> {
    let seconds = pod.spec().active_deadline_seconds.and_then(|s| u64::try_from(s).ok())?;
    Some(started? + Duration::from_secs(seconds))
}

fn deadline_in(pod: &Pod, started: Option<SystemTime>) -> Option<Duration> {
    let left = deadline(pod, started)?.duration_since(SystemTime::now()).unwrap_or_default();
    Some(left + Duration::from_millis(10))
}

fn deadline_verdict(pod: &Pod, started: Option<SystemTime>) -> Option<Verdict> {
    let passed = deadline(pod, started)? <= SystemTime::now();
    passed.then(|| Verdict {
        reason: "DeadlineExceeded".into(),
        message: "Pod was active on the node longer than the specified deadline".into(),
    })
}
