//! `/metrics` and its kin, in the Prometheus text format.

use crate::routes::Shared;
use crate::stats::{self, NodeUsage, PodUsage};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::CONTENT_TYPE;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{LazyLock, Mutex};

const TEXT: &str = component::metrics::CONTENT_TYPE;

pub fn answer(text: String) -> Response {
    ([(CONTENT_TYPE, TEXT)], text).into_response()
}

/// The kubelet's own metrics.
pub async fn own(State(s): State<Shared>) -> Response {
    s.host.refresh_metrics();
    let mut text = component::metrics::registry().render();
    text += &claims(&s).await;
    text += &log_sizes(&s).await;
    answer(text)
}

/// How much room the logs of each container take.
async fn log_sizes(s: &Shared) -> String {
    let name = "kubelet_container_log_filesystem_used_bytes";
    let help = "[ALPHA] Bytes used by the container's logs on the filesystem.";
    let mut family = Family::new(name, "gauge", help);
    let mut pods = Vec::new();
    for pod in s.host.pods() {
        let meta = &pod.metadata;
        let text = |t: &Option<String>| t.clone().unwrap_or_default();
        pods.push((text(&meta.namespace), text(&meta.name), text(&meta.uid)));
    }
    let root = s.host.pod_logs_dir().to_path_buf();
    let sizes = tokio::task::spawn_blocking(move || {
        let mut sizes = Vec::new();
        for (namespace, name, uid) in pods {
            let dir = root.join(format!("{namespace}_{name}_{uid}"));
            for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
                let files = std::fs::read_dir(entry.path()).into_iter().flatten().flatten();
                let size: u64 = files.filter_map(|f| Some(f.metadata().ok()?.len())).sum();
                let container = entry.file_name().to_string_lossy().into_owned();
                sizes.push((container, namespace.clone(), name.clone(), uid.clone(), size));
            }
        }
        sizes
    });
    let sizes = sizes.await.unwrap_or_default();
    if sizes.is_empty() {
        return String::new();
    }
    for (container, namespace, pod, uid, size) in &sizes {
        let labels =
            [("container", container.as_str()), ("namespace", namespace), ("pod", pod), ("uid", uid)];
        family.add(name, &labels, *size as f64);
    }
    family.text
}

/// How full the volumes of claims are.
async fn claims(s: &Shared) -> String {
    let mut rows = std::collections::BTreeMap::new();
    for pod in s.host.pods().iter().filter(|pod| has_claims(pod)) {
        let namespace = pod.metadata.namespace.clone().unwrap_or_default();
        for (volume, found) in s.volumes.of_pod(&*s.host, pod).await {
            if let Some(claim) = volume.claim {
                rows.insert((namespace.clone(), claim), found);
            }
        }
    }
    type Value = fn(&stats::VolumeUse) -> Option<u64>;
    let health = s.host.volume_health();
    let families: [(&str, &str, Value); 7] = [
        ("available_bytes", "Number of available bytes in the volume", |u| Some(u.bytes?.0)),
        ("capacity_bytes", "Capacity in bytes of the volume", |u| Some(u.bytes?.1)),
        (
            "health_status_abnormal",
            "Abnormal volume health status. The count is either 1 or 0. 1 indicates the volume is unhealthy, 0 indicates volume is healthy",
            |u| Some(u64::from(u.abnormal.as_ref()?.is_some())),
        ),
        ("inodes", "Maximum number of inodes in the volume", |u| Some(u.inodes?.1)),
        ("inodes_free", "Number of free inodes in the volume", |u| Some(u.inodes?.0)),
        ("inodes_used", "Number of used inodes in the volume", |u| Some(u.inodes?.2)),
        ("used_bytes", "Number of used bytes in the volume", |u| Some(u.bytes?.2)),
    ];
    let mut text = String::new();
    let shown = |what: &str| !rows.is_empty() && (health || what != "health_status_abnormal");
    for (what, help, value) in families.iter().filter(|(what, ..)| shown(what)) {
        let name = format!("kubelet_volume_stats_{what}");
        let mut family = Family::new(&name, "gauge", &format!("[ALPHA] {help}"));
        for ((namespace, claim), found) in &rows {
            let labels = [("namespace", namespace.as_str()), ("persistentvolumeclaim", claim)];
            if let Some(value) = value(found) {
                family.add(&name, &labels, value as f64);
            }
        }
        text += &family.text;
    }
    text
}

fn has_claims(pod: &k8s_openapi::api::core::v1::Pod) -> bool {
    let volumes = pod.spec.iter().flat_map(|s| s.volumes.iter().flatten());
    volumes.into_iter().any(|v| v.persistent_volume_claim.is_some() || v.ephemeral.is_some())
}

/// One family of samples.
pub struct Family {
    pub text: String,
}

impl Family {
    pub fn new(name: &str, kind: &str, help: &str) -> Family {
        Family { text: format!("# HELP {name} {help}\n# TYPE {name} {kind}\n") }
    }

    /// The text, or nothing if it has no sample.
    pub fn text_if_any(self) -> String {
        match self.text.lines().any(|line| !line.starts_with('#')) {
            true => self.text,
            false => String::new(),
        }
    }

    pub fn add(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        let labels: Vec<String> = labels.iter().map(|(k, v)| format!("{k}=\"{}\"", escape(v))).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        // Writing to a string cannot fail.
        let _ = writeln!(self.text, "{name}{labels} {value}");
    }
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

async fn pods(s: &Shared) -> Result<Vec<PodUsage>, Response> {
    stats::pods(s, false)
        .await
        .map_err(|e| (StatusCode::INTERNAL_SERVER_ERROR, e.to_string()).into_response())
}

/// One sample a container of a family.
fn per_container(
    pods: &[PodUsage],
    (name, kind, help): (&str, &str, &str),
    value: impl Fn(&stats::ContainerUsage) -> Option<f64>,
) -> String {
    let mut family = Family::new(name, kind, help);
    for pod in pods {
        for c in &pod.containers {
            let Some(v) = value(c) else { continue };
            let labels = [("container", c.name.as_str()), ("namespace", &pod.namespace), ("pod", &pod.name)];
            family.add(name, &labels, v);
        }
    }
    family.text
}

fn per_pod(
    pods: &[PodUsage],
    (name, kind, help): (&str, &str, &str),
    value: impl Fn(&PodUsage) -> Option<f64>,
) -> String {
    let mut family = Family::new(name, kind, help);
    for pod in pods {
        if let Some(v) = value(pod) {
            family.add(name, &[("namespace", &pod.namespace), ("pod", &pod.name)], v);
        }
    }
    family.text
}

fn seconds(nanos: u64) -> f64 {
    nanos as f64 / 1e9
}

/// `/metrics/resource`: CPU and memory of the node, pods and containers.
pub async fn resource(State(s): State<Shared>) -> Response {
    let pods = match pods(&s).await {
        Ok(pods) => pods,
        Err(response) => return response,
    };
    let node = NodeUsage::read();
    let mut text = String::new();
    let cpu = (
        "container_cpu_usage_seconds_total",
        "counter",
        "[STABLE] Cumulative cpu time consumed by the container in core-seconds",
    );
    text += &per_container(&pods, cpu, |c| c.cpu_nanos.map(seconds));
    let memory = (
        "container_memory_working_set_bytes",
        "gauge",
        "[STABLE] Current working set of the container in bytes",
    );
    text += &per_container(&pods, memory, |c| c.working_set.map(|v| v as f64));
    let start = (
        "container_start_time_seconds",
        "gauge",
        "[STABLE] Start time of the container since unix epoch in seconds",
    );
    text += &per_container(&pods, start, |c| c.started.map(|v| v as f64));
    let swap = (
        "container_swap_usage_bytes",
        "gauge",
        "[ALPHA] Current amount of the container swap usage in bytes. Reported only on non-windows systems",
    );
    text += &per_container(&pods, swap, |c| Some(c.swap.unwrap_or(0) as f64));
    let swap = (
        "container_swap_limit_bytes",
        "gauge",
        "[ALPHA] Current amount of the container swap limit in bytes. Reported only on non-windows systems",
    );
    text += &per_container(&pods, swap, |c| c.swap_available.map(|left| (left + c.swap.unwrap_or(0)) as f64));
    for (name, kind, help, value) in [
        (
            "node_swap_usage_bytes",
            "gauge",
            "[ALPHA] Current swap usage of the node in bytes. Reported only on non-windows systems",
            node.swap_used.map(|v| v as f64),
        ),
        (
            "node_cpu_usage_seconds_total",
            "counter",
            "[STABLE] Cumulative cpu time consumed by the node in core-seconds",
            node.cpu_nanos.map(seconds),
        ),
        (
            "node_memory_working_set_bytes",
            "gauge",
            "[STABLE] Current working set of the node in bytes",
            node.memory_used.map(|v| v as f64),
        ),
    ] {
        let mut family = Family::new(name, kind, help);
        if let Some(v) = value {
            family.add(name, &[], v);
        }
        text += &family.text;
    }
    let cpu = (
        "pod_cpu_usage_seconds_total",
        "counter",
        "[STABLE] Cumulative cpu time consumed by the pod in core-seconds",
    );
    text += &per_pod(&pods, cpu, |p| p.usage.as_ref()?.cpu_nanos.map(seconds));
    let memory =
        ("pod_memory_working_set_bytes", "gauge", "[STABLE] Current working set of the pod in bytes");
    text += &per_pod(&pods, memory, |p| p.usage.as_ref()?.working_set.map(|v| v as f64));
    let swap = (
        "pod_swap_usage_bytes",
        "gauge",
        "[ALPHA] Current amount of the pod swap usage in bytes. Reported only on non-windows systems",
    );
    text += &per_pod(&pods, swap, |p| Some(p.usage.as_ref()?.swap.unwrap_or(0) as f64));
    let mut errors = Family::new(
        "resource_scrape_error",
        "gauge",
        "[STABLE] 1 if there was an error while getting container metrics, 0 otherwise",
    );
    errors.add("resource_scrape_error", &[], 0.0);
    answer(text + &errors.text)
}

/// How often each health check has gone well and not, counted when it is looked at.
static CHECKED: LazyLock<Mutex<BTreeMap<(&'static str, bool), u64>>> = LazyLock::new(Mutex::default);

/// Health checks as metrics know them.
const CHECKS: [&str; 3] = ["log", "ping", "syncloop"];

/// Looks at the health of the kubelet and counts what is found.
pub fn check(failing: &[(&'static str, String)]) {
    let mut checked = CHECKED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    for check in CHECKS {
        let fine = !failing.iter().any(|(failed, _)| *failed == check);
        *checked.entry((check, fine)).or_default() += 1;
    }
}

/// `/metrics/slis`: how the health checks are.
pub async fn slis(State(s): State<Shared>) -> Response {
    let failing = s.host.health();
    check(&failing);
    let name = "kubernetes_healthcheck";
    let mut family =
        Family::new(name, "gauge", "[STABLE] This metric records the result of a single healthcheck.");
    for check in CHECKS {
        let fine = !failing.iter().any(|(failed, _)| *failed == check);
        family.add(name, &[("name", check), ("type", "healthz")], f64::from(u8::from(fine)));
    }
    let name = "kubernetes_healthchecks_total";
    let help = "[STABLE] This metric records the results of all healthcheck.";
    let mut all = Family::new(name, "counter", help);
    for ((check, fine), count) in &*CHECKED.lock().unwrap_or_else(std::sync::PoisonError::into_inner) {
        let status = if *fine { "success" } else { "error" };
        all.add(name, &[("name", check), ("status", status), ("type", "healthz")], *count as f64);
    }
    answer(family.text + &all.text)
}

/// `/metrics/probes`: how often probes succeeded and failed.
pub async fn probes(State(s): State<Shared>) -> Response {
    let name = "prober_probe_total";
    let help =
        "[BETA] Cumulative number of a liveness, readiness or startup probe for a container by result.";
    let mut family = Family::new(name, "counter", help);
    for p in s.host.probe_counts() {
        let labels = [
            ("container", p.container.as_str()),
            ("namespace", &p.namespace),
            ("pod", &p.pod),
            ("pod_uid", &p.pod_uid),
            ("probe_type", p.probe_type),
            ("result", p.result),
        ];
        family.add(name, &labels, p.count as f64);
    }
    answer(family.text + &durations(&s) + &process_start())
}

/// When this process began, which every endpoint tells.
fn process_start() -> String {
    let name = "process_start_time_seconds";
    let whole = component::metrics::registry().render();
    let Some(line) = whole.lines().find(|l| l.starts_with(name)) else { return String::new() };
    let help = "[ALPHA] Start time of the process since unix epoch in seconds.";
    format!("# HELP {name} {help}\n# TYPE {name} gauge\n{line}\n")
}

/// How long probes took that succeeded.
fn durations(s: &Shared) -> String {
    let name = "prober_probe_duration_seconds";
    let all = s.host.probe_durations();
    if all.is_empty() {
        return String::new();
    }
    let mut family = Family::new(name, "histogram", "[ALPHA] Duration in seconds for a probe response.");
    let (bucket, sum, count) = (format!("{name}_bucket"), format!("{name}_sum"), format!("{name}_count"));
    for p in &all {
        let labels = [
            ("container", p.container.as_str()),
            ("namespace", &p.namespace),
            ("pod", &p.pod),
            ("probe_type", p.probe_type),
        ];
        let mut below = 0;
        for (bound, n) in PROBE_SECONDS.iter().zip(&p.took.buckets) {
            below += u64::from(*n);
            let bound = bound.to_string();
            family.add(&bucket, &[&labels[..], &[("le", bound.as_str())]].concat(), below as f64);
        }
        family.add(&bucket, &[&labels[..], &[("le", "+Inf")]].concat(), p.took.count as f64);
        family.add(&sum, &labels, p.took.sum);
        family.add(&count, &labels, p.took.count as f64);
    }
    family.text
}

/// The bounds of the histogram of probes.
const PROBE_SECONDS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// How long attempts of a probe took.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Took {
    buckets: [u32; 11],
    count: u64,
    sum: f64,
}

impl Took {
    /// One more attempt.
    pub fn add(&mut self, seconds: f64) {
        if let Some(index) = PROBE_SECONDS.iter().position(|bound| seconds <= *bound) {
            self.buckets[index] += 1;
        }
        self.count += 1;
        self.sum += seconds;
    }
}
