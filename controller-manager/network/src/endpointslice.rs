//! endpointslice-controller: the addresses behind every Service with a selector.

mod plan;

use std::collections::BTreeMap;
use std::sync::Arc;

use controller_kit::expect::Written;
use controller_kit::meta::{MetaExt, controller_ref};
use controller_kit::{Context, Events, Key, Queue, Requeue, Shared, errors, semantic};
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::api::{DeleteParams, PostParams};

use crate::service::{by_label, families, headless, pods, selector, wake_for_pod};
use plan::Plan;

const SERVICE: &str = "kubernetes.io/service-name";
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslice-controller.k8s.io";
const HEADLESS: &str = "service.kubernetes.io/headless";

struct Controller {
    ctx: Context,
    events: Events,
    services: Arc<Shared<Service>>,
    pods: Arc<Shared<Pod>>,
    nodes: Arc<Shared<Node>>,
    slices: Arc<Shared<EndpointSlice>>,
    written: Written,
}

/// Runs until shutdown.
pub async fn run(ctx: Context) -> anyhow::Result<()> {
    let queue = Queue::new();
    let (services, pods) = (ctx.informer::<Service>(), ctx.informer::<Pod>());
    let (nodes, slices) = (ctx.informer::<Node>(), ctx.informer::<EndpointSlice>());
    slices.index("service", |slice: &EndpointSlice| Some(by_label(slice)?.to_string()));
    services.synced().await;
    pods.synced().await;
    nodes.synced().await;
    slices.synced().await;
    let q = queue.clone();
    services.watch(move |change| q.add(change.object().key()));
    let (q, cache) = (queue.clone(), services.clone());
    pods.watch(move |change| wake_for_pod(&q, &cache, change));
    let q = queue.clone();
    slices.watch(move |change| {
        if managed(change.object())
            && let Some(key) = by_label(&**change.object())
        {
            q.add(key);
        }
    });
    let (q, cache) = (queue.clone(), services.clone());
    nodes.watch(move |change| {
        let moved = change.old().is_none_or(|old| plan::zone(old) != plan::zone(change.object()));
        if moved && plan::zone(change.object()).is_some() {
            cache.list().iter().for_each(|service| q.add(service.key()));
        }
    });
    let workers = ctx.workers("endpointslice", "service-endpoint", 5);
    let events = ctx.events("endpoint-slice-controller");
    let controller = Controller { ctx, events, services, pods, nodes, slices, written: Written::default() };
    let controller = &controller;
    workers.run(queue, |key| async move { controller.reconcile(key).await }).await;
    Ok(())
}

fn managed(slice: &EndpointSlice) -> bool {
    slice.label(MANAGED_BY) == Some(MANAGER)
}

/// The labels of a Service's slices: its own, but for those that say what the slice is.
fn labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS);
    if headless(service) {
        labels.insert(HEADLESS.into(), String::new());
    }
    labels.insert(SERVICE.into(), service.name().to_owned());
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    labels
}

impl Controller {
    async fn reconcile(&self, key: Key) -> anyhow::Result<Requeue> {
        if !self.written.seen(&key, self.slices.newest()) {
            // The event that brings the cache up to date wakes this key.
            return Ok(Some(std::time::Duration::from_secs(30)));
        }
        let Some(service) = self.services.get(&key) else { return Ok(None) };
        if service.deleting() {
            return Ok(None);
        }
        let Some(selector) = selector(&service) else { return Ok(None) };
        let pods = pods(&service, &selector, &self.pods);
        let own: Vec<_> = self
            .slices
            .by("service", &key.to_string())
            .into_iter()
            .filter(|s| managed(s) && !s.deleting())
            .collect();
        let families = families(&service);
        let mut plan = Plan::default();
        plan.delete.extend(own.iter().filter(|s| !families.contains(&s.address_type.as_str())).cloned());
        let zone = |node: &str| plan::zone(&*self.nodes.get(&Key::cluster(node))?);
        for family in families {
            let slices = own.iter().filter(|s| s.address_type == family).cloned().collect();
            plan::family(&mut plan, family, plan::groups(&service, &pods, family, zone), slices, 100);
        }
        plan::recycle(&mut plan);
        self.apply(&key, &service, &own, plan).await.inspect_err(|error| {
            let text = format!("Error updating Endpoint Slices for Service {key}: {error}");
            self.events.warning(&*service, "FailedToUpdateEndpointSlices", text);
        })?;
        Ok(None)
    }

    async fn apply(
        &self,
        key: &Key,
        service: &Service,
        own: &[Arc<EndpointSlice>],
        plan: Plan,
    ) -> anyhow::Result<()> {
        let api: Api<EndpointSlice> = Api::namespaced(self.ctx.client.clone(), service.ns());
        for (family, ports, endpoints) in plan.create {
            let slice = new_slice(service, family, ports, endpoints);
            match api.create(&PostParams::default(), &slice).await {
                Ok(made) => self.written.note(key, made.rv()),
                Err(error) if errors::namespace_terminating(&error) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        for mut next in plan.update {
            next.metadata.labels = Some(labels(service));
            let unchanged = own.iter().any(|old| {
                old.name() == next.name()
                    && plan::list(old) == plan::list(&next)
                    && old.metadata.labels == next.metadata.labels
                    && semantic::same(&**old, &next)
            });
            if !unchanged {
                let made = api.replace(next.name(), &PostParams::default(), &next).await?;
                self.written.note(key, made.rv());
            }
        }
        for slice in plan.delete {
            errors::optional(api.delete(slice.name(), &DeleteParams::default()).await)?;
        }
        Ok(())
    }
}

fn new_slice(
    service: &Service,
    family: &str,
    ports: Vec<EndpointPort>,
    endpoints: Vec<Endpoint>,
) -> EndpointSlice {
    EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(controller_kit::template::prefix(service.name())),
            namespace: service.metadata.namespace.clone(),
            labels: Some(labels(service)),
            owner_references: Some(vec![controller_ref(service)]),
            ..ObjectMeta::default()
        },
        address_type: family.to_owned(),
        endpoints: Some(endpoints),
        ports: Some(ports),
    }
}
