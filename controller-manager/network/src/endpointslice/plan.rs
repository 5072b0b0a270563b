//! Which slices a Service shall have, with as few writes as possible. Pure functions.

use std::collections::BTreeMap;
use std::sync::Arc;

use controller_kit::meta::MetaExt;
use controller_kit::{pod, semantic};
use k8s_openapi::api::core::v1::{Node, ObjectReference, Pod, Service};
use k8s_openapi::api::discovery::v1::{
    Endpoint, EndpointConditions, EndpointHints, EndpointPort, EndpointSlice, ForNode, ForZone,
};

use crate::service::{address, headless, hostname, serves, target_port};

/// The slices to create, change and delete.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub create: Vec<(&'static str, Vec<EndpointPort>, Vec<Endpoint>)>,
    pub update: Vec<EndpointSlice>,
    pub delete: Vec<Arc<EndpointSlice>>,
}

/// Endpoints that share their ports share slices.
pub(super) struct Group {
    pub ports: Vec<EndpointPort>,
    pub endpoints: Vec<Endpoint>,
}

/// The endpoints of one family, grouped by ports.
pub(super) fn groups(
    service: &Service,
    pods: &[Arc<Pod>],
    family: &str,
    zone_of: impl Fn(&str) -> Option<String>,
) -> Vec<Group> {
    let mut groups: BTreeMap<String, Group> = BTreeMap::new();
    for pod in pods.iter().filter(|p| serves(p)) {
        let Some(ip) = address(pod, family) else { continue };
        let ports = ports(service, pod);
        if ports.is_empty() && !headless(service) {
            continue;
        }
        let key = serde_json::to_string(&ports).unwrap_or_default();
        let group = groups.entry(key).or_insert_with(|| Group { ports, endpoints: Vec::new() });
        group.endpoints.push(endpoint(service, pod, ip, &zone_of));
    }
    groups.into_values().collect()
}

fn ports(service: &Service, pod: &Pod) -> Vec<EndpointPort> {
    let ports = service.spec.iter().flat_map(|s| s.ports.iter().flatten());
    ports
        .filter_map(|p| {
            Some(EndpointPort {
                name: Some(p.name.clone().unwrap_or_default()),
                port: Some(target_port(pod, p)?),
                protocol: Some(p.protocol.clone().unwrap_or_else(|| "TCP".into())),
                app_protocol: p.app_protocol.clone(),
            })
        })
        .collect()
}

fn endpoint(service: &Service, pod: &Pod, ip: String, zone_of: &impl Fn(&str) -> Option<String>) -> Endpoint {
    let publish_all = service.spec.as_ref().and_then(|s| s.publish_not_ready_addresses) == Some(true);
    let (serving, terminating) = (pod::ready(pod), pod.deleting());
    let ready = publish_all || (serving && !terminating);
    let node = pod::node(pod);
    let zone = zone_of(node);
    Endpoint {
        addresses: vec![ip],
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hints: hints(service, ready, zone.as_deref(), node),
        hostname: hostname(pod, service),
        node_name: (!node.is_empty()).then(|| node.to_owned()),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".into()),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            ..ObjectReference::default()
        }),
        zone,
        deprecated_topology: None,
    }
}

fn hints(service: &Service, ready: bool, zone: Option<&str>, node: &str) -> Option<EndpointHints> {
    let wish = service.spec.as_ref()?.traffic_distribution.as_deref()?;
    if !ready {
        return None;
    }
    let for_zones = zone.map(|z| vec![ForZone { name: z.to_owned() }]);
    match wish {
        "PreferClose" | "PreferSameZone" => {
            for_zones.map(|z| EndpointHints { for_zones: Some(z), for_nodes: None })
        }
        "PreferSameNode" if !node.is_empty() => {
            Some(EndpointHints { for_zones, for_nodes: Some(vec![ForNode { name: node.to_owned() }]) })
        }
        _ => None,
    }
}

/// The zone of a node, from its label.
pub(super) fn zone(node: &Node) -> Option<String> {
    node.label("topology.kubernetes.io/zone").map(str::to_owned)
}

/// A slice that is to go takes the place of one that is to come: one write instead of two, and readers never
/// see neither.
pub(super) fn recycle(plan: &mut Plan) {
    let mut create = Vec::new();
    for (family, ports, endpoints) in std::mem::take(&mut plan.create) {
        match plan.delete.iter().position(|s| s.address_type == family) {
            None => create.push((family, ports, endpoints)),
            Some(at) => {
                let old = plan.delete.remove(at);
                plan.update.push(EndpointSlice {
                    ports: Some(ports),
                    endpoints: Some(endpoints),
                    ..(*old).clone()
                });
            }
        }
    }
    plan.create = create;
}

/// What makes an endpoint the same through changes of its state.
fn same_endpoint(a: &Endpoint, b: &Endpoint) -> bool {
    let uid = |e: &Endpoint| e.target_ref.as_ref().and_then(|t| t.uid.clone());
    a.addresses == b.addresses && uid(a) == uid(b)
}

/// Brings one family's slices from what they are to what they shall be.
pub(super) fn family(
    plan: &mut Plan,
    family: &'static str,
    groups: Vec<Group>,
    slices: Vec<Arc<EndpointSlice>>,
    max: usize,
) {
    let mut left = slices;
    let any = !groups.is_empty();
    for group in groups {
        let (own, others): (Vec<_>, Vec<_>) = left.into_iter().partition(|s| {
            let ports = s.ports.clone().unwrap_or_default();
            ports_equal(&ports, &group.ports)
        });
        left = others;
        fill(plan, family, group, own, max);
    }
    if any {
        plan.delete.extend(left);
        return;
    }
    // A Service without endpoints keeps one empty slice, so that readers know it was looked after.
    let placeholder =
        |s: &Arc<EndpointSlice>| list(s).is_empty() && s.ports.as_ref().is_none_or(Vec::is_empty);
    let keep = left.iter().position(placeholder);
    match keep {
        Some(at) => {
            let slice = left.remove(at);
            plan.update.push((*slice).clone());
        }
        None => plan.create.push((family, Vec::new(), Vec::new())),
    }
    plan.delete.extend(left);
}

fn ports_equal(a: &[EndpointPort], b: &[EndpointPort]) -> bool {
    let key = |p: &EndpointPort| {
        (p.name.clone().unwrap_or_default(), p.port, p.protocol.clone(), p.app_protocol.clone())
    };
    let sorted = |ports: &[EndpointPort]| {
        let mut keys: Vec<_> = ports.iter().map(key).collect();
        keys.sort();
        keys
    };
    sorted(a) == sorted(b)
}

/// The endpoints of a slice.
pub(super) fn list(slice: &EndpointSlice) -> &[Endpoint] {
    slice.endpoints.as_deref().unwrap_or_default()
}

/// A slice that is being worked out, and its endpoints.
struct Draft {
    slice: EndpointSlice,
    endpoints: Vec<Endpoint>,
}

impl Draft {
    fn done(self) -> EndpointSlice {
        EndpointSlice { endpoints: Some(self.endpoints), ..self.slice }
    }
}

fn fill(plan: &mut Plan, family: &'static str, group: Group, own: Vec<Arc<EndpointSlice>>, max: usize) {
    let mut wanted = group.endpoints;
    let (mut changed, mut unchanged): (Vec<Draft>, Vec<Draft>) = (Vec::new(), Vec::new());
    for slice in &own {
        let mut kept = Vec::new();
        for old in list(slice) {
            if let Some(at) = wanted.iter().position(|w| same_endpoint(w, old))
                && kept.len() < max
            {
                kept.push(wanted.swap_remove(at));
            }
        }
        let same = same_list(&kept, list(slice));
        let draft = Draft { slice: (**slice).clone(), endpoints: kept };
        if draft.endpoints.is_empty() {
            plan.delete.push(slice.clone());
        } else if same {
            unchanged.push(draft);
        } else {
            changed.push(draft);
        }
    }
    wanted.sort_by(|a, b| a.addresses.cmp(&b.addresses));
    let mut rest = wanted.into_iter().peekable();
    for draft in &mut changed {
        while draft.endpoints.len() < max {
            let Some(endpoint) = rest.next() else { break };
            draft.endpoints.push(endpoint);
        }
    }
    // One unchanged slice that can take all that is left spares a new one.
    let remaining = rest.len();
    if remaining > 0 {
        let fits = |d: &Draft| d.endpoints.len() + remaining <= max;
        let best = (0..unchanged.len())
            .filter(|i| fits(&unchanged[*i]))
            .max_by_key(|i| unchanged[*i].endpoints.len());
        if let Some(at) = best {
            let mut draft = unchanged.swap_remove(at);
            draft.endpoints.extend(rest.by_ref());
            changed.push(draft);
        }
    }
    while rest.peek().is_some() {
        plan.create.push((family, group.ports.clone(), rest.by_ref().take(max).collect()));
    }
    plan.update.extend(changed.into_iter().chain(unchanged).map(Draft::done));
}

fn same_list(a: &[Endpoint], b: &[Endpoint]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(x, y)| semantic_endpoint(x, y))
}

/// Conditions are three-valued, everything else is equal when it is stored alike.
fn semantic_endpoint(a: &Endpoint, b: &Endpoint) -> bool {
    a.conditions == b.conditions && semantic::same(a, b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn service(extra: serde_json::Value) -> Service {
        let mut s = json!({"metadata": {"name": "s", "namespace": "n"},
            "spec": {"selector": {"a": "b"}, "clusterIP": "10.0.0.1", "ports": [{"port": 80, "targetPort": 8080}]}});
        s["spec"].as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        serde_json::from_value(s).unwrap()
    }

    fn pod(i: usize, ready: &str) -> Arc<Pod> {
        Arc::new(serde_json::from_value(json!({"metadata": {"name": format!("p{i}"), "namespace": "n", "uid": format!("u{i}")},
            "spec": {"nodeName": "n1", "containers": []},
            "status": {"phase": "Running", "podIP": format!("10.1.{}.{}", i / 250, i % 250), "conditions": [{"type": "Ready", "status": ready}]}})).unwrap())
    }

    fn existing(plan: &Plan) -> Vec<Arc<EndpointSlice>> {
        let slices = plan.create.iter().enumerate().map(|(i, (family, ports, endpoints))| EndpointSlice {
            metadata: k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
                name: Some(format!("s-{i}")),
                ..Default::default()
            },
            address_type: (*family).into(),
            endpoints: Some(endpoints.clone()),
            ports: Some(ports.clone()),
        });
        slices.map(Arc::new).collect()
    }

    fn plan(s: &Service, pods: &[Arc<Pod>], slices: Vec<Arc<EndpointSlice>>) -> Plan {
        let mut plan = Plan::default();
        family(&mut plan, "IPv4", groups(s, pods, "IPv4", |_| Some("z".into())), slices, 100);
        recycle(&mut plan);
        plan
    }

    #[test]
    fn endpoints_say_ready_serving_terminating() {
        let s = service(json!({"trafficDistribution": "PreferClose"}));
        let made = plan(&s, &[pod(1, "True"), pod(2, "False")], vec![]);
        let endpoints = &made.create[0].2;
        assert_eq!(
            endpoints[0].conditions.as_ref().map(|c| (c.ready, c.serving, c.terminating)),
            Some((Some(true), Some(true), Some(false)))
        );
        assert_eq!(endpoints[1].conditions.as_ref().map(|c| c.ready), Some(Some(false)));
        assert!(endpoints[0].hints.is_some() && endpoints[1].hints.is_none());
        let all = service(json!({"publishNotReadyAddresses": true}));
        assert_eq!(
            plan(&all, &[pod(2, "False")], vec![]).create[0].2[0].conditions.as_ref().and_then(|c| c.ready),
            Some(true)
        );
    }

    #[test]
    fn slices_hold_a_hundred_and_are_reused() {
        let s = service(json!({}));
        let pods: Vec<_> = (0..150).map(|i| pod(i, "True")).collect();
        let first = plan(&s, &pods, vec![]);
        assert_eq!(first.create.iter().map(|c| c.2.len()).collect::<Vec<_>>(), [100, 50]);
        let slices = existing(&first);
        let more: Vec<_> = (0..160).map(|i| pod(i, "True")).collect();
        let second = plan(&s, &more, slices.clone());
        assert!(second.create.is_empty() && second.delete.is_empty());
        assert_eq!(second.update.iter().map(|u| list(u).len()).sum::<usize>(), 160);
        let gone = plan(&s, &[], slices);
        assert_eq!((gone.create.len(), gone.update.len(), gone.delete.len()), (0, 1, 1));
        assert!(list(&gone.update[0]).is_empty());
    }
}
