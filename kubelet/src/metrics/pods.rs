//! Metrics of how pods and containers get on: counted by those who work on them.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use component::metrics::{CounterVec, GaugeVec, HistogramVec, counter_vec, gauge_vec, histogram_vec};
use k8s_openapi::api::core::v1::{ContainerStatus, PodStatus};

use super::SECONDS;
use crate::pod::Kind;

const POD_SECONDS: &[f64] = &[
    0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 20.0, 30.0, 45.0, 60.0, 120.0, 180.0, 240.0, 300.0, 360.0,
    480.0, 600.0, 900.0, 1200.0, 1800.0, 2700.0, 3600.0,
];
const PULL_SECONDS: &[f64] = &[
    1.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 180.0, 240.0, 300.0, 360.0, 480.0, 600.0, 900.0, 1200.0, 1800.0,
    2700.0, 3600.0,
];
const STORAGE_SECONDS: &[f64] = &[0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 25.0, 50.0, 120.0, 300.0, 600.0];

metrics! {
    TERMINATED: CounterVec = counter_vec("kubelet_terminated_containers_total", "[ALPHA] Cumulative number of container terminations.", &["container_type", "exit_code", "reason"]);
    USERNS: CounterVec = counter_vec("kubelet_started_user_namespaced_pods_total", "[ALPHA] Cumulative number of pods with user namespaces started. This metric will only be collected on Linux.", &[]);
    USERNS_ERRORS: CounterVec = counter_vec("kubelet_started_user_namespaced_pods_errors_total", "[ALPHA] Cumulative number of errors when starting pods with user namespaces. This metric will only be collected on Linux.", &[]);
    SLEEP_CUT: CounterVec = counter_vec("kubelet_sleep_action_terminated_early_total", "[ALPHA] The number of times lifecycle sleep handler got terminated before it finishes", &[]);
    HTTP_FALLBACKS: CounterVec = counter_vec("kubelet_lifecycle_handler_http_fallbacks_total", "[ALPHA] The number of times lifecycle handlers successfully fell back to http from https.", &[]);
    POD_RELIST: HistogramVec = histogram_vec("kubelet_pleg_pod_relist_duration_seconds", "[ALPHA] Duration in seconds for relisting a single pod in PLEG.", &[], SECONDS);
    IMAGE_VOLUMES: CounterVec = counter_vec("kubelet_image_volume_requested_total", "[BETA] Number of requested image volumes.", &[]);
    IMAGE_VOLUMES_DONE: CounterVec = counter_vec("kubelet_image_volume_mounted_succeed_total", "[BETA] Number of successful image volume mounts.", &[]);
    IMAGE_VOLUMES_FAILED: CounterVec = counter_vec("kubelet_image_volume_mounted_errors_total", "[BETA] Number of failed image volume mounts.", &[]);
    FIRST_START: GaugeVec = gauge_vec("kubelet_first_network_pod_start_sli_duration_seconds", "[INTERNAL] Duration in seconds to start the first network pod, excluding time to pull images and run init containers, measured from pod creation timestamp to when all its containers are reported as started and observed via watch", &[]);
    ENSURED: CounterVec = counter_vec("kubelet_image_manager_ensure_image_requests_total", "[ALPHA] Number of ensure-image requests processed by the kubelet.", &["present_locally", "pull_policy", "pull_required"]);
    STARTED: CounterVec = counter_vec("kubelet_started_containers_total", "[ALPHA] Cumulative number of containers started", &["container_type"]);
    FAILED: CounterVec = counter_vec("kubelet_started_containers_errors_total", "[ALPHA] Cumulative number of errors when starting containers", &["code", "container_type"]);
    WORKER: HistogramVec = histogram_vec("kubelet_pod_worker_duration_seconds", "[ALPHA] Duration in seconds to sync a single pod. Broken down by operation type: create, update, or sync", &["operation_type"], SECONDS);
    WORKER_START: HistogramVec = histogram_vec("kubelet_pod_worker_start_duration_seconds", "[ALPHA] Duration in seconds from kubelet seeing a pod to starting a worker.", &[], SECONDS);
    START: HistogramVec = histogram_vec("kubelet_pod_start_duration_seconds", "[ALPHA] Duration in seconds from kubelet seeing a pod for the first time to the pod starting to run", &[], POD_SECONDS);
    START_SLI: HistogramVec = histogram_vec("kubelet_pod_start_sli_duration_seconds", "[ALPHA] Duration in seconds to start a pod, excluding time to pull images and run init containers, measured from pod creation timestamp to when all its containers are reported as started and observed via watch", &[], POD_SECONDS);
    START_TOTAL: HistogramVec = histogram_vec("kubelet_pod_start_total_duration_seconds", "[ALPHA] Duration in seconds to start a pod since creation, including time to pull images and run init containers, measured from pod creation timestamp to when all its containers are reported as started and observed via watch", &[], POD_SECONDS);
    CONTAINERS: HistogramVec = histogram_vec("kubelet_containers_per_pod_count", "[ALPHA] The number of containers per pod.", &[], &[1.0, 2.0, 4.0, 8.0, 16.0]);
    PULL: HistogramVec = histogram_vec("kubelet_image_pull_duration_seconds", "[ALPHA] Duration in seconds to pull an image.", &["image_size_in_bytes"], PULL_SECONDS);
    RESTARTED: CounterVec = counter_vec("kubelet_restarted_pods_total", "[ALPHA] Number of pods that have been restarted because they were deleted and recreated with the same UID while the kubelet was watching them (common for static pods, extremely uncommon for API pods)", &["static"]);
    ORPHANED: CounterVec = counter_vec("kubelet_orphaned_runtime_pods_total", "[ALPHA] Number of pods that have been detected in the container runtime without being already known to the pod worker. This typically indicates the kubelet was restarted while a pod was force deleted in the API or in the local configuration, which is unusual.", &[]);
    STORAGE: HistogramVec = histogram_vec("storage_operation_duration_seconds", "[ALPHA] Storage operation duration", &["migrated", "operation_name", "status", "volume_plugin"], STORAGE_SECONDS);
    SYNCED_STATUS: HistogramVec = histogram_vec("kubelet_pod_status_sync_duration_seconds", "[ALPHA] Duration in seconds to sync a pod status update. Measures time from detection of a change to pod status until the API is successfully updated for that pod, even if multiple intevening changes to pod status occur.", &[], &[0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 20.0, 30.0, 45.0, 60.0]);
    STORAGE_WHOLE: HistogramVec = histogram_vec("volume_operation_total_seconds", "[ALPHA] Storage operation end to end duration in seconds", &["operation_name", "plugin_name"], STORAGE_SECONDS);
    RECONSTRUCTED: CounterVec = counter_vec("reconstruct_volume_operations_total", "[ALPHA] The number of volumes that were attempted to be reconstructed from the operating system during kubelet startup. This includes both successful and failed reconstruction.", &[]);
    NOT_RECONSTRUCTED: CounterVec = counter_vec("reconstruct_volume_operations_errors_total", "[ALPHA] The number of volumes that failed reconstruction from the operating system during kubelet startup.", &[]);
    FORCED: CounterVec = counter_vec("force_cleaned_failed_volume_operations_total", "[ALPHA] The number of volumes that were force cleaned after their reconstruction failed during kubelet startup. This includes both successful and failed cleanups.", &[]);
    FORCED_ERRORS: CounterVec = counter_vec("force_cleaned_failed_volume_operation_errors_total", "[ALPHA] The number of volumes that failed force cleanup after their reconstruction failed during kubelet startup.", &[]);
    MUST_PULL: CounterVec = counter_vec("kubelet_imagemanager_image_mustpull_checks_total", "[ALPHA] Counter for how many times kubelet checked whether credentials need to be re-verified to access an image", &["result"]);
    PULLED_RECORDS: GaugeVec = gauge_vec("kubelet_imagemanager_ondisk_pulledrecords", "[ALPHA] Number of ImagePulledRecords stored on disk.", &[]);
    PULL_INTENTS: GaugeVec = gauge_vec("kubelet_imagemanager_ondisk_pullintents", "[ALPHA] Number of ImagePullIntents stored on disk.", &[]);
    PROVIDER: GaugeVec = gauge_vec("kubelet_metrics_provider", "[ALPHA] Metrics provider used by kubelet to collect container stats. Values can be 'cadvisor' and 'cri'", &["provider"]);
    DISCARDED: CounterVec = counter_vec("kubelet_pleg_discard_events", "[ALPHA] The number of discard events in PLEG.", &[]);
    VOLUMES: GaugeVec = gauge_vec("volume_manager_total_volumes", "[ALPHA] Number of volumes in Volume Manager", &["plugin_name", "state"]);
}

/// Counters that are shown even before anything was counted.
pub fn begin() {
    ORPHANED.with(&[]);
    for counter in [
        &USERNS,
        &USERNS_ERRORS,
        &SLEEP_CUT,
        &HTTP_FALLBACKS,
        &IMAGE_VOLUMES,
        &IMAGE_VOLUMES_DONE,
        &IMAGE_VOLUMES_FAILED,
        &RECONSTRUCTED,
        &NOT_RECONSTRUCTED,
        &FORCED,
        &FORCED_ERRORS,
        &DISCARDED,
    ] {
        counter.with(&[]);
    }
    FIRST_START.with(&[]);
    // The cgroups are read here, not asked of the runtime.
    PROVIDER.with(&["cadvisor"]).set(1.0);
    for is_static in ["", "true"] {
        RESTARTED.with(&[is_static]);
    }
}

fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Init | Kind::Sidecar => "init_container",
        Kind::Main => "container",
        Kind::Ephemeral => "ephemeral_container",
    }
}

/// Counts the containers that `now` says have ended and `before` did not.
pub fn terminated(before: &PodStatus, now: &PodStatus) {
    type List<'a> = Option<&'a Vec<ContainerStatus>>;
    let ended = |c: &ContainerStatus| c.state.as_ref().and_then(|s| s.terminated.clone());
    let count = |old: List<'_>, new: List<'_>, kind: &str| {
        for status in new.into_iter().flatten() {
            let Some(state) = ended(status) else { continue };
            let same = |c: &&ContainerStatus| c.name == status.name;
            let before = old.and_then(|old| old.iter().find(same)).and_then(ended);
            if before.is_none() {
                let reason = state.reason.unwrap_or_default();
                TERMINATED.with(&[kind, &state.exit_code.to_string(), known_reason(&reason)]).inc();
            }
        }
    };
    count(before.init_container_statuses.as_ref(), now.init_container_statuses.as_ref(), "init_container");
    count(before.container_statuses.as_ref(), now.container_statuses.as_ref(), "container");
    let (old, new) = (&before.ephemeral_container_statuses, &now.ephemeral_container_statuses);
    count(old.as_ref(), new.as_ref(), "ephemeral_container");
}

/// The reasons that a metric may show: a runtime's own words must not make ever more of them.
fn known_reason(reason: &str) -> &str {
    let known =
        ["", "Completed", "Error", "OOMKilled", "ContainerStatusUnknown", "ContainerCannotRun", "StartError"];
    if known.contains(&reason) { reason } else { "Other" }
}

/// A sandbox with a user namespace of its own was made, or could not be.
pub fn user_namespaced(fine: bool) {
    USERNS.with(&[]).inc();
    if !fine {
        USERNS_ERRORS.with(&[]).inc();
    }
}

/// A hook that sleeps was cut short.
pub fn sleep_cut() {
    SLEEP_CUT.with(&[]).inc();
}

/// A hook over HTTPS was answered in HTTP, and done so.
pub fn http_fallback() {
    HTTP_FALLBACKS.with(&[]).inc();
}

/// A pod was read from the runtime.
pub fn looked_at(took: Duration) {
    POD_RELIST.with(&[]).observe(took.as_secs_f64());
}

/// Image volumes were asked for, and mounted or not.
pub fn image_volumes(count: usize, fine: bool) {
    let count = u64::try_from(count).unwrap_or(0);
    IMAGE_VOLUMES.with(&[]).inc_by(count);
    if fine { &IMAGE_VOLUMES_DONE } else { &IMAGE_VOLUMES_FAILED }.with(&[]).inc_by(count);
}

/// An image was wanted: whether it was there (if it was looked for), and whether it had to be pulled.
pub fn ensured(policy: &str, present: Option<bool>, pull: bool) {
    let word = |b: bool| if b { "true" } else { "false" };
    let policy = match policy {
        "Always" => "always",
        "Never" => "never",
        _ => "ifnotpresent",
    };
    ENSURED.with(&[present.map_or("unknown", word), policy, word(pull)]).inc();
}

/// A static pod that was ended is asked for again.
pub fn restarted() {
    RESTARTED.with(&["true"]).inc();
}

/// A container is about to be started.
pub fn starting(kind: Kind) {
    STARTED.with(&[kind_name(kind)]).inc();
}

/// A container could not be started.
pub fn failed(kind: Kind, reason: &str) {
    FAILED.with(&[reason, kind_name(kind)]).inc();
}

/// A worker has looked at its pod.
pub fn synced(operation: &str, took: Duration) {
    WORKER.with(&[operation]).observe(took.as_secs_f64());
}

/// A worker begins, so long after its pod was seen.
pub fn worker_started(after: Duration, containers: usize) {
    WORKER_START.with(&[]).observe(after.as_secs_f64());
    CONTAINERS.with(&[]).observe(containers as f64);
}

/// The first pod with a network of its own has started.
static FIRST_SEEN: AtomicBool = AtomicBool::new(false);

/// A new pod runs: so long after it was seen and made, of which so much was spent on images; whether it has a
/// network of its own.
pub fn running(since_seen: Duration, since_made: Option<Duration>, images: Duration, network: bool) {
    START.with(&[]).observe(since_seen.as_secs_f64());
    if let Some(total) = since_made {
        START_TOTAL.with(&[]).observe(total.as_secs_f64());
        let took = total.saturating_sub(images).as_secs_f64();
        START_SLI.with(&[]).observe(took);
        if network && !FIRST_SEEN.swap(true, Ordering::Relaxed) {
            FIRST_START.with(&[]).set(took);
        }
    }
}

/// An image was pulled.
pub fn pulled(size: u64, took: Duration) {
    const MB: u64 = 1 << 20;
    const GB: u64 = 1 << 30;
    let sizes = [
        (100 * GB, "GT100GB"),
        (60 * GB, "60GB-100GB"),
        (40 * GB, "40GB-60GB"),
        (30 * GB, "30GB-40GB"),
        (20 * GB, "20GB-30GB"),
        (10 * GB, "10GB-20GB"),
        (5 * GB, "5GB-10GB"),
        (GB, "1GB-5GB"),
        (500 * MB, "500MB-1GB"),
        (100 * MB, "100MB-500MB"),
        (10 * MB, "10MB-100MB"),
        (0, "0-10MB"),
    ];
    let label = sizes.into_iter().find(|(least, _)| size > *least).map_or("", |(_, label)| label);
    PULL.with(&[label]).observe(took.as_secs_f64());
}

/// A pod was found in the runtime that no source knows.
pub fn orphan_found() {
    ORPHANED.with(&[]).inc();
}

/// The apiserver has taken a status, so long after it changed.
pub fn status_synced(took: Duration) {
    SYNCED_STATUS.with(&[]).observe(took.as_secs_f64());
}

/// A volume was mounted or unmounted, or could not be.
pub fn storage(operation: &str, plugin: &str, fine: bool, took: Duration) {
    let status = if fine { "success" } else { "fail-unknown" };
    STORAGE.with(&["false", operation, status, plugin]).observe(took.as_secs_f64());
    if fine && operation == "volume_mount" {
        STORAGE_WHOLE.with(&["overall_volume_mount", plugin]).observe(took.as_secs_f64());
    }
}

/// What a kubelet before has left of a volume was taken in, or could not be read.
pub fn reconstructed(fine: bool) {
    RECONSTRUCTED.with(&[]).inc();
    if !fine {
        NOT_RECONSTRUCTED.with(&[]).inc();
    }
}

/// It was looked at whether a pod may have an image that is there.
pub fn must_pull(result: &str) {
    MUST_PULL.with(&[result]).inc();
}

/// How many records of pulls there are, and of pulls that have not ended.
pub fn pull_records(pulled: usize, intents: usize) {
    PULLED_RECORDS.with(&[]).set(pulled as f64);
    PULL_INTENTS.with(&[]).set(intents as f64);
}

/// How many volumes of a kind there are, and should be.
pub fn volumes(plugin: &str, actual: usize, desired: usize) {
    VOLUMES.with(&[plugin, "actual_state_of_world"]).set(actual as f64);
    VOLUMES.with(&[plugin, "desired_state_of_world"]).set(desired as f64);
}
