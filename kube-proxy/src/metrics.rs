//! `kubeproxy_*`.

use std::sync::LazyLock;

use component::metrics::prometheus_client::metrics::counter::Counter;
use component::metrics::{
    CounterVec, GaugeVec, HistogramVec, counter, counter_vec, gauge_vec, histogram_vec,
};

const FAMILY: &[&str] = &["ip_family"];
const SECONDS: &[f64] = &[
    0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192, 16.384,
];
const PROGRAMMING: &[f64] = &[
    0.25, 0.5, 1., 2., 3., 4., 5., 6., 7., 8., 9., 10., 11., 12., 13., 14., 15., 16., 17., 18., 19., 20.,
    21., 22., 23., 24., 25., 26., 27., 28., 29., 30., 31., 32., 33., 34., 35., 36., 37., 38., 39., 40., 41.,
    42., 43., 44., 45., 46., 47., 48., 49., 50., 51., 52., 53., 54., 55., 56., 57., 58., 59., 60., 65., 70.,
    75., 80., 85., 90., 95., 100., 105., 110., 115., 120., 150., 180., 210., 240., 270., 300.,
];

/// All series of the proxy.
pub struct Metrics {
    pub sync: HistogramVec,
    pub full_sync: HistogramVec,
    pub partial_sync: HistogramVec,
    pub programming: HistogramVec,
    pub last_sync: GaugeVec,
    pub last_queued: GaugeVec,
    pub sync_failures: CounterVec,
    pub cleanup_failures: CounterVec,
    pub no_local: GaugeVec,
    pub service_changes: Counter,
    pub endpoint_changes: Counter,
    pub healthz: CounterVec,
    pub livez: CounterVec,
    pub conntrack_sync: HistogramVec,
    pub conntrack_deleted: CounterVec,
}

/// The proxy's metrics.
pub static METRICS: LazyLock<Metrics> = LazyLock::new(|| {
    let timing = |name: &str, help: &str| histogram_vec(&format!("kubeproxy_{name}"), help, FAMILY, SECONDS);
    let time = |name: &str, help: &str| gauge_vec(&format!("kubeproxy_{name}"), help, FAMILY);
    let count = |name: &str, help: &str| counter_vec(&format!("kubeproxy_{name}"), help, FAMILY);
    Metrics {
        sync: timing("sync_proxy_rules_duration_seconds", "[ALPHA] Duration of a sync of the rules."),
        full_sync: timing(
            "sync_full_proxy_rules_duration_seconds",
            "[ALPHA] Duration of a sync of all rules.",
        ),
        partial_sync: timing(
            "sync_partial_proxy_rules_duration_seconds",
            "[ALPHA] Duration of a sync of changed rules.",
        ),
        programming: histogram_vec(
            "kubeproxy_network_programming_duration_seconds",
            "[ALPHA] Time from the change of an endpoint until the rules have it.",
            FAMILY,
            PROGRAMMING,
        ),
        last_sync: time(
            "sync_proxy_rules_last_timestamp_seconds",
            "[ALPHA] When the rules were last synced.",
        ),
        last_queued: time(
            "sync_proxy_rules_last_queued_timestamp_seconds",
            "[ALPHA] When a sync was last asked for.",
        ),
        sync_failures: count("sync_proxy_rules_nftables_sync_failures_total", "[ALPHA] Syncs that failed."),
        cleanup_failures: count(
            "sync_proxy_rules_nftables_cleanup_failures_total",
            "[ALPHA] Clean-ups that failed.",
        ),
        no_local: gauge_vec(
            "kubeproxy_sync_proxy_rules_no_local_endpoints_total",
            "[ALPHA] Service ports with policy Local and no endpoint on this node.",
            &["ip_family", "traffic_policy"],
        ),
        service_changes: counter(
            "kubeproxy_sync_proxy_rules_service_changes_total",
            "[ALPHA] Changes of Services.",
        ),
        endpoint_changes: counter(
            "kubeproxy_sync_proxy_rules_endpoint_changes_total",
            "[ALPHA] Changes of endpoints.",
        ),
        healthz: counter_vec("kubeproxy_proxy_healthz_total", "[ALPHA] Answers of /healthz.", &["code"]),
        livez: counter_vec("kubeproxy_proxy_livez_total", "[ALPHA] Answers of /livez.", &["code"]),
        conntrack_sync: timing(
            "conntrack_reconciler_sync_duration_seconds",
            "[ALPHA] Duration of a conntrack clean-up.",
        ),
        conntrack_deleted: count(
            "conntrack_reconciler_deleted_entries_total",
            "[ALPHA] Conntrack entries deleted.",
        ),
    }
});

/// Now, as gauges of times have it.
pub fn now() -> f64 {
    jiff::Timestamp::now().as_microsecond() as f64 / 1e6
}
