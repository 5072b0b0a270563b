//! `/metrics/cadvisor`: what every cgroup of the node uses, with the names by which dashboards know it. Everything is
//! read when it is asked for; nothing is collected in between.

mod disks;
pub mod host;
mod labelled;
mod sample;
mod tasks;

use crate::metrics::{Family, answer};
use crate::routes::Shared;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use sample::Sample;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// A cgroup and whose it is.
struct Row {
    id: String,
    container: String,
    image: String,
    name: String,
    namespace: String,
    pod: String,
    sample: Sample,
    network: Vec<host::Interface>,
    sandbox: bool,
}

impl Row {
    fn labels(&self) -> Vec<(&str, &str)> {
        vec![
            ("container", &self.container),
            ("id", &self.id),
            ("image", &self.image),
            ("name", &self.name),
            ("namespace", &self.namespace),
            ("pod", &self.pod),
        ]
    }
}

/// What the runtime knows of a container or sandbox.
#[derive(Clone, Default)]
struct Known {
    /// Empty for a sandbox.
    container: String,
    image: String,
    namespace: String,
    pod: String,
    uid: String,
    attempt: u32,
}

impl Known {
    /// What CRI-O calls it, by which cAdvisor knows it too; sandboxes are containers named `POD` there.
    fn named_by_crio(mut self) -> (Self, String) {
        if self.container.is_empty() {
            self.container = "POD".into();
            self.image.clear();
        }
        let Self { container, pod, namespace, uid, attempt, .. } = &self;
        let name = format!("k8s_{container}_{pod}_{namespace}_{uid}_{attempt}");
        (self, name)
    }
}

type Value = fn(&Sample) -> Option<f64>;

const SECONDS: f64 = 1e9;

fn nanos(value: Option<u64>) -> Option<f64> {
    value.map(|v| v as f64 / SECONDS)
}

fn plain(value: Option<u64>) -> Option<f64> {
    value.map(|v| v as f64)
}

/// Name, type, help, a further label, and where the value is found.
type FamilyOf = (&'static str, &'static str, &'static str, Option<(&'static str, &'static str)>, Value);

/// Families of one sample a cgroup: name, type, help, further label, value.
const FAMILIES: &[FamilyOf] = &[
    (
        "container_cpu_usage_seconds_total",
        "counter",
        "Cumulative cpu time consumed in seconds.",
        Some(("cpu", "total")),
        |s| nanos(s.cpu),
    ),
    (
        "container_cpu_user_seconds_total",
        "counter",
        "Cumulative user cpu time consumed in seconds.",
        None,
        |s| nanos(s.cpu_user),
    ),
    (
        "container_cpu_system_seconds_total",
        "counter",
        "Cumulative system cpu time consumed in seconds.",
        None,
        |s| nanos(s.cpu_system),
    ),
    (
        "container_cpu_cfs_periods_total",
        "counter",
        "Number of elapsed enforcement period intervals.",
        None,
        |s| plain(s.periods),
    ),
    (
        "container_cpu_cfs_throttled_periods_total",
        "counter",
        "Number of throttled period intervals.",
        None,
        |s| plain(s.throttled),
    ),
    (
        "container_cpu_cfs_throttled_seconds_total",
        "counter",
        "Total time duration the container has been throttled.",
        None,
        |s| nanos(s.throttled_nanos),
    ),
    ("container_cpu_cfs_burst_periods_total", "counter", "Number of periods when burst occurs.", None, |s| {
        plain(s.bursts)
    }),
    (
        "container_cpu_cfs_burst_seconds_total",
        "counter",
        "Total time duration the container has been bursted.",
        None,
        |s| nanos(s.burst_nanos),
    ),
    // Nobody tells of the health of a container here.
    ("container_health_state", "gauge", "The result of the container's health check", None, |_| Some(-1.0)),
    ("container_memory_cache", "gauge", "Number of bytes of page cache memory.", None, |s| plain(s.cache)),
    ("container_memory_failcnt", "counter", "Number of memory usage hits limits", None, |s| plain(s.failcnt)),
    ("container_memory_mapped_file", "gauge", "Size of memory mapped files in bytes.", None, |s| {
        plain(s.mapped)
    }),
    ("container_memory_max_usage_bytes", "gauge", "Maximum memory usage recorded in bytes", None, |s| {
        plain(s.memory_max)
    }),
    ("container_memory_rss", "gauge", "Size of RSS in bytes.", None, |s| plain(s.rss)),
    ("container_memory_swap", "gauge", "Container swap usage in bytes.", None, |s| plain(s.swap)),
    (
        "container_memory_usage_bytes",
        "gauge",
        "Current memory usage in bytes, including all memory regardless of when it was accessed",
        None,
        |s| plain(s.memory),
    ),
    ("container_memory_working_set_bytes", "gauge", "Current working set in bytes.", None, |s| {
        plain(s.working_set)
    }),
    ("container_processes", "gauge", "Number of processes running inside the container.", None, |s| {
        plain(s.processes)
    }),
    ("container_threads", "gauge", "Number of threads running inside the container", None, |s| {
        plain(s.threads)
    }),
    ("container_spec_cpu_period", "gauge", "CPU period of the container.", None, |s| plain(s.period)),
    ("container_spec_cpu_quota", "gauge", "CPU quota of the container.", None, |s| plain(s.quota)),
    ("container_spec_cpu_shares", "gauge", "CPU share of the container.", None, |s| plain(s.shares)),
    ("container_spec_memory_limit_bytes", "gauge", "Memory limit for the container.", None, |s| {
        plain(s.memory_limit)
    }),
    ("container_spec_memory_swap_limit_bytes", "gauge", "Memory swap limit for the container.", None, |s| {
        plain(s.swap_limit)
    }),
    (
        "container_start_time_seconds",
        "gauge",
        "Start time of the container since unix epoch in seconds.",
        None,
        |s| plain(s.started),
    ),
    ("container_memory_kernel_usage", "gauge", "Size of kernel memory allocated in bytes.", None, |s| {
        plain(s.kernel)
    }),
    ("container_memory_total_active_file_bytes", "gauge", "Current total active file in bytes.", None, |s| {
        plain(s.active_file)
    }),
    (
        "container_memory_total_inactive_file_bytes",
        "gauge",
        "Current total inactive file in bytes.",
        None,
        |s| plain(s.inactive_file),
    ),
    (
        "container_oom_events_total",
        "counter",
        "Count of out of memory events observed for the container",
        None,
        |s| plain(s.oom_kills),
    ),
    (
        "container_spec_memory_reservation_limit_bytes",
        "gauge",
        "Memory reservation limit for the container.",
        None,
        |s| plain(s.reservation),
    ),
    (
        "container_threads_max",
        "gauge",
        "Maximum number of threads allowed inside the container, infinity if value is zero",
        None,
        |s| plain(s.threads_max),
    ),
    (
        "container_file_descriptors",
        "gauge",
        "Number of open file descriptors for the container.",
        None,
        |s| plain(Some(host::descriptors(&s.pids).0)),
    ),
    ("container_sockets", "gauge", "Number of open sockets for the container.", None, |s| {
        plain(Some(host::descriptors(&s.pids).1))
    }),
    ("container_last_seen", "gauge", "Last time a container was seen by the exporter", None, |s| {
        plain(s.seen)
    }),
];

pub async fn serve(State(s): State<Shared>) -> Response {
    let mut known = match known(s.host.runtime()).await {
        Ok(known) => known,
        Err(e) => return (StatusCode::INTERNAL_SERVER_ERROR, e.to_string()).into_response(),
    };
    // Names of images are the pods' own; the runtime may only know numbers.
    for pod in s.host.pods() {
        for status in crate::routes::container_statuses(&pod) {
            let id = status.container_id.as_deref().and_then(crate::routes::bare_id);
            if let Some(known) = id.and_then(|id| known.get_mut(&id)) {
                known.image.clone_from(&status.image);
            }
        }
    }
    let base = s.host.pods_cgroup();
    let text = tokio::task::spawn_blocking(move || render(&known, &base)).await;
    match text {
        Ok(text) => answer(text),
        Err(e) => (StatusCode::INTERNAL_SERVER_ERROR, e.to_string()).into_response(),
    }
}

async fn known(runtime: &cri::Runtime) -> cri::Result<HashMap<String, Known>> {
    let (containers, sandboxes) =
        tokio::try_join!(runtime.list_containers(None), runtime.list_pod_sandbox(None))?;
    let mut out = HashMap::with_capacity(containers.len() + sandboxes.len());
    let image = sandbox_image(runtime).await;
    for sandbox in sandboxes {
        let meta = sandbox.metadata.unwrap_or_default();
        let known = Known {
            container: String::new(),
            image: image.clone(),
            namespace: meta.namespace,
            pod: meta.name,
            uid: meta.uid,
            attempt: meta.attempt,
        };
        out.insert(sandbox.id, known);
    }
    for container in containers {
        let label = |key: &str| container.labels.get(key).cloned().unwrap_or_default();
        let known = Known {
            container: label("io.kubernetes.container.name"),
            image: container.image.as_ref().map(|i| i.user_specified_image.clone()).unwrap_or_default(),
            namespace: label("io.kubernetes.pod.namespace"),
            pod: label("io.kubernetes.pod.name"),
            uid: label("io.kubernetes.pod.uid"),
            attempt: container.metadata.map_or(0, |m| m.attempt),
        };
        out.insert(container.id, known);
    }
    Ok(out)
}

/// The image of sandboxes, where the runtime tells; asked until it does.
async fn sandbox_image(runtime: &cri::Runtime) -> String {
    static IMAGE: tokio::sync::OnceCell<String> = tokio::sync::OnceCell::const_new();
    let ask = || async { runtime.sandbox_image().await.ok().filter(|image| !image.is_empty()).ok_or(()) };
    IMAGE.get_or_try_init(ask).await.cloned().unwrap_or_default()
}

fn render(known: &HashMap<String, Known>, base: &Path) -> String {
    let mut rows = Vec::new();
    rows.extend(row(Path::new(""), known));
    collect(base, known, 0, &mut rows);
    for row in &mut rows {
        row.network = match row.id.as_str() {
            "/" => host::interfaces(Path::new("/proc/self/net/dev")),
            _ if row.sandbox => host::interfaces_of(&network_pids(Path::new(row.id.trim_start_matches('/')))),
            _ => Vec::new(),
        };
    }
    let mut text = String::new();
    for (name, kind, help, further, value) in FAMILIES {
        let mut family = Family::new(name, kind, help);
        for row in &rows {
            if let Some(v) = value(&row.sample) {
                let mut labels = row.labels();
                labels.extend(further.iter());
                family.add(name, &labels, v);
            }
        }
        text += &family.text;
    }
    text += &labelled::failures(&rows);
    text += &labelled::traffic(&rows);
    text += &labelled::disk_traffic(&rows);
    text += &disks::families();
    text += &tasks::families(&rows);
    text += &labelled::limits_of_files(&rows);
    text + &host::machine()
}

/// The cgroups below one, down to those of containers.
fn collect(path: &Path, known: &HashMap<String, Known>, depth: usize, rows: &mut Vec<Row>) {
    let Some(row) = row(path, known) else { return };
    let leaf = !row.name.is_empty();
    rows.push(row);
    if leaf || depth > 3 {
        return;
    }
    for child in sample::children(path) {
        collect(&child, known, depth + 1, rows);
    }
}

fn row(path: &Path, known: &HashMap<String, Known>) -> Option<Row> {
    let sample = Sample::read(path)?;
    let folder = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    let name = container_id(folder);
    let whose = known.get(name);
    let of_pod = pod_of(folder, path);
    let mut found = whose.cloned().unwrap_or_default();
    if whose.is_none() && of_pod {
        // A pod's cgroup is named after a UID, its pod found by what runs in it.
        let inside = sample::children(path);
        let ids = inside.iter().filter_map(|c| c.file_name()?.to_str().map(container_id));
        if let Some(any) = ids.filter_map(|id| known.get(id)).next() {
            found.namespace.clone_from(&any.namespace);
            found.pod.clone_from(&any.pod);
        }
    }
    let sandbox = whose.is_some_and(|known| known.container.is_empty());
    let (found, name) = match whose {
        None => (found, String::new()),
        Some(_) if folder.starts_with(CRIO) => found.named_by_crio(),
        Some(_) => (found, name.to_owned()),
    };
    Some(Row {
        id: PathBuf::from("/").join(path).to_string_lossy().into_owned(),
        container: found.container,
        image: found.image,
        name,
        namespace: found.namespace,
        pod: found.pod,
        sample,
        network: Vec::new(),
        sandbox,
    })
}

/// Whether a folder is a pod's.
fn pod_of(folder: &str, path: &Path) -> bool {
    let parts = path.components().count();
    parts > 1 && (folder.starts_with("pod") || folder.contains("-pod"))
}

/// What runtimes put before the id: containerd only in systemd's scopes, CRI-O always.
const PREFIXES: [&str; 3] = ["cri-containerd-", CRIO, "docker-"];
const CRIO: &str = "crio-";

/// The id in a folder's name: `<id>`, `crio-<id>` or `cri-containerd-<id>.scope`. What else CRI-O runs beside a
/// container (`crio-conmon-<id>`) keeps a name that is no container's.
fn container_id(folder: &str) -> &str {
    let stem = folder.strip_suffix(".scope").unwrap_or(folder);
    PREFIXES.iter().find_map(|p| stem.strip_prefix(p)).unwrap_or(stem)
}

/// The processes of a pod's sandbox.
pub fn sandbox_pids(pod: &Path, id: &str) -> Vec<u32> {
    child(pod, id).map(|path| network_pids(&path)).unwrap_or_default()
}

/// Processes that share the network of a sandbox: its own, or, where the runtime gives it none, any other of the pod.
fn network_pids(sandbox: &Path) -> Vec<u32> {
    let own = sample::processes(sandbox);
    if !own.is_empty() {
        return own;
    }
    let Some(pod) = sandbox.parent() else { return own };
    let containers = sample::children(pod).into_iter().filter(|path| {
        let folder = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        // Monitors of containers stay on the network of the node.
        !container_id(folder).contains('-')
    });
    containers.map(|path| sample::processes(&path)).find(|pids| !pids.is_empty()).unwrap_or_default()
}

/// The cgroup of a container in its pod's.
pub fn child(pod: &Path, id: &str) -> Option<PathBuf> {
    let is_own = |c: &PathBuf| c.file_name().and_then(|n| n.to_str()).is_some_and(|n| container_id(n) == id);
    sample::children(pod).into_iter().find(is_own)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_understood() {
        assert_eq!(container_id("cri-containerd-abc.scope"), "abc");
        assert_eq!(container_id("abc"), "abc");
        assert_eq!(container_id("crio-abc"), "abc");
        assert_eq!(container_id("crio-abc.scope"), "abc");
        assert_ne!(container_id("crio-conmon-abc.scope"), "abc", "a monitor is no container");
        assert!(pod_of("pod1-2", Path::new("kubepods/pod1-2")));
        assert!(pod_of("kubepods-burstable-pod1_2.slice", Path::new("kubepods.slice/x")));
        assert!(!pod_of("burstable", Path::new("kubepods/burstable")));
    }

    #[test]
    fn names_in_crio() {
        let known = |container: &str| Known {
            container: container.into(),
            image: "i".into(),
            namespace: "n".into(),
            pod: "p".into(),
            uid: "u".into(),
            attempt: 2,
        };
        for (container, expected) in
            [("c", ("c", "i", "k8s_c_p_n_u_2")), ("", ("POD", "", "k8s_POD_p_n_u_2"))]
        {
            let (found, name) = known(container).named_by_crio();
            assert_eq!((found.container.as_str(), found.image.as_str(), name.as_str()), expected);
        }
    }

    #[test]
    fn the_root_is_told_of() {
        let text = render(&HashMap::new(), Path::new("no-such-cgroup"));
        assert!(text.contains("machine_memory_bytes"), "{text}");
        assert!(text.contains("# TYPE container_network_receive_bytes_total counter"));
    }
}
