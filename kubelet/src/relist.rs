//! Notices what happens in the runtime and wakes the workers concerned.
//!
//! The runtime's events say when to look, the lists say what is there. Right after a hint the lists are read in quick
//! succession, then ever more seldom: the event may be faster than the runtime's own bookkeeping.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cri::events::Events;
use cri::v1;
use futures::FutureExt;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use tokio_util::sync::CancellationToken;

use crate::kubelet::Kubelet;
use crate::{labels, pods};

const QUICK: Duration = Duration::from_millis(30);
/// The longest pause with events, and without.
const SLOW_WITH_EVENTS: Duration = Duration::from_secs(30);
const SLOW_WITHOUT: Duration = Duration::from_secs(1);
/// A runtime that has not refused to tell events for so long will tell the next one.
const SILENCE: Duration = Duration::from_secs(10);

/// State by id of sandbox or container, with the pod's UID.
type Listing = HashMap<String, (String, i32)>;

/// Watches the runtime until the shutdown.
pub async fn run(kubelet: Arc<Kubelet>, shutdown: CancellationToken) {
    let mut known = Listing::new();
    let mut pause = QUICK;
    let mut events: Option<Events> = None;
    let mut subscribing = Some(subscribe(&kubelet, Duration::ZERO));
    loop {
        if events.is_none() && subscribing.is_none() {
            subscribing = Some(subscribe(&kubelet, SLOW_WITHOUT));
        }
        let began = std::time::Instant::now();
        match list(&kubelet).await {
            Ok((now, pods)) => {
                crate::metrics::relisted(began.elapsed());
                if wake_changed(&kubelet, &known, &now) {
                    pause = QUICK;
                }
                end_orphans(&kubelet, pods, &shutdown);
                known = now;
            }
            Err(error) => {
                tracing::debug!(%error, "Relisting failed");
                events = None;
            }
        }
        let asked_long_ago = subscribing.as_ref().is_some_and(|(since, _)| since.elapsed() > SILENCE);
        let slowest = if events.is_some() || asked_long_ago { SLOW_WITH_EVENTS } else { SLOW_WITHOUT };
        let subscribed = async {
            match &mut subscribing {
                Some((_, answer)) => answer.await,
                None => std::future::pending().await,
            }
        };
        let hint = async {
            match &mut events {
                Some(events) => events.next().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(slowest),
            () = kubelet.relist.notified() => pause = QUICK,
            answer = subscribed => {
                subscribing = None;
                if let Some(stream) = answer {
                    tracing::info!(source = stream.source(), "Runtime events");
                    events = Some(stream);
                    pause = QUICK;
                }
            }
            hint = hint => match hint {
                Some(Ok(())) => pause = QUICK,
                _ => {
                    events = None;
                    pause = Duration::from_millis(500);
                }
            }
        }
    }
}

/// A subscription under way, and since when.
type Subscribing = (Instant, BoxFuture<'static, Option<Events>>);

/// Asks for events after a while. Some runtimes answer only with the first event: nothing may wait for it.
fn subscribe(kubelet: &Kubelet, after: Duration) -> Subscribing {
    let runtime = kubelet.runtime.clone();
    let answer = async move {
        tokio::time::sleep(after).await;
        let began = Instant::now();
        let answer = Events::subscribe(&runtime).await.ok();
        crate::metrics::node::subscribed(answer.is_some(), began.elapsed());
        answer
    };
    (Instant::now(), answer.boxed())
}

/// What a listed pod is called.
type Identity = (String, String, String);

async fn list(kubelet: &Kubelet) -> cri::Result<(Listing, HashMap<String, Identity>)> {
    let (sandboxes, containers) =
        tokio::try_join!(kubelet.runtime.list_pod_sandbox(None), kubelet.runtime.list_containers(None))?;
    let mut listing = Listing::with_capacity(sandboxes.len() + containers.len());
    let mut pods = HashMap::new();
    for sandbox in sandboxes {
        let Some(meta) = sandbox.metadata else { continue };
        listing.insert(sandbox.id, (meta.uid.clone(), sandbox.state));
        pods.insert(meta.uid.clone(), (meta.uid, meta.namespace, meta.name));
    }
    for container in containers {
        let Some(uid) = container.labels.get(labels::POD_UID).cloned() else { continue };
        let label = |key: &str| container.labels.get(key).cloned().unwrap_or_default();
        pods.entry(uid.clone())
            .or_insert_with(|| (uid.clone(), label(labels::POD_NAMESPACE), label(labels::POD_NAME)));
        listing.insert(container.id, (uid, container.state));
    }
    Ok((listing, pods))
}

/// Wakes the workers of pods of which something changed.
fn wake_changed(kubelet: &Kubelet, before: &Listing, now: &Listing) -> bool {
    let mut changed: HashSet<&str> = HashSet::new();
    let mut news = false;
    for (id, (uid, state)) in now {
        let old = before.get(id).map(|(_, s)| *s);
        // What is created or started was done by the worker itself.
        let ended = *state == v1::ContainerState::ContainerExited as i32
            || *state == v1::ContainerState::ContainerUnknown as i32;
        if old != Some(*state) {
            news = true;
            if old.is_some() || ended {
                changed.insert(uid);
            }
        }
    }
    for (id, (uid, _)) in before {
        if !now.contains_key(id) {
            news = true;
            changed.insert(uid);
        }
    }
    for uid in changed {
        kubelet.pods.wake(uid);
    }
    news
}

/// Ends what runs for pods that no source knows, once all sources have spoken.
fn end_orphans(kubelet: &Arc<Kubelet>, listed: HashMap<String, Identity>, shutdown: &CancellationToken) {
    if !kubelet.pods.all_known() {
        return;
    }
    for (uid, namespace, name) in listed.into_values() {
        if kubelet.pods.get(&uid).is_none() {
            let metadata = ObjectMeta {
                uid: Some(uid),
                namespace: Some(namespace),
                name: Some(name),
                ..Default::default()
            };
            let pod = Pod { metadata, spec: Some(PodSpec::default()), status: None };
            pods::end_orphan(kubelet, pod, shutdown);
        }
    }
}
