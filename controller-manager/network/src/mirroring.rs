//! endpointslice-mirroring-controller: hand-written Endpoints, as EndpointSlices.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use controller_kit::expect::Written;
use controller_kit::meta::{MetaExt, controller_ref};
use controller_kit::{Context, Events, Key, Queue, Requeue, Shared, errors, semantic};
use k8s_openapi::api::core::v1::{EndpointAddress, EndpointSubset, Endpoints, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::api::{DeleteParams, PostParams};

use crate::service::by_label;

const SERVICE: &str = "kubernetes.io/service-name";
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
const TRIGGER: &str = "endpoints.kubernetes.io/last-change-trigger-time";
/// At most so many addresses of a subset are mirrored.
const MOST: usize = 1000;

struct Controller {
    ctx: Context,
    events: Events,
    endpoints: Arc<Shared<Endpoints>>,
    services: Arc<Shared<Service>>,
    slices: Arc<Shared<EndpointSlice>>,
    written: Written,
}

/// Runs until shutdown.
pub async fn run(ctx: Context) -> anyhow::Result<()> {
    let queue = Queue::new();
    let c = Controller {
        events: ctx.events("endpoint-slice-mirroring-controller"),
        endpoints: ctx.informer(),
        services: ctx.informer(),
        slices: ctx.informer(),
        written: Written::default(),
        ctx,
    };
    c.slices.index("service", |slice: &EndpointSlice| Some(by_label(slice)?.to_string()));
    c.endpoints.synced().await;
    c.services.synced().await;
    c.slices.synced().await;
    let q = queue.clone();
    c.endpoints.watch(move |change| q.add(change.object().key()));
    let q = queue.clone();
    c.services.watch(move |change| {
        let selects = |s: &Service| s.spec.as_ref().is_some_and(|s| s.selector.is_some());
        if change.old().is_none_or(|old| selects(old) != selects(change.object())) {
            q.add(change.object().key());
        }
    });
    let q = queue.clone();
    c.slices.watch(move |change| {
        if change.object().label(MANAGED_BY) == Some(MANAGER)
            && let Some(key) = by_label(&**change.object())
        {
            q.add(key);
        }
    });
    let workers = c.ctx.workers("endpointslicemirroring", "mirroring", 5);
    let c = &c;
    workers.run(queue, |key| async move { c.reconcile(&key).await }).await;
    Ok(())
}

fn mirrored(endpoints: &Endpoints) -> bool {
    endpoints.label(SKIP) != Some("true") && endpoints.annotation(LEADER).is_none()
}

/// What makes slices of one family and one set of ports.
#[derive(Debug, PartialEq)]
struct Piece {
    family: &'static str,
    ports: Vec<EndpointPort>,
    endpoints: Vec<Endpoint>,
}

fn pieces(endpoints: &Endpoints) -> (Vec<Piece>, usize) {
    let mut found: BTreeMap<(String, &'static str), Piece> = BTreeMap::new();
    let mut skipped = 0;
    for subset in endpoints.subsets.iter().flatten() {
        let ports = ports(subset);
        let key = serde_json::to_string(&ports).unwrap_or_default();
        let ready = subset.addresses.iter().flatten().map(|a| (a, true));
        let all = ready.chain(subset.not_ready_addresses.iter().flatten().map(|a| (a, false)));
        for (count, (address, ready)) in all.enumerate() {
            let family = match address.ip.parse::<IpAddr>() {
                Ok(IpAddr::V4(_)) => "IPv4",
                Ok(IpAddr::V6(_)) => "IPv6",
                Err(_) => {
                    skipped += 1;
                    continue;
                }
            };
            if count >= MOST {
                skipped += 1;
                continue;
            }
            let piece = found.entry((key.clone(), family)).or_insert_with(|| Piece {
                family,
                ports: ports.clone(),
                endpoints: Vec::new(),
            });
            piece.endpoints.push(endpoint(address, ready));
        }
    }
    (found.into_values().collect(), skipped)
}

fn ports(subset: &EndpointSubset) -> Vec<EndpointPort> {
    let convert = |p: &k8s_openapi::api::core::v1::EndpointPort| EndpointPort {
        name: Some(p.name.clone().unwrap_or_default()),
        port: Some(p.port),
        protocol: Some(p.protocol.clone().unwrap_or_else(|| "TCP".into())),
        app_protocol: p.app_protocol.clone(),
    };
    subset.ports.iter().flatten().map(convert).collect()
}

fn endpoint(address: &EndpointAddress, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![address.ip.clone()],
        conditions: Some(EndpointConditions { ready: Some(ready), serving: None, terminating: None }),
        hostname: address.hostname.clone(),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    }
}

impl Controller {
    async fn reconcile(&self, key: &Key) -> anyhow::Result<Requeue> {
        if !self.written.seen(key, self.slices.newest()) {
            return Ok(Some(std::time::Duration::from_secs(30)));
        }
        let all = self.slices.by("service", &key.to_string());
        let own: Vec<_> = all.into_iter().filter(|s| s.label(MANAGED_BY) == Some(MANAGER)).collect();
        let service =
            self.services.get(key).filter(|s| s.spec.as_ref().is_some_and(|s| s.selector.is_none()));
        let endpoints = self.endpoints.get(key).filter(|e| mirrored(e));
        let api: Api<EndpointSlice> = Api::namespaced(self.ctx.client.clone(), &key.namespace);
        let (Some(_), Some(endpoints)) = (service, endpoints) else {
            for slice in own {
                errors::optional(api.delete(slice.name(), &DeleteParams::default()).await)?;
            }
            return Ok(None);
        };
        let (pieces, skipped) = pieces(&endpoints);
        if skipped > 0 {
            let text =
                format!("Skipped {skipped} invalid or surplus endpoints when mirroring to EndpointSlices");
            self.events.warning(&*endpoints, "InvalidAddress", text);
        }
        let mut left = own;
        for piece in pieces.iter().filter(|p| !p.endpoints.is_empty()) {
            let reuse = left
                .iter()
                .position(|s| s.address_type == piece.family && s.ports.as_deref() == Some(&piece.ports));
            let reuse = reuse.or_else(|| left.iter().position(|s| s.address_type == piece.family));
            let old = reuse.map(|at| left.remove(at));
            self.apply(&api, key, &endpoints, piece, old).await?;
        }
        for slice in left {
            errors::optional(api.delete(slice.name(), &DeleteParams::default()).await)?;
        }
        Ok(None)
    }

    async fn apply(
        &self,
        api: &Api<EndpointSlice>,
        key: &Key,
        endpoints: &Endpoints,
        piece: &Piece,
        old: Option<Arc<EndpointSlice>>,
    ) -> anyhow::Result<()> {
        let mut next = old.as_deref().cloned().unwrap_or_else(|| EndpointSlice {
            metadata: ObjectMeta {
                generate_name: Some(controller_kit::template::prefix(&key.name)),
                namespace: Some(key.namespace.clone()),
                owner_references: Some(vec![controller_ref(endpoints)]),
                ..ObjectMeta::default()
            },
            address_type: piece.family.to_owned(),
            ..EndpointSlice::default()
        });
        let mut labels = endpoints.metadata.labels.clone().unwrap_or_default();
        labels.insert(SERVICE.into(), key.name.clone());
        labels.insert(MANAGED_BY.into(), MANAGER.into());
        next.metadata.labels = Some(labels);
        let mut annotations = endpoints.metadata.annotations.clone().unwrap_or_default();
        annotations.retain(|name, _| name != LAST_APPLIED && name != TRIGGER);
        next.metadata.annotations = Some(annotations);
        next.ports = Some(piece.ports.clone());
        next.endpoints = Some(piece.endpoints.clone());
        let made = match &old {
            None => api.create(&PostParams::default(), &next).await?,
            Some(old) if semantic::same(&**old, &next) => return Ok(()),
            Some(old) => api.replace(old.name(), &PostParams::default(), &next).await?,
        };
        self.written.note(key, made.rv());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn subsets_become_slices_by_ports_and_family() {
        let e: Endpoints = serde_json::from_value(json!({"metadata": {"name": "e"}, "subsets": [
            {"addresses": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}, {"ip": "junk"}], "notReadyAddresses": [{"ip": "10.0.0.2"}], "ports": [{"port": 80}]},
            {"addresses": [{"ip": "10.0.0.3"}], "ports": [{"port": 81}]}]}))
        .unwrap();
        let (pieces, skipped) = pieces(&e);
        let shape: Vec<_> = pieces.iter().map(|p| (p.family, p.endpoints.len(), p.ports[0].port)).collect();
        assert_eq!(shape, [("IPv4", 2, Some(80)), ("IPv6", 1, Some(80)), ("IPv4", 1, Some(81))]);
        assert_eq!(skipped, 1);
        assert!(mirrored(&e));
    }
}
