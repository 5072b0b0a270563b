//! Metrics of the node as a whole: how long it took to come up, how it goes down, how the runtime's events get on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use component::metrics::{CounterVec, GaugeVec, HistogramVec, counter_vec, gauge_vec, histogram_vec};
use parking_lot::Mutex;

use super::SECONDS;

/// Fifteen steps from 0.1 to 40 seconds, each as much longer than the one before.
const DRA_BUCKETS: &[f64] = &[
    0.1,
    0.153_412_740_463_439_1,
    0.235_354_689_365_025_24,
    0.361_064_078_764_099_46,
    0.553_918_298_061_075_2,
    0.849_781_240_983_936_5,
    1.303_672_689_737_678_2,
    2.0,
    3.068_254_809_268_781_4,
    4.707_093_787_300_507,
    7.221_281_575_281_991,
    11.078_365_961_221_504,
    16.995_624_819_678_72,
    26.073_453_794_753_576,
    40.0,
];

metrics! {
    PRE_KUBELET: GaugeVec = gauge_vec("kubelet_node_startup_pre_kubelet_duration_seconds", "[ALPHA] Duration in seconds of node startup before kubelet starts.", &[]);
    PRE_REGISTRATION: GaugeVec = gauge_vec("kubelet_node_startup_pre_registration_duration_seconds", "[ALPHA] Duration in seconds of node startup before registration.", &[]);
    REGISTRATION: GaugeVec = gauge_vec("kubelet_node_startup_registration_duration_seconds", "[ALPHA] Duration in seconds of node startup during registration.", &[]);
    POST_REGISTRATION: GaugeVec = gauge_vec("kubelet_node_startup_post_registration_duration_seconds", "[ALPHA] Duration in seconds of node startup after registration.", &[]);
    STARTUP: GaugeVec = gauge_vec("kubelet_node_startup_duration_seconds", "[ALPHA] Duration in seconds of node startup in total.", &[]);
    SHUTDOWN_BEGAN: GaugeVec = gauge_vec("kubelet_graceful_shutdown_start_time_seconds", "[ALPHA] Last graceful shutdown start time since unix epoch in seconds", &[]);
    SHUTDOWN_ENDED: GaugeVec = gauge_vec("kubelet_graceful_shutdown_end_time_seconds", "[ALPHA] Last graceful shutdown end time since unix epoch in seconds", &[]);
    EVENTS_CONNECTED: CounterVec = counter_vec("kubelet_evented_pleg_connection_success_count", "[ALPHA] The number of times a streaming client was obtained to receive CRI Events.", &[]);
    EVENTS_REFUSED: CounterVec = counter_vec("kubelet_evented_pleg_connection_error_count", "[ALPHA] The number of errors encountered during the establishment of streaming connection with the CRI runtime.", &[]);
    EVENTS_LATENCY: HistogramVec = histogram_vec("kubelet_evented_pleg_connection_latency_seconds", "[ALPHA] The latency of streaming connection with the CRI runtime, measured in seconds.", &[], SECONDS);
    LOSING_SUPPORT: GaugeVec = gauge_vec("kubelet_cri_losing_support", "[ALPHA] the Kubernetes version that the currently running CRI implementation will lose support on if not upgraded.", &["version"]);
    CGROUP_SECONDS: HistogramVec = histogram_vec("kubelet_cgroup_manager_duration_seconds", "[ALPHA] Duration in seconds for cgroup manager operations. Broken down by method.", &["operation_type"], SECONDS);
    EXCLUSIVE_CPUS: GaugeVec = gauge_vec("kubelet_cpu_manager_exclusive_cpu_allocation_count", "[ALPHA] The total number of CPUs exclusively allocated to containers running on this node", &[]);
    SHARED_CPUS: GaugeVec = gauge_vec("kubelet_cpu_manager_shared_pool_size_millicores", "[ALPHA] The size of the shared CPU pool for non-guaranteed QoS pods, in millicores.", &[]);
    ORPHANS: GaugeVec = gauge_vec("kubelet_orphan_pod_cleaned_volumes", "[ALPHA] The total number of orphaned Pods whose volumes were cleaned in the last periodic sweep.", &[]);
    ORPHAN_ERRORS: GaugeVec = gauge_vec("kubelet_orphan_pod_cleaned_volumes_errors", "[ALPHA] The number of orphaned Pods whose volumes failed to be cleaned in the last periodic sweep.", &[]);
    ASKED: CounterVec = counter_vec("kubelet_pod_resources_endpoint_requests_total", "[ALPHA] Cumulative number of requests to the PodResource endpoint. Broken down by server api version.", &["server_api_version"]);
    ASKED_LIST: CounterVec = counter_vec("kubelet_pod_resources_endpoint_requests_list", "[ALPHA] Number of requests to the PodResource List endpoint. Broken down by server api version.", &["server_api_version"]);
    ASKED_GET: CounterVec = counter_vec("kubelet_pod_resources_endpoint_requests_get", "[ALPHA] Number of requests to the PodResource Get endpoint. Broken down by server api version.", &["server_api_version"]);
    ASKED_ALLOCATABLE: CounterVec = counter_vec("kubelet_pod_resources_endpoint_requests_get_allocatable", "[ALPHA] Number of requests to the PodResource GetAllocatableResources endpoint. Broken down by server api version.", &["server_api_version"]);
    FAILED_GET: CounterVec = counter_vec("kubelet_pod_resources_endpoint_errors_get", "[ALPHA] Number of requests to the PodResource Get endpoint which returned error. Broken down by server api version.", &["server_api_version"]);
    DRA_SECONDS: HistogramVec = histogram_vec("dra_operations_duration_seconds", "[ALPHA] Latency histogram in seconds for the duration of handling all ResourceClaims referenced by a pod when the pod starts or stops. Identified by the name of the operation (PrepareResources or UnprepareResources) and separated by the success of the operation. The number of failed operations is provided through the histogram's overall count.", &["is_error", "operation_name"], DRA_BUCKETS);
    DRA_CLAIMS: GaugeVec = gauge_vec("dra_resource_claims_in_use", "[ALPHA] The number of ResourceClaims that are currently in use on the node, by driver name (driver_name label value) and across all drivers (special value <any> for driver_name). Note that the sum of all by-driver counts is not the total number of in-use ResourceClaims because the same ResourceClaim might use devices from different drivers. Instead, use the count for the <any> driver_name.", &["driver_name"]);
}

/// A request of the pod resources API; its first version counts in the total only.
pub fn pod_resources_asked(version: &str, what: &str, failed: bool) {
    ASKED.with(&[version]).inc();
    let of_kind = match what {
        "list" => &ASKED_LIST,
        "get" => &ASKED_GET,
        _ => &ASKED_ALLOCATABLE,
    };
    if version == "v1" {
        of_kind.with(&[version]).inc();
    }
    if failed {
        FAILED_GET.with(&[version]).inc();
    }
}

/// When the parts of the node's start were reached.
#[derive(Default)]
struct Start {
    kubelet: Option<Instant>,
    asked: Option<Instant>,
    registered: Option<Instant>,
}

static START: Mutex<Start> = Mutex::new(Start { kubelet: None, asked: None, registered: None });
static READY: AtomicBool = AtomicBool::new(false);

/// The kubelet begins. Gauges are there from now on, whatever becomes of the node.
pub fn begin() {
    START.lock().kubelet = Some(Instant::now());
    let gauges = [
        &PRE_KUBELET,
        &PRE_REGISTRATION,
        &REGISTRATION,
        &POST_REGISTRATION,
        &STARTUP,
        &SHUTDOWN_BEGAN,
        &SHUTDOWN_ENDED,
        &ORPHANS,
        &ORPHAN_ERRORS,
    ];
    for gauge in gauges {
        gauge.with(&[]);
    }
    EVENTS_CONNECTED.with(&[]);
    EVENTS_REFUSED.with(&[]);
    EVENTS_LATENCY.with(&[]);
    DRA_CLAIMS.with(&["<any>"]);
}

/// The node is about to be registered.
pub fn registering() {
    START.lock().asked.get_or_insert_with(Instant::now);
}

/// The node was registered as a new one.
pub fn registered() {
    let mut start = START.lock();
    if start.registered.is_some() {
        return;
    }
    let now = Instant::now();
    start.registered = Some(now);
    let (Some(kubelet), Some(asked)) = (start.kubelet, start.asked) else { return };
    if let Some(up) = uptime() {
        PRE_KUBELET.with(&[]).set(up.saturating_sub(kubelet.elapsed()).as_secs_f64());
    }
    PRE_REGISTRATION.with(&[]).set((asked - kubelet).as_secs_f64());
    REGISTRATION.with(&[]).set((now - asked).as_secs_f64());
}

/// The node is ready; only the first time after it was registered anew counts.
pub fn ready() {
    let Some(registered) = START.lock().registered else { return };
    if READY.swap(true, Ordering::Relaxed) {
        return;
    }
    POST_REGISTRATION.with(&[]).set(registered.elapsed().as_secs_f64());
    if let Some(up) = uptime() {
        STARTUP.with(&[]).set(up.as_secs_f64());
    }
}

/// How long the machine is up.
fn uptime() -> Option<Duration> {
    let text = std::fs::read_to_string("/proc/uptime").ok()?;
    let seconds = text.split_whitespace().next()?.parse::<f64>().ok()?;
    Duration::try_from_secs_f64(seconds).ok()
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// The machine goes down.
pub fn shutdown_began() {
    SHUTDOWN_BEGAN.with(&[]).set(now());
    SHUTDOWN_ENDED.with(&[]).set(0.0);
}

/// All pods have ended for the machine to go down.
pub fn shutdown_ended() {
    SHUTDOWN_ENDED.with(&[]).set(now());
}

/// The runtime was asked for its events, and has answered after a while.
pub fn subscribed(fine: bool, took: Duration) {
    if fine { &EVENTS_CONNECTED } else { &EVENTS_REFUSED }.with(&[]).inc();
    if fine {
        EVENTS_LATENCY.with(&[]).observe(took.as_secs_f64());
    }
}

/// The runtime does not tell its cgroup driver, which it will have to.
pub fn runtime_is_old() {
    LOSING_SUPPORT.with(&["1.37.0"]).set(1.0);
}

/// A cgroup was made (`create`), changed (`update`) or removed (`destroy`).
pub fn cgroup(operation: &'static str, took: Duration) {
    CGROUP_SECONDS.with(&[operation]).observe(took.as_secs_f64());
}

/// CPUs given to containers for themselves, and those that all others share.
pub fn cpus(exclusive: usize, shared: usize) {
    EXCLUSIVE_CPUS.with(&[]).set(exclusive as f64);
    SHARED_CPUS.with(&[]).set(shared as f64 * 1000.0);
}

/// Folders of pods that are no more were looked for: so many were removed, and so many could not be.
pub fn orphans(removed: usize, failed: usize) {
    ORPHANS.with(&[]).set(removed as f64);
    ORPHAN_ERRORS.with(&[]).set(failed as f64);
}

/// The claims of a pod were prepared (`PrepareResources`) or taken back (`UnprepareResources`).
pub fn claims(operation: &'static str, fine: bool, took: Duration) {
    let error = if fine { "false" } else { "true" };
    DRA_SECONDS.with(&[error, operation]).observe(took.as_secs_f64());
}

/// How many claims are in use, of each driver and of all of them.
pub fn claims_in_use(drivers: &BTreeMap<String, usize>, all: usize) {
    DRA_CLAIMS.with(&["<any>"]).set(all as f64);
    let mut seen = DRIVERS.lock();
    seen.extend(drivers.keys().cloned());
    for driver in seen.iter() {
        DRA_CLAIMS.with(&[driver]).set(drivers.get(driver).copied().unwrap_or(0) as f64);
    }
}

/// The drivers that were ever told of.
static DRIVERS: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
