//! The end of a pod: terminating, terminated, removed.

use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::api::core::v1::Pod;

use super::{Desired, Worker};
use crate::allocation::resize;
use crate::kill;
use crate::pod::PodExt;
use crate::status::Verdict;
use crate::{container, sandbox};

/// Ends the pod; returns when nothing of it is left on the node and its object is gone.
pub async fn run(worker: &mut Worker, verdict: Option<Verdict>) {
    terminate(worker, verdict.as_ref()).await;
    release(worker, verdict.as_ref()).await;
    if worker.now_desired().pod.is_static() {
        crate::pods::drop_orphan_mirrors(&worker.kubelet);
    }
    wait_for_removal(worker).await;
    if worker.kubelet.pods.is_reborn(&worker.uid) {
        // What it leaves behind is the past of the pod that follows, which counts its restarts by it.
        worker.kubelet.statuses.forget(&worker.uid);
        worker.kubelet.pods.removed(&worker.uid);
        return;
    }
    remove(worker).await;
}

/// The grace period of a pod that ends: by decree, or its own.
fn grace(desired: &Desired) -> Option<i64> {
    let decreed = desired.decree.as_ref().and_then(|d| d.grace);
    match (decreed, desired.pod.metadata.deletion_grace_period_seconds) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// Kills all that runs, again until nothing does. A grace period that is shortened meanwhile takes effect.
async fn terminate(worker: &mut Worker, verdict: Option<&Verdict>) {
    let mut delay = Duration::from_millis(100);
    // A sandbox that is not ready may still hold an address: each is stopped once, whatever its state.
    let mut stopped = false;
    loop {
        let desired = worker.now_desired();
        match worker.refresh().await {
            Ok(()) => {
                worker.publish(&desired, false, verdict);
                if worker.state.is_stopped() && (stopped || worker.state.sandboxes.is_empty()) {
                    return;
                }
                match kill_now(worker, &desired).await {
                    Ok(()) => {
                        stopped = true;
                        continue;
                    }
                    Err(error) => {
                        let message = format!("error killing pod: {error}");
                        worker.kubelet.events.pod(&desired.pod, "Warning", "FailedKillPod", &message);
                    }
                }
            }
            Err(error) => tracing::warn!(pod = desired.pod.formatted(), %error, "Cannot terminate pod yet"),
        }
        tokio::time::sleep(delay).await;
        delay = (delay * 2).min(Duration::from_secs(10));
    }
}

async fn kill_now(worker: &mut Worker, desired: &Desired) -> cri::Result<()> {
    let kubelet = worker.kubelet.clone();
    let state = worker.state.clone();
    let mut current = grace(desired).unwrap_or_else(|| desired.pod.grace_period());
    let decreed = grace(desired);
    let killing = kill::pod(&kubelet, &desired.pod, &state, decreed);
    tokio::pin!(killing);
    loop {
        tokio::select! {
            result = &mut killing => return result,
            changed = worker.desired.changed() => {
                if changed.is_err() {
                    return killing.await;
                }
                let now = worker.now_desired();
                let shorter = grace(&now).unwrap_or(current);
                if shorter < current {
                    current = shorter;
                    hurry(worker, shorter);
                }
            }
        }
    }
}

/// Gives containers that are being stopped less time: the runtime takes the shorter of two stops.
fn hurry(worker: &Worker, grace: i64) {
    let ids: Vec<String> = worker.state.running().map(|c| c.id.clone()).collect();
    let runtime = worker.kubelet.runtime.clone();
    tokio::spawn(async move {
        join_all(ids.iter().map(|id| runtime.stop_container(id, grace))).await;
    });
}

/// Gives back volumes, cgroup and probes; then the status is final.
async fn release(worker: &mut Worker, verdict: Option<&Verdict>) {
    let kubelet = worker.kubelet.clone();
    // Nothing of it runs any more: that is its end, whatever its volumes still need.
    let desired = worker.now_desired();
    worker.publish(&desired, true, verdict);
    let mut delay = Duration::from_millis(100);
    loop {
        let done = match kubelet.volumes.tear_down(&worker.uid).await {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(uid = worker.uid, %error, "Volumes are not down yet");
                false
            }
        };
        let claims = kubelet.drivers.pods().contains(&worker.uid);
        let began = std::time::Instant::now();
        let unprepared = kubelet.drivers.unprepare(&worker.uid).await;
        if claims {
            crate::metrics::node::claims("UnprepareResources", unprepared.is_ok(), began.elapsed());
        }
        let unprepared = unprepared.inspect_err(|error| {
            tracing::warn!(uid = worker.uid, error, "Dynamic resources are not taken back yet");
        });
        // The last process may take a moment to leave the cgroup.
        let released = done && unprepared.is_ok();
        if released && kubelet.cgroups.remove_pod(&worker.uid) {
            break;
        }
        tokio::time::sleep(delay).await;
        if released && !kubelet.cgroups.remove_pod(&worker.uid) {
            // Nothing of the pod runs as far as the runtime knows, but one that was killed does not know all.
            let killed = kubelet.cgroups.kill_left(&worker.uid);
            tracing::warn!(
                uid = worker.uid,
                killed,
                "The pod's cgroup is not empty; killed what was left in it"
            );
        }
        delay = (delay * 2).min(Duration::from_secs(10));
    }
    let desired = worker.now_desired();
    worker.publish(&desired, true, verdict);
    kubelet.prober.remove(&worker.uid, &worker.state);
    kubelet.images.forget(&worker.uid);
    kubelet.crash_backoff.forget(&worker.uid);
    kubelet.user_namespaces.release(&worker.uid);
    kubelet.managers.release(&worker.uid);
    kubelet.pods.ended(&worker.uid);
    kubelet.allocations.clear_conditions(&worker.uid);
    resize::retry(&kubelet, "pod_terminated");
    kubelet.statuses.finish(&worker.uid, Worker::shown_by(&desired));
}

/// Waits until the object is gone. A deletion asked for only now is confirmed.
async fn wait_for_removal(worker: &mut Worker) {
    loop {
        let desired = worker.now_desired();
        if desired.removed {
            return;
        }
        if desired.pod.is_deleting() {
            worker.kubelet.statuses.finish(&worker.uid, Worker::shown_by(&desired));
        }
        if worker.desired.changed().await.is_err() {
            return;
        }
    }
}

/// Removes containers, sandboxes, files and logs.
async fn remove(worker: &mut Worker) {
    let kubelet = worker.kubelet.clone();
    let pod = worker.desired.borrow().pod.clone();
    let mut delay = Duration::from_millis(200);
    loop {
        match remove_once(worker, &pod).await {
            Ok(()) => break,
            Err(error) => tracing::warn!(pod = pod.formatted(), %error, "Pod is not removed yet"),
        }
        tokio::time::sleep(delay).await;
        delay = (delay * 2).min(Duration::from_secs(30));
    }
    kubelet.statuses.forget(&worker.uid);
    kubelet.pods.removed(&worker.uid);
    kubelet.allocations.remove(&worker.uid);
    resize::retry(&kubelet, "pods_removed");
}

async fn remove_once(worker: &mut Worker, pod: &Pod) -> Result<(), String> {
    let kubelet = worker.kubelet.clone();
    worker.refresh().await?;
    let removals = worker.state.sandboxes.iter().map(|s| kubelet.runtime.remove_pod_sandbox(&s.id));
    for result in join_all(removals).await {
        result.map_err(|e| e.to_string())?;
    }
    let links: Vec<_> =
        worker.state.containers.iter().map(|c| container::legacy_log_link(pod, &c.name, &c.id)).collect();
    let logs = sandbox::log_dir(&kubelet, pod);
    let dir = kubelet.pod_dir(&worker.uid);
    let work = move || {
        for link in links {
            let _ = std::fs::remove_file(link);
        }
        if !logs.as_os_str().is_empty() && logs.exists() {
            std::fs::remove_dir_all(&logs).map_err(|e| format!("remove {}: {e}", logs.display()))?;
        }
        volumes::teardown::pod_dir(&dir).map_err(|e| e.to_string())
    };
    tokio::task::spawn_blocking(work).await.map_err(|e| e.to_string())?
}
