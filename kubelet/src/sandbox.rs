//! The sandbox of a pod, as the runtime is told to make it.

use std::path::PathBuf;

use cri::v1;
use k8s_openapi::api::core::v1::{Container, Pod};

use crate::kubelet::Kubelet;
use crate::pod::PodExt;
use crate::{dns, labels, security};

/// The configuration of a pod's sandbox.
pub fn config(kubelet: &Kubelet, pod: &Pod, attempt: u32) -> Result<v1::PodSandboxConfig, String> {
    let hostname = if pod.host_network() {
        String::new()
    } else {
        let (name, domain) = dns::hostname(pod, &kubelet.config.cluster_domain)?;
        dns::kernel_hostname(pod, &name, &domain)?
    };
    let (dns_config, warnings) = dns::of_pod(pod, &kubelet.dns)?;
    for (reason, message) in warnings {
        kubelet.events.pod(pod, "Warning", reason, &message);
    }
    let sysctls = pod.spec().security_context.iter().flat_map(|c| c.sysctls.iter().flatten());
    Ok(v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: pod.name().into(),
            uid: pod.uid().into(),
            namespace: pod.namespace().into(),
            attempt,
        }),
        hostname,
        log_directory: log_dir(kubelet, pod).to_string_lossy().into_owned(),
        dns_config: Some(dns_config),
        port_mappings: pod.spec().containers.iter().flat_map(port_mappings).collect(),
        labels: labels::of_pod(pod),
        annotations: pod.metadata.annotations.clone().unwrap_or_default().into_iter().collect(),
        linux: Some(v1::LinuxPodSandboxConfig {
            cgroup_parent: kubelet.cgroups.parent_for_runtime(pod),
            security_context: Some(security::of_sandbox(pod, kubelet.user_namespaces.of_pod(pod)?)),
            sysctls: sysctls.map(|s| (s.name.clone(), s.value.clone())).collect(),
            overhead: overhead(kubelet, pod),
            resources: Some(pod_resources(kubelet, pod)),
        }),
    })
}

/// The sum of what the pod's containers may use, for runtimes that size the sandbox by it.
fn pod_resources(kubelet: &Kubelet, pod: &Pod) -> v1::LinuxContainerResources {
    let limit = |name| crate::pod::limit_milli(pod, name).unwrap_or(0);
    let period = kubelet.node_resources.cfs_period;
    v1::LinuxContainerResources {
        cpu_period: period,
        cpu_quota: crate::resources::quota(limit("cpu"), period),
        cpu_shares: crate::resources::shares(crate::pod::request_milli(pod, "cpu")),
        memory_limit_in_bytes: limit("memory") / 1000,
        ..Default::default()
    }
}

/// What the sandbox itself takes, as its RuntimeClass says.
fn overhead(kubelet: &Kubelet, pod: &Pod) -> Option<v1::LinuxContainerResources> {
    use volumes::quantity::{get, get_milli};
    let overhead = pod.spec().overhead.as_ref();
    overhead?;
    let (cpu, memory) = (get_milli(overhead, "cpu").unwrap_or(0), get(overhead, "memory").unwrap_or(0));
    let period = kubelet.node_resources.cfs_period;
    Some(v1::LinuxContainerResources {
        cpu_period: period,
        cpu_quota: crate::resources::quota(cpu, period),
        cpu_shares: crate::resources::shares(cpu),
        memory_limit_in_bytes: memory,
        ..Default::default()
    })
}

/// The folder of a pod's logs.
pub fn log_dir(kubelet: &Kubelet, pod: &Pod) -> PathBuf {
    let name = format!("{}_{}_{}", pod.namespace(), pod.name(), pod.uid());
    kubelet.config.pod_logs_dir().join(name)
}

fn port_mappings(container: &Container) -> Vec<v1::PortMapping> {
    let ports = container.ports.iter().flatten();
    ports
        .map(|port| v1::PortMapping {
            protocol: match port.protocol.as_deref() {
                Some("UDP") => v1::Protocol::Udp as i32,
                Some("SCTP") => v1::Protocol::Sctp as i32,
                _ => v1::Protocol::Tcp as i32,
            },
            container_port: port.container_port,
            host_port: port.host_port.unwrap_or(0),
            host_ip: port.host_ip.clone().unwrap_or_default(),
        })
        .collect()
}
