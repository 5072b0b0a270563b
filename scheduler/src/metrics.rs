//! The scheduler's metrics, by upstream's names.

use crate::queue::Queued;
use component::metrics::{CounterVec, GaugeVec, HistogramVec, counter_vec, gauge_vec, histogram_vec};
use std::sync::LazyLock;
use std::time::Duration;

const LATENCY: &[f64] = &[
    0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192, 16.384,
];
const ATTEMPTS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0];

static PENDING: LazyLock<GaugeVec> = LazyLock::new(|| {
    gauge_vec(
        "scheduler_pending_pods",
        "[STABLE] Number of pending pods, by the queue that they are in.",
        &["queue"],
    )
});
static ATTEMPT: LazyLock<HistogramVec> = LazyLock::new(|| {
    let help = "[STABLE] Scheduling attempt latency in seconds (scheduling algorithm + binding)";
    histogram_vec("scheduler_scheduling_attempt_duration_seconds", help, &["profile", "result"], LATENCY)
});
static TRIES: LazyLock<CounterVec> = LazyLock::new(|| {
    let help = "[STABLE] Number of attempts to schedule pods, by the result.";
    counter_vec("scheduler_schedule_attempts_total", help, &["profile", "result"])
});
static POD_ATTEMPTS: LazyLock<HistogramVec> = LazyLock::new(|| {
    let help = "[STABLE] Number of attempts to successfully schedule a pod.";
    histogram_vec("scheduler_pod_scheduling_attempts", help, &[], ATTEMPTS)
});

/// Counts of active, backing off, unschedulable and gated pods.
pub fn pending(counts: &[usize; 4]) {
    for (queue, n) in ["active", "backoff", "unschedulable", "gated"].into_iter().zip(counts) {
        PENDING.with(&[queue]).set(*n as f64);
    }
}

pub fn attempt(result: &str, profile: &str, took: Duration) {
    TRIES.with(&[profile, result]).inc();
    ATTEMPT.with(&[profile, result]).observe(took.as_secs_f64());
}

pub fn scheduled(queued: &Queued) {
    POD_ATTEMPTS.with(&[]).observe(f64::from(queued.attempts));
}
