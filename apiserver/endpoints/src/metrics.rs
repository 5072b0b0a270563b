//! What the server counts. Every label is one of a closed set: clients choose none of them freely.

use crate::body::Body;
use crate::call::Call;
use crate::served::Served;
use auth::UserInfo;
use component::metrics::prometheus_client::metrics::counter::Counter;
use component::metrics::prometheus_client::metrics::histogram::Histogram;
use component::metrics::{CounterVec, GaugeVec, HistogramVec, counter_vec, gauge_vec, histogram_vec};
use http::Response;
use std::sync::Arc;
use std::time::{Duration, Instant};

const DURATION_BUCKETS: &[f64] = &[
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0,
    20.0, 30.0, 45.0, 60.0,
];
const SLI_BUCKETS: &[f64] = &[
    0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0,
    45.0, 60.0,
];
const SIZE_BUCKETS: &[f64] = &[1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9];
const EVENT_BUCKETS: &[f64] = &[1024.0, 2048.0, 4096.0, 8192.0, 16384.0, 32768.0, 65536.0, 131_072.0];
const DECISION_BUCKETS: &[f64] = &[
    0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192, 16.384,
];
/// What a request is about.
const ABOUT: &[&str] = &["verb", "group", "version", "resource", "subresource", "scope", "component"];

/// Handles of the server's metrics.
pub struct Metrics {
    requests: CounterVec,
    durations: HistogramVec,
    sli: HistogramVec,
    sizes: HistogramVec,
    terminations: CounterVec,
    field_validation: HistogramVec,
    deprecated: GaugeVec,
    in_flight: GaugeVec,
    long_running: GaugeVec,
    watch_events: CounterVec,
    watch_sizes: HistogramVec,
    dropped: CounterVec,
    authentication: CounterVec,
    authentication_time: HistogramVec,
    users: CounterVec,
    authorization: CounterVec,
    authorization_time: HistogramVec,
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics {
            requests: counter_vec(
                "apiserver_request_total",
                "[STABLE] Requests by verb, resource and HTTP status.",
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
                "[STABLE] Time from a request's arrival to its response.",
                &["verb", "dry_run", "group", "version", "resource", "subresource", "scope", "component"],
                DURATION_BUCKETS,
            ),
            sli: histogram_vec(
                "apiserver_request_sli_duration_seconds",
                "[ALPHA] The same without the time that a request waited for its turn.",
                ABOUT,
                SLI_BUCKETS,
            ),
            sizes: histogram_vec(
                "apiserver_response_sizes",
                "[STABLE] Bytes of the answers to reads.",
                ABOUT,
                SIZE_BUCKETS,
            ),
            terminations: counter_vec(
                "apiserver_request_terminations_total",
                "[ALPHA] Requests that the server ended to protect itself.",
                &["verb", "group", "version", "resource", "subresource", "scope", "component", "code"],
            ),
            field_validation: histogram_vec(
                "field_validation_request_duration_seconds",
                "[ALPHA] Time of writes by how unknown fields are taken.",
                &["field_validation"],
                SLI_BUCKETS,
            ),
            deprecated: gauge_vec(
                "apiserver_requested_deprecated_apis",
                "[STABLE] APIs on their way out that somebody has asked for.",
                &["group", "version", "resource", "subresource", "removed_release"],
            ),
            in_flight: gauge_vec(
                "apiserver_current_inflight_requests",
                "[STABLE] Requests that are being worked on, by kind.",
                &["request_kind"],
            ),
            long_running: gauge_vec(
                "apiserver_longrunning_requests",
                "[STABLE] Watches and tunnels that are open.",
                ABOUT,
            ),
            watch_events: counter_vec(
                "apiserver_watch_events_total",
                "[ALPHA] Events sent to watchers.",
                &["group", "version", "resource"],
            ),
            watch_sizes: histogram_vec(
                "apiserver_watch_events_sizes",
                "[ALPHA] Bytes of events sent to watchers.",
                &["group", "version", "resource"],
                EVENT_BUCKETS,
            ),
            dropped: counter_vec(
                "apiserver_dropped_requests_total",
                "Requests refused because too many were in flight.",
                &["request_kind"],
            ),
            authentication: counter_vec(
                "authentication_attempts",
                "[ALPHA] Authentications by outcome.",
                &["result"],
            ),
            authentication_time: histogram_vec(
                "authentication_duration_seconds",
                "[ALPHA] Time that authentication took, by outcome.",
                &["result"],
                DECISION_BUCKETS,
            ),
            users: counter_vec(
                "authenticated_user_requests",
                "[ALPHA] Authenticated requests by kind of user.",
                &["username"],
            ),
            authorization: counter_vec(
                "authorization_attempts_total",
                "[ALPHA] Authorizations by outcome.",
                &["result"],
            ),
            authorization_time: histogram_vec(
                "authorization_duration_seconds",
                "[ALPHA] Time that authorization took, by outcome.",
                &["result"],
                DECISION_BUCKETS,
            ),
        }
    }
}

/// An open watch, counted while it lives.
pub struct Running(prometheus_client::metrics::gauge::Gauge<f64, std::sync::atomic::AtomicU64>);

/// What is counted of one watch's events.
#[derive(Clone)]
pub struct Events {
    count: Counter,
    sizes: Histogram,
}

impl Events {
    pub fn sent(&self, bytes: usize) {
        self.count.inc();
        self.sizes.observe(bytes as f64);
    }
}

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

    /// Counters of the events of watches of a resource.
    pub fn events(&self, served: &Served) -> Events {
        let g = &served.gvk;
        let labels = [g.group.as_str(), g.version.as_str(), served.resource.as_str()];
        Events { count: self.watch_events.with(&labels), sizes: self.watch_sizes.with(&labels) }
    }

    /// Who somebody is has been found out, or not.
    pub fn authenticated(&self, user: Option<&UserInfo>, took: Duration) {
        let result = if user.is_some() { "success" } else { "failure" };
        self.authentication.with(&[result]).inc();
        self.authentication_time.with(&[result]).observe(took.as_secs_f64());
        if let Some(user) = user {
            self.users.with(&[kind_of_user(&user.name)]).inc();
        }
    }

    /// What somebody may do has been decided.
    pub fn authorized(&self, allowed: bool, error: bool, took: Duration) {
        let result = match (allowed, error) {
            (true, _) => "allowed",
            (_, true) => "error",
            _ => "no-opinion",
        };
        self.authorization.with(&[result]).inc();
        self.authorization_time.with(&[result]).observe(took.as_secs_f64());
    }

    /// Somebody uses an API that is on its way out.
    pub fn deprecated(&self, served: &Served, subresource: &str) {
        let (g, removed) = (&served.gvk, served.removed_in.as_deref().unwrap_or_default());
        self.deprecated.with(&[&g.group, &g.version, &served.resource, subresource, removed]).set(1.0);
    }

    /// The current load, told when somebody asks for the metrics.
    pub fn load(&self, reading: usize, writing: usize) {
        self.in_flight.with(&["readOnly"]).set(reading as f64);
        self.in_flight.with(&["mutating"]).set(writing as f64);
    }

    pub fn done(&self, call: &Call, response: &mut Response<Body>, started: Instant) {
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
        if matches!(code, "429" | "504") {
            self.terminations.with(&[verb, group, version, resource, sub, scope, "apiserver", code]).inc();
        }
        if verb == "WATCH" {
            return;
        }
        let elapsed = started.elapsed();
        let about = [verb, group, version, resource, sub, scope, "apiserver"];
        self.durations
            .with(&[verb, dry, group, version, resource, sub, scope, "apiserver"])
            .observe(elapsed.as_secs_f64());
        self.sli.with(&about).observe(elapsed.saturating_sub(call.waited()).as_secs_f64());
        if matches!(verb, "GET" | "LIST") {
            let sizes = self.sizes.with(&about);
            let body = std::mem::replace(response.body_mut(), Body::empty());
            *response.body_mut() = body.measured(move |size| sizes.observe(size as f64));
        }
        if row.is_some() && matches!(verb, "POST" | "PUT" | "PATCH" | "APPLY") {
            let taken = match call.query.get("fieldValidation").unwrap_or_default() {
                known @ ("Ignore" | "Warn" | "Strict") => known,
                _ => "",
            };
            self.field_validation.with(&[taken]).observe(elapsed.as_secs_f64());
        }
    }
}

/// Users are many: only those of the system have names of their own here.
fn kind_of_user(name: &str) -> &str {
    match name {
        "admin" | "client" | "kube_proxy" | "kubelet" | "system:serviceaccount:kube-system:default" => name,
        email if email.contains('@') => "email_id",
        _ => "other",
    }
}

fn digits(code: u16, out: &mut [u8; 3]) -> &str {
    for (i, d) in [100, 10, 1].into_iter().enumerate() {
        out[i] = b'0' + u8::try_from(code / d % 10).unwrap_or(0);
    }
    std::str::from_utf8(out).unwrap_or("500")
}
