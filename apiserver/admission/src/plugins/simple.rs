//! Plugins of a few lines each.

use super::storage::newest_default;
use crate::attributes::{Attributes, Operation};
use crate::chain::{Deps, Plugin};
use crate::objects::{
    ALL_CONTAINERS, annotation, at, containers_mut, items, labels, name, object_at, strings, text, with_cause,
};
use crate::resources::of_pod;
use api::field::{self, Path};
use api::quantity::Quantity;
use api::registry::Registry;
use api::status::{Result, Status};
use api::{Value, json};
use std::sync::Arc;

/// AlwaysAdmit.
pub struct AlwaysAdmit;

#[async_trait::async_trait]
impl Plugin for AlwaysAdmit {
    fn name(&self) -> &'static str {
        "AlwaysAdmit"
    }
    fn handles(&self, _operation: Operation) -> bool {
        false
    }
}

/// AlwaysDeny.
pub struct AlwaysDeny;

#[async_trait::async_trait]
impl Plugin for AlwaysDeny {
    fn name(&self) -> &'static str {
        "AlwaysDeny"
    }
    fn handles(&self, _operation: Operation) -> bool {
        true
    }
    async fn admit(&self, a: &mut Attributes) -> Result<()> {
        Err(a.forbidden("admission control is denying all modifications"))
    }
    async fn validate(&self, a: &mut Attributes) -> Result<()> {
        Err(a.forbidden("admission control is denying all modifications"))
    }
}

/// AlwaysPullImages: nobody uses an image that is on a node without the right to pull it.
pub struct AlwaysPullImages;

fn images(pod: &Value) -> impl Iterator<Item = &str> {
    ALL_CONTAINERS.into_iter().flat_map(|f| items(pod, &["spec", f])).map(|c| text(c, &["image"]))
}

fn brings_images(a: &Attributes) -> bool {
    if !a.is_main("", "pods") {
        return false;
    }
    match (&a.object, a.old_object.as_deref()) {
        (Some(new), Some(old)) if a.operation == Operation::Update => {
            images(new).any(|i| !images(old).any(|o| o == i))
        }
        (new, _) => new.is_some(),
    }
}

#[async_trait::async_trait]
impl Plugin for AlwaysPullImages {
    fn name(&self) -> &'static str {
        "AlwaysPullImages"
    }
    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }
    async fn admit(&self, a: &mut Attributes) -> Result<()> {
        if !brings_images(a) {
            return Ok(());
        }
        let Some(pod) = a.object.as_mut() else { return Ok(()) };
        containers_mut(pod, &ALL_CONTAINERS, |c| c["imagePullPolicy"] = "Always".into());
        for volume in pod["spec"].get_mut("volumes").and_then(Value::as_array_mut).into_iter().flatten() {
            if volume.get("image").is_some_and(Value::is_object) {
                volume["image"]["pullPolicy"] = "Always".into();
            }
        }
        Ok(())
    }
    async fn validate(&self, a: &mut Attributes) -> Result<()> {
        let Some(pod) = a.object.as_ref().filter(|_| brings_images(a)) else { return Ok(()) };
        let spec = Path::new("spec");
        for list in ALL_CONTAINERS {
            for (i, container) in items(pod, &["spec", list]).iter().enumerate() {
                let policy = text(container, &["imagePullPolicy"]);
                if policy != "Always" {
                    let path = spec.child(list).index(i).child("imagePullPolicy");
                    return Err(a.forbidden(field::Error::not_supported(&path, policy, &["Always"])));
                }
            }
        }
        Ok(())
    }
}

/// DenyServiceExternalIPs: no new use of a field that lets anyone take over addresses.
pub struct DenyExternalIps;

#[async_trait::async_trait]
impl Plugin for DenyExternalIps {
    fn name(&self) -> &'static str {
        "DenyServiceExternalIPs"
    }
    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }
    async fn validate(&self, a: &mut Attributes) -> Result<()> {
        let Some(service) = a.object.as_ref().filter(|_| a.is_main("", "services")) else { return Ok(()) };
        let of = |s: &Value| strings(s, &["spec", "externalIPs"]);
        let before = a.old_object.as_deref().map(of).unwrap_or_default();
        if of(service).iter().all(|ip| before.contains(ip)) {
            return Ok(());
        }
        Err(a.forbidden("Use of external IPs is denied by admission control"))
    }
}

/// LimitPodHardAntiAffinityTopology.
pub struct AntiAffinity;

const HOSTNAME: &str = "kubernetes.io/hostname";

#[async_trait::async_trait]
impl Plugin for AntiAffinity {
    fn name(&self) -> &'static str {
        "LimitPodHardAntiAffinityTopology"
    }
    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }
    async fn validate(&self, a: &mut Attributes) -> Result<()> {
        let Some(pod) = a.object.as_ref().filter(|_| a.is_main("", "pods")) else { return Ok(()) };
        let path = ["spec", "affinity", "podAntiAffinity", "requiredDuringSchedulingIgnoredDuringExecution"];
        let keys = items(pod, &path).iter().map(|t| text(t, &["topologyKey"]));
        match keys.into_iter().find(|k| *k != HOSTNAME) {
            None => Ok(()),
            Some(key) => Err(Status::forbidden(
                "",
                "pods",
                name(pod),
                format!(
                    "affinity.PodAntiAffinity.RequiredDuringScheduling has TopologyKey {key} but only key {HOSTNAME} is allowed"
                ),
            )),
        }
    }
}

/// DefaultIngressClass.
pub struct DefaultIngressClass {
    registry: Arc<dyn Registry>,
}

impl DefaultIngressClass {
    pub fn new(deps: &Deps) -> Self {
        DefaultIngressClass { registry: deps.registry.clone() }
    }
}

#[async_trait::async_trait]
impl Plugin for DefaultIngressClass {
    fn name(&self) -> &'static str {
        "DefaultIngressClass"
    }
    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Create
    }
    async fn admit(&self, a: &mut Attributes) -> Result<()> {
        const GROUP: &str = "networking.k8s.io";
        if !a.is_main(GROUP, "ingresses") {
            return Ok(());
        }
        let Some(ingress) = a.object.as_mut() else { return Ok(()) };
        let chosen = !at(ingress, &["spec", "ingressClassName"]).is_null()
            || annotation(ingress, "kubernetes.io/ingress.class").is_some();
        if chosen {
            return Ok(());
        }
        let keys = ["ingressclass.kubernetes.io/is-default-class"];
        if let Some(class) = newest_default(&*self.registry, (GROUP, "ingressclasses"), &keys) {
            if !ingress["spec"].is_object() {
                ingress["spec"] = json!({});
            }
            ingress["spec"]["ingressClassName"] = name(&class).into();
        }
        Ok(())
    }
}

/// PodTopologyLabels: a bound pod learns its node's zone and region.
pub struct TopologyLabels {
    registry: Arc<dyn Registry>,
    enabled: bool,
}

impl TopologyLabels {
    pub fn new(deps: &Deps) -> Self {
        TopologyLabels { registry: deps.registry.clone(), enabled: (deps.gate)("PodTopologyLabelsAdmission") }
    }
}

const TOPOLOGY: [&str; 2] = ["topology.kubernetes.io/zone", "topology.kubernetes.io/region"];

#[async_trait::async_trait]
impl Plugin for TopologyLabels {
    fn name(&self) -> &'static str {
        "PodTopologyLabels"
    }
    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Create
    }
    async fn admit(&self, a: &mut Attributes) -> Result<()> {
        if !self.enabled || !a.is("", "pods") {
            return Ok(());
        }
        let Some(object) = a.object.as_mut() else { return Ok(()) };
        let node = match a.subresource.as_str() {
            "" => text(object, &["spec", "nodeName"]),
            "binding" if text(object, &["target", "kind"]) == "Node" => text(object, &["target", "name"]),
            _ => "",
        };
        if node.is_empty() {
            return Ok(());
        }
        let Some(node) = self.registry.get(("", "nodes"), "", node) else { return Ok(()) };
        let mut found = labels(&node);
        found.retain(|k, _| TOPOLOGY.contains(&k.as_str()));
        if !found.is_empty() {
            object_at(&mut object["metadata"], "labels").extend(found);
        }
        Ok(())
    }
}

/// PodResizeValidator: a running pod is not resized beyond what its node has.
pub struct PodResize {
    registry: Arc<dyn Registry>,
}

impl PodResize {
    pub fn new(deps: &Deps) -> Self {
        PodResize { registry: deps.registry.clone() }
    }
}

#[async_trait::async_trait]
impl Plugin for PodResize {
    fn name(&self) -> &'static str {
        "PodResizeValidator"
    }
    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Update
    }
    async fn validate(&self, a: &mut Attributes) -> Result<()> {
        if !a.is("", "pods") || a.subresource != "resize" {
            return Ok(());
        }
        let (Some(pod), Some(old)) = (&a.object, a.old_object.as_deref()) else { return Ok(()) };
        let node_name = text(pod, &["spec", "nodeName"]);
        if node_name.is_empty() || at(old, &["spec"]) == at(pod, &["spec"]) {
            return Ok(());
        }
        let Some(node) = self.registry.get(("", "nodes"), "", node_name) else {
            return Err(a.forbidden(format!("node {node_name:?} not found")));
        };
        let os = text(&node, &["metadata", "labels", "kubernetes.io/os"]);
        if !matches!(os, "" | "linux") {
            let why = format!("pod resize is only supported on linux nodes, node {node_name:?} is {os:?}");
            return Err(with_cause(a.forbidden(why), "UnsupportedPlatform", "", ""));
        }
        match exceeded(pod, &node) {
            Some(why) => Err(with_cause(a.forbidden(why), "NodeCapacity", "", "")),
            None => Ok(()),
        }
    }
}

fn exceeded(pod: &Value, node: &Value) -> Option<String> {
    let wanted = of_pod(pod, "requests", true);
    let allocatable = |r: &str| Quantity::of(Some(at(node, &["status", "allocatable", r])));
    let asked = |r: &str| wanted.get(r).copied().unwrap_or(Quantity::ZERO);
    let mut out = Vec::new();
    let (cpu, have) = (asked("cpu"), allocatable("cpu"));
    if cpu > have {
        out.push(format!("cpu, requested: {}, allocatable: {}", cpu.milli_value(), have.milli_value()));
    }
    let (memory, have) = (asked("memory"), allocatable("memory"));
    if memory > have {
        out.push(format!("memory, requested: {}, allocatable: {}", memory.value(), have.value()));
    }
    (!out.is_empty()).then(|| format!("node didn't have enough allocatable resources: {}", out.join("; ")))
}
