//! `/stats/summary`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use axum::Json;
use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde_json::{Map, Value, json};

use super::{ContainerUsage, NodeUsage, PodUsage, Space, Usage, VolumeUse, pressure, rates};
use crate::cadvisor::host::Interface;
use crate::routes::Shared;
use crate::{Host, VolumePath};

/// Answers with everything, or with CPU and memory only.
pub async fn serve(State(s): State<Shared>, RawQuery(query): RawQuery) -> Response {
    let query = crate::query::Query::parse(query.as_deref());
    let only_cpu_and_memory = query.flag("only_cpu_and_memory");
    let pods = match super::pods(&s, !only_cpu_and_memory).await {
        Ok(pods) => pods,
        Err(e) => return (StatusCode::INTERNAL_SERVER_ERROR, e.to_string()).into_response(),
    };
    let images = s.host.runtime().image_fs_info().await.unwrap_or_default();
    let work = move || {
        let page = Page::new(&*s.host);
        let mut node = page.node(&images);
        let mut pods: Vec<Value> = pods.iter().map(|p| page.pod(p)).collect();
        if only_cpu_and_memory {
            strip(&mut node);
            pods.iter_mut().for_each(strip);
        }
        json!({"node": node, "pods": pods})
    };
    match tokio::task::spawn_blocking(work).await {
        Ok(summary) => Json(summary).into_response(),
        Err(e) => (StatusCode::INTERNAL_SERVER_ERROR, e.to_string()).into_response(),
    }
}

/// Leaves CPU and memory of everything.
fn strip(value: &mut Value) {
    let rest = [
        "fs",
        "runtime",
        "rlimit",
        "network",
        "volume",
        "ephemeral-storage",
        "process_stats",
        "rootfs",
        "logs",
        "swap",
        "io",
    ];
    let Some(map) = value.as_object_mut() else { return };
    for key in rest {
        map.remove(key);
    }
    if let Some(containers) = map.get_mut("containers").and_then(Value::as_array_mut) {
        containers.iter_mut().for_each(strip);
    }
}

/// An object of what is known.
fn known(time: &str, values: &[(&str, Option<u64>)]) -> Value {
    let mut map = Map::new();
    map.insert("time".into(), time.into());
    map.extend(values.iter().filter_map(|(k, v)| Some(((*k).to_owned(), (*v)?.into()))));
    map.into()
}

fn sum(list: &[ContainerUsage], of: fn(&ContainerUsage) -> Option<u64>) -> Option<u64> {
    list.iter().filter_map(of).reduce(|a, b| a + b)
}

fn unsigned((bytes, inodes): (i64, i64)) -> (u64, u64) {
    (u64::try_from(bytes).unwrap_or(0), u64::try_from(inodes).unwrap_or(0))
}

/// What an answer is made with.
struct Page<'a> {
    host: &'a dyn Host,
    time: String,
    root: Space,
}

impl<'a> Page<'a> {
    fn new(host: &'a dyn Host) -> Page<'a> {
        let root = Space::of(host.root_dir()).unwrap_or_default();
        Page { host, time: api::time::now(), root }
    }

    /// A file system, and how much of it something uses.
    fn files(&self, space: Option<Space>, bytes: Option<u64>, inodes: Option<u64>) -> Value {
        known(
            &self.time,
            &[
                ("availableBytes", space.map(|s| s.available)),
                ("capacityBytes", space.map(|s| s.capacity)),
                ("usedBytes", bytes),
                ("inodesFree", space.map(|s| s.inodes_free)),
                ("inodes", space.map(|s| s.inodes)),
                ("inodesUsed", inodes),
            ],
        )
    }

    fn whole(&self, space: Space) -> Value {
        let used = space.capacity.saturating_sub(space.available);
        self.files(Some(space), Some(used), Some(space.inodes.saturating_sub(space.inodes_free)))
    }

    fn cpu(&self, nanos: Option<u64>, rate: Option<u64>) -> Value {
        known(&self.time, &[("usageNanoCores", rate), ("usageCoreNanoSeconds", nanos)])
    }

    fn memory(&self, u: &Usage) -> Value {
        known(
            &self.time,
            &[
                ("availableBytes", u.available()),
                ("usageBytes", u.memory),
                ("workingSetBytes", u.working_set),
                ("rssBytes", u.rss),
                ("pageFaults", u.page_faults),
                ("majorPageFaults", u.major_page_faults),
            ],
        )
    }

    /// Adds how long things had to wait.
    fn with_pressure(&self, mut value: Value, cgroup: Option<&Path>) -> Value {
        value["cpu"]["psi"] = pressure::read(cgroup, "cpu");
        value["memory"]["psi"] = pressure::read(cgroup, "memory");
        value["io"] = json!({"time": self.time, "psi": pressure::read(cgroup, "io")});
        value
    }

    fn swap(&self, available: Option<u64>, used: Option<u64>) -> Value {
        known(&self.time, &[("swapAvailableBytes", available), ("swapUsageBytes", used)])
    }

    fn node(&self, images: &cri::v1::ImageFsInfoResponse) -> Value {
        let usage = NodeUsage::read();
        let cgroup = Usage::of(Path::new("/")).unwrap_or_default();
        let store = |list: &[cri::v1::FilesystemUsage]| {
            let told = list.first();
            let place = told.and_then(|f| Space::of(Path::new(&f.fs_id.as_ref()?.mountpoint)));
            let value = |v: Option<&cri::v1::UInt64Value>| v.map(|v| v.value);
            let bytes = told.and_then(|f| value(f.used_bytes.as_ref()));
            let inodes = told.and_then(|f| value(f.inodes_used.as_ref()));
            self.files(place.or(Some(self.root)), bytes, inodes)
        };
        let image_fs = store(&images.image_filesystems);
        let container_fs = match images.container_filesystems.is_empty() {
            true => image_fs.clone(),
            false => store(&images.container_filesystems),
        };
        let left = usage.memory.zip(cgroup.working_set).map(|(all, used)| all.saturating_sub(used));
        let available = left.or(usage.memory_available);
        let mut value = json!({
            "nodeName": self.host.node_name(),
            "systemContainers": self.system_containers(usage.boot_time.as_deref()),
            "startTime": usage.boot_time,
            "cpu": self.cpu(usage.cpu_nanos, usage.cpu_rate),
            "memory": known(&self.time, &[
                ("availableBytes", available),
                ("usageBytes", cgroup.memory.or(usage.memory_used)),
                ("workingSetBytes", cgroup.working_set.or(usage.memory_used)),
                ("rssBytes", cgroup.rss),
                ("pageFaults", cgroup.page_faults),
                ("majorPageFaults", cgroup.major_page_faults),
            ]),
            "fs": self.whole(self.root),
            "runtime": {"imageFs": image_fs, "containerFs": container_fs},
            "rlimit": {"time": self.time, "maxpid": usage.max_pids, "curproc": usage.pids},
            "swap": self.swap(usage.swap_free, usage.swap_used),
        });
        if let Some((name, rx, tx)) = &usage.network {
            let interfaces = crate::cadvisor::host::interfaces(Path::new("/proc/self/net/dev"));
            let list: Vec<Value> = interfaces.iter().map(interface).collect();
            value["network"] =
                json!({"time": self.time, "name": name, "rxBytes": rx, "txBytes": tx, "interfaces": list});
        }
        self.with_pressure(value, Some(Path::new("/")))
    }

    /// All pods together, the kubelet itself, and what else the operator gave a cgroup.
    fn system_containers(&self, boot: Option<&str>) -> Value {
        let own = own_cgroup().filter(|path| path.as_os_str().len() > 1);
        let own = own.map(|path| ("kubelet", path));
        let pods = ("pods", self.host.pods_cgroup());
        let mut list = Vec::new();
        for (name, path) in own.into_iter().chain([pods]).chain(self.host.system_cgroups()) {
            let Some(u) = Usage::of(&path) else { continue };
            let value = json!({
                "name": name,
                "startTime": boot,
                "cpu": self.cpu(u.cpu_nanos, u.cpu_nanos.and_then(|n| rates::CPU.of(name, n))),
                "memory": self.memory(&u),
                "swap": self.swap(None, u.swap),
            });
            list.push(self.with_pressure(value, Some(&path)));
        }
        list.into()
    }

    fn pod(&self, p: &PodUsage) -> Value {
        let mut places: HashMap<PathBuf, Option<Space>> = HashMap::new();
        let mut containers = Vec::new();
        for c in &p.containers {
            let space = c
                .layer_place
                .as_ref()
                .and_then(|place| *places.entry(place.clone()).or_insert_with(|| Space::of(place)));
            let own = p.cgroup.as_deref().and_then(|pod| crate::cadvisor::child(pod, &c.id));
            containers.push(self.with_pressure(self.container(c, space), own.as_deref()));
        }
        let usage = match &p.usage {
            Some(usage) => usage.clone(),
            None => Usage {
                cpu_nanos: sum(&p.containers, |c| c.cpu_nanos),
                memory: sum(&p.containers, |c| c.memory),
                working_set: sum(&p.containers, |c| c.working_set),
                rss: sum(&p.containers, |c| c.rss),
                ..Usage::default()
            },
        };
        let (swap, swap_left) = (sum(&p.containers, |c| c.swap), sum(&p.containers, |c| c.swap_available));
        let mut value = json!({
            "podRef": {"name": p.name, "namespace": p.namespace, "uid": p.uid},
            "startTime": p.started,
            "containers": containers,
            "cpu": self.cpu(usage.cpu_nanos, p.cpu_rate.or_else(|| sum(&p.containers, |c| c.cpu_rate))),
            "memory": self.memory(&usage),
            "ephemeral-storage": self.ephemeral(p),
            "process_stats": {"process_count": usage.pids.unwrap_or(0)},
            "swap": self.swap(swap_left, swap.or(usage.swap)),
        });
        if let Some(first) = p.network.iter().find(|i| i.name == "eth0").or(p.network.first()) {
            let mut network = interface(first);
            network["time"] = self.time.as_str().into();
            network["interfaces"] = p.network.iter().map(interface).collect();
            value["network"] = network;
        }
        if !p.volumes.is_empty() {
            value["volume"] = p.volumes.iter().map(|(v, u)| self.volume(&p.namespace, v, u)).collect();
        }
        self.with_pressure(value, p.cgroup.as_deref())
    }

    /// What a pod has on the node's own disks: layers, logs, its own volumes and files.
    fn ephemeral(&self, p: &PodUsage) -> Value {
        let (mut bytes, mut inodes) = unsigned(p.own_files);
        for c in &p.containers {
            let logs = unsigned(c.logs);
            bytes += c.layer_bytes.unwrap_or(0) + logs.0;
            inodes += c.layer_inodes.unwrap_or(0) + logs.1;
        }
        for (_, use_) in p.volumes.iter().filter(|(v, _)| v.owned) {
            bytes += use_.bytes.map_or(0, |(_, _, used)| used);
            inodes += use_.inodes.map_or(0, |(_, _, used)| used);
        }
        self.files(Some(self.root), Some(bytes), Some(inodes))
    }

    fn volume(&self, namespace: &str, v: &VolumePath, use_: &VolumeUse) -> Value {
        let part = |all: Option<(u64, u64, u64)>, of: fn((u64, u64, u64)) -> u64| all.map(of);
        let mut value = known(
            &self.time,
            &[
                ("availableBytes", part(use_.bytes, |b| b.0)),
                ("capacityBytes", part(use_.bytes, |b| b.1)),
                ("usedBytes", part(use_.bytes, |b| b.2)),
                ("inodesFree", part(use_.inodes, |i| i.0)),
                ("inodes", part(use_.inodes, |i| i.1)),
                ("inodesUsed", part(use_.inodes, |i| i.2)),
            ],
        );
        value["name"] = v.name.as_str().into();
        if let Some(claim) = &v.claim {
            value["pvcRef"] = json!({"name": claim, "namespace": namespace});
        }
        if let (true, Some(abnormal)) = (self.host.volume_health(), &use_.abnormal) {
            value["volumeHealthStats"] = json!({"abnormal": abnormal.is_some()});
        }
        value
    }

    fn container(&self, c: &ContainerUsage, place: Option<Space>) -> Value {
        let logs = unsigned(c.logs);
        json!({
            "name": c.name,
            "startTime": c.started.map(api::time::format_rfc3339),
            "cpu": self.cpu(c.cpu_nanos, c.cpu_rate),
            "memory": known(&self.time, &[
                ("availableBytes", c.memory_available),
                ("usageBytes", c.memory),
                ("workingSetBytes", c.working_set),
                ("rssBytes", c.rss),
                ("pageFaults", c.page_faults),
                ("majorPageFaults", c.major_page_faults),
            ]),
            "rootfs": self.files(place, c.layer_bytes, c.layer_inodes),
            "logs": self.files(Some(self.root), Some(logs.0), Some(logs.1)),
            "swap": self.swap(c.swap_available.or(Some(0)), c.swap.or(Some(0))),
        })
    }
}

fn interface(i: &Interface) -> Value {
    json!({
        "name": i.name,
        "rxBytes": i.received[0],
        "rxErrors": i.received[2],
        "txBytes": i.sent[0],
        "txErrors": i.sent[2],
    })
}

/// The cgroup that this process is in.
fn own_cgroup() -> Option<PathBuf> {
    let text = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let memory = text.lines().find_map(|l| l.split_once(":memory:").map(|(_, path)| path));
    memory.or_else(|| text.lines().find_map(|l| l.strip_prefix("0::"))).map(PathBuf::from)
}
