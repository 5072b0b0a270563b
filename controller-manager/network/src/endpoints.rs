//! endpoints-controller: the older form of endpoints, one object a Service, at most 1000 addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use controller_kit::meta::MetaExt;
use controller_kit::{Context, Events, Key, Queue, Requeue, Shared, errors, pod, semantic};
use k8s_openapi::api::core::v1::{
    EndpointAddress, EndpointPort, EndpointSubset, Endpoints, ObjectReference, Pod, Service,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::api::{DeleteParams, PostParams};

use crate::service::{
    address, families, headless, hostname, pods, selector, serves, target_port, wake_for_pod,
};

const HEADLESS: &str = "service.kubernetes.io/headless";
const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
const MOST: usize = 1000;

struct Controller {
    ctx: Context,
    events: Events,
    services: Arc<Shared<Service>>,
    pods: Arc<Shared<Pod>>,
    endpoints: Arc<Shared<Endpoints>>,
}

/// Runs until shutdown.
pub async fn run(ctx: Context) -> anyhow::Result<()> {
    let queue = Queue::new();
    let (services, pods, endpoints) =
        (ctx.informer::<Service>(), ctx.informer::<Pod>(), ctx.informer::<Endpoints>());
    services.synced().await;
    pods.synced().await;
    endpoints.synced().await;
    let q = queue.clone();
    services.watch(move |change| q.add(change.object().key()));
    let (q, cache) = (queue.clone(), services.clone());
    pods.watch(move |change| wake_for_pod(&q, &cache, change));
    let q = queue.clone();
    endpoints.watch(move |change| {
        if change.deleted() {
            q.add(change.object().key());
        }
    });
    // Endpoints whose Service went away while nobody looked.
    for left in endpoints.list().iter().filter(|e| e.label(MANAGED_BY) == Some("endpoint-controller")) {
        queue.add(left.key());
    }
    let workers = ctx.workers("endpoints", "endpoint", 5);
    let events = ctx.events("endpoint-controller");
    let controller = Controller { ctx, events, services, pods, endpoints };
    let controller = &controller;
    workers.run(queue, |key| async move { controller.reconcile(key).await }).await;
    Ok(())
}

impl Controller {
    async fn reconcile(&self, key: Key) -> anyhow::Result<Requeue> {
        let api: Api<Endpoints> = Api::namespaced(self.ctx.client.clone(), &key.namespace);
        let Some(service) = self.services.get(&key) else {
            let ours = self.endpoints.get(&key);
            if ours.is_some_and(|e| e.annotation("control-plane.alpha.kubernetes.io/leader").is_none()) {
                errors::optional(api.delete(&key.name, &DeleteParams::default()).await)?;
            }
            return Ok(None);
        };
        let Some(selector) = selector(&service) else { return Ok(None) };
        let (subsets, truncated) = subsets(&service, &pods(&service, &selector, &self.pods));
        let old = self.endpoints.get(&key);
        let next = object(&service, old.as_deref(), subsets, truncated);
        if old.as_ref().is_some_and(|old| semantic::same(&**old, &next)) {
            return Ok(None);
        }
        let result = match &old {
            None => api.create(&PostParams::default(), &next).await,
            Some(_) => api.replace(&key.name, &PostParams::default(), &next).await,
        };
        match result {
            Ok(_) => Ok(None),
            Err(error) if errors::namespace_terminating(&error) => Ok(None),
            Err(error) => {
                let way = if old.is_none() { "Create" } else { "Update" };
                let text =
                    format!("Failed to {} endpoint {key}: {}", way.to_lowercase(), errors::text(&error));
                self.events.warning(&next, &format!("FailedTo{way}Endpoint"), text);
                Err(error.into())
            }
        }
    }
}

fn object(
    service: &Service,
    old: Option<&Endpoints>,
    subsets: Vec<EndpointSubset>,
    truncated: bool,
) -> Endpoints {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS);
    if headless(service) {
        labels.insert(HEADLESS.into(), String::new());
    }
    labels.insert(MANAGED_BY.into(), "endpoint-controller".into());
    let mut next = old.cloned().unwrap_or_else(|| Endpoints {
        metadata: ObjectMeta {
            name: service.metadata.name.clone(),
            namespace: service.metadata.namespace.clone(),
            ..ObjectMeta::default()
        },
        ..Endpoints::default()
    });
    next.metadata.labels = Some(labels);
    let annotations = next.metadata.annotations.get_or_insert_default();
    if truncated {
        annotations.insert(CAPACITY.into(), "truncated".into());
    } else {
        annotations.remove(CAPACITY);
    }
    next.subsets = Some(subsets);
    next
}

type Ports = Vec<(String, i32, String, Option<String>)>;

/// Addresses with the same ports, ready or not, make a subset.
fn subsets(service: &Service, pods: &[Arc<Pod>]) -> (Vec<EndpointSubset>, bool) {
    let publish_all = service.spec.as_ref().and_then(|s| s.publish_not_ready_addresses) == Some(true);
    let family = families(service).first().copied().unwrap_or("IPv4");
    let mut by_ports: BTreeMap<Ports, (Vec<EndpointAddress>, Vec<EndpointAddress>)> = BTreeMap::new();
    let mut total = 0;
    let mut sorted: Vec<_> = pods.iter().filter(|p| serves(p) && (publish_all || !p.deleting())).collect();
    // Ready addresses are the last to be cut off.
    sorted.sort_by_key(|p| (!pod::ready(p), p.name().to_owned()));
    for pod in sorted {
        let Some(ip) = address(pod, family) else { continue };
        let ports: Ports = service
            .spec
            .iter()
            .flat_map(|s| s.ports.iter().flatten())
            .filter_map(|p| {
                let protocol = p.protocol.clone().unwrap_or_else(|| "TCP".into());
                Some((
                    p.name.clone().unwrap_or_default(),
                    target_port(pod, p)?,
                    protocol,
                    p.app_protocol.clone(),
                ))
            })
            .collect();
        if ports.is_empty() && !headless(service) {
            continue;
        }
        total += 1;
        if total > MOST {
            continue;
        }
        let (ready, not_ready) = by_ports.entry(ports).or_default();
        let address = endpoint(service, pod, ip);
        if publish_all || pod::ready(pod) { ready.push(address) } else { not_ready.push(address) }
    }
    let subsets = by_ports.into_iter().map(|(ports, (ready, not_ready))| subset(ports, ready, not_ready));
    (subsets.collect(), total > MOST)
}

fn subset(
    ports: Ports,
    mut ready: Vec<EndpointAddress>,
    mut not_ready: Vec<EndpointAddress>,
) -> EndpointSubset {
    let mut seen = BTreeSet::new();
    ready.retain(|a| seen.insert(a.ip.clone()));
    ready.sort_by(|a, b| a.ip.cmp(&b.ip));
    not_ready.sort_by(|a, b| a.ip.cmp(&b.ip));
    let ports = ports.into_iter().map(|(name, port, protocol, app_protocol)| EndpointPort {
        name: (!name.is_empty()).then_some(name),
        port,
        protocol: Some(protocol),
        app_protocol,
    });
    EndpointSubset {
        addresses: (!ready.is_empty()).then_some(ready),
        not_ready_addresses: (!not_ready.is_empty()).then_some(not_ready),
        ports: Some(ports.collect()),
    }
}

fn endpoint(service: &Service, pod: &Pod, ip: String) -> EndpointAddress {
    let node = pod::node(pod);
    EndpointAddress {
        ip,
        hostname: hostname(pod, service),
        node_name: (!node.is_empty()).then(|| node.to_owned()),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".into()),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            ..ObjectReference::default()
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn ready_and_not_ready_addresses_share_a_subset() {
        let service: Service =
            serde_json::from_value(json!({"metadata": {"name": "s"}, "spec": {"clusterIP": "10.0.0.1",
            "selector": {"a": "b"}, "ports": [{"name": "web", "port": 80}]}}))
            .unwrap();
        let pod = |ip: &str, ready: &str| {
            Arc::new(
                serde_json::from_value::<Pod>(
                    json!({"metadata": {"name": ip}, "status": {"phase": "Running", "podIP": ip,
                "conditions": [{"type": "Ready", "status": ready}]}}),
                )
                .unwrap(),
            )
        };
        let (subsets, truncated) =
            subsets(&service, &[pod("10.0.0.3", "True"), pod("10.0.0.2", "True"), pod("10.0.0.4", "False")]);
        assert!(!truncated);
        assert_eq!(subsets.len(), 1);
        let ips =
            |a: &Option<Vec<EndpointAddress>>| a.iter().flatten().map(|a| a.ip.clone()).collect::<Vec<_>>();
        assert_eq!(ips(&subsets[0].addresses), ["10.0.0.2", "10.0.0.3"]);
        assert_eq!(ips(&subsets[0].not_ready_addresses), ["10.0.0.4"]);
    }
}
