//! What the server counts. Every label is one of a closed set: clients choose none of them freely.

use crate::body::Body;
use crate::call::Call;
use crate::served::Served;
use component::metrics::{CounterVec, GaugeVec, HistogramVec, counter_vec, gauge_vec, histogram_vec};
use http::Response;
use std::sync::Arc;
use std::time::Instant;

const DURATION_BUCKETS: &[f64] = &[
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0,
    20.0, 30.0, 45.0, 60.0,
];

/// Handles of the server's metrics.
pub struct Metrics {
    requests: CounterVec,
    durations: HistogramVec,
    in_flight: GaugeVec,
    long_running: GaugeVec,
    dropped: CounterVec,
    authentication: CounterVec,
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics {
            requests: counter_vec(
                "apiserver_request_total",
                "Requests by verb, resource and HTTP status.",
                &[
                    "verb",
                    "dry_run",
                    "group",
                    "version",
                    "resource",
                    "subresource",
                    "scope",
                    "component",
                    "code",
                ],
            ),
            durations: histogram_vec(
                "apiserver_request_duration_seconds",
                "Time from a request's arrival to its response.",
                &["verb", "dry_run", "group", "version", "resource", "subresource", "scope", "component"],
                DURATION_BUCKETS,
            ),
            in_flight: gauge_vec(
                "apiserver_current_inflight_requests",
                "Requests that are being worked on, by kind.",
                &["request_kind"],
            ),
            long_running: gauge_vec(
                "apiserver_longrunning_requests",
                "Watches and tunnels that are open.",
                &["verb", "group", "version", "resource", "subresource", "scope", "component"],
            ),
            dropped: counter_vec(
                "apiserver_dropped_requests_total",
                "Requests refused because too many were in flight.",
                &["request_kind"],
            ),
            authentication: counter_vec(
                "authentication_attempts_total",
                "Authentications by outcome.",
                &["result"],
            ),
        }
    }
}

/// An open watch, counted while it lives.
pub struct Running(prometheus_client::metrics::gauge::Gauge<f64, std::sync::atomic::AtomicU64>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.dec();
    }
}

fn verb(call: &Call) -> &'static str {
    match (call.info.verb, call.method.as_str()) {
        ("list", _) => "LIST",
        ("watch", _) => "WATCH",
        ("deletecollection", _) => "DELETECOLLECTION",
        ("patch", _) if call.content_type() == "application/apply-patch+yaml" => "APPLY",
        (_, "GET" | "HEAD") => "GET",
        (_, "POST") => "POST",
        (_, "PUT") => "PUT",
        (_, "PATCH") => "PATCH",
        (_, "DELETE") => "DELETE",
        _ => "other",
    }
}

impl Metrics {
    pub fn watching(&self, served: &Served) -> Running {
        let g = &served.gvk;
        let gauge = self.long_running.with(&[
            "WATCH",
            &g.group,
            &g.version,
            &served.resource,
            "",
            "cluster",
            "apiserver",
        ]);
        gauge.inc();
        Running(gauge)
    }

    pub fn dropped(&self, read_only: bool) {
        self.dropped.with(&[if read_only { "readOnly" } else { "mutating" }]).inc();
    }

    pub fn authentication_failed(&self) {
        self.authentication.with(&["failure"]).inc();
    }

    /// The current load, told when somebody asks for the metrics.
    pub fn load(&self, reading: usize, writing: usize) {
        self.in_flight.with(&["readOnly"]).set(reading as f64);
        self.in_flight.with(&["mutating"]).set(writing as f64);
    }

    pub fn done(&self, call: &Call, response: &Response<Body>, started: Instant) {
        let info = &call.info;
        let row: Option<Arc<Served>> = info.is_resource.then(|| crate::routes::row(call)).flatten();
        let known = |s: &str| row.as_ref().is_some_and(|r| r.subresource(s).is_some());
        let (group, version, resource, sub) = match &row {
            Some(r) => {
                let sub = if known(&info.subresource) { info.subresource.as_str() } else { "" };
                (r.gvk.group.as_str(), r.gvk.version.as_str(), r.resource.as_str(), sub)
            }
            None => ("", "", "", ""),
        };
        let scope = match (info.is_resource, info.name.is_empty(), info.namespace.is_empty()) {
            (false, ..) => "",
            (_, false, _) => "resource",
            (_, true, false) => "namespace",
            (_, true, true) => "cluster",
        };
        let dry = if call.query.get("dryRun").is_some() { "All" } else { "" };
        let mut code = [0u8; 3];
        let code = digits(response.status().as_u16(), &mut code);
        let verb = verb(call);
        self.requests.with(&[verb, dry, group, version, resource, sub, scope, "apiserver", code]).inc();
        if verb != "WATCH" {
            let elapsed = started.elapsed().as_secs_f64();
            self.durations
                .with(&[verb, dry, group, version, resource, sub, scope, "apiserver"])
                .observe(elapsed);
        }
    }
}

fn digits(code: u16, out: &mut [u8; 3]) -> &str {
    for (i, d) in [100, 10, 1].into_iter().enumerate() {
        out[i] = b'0' + u8::try_from(code / d % 10).unwrap_or(0);
    }
    std::str::from_utf8(out).unwrap_or("500")
}
