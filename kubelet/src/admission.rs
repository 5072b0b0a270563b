//! Whether a pod may run here. The scheduler has looked at this before, but static pods and races pass it by.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};

use crate::kubelet::Kubelet;
use crate::pod::{self, PodExt};
use crate::security;
use crate::status::Verdict;

mod preemption;

/// What the admission of a pod needs.
#[derive(Debug, Default)]
pub struct Admitted {
    /// Pods that have to end first, because this one is critical and the node is full.
    pub victims: Vec<Arc<Pod>>,
    /// The resource for want of which they have to.
    pub short: Option<String>,
}

/// Ok, or the verdict with which the pod ends.
pub fn check(kubelet: &Kubelet, pod: &Pod) -> Result<Admitted, Verdict> {
    crate::eviction::admits(kubelet, pod)?;
    kubelet.shutdown.admit()?;
    let node = kubelet.node.load_full();
    if let Some(message) = security::forbidden_sysctl(pod, &kubelet.config.allowed_unsafe_sysctls) {
        return Err(verdict("SysctlForbidden", message));
    }
    operating_system(pod)?;
    supplemental_groups(kubelet, pod)?;
    apparmor(pod)?;
    declared_features(kubelet, pod)?;
    let mut short = shortages(kubelet, pod);
    let others = placement(kubelet, pod, node.as_deref());
    if pod.is_critical() {
        // A critical pod does not fail for want of resources: others make room.
        if let Some(first) = others.into_iter().next() {
            return Err(first);
        }
        let victims = preemption::victims(pod, &kubelet.pods.active(), &short);
        let lacking = short.first().map(|s| s.resource.clone());
        return victims.map(|victims| Admitted { victims, short: lacking }).map_err(|error| {
            let message =
                format!("Unexpected error while attempting to recover from admission failure: {error}");
            verdict("UnexpectedAdmissionError", message)
        });
    }
    if !short.is_empty() {
        return Err(short.remove(0).verdict());
    }
    match others.into_iter().next() {
        Some(first) => Err(first),
        None => Ok(Admitted::default()),
    }
}

/// Whether the node has room for what a pod asks.
pub fn fits(kubelet: &Kubelet, pod: &Pod) -> Result<(), Verdict> {
    match shortages(kubelet, pod).into_iter().next() {
        Some(shortage) => Err(shortage.verdict()),
        None => Ok(()),
    }
}

fn verdict(reason: &str, message: String) -> Verdict {
    Verdict { reason: reason.into(), message }
}

fn operating_system(pod: &Pod) -> Result<(), Verdict> {
    let label = pod.metadata.labels.as_ref().and_then(|l| l.get("kubernetes.io/os"));
    if label.is_some_and(|os| os != "linux") {
        let message = "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label";
        return Err(verdict("PodOSSelectorNodeLabelDoesNotMatch", message.into()));
    }
    if pod.spec().os.as_ref().is_some_and(|os| os.name != "linux") {
        let message = "Failed to admit pod as the OS field doesn't match node OS";
        return Err(verdict("PodOSNotSupported", message.into()));
    }
    Ok(())
}

fn supplemental_groups(kubelet: &Kubelet, pod: &Pod) -> Result<(), Verdict> {
    let context = pod.spec().security_context.as_ref();
    let policy = context.and_then(|c| c.supplemental_groups_policy.as_deref());
    if policy == Some("Strict") && kubelet.runtime_info.load().supplemental_groups_policy != Some(true) {
        let message = "SupplementalGroupsPolicy=Strict is not supported in this node";
        return Err(verdict("SupplementalGroupsPolicyNotSupported", message.into()));
    }
    Ok(())
}

/// A pod that needs what this kubelet has declared not to have does not run here.
fn declared_features(kubelet: &Kubelet, pod: &Pod) -> Result<(), Verdict> {
    let missing = crate::node::declared::missing(&kubelet.gates, &kubelet.runtime_info.load(), pod);
    if missing.is_empty() {
        return Ok(());
    }
    let message = format!("Pod requires node features that are not available: {}", missing.join(", "));
    Err(verdict("PodFeatureUnsupported", message))
}

/// A pod that asks for AppArmor does not run where there is none.
fn apparmor(pod: &Pod) -> Result<(), Verdict> {
    if pod.phase() == "Running" || !security::wants_apparmor(pod) || security::has_apparmor() {
        return Ok(());
    }
    let message = "Cannot enforce AppArmor: AppArmor is not enabled on the host";
    Err(verdict("AppArmor", message.into()))
}

/// Whether the labels of the node, as far as they are known, speak against the pod.
pub fn misplaced(kubelet: &Kubelet, pod: &Pod) -> bool {
    kubelet.node.load().as_deref().is_some_and(|node| !kinds::placement::node_allowed(pod.spec(), node))
}

/// Everything but resources that speaks against the pod, the weightiest first.
fn placement(kubelet: &Kubelet, pod: &Pod, node: Option<&Node>) -> Vec<Verdict> {
    let mut found = Vec::new();
    let mut fails = |name: &str, why: &str| {
        found.push(verdict(name, format!("Predicate {name} failed: {why}")));
    };
    if let Some(node) = node
        && !kinds::placement::node_allowed(pod.spec(), node)
    {
        fails("NodeAffinity", "node(s) didn't match Pod's node affinity/selector");
    }
    if pod.spec().node_name.as_ref().is_some_and(|name| *name != kubelet.node_name) {
        fails("NodeName", "node(s) didn't match the requested node name");
    }
    if port_taken(kubelet, pod) {
        fails("NodePorts", "node(s) didn't have free ports for the requested pod ports");
    }
    if let Some(node) = node.filter(|_| !pod.is_static()) {
        let taints = node.spec.as_ref().and_then(|s| s.taints.as_deref()).unwrap_or_default();
        let tolerations = pod.spec().tolerations.as_deref().unwrap_or_default();
        let mut severe = taints.iter().filter(|t| t.effect == "NoExecute");
        if severe.any(|taint| !tolerations.iter().any(|t| kinds::placement::tolerates(t, taint))) {
            fails("TaintToleration", "node(s) had taints that the pod didn't tolerate");
        }
    }
    found
}

fn port_taken(kubelet: &Kubelet, pod: &Pod) -> bool {
    let wanted = host_ports(pod);
    if wanted.is_empty() {
        return false;
    }
    let active = kubelet.pods.active();
    let taken: HashSet<_> =
        active.iter().filter(|p| p.uid() != pod.uid()).flat_map(|p| host_ports(p)).collect();
    wanted.into_iter().any(|(protocol, ip, port)| {
        taken.iter().any(|other| {
            other.0 == protocol
                && other.2 == port
                && (other.1 == ip || other.1 == "0.0.0.0" || ip == "0.0.0.0")
        })
    })
}

fn host_ports(pod: &Pod) -> Vec<(String, String, i32)> {
    let sidecars = pod.init_containers().iter().filter(|c| pod::is_sidecar(c));
    let ports = pod.spec().containers.iter().chain(sidecars).flat_map(|c| c.ports.iter().flatten());
    ports
        .filter_map(|p| {
            let port = p.host_port.filter(|port| *port > 0)?;
            let ip = p.host_ip.clone().filter(|ip| !ip.is_empty()).unwrap_or_else(|| "0.0.0.0".into());
            Some((p.protocol.clone().unwrap_or_else(|| "TCP".into()), ip, port))
        })
        .collect()
}

/// A resource of which the node has too little left.
#[derive(Debug, Clone, PartialEq)]
pub struct Shortage {
    resource: String,
    requested: i64,
    used: i64,
    capacity: i64,
}

impl Shortage {
    fn verdict(&self) -> Verdict {
        let Self { resource, requested, used, capacity } = self;
        verdict(
            &format!("OutOf{resource}"),
            format!(
                "Node didn't have enough resource: {resource}, requested: {requested}, used: {used}, capacity: {capacity}"
            ),
        )
    }

    /// How much has to be freed.
    fn missing(&self) -> i64 {
        self.requested - (self.capacity - self.used)
    }
}

/// The resources that do not do for the pod beside the others, as they were granted.
fn shortages(kubelet: &Kubelet, pod: &Pod) -> Vec<Shortage> {
    let active = kubelet.pods.active();
    let others: Vec<_> = active.iter().filter(|p| p.uid() != pod.uid()).collect();
    let capacity = capacity(kubelet);
    let count = i64::try_from(others.len()).unwrap_or(i64::MAX);
    let mut found = Vec::new();
    if count + 1 > capacity["pods"] {
        let used = count;
        found.push(Shortage { resource: "pods".into(), requested: 1, used, capacity: capacity["pods"] });
    }
    let first = ["cpu", "memory", "ephemeral-storage"];
    let further = requested_names(pod).into_iter().filter(|name| !first.contains(&name.as_str()));
    for resource in first.iter().map(|n| n.to_string()).chain(further) {
        // What the node does not offer at all is nobody's business here.
        let Some(&capacity) = capacity.get(&resource) else { continue };
        let divisor = if resource == "cpu" { 1 } else { 1000 };
        let requested = pod::request_milli(pod, &resource) / divisor;
        let used: i64 = others.iter().map(|p| pod::request_milli(p, &resource) / divisor).sum();
        if requested > 0 && requested > capacity - used {
            found.push(Shortage { resource, requested, used, capacity });
        }
    }
    found
}

fn requested_names(pod: &Pod) -> BTreeSet<String> {
    let containers = pod.spec().containers.iter().chain(pod.init_containers());
    let lists = containers.filter_map(|c| c.resources.as_ref()?.requests.as_ref());
    lists.flat_map(|list| list.keys().cloned()).collect()
}

/// What the node offers: as its object says, or as the machine has it while there is none.
fn capacity(kubelet: &Kubelet) -> BTreeMap<String, i64> {
    use volumes::quantity::milli;
    let own = kubelet.machine.allocatable(&kubelet.config);
    let mut out = BTreeMap::from([
        ("cpu".to_string(), own.milli_cpu),
        ("memory".to_string(), own.memory),
        ("ephemeral-storage".to_string(), own.storage),
        ("pods".to_string(), own.pods),
    ]);
    let node = kubelet.node.load_full();
    let told = node.as_ref().and_then(|n| n.status.as_ref()?.allocatable.as_ref());
    for (name, quantity) in told.into_iter().flatten() {
        let divisor = if name == "cpu" { 1 } else { 1000 };
        if let Some(value) = milli(&quantity.0).and_then(|m| i64::try_from(m / divisor).ok()) {
            out.insert(name.clone(), value);
        }
    }
    out
}
