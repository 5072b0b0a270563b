//! Ends containers: preStop hook, signal, and patience as long as the grace period lasts.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures::future::join_all;
use k8s_openapi::api::core::v1::{Container, LifecycleHandler, Pod, Probe};
use tokio::sync::watch;

use crate::actions::Cause;
use crate::hooks;
use crate::kubelet::Kubelet;
use crate::model::{self, PodState};
use crate::pod::{Kind, PodExt};

/// A container always gets this long to react to its signal, even if its preStop hook took all the time.
const MINIMUM_GRACE: i64 = 2;

/// Why and how a container ends.
#[derive(Debug, Clone)]
pub struct Order {
    /// The event's message; empty for the usual one.
    pub message: String,
    /// What led to it.
    pub cause: Cause,
    /// A grace period that overrides the pod's.
    pub grace: Option<i64>,
}

/// Kills one container.
pub async fn container(
    kubelet: &Kubelet,
    pod: &Pod,
    status: &model::Container,
    order: &Order,
) -> cri::Result<()> {
    in_turn(kubelet, pod, status, order, |_| std::future::ready(())).await
}

/// Kills one container: its hook runs at once, its signal comes when `turn` is over, which is told how many seconds
/// are left.
async fn in_turn<F: Future<Output = ()>>(
    kubelet: &Kubelet,
    pod: &Pod,
    status: &model::Container,
    order: &Order,
    turn: impl FnOnce(i64) -> F,
) -> cri::Result<()> {
    let spec = pod.find_container(&status.name);
    let container = spec.as_ref().map(|(_, c)| c.clone()).unwrap_or_else(|| from_marks(status));
    let kind = spec.map_or(Kind::Main, |(kind, _)| kind);
    let mut grace = order.grace.unwrap_or_else(|| grace_period(pod, &container, status, order.cause));
    let message = match order.message.as_str() {
        "" => format!("Stopping container {}", status.name),
        message => message.to_string(),
    };
    kubelet.events.container(pod, kind, &status.name, "Normal", "Killing", &message);
    let mut waited = false;
    let pre_stop = container.lifecycle.as_ref().and_then(|l| l.pre_stop.as_ref());
    let hook = pre_stop.filter(|_| grace > 0 && status.state == model::State::Running);
    let mut unfinished = None;
    if let Some(hook) = hook {
        let began = Instant::now();
        let mut run = Box::pin(before_stop(kubelet, pod, (kind, &container), &status.id, hook));
        let limit = Duration::from_secs(u64::try_from(grace).unwrap_or(0));
        if tokio::time::timeout(limit, &mut run).await.is_err() {
            if hook.sleep.is_some() {
                crate::metrics::pods::sleep_cut();
            }
            tracing::info!(container = status.name, "PreStop hook not completed in grace period");
            unfinished = Some(run);
        }
        grace -= i64::try_from(began.elapsed().as_secs()).unwrap_or(0);
        waited = true;
    }
    // A hook that took all the time leaves none to wait for others.
    if grace > 0 {
        let began = Instant::now();
        turn(grace).await;
        let spent = i64::try_from(began.elapsed().as_secs()).unwrap_or(0);
        waited |= spent > 0;
        grace -= spent;
    }
    if waited {
        grace = grace.max(MINIMUM_GRACE);
    }
    let stopped = beside(unfinished, kubelet.runtime.stop_container(&status.id, grace.max(0))).await;
    match stopped {
        Err(error) if error.is_not_found() => Ok(()),
        other => other,
    }
}

/// Runs a preStop hook; that it failed is an event.
async fn before_stop(
    kubelet: &Kubelet,
    pod: &Pod,
    (kind, container): (Kind, &Container),
    id: &str,
    hook: &LifecycleHandler,
) {
    let ip = kubelet.pod_ips(pod.uid());
    let tell = |reason: &str, message: &str| kubelet.events.pod(pod, "Warning", reason, message);
    let ip = ip.first().map(String::as_str);
    if let Err(error) = hooks::run(&kubelet.runtime, pod, container, id, ip, hook, &tell).await {
        tracing::warn!(pod = pod.formatted(), container = container.name, %error, "PreStop hook failed");
        let (reason, message) = ("FailedPreStopHook", "PreStopHook failed");
        kubelet.events.container(pod, kind, &container.name, "Warning", reason, message);
    }
}

/// Stops a container while its hook goes on: letting go of the call would end the hook before the container, though
/// both have the last moments together.
async fn beside<T>(hook: Option<impl Future<Output = ()> + Unpin>, stop: impl Future<Output = T>) -> T {
    let mut stop = std::pin::pin!(stop);
    let Some(hook) = hook else { return stop.await };
    tokio::select! {
        biased;
        stopped = &mut stop => stopped,
        () = hook => stop.await,
    }
}

/// The grace period of a container, from the most specific to the least.
fn grace_period(pod: &Pod, container: &Container, status: &model::Container, cause: Cause) -> i64 {
    if let Some(grace) = pod.metadata.deletion_grace_period_seconds {
        return grace;
    }
    let of_probe = |probe: &Option<Probe>| probe.as_ref().and_then(|p| p.termination_grace_period_seconds);
    let special = match cause {
        Cause::Liveness => of_probe(&container.liveness_probe),
        Cause::Startup => of_probe(&container.startup_probe),
        Cause::Other => None,
    };
    let known = pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds);
    special.or(known).or(status.marks.termination_grace).unwrap_or(30)
}

/// What a container's marks in the runtime say of its spec, for pods that nobody remembers.
fn from_marks(status: &model::Container) -> Container {
    let lifecycle = status
        .marks
        .pre_stop
        .clone()
        .map(|hook| k8s_openapi::api::core::v1::Lifecycle { pre_stop: Some(hook), ..Default::default() });
    Container { name: status.name.clone(), lifecycle, ..Default::default() }
}

/// Kills all that runs of a pod, sidecars after the others in reverse order, then stops its sandboxes.
pub async fn pod(kubelet: &Kubelet, pod: &Pod, state: &PodState, grace: Option<i64>) -> cri::Result<()> {
    let turn: BTreeMap<&str, usize> = sidecar_turns(pod);
    let last = turn.values().copied().max().unwrap_or(0);
    // Counts up as groups end: 0 while main containers run.
    let (done, _) = watch::channel(0usize);
    let mut left: Vec<usize> = vec![0; last + 1];
    for c in state.running() {
        left[turn.get(c.name.as_str()).copied().unwrap_or(0)] += 1;
    }
    let left = parking_lot::Mutex::new(left);
    advance(&done, &left);
    let kills = state.running().map(|status| {
        let mine = turn.get(status.name.as_str()).copied().unwrap_or(0);
        let (done, left) = (&done, &left);
        async move {
            // Waiting for one's turn costs grace.
            let wait = |seconds: i64| {
                let mut turns = done.subscribe();
                let patience = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
                async move {
                    let _ = tokio::time::timeout(patience, turns.wait_for(|now| *now >= mine)).await;
                }
            };
            let order = Order { message: String::new(), cause: Cause::Other, grace };
            let result = in_turn(kubelet, pod, status, &order, wait).await;
            left.lock()[mine] -= 1;
            advance(done, left);
            result
        }
    });
    let results = join_all(kills).await;
    // Also those that are not ready: one whose making was interrupted may run and hold an address all the same.
    let stops = state.sandboxes.iter().map(|s| kubelet.runtime.stop_pod_sandbox(&s.id));
    let stopped = join_all(stops).await;
    results.into_iter().chain(stopped).find(|r| r.is_err()).unwrap_or(Ok(()))
}

/// Moves on to the next group while the present one is empty.
fn advance(done: &watch::Sender<usize>, left: &parking_lot::Mutex<Vec<usize>>) {
    let left = left.lock();
    let turn = left.iter().position(|n| *n > 0).unwrap_or(left.len());
    done.send_if_modified(|now| {
        let changed = turn > *now;
        *now = turn.max(*now);
        changed
    });
}

/// When each sidecar ends: the last first, after all other containers.
fn sidecar_turns(pod: &Pod) -> BTreeMap<&str, usize> {
    let sidecars = pod.init_containers().iter().filter(|c| crate::pod::is_sidecar(c));
    sidecars.rev().enumerate().map(|(index, c)| (c.name.as_str(), index + 1)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_hook_goes_on_until_the_container_has_stopped() {
        let (say, heard) = tokio::sync::oneshot::channel();
        let hook = Box::pin(async {
            tokio::task::yield_now().await;
            let _ = say.send(());
            std::future::pending::<()>().await;
        });
        // A container that ends only once its hook has got further.
        let stop = tokio::time::timeout(Duration::from_secs(20), heard);
        assert!(matches!(beside(Some(hook), stop).await, Ok(Ok(()))), "the hook stood still");
        assert_eq!(beside(Some(Box::pin(async {})), async { 7 }).await, 7);
    }
}
