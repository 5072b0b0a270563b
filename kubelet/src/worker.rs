//! The worker of a pod: one task, the only writer of that pod's containers.
//!
//! A pod is first *synced*: brought to and kept in the state its spec asks for. It is *terminated* when its deletion is
//! asked for, when it has ended by itself, or by decree; then nothing of it runs, and its volumes and cgroup are
//! given back. Its files go when its object is gone. A kubelet that starts anew starts each worker at the beginning;
//! every step looks at what is there first, so nothing is done twice.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use ::volumes::Mounted;
use k8s_openapi::api::core::v1::{Pod, PodCondition};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::images::Waiting;
use crate::kubelet::Kubelet;
use crate::model::{self, PodState};
use crate::pod::PodExt;
use crate::status::Verdict;

mod end;
mod publish;
mod resize;
mod start;
mod sync;
mod volumes;

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
    pod_volumes: ::volumes::PodVolumes,
    volume_failures: u32,
    mirror_tried: Option<Instant>,
    failures: u32,
    /// When the pod was first seen, until it runs; not for one that this kubelet found running.
    seen: Option<Instant>,
    /// Time spent on images.
    on_images: Duration,
    /// When this worker began.
    born: Instant,
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
        let fresh = desired.borrow().pod.phase() != "Running" && !desired.borrow().must_end();
        Self {
            kubelet,
            uid,
            desired,
            wake,
            shutdown,
            state: PodState::default(),
            waiting: BTreeMap::new(),
            volumes: BTreeMap::new(),
            pod_volumes: ::volumes::PodVolumes::default(),
            volume_failures: 0,
            mirror_tried: None,
            failures: 0,
            seen: fresh.then(Instant::now),
            on_images: Duration::ZERO,
            born: Instant::now(),
        }
    }

    /// Lives as long as the pod. `after` is awaited first: pods that have to end before this one begins.
    pub async fn run(mut self, after: Vec<watch::Receiver<bool>>) {
        for mut after in after {
            tokio::select! {
                _ = after.wait_for(|done| *done) => {}
                _ = self.desired.wait_for(Desired::must_end) => break,
                () = self.shutdown.cancelled() => return,
            }
        }
        let verdict = tokio::select! {
            () = self.shutdown.clone().cancelled_owned() => return,
            verdict = async {
                self.admit_resources().await;
                self.keep_synced().await
            } => verdict,
        };
        tokio::select! {
            // What runs goes on running; another kubelet takes over.
            () = self.shutdown.clone().cancelled_owned() => {}
            () = end::run(&mut self, verdict) => {}
        }
    }

    /// Asks the managers of CPUs, memory and devices for what the pod needs; a pod that they refuse ends.
    async fn admit_resources(&mut self) {
        let desired = self.now_desired();
        if desired.must_end() {
            return;
        }
        let kubelet = self.kubelet.clone();
        if let Err(verdict) = kubelet.managers.admit(&kubelet.runtime, &desired.pod).await {
            kubelet.events.pod(&desired.pod, "Warning", &verdict.reason, &verdict.message);
            crate::metrics::rejected(&verdict.reason);
            let decree = Decree { verdict: Some(verdict), rejected: true, ..Default::default() };
            kubelet.pods.decree(&self.uid, decree);
        }
    }

    fn now_desired(&mut self) -> Desired {
        self.desired.borrow_and_update().clone()
    }

    /// Keeps the pod as its spec says until it has to end. Returns the verdict if the kubelet decided so.
    async fn keep_synced(&mut self) -> Option<Verdict> {
        let mut operation = "create";
        if let Some(seen) = self.seen {
            let desired = self.now_desired();
            let containers = desired.pod.spec().containers.len();
            crate::metrics::pods::worker_started(seen.elapsed(), containers);
        }
        loop {
            let desired = self.now_desired();
            if desired.must_end() {
                return None;
            }
            if let Some(verdict) = deadline_verdict(&desired.pod, self.started_at()) {
                self.kubelet.events.pod(&desired.pod, "Normal", "DeadlineExceeded", &verdict.message);
                return Some(verdict);
            }
            let began = Instant::now();
            let synced = self.sync(&desired).await;
            crate::metrics::pods::synced(std::mem::replace(&mut operation, "sync"), began.elapsed());
            let wait = match synced {
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
                        if self.pod_volumes.refreshing() || !self.pod_volumes.complete(&desired.pod) =>
                    {
                        store.changed.notified().await;
                    }
                    _ => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = self.desired.changed() => {}
                () = self.wake.notified() => {}
                () = objects_changed => self.pod_volumes.hurry(),
                () = tokio::time::sleep(wait.min(deadline)) => {}
            }
        }
    }

    /// When the pod was first taken up.
    fn started_at(&self) -> Option<SystemTime> {
        let status = self.kubelet.statuses.get(&self.uid)?;
        status.start_time.map(|t| t.0.into())
    }

    fn ips(&self, pod: &Pod) -> Vec<String> {
        if pod.host_network() { self.kubelet.host_ips.load().to_vec() } else { self.state.ips().to_vec() }
    }

    /// The object that shows this very pod: a mirror may still be that of another static pod of the name.
    fn shown_by(desired: &Desired) -> Option<Arc<Pod>> {
        desired.target.clone().filter(|target| !desired.pod.is_static() || mirrors(target, &desired.pod))
    }

    fn is_interrupted(&self) -> bool {
        self.desired.borrow().must_end()
    }

    /// Reads the pod from the runtime.
    async fn refresh(&mut self) -> Result<(), String> {
        let began = Instant::now();
        let fetched = model::fetch(&self.kubelet, &self.uid, &self.state).await;
        self.state = fetched.map_err(|e| format!("error determining status: {e}"))?;
        crate::metrics::pods::looked_at(began.elapsed());
        self.name_runtime().await;
        Ok(())
    }

    /// Reads the container that was just started.
    async fn look_at(&mut self, id: &str, sandbox_id: &str) -> Result<(), String> {
        let read = self.state.add_container(&self.kubelet.runtime, id, sandbox_id).await;
        read.map_err(|e| format!("error determining status: {e}"))
    }

    async fn name_runtime(&self) {
        // Container ids carry the runtime's name: one that was away when the kubelet began has told it nobody yet.
        let nameless = self.kubelet.runtime_info.load().name.is_empty();
        if nameless {
            crate::runtime_info::update(&self.kubelet).await;
        }
    }
}

/// Whether an object is the mirror of a static pod as it is now.
fn mirrors(mirror: &Pod, pod: &Pod) -> bool {
    mirror.annotation(crate::pod::MIRROR_ANNOTATION) == pod.annotation(crate::pod::HASH_ANNOTATION)
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
