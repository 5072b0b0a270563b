//! The service controller: a load balancer in the cloud for each Service of type LoadBalancer, and none for others.
//!
//! A finalizer is on the Service as long as the load balancer may exist, so that none is left behind.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::Context as _;
use client::{Event, Key, Recorder, WorkQueue, is_not_found, object_ref};
use k8s_openapi::api::core::v1::{LoadBalancerStatus, Node, Service};
use kube::Api;
use kube::api::{Patch, PatchParams};
use parking_lot::Mutex;
use serde_json::json;

use crate::manager::Context;
use crate::provider::{CloudError, LoadBalancers};

pub const FINALIZER: &str = "service.kubernetes.io/load-balancer-cleanup";
const EXCLUDE: &str = "node.kubernetes.io/exclude-from-external-load-balancers";
const TO_BE_DELETED: &str = "ToBeDeletedByClusterAutoscaler";

/// Runs the controller until shutdown.
pub async fn run(ctx: Context, workers: usize) {
    let Some(balancers) = ctx.provider.load_balancers() else { return };
    let queue: WorkQueue<Key> = WorkQueue::new("service");
    let sync = Arc::new(Sync {
        recorder: ctx.recorder("service-controller"),
        queue: queue.clone(),
        done: Mutex::default(),
        balancers,
        ctx: ctx.clone(),
    });
    listen(&ctx, &queue);
    ctx.nodes.synced().await;
    ctx.services.synced().await;
    let work = move |key: Key| {
        let sync = sync.clone();
        async move { sync.reconcile(&key).await }
    };
    queue.work(workers, ctx.shutdown.clone(), work).await;
}

fn listen(ctx: &Context, queue: &WorkQueue<Key>) {
    let add = queue.clone();
    ctx.services.on_event(move |event| {
        let wakes = match event {
            Event::Updated { old, new } => {
                needs_cleanup(new) || (wants(old) || wants(new)) && differs(old, new)
            }
            Event::Added(s) | Event::Deleted(s) => wants(s) || needs_cleanup(s),
        };
        if wakes {
            add.add(event.key());
        }
    });
    let (add, services) = (queue.clone(), ctx.services.store());
    ctx.nodes.on_event(move |event| {
        let changed = match event {
            Event::Updated { old, new } => in_set(old) != in_set(new),
            Event::Added(n) | Event::Deleted(n) => in_set(n),
        };
        if changed {
            services.list().iter().filter(|s| wants(s)).for_each(|s| add.add(Key::of(&**s)));
        }
    });
}

struct Sync {
    ctx: Context,
    balancers: Arc<dyn LoadBalancers>,
    recorder: Recorder,
    queue: WorkQueue<Key>,
    /// What was last ensured, so that a change of nodes alone is an update of nodes alone.
    done: Mutex<HashMap<Key, Done>>,
}

struct Done {
    service: Arc<Service>,
    nodes: Vec<String>,
}

impl Sync {
    async fn reconcile(&self, key: &Key) -> anyhow::Result<()> {
        let Some(service) = self.ctx.services.store().get(key) else {
            self.done.lock().remove(key);
            return Ok(());
        };
        let result = if !wants(&service) || service.metadata.deletion_timestamp.is_some() {
            self.clean_up(key, &service).await
        } else {
            self.ensure(key, &service).await
        };
        let Err(error) = result else { return Ok(()) };
        let message = format!("Error syncing load balancer: {error:#}");
        self.recorder.event(&object_ref(&*service), "Warning", "SyncLoadBalancerFailed", &message);
        if let Some(CloudError::RetryAfter { after, .. }) = error.downcast_ref() {
            self.queue.add_after(key.clone(), *after);
            return Ok(());
        }
        Err(error)
    }

    async fn clean_up(&self, key: &Key, service: &Service) -> anyhow::Result<()> {
        if !has_finalizer(service) {
            return Ok(());
        }
        let (about, cluster) = (object_ref(service), &self.ctx.cluster);
        let exists = match self.balancers.get(cluster, service).await {
            Err(CloudError::ImplementedElsewhere) => false,
            found => found.context("failed to check if load balancer exists before cleanup")?.is_some(),
        };
        if exists {
            self.recorder.event(&about, "Normal", "DeletingLoadBalancer", "Deleting load balancer");
            match self.balancers.ensure_deleted(cluster, service).await {
                Ok(()) | Err(CloudError::ImplementedElsewhere) => {}
                Err(error) => return Err(error).context("failed to delete load balancer"),
            }
        }
        self.done.lock().remove(key);
        self.set_finalizer(service, false)
            .await
            .context("failed to remove load balancer cleanup finalizer")?;
        self.recorder.event(&about, "Normal", "DeletedLoadBalancer", "Deleted load balancer");
        self.set_status(service, &LoadBalancerStatus::default()).await
    }

    async fn ensure(&self, key: &Key, service: &Arc<Service>) -> anyhow::Result<()> {
        let nodes: Vec<Arc<Node>> = self.ctx.nodes.store().list().into_iter().filter(|n| in_set(n)).collect();
        let mut names: Vec<String> = nodes.iter().filter_map(|n| n.metadata.name.clone()).collect();
        names.sort();
        let same_nodes = {
            let done = self.done.lock();
            let known = done.get(key).filter(|d| has_finalizer(service) && !differs(&d.service, service));
            known.map(|d| d.nodes == names)
        };
        let about = object_ref(&**service);
        if names.is_empty() && same_nodes != Some(true) {
            let message = "There are no available nodes for LoadBalancer";
            self.recorder.event(&about, "Warning", "UnAvailableLoadBalancer", message);
        }
        match same_nodes {
            Some(true) => return Ok(()),
            Some(false) => self.update_nodes(service, &nodes).await?,
            None => self.ensure_all(service, &nodes).await?,
        }
        self.done.lock().insert(key.clone(), Done { service: service.clone(), nodes: names });
        Ok(())
    }

    async fn ensure_all(&self, service: &Service, nodes: &[Arc<Node>]) -> anyhow::Result<()> {
        let about = object_ref(service);
        self.recorder.event(&about, "Normal", "EnsuringLoadBalancer", "Ensuring load balancer");
        self.set_finalizer(service, true).await.context("failed to add load balancer cleanup finalizer")?;
        let status = match self.balancers.ensure(&self.ctx.cluster, service, nodes).await {
            Err(CloudError::ImplementedElsewhere) => return Ok(()),
            status => status.context("failed to ensure load balancer")?,
        };
        self.recorder.event(&about, "Normal", "EnsuredLoadBalancer", "Ensured load balancer");
        self.set_status(service, &status).await
    }

    async fn update_nodes(&self, service: &Service, nodes: &[Arc<Node>]) -> anyhow::Result<()> {
        let about = object_ref(service);
        match self.balancers.update(&self.ctx.cluster, service, nodes).await {
            Ok(()) => {
                let message = "Updated load balancer with new hosts";
                self.recorder.event(&about, "Normal", "UpdatedLoadBalancer", message);
                Ok(())
            }
            Err(CloudError::ImplementedElsewhere) => Ok(()),
            Err(error) => {
                let names: Vec<&str> =
                    nodes.iter().filter_map(|n| n.metadata.name.as_deref()).take(20).collect();
                let message = format!(
                    "Error updating load balancer with new hosts {names:?} [node names limited, total number of nodes: {}], error: {error}",
                    nodes.len()
                );
                self.recorder.event(&about, "Warning", "UpdateLoadBalancerFailed", &message);
                Err(error.into())
            }
        }
    }

    fn api(&self, service: &Service) -> Api<Service> {
        Api::namespaced(self.ctx.client.clone(), service.metadata.namespace.as_deref().unwrap_or_default())
    }

    async fn set_finalizer(&self, service: &Service, wanted: bool) -> anyhow::Result<()> {
        if has_finalizer(service) == wanted {
            return Ok(());
        }
        let mut list = service.metadata.finalizers.clone().unwrap_or_default();
        list.retain(|f| f != FINALIZER);
        if wanted {
            list.push(FINALIZER.to_owned());
        }
        // The version guards the list: somebody else's finalizer must not be lost.
        let patch =
            json!({"metadata": {"resourceVersion": service.metadata.resource_version, "finalizers": list}});
        let name = service.metadata.name.as_deref().unwrap_or_default();
        self.api(service).patch(name, &PatchParams::default(), &Patch::Merge(patch)).await?;
        Ok(())
    }

    async fn set_status(&self, service: &Service, wanted: &LoadBalancerStatus) -> anyhow::Result<()> {
        let current = service.status.as_ref().and_then(|s| s.load_balancer.clone()).unwrap_or_default();
        if current.ingress.clone().unwrap_or_default() == wanted.ingress.clone().unwrap_or_default() {
            return Ok(());
        }
        let patch = json!({"status": {"loadBalancer": {"ingress": wanted.ingress}}});
        let name = service.metadata.name.as_deref().unwrap_or_default();
        match self.api(service).patch_status(name, &PatchParams::default(), &Patch::Merge(patch)).await {
            // The service may go the moment its finalizer is off.
            Err(error) if !is_not_found(&error) => {
                Err(error).context("failed to update load balancer status")
            }
            _ => Ok(()),
        }
    }
}

/// Whether a Service wants a load balancer of ours: another class is somebody else's.
fn wants(service: &Service) -> bool {
    let spec = service.spec.as_ref();
    spec.is_some_and(|s| s.type_.as_deref() == Some("LoadBalancer") && s.load_balancer_class.is_none())
}

fn has_finalizer(service: &Service) -> bool {
    service.metadata.finalizers.iter().flatten().any(|f| f == FINALIZER)
}

fn needs_cleanup(service: &Service) -> bool {
    has_finalizer(service) && (service.metadata.deletion_timestamp.is_some() || !wants(service))
}

/// Whether a change may concern the load balancer: anything of the spec, annotations, or another object of the name.
fn differs(old: &Service, new: &Service) -> bool {
    old.spec != new.spec
        || old.metadata.annotations != new.metadata.annotations
        || old.metadata.uid != new.metadata.uid
        || old.metadata.deletion_timestamp.is_some() != new.metadata.deletion_timestamp.is_some()
}

/// Whether a node stands behind load balancers. Readiness does not count: the load balancer checks health itself.
fn in_set(node: &Node) -> bool {
    let leaving = node.spec.iter().flat_map(|s| s.taints.iter().flatten()).any(|t| t.key == TO_BE_DELETED);
    let excluded = node.metadata.labels.as_ref().is_some_and(|l| l.contains_key(EXCLUDE));
    let has_machine = node.spec.as_ref().and_then(|s| s.provider_id.as_ref()).is_some_and(|p| !p.is_empty());
    !leaving && !excluded && has_machine
}
