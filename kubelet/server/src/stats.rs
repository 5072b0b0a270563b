//! `/stats/summary`: what the node, its pods and their containers use.

mod cgroup;
mod node;

pub use cgroup::Usage;
pub use node::NodeUsage;

use crate::routes::Shared;
use crate::{Host, VolumePath};
use axum::Json;
use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse, Response};
use cri::v1::ContainerStats;
use http::StatusCode;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::path::Path;

/// One pod with what it uses; also read by the metrics endpoints.
pub struct PodUsage {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub started: Option<String>,
    pub usage: Option<Usage>,
    pub containers: Vec<ContainerUsage>,
    pub volumes: Vec<(VolumePath, Space)>,
}

pub struct ContainerUsage {
    pub name: String,
    pub started: Option<i64>,
    pub cpu_nanos: Option<u64>,
    pub cpu_rate: Option<u64>,
    pub working_set: Option<u64>,
    pub memory: Option<u64>,
    pub rss: Option<u64>,
    pub page_faults: Option<u64>,
    pub major_page_faults: Option<u64>,
    pub layer_bytes: Option<u64>,
    pub layer_inodes: Option<u64>,
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

    fn to_value(self, time: &str) -> Value {
        json!({
            "time": time,
            "availableBytes": self.available,
            "capacityBytes": self.capacity,
            "usedBytes": self.capacity.saturating_sub(self.available),
            "inodesFree": self.inodes_free,
            "inodes": self.inodes,
            "inodesUsed": self.inodes.saturating_sub(self.inodes_free),
        })
    }
}

/// Usage of all pods that have something running.
pub async fn pods(host: &dyn Host) -> Result<Vec<PodUsage>, cri::Error> {
    let mut by_pod: HashMap<String, Vec<ContainerStats>> = HashMap::new();
    for stats in host.runtime().list_container_stats(None).await? {
        let uid = stats.attributes.as_ref().and_then(|a| a.labels.get("io.kubernetes.pod.uid")).cloned();
        by_pod.entry(uid.unwrap_or_default()).or_default().push(stats);
    }
    let pods = host.pods();
    Ok(pods
        .iter()
        .map(|p| pod_usage(host, p, by_pod.remove(&host.runtime_uid(p)).unwrap_or_default()))
        .collect())
}

fn pod_usage(host: &dyn Host, pod: &Pod, stats: Vec<ContainerStats>) -> PodUsage {
    let m = &pod.metadata;
    let started = pod.status.as_ref().and_then(|s| s.start_time.as_ref());
    PodUsage {
        namespace: m.namespace.clone().unwrap_or_default(),
        name: m.name.clone().unwrap_or_default(),
        uid: m.uid.clone().unwrap_or_default(),
        started: started.map(|t| api::time::format_rfc3339(t.0.as_second())),
        usage: host.pod_cgroup(pod).and_then(|c| Usage::of(&c)),
        containers: stats.into_iter().map(|s| container_usage(pod, s)).collect(),
        volumes: host.volumes(pod).into_iter().filter_map(|v| Space::of(&v.path).map(|s| (v, s))).collect(),
    }
}

fn container_usage(pod: &Pod, stats: ContainerStats) -> ContainerUsage {
    let attributes = stats.attributes.unwrap_or_default();
    let name = attributes.labels.get("io.kubernetes.container.name").cloned().unwrap_or_default();
    let status = crate::routes::container_statuses(pod).find(|c| c.name == name);
    let running = status.and_then(|s| s.state.as_ref()?.running.as_ref()?.started_at.as_ref());
    let value = |v: Option<cri::v1::UInt64Value>| v.map(|v| v.value);
    let (cpu, memory, layer) = (stats.cpu, stats.memory, stats.writable_layer);
    ContainerUsage {
        started: running.map(|t| t.0.as_second()),
        name,
        cpu_nanos: cpu.as_ref().and_then(|c| value(c.usage_core_nano_seconds)),
        cpu_rate: cpu.as_ref().and_then(|c| value(c.usage_nano_cores)),
        working_set: memory.as_ref().and_then(|m| value(m.working_set_bytes)),
        memory: memory.as_ref().and_then(|m| value(m.usage_bytes)),
        rss: memory.as_ref().and_then(|m| value(m.rss_bytes)),
        page_faults: memory.as_ref().and_then(|m| value(m.page_faults)),
        major_page_faults: memory.as_ref().and_then(|m| value(m.major_page_faults)),
        layer_bytes: layer.as_ref().and_then(|l| value(l.used_bytes)),
        layer_inodes: layer.as_ref().and_then(|l| value(l.inodes_used)),
    }
}

/// An object of what is known, with the time it was read.
fn known(time: &str, values: &[(&str, Option<u64>)]) -> Value {
    let mut map = Map::new();
    map.insert("time".into(), time.into());
    map.extend(values.iter().filter_map(|(k, v)| Some(((*k).to_owned(), (*v)?.into()))));
    map.into()
}

pub async fn summary(State(s): State<Shared>, RawQuery(query): RawQuery) -> Response {
    let query = crate::query::Query::parse(query.as_deref());
    let only_cpu_and_memory = query.flag("only_cpu_and_memory");
    let pods = match pods(&*s.host).await {
        Ok(pods) => pods,
        Err(e) => return (StatusCode::INTERNAL_SERVER_ERROR, e.to_string()).into_response(),
    };
    let time = api::time::now();
    let mut node = node_value(&*s.host, &time);
    let mut pods: Vec<Value> = pods.iter().map(|p| pod_value(p, &time)).collect();
    if only_cpu_and_memory {
        strip(&mut node);
        pods.iter_mut().for_each(strip);
    }
    Json(json!({"node": node, "pods": pods})).into_response()
}

/// Leaves CPU and memory of everything.
fn strip(value: &mut Value) {
    if let Some(map) = value.as_object_mut() {
        for key in [
            "fs",
            "runtime",
            "rlimit",
            "network",
            "volume",
            "ephemeral-storage",
            "process_stats",
            "rootfs",
            "logs",
        ] {
            map.remove(key);
        }
        if let Some(containers) = map.get_mut("containers").and_then(Value::as_array_mut) {
            containers.iter_mut().for_each(strip);
        }
    }
}

fn node_value(host: &dyn Host, time: &str) -> Value {
    let usage = NodeUsage::read();
    let fs = Space::of(host.root_dir()).unwrap_or_default().to_value(time);
    let mut value = json!({
        "nodeName": host.node_name(),
        "startTime": usage.boot_time,
        "cpu": known(time, &[("usageCoreNanoSeconds", usage.cpu_nanos), ("usageNanoCores", usage.cpu_rate)]),
        "memory": known(time, &[
            ("availableBytes", usage.memory_available),
            ("usageBytes", usage.memory_used),
            ("workingSetBytes", usage.memory_used),
        ]),
        "fs": fs,
        "runtime": {"imageFs": fs, "containerFs": fs},
        "rlimit": {"time": time, "maxpid": usage.max_pids, "curproc": usage.pids},
    });
    if let Some((name, rx, tx)) = &usage.network {
        let interface = json!({"name": name, "rxBytes": rx, "txBytes": tx});
        value["network"] =
            json!({"time": time, "name": name, "rxBytes": rx, "txBytes": tx, "interfaces": [interface]});
    }
    let pods = host.pods_cgroup();
    if let Some(u) = Usage::of(&pods) {
        value["systemContainers"] = json!([{
            "name": "pods",
            "startTime": usage.boot_time,
            "cpu": known(time, &[("usageCoreNanoSeconds", u.cpu_nanos)]),
            "memory": known(time, &[("usageBytes", u.memory), ("workingSetBytes", u.working_set), ("rssBytes", u.rss)]),
        }]);
    }
    value
}

fn pod_value(p: &PodUsage, time: &str) -> Value {
    let containers: Vec<Value> = p.containers.iter().map(|c| container_value(c, time)).collect();
    let sum = |f: fn(&ContainerUsage) -> Option<u64>| p.containers.iter().filter_map(f).reduce(|a, b| a + b);
    let u = p.usage.as_ref();
    let cpu = u.and_then(|u| u.cpu_nanos).or_else(|| sum(|c| c.cpu_nanos));
    let working = u.and_then(|u| u.working_set).or_else(|| sum(|c| c.working_set));
    let memory = u.and_then(|u| u.memory).or_else(|| sum(|c| c.memory));
    let rss = u.and_then(|u| u.rss).or_else(|| sum(|c| c.rss));
    let volumes: Vec<Value> = p
        .volumes
        .iter()
        .map(|(v, space)| {
            let mut value = space.to_value(time);
            value["name"] = v.name.as_str().into();
            if let Some(claim) = &v.claim {
                value["pvcRef"] = json!({"name": claim, "namespace": p.namespace});
            }
            value
        })
        .collect();
    let mut value = json!({
        "podRef": {"name": p.name, "namespace": p.namespace, "uid": p.uid},
        "startTime": p.started,
        "containers": containers,
        "cpu": known(time, &[("usageCoreNanoSeconds", cpu), ("usageNanoCores", sum(|c| c.cpu_rate))]),
        "memory": known(time, &[("usageBytes", memory), ("workingSetBytes", working), ("rssBytes", rss)]),
        "ephemeral-storage": known(time, &[("usedBytes", sum(|c| c.layer_bytes)), ("inodesUsed", sum(|c| c.layer_inodes))]),
        "process_stats": {"process_count": u.and_then(|u| u.pids)},
    });
    if !volumes.is_empty() {
        value["volume"] = volumes.into();
    }
    value
}

fn container_value(c: &ContainerUsage, time: &str) -> Value {
    json!({
        "name": c.name,
        "startTime": c.started.map(api::time::format_rfc3339),
        "cpu": known(time, &[("usageCoreNanoSeconds", c.cpu_nanos), ("usageNanoCores", c.cpu_rate)]),
        "memory": known(time, &[
            ("usageBytes", c.memory),
            ("workingSetBytes", c.working_set),
            ("rssBytes", c.rss),
            ("pageFaults", c.page_faults),
            ("majorPageFaults", c.major_page_faults),
        ]),
        "rootfs": known(time, &[("usedBytes", c.layer_bytes), ("inodesUsed", c.layer_inodes)]),
    })
}
