//! Counts the requests to the server, by the first part of their path.

use std::sync::LazyLock;
use std::time::Instant;

use axum::body::Body;
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use component::metrics::{CounterVec, GaugeVec, HistogramVec, counter_vec, gauge_vec, histogram_vec};

const LABELS: &[&str] = &["long_running", "method", "path", "server_type"];
const SECONDS: &[f64] = &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

static REQUESTS: LazyLock<CounterVec> = LazyLock::new(|| {
    counter_vec(
        "kubelet_http_requests_total",
        "[ALPHA] Number of the http requests received since the server started",
        LABELS,
    )
});
static IN_FLIGHT: LazyLock<GaugeVec> = LazyLock::new(|| {
    gauge_vec("kubelet_http_inflight_requests", "[ALPHA] Number of the inflight http requests", LABELS)
});
static DURATION: LazyLock<HistogramVec> = LazyLock::new(|| {
    let help = "[ALPHA] Duration in seconds to serve http requests";
    histogram_vec("kubelet_http_requests_duration_seconds", help, LABELS, SECONDS)
});

const METHODS: [&str; 8] = ["OPTIONS", "GET", "HEAD", "POST", "PUT", "DELETE", "TRACE", "CONNECT"];
const LONG: [&str; 5] = ["exec", "attach", "portForward", "containerLogs", "debug"];
const PATHS: [&str; 20] = [
    "attach",
    "checkpoint",
    "configz",
    "containerLogs",
    "debug",
    "exec",
    "flagz",
    "healthz",
    "logs",
    "metrics",
    "metrics/cadvisor",
    "metrics/probes",
    "metrics/resource",
    "pods",
    "portForward",
    "pprof",
    "run",
    "runningpods",
    "stats",
    "statusz",
];

/// What a path is counted as.
fn bucket(path: &str) -> &'static str {
    let path = path.trim_matches('/');
    let parts = if path.starts_with("metrics") { 2 } else { 1 };
    let root: Vec<&str> = path.split('/').take(parts).collect();
    let root = root.join("/");
    PATHS.into_iter().find(|known| *known == root).unwrap_or("other")
}

/// Middleware around every route.
pub async fn count(server: &'static str, request: Request<Body>, next: Next) -> Response {
    let method = METHODS.into_iter().find(|m| *m == request.method().as_str()).unwrap_or("other");
    let path = bucket(request.uri().path());
    let long = if LONG.contains(&path) { "true" } else { "false" };
    let labels = [long, method, path, server];
    REQUESTS.with(&labels).inc();
    let in_flight = Flying(IN_FLIGHT.with(&labels), labels, Instant::now());
    in_flight.0.inc();
    next.run(request).await
}

type Gauge = component::metrics::prometheus_client::metrics::gauge::Gauge<f64, std::sync::atomic::AtomicU64>;

/// A request under way; one that is given up counts as done, too.
struct Flying(Gauge, [&'static str; 4], Instant);

impl Drop for Flying {
    fn drop(&mut self) {
        self.0.dec();
        DURATION.with(&self.1).observe(self.2.elapsed().as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::bucket;

    #[test]
    fn paths_are_few() {
        for (path, expected) in [
            ("/pods", "pods"),
            ("/metrics/cadvisor", "metrics/cadvisor"),
            ("/metrics", "metrics"),
            ("/exec/a/b/c", "exec"),
            ("/stats/summary", "stats"),
            ("/nothing/of/ours", "other"),
        ] {
            assert_eq!(bucket(path), expected, "{path}");
        }
    }
}
