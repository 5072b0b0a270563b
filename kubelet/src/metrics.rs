//! The kubelet's own metrics. What is counted as it happens stands here as counters; what is a state is written by
//! [`refresh`] when somebody asks for the metrics, so that nobody keeps it up to date in between.

/// Metrics that register themselves when they are first used.
macro_rules! metrics {
    ($($static:ident: $type:ty = $make:ident($name:literal, $help:literal $(, $more:expr)*);)*) => {
        $(static $static: LazyLock<$type> = LazyLock::new(|| $make($name, $help $(, $more)*));)*
    };
}

pub mod node;
pub mod pods;
pub mod resizes;
mod state;

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use component::metrics::{CounterVec, GaugeVec, HistogramVec, counter_vec, gauge_vec, histogram_vec};

use crate::certificates::{self, Kind};
use crate::kubelet::Kubelet;
use crate::pod::PodExt;

const SECONDS: &[f64] = &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
const RUNTIME_SECONDS: &[f64] = &[
    0.005,
    0.0125,
    0.03125,
    0.078_125,
    0.195_312_5,
    0.488_281_25,
    1.220_703_125,
    3.051_757_812_5,
    7.629_394_531_25,
    19.073_486_328_125,
    47.683_715_820_312_5,
    119.209_289_550_781_25,
    298.023_223_876_953_1,
    745.058_059_692_382_8,
];

metrics! {
    PREEMPTIONS: CounterVec = counter_vec("kubelet_preemptions", "[ALPHA] Cumulative number of pod preemptions by preemption resource", &["preemption_signal"]);
    ALIGNED: CounterVec = counter_vec("kubelet_container_aligned_compute_resources_count", "[ALPHA] Cumulative number of aligned compute resources allocated to containers by alignment type.", &["boundary", "scope"]);
    UNALIGNED: CounterVec = counter_vec("kubelet_container_aligned_compute_resources_failure_count", "[ALPHA] Cumulative number of failures to allocate aligned compute resources to containers by alignment type.", &["boundary", "scope"]);
    EVICTIONS: CounterVec = counter_vec("kubelet_evictions", "[ALPHA] Cumulative number of pod evictions by eviction signal", &["eviction_signal"]);
    REJECTIONS: CounterVec = counter_vec("kubelet_admission_rejections_total", "[ALPHA] Cumulative number pod admission rejections by the Kubelet.", &["reason"]);
    IMAGES_COLLECTED: CounterVec = counter_vec("kubelet_image_garbage_collected_total", "[ALPHA] Total number of images garbage collected by the kubelet, whether through disk usage or image age.", &["reason"]);
    OPERATIONS: CounterVec = counter_vec("kubelet_runtime_operations_total", "[ALPHA] Cumulative number of runtime operations by operation type.", &["operation_type"]);
    OPERATION_ERRORS: CounterVec = counter_vec("kubelet_runtime_operations_errors_total", "[ALPHA] Cumulative number of runtime operation errors by operation type.", &["operation_type"]);
    OPERATION_SECONDS: HistogramVec = histogram_vec("kubelet_runtime_operations_duration_seconds", "[ALPHA] Duration in seconds of runtime operations. Broken down by operation type.", &["operation_type"], RUNTIME_SECONDS);
    SANDBOX_SECONDS: HistogramVec = histogram_vec("kubelet_run_podsandbox_duration_seconds", "[ALPHA] Duration in seconds of the run_podsandbox operations. Broken down by RuntimeClass.Handler.", &["runtime_handler"], RUNTIME_SECONDS);
    SANDBOX_ERRORS: CounterVec = counter_vec("kubelet_run_podsandbox_errors_total", "[ALPHA] Cumulative number of the run_podsandbox operation errors by RuntimeClass.Handler.", &["runtime_handler"]);
    STARTED_PODS: CounterVec = counter_vec("kubelet_started_pods_total", "[ALPHA] Cumulative number of pods started", &[]);
    STARTED_PODS_ERRORS: CounterVec = counter_vec("kubelet_started_pods_errors_total", "[ALPHA] Cumulative number of errors when starting pods", &[]);
    RELIST_SECONDS: HistogramVec = histogram_vec("kubelet_pleg_relist_duration_seconds", "[ALPHA] Duration in seconds for relisting pods in PLEG.", &[], SECONDS);
    RELIST_INTERVAL: HistogramVec = histogram_vec("kubelet_pleg_relist_interval_seconds", "[ALPHA] Interval in seconds between relisting in PLEG.", &[], SECONDS);
    TOPOLOGY_REQUESTS: CounterVec = counter_vec("kubelet_topology_manager_admission_requests_total", "[ALPHA] The number of admission requests where resources have to be aligned.", &[]);
    TOPOLOGY_ERRORS: CounterVec = counter_vec("kubelet_topology_manager_admission_errors_total", "[ALPHA] The number of admission request failures where resources could not be aligned.", &[]);
    TOPOLOGY_MILLISECONDS: HistogramVec = histogram_vec("kubelet_topology_manager_admission_duration_ms", "[ALPHA] Duration in milliseconds to serve a pod admission request.", &[], &[0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2, 102.4, 204.8, 409.6, 819.2]);
    CPU_PINNED: CounterVec = counter_vec("kubelet_cpu_manager_pinning_requests_total", "[ALPHA] The number of cpu core allocations which required pinning.", &[]);
    CPU_ERRORS: CounterVec = counter_vec("kubelet_cpu_manager_pinning_errors_total", "[ALPHA] The number of cpu core allocations which required pinning failed.", &[]);
    MEMORY_PINNED: CounterVec = counter_vec("kubelet_memory_manager_pinning_requests_total", "[ALPHA] The number of memory pages allocations which required pinning.", &[]);
    MEMORY_ERRORS: CounterVec = counter_vec("kubelet_memory_manager_pinning_errors_total", "[ALPHA] The number of memory pages allocations which required pinning that failed.", &[]);
    NODE_NAME: GaugeVec = gauge_vec("kubelet_node_name", "[ALPHA] The node's name. The count is always 1.", &["node"]);
    CGROUP_VERSION: GaugeVec = gauge_vec("kubelet_cgroup_version", "[ALPHA] cgroup version on the hosts.", &[]);
    RUNNING_PODS: GaugeVec = gauge_vec("kubelet_running_pods", "[ALPHA] Number of pods that have a running pod sandbox", &[]);
    RUNNING_CONTAINERS: GaugeVec = gauge_vec("kubelet_running_containers", "[ALPHA] Number of containers currently running", &["container_state"]);
    DESIRED_PODS: GaugeVec = gauge_vec("kubelet_desired_pods", "[ALPHA] The number of pods the kubelet is being instructed to run. static is true if the pod is not from the apiserver.", &["static"]);
    ACTIVE_PODS: GaugeVec = gauge_vec("kubelet_active_pods", "[ALPHA] The number of pods the kubelet considers active and which are being considered when admitting new pods. static is true if the pod is not from the apiserver.", &["static"]);
    LAST_SEEN: GaugeVec = gauge_vec("kubelet_pleg_last_seen_seconds", "[ALPHA] Timestamp in seconds when PLEG was last seen active.", &[]);
    CLIENT_TTL: GaugeVec = gauge_vec("kubelet_certificate_manager_client_ttl_seconds", "[ALPHA] Gauge of the TTL (time-to-live) of the Kubelet's client certificate.", &[]);
    SERVER_TTL: GaugeVec = gauge_vec("kubelet_certificate_manager_server_ttl_seconds", "[ALPHA] Gauge of the shortest TTL (time-to-live) of the Kubelet's serving certificate.", &[]);
}

/// When the runtime was last listed, in milliseconds since 1970.
static RELISTED: AtomicU64 = AtomicU64::new(0);

/// A pod was evicted.
pub fn evicted(signal: &str) {
    EVICTIONS.with(&[signal]).inc();
}

/// A pod was not let in.
pub fn rejected(reason: &str) {
    REJECTIONS.with(&[reason]).inc();
}

/// A pod had to make room for a critical one, for want of a resource.
pub fn preempted(resource: &str) {
    PREEMPTIONS.with(&[resource]).inc();
}

/// What a container was given lies within a boundary (a NUMA node, whole cores), or could not be made to.
pub fn kept_together(boundary: &str, scope: &str, fine: bool) {
    if fine { &ALIGNED } else { &UNALIGNED }.with(&[boundary, scope]).inc();
}

/// An image was removed: for `space` or `age`.
pub fn image_collected(reason: &str) {
    IMAGES_COLLECTED.with(&[reason]).inc();
}

/// The managers decided about a pod.
pub fn aligned(admitted: bool, took: Duration) {
    TOPOLOGY_MILLISECONDS.with(&[]).observe(took.as_secs_f64() * 1000.0);
    TOPOLOGY_REQUESTS.with(&[]).inc();
    if !admitted {
        TOPOLOGY_ERRORS.with(&[]).inc();
    }
}

/// CPUs, or else memory, were asked of a manager.
pub fn pinned(cpus: bool, given: bool) {
    let (asked, failed) = if cpus { (&CPU_PINNED, &CPU_ERRORS) } else { (&MEMORY_PINNED, &MEMORY_ERRORS) };
    asked.with(&[]).inc();
    if !given {
        failed.with(&[]).inc();
    }
}

/// The runtime was listed.
pub fn relisted(took: Duration) {
    let now = u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or(0);
    let before = RELISTED.swap(now, Ordering::Relaxed);
    RELIST_SECONDS.with(&[]).observe(took.as_secs_f64());
    if before > 0 {
        RELIST_INTERVAL.with(&[]).observe(now.saturating_sub(before) as f64 / 1000.0);
    }
}

/// When the runtime was last listed, as time since; `None` if it never was.
pub fn since_relist() -> Option<Duration> {
    let at = RELISTED.load(Ordering::Relaxed);
    let now = u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or(0);
    (at > 0).then(|| Duration::from_millis(now.saturating_sub(at)))
}

/// Counts the runtime's calls.
pub fn watch_runtime() {
    pods::begin();
    node::begin();
    for counter in [&STARTED_PODS, &STARTED_PODS_ERRORS] {
        counter.with(&[]);
    }
    TOPOLOGY_MILLISECONDS.with(&[]);
    for counter in
        [&TOPOLOGY_REQUESTS, &TOPOLOGY_ERRORS, &CPU_PINNED, &CPU_ERRORS, &MEMORY_PINNED, &MEMORY_ERRORS]
    {
        counter.with(&[]);
    }
    cri::observe(|method, took, fine| {
        let Some(operation) = operation(method) else { return };
        OPERATIONS.with(&[operation]).inc();
        OPERATION_SECONDS.with(&[operation]).observe(took.as_secs_f64());
        if !fine {
            OPERATION_ERRORS.with(&[operation]).inc();
        }
        if operation == "run_podsandbox" {
            SANDBOX_SECONDS.with(&[""]).observe(took.as_secs_f64());
            STARTED_PODS.with(&[]).inc();
            if !fine {
                SANDBOX_ERRORS.with(&[""]).inc();
                STARTED_PODS_ERRORS.with(&[]).inc();
            }
        }
    });
}

/// Upstream's name of a call.
fn operation(method: &str) -> Option<&'static str> {
    Some(match method {
        "Version" => "version",
        "Status" => "status",
        "RunPodSandbox" => "run_podsandbox",
        "StopPodSandbox" => "stop_podsandbox",
        "RemovePodSandbox" => "remove_podsandbox",
        "PodSandboxStatus" => "podsandbox_status",
        "ListPodSandbox" => "list_podsandbox",
        "CreateContainer" => "create_container",
        "StartContainer" => "start_container",
        "StopContainer" => "stop_container",
        "RemoveContainer" => "remove_container",
        "ListContainers" => "list_containers",
        "ContainerStatus" => "container_status",
        "UpdateContainerResources" => "update_container",
        "ReopenContainerLog" => "reopen_container_log",
        "ExecSync" => "exec_sync",
        "Exec" => "exec",
        "Attach" => "attach",
        "PortForward" => "port_forward",
        "CheckpointContainer" => "checkpoint_container",
        "ContainerStats" => "container_stats",
        "ListContainerStats" => "list_container_stats",
        "PodSandboxStats" => "podsandbox_stats",
        "ListPodSandboxStats" => "list_podsandbox_stats",
        "ListImages" => "list_images",
        "ImageStatus" => "image_status",
        "PullImage" => "pull_image",
        "RemoveImage" => "remove_image",
        "ImageFsInfo" => "image_fs_info",
        "UpdateRuntimeConfig" => "update_runtime_config",
        "RuntimeConfig" => "runtime_config",
        _ => return None,
    })
}

/// Writes what is a state.
pub fn refresh(kubelet: &Kubelet) {
    NODE_NAME.with(&[&kubelet.node_name]).set(1.0);
    CGROUP_VERSION.with(&[]).set(if kubelet.cgroups.is_v2() { 2.0 } else { 1.0 });
    let (exclusive, shared) = kubelet.managers.cpu_counts();
    node::cpus(exclusive, shared);
    let (claims, all_claims) = kubelet.drivers.in_use();
    node::claims_in_use(&claims, all_claims);
    let (pending, in_progress) = kubelet.allocations.counts();
    resizes::refresh(&pending, in_progress);
    if let Some((pulled, intents)) = kubelet.images.records() {
        pods::pull_records(pulled, intents);
    }
    let all = kubelet.pods.all();
    state::refresh(kubelet, &all);
    let active = kubelet.pods.active();
    for is_static in [false, true] {
        let label = if is_static { "true" } else { "" };
        let desired = all.iter().filter(|d| d.pod.is_static() == is_static && !d.removed).count();
        DESIRED_PODS.with(&[label]).set(desired as f64);
        let active = active.iter().filter(|p| p.is_static() == is_static).count();
        ACTIVE_PODS.with(&[label]).set(active as f64);
    }
    let states = active.iter().filter_map(|p| kubelet.statuses.get(p.uid()));
    let (mut pods, mut running, mut ended, mut waiting) = (0.0, 0.0, 0.0, 0.0);
    for status in states {
        let containers =
            status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten());
        let mut any = false;
        for state in containers.filter_map(|c| c.state.as_ref()) {
            any |= state.running.is_some();
            running += f64::from(u8::from(state.running.is_some()));
            ended += f64::from(u8::from(state.terminated.is_some()));
            waiting += f64::from(u8::from(state.waiting.is_some()));
        }
        pods += f64::from(u8::from(any));
    }
    RUNNING_PODS.with(&[]).set(pods);
    for (state, value) in [("running", running), ("exited", ended), ("created", waiting)] {
        RUNNING_CONTAINERS.with(&[state]).set(value);
    }
    LAST_SEEN.with(&[]).set(RELISTED.load(Ordering::Relaxed) as f64 / 1000.0);
    let now = jiff::Timestamp::now().as_second();
    for (gauge, kind) in [(&CLIENT_TTL, Kind::Client), (&SERVER_TTL, Kind::Server)] {
        let kept = match kind {
            Kind::Client => kubelet.config.rotate_certificates,
            Kind::Server => kubelet.config.server_tls_bootstrap,
        };
        if kept {
            let end =
                certificates::lifetime(&kind.current(&kubelet.cert_dir)).map(|(_, end)| (end - now) as f64);
            gauge.with(&[]).set(end.unwrap_or(f64::INFINITY));
        }
    }
}
