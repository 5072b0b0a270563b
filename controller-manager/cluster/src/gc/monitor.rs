//! One metadata watch for every deletable resource, following discovery.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use controller_kit::discovery::{self, Found};
use controller_kit::meta::MetaExt;
use futures::StreamExt;
use kube::Api;
use kube::api::{DynamicObject, PartialObjectMeta};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::Collector;
use super::graph::{Identity, Uid, Work};

type Object = PartialObjectMeta<DynamicObject>;

struct Monitor {
    stop: CancellationToken,
    synced: watch::Receiver<bool>,
    task: tokio::task::JoinHandle<()>,
}

/// After a change of custom resources or API services, discovery follows within moments.
const SETTLE: Duration = Duration::from_millis(500);
/// Discovery is asked again this often where nothing hints at a change.
const RARELY: Duration = Duration::from_secs(600);

fn watchable(found: &Found) -> bool {
    let all = ["delete", "list", "watch"].iter().all(|verb| found.can(verb));
    let events = found.plural == "events" && (found.group.is_empty() || found.group == "events.k8s.io");
    all && !events && !found.plural.contains('/')
}

fn hints_at_resources(found: &Found) -> bool {
    matches!(found.plural.as_str(), "customresourcedefinitions" | "apiservices")
}

/// Keeps the monitors in step with discovery until shutdown. `ready` turns true once all have listed.
pub(super) async fn keep(collector: Arc<Collector>, ready: watch::Sender<bool>, shutdown: CancellationToken) {
    let mut monitors: HashMap<(String, String, String), Monitor> = HashMap::new();
    loop {
        let found = discovery::discover(&collector.client).await;
        let wait = match found {
            Ok(found) => {
                let stale = !found.stale.is_empty();
                update(&collector, &mut monitors, &found, &shutdown).await;
                *collector.resources.write() = found;
                wait_synced(&mut monitors).await;
                ready.send_replace(true);
                if stale { Duration::from_secs(30) } else { RARELY }
            }
            Err(error) => {
                tracing::warn!(%error, "discovery failed, it will be tried again");
                Duration::from_secs(5)
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => break,
            () = collector.resources_changed.notified() => tokio::time::sleep(SETTLE).await,
            () = tokio::time::sleep(wait) => {}
        }
    }
    for monitor in monitors.into_values() {
        monitor.stop.cancel();
        // A monitor ends at its next await: nothing is left to be said about how.
        let _ = monitor.task.await;
    }
}

async fn update(
    collector: &Arc<Collector>,
    monitors: &mut HashMap<(String, String, String), Monitor>,
    found: &discovery::Discovery,
    shutdown: &CancellationToken,
) {
    let wanted: HashMap<_, _> = found
        .resources
        .iter()
        .filter(|r| watchable(r))
        .map(|r| ((r.group.clone(), r.version.clone(), r.plural.clone()), r))
        .collect();
    // While a server behind an API service does not answer, its resources are not gone.
    let keep_unknown = !found.stale.is_empty();
    let gone: Vec<_> =
        monitors.keys().filter(|k| !wanted.contains_key(*k) && !keep_unknown).cloned().collect();
    for key in gone {
        if let Some(monitor) = monitors.remove(&key) {
            monitor.stop.cancel();
            let _ = monitor.task.await;
        }
    }
    for (key, resource) in wanted {
        monitors.entry(key).or_insert_with(|| start(collector, resource, shutdown));
    }
}

fn start(collector: &Arc<Collector>, resource: &Found, shutdown: &CancellationToken) -> Monitor {
    let stop = shutdown.child_token();
    let (sender, synced) = watch::channel(false);
    let task = tokio::spawn(run(collector.clone(), resource.clone(), sender, stop.clone()));
    Monitor { stop, synced, task }
}

async fn wait_synced(monitors: &mut HashMap<(String, String, String), Monitor>) {
    let all = async {
        for monitor in monitors.values_mut() {
            // A monitor that ended will not list any more and holds nobody up.
            let _ = monitor.synced.wait_for(|synced| *synced).await;
        }
    };
    if tokio::time::timeout(Duration::from_secs(30), all).await.is_err() {
        tracing::warn!("some resources could not be listed yet, garbage among them is not collected");
    }
}

async fn run(
    collector: Arc<Collector>,
    resource: Found,
    synced: watch::Sender<bool>,
    stop: CancellationToken,
) {
    let api: Api<Object> = Api::all_with(collector.client.clone(), &resource.dynamic());
    let mut events = watcher::watcher(api, watcher::Config::default()).default_backoff().boxed();
    let (mut known, mut listing): (HashSet<Uid>, HashSet<Uid>) = (HashSet::new(), HashSet::new());
    let version: Arc<str> = resource.api_version().into();
    let kind: Arc<str> = resource.kind.as_str().into();
    let hints = hints_at_resources(&resource);
    loop {
        let event = tokio::select! {
            () = stop.cancelled() => break,
            event = events.next() => event,
        };
        match event {
            None => break,
            Some(Err(error)) => {
                tracing::debug!(resource = resource.plural, %error, "watch failed, it will be tried again")
            }
            Some(Ok(Event::Init)) => listing.clear(),
            Some(Ok(Event::InitApply(object))) => {
                listing.insert(object.uid().into());
                observe(&collector, &version, &kind, &object);
            }
            Some(Ok(Event::InitDone)) => {
                for uid in known.difference(&listing) {
                    collector.enqueue(collector.graph.lock().forget(uid));
                }
                known = std::mem::take(&mut listing);
                synced.send_replace(true);
            }
            Some(Ok(Event::Apply(object))) => {
                known.insert(object.uid().into());
                observe(&collector, &version, &kind, &object);
                if hints {
                    collector.resources_changed.notify_one();
                }
            }
            Some(Ok(Event::Delete(object))) => {
                known.remove(object.uid());
                collector.enqueue(forget(&collector, object.uid()));
                if hints {
                    collector.resources_changed.notify_one();
                }
            }
        }
    }
    // The resource is no more: neither are its objects.
    for uid in &known {
        if !collector.shutdown.is_cancelled() {
            collector.enqueue(forget(&collector, uid));
        }
    }
}

fn forget(collector: &Collector, uid: &str) -> Work {
    collector.absent.insert(uid);
    collector.graph.lock().forget(uid)
}

fn observe(collector: &Collector, version: &Arc<str>, kind: &Arc<str>, object: &Object) {
    let identity = Identity {
        api_version: version.clone(),
        kind: kind.clone(),
        namespace: object.ns().into(),
        name: object.name().into(),
    };
    let work = collector.graph.lock().observe(identity, &object.metadata);
    collector.enqueue(work);
}
