//! The process's metrics: one registry, served in Prometheus' text format.
//!
//! Names are Kubernetes' own. Label values never come from a client unchecked: whoever observes picks them from a
//! bounded set.

mod process;
mod text;

use std::collections::HashSet;
use std::sync::LazyLock;

use parking_lot::Mutex;
pub use prometheus_client;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry};

static REGISTRY: LazyLock<Metrics> = LazyLock::new(Metrics::standard);

/// The registry of this process.
pub struct Metrics {
    inner: Mutex<Registry>,
    disabled: Mutex<HashSet<String>>,
    /// How many those are.
    left_out: Counter<u64>,
    /// Counters whose names do not end as those of counters should.
    bare: Mutex<HashSet<String>>,
    /// Metrics whose help ends without a stop, by their names without `_total`.
    open_ended: Mutex<HashSet<String>>,
}

/// The global registry; it holds `process_*` and `kubernetes_build_info` from the start.
pub fn registry() -> &'static Metrics {
    &REGISTRY
}

impl Metrics {
    fn standard() -> Metrics {
        let mut inner = Registry::default();
        inner.register_collector(Box::new(process::Process::new()));
        let metrics = Metrics {
            inner: Mutex::new(inner),
            disabled: Mutex::default(),
            left_out: Counter::default(),
            bare: Mutex::default(),
            open_ended: Mutex::default(),
        };
        process::build_info(&metrics);
        // None is hidden.
        for (name, help, count) in [
            ("disabled_metrics_total", "[BETA] The count of disabled metrics.", metrics.left_out.clone()),
            ("hidden_metrics_total", "[BETA] The count of hidden metrics.", Counter::default()),
        ] {
            metrics.register_counter(name, help, count);
        }
        metrics
    }

    /// Registers a metric under its full name (counters with their `_total`). Register a name once.
    pub fn register(&self, name: &str, help: &str, metric: impl Metric) {
        let bare = name.strip_suffix("_total").unwrap_or(name);
        if !help.ends_with('.') {
            self.open_ended.lock().insert(bare.to_owned());
        }
        self.inner.lock().register(bare, help.trim_end_matches('.'), metric);
    }

    /// Registers a collector that makes its samples when it is asked.
    pub fn register_collector(&self, collector: Box<dyn prometheus_client::collector::Collector>) {
        self.inner.lock().register_collector(collector);
    }

    /// Everything, in Prometheus' text format 0.0.4.
    pub fn render(&self) -> String {
        let mut raw = String::new();
        if prometheus_client::encoding::text::encode(&mut raw, &self.inner.lock()).is_err() {
            return String::new();
        }
        text::to_prometheus(&raw, &self.disabled.lock(), &self.bare.lock(), &self.open_ended.lock())
    }

    fn register_counter(&self, name: &str, help: &str, metric: impl Metric) {
        if !name.ends_with("_total") {
            self.bare.lock().insert(name.to_owned());
        }
        self.register(name, help, metric);
    }

    /// Leaves metrics out of what is served (`--disabled-metrics`).
    pub fn disable(&self, names: impl IntoIterator<Item = String>) {
        let mut disabled = self.disabled.lock();
        let before = disabled.len();
        disabled.extend(names);
        self.left_out.inc_by((disabled.len() - before) as u64);
    }

    /// Serves each feature gate's state as `kubernetes_feature_enabled`.
    pub fn feature_gates(&self, gates: &crate::gates::Gates) {
        let family: Family<Labels, Gauge> = Family::default();
        for (name, stage, on) in gates.all() {
            let stage = if stage == "GA" { String::new() } else { stage.to_uppercase() };
            family.get_or_create(&vec![("name", name.to_owned()), ("stage", stage)]).set(i64::from(on));
        }
        self.register(
            "kubernetes_feature_enabled",
            "[BETA] This metric records the data about the stage and enablement of a k8s feature.",
            family,
        );
    }
}

/// The content type of [`Metrics::render`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8; escaping=underscores";

type Labels = Vec<(&'static str, String)>;

/// A counter with labels.
#[derive(Clone, Debug)]
pub struct CounterVec {
    names: &'static [&'static str],
    family: Family<Labels, Counter>,
}

/// A gauge with labels.
#[derive(Clone, Debug)]
pub struct GaugeVec {
    names: &'static [&'static str],
    family: Family<Labels, Gauge<f64, std::sync::atomic::AtomicU64>>,
}

/// A histogram with labels.
#[derive(Clone, Debug)]
pub struct HistogramVec {
    names: &'static [&'static str],
    family: Family<Labels, Histogram, Constructor>,
}

/// The bounds of a family's histograms.
#[derive(Clone, Debug)]
pub struct Constructor(&'static [f64]);

impl prometheus_client::metrics::family::MetricConstructor<Histogram> for Constructor {
    fn new_metric(&self) -> Histogram {
        Histogram::new(self.0.iter().copied())
    }
}

fn labels(names: &'static [&'static str], values: &[&str]) -> Labels {
    debug_assert_eq!(names.len(), values.len());
    names.iter().zip(values).map(|(n, v)| (*n, (*v).to_owned())).collect()
}

/// A registered counter.
pub fn counter(name: &str, help: &str) -> Counter {
    let metric = Counter::default();
    registry().register_counter(name, help, metric.clone());
    metric
}

/// A registered gauge.
pub fn gauge(name: &str, help: &str) -> Gauge<f64, std::sync::atomic::AtomicU64> {
    let metric = Gauge::default();
    registry().register(name, help, metric.clone());
    metric
}

/// A registered histogram.
pub fn histogram(name: &str, help: &str, buckets: &'static [f64]) -> Histogram {
    let metric = Histogram::new(buckets.iter().copied());
    registry().register(name, help, metric.clone());
    metric
}

/// A registered counter with labels: `static X: LazyLock<CounterVec> = LazyLock::new(|| counter_vec(…))`.
pub fn counter_vec(name: &str, help: &str, names: &'static [&'static str]) -> CounterVec {
    let vec = CounterVec { names, family: Family::default() };
    registry().register_counter(name, help, vec.family.clone());
    vec
}

/// A registered gauge with labels.
pub fn gauge_vec(name: &str, help: &str, names: &'static [&'static str]) -> GaugeVec {
    let vec = GaugeVec { names, family: Family::default() };
    registry().register(name, help, vec.family.clone());
    vec
}

/// A registered histogram with labels.
pub fn histogram_vec(
    name: &str,
    help: &str,
    names: &'static [&'static str],
    buckets: &'static [f64],
) -> HistogramVec {
    let vec = HistogramVec { names, family: Family::new_with_constructor(Constructor(buckets)) };
    registry().register(name, help, vec.family.clone());
    vec
}

impl CounterVec {
    /// The counter of these label values; keep it where the path is hot.
    pub fn with(&self, values: &[&str]) -> Counter {
        self.family.get_or_create(&labels(self.names, values)).clone()
    }
}

impl GaugeVec {
    /// The gauge of these label values.
    pub fn with(&self, values: &[&str]) -> Gauge<f64, std::sync::atomic::AtomicU64> {
        self.family.get_or_create(&labels(self.names, values)).clone()
    }

    /// Forgets a series.
    pub fn remove(&self, values: &[&str]) {
        self.family.remove(&labels(self.names, values));
    }
}

impl HistogramVec {
    /// The histogram of these label values; keep it where the path is hot.
    pub fn with(&self, values: &[&str]) -> Histogram {
        self.family.get_or_create(&labels(self.names, values)).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_types_are_prometheus_own() {
        let c = counter_vec("test_requests_total", "[STABLE] Requests.", &["verb", "code"]);
        c.with(&["GET", "200"]).inc();
        counter("test_bare", "Without an end.").inc();
        assert!(registry().render().contains("# TYPE test_bare counter\ntest_bare 1\n"));
        histogram("test_latency_seconds", "Latency.", &[0.1, 1.0]).observe(0.5);
        counter("test_hidden_total", "Hidden.").inc();
        registry().disable(["test_hidden_total".to_owned()]);
        let out = registry().render();
        for line in [
            "# HELP test_requests_total [STABLE] Requests.",
            "# TYPE test_requests_total counter",
            "test_requests_total{verb=\"GET\",code=\"200\"} 1",
            "test_latency_seconds_bucket{le=\"1\"} 1",
            "# TYPE process_resident_memory_bytes gauge",
        ] {
            assert!(out.lines().any(|l| l == line), "{line} not in:\n{out}");
        }
        assert!(!out.contains("# EOF") && !out.contains("test_hidden"));
    }
}
