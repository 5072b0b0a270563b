//! What the node, its pods and their containers use; [`summary`] shows it as `/stats/summary`.

mod cgroup;
mod files;
mod node;
mod pressure;
mod rates;
pub mod summary;
mod volumes;

pub use cgroup::Usage;
pub use files::measure;
pub use node::NodeUsage;
pub use volumes::{Known, VolumeUse};

use crate::cadvisor::host::{Interface, interfaces_of};
use crate::routes::Shared;
use crate::{Host, VolumePath};
use cri::v1::{ContainerStats, PodSandboxState};
use k8s_openapi::api::core::v1::Pod;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// One pod with what it uses; also read by the metrics endpoints.
pub struct PodUsage {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub started: Option<String>,
    pub usage: Option<Usage>,
    pub cpu_rate: Option<u64>,
    pub cgroup: Option<PathBuf>,
    pub containers: Vec<ContainerUsage>,
    pub volumes: Vec<(VolumePath, VolumeUse)>,
    pub network: Vec<Interface>,
    /// Bytes and inodes of the files that the kubelet keeps for the pod.
    pub own_files: (i64, i64),
}

pub struct ContainerUsage {
    pub name: String,
    /// What the runtime calls it.
    pub id: String,
    pub started: Option<i64>,
    pub cpu_nanos: Option<u64>,
    pub cpu_rate: Option<u64>,
    pub working_set: Option<u64>,
    pub memory: Option<u64>,
    pub memory_available: Option<u64>,
    pub rss: Option<u64>,
    pub page_faults: Option<u64>,
    pub major_page_faults: Option<u64>,
    pub swap: Option<u64>,
    pub swap_available: Option<u64>,
    pub layer_bytes: Option<u64>,
    pub layer_inodes: Option<u64>,
    /// The file system of the layer.
    pub layer_place: Option<PathBuf>,
    /// Bytes and inodes of its logs.
    pub logs: (i64, i64),
}

/// A file system's room, in bytes and inodes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Space {
    pub capacity: u64,
    pub available: u64,
    pub inodes: u64,
    pub inodes_free: u64,
}

impl Space {
    pub fn of(path: &Path) -> Option<Space> {
        let s = nix::sys::statvfs::statvfs(path).ok()?;
        let unit = s.fragment_size();
        Some(Space {
            capacity: s.blocks() * unit,
            available: s.blocks_available() * unit,
            inodes: s.files(),
            inodes_free: s.files_free(),
        })
    }
}

/// Usage of all pods that have something running: CPU and memory, and with `all` the rest.
pub async fn pods(s: &Shared, all: bool) -> Result<Vec<PodUsage>, cri::Error> {
    let host = &*s.host;
    let runtime = host.runtime();
    let (stats, sandboxes) =
        tokio::try_join!(runtime.list_container_stats(None), runtime.list_pod_sandbox(None))?;
    let mut by_pod: HashMap<String, Vec<ContainerStats>> = HashMap::new();
    for stats in stats {
        let uid = stats.attributes.as_ref().and_then(|a| a.labels.get("io.kubernetes.pod.uid")).cloned();
        by_pod.entry(uid.unwrap_or_default()).or_default().push(stats);
    }
    let ready = sandboxes.into_iter().filter(|s| s.state == PodSandboxState::SandboxReady as i32);
    let sandboxes: HashMap<String, String> = ready.filter_map(|s| Some((s.metadata?.uid, s.id))).collect();
    let mut out = Vec::new();
    for pod in host.pods() {
        let uid = host.runtime_uid(&pod);
        let Some(sandbox) = sandboxes.get(&uid) else { continue };
        let stats = by_pod.remove(&uid).unwrap_or_default();
        let mut usage = pod_usage(host, &pod, stats);
        if all {
            usage.volumes = s.volumes.of_pod(host, &pod).await;
            add_rest(host, &pod, sandbox, &mut usage);
        }
        out.push(usage);
    }
    Ok(out)
}

fn pod_usage(host: &dyn Host, pod: &Pod, stats: Vec<ContainerStats>) -> PodUsage {
    let m = &pod.metadata;
    let uid = m.uid.clone().unwrap_or_default();
    let started = pod.status.as_ref().and_then(|s| s.start_time.as_ref());
    let cgroup = host.pod_cgroup(pod);
    let usage = cgroup.as_deref().and_then(Usage::of);
    PodUsage {
        namespace: m.namespace.clone().unwrap_or_default(),
        name: m.name.clone().unwrap_or_default(),
        started: started.map(|t| api::time::format_rfc3339(t.0.as_second())),
        cpu_rate: usage.as_ref().and_then(|u| rates::CPU.of(&uid, u.cpu_nanos?)),
        usage,
        containers: running(stats).into_iter().map(|s| container_usage(pod, cgroup.as_deref(), s)).collect(),
        cgroup,
        volumes: Vec::new(),
        network: Vec::new(),
        own_files: (0, 0),
        uid,
    }
}

/// The containers that run: a runtime tells of ended ones too, which use neither CPU nor memory any more; of two
/// with one name the later attempt counts.
fn running(stats: Vec<ContainerStats>) -> Vec<ContainerStats> {
    fn key(stats: &ContainerStats) -> (String, u32) {
        let metadata = stats.attributes.as_ref().and_then(|a| a.metadata.as_ref());
        metadata.map(|m| (m.name.clone(), m.attempt)).unwrap_or_default()
    }
    let mut list: Vec<_> = stats.into_iter().filter(|s| s.cpu.is_some() || s.memory.is_some()).collect();
    list.sort_by_cached_key(|stats| std::cmp::Reverse(key(stats)));
    list.dedup_by_key(|stats| key(stats).0);
    list.reverse();
    list
}

/// What is on disk, and the network.
fn add_rest(host: &dyn Host, pod: &Pod, sandbox: &str, usage: &mut PodUsage) {
    let logs = host.pod_logs_dir().join(format!("{}_{}_{}", usage.namespace, usage.name, usage.uid));
    for container in &mut usage.containers {
        container.logs = measure(&logs.join(&container.name));
    }
    usage.own_files = measure(&host.root_dir().join("pods").join(&usage.uid).join("etc-hosts"));
    let cgroup = host.pod_cgroup(pod);
    usage.network =
        cgroup.map(|c| interfaces_of(&crate::cadvisor::sandbox_pids(&c, sandbox))).unwrap_or_default();
}

/// What is left below a limit; CRI-O tells a number that no machine has where there is none.
fn limited(left: u64) -> Option<u64> {
    (left < cgroup::UNLIMITED).then_some(left)
}

/// The swap that a container uses. On cgroup version 1 CRI-O says so of its memory as well; the cgroup knows better.
fn swap_of(pod: Option<&Path>, id: &str, told: u64) -> u64 {
    match told {
        0 => 0,
        _ => pod.and_then(|pod| Usage::of(&crate::cadvisor::child(pod, id)?)?.swap).unwrap_or(told),
    }
}

fn container_usage(pod: &Pod, cgroup: Option<&Path>, stats: ContainerStats) -> ContainerUsage {
    let attributes = stats.attributes.unwrap_or_default();
    let name = attributes.labels.get("io.kubernetes.container.name").cloned().unwrap_or_default();
    let status = crate::routes::container_statuses(pod).find(|c| c.name == name);
    let running = status.and_then(|s| s.state.as_ref()?.running.as_ref()?.started_at.as_ref());
    let value = |v: Option<cri::v1::UInt64Value>| v.map(|v| v.value);
    let (cpu, memory, swap, layer) = (stats.cpu, stats.memory, stats.swap, stats.writable_layer);
    let cpu_nanos = cpu.as_ref().and_then(|c| value(c.usage_core_nano_seconds));
    // Older runtimes leave it to whoever asks to make a rate of two readings.
    let told = cpu.as_ref().and_then(|c| value(c.usage_nano_cores));
    let swap_told = swap.as_ref().and_then(|s| value(s.swap_usage_bytes));
    let swap_used = swap_told.map(|told| swap_of(cgroup, &attributes.id, told));
    let swap_left = swap.as_ref().and_then(|s| value(s.swap_available_bytes)).and_then(limited);
    ContainerUsage {
        started: running.map(|t| t.0.as_second()),
        cpu_rate: told.filter(|n| *n > 0).or_else(|| rates::CPU.of(&attributes.id, cpu_nanos?)),
        id: attributes.id,
        name,
        cpu_nanos,
        working_set: memory.as_ref().and_then(|m| value(m.working_set_bytes)),
        memory: memory.as_ref().and_then(|m| value(m.usage_bytes)),
        memory_available: memory.as_ref().and_then(|m| value(m.available_bytes)).and_then(limited),
        rss: memory.as_ref().and_then(|m| value(m.rss_bytes)),
        page_faults: memory.as_ref().and_then(|m| value(m.page_faults)),
        major_page_faults: memory.as_ref().and_then(|m| value(m.major_page_faults)),
        swap: swap_used,
        // What was counted as swap and is none is left over.
        swap_available: swap_left
            .map(|left| left + swap_told.zip(swap_used).map_or(0, |(a, b)| a.saturating_sub(b))),
        layer_bytes: layer.as_ref().and_then(|l| value(l.used_bytes)),
        layer_inodes: layer.as_ref().and_then(|l| value(l.inodes_used)),
        layer_place: layer.and_then(|l| l.fs_id).map(|id| id.mountpoint.into()),
        logs: (0, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_limit_leaves_nothing_to_tell() {
        let of = |left: u64| {
            let value = |value: u64| Some(cri::v1::UInt64Value { value });
            let memory = cri::v1::MemoryUsage { available_bytes: value(left), ..Default::default() };
            let swap = cri::v1::SwapUsage {
                swap_available_bytes: value(left),
                swap_usage_bytes: value(5),
                ..Default::default()
            };
            let stats =
                ContainerStats { memory: Some(memory), swap: Some(swap), ..ContainerStats::default() };
            let usage = container_usage(&Pod::default(), None, stats);
            (usage.memory_available, usage.swap_available, usage.swap)
        };
        assert_eq!(of(7), (Some(7), Some(7), Some(5)), "without a cgroup the runtime is believed");
        assert_eq!(of(i64::MAX as u64 - 4096), (None, None, Some(5)));
    }

    #[test]
    fn ended_containers_are_not_told_of() {
        let of = |name: &str, attempt: u32, runs: bool| ContainerStats {
            attributes: Some(cri::v1::ContainerAttributes {
                id: format!("{name}{attempt}"),
                metadata: Some(cri::v1::ContainerMetadata { name: name.into(), attempt }),
                ..Default::default()
            }),
            memory: runs.then(Default::default),
            ..Default::default()
        };
        let told =
            [of("b", 0, false), of("b", 2, true), of("a", 0, true), of("b", 1, true), of("c", 4, false)];
        let left: Vec<_> =
            running(told.into()).into_iter().map(|s| s.attributes.unwrap_or_default().id).collect();
        assert_eq!(left, ["a0", "b2"]);
    }
}
