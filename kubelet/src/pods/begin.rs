//! The beginning of a pod on this node: admission, those that make room for it, and its worker.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, PodCondition};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::{Entry, Workers, full_name};
use crate::admission;
use crate::allocation::resize;
use crate::kubelet::Kubelet;
use crate::pod::PodExt;
use crate::status::{Verdict, now};
use crate::worker::{Decree, Desired, Worker};

/// Admits a pod and starts its worker.
pub(super) fn start(
    kubelet: &Arc<Kubelet>,
    pod: Pod,
    target: Option<Arc<Pod>>,
    workers: &mut Workers,
    shutdown: &CancellationToken,
) {
    let asked = Arc::new(pod);
    let pod = kubelet.allocations.view(&asked);
    let ending = pod.is_deleting() || pod.is_terminal();
    let (victims, decree) = match ending {
        true => (Vec::new(), None),
        false => admit(kubelet, &pod),
    };
    let mut after: Vec<_> =
        victims.iter().filter_map(|(victim, resource)| preempt(kubelet, victim, resource)).collect();
    let uid = pod.uid().to_string();
    let name = full_name(&pod);
    let is_static = pod.is_static();
    let (desired, receiver) = watch::channel(Desired { pod, target, removed: false, decree });
    let wake = Arc::new(Notify::new());
    let admitted = kubelet.pods.counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    {
        let mut entries = kubelet.pods.entries.lock();
        // A static pod that replaces others of its name waits for the end of them all.
        let before = entries.values().filter(|e| is_static && full_name(&e.desired.borrow().pod) == name);
        after.extend(before.map(|e| e.done.subscribe()));
        entries.insert(uid, Entry::new(desired, wake.clone(), admitted));
    }
    workers.spawn(Worker::new(kubelet.clone(), receiver, wake, shutdown.clone()).run(after));
    if !ending {
        resize::notice(kubelet, &asked);
    }
}

/// Lets a pod in, with the pods that have to end first, or decrees its end.
fn admit(kubelet: &Kubelet, pod: &Pod) -> (Vec<(Arc<Pod>, String)>, Option<Decree>) {
    match admission::check(kubelet, pod) {
        Ok(admitted) => {
            kubelet.allocations.allocate(pod);
            kubelet.allocations.recall(pod);
            let short = admitted.short.unwrap_or_default();
            (admitted.victims.into_iter().map(|victim| (victim, short.clone())).collect(), None)
        }
        Err(verdict) => (Vec::new(), Some(reject(kubelet, pod, verdict))),
    }
}

fn reject(kubelet: &Kubelet, pod: &Pod, verdict: Verdict) -> Decree {
    kubelet.events.pod(pod, "Warning", &verdict.reason, &verdict.message);
    crate::metrics::rejected(&verdict.reason);
    let (pod, reason, message) = (pod.formatted(), &verdict.reason, &verdict.message);
    tracing::info!(pod, reason, message, "Pod is not admitted");
    Decree { verdict: Some(verdict), rejected: true, ..Default::default() }
}

/// Ends a pod that a critical one needs the room of. Returns what tells when it has ended.
fn preempt(kubelet: &Kubelet, pod: &Pod, resource: &str) -> Option<watch::Receiver<bool>> {
    crate::metrics::preempted(resource);
    let message = "Preempted in order to admit critical pod";
    kubelet.events.pod(pod, "Warning", "Preempting", message);
    let condition = PodCondition {
        type_: "DisruptionTarget".into(),
        status: "True".into(),
        reason: Some("TerminationByKubelet".into()),
        message: Some("Pod was preempted by Kubelet to accommodate a critical pod.".into()),
        last_transition_time: Some(now()),
        observed_generation: pod.metadata.generation,
        last_probe_time: None,
    };
    let verdict = Verdict { reason: "Preempting".into(), message: message.into() };
    let decree = Decree { verdict: Some(verdict), conditions: vec![condition], ..Default::default() };
    kubelet.pods.decree(pod.uid(), decree);
    kubelet.pods.end_of(pod.uid())
}

/// Starts a worker that ends a pod nobody asks for any more.
pub fn end_orphan(kubelet: &Arc<Kubelet>, mut pod: Pod, shutdown: &CancellationToken) {
    let uid = pod.uid().to_string();
    let mut entries = kubelet.pods.entries.lock();
    if entries.contains_key(&uid) {
        return;
    }
    tracing::info!(pod = pod.formatted(), "Ending a pod that no source knows");
    crate::metrics::pods::orphan_found();
    // Its object is gone, so whoever deleted it does not wait: no more time than a signal needs.
    pod.metadata.deletion_grace_period_seconds = Some(1);
    let (desired, receiver) =
        watch::channel(Desired { pod: Arc::new(pod), target: None, removed: true, decree: None });
    let wake = Arc::new(Notify::new());
    entries.insert(uid, Entry::new(desired, wake.clone(), u64::MAX));
    drop(entries);
    tokio::spawn(Worker::new(kubelet.clone(), receiver, wake, shutdown.clone()).run(Vec::new()));
}
