//! From the apiserver's watches to the cache, the queue and the events that waiting pods care for.

use crate::pod_info::PodInfo;
use crate::queue::ClusterEvent;
use crate::scheduler::{Scheduler, Shared};
use crate::views::Views;
use client::{Event, Informer};
use k8s_openapi::api::core::v1::{Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::{CSINode, StorageClass};
use kube::runtime::watcher;
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::sync::Arc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Informers of everything that the scheduler reads; each watched once.
pub struct Informers {
    tasks: JoinSet<()>,
    client: Client,
    shutdown: CancellationToken,
    synced: Vec<futures::future::BoxFuture<'static, ()>>,
}

impl Informers {
    pub fn new(client: Client, shutdown: CancellationToken) -> Informers {
        Informers { tasks: JoinSet::new(), client, shutdown, synced: Vec::new() }
    }

    fn add<K>(
        &mut self,
        config: watcher::Config,
        handler: impl FnMut(&Event<K>) + Send + 'static,
    ) -> client::Store<K>
    where
        K: Resource<DynamicType = ()> + DeserializeOwned + Clone + Debug + Send + Sync + 'static,
    {
        let informer = Informer::new(Api::all(self.client.clone()), config).transform(|k: &mut K| {
            k.meta_mut().managed_fields = None;
        });
        informer.on_event(handler);
        let store = informer.store();
        let waiting = informer.clone();
        self.synced.push(Box::pin(async move { waiting.synced().await }));
        let shutdown = self.shutdown.clone();
        self.tasks.spawn(async move { informer.run(shutdown).await });
        store
    }

    fn plain<K>(&mut self) -> client::Store<K>
    where
        K: Resource<DynamicType = ()> + DeserializeOwned + Clone + Debug + Send + Sync + 'static,
    {
        self.add(watcher::Config::default(), |_: &Event<K>| {})
    }

    /// Stores that plugins look into. They are filled from here on.
    pub fn views(&mut self) -> Views {
        Views {
            claims: Default::default(),
            volumes: Default::default(),
            classes: Default::default(),
            csi_nodes: Default::default(),
            services: self.plain(),
            controllers: self.plain(),
            replica_sets: self.plain(),
            stateful_sets: self.plain(),
            budgets: self.plain(),
        }
    }

    /// Stores whose changes also may make a pod schedulable.
    pub fn volume_views(
        &mut self,
        views: &mut Views,
        notify: impl Fn(ClusterEvent) + Clone + Send + 'static,
    ) {
        fn tell<K>(
            notify: impl Fn(ClusterEvent) + Send + 'static,
            event: ClusterEvent,
        ) -> impl FnMut(&Event<K>) + Send + 'static {
            move |_| notify(event)
        }
        views.claims = self
            .add(Default::default(), tell::<PersistentVolumeClaim>(notify.clone(), ClusterEvent::PvcChanged));
        views.volumes =
            self.add(Default::default(), tell::<PersistentVolume>(notify.clone(), ClusterEvent::PvChanged));
        let class = ClusterEvent::StorageClassChanged;
        views.classes = self.add(Default::default(), tell::<StorageClass>(notify.clone(), class));
        views.csi_nodes = self.add(Default::default(), tell::<CSINode>(notify, ClusterEvent::CsiNodeChanged));
    }

    /// Nodes, namespaces and pods drive the cache and the queue.
    pub fn drive(&mut self, scheduler: &Arc<Scheduler>) {
        let s = scheduler.clone();
        self.add(Default::default(), move |e: &Event<Node>| on_node(&s, e));
        let s = scheduler.clone();
        self.add(Default::default(), move |e: &Event<Namespace>| on_namespace(&s, e));
        let s = scheduler.clone();
        let unfinished = watcher::Config::default().fields("status.phase!=Succeeded,status.phase!=Failed");
        self.add(unfinished, move |e: &Event<Pod>| on_pod(&s, e));
    }

    pub async fn synced(&mut self) {
        for waiting in self.synced.drain(..) {
            waiting.await;
        }
    }

    /// Waits until all watches have ended.
    pub async fn join(mut self) {
        while self.tasks.join_next().await.is_some() {}
    }
}

fn on_node(scheduler: &Scheduler, event: &Event<Node>) {
    match event {
        Event::Added(node) => {
            scheduler.update(|s| s.cache.set_node(node.clone()));
            scheduler.event(ClusterEvent::NodeAdded);
        }
        Event::Updated { old, new } => {
            scheduler.update(|s| s.cache.set_node(new.clone()));
            for event in node_changes(old, new) {
                scheduler.event(event);
            }
        }
        Event::Deleted(node) => {
            scheduler.update(|s| s.cache.remove_node(node.metadata.name.as_deref().unwrap_or("")));
        }
    }
}

/// Only changes that can let a pod in count; a heartbeat is none.
fn node_changes(old: &Node, new: &Node) -> Vec<ClusterEvent> {
    let spec = |n: &Node| n.spec.as_ref().map(|s| (s.taints.clone(), s.unschedulable));
    let allocatable = |n: &Node| n.status.as_ref().and_then(|s| s.allocatable.clone());
    let conditions = |n: &Node| -> Vec<(String, String)> {
        let list = n.status.iter().flat_map(|s| s.conditions.iter().flatten());
        list.map(|c| (c.type_.clone(), c.status.clone())).collect()
    };
    [
        (spec(old) != spec(new), ClusterEvent::NodeTaints),
        (old.metadata.labels != new.metadata.labels, ClusterEvent::NodeLabels),
        (allocatable(old) != allocatable(new), ClusterEvent::NodeAllocatable),
        (conditions(old) != conditions(new), ClusterEvent::NodeCondition),
    ]
    .into_iter()
    .filter_map(|(changed, event)| changed.then_some(event))
    .collect()
}

fn on_namespace(scheduler: &Scheduler, event: &Event<Namespace>) {
    let namespace = event.object();
    let name = namespace.metadata.name.as_deref().unwrap_or("");
    let labels = match event {
        Event::Deleted(_) => None,
        _ => Some(namespace.metadata.labels.clone().unwrap_or_default()),
    };
    scheduler.update(|s| s.cache.set_namespace(name, labels));
    scheduler.event(ClusterEvent::NamespaceChanged);
}

fn on_pod(scheduler: &Scheduler, event: &Event<Pod>) {
    let info = Arc::new(PodInfo::new(event.object().clone()));
    let gone = matches!(event, Event::Deleted(_)) || info.finished();
    let recreated = match event {
        Event::Updated { old, new } if old.metadata.uid != new.metadata.uid => old.metadata.uid.clone(),
        _ => None,
    };
    let changes = pod_changes(event);
    scheduler.update(|s| {
        let now = Instant::now();
        let mut happened: Vec<ClusterEvent> = Vec::new();
        if let Some(uid) = recreated {
            happened.extend(forget(s, &uid));
        }
        if gone {
            happened.extend(forget(s, info.uid()));
        } else if let Some(node) = info.node_name() {
            let known = s.cache.node_of(info.uid()) == Some(node) && !s.cache.is_assumed(info.uid());
            s.queue.remove(info.uid());
            s.cache.place(info.clone(), node);
            happened.extend(if known { changes } else { Some(ClusterEvent::AssignedPodAdded) });
        } else if let Some(profile) = scheduler.profile(info.scheduler_name())
            && !s.cache.is_assumed(info.uid())
        {
            let gate = profile.gate(&info);
            s.queue.add(info.clone(), gate, now);
        }
        happened.into_iter().for_each(|e| s.queue.on_event(e, now));
    });
}

fn forget(s: &mut Shared, uid: &str) -> Option<ClusterEvent> {
    s.queue.remove(uid);
    s.cache.remove_pod(uid).then_some(ClusterEvent::AssignedPodRemoved)
}

/// Whether an update of a placed pod can matter to waiting ones.
fn pod_changes(event: &Event<Pod>) -> Option<ClusterEvent> {
    let Event::Updated { old, new } = event else { return None };
    let changed = old.metadata.labels != new.metadata.labels
        || old.spec != new.spec
        || old.metadata.deletion_timestamp != new.metadata.deletion_timestamp;
    changed.then_some(ClusterEvent::AssignedPodUpdated)
}
