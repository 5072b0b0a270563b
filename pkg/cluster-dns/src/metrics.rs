//! Metrics, by the names that dashboards of a cluster's DNS look for.

use std::net::SocketAddr;
use std::time::Duration;

use component::metrics::{CounterVec, HistogramVec, counter_vec, histogram_vec};
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;

const SECONDS: &[f64] = &[0.00025, 0.001, 0.004, 0.016, 0.064, 0.256, 1.024, 4.096];

/// What is counted; clones count together.
#[derive(Clone)]
pub struct Metrics {
    requests: CounterVec,
    responses: CounterVec,
    duration: HistogramVec,
    forwarded: HistogramVec,
    forward_failures: CounterVec,
    cache: CounterVec,
}

impl Metrics {
    /// Registers all of them; once a process.
    pub fn register() -> Metrics {
        Metrics {
            requests: counter_vec(
                "coredns_dns_requests_total",
                "Questions, by protocol, address family and type.",
                &["proto", "family", "type"],
            ),
            responses: counter_vec("coredns_dns_responses_total", "Answers, by response code.", &["rcode"]),
            duration: histogram_vec(
                "coredns_dns_request_duration_seconds",
                "Time from question to answer, by zone.",
                &["zone"],
                SECONDS,
            ),
            forwarded: histogram_vec(
                "coredns_proxy_request_duration_seconds",
                "Time that other resolvers took, by response code.",
                &["proxy_name", "to", "rcode"],
                SECONDS,
            ),
            forward_failures: counter_vec(
                "coredns_forward_failures_total",
                "Questions that a resolver did not answer.",
                &["to"],
            ),
            cache: counter_vec(
                "coredns_cache_requests_total",
                "Lookups in the cache, by result.",
                &["result"],
            ),
        }
    }

    /// A question came.
    pub fn request(&self, tcp: bool, from: SocketAddr, kind: RecordType) {
        let proto = if tcp { "tcp" } else { "udp" };
        let family = if from.is_ipv4() || is_mapped(from) { "1" } else { "2" };
        self.requests.with(&[proto, family, kind_name(kind)]).inc();
    }

    /// An answer goes.
    pub fn response(&self, code: ResponseCode, own: bool, zone: &str, took: Duration) {
        self.responses.with(&[code_name(code)]).inc();
        self.duration.with(&[if own { zone } else { "." }]).observe(took.as_secs_f64());
    }

    /// Another resolver answered.
    pub fn forwarded(&self, to: &str, code: ResponseCode, took: Duration) {
        self.forwarded.with(&["forward", to, code_name(code)]).observe(took.as_secs_f64());
    }

    /// Another resolver did not answer.
    pub fn forward_failed(&self, to: &str) {
        self.forward_failures.with(&[to]).inc();
    }

    /// The cache was looked into.
    pub fn cache(&self, hit: bool) {
        self.cache.with(&[if hit { "hit" } else { "miss" }]).inc();
    }
}

fn is_mapped(address: SocketAddr) -> bool {
    matches!(address, SocketAddr::V6(a) if a.ip().to_ipv4_mapped().is_some())
}

/// Only common types are told apart: a client chooses the type, and must not choose how much we remember.
fn kind_name(kind: RecordType) -> &'static str {
    match kind {
        RecordType::A => "A",
        RecordType::AAAA => "AAAA",
        RecordType::CNAME => "CNAME",
        RecordType::MX => "MX",
        RecordType::NS => "NS",
        RecordType::PTR => "PTR",
        RecordType::SOA => "SOA",
        RecordType::SRV => "SRV",
        RecordType::TXT => "TXT",
        RecordType::ANY => "ANY",
        RecordType::HTTPS => "HTTPS",
        _ => "other",
    }
}

fn code_name(code: ResponseCode) -> &'static str {
    match code {
        ResponseCode::NoError => "NOERROR",
        ResponseCode::FormErr => "FORMERR",
        ResponseCode::ServFail => "SERVFAIL",
        ResponseCode::NXDomain => "NXDOMAIN",
        ResponseCode::NotImp => "NOTIMP",
        ResponseCode::Refused => "REFUSED",
        _ => "other",
    }
}
