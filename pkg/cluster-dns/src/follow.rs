//! Keeps the records as the cluster's objects are: three informers, and one task that applies what they tell.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use client::{Event, Informer, Key, Store};
use k8s_openapi::api::core::v1::{Namespace, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::runtime::watcher;
use parking_lot::RwLock;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::records::{Records, group, of_service};

/// The records that queries read, and whether they are complete.
#[derive(Debug, Default)]
pub struct Shared {
    pub records: RwLock<Records>,
    synced: AtomicBool,
}

impl Shared {
    /// Whether the first lists of all objects have been applied.
    pub fn synced(&self) -> bool {
        self.synced.load(Ordering::Acquire)
    }

    /// Says that the records are complete.
    pub fn set_synced(&self) {
        self.synced.store(true, Ordering::Release);
    }
}

/// What has to be looked at again.
#[derive(Debug, PartialEq, Eq, Hash)]
enum Change {
    Service(Key),
    Namespace(String),
}

/// At most so many changes are applied at once; more wait in the channel.
const BATCH: usize = 256;
const BY_SERVICE: &str = "service";

/// Follows the cluster until shutdown.
pub async fn follow(client: kube::Client, shared: Arc<Shared>, shutdown: CancellationToken) {
    let config = watcher::Config::default;
    let namespaces = Informer::new(Api::<Namespace>::all(client.clone()), config()).transform(trim_namespace);
    let services = Informer::new(Api::<Service>::all(client.clone()), config()).transform(trim_service);
    let slices = Informer::new(Api::<EndpointSlice>::all(client), config())
        .transform(trim_slice)
        .index(BY_SERVICE, |s| group(s).map(|(ns, name)| format!("{ns}/{name}")).into_iter().collect());
    let (sender, changes) = mpsc::unbounded_channel();
    tell(&namespaces, &sender, |n| Some(Change::Namespace(n.metadata.name.clone()?)));
    tell(&services, &sender, |s| Some(Change::Service(Key::of(s))));
    tell(&slices, &sender, |s| group(s).map(|(ns, name)| Change::Service(Key::new(ns, name))));
    drop(sender);
    let worker =
        Worker { namespaces: namespaces.store(), services: services.store(), slices: slices.store(), shared };
    let complete = {
        let (namespaces, services, slices) = (namespaces.clone(), services.clone(), slices.clone());
        async move { tokio::join!(namespaces.synced(), services.synced(), slices.synced()) }
    };
    tokio::join!(
        namespaces.run(shutdown.clone()),
        services.run(shutdown.clone()),
        slices.run(shutdown.clone()),
        worker.run(changes, complete, shutdown.clone()),
    );
}

fn tell<K>(
    informer: &Informer<K>,
    sender: &mpsc::UnboundedSender<Change>,
    of: impl Fn(&K) -> Option<Change> + Send + 'static,
) where
    K: kube::Resource + Clone + serde::de::DeserializeOwned + std::fmt::Debug + Send + Sync + 'static,
{
    let sender = sender.clone();
    informer.on_event(move |event| {
        let (old, new) = match event {
            Event::Updated { old, new } => (Some(old), new),
            Event::Added(object) | Event::Deleted(object) => (None, object),
        };
        // A slice may move from one Service to another.
        let old = old.and_then(|o| of(o));
        let new = of(new);
        let both = if old == new { [None, new] } else { [old, new] };
        for change in both.into_iter().flatten() {
            // Fails only at the end, when nobody applies changes any more.
            let _ = sender.send(change);
        }
    });
}

struct Worker {
    namespaces: Store<Namespace>,
    services: Store<Service>,
    slices: Store<EndpointSlice>,
    shared: Arc<Shared>,
}

impl Worker {
    async fn run(
        &self,
        mut changes: mpsc::UnboundedReceiver<Change>,
        complete: impl Future,
        shutdown: CancellationToken,
    ) {
        let mut complete = std::pin::pin!(complete);
        let mut batch = Vec::new();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = &mut complete, if !self.shared.synced() => self.apply_all(),
                n = changes.recv_many(&mut batch, BATCH) => {
                    if n == 0 {
                        return;
                    }
                    self.apply(batch.drain(..).collect());
                }
            }
        }
    }

    /// Applies every object there is, since their events may still wait in the channel.
    fn apply_all(&self) {
        let names = self.namespaces.list();
        let names = names.iter().filter_map(|n| n.metadata.name.clone()).map(Change::Namespace);
        let keys = self.services.list().into_iter().map(|s| Change::Service(Key::of(&*s)));
        self.apply(names.chain(keys).collect());
        self.shared.set_synced();
        tracing::info!(services = self.shared.records.read().count(), "Records are complete");
    }

    fn apply(&self, changes: HashSet<Change>) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        for change in changes {
            match change {
                Change::Namespace(name) => self.apply_namespace(&name),
                Change::Service(key) => self.apply_service(&key, now.as_secs()),
            }
        }
    }

    fn apply_namespace(&self, name: &str) {
        let exists = self.namespaces.contains(&Key::cluster(name));
        let mut records = self.shared.records.write();
        if exists { records.add_namespace(name) } else { records.remove_namespace(name) }
    }

    fn apply_service(&self, key: &Key, now: u64) {
        let slices = self.slices.by_index(BY_SERVICE, key.as_str());
        let new = self.services.get(key).and_then(|s| of_service(&s, &slices));
        let mut records = self.shared.records.write();
        if records.set(key.namespace(), key.name(), new) {
            // A serial number wraps around, as RFC 1982 has it.
            records.serial = now as u32;
        }
    }
}

fn trim_namespace(namespace: &mut Namespace) {
    namespace.metadata.annotations = None;
    namespace.metadata.labels = None;
    namespace.spec = None;
    namespace.status = None;
}

fn trim_service(service: &mut Service) {
    service.metadata.annotations = None;
    service.metadata.labels = None;
    service.metadata.owner_references = None;
    service.status = None;
    if let Some(spec) = &mut service.spec {
        spec.selector = None;
    }
}

fn trim_slice(slice: &mut EndpointSlice) {
    slice.metadata.annotations = None;
    slice.metadata.owner_references = None;
    for endpoint in slice.endpoints.iter_mut().flatten() {
        endpoint.node_name = None;
        endpoint.target_ref = None;
        endpoint.zone = None;
        endpoint.hints = None;
        endpoint.deprecated_topology = None;
    }
}
