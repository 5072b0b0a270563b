//! `workqueue_*`.

use std::sync::LazyLock;
use std::sync::atomic::AtomicU64;

use component::metrics::{CounterVec, GaugeVec, HistogramVec, counter_vec, gauge_vec, histogram_vec};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;

const NAME: &[&str] = &["name"];
const BUCKETS: &[f64] =
    &[1e-8, 1e-7, 1e-6, 9.999999999999999e-6, 9.999999999999999e-5, 0.001, 0.01, 0.1, 1.0, 10.0];

static DEPTH: LazyLock<GaugeVec> =
    LazyLock::new(|| gauge_vec("workqueue_depth", "[ALPHA] Keys that wait now.", NAME));
static ADDS: LazyLock<CounterVec> =
    LazyLock::new(|| counter_vec("workqueue_adds_total", "[ALPHA] Keys that were queued.", NAME));
static RETRIES: LazyLock<CounterVec> = LazyLock::new(|| {
    counter_vec("workqueue_retries_total", "[ALPHA] Keys that were queued again after a while.", NAME)
});
static WAITED: LazyLock<HistogramVec> = LazyLock::new(|| {
    let help = "[ALPHA] Seconds that a key waited.";
    histogram_vec("workqueue_queue_duration_seconds", help, NAME, BUCKETS)
});
static WORKED: LazyLock<HistogramVec> = LazyLock::new(|| {
    let help = "[ALPHA] Seconds that a key was worked on.";
    histogram_vec("workqueue_work_duration_seconds", help, NAME, BUCKETS)
});

static UNFINISHED: LazyLock<GaugeVec> = LazyLock::new(|| {
    let help = "[ALPHA] Seconds spent so far on keys that are being worked on.";
    gauge_vec("workqueue_unfinished_work_seconds", help, NAME)
});
static LONGEST: LazyLock<GaugeVec> = LazyLock::new(|| {
    let help = "[ALPHA] Seconds spent so far on the key that has been worked on longest.";
    gauge_vec("workqueue_longest_running_processor_seconds", help, NAME)
});

/// The series of one queue.
pub(super) struct QueueMetrics {
    pub(super) name: &'static str,
    pub(super) depth: Gauge<f64, AtomicU64>,
    pub(super) adds: Counter,
    pub(super) retries: Counter,
    pub(super) waited: Histogram,
    pub(super) worked: Histogram,
    pub(super) unfinished: Gauge<f64, AtomicU64>,
    pub(super) longest: Gauge<f64, AtomicU64>,
}

impl QueueMetrics {
    pub(super) fn new(name: &'static str) -> QueueMetrics {
        QueueMetrics {
            name,
            depth: DEPTH.with(&[name]),
            adds: ADDS.with(&[name]),
            retries: RETRIES.with(&[name]),
            waited: WAITED.with(&[name]),
            worked: WORKED.with(&[name]),
            unfinished: UNFINISHED.with(&[name]),
            longest: LONGEST.with(&[name]),
        }
    }
}
