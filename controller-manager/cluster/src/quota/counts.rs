//! Counts objects of resources that some quota limits by number: a metadata watch each, started when a quota
//! first names it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use controller_kit::discovery::{self, Found};
use controller_kit::meta::MetaExt;
use controller_kit::{Context, Queue};
use futures::StreamExt;
use kube::Api;
use kube::api::{DynamicObject, PartialObjectMeta};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

type Object = PartialObjectMeta<DynamicObject>;
type Names = BTreeMap<String, HashSet<String>>;

struct Counter {
    names: RwLock<Names>,
    synced: watch::Sender<bool>,
}

/// The counters by plural and group.
pub(super) struct Counts {
    ctx: Context,
    /// Namespaces whose count changed.
    changed: Queue<String>,
    running: Mutex<HashMap<(String, String), Arc<Counter>>>,
    tasks: TaskTracker,
}

impl Counts {
    pub fn new(ctx: Context, changed: Queue<String>) -> Counts {
        Counts { ctx, changed, running: Mutex::default(), tasks: TaskTracker::new() }
    }

    /// How many objects a namespace has; `None` for a resource that the server does not have.
    pub async fn count(&self, resource: &(String, String), namespace: &str) -> anyhow::Result<Option<usize>> {
        let known = self.running.lock().get(resource).cloned();
        let counter = match known {
            Some(counter) => counter,
            None => match self.start(resource).await? {
                Some(counter) => counter,
                None => return Ok(None),
            },
        };
        // The sender lives in the counter that we hold: waiting cannot fail.
        let _ = counter.synced.subscribe().wait_for(|synced| *synced).await;
        let count = counter.names.read().get(namespace).map_or(0, HashSet::len);
        Ok(Some(count))
    }

    async fn start(&self, resource: &(String, String)) -> anyhow::Result<Option<Arc<Counter>>> {
        let found = discovery::discover(&self.ctx.client).await?;
        let wanted = |r: &&Found| r.plural == resource.0 && r.group == resource.1 && r.namespaced;
        let Some(found) = found.resources.iter().find(wanted).filter(|r| r.can("watch")).cloned() else {
            return Ok(None);
        };
        let mut running = self.running.lock();
        if let Some(counter) = running.get(resource) {
            return Ok(Some(counter.clone()));
        }
        let counter = Arc::new(Counter { names: RwLock::default(), synced: watch::Sender::new(false) });
        running.insert(resource.clone(), counter.clone());
        let api: Api<Object> = Api::all_with(self.ctx.client.clone(), &found.dynamic());
        self.tasks.spawn(follow(api, counter.clone(), self.changed.clone(), self.ctx.shutdown.clone()));
        Ok(Some(counter))
    }
}

async fn follow(
    api: Api<Object>,
    counter: Arc<Counter>,
    changed: Queue<String>,
    shutdown: tokio_util::sync::CancellationToken,
) {
    let mut events = watcher::watcher(api, watcher::Config::default()).default_backoff().boxed();
    let mut listing = Names::new();
    loop {
        let event = tokio::select! {
            () = shutdown.cancelled() => return,
            event = events.next() => event,
        };
        match event {
            None => return,
            Some(Err(error)) => tracing::debug!(%error, "watch failed, it will be tried again"),
            Some(Ok(Event::Init)) => listing.clear(),
            Some(Ok(Event::InitApply(o))) => {
                listing.entry(o.ns().to_owned()).or_default().insert(o.name().to_owned());
            }
            Some(Ok(Event::InitDone)) => {
                *counter.names.write() = std::mem::take(&mut listing);
                counter.synced.send_replace(true);
            }
            Some(Ok(Event::Apply(o))) => {
                if counter.names.write().entry(o.ns().to_owned()).or_default().insert(o.name().to_owned()) {
                    changed.add(o.ns().to_owned());
                }
            }
            Some(Ok(Event::Delete(o))) => {
                let mut names = counter.names.write();
                if names.get_mut(o.ns()).is_some_and(|set| set.remove(o.name())) {
                    changed.add(o.ns().to_owned());
                }
            }
        }
    }
}
