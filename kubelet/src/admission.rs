//! Whether a pod may run here. The scheduler has looked at this before, but static pods and races pass it by.

use std::collections::HashSet;

use k8s_openapi::api::core::v1::Pod;

use crate::kubelet::Kubelet;
use crate::pod::{self, PodExt};
use crate::security;
use crate::status::Verdict;

/// Ok, or the verdict with which the pod ends.
pub fn check(kubelet: &Kubelet, pod: &Pod) -> Result<(), Verdict> {
    let verdict = |reason: &str, message: String| Verdict { reason: reason.into(), message };
    if let Some(os) = pod.spec().os.as_ref().filter(|os| os.name != "linux") {
        let message = format!("Failed to admit pod as the OS field doesn't match node OS: {}", os.name);
        return Err(verdict("PodOSNotSupported", message));
    }
    if let Some(message) = security::forbidden_sysctl(pod, &kubelet.config.allowed_unsafe_sysctls) {
        return Err(verdict("SysctlForbidden", message));
    }
    if let Some(node) = kubelet.node.load_full()
        && !pod.is_static()
    {
        if !kinds::placement::node_allowed(pod.spec(), &node) {
            let message = "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector";
            return Err(verdict("NodeAffinity", message.into()));
        }
        let taints = node.spec.as_ref().and_then(|s| s.taints.as_deref()).unwrap_or_default();
        let tolerations = pod.spec().tolerations.as_deref().unwrap_or_default();
        let untolerated = taints
            .iter()
            .filter(|t| t.effect == "NoExecute")
            .find(|taint| !tolerations.iter().any(|t| kinds::placement::tolerates(t, taint)));
        if untolerated.is_some() {
            let message = "Predicate TaintToleration failed: node(s) had taints that the pod didn't tolerate";
            return Err(verdict("TaintToleration", message.into()));
        }
    }
    resources(kubelet, pod)?;
    let active = kubelet.pods.active();
    let taken: HashSet<_> =
        active.iter().filter(|p| p.uid() != pod.uid()).flat_map(|p| host_ports(p)).collect();
    let clash = host_ports(pod).into_iter().any(|(protocol, ip, port)| {
        let same = |other: &(String, String, i32)| {
            other.0 == protocol
                && other.2 == port
                && (other.1 == ip || other.1 == "0.0.0.0" || ip == "0.0.0.0")
        };
        taken.iter().any(same)
    });
    if clash {
        let message =
            "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports";
        return Err(verdict("NodePorts", message.into()));
    }
    Ok(())
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

/// What is left of the node must do for the pod. Critical pods are let in all the same.
fn resources(kubelet: &Kubelet, pod: &Pod) -> Result<(), Verdict> {
    let active = kubelet.pods.active();
    let others: Vec<_> = active.iter().filter(|p| p.uid() != pod.uid()).collect();
    let allocatable = kubelet.machine.allocatable(&kubelet.config);
    if pod.is_critical() {
        return Ok(());
    }
    let out_of = |name: &str, asked: i64, used: i64, capacity: i64| Verdict {
        reason: format!("OutOf{name}"),
        message: format!(
            "Node didn't have enough resource: {name}, requested: {asked}, used: {used}, capacity: {capacity}"
        ),
    };
    let count = i64::try_from(others.len()).unwrap_or(i64::MAX);
    if count + 1 > allocatable.pods {
        return Err(out_of("pods", 1, count, allocatable.pods));
    }
    for (name, capacity, divisor) in [
        ("cpu", allocatable.milli_cpu, 1),
        ("memory", allocatable.memory, 1000),
        ("ephemeral-storage", allocatable.storage, 1000),
    ] {
        let asked = pod::request_milli(pod, name) / divisor;
        let used: i64 = others.iter().map(|p| pod::request_milli(p, name) / divisor).sum();
        if asked > 0 && asked + used > capacity {
            return Err(out_of(name, asked, used, capacity));
        }
    }
    Ok(())
}
