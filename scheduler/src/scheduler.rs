//! The scheduler: takes pods from the queue one by one, finds each a node, and binds in the background.

use crate::cache::Cache;
use crate::framework::{CycleState, PostFilterCycle, Status};
use crate::metrics;
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;
use crate::profile::Profile;
use crate::queue::{ClusterEvent, Queue, Queued};
use crate::schedule::{self, Failure, Nominations};
use crate::status;
use client::Recorder;
use kube::Client;
use parking_lot::Mutex;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Bindings that may be under way at once.
const MAX_BINDINGS: usize = 256;
/// When nothing is waiting, the queue is looked at this rarely.
const IDLE: Duration = Duration::from_secs(30);

/// What the informers feed and the cycle reads.
pub struct Shared {
    pub cache: Cache,
    pub queue: Queue,
}

/// Shared by the event handlers, the loop and the bindings.
pub struct Scheduler {
    shared: Mutex<Shared>,
    wake: Notify,
    profiles: HashMap<String, Arc<Profile>>,
    default_percentage: i32,
    client: Client,
    recorder: Recorder,
}

/// A decision that is to be carried out.
struct Placement {
    queued: Queued,
    profile: Arc<Profile>,
    state: CycleState,
    node: String,
}

impl Scheduler {
    pub fn new(
        queue: Queue,
        profiles: HashMap<String, Arc<Profile>>,
        default_percentage: i32,
        client: Client,
        recorder: Recorder,
    ) -> Arc<Scheduler> {
        Arc::new(Scheduler {
            shared: Mutex::new(Shared { cache: Cache::default(), queue }),
            wake: Notify::new(),
            profiles,
            default_percentage,
            client,
            recorder,
        })
    }

    pub fn profile(&self, scheduler_name: &str) -> Option<&Arc<Profile>> {
        self.profiles.get(scheduler_name)
    }

    /// Changes what is known of the cluster, and wakes the loop.
    pub fn update(&self, change: impl FnOnce(&mut Shared)) {
        change(&mut self.shared.lock());
        self.wake.notify_one();
    }

    pub fn event(&self, event: ClusterEvent) {
        self.update(|s| s.queue.on_event(event, Instant::now()));
    }

    /// Runs until shutdown, then waits for the bindings under way.
    pub async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        let mut bindings = JoinSet::new();
        let mut start = 0;
        loop {
            let (next, wake_at) = {
                let mut s = self.shared.lock();
                let wake_at = s.queue.tick(Instant::now());
                let next = s.queue.pop();
                metrics::pending(&s.queue.counts());
                (next, wake_at)
            };
            while let Some(done) = bindings.try_join_next() {
                log_panic(done);
            }
            let Some(queued) = next else {
                let until = wake_at.unwrap_or_else(|| Instant::now() + IDLE);
                tokio::select! {
                    () = shutdown.cancelled() => break,
                    () = self.wake.notified() => {}
                    () = tokio::time::sleep_until(until) => {}
                    Some(done) = bindings.join_next() => log_panic(done),
                }
                continue;
            };
            if shutdown.is_cancelled() {
                break;
            }
            if let Some(placement) = self.cycle(queued, &mut start).await {
                if bindings.len() >= MAX_BINDINGS
                    && let Some(done) = bindings.join_next().await
                {
                    log_panic(done);
                }
                bindings.spawn(self.clone().bind(placement));
            }
        }
        while let Some(done) = bindings.join_next().await {
            log_panic(done);
        }
    }

    async fn cycle(self: &Arc<Self>, queued: Queued, start: &mut usize) -> Option<Placement> {
        let began = std::time::Instant::now();
        let pod = queued.pod.clone();
        let Some(profile) = self.profiles.get(pod.scheduler_name()).cloned() else {
            self.shared.lock().queue.done(pod.uid());
            return None;
        };
        if pod.deleting() || self.shared.lock().cache.node_of(pod.uid()).is_some() {
            self.shared.lock().queue.done(pod.uid());
            return None;
        }
        let (snapshot, nominations) = {
            let mut s = self.shared.lock();
            (s.cache.snapshot(), nominations(&s.queue))
        };
        let mut state = CycleState::default();
        let percentage = self.default_percentage;
        let found =
            schedule::find_node(&profile, percentage, &mut state, &pod, &snapshot, &nominations, start);
        let result = if found.is_ok() { "scheduled" } else { "unschedulable" };
        metrics::attempt(result, &profile.scheduler_name, began.elapsed());
        match found {
            Ok(node) => self.reserve(queued, profile, state, node).await,
            Err(failure) => {
                self.refused(&queued, &profile, &state, &snapshot, failure).await;
                None
            }
        }
    }

    /// Counts the pod on its node from now on, and lets the plugins prepare.
    async fn reserve(
        self: &Arc<Self>,
        queued: Queued,
        profile: Arc<Profile>,
        mut state: CycleState,
        node: Arc<NodeInfo>,
    ) -> Option<Placement> {
        let name = node.name().to_owned();
        state.put("node", node);
        let placement = Placement { queued, profile, state, node: name };
        {
            let mut s = self.shared.lock();
            s.cache.assume(placement.queued.pod.clone(), &placement.node);
            s.queue.done(placement.queued.pod.uid());
        }
        for plugin in placement.profile.plugins("reserve") {
            if let Some(point) = plugin.as_reserve() {
                let status = point.reserve(&placement.state, &placement.queued.pod, &placement.node).await;
                if !status.is_success() {
                    self.undo(&placement, status.by(plugin.name())).await;
                    return None;
                }
            }
        }
        Some(placement)
    }

    async fn bind(self: Arc<Self>, placement: Placement) {
        match self.try_bind(&placement).await {
            Ok(()) => {
                let pod = &placement.queued.pod;
                let key = pod.key();
                let message = format!("Successfully assigned {key} to {}", placement.node);
                let of = client::object_ref(pod.pod.as_ref());
                self.recorder.event_with(&of, None, "Normal", "Scheduled", "Binding", &message);
                tracing::info!(pod = key, node = placement.node, "Successfully bound pod to node");
                metrics::scheduled(&placement.queued);
            }
            Err(status) => self.undo(&placement, status).await,
        }
    }

    async fn try_bind(&self, p: &Placement) -> Result<(), Status> {
        let (pod, node) = (&*p.queued.pod, p.node.as_str());
        let checked = |plugin: &'static str, status: Status| {
            if status.is_success() { Ok(()) } else { Err(status.by(plugin)) }
        };
        for plugin in p.profile.plugins("permit") {
            if let Some(point) = plugin.as_permit() {
                checked(plugin.name(), point.permit(&p.state, pod, node).await)?;
            }
        }
        for plugin in p.profile.plugins("preBind") {
            if let Some(point) = plugin.as_pre_bind() {
                checked(plugin.name(), point.pre_bind(&p.state, pod, node).await)?;
            }
        }
        for plugin in p.profile.plugins("bind") {
            if let Some(point) = plugin.as_bind() {
                let status = point.bind(pod, node).await;
                if status.code != crate::framework::Code::Skip {
                    checked(plugin.name(), status)?;
                    break;
                }
            }
        }
        for plugin in p.profile.plugins("postBind") {
            if let Some(point) = plugin.as_post_bind() {
                point.post_bind(pod, node).await;
            }
        }
        Ok(())
    }

    /// Takes a placement back; the pod is tried again after a back-off, or when something helps.
    async fn undo(&self, p: &Placement, status: Status) {
        for plugin in p.profile.plugins("reserve").iter().rev() {
            if let Some(point) = plugin.as_reserve() {
                point.unreserve(&p.state, &p.queued.pod, &p.node).await;
            }
        }
        let refused_by =
            if status.is_rejection() { BTreeSet::from([status.plugin]) } else { BTreeSet::new() };
        let forgotten = {
            let mut s = self.shared.lock();
            let forgotten = s.cache.forget(p.queued.pod.uid());
            if forgotten {
                s.queue.on_event(ClusterEvent::AssignedPodRemoved, Instant::now());
                s.queue.failed(&p.queued.pod, p.queued.attempts, refused_by, Instant::now());
            }
            forgotten
        };
        self.wake.notify_one();
        if forgotten {
            let text = status.reasons.join(", ");
            tracing::error!(pod = p.queued.pod.key(), plugin = status.plugin, "Placement failed: {text}");
            self.tell(&p.queued.pod, "SchedulerError", &text, None).await;
        }
    }

    async fn refused(
        &self,
        queued: &Queued,
        profile: &Arc<Profile>,
        state: &CycleState,
        snapshot: &crate::cache::Snapshot,
        failure: Failure,
    ) {
        let pod = &queued.pod;
        if let Some(error) = failure.error {
            self.shared.lock().queue.failed(pod, queued.attempts, BTreeSet::new(), Instant::now());
            self.tell(pod, "SchedulerError", &error.reasons.join(", "), None).await;
            return;
        }
        let mut after = Vec::new();
        let mut nominated = None;
        let cycle = PostFilterCycle { profile, state, pod, snapshot, refusals: &failure.refusals };
        for plugin in profile.plugins("postFilter") {
            let Some(point) = plugin.as_post_filter() else { continue };
            match point.post_filter(&cycle).await {
                Ok(node) => {
                    nominated = Some(node);
                    break;
                }
                Err(status) => after.extend(status.reasons),
            }
        }
        let refused_by: BTreeSet<&'static str> = failure
            .refusals
            .values()
            .chain(&failure.whole)
            .map(|s| s.plugin)
            .filter(|p| !p.is_empty())
            .collect();
        let after = after.join(", ");
        let message =
            Profile::refusal_message(snapshot.nodes.len(), failure.whole.as_ref(), &failure.refusals, &after);
        {
            let mut s = self.shared.lock();
            if s.queue.contains(pod.uid()) {
                let mut refused_by = refused_by;
                if nominated.is_some() {
                    // The victims' going is what this pod waits for.
                    refused_by.insert(crate::plugins::default_preemption::NAME);
                }
                s.queue.failed(pod, queued.attempts, refused_by, Instant::now());
                if let Some(node) = &nominated {
                    s.queue.replace(Arc::new(status::with_nomination(pod, node)));
                }
            }
        }
        self.tell(pod, "Unschedulable", &message, nominated.as_deref()).await;
    }

    /// Event and condition of a pod that was not placed.
    async fn tell(&self, pod: &Arc<PodInfo>, reason: &str, message: &str, nominated: Option<&str>) {
        let of = client::object_ref(pod.pod.as_ref());
        self.recorder.event_with(&of, None, "Warning", "FailedScheduling", "Scheduling", message);
        if let Err(e) = status::write_refusal(&self.client, pod, reason, message, nominated).await {
            tracing::error!(pod = pod.key(), "Error updating pod: {e}");
        }
    }
}

fn nominations(queue: &Queue) -> Nominations {
    let mut by_node = Nominations::new();
    for pod in queue.nominated() {
        if let Some(node) = pod.nominated_node() {
            by_node.entry(node.to_owned()).or_default().push(pod.clone());
        }
    }
    by_node
}

fn log_panic(done: Result<(), tokio::task::JoinError>) {
    if let Err(e) = done {
        tracing::error!("a binding ended abnormally: {e}");
    }
}
