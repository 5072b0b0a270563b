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
type States = HashMap<String, (String, i32)>;

/// Watches the runtime until the shutdown.
pub async fn run(kubelet: Arc<Kubelet>, shutdown: CancellationToken) {
    let mut known = States::new();
    let mut pause = QUICK;
    let mut events: Option<Events> = None;
    let mut subscribing = Some(subscribe(&kubelet, Duration::ZERO));
    loop {
        if events.is_none() && subscribing.is_none() {
            subscribing = Some(subscribe(&kubelet, SLOW_WITHOUT));
        }
        let began = Instant::now();
        let answer = list(&kubelet).await;
        let (listed, took) = (Instant::now(), began.elapsed());
        match answer {
            Ok((now, pods)) => {
                crate::metrics::relisted(took);
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
        // However many hints come, they are worth one list at a time.
        let mut due = pause;
        pause = (pause * 2).min(slowest);
        loop {
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
            let left = due.saturating_sub(listed.elapsed());
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(left) => break,
                () = kubelet.relist.notified() => {}
                answer = subscribed => {
                    subscribing = None;
                    let Some(stream) = answer else { break };
                    tracing::info!(source = stream.source(), "Runtime events");
                    events = Some(stream);
                }
                hint = hint => if !matches!(hint, Some(Ok(()))) {
                    events = None;
                    break;
                }
            }
            (due, pause) = (QUICK.max(took * 10), QUICK);
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

async fn list(kubelet: &Kubelet) -> cri::Result<(States, HashMap<String, Identity>)> {
    let all = kubelet.listing.fresh().await?;
    let mut states = States::with_capacity(all.sandboxes.len() + all.containers.len());
    let mut pods = HashMap::new();
    for sandbox in &all.sandboxes {
        let Some(meta) = &sandbox.metadata else { continue };
        states.insert(sandbox.id.clone(), (meta.uid.clone(), sandbox.state));
        pods.insert(meta.uid.clone(), (meta.uid.clone(), meta.namespace.clone(), meta.name.clone()));
    }
    for container in &all.containers {
        let Some(uid) = container.labels.get(labels::POD_UID) else { continue };
        let label = |key: &str| container.labels.get(key).cloned().unwrap_or_default();
        pods.entry(uid.clone())
            .or_insert_with(|| (uid.clone(), label(labels::POD_NAMESPACE), label(labels::POD_NAME)));
        states.insert(container.id.clone(), (uid.clone(), container.state));
    }
    Ok((states, pods))
}

/// Wakes the workers of pods of which something changed.
fn wake_changed(kubelet: &Kubelet, before: &States, now: &States) -> bool {
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
