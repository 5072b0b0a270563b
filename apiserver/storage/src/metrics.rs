//! What is counted of etcd and of what is kept there.

use std::fmt;
use std::future::Future;
use std::sync::atomic::Ordering;
use std::sync::{LazyLock, Weak};
use std::time::Instant;

use component::metrics::prometheus_client::collector::Collector;
use component::metrics::prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use component::metrics::prometheus_client::metrics::MetricType;
use component::metrics::prometheus_client::metrics::gauge::ConstGauge;
use component::metrics::{CounterVec, HistogramVec, counter_vec, histogram_vec, registry};

use crate::Store;
use crate::resource::Resource;

static BUCKETS: [f64; 23] = [
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0,
    20.0, 30.0, 45.0, 60.0,
];

static METRICS: LazyLock<Metrics> = LazyLock::new(|| Metrics {
    requests: counter_vec(
        "etcd_requests_total",
        "[ALPHA] Requests to etcd by operation and resource.",
        &["group", "operation", "resource"],
    ),
    errors: counter_vec(
        "etcd_request_errors_total",
        "[ALPHA] Requests to etcd that failed.",
        &["group", "operation", "resource"],
    ),
    durations: histogram_vec(
        "etcd_request_duration_seconds",
        "[ALPHA] Time that etcd took, by operation and resource.",
        &["group", "operation", "resource"],
        &BUCKETS,
    ),
    received: counter_vec(
        "apiserver_storage_events_received_total",
        "[ALPHA] Changes that etcd has told of.",
        &["group", "resource"],
    ),
});

struct Metrics {
    requests: CounterVec,
    errors: CounterVec,
    durations: HistogramVec,
    received: CounterVec,
}

impl Resource {
    /// Asks etcd and counts that.
    pub(crate) async fn asking<T, E>(
        &self,
        operation: &str,
        asking: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let Some((resource, group)) = self.name() else { return asking.await };
        let begun = Instant::now();
        let answer = asking.await;
        let labels = [group, operation, resource];
        METRICS.requests.with(&labels).inc();
        METRICS.durations.with(&labels).observe(begun.elapsed().as_secs_f64());
        if answer.is_err() {
            METRICS.errors.with(&labels).inc();
        }
        answer
    }

    /// Counts changes that have come.
    pub(crate) fn received(&self, changes: usize) {
        if let Some((resource, group)) = self.name() {
            METRICS.received.with(&[group, resource]).inc_by(changes as u64);
        }
    }
}

/// Tells how much a store holds whenever somebody asks for metrics.
struct Kept(Weak<Store>);

/// Registers what is told of this store.
pub(crate) fn tell(store: Weak<Store>) {
    registry().register_collector(Box::new(Kept(store)));
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Kept")
    }
}

impl Collector for Kept {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let Some(store) = self.0.upgrade() else { return Ok(()) };
        let counted: Vec<(String, String, i64)> = store
            .clusters()
            .flat_map(|c| c.resources())
            .filter_map(|r| {
                let (resource, group) = r.name()?;
                let count = if r.ready() || r.resting() { i64::try_from(r.len()).unwrap_or(-1) } else { -1 };
                Some((resource.to_owned(), group.to_owned(), count))
            })
            .collect();
        let help = "[STABLE] Objects that are stored; -1 if that is not known";
        let mut family =
            encoder.encode_descriptor("apiserver_storage_objects", help, None, MetricType::Gauge)?;
        for (resource, group, count) in &counted {
            let name = if group.is_empty() { resource.clone() } else { format!("{resource}.{group}") };
            ConstGauge::new(*count).encode(family.encode_family(&[("resource", name)])?)?;
        }
        let help = "[ALPHA] Objects that are stored; -1 if that is not known";
        let mut family =
            encoder.encode_descriptor("apiserver_resource_objects", help, None, MetricType::Gauge)?;
        for (resource, group, count) in &counted {
            let labels = [("group", group.as_str()), ("resource", resource.as_str())];
            ConstGauge::new(*count).encode(family.encode_family(&labels)?)?;
        }
        let help = "[STABLE] Size of the database of etcd in bytes";
        let mut family =
            encoder.encode_descriptor("apiserver_storage_size_bytes", help, None, MetricType::Gauge)?;
        for (i, cluster) in store.clusters().enumerate() {
            let size = cluster.size.load(Ordering::Relaxed);
            if size > 0 {
                let labels = [("storage_cluster_id", format!("etcd-{i}"))];
                ConstGauge::new(size).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}
