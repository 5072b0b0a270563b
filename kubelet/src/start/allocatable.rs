//! What all pods, their classes and the reserved cgroups may use together.

use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use k8s_openapi::api::core::v1::Pod;
use tokio_util::sync::CancellationToken;

use crate::kubelet::Kubelet;
use crate::{machine, pod};

/// Limits all pods together, and what is kept for system and kubelet, as the configuration asks.
pub fn enforce_allocatable(kubelet: &Kubelet) -> anyhow::Result<()> {
    let (cgroups, config) = (&kubelet.cgroups, &kubelet.config);
    kubelet.machine.check_reserved(config).map_err(anyhow::Error::msg)?;
    let asked = |what: &str| config.enforce_node_allocatable.iter().any(|e| e == what);
    let event = |kind: &str, reason: &str, message: &str| kubelet.events.node(kind, reason, message);
    cgroups.set_up(kubelet.machine.for_all_pods(config, asked("pods")));
    event("Normal", "NodeAllocatableEnforced", "Updated Node Allocatable limit across pods");
    for (what, name, list, cgroup) in [
        ("system-reserved", "system", &config.system_reserved, &config.system_reserved_cgroup),
        ("kube-reserved", "kube", &config.kube_reserved, &config.kube_reserved_cgroup),
    ] {
        let compressible = asked(&format!("{what}-compressible"));
        if !asked(what) && !compressible {
            continue;
        }
        if let Err(error) = cgroups.limit_existing(cgroup, &machine::limits(list, compressible)) {
            let title = if name == "kube" { "Kube" } else { "System" };
            let message = format!("Failed to enforce {title} Reserved Cgroup Limits on {cgroup:?}: {error}");
            event("Warning", "FailedNodeAllocatableEnforcement", &message);
            bail!("{message}");
        }
        let message = format!("Updated limits on {name} reserved cgroup {cgroup}");
        event("Normal", "NodeAllocatableEnforced", &message);
    }
    Ok(())
}

/// Keeps the CPU weight of the burstable class at what its pods ask together.
pub async fn weigh_burstable(kubelet: Arc<Kubelet>, shutdown: CancellationToken) {
    loop {
        let pods = kubelet.pods.active();
        let burstable = pods.iter().filter(|p| pod::qos(p) == "Burstable");
        kubelet.cgroups.weigh_burstable(burstable.map(|p| pod::request_milli(p, "cpu")).sum());
        let [guaranteed, burstable] = ["Guaranteed", "Burstable"].map(|class| memory_asked(&pods, class));
        kubelet.cgroups.protect(guaranteed, burstable);
        reserve_memory(&kubelet, guaranteed, burstable);
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(Duration::from_secs(60)) => {}
            () = kubelet.cgroups.pod_came() => {}
        }
    }
}

/// The bytes that the pods of a class ask for.
fn memory_asked(pods: &[Arc<Pod>], class: &str) -> i64 {
    let own = pods.iter().filter(|p| pod::qos(p) == class);
    own.map(|p| pod::request_milli(p, "memory") / 1000).sum()
}

/// Keeps memory that higher classes ask for out of the reach of the lower ones, as `qosReserved` says.
fn reserve_memory(kubelet: &Kubelet, guaranteed: i64, burstable: i64) {
    let share =
        kubelet.config.qos_reserved.get("memory").and_then(|p| p.strip_suffix('%')?.parse::<i64>().ok());
    let Some(share) = share.filter(|_| kubelet.gates.enabled("QOSReserved")) else { return };
    let all = kubelet.machine.allocatable(&kubelet.config).memory;
    let for_burstable = all - guaranteed * share / 100;
    kubelet.cgroups.reserve(for_burstable, for_burstable - burstable * share / 100);
}
