//! Pods that wait for a node: ready to be tried, backing off, or refused until something changes.

use crate::pod_info::PodInfo;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// What happened in the cluster, as far as waiting pods care.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ClusterEvent {
    NodeAdded,
    NodeAllocatable,
    NodeLabels,
    NodeTaints,
    NodeCondition,
    /// A pod that had a node was deleted or has finished.
    AssignedPodRemoved,
    AssignedPodAdded,
    /// Labels or requests of a pod with a node changed.
    AssignedPodUpdated,
    /// The waiting pod itself was changed.
    PodUpdated,
    PvcChanged,
    PvChanged,
    StorageClassChanged,
    CsiNodeChanged,
    NamespaceChanged,
}

/// Longest stay among the refused without any event.
pub const MAX_UNSCHEDULABLE: Duration = Duration::from_secs(5 * 60);

/// A pod in the queue and its history there.
#[derive(Clone, Debug)]
pub struct Queued {
    pub pod: Arc<PodInfo>,
    pub attempts: u32,
    /// Order of arrival.
    pub sequence: u64,
    pub first_seen: Instant,
    last_failure: Option<Instant>,
    /// Plugins that refused it last.
    refused_by: BTreeSet<&'static str>,
    /// Kept out of the queue altogether.
    gated: bool,
    place: Place,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Active,
    BackingOff(Instant),
    Unschedulable(Instant),
    /// Its cycle is running; what happened meanwhile is kept.
    InFlight,
}

pub struct Limits {
    pub initial_backoff: Duration,
    pub max_backoff: Duration,
}

/// The queue itself: plain data, moved by its owner.
pub struct Queue {
    limits: Limits,
    sort: Box<dyn Fn(&PodInfo) -> i64 + Send + Sync>,
    pods: HashMap<String, Queued>,
    /// Indices of the places, so that no operation looks at pods that it does not move.
    active: BTreeSet<(i64, u64, String)>,
    backing_off: BTreeSet<(Instant, String)>,
    unschedulable: BTreeSet<(Instant, String)>,
    nominated: BTreeSet<String>,
    /// Which events may help against a refusal of a plugin.
    events: HashMap<&'static str, Vec<ClusterEvent>>,
    /// What happened during the running cycle.
    during_cycle: Vec<ClusterEvent>,
    next_sequence: u64,
}

impl Queue {
    pub fn new(
        limits: Limits,
        sort: Box<dyn Fn(&PodInfo) -> i64 + Send + Sync>,
        events: HashMap<&'static str, Vec<ClusterEvent>>,
    ) -> Queue {
        Queue {
            limits,
            sort,
            pods: HashMap::new(),
            active: BTreeSet::new(),
            backing_off: BTreeSet::new(),
            unschedulable: BTreeSet::new(),
            nominated: BTreeSet::new(),
            events,
            during_cycle: Vec::new(),
            next_sequence: 0,
        }
    }

    /// Numbers of pods that are active, backing off, unschedulable and gated.
    pub fn counts(&self) -> [usize; 4] {
        let gated =
            self.unschedulable.iter().filter(|(_, uid)| self.pods.get(uid).is_some_and(|q| q.gated)).count();
        [self.active.len(), self.backing_off.len(), self.unschedulable.len() - gated, gated]
    }

    pub fn contains(&self, uid: &str) -> bool {
        self.pods.contains_key(uid)
    }

    pub fn pod(&self, uid: &str) -> Option<&Arc<PodInfo>> {
        self.pods.get(uid).map(|q| &q.pod)
    }

    fn new_entry(&mut self, pod: &Arc<PodInfo>, now: Instant, attempts: u32) -> Queued {
        self.next_sequence += 1;
        Queued {
            pod: pod.clone(),
            attempts,
            sequence: self.next_sequence,
            first_seen: now,
            last_failure: None,
            refused_by: BTreeSet::new(),
            gated: false,
            place: Place::InFlight,
        }
    }

    /// Puts the entry (back) and keeps the indices in step.
    fn put(&mut self, mut queued: Queued, place: Place) {
        let uid = queued.pod.uid().to_owned();
        self.take(&uid);
        match place {
            Place::Active => {
                self.active.insert(((self.sort)(&queued.pod), queued.sequence, uid.clone()));
            }
            Place::BackingOff(until) => {
                self.backing_off.insert((until, uid.clone()));
            }
            Place::Unschedulable(since) => {
                self.unschedulable.insert((since, uid.clone()));
            }
            Place::InFlight => {}
        }
        queued.place = place;
        if queued.pod.nominated_node().is_some() {
            self.nominated.insert(uid.clone());
        }
        self.pods.insert(uid, queued);
    }

    fn take(&mut self, uid: &str) -> Option<Queued> {
        let queued = self.pods.remove(uid)?;
        self.nominated.remove(uid);
        match queued.place {
            Place::Active => {
                self.active.remove(&((self.sort)(&queued.pod), queued.sequence, uid.to_owned()));
            }
            Place::BackingOff(until) => {
                self.backing_off.remove(&(until, uid.to_owned()));
            }
            Place::Unschedulable(since) => {
                self.unschedulable.remove(&(since, uid.to_owned()));
            }
            Place::InFlight => {}
        }
        Some(queued)
    }

    /// A pod without a node appeared or changed. `refused_by` names the plugin that keeps it out for now.
    pub fn add(&mut self, pod: Arc<PodInfo>, refused_by: Option<&'static str>, now: Instant) {
        let existing = self.take(pod.uid());
        let is_new = existing.is_none();
        let mut queued = match existing {
            Some(q) => q,
            None => self.new_entry(&pod, now, 0),
        };
        let was_gated = queued.gated;
        let changed = spec_changed(&queued.pod, &pod);
        queued.gated = refused_by.is_some();
        queued.pod = pod;
        let place = match (refused_by, queued.place) {
            (Some(plugin), _) => {
                queued.refused_by = [plugin].into();
                Place::Unschedulable(now)
            }
            (None, Place::Unschedulable(_)) if was_gated || changed => {
                after_backoff(&self.limits, &queued, now)
            }
            (None, _) if is_new => Place::Active,
            (None, place) => place,
        };
        self.put(queued, place);
    }

    pub fn remove(&mut self, uid: &str) -> Option<Arc<PodInfo>> {
        self.take(uid).map(|q| q.pod)
    }

    /// The next pod to try; it stays in the queue as in flight.
    pub fn pop(&mut self) -> Option<Queued> {
        let (_, _, uid) = self.active.first()?.clone();
        let mut queued = self.take(&uid)?;
        queued.attempts += 1;
        self.put(queued.clone(), Place::InFlight);
        self.during_cycle.clear();
        Some(queued)
    }

    /// The cycle found a node: the pod waits here no longer.
    pub fn done(&mut self, uid: &str) {
        self.take(uid);
    }

    /// The cycle (or the binding) failed. Errors are tried again after a back-off; refusals wait for an event that
    /// may help, unless one came during the cycle.
    pub fn failed(
        &mut self,
        pod: &Arc<PodInfo>,
        attempts: u32,
        refused_by: BTreeSet<&'static str>,
        now: Instant,
    ) {
        let helped = self.during_cycle.iter().any(|e| self.helps(*e, &refused_by));
        let mut queued = match self.take(pod.uid()) {
            Some(q) => q,
            None => self.new_entry(pod, now, attempts),
        };
        queued.last_failure = Some(now);
        let wait_for_event = !refused_by.is_empty() && !helped;
        queued.refused_by = refused_by;
        let place = if wait_for_event {
            Place::Unschedulable(now)
        } else {
            after_backoff(&self.limits, &queued, now)
        };
        self.put(queued, place);
    }

    fn helps(&self, event: ClusterEvent, refused_by: &BTreeSet<&'static str>) -> bool {
        refused_by.iter().any(|plugin| self.events.get(plugin).is_some_and(|list| list.contains(&event)))
    }

    /// Lets the pods try again whose refusal this event may lift.
    pub fn on_event(&mut self, event: ClusterEvent, now: Instant) {
        if !self.during_cycle.contains(&event) {
            self.during_cycle.push(event);
        }
        let may_move =
            |uid: &String| self.pods.get(uid).is_some_and(|q| !q.gated && self.helps(event, &q.refused_by));
        let helped: Vec<String> =
            self.unschedulable.iter().map(|(_, uid)| uid).filter(|uid| may_move(uid)).cloned().collect();
        for uid in helped {
            if let Some(queued) = self.take(&uid) {
                let place = after_backoff(&self.limits, &queued, now);
                self.put(queued, place);
            }
        }
    }

    /// Moves what has waited long enough; returns when to call again.
    pub fn tick(&mut self, now: Instant) -> Option<Instant> {
        while let Some((until, uid)) = self.backing_off.first().cloned().filter(|(until, _)| *until <= now) {
            debug_assert!(until <= now);
            if let Some(queued) = self.take(&uid) {
                self.put(queued, Place::Active);
            }
        }
        let overdue = |(since, _): &&(Instant, String)| now.duration_since(*since) >= MAX_UNSCHEDULABLE;
        let late: Vec<String> =
            self.unschedulable.iter().take_while(overdue).map(|(_, uid)| uid.clone()).collect();
        for uid in late {
            if let Some(queued) = self.take(&uid) {
                let place = if queued.gated { Place::Unschedulable(now) } else { Place::Active };
                self.put(queued, place);
            }
        }
        let backed_off = self.backing_off.first().map(|(until, _)| *until);
        let flushed = self.unschedulable.first().map(|(since, _)| *since + MAX_UNSCHEDULABLE);
        backed_off.into_iter().chain(flushed).min()
    }

    /// Replaces the pod as it is known here, e.g. when it was promised a node.
    pub fn replace(&mut self, pod: Arc<PodInfo>) {
        if let Some(mut queued) = self.take(pod.uid()) {
            let place = queued.place;
            queued.pod = pod;
            self.put(queued, place);
        }
    }

    pub fn has_active(&self) -> bool {
        !self.active.is_empty()
    }

    /// Waiting pods that are promised a node, which others have to leave room for.
    pub fn nominated(&self) -> impl Iterator<Item = &Arc<PodInfo>> {
        self.nominated.iter().filter_map(|uid| self.pod(uid))
    }
}

fn after_backoff(limits: &Limits, queued: &Queued, now: Instant) -> Place {
    let Some(failure) = queued.last_failure else { return Place::Active };
    let doublings = queued.attempts.saturating_sub(1).min(20);
    let wait = limits.initial_backoff.saturating_mul(1 << doublings).min(limits.max_backoff);
    let until = failure + wait;
    if until <= now { Place::Active } else { Place::BackingOff(until) }
}

/// Changes of the status alone never make a pod schedulable.
fn spec_changed(old: &PodInfo, new: &PodInfo) -> bool {
    old.pod.spec != new.pod.spec
        || old.pod.metadata.labels != new.pod.metadata.labels
        || old.pod.metadata.deletion_timestamp != new.pod.metadata.deletion_timestamp
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod_info::testing::pod;
    use serde_json::json;

    fn queue() -> Queue {
        let limits = Limits { initial_backoff: Duration::from_secs(1), max_backoff: Duration::from_secs(10) };
        let by_priority = Box::new(|p: &PodInfo| -i64::from(p.priority()));
        Queue::new(limits, by_priority, [("Fit", vec![ClusterEvent::NodeAdded])].into())
    }
    fn p(name: &str, priority: i32) -> Arc<PodInfo> {
        Arc::new(pod(name, json!({"priority": priority})))
    }

    #[tokio::test(start_paused = true)]
    async fn priority_then_arrival() {
        let mut q = queue();
        for (name, priority) in [("a", 0), ("b", 5), ("c", 0)] {
            q.add(p(name, priority), None, Instant::now());
        }
        let order: Vec<String> = std::iter::from_fn(|| q.pop().map(|q| q.pod.name().to_owned())).collect();
        assert_eq!(order, ["b", "a", "c"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_pod_waits_for_an_event_that_may_help_and_backs_off() {
        let mut q = queue();
        q.add(p("a", 0), None, Instant::now());
        let tried = q.pop().expect("active");
        q.failed(&tried.pod, tried.attempts, ["Fit"].into(), Instant::now());
        assert!(!q.has_active());
        q.on_event(ClusterEvent::PvcChanged, Instant::now());
        assert_eq!(q.counts(), [0, 0, 1, 0]);
        q.on_event(ClusterEvent::NodeAdded, Instant::now());
        assert_eq!(q.counts(), [0, 1, 0, 0], "one second of back-off is not over");
        let wake = q.tick(Instant::now()).expect("a time to look again");
        tokio::time::sleep_until(wake).await;
        q.tick(Instant::now());
        assert!(q.has_active());
    }

    #[tokio::test(start_paused = true)]
    async fn an_event_during_the_cycle_is_not_lost() {
        let mut q = queue();
        q.add(p("a", 0), None, Instant::now());
        let tried = q.pop().expect("active");
        q.on_event(ClusterEvent::NodeAdded, Instant::now());
        q.failed(&tried.pod, tried.attempts, ["Fit"].into(), Instant::now());
        assert_eq!(q.counts(), [0, 1, 0, 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn gated_pods_wait_until_their_gates_are_gone() {
        let mut q = queue();
        q.add(p("a", 0), Some("SchedulingGates"), Instant::now());
        q.on_event(ClusterEvent::NodeAdded, Instant::now());
        assert_eq!(q.counts(), [0, 0, 0, 1]);
        q.add(p("a", 0), None, Instant::now());
        assert!(q.has_active());
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_waits_for_ever() {
        let mut q = queue();
        q.add(p("a", 0), None, Instant::now());
        let tried = q.pop().expect("active");
        q.failed(&tried.pod, tried.attempts, ["Fit"].into(), Instant::now());
        let wake = q.tick(Instant::now()).expect("a time to look again");
        tokio::time::sleep_until(wake).await;
        q.tick(Instant::now());
        assert!(q.has_active());
    }
}
