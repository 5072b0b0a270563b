//! What is counted of encryption at rest. Key IDs appear hashed, and only those of the last keys.

use std::collections::VecDeque;
use std::sync::LazyLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use component::metrics::prometheus_client::metrics::counter::Counter;
use component::metrics::{
    CounterVec, GaugeVec, HistogramVec, counter, counter_vec, gauge_vec, histogram_vec,
};
use parking_lot::Mutex;

/// Hashes of the configurations and keys that are remembered as labels.
const LABELS: usize = 100;

static BUCKETS: [f64; 20] = [
    0.0001, 0.0002, 0.0004, 0.0008, 0.0016, 0.0032, 0.0064, 0.0128, 0.0256, 0.0512, 0.1024, 0.2048, 0.4096,
    0.8192, 1.6384, 3.2768, 6.5536, 13.1072, 26.2144, 52.4288,
];

/// The process's metrics of encryption at rest.
pub(super) static METRICS: LazyLock<Metrics> = LazyLock::new(Metrics::new);

pub(super) struct Metrics {
    calls: HistogramVec,
    misses: Counter,
    generation_failures: Counter,
    sizes: GaugeVec,
    invalid: CounterVec,
    status: GaugeVec,
    used: GaugeVec,
    used_total: CounterVec,
    reloads: CounterVec,
    reloaded: GaugeVec,
    config: GaugeVec,
    server: Mutex<String>,
    seen: Mutex<VecDeque<[String; 3]>>,
    current: Mutex<String>,
}

impl Metrics {
    fn new() -> Metrics {
        Metrics {
            calls: histogram_vec(
                "apiserver_envelope_encryption_kms_operations_latency_seconds",
                "[ALPHA] Time that a call of a KMS plugin took, by method and gRPC status.",
                &["provider_name", "method_name", "grpc_status_code"],
                &BUCKETS,
            ),
            misses: counter(
                "apiserver_storage_envelope_transformation_cache_misses_total",
                "[ALPHA] Data keys that a KMS plugin had to open.",
            ),
            generation_failures: counter(
                "apiserver_storage_data_key_generation_failures_total",
                "[ALPHA] Data keys that could not be made.",
            ),
            sizes: gauge_vec(
                "apiserver_envelope_encryption_dek_source_cache_size",
                "[ALPHA] Data keys that are remembered.",
                &["provider_name"],
            ),
            invalid: counter_vec(
                "apiserver_envelope_encryption_invalid_key_id_from_status_total",
                "[ALPHA] Key IDs in a KMS plugin's status that cannot be used.",
                &["provider_name", "error"],
            ),
            status: gauge_vec(
                "apiserver_envelope_encryption_key_id_hash_status_last_timestamp_seconds",
                "[ALPHA] When a KMS plugin's status last named this key.",
                &["provider_name", "key_id_hash", "apiserver_id_hash"],
            ),
            used: gauge_vec(
                "apiserver_envelope_encryption_key_id_hash_last_timestamp_seconds",
                "[ALPHA] When this key was last used.",
                &["transformation_type", "provider_name", "key_id_hash", "apiserver_id_hash"],
            ),
            used_total: counter_vec(
                "apiserver_envelope_encryption_key_id_hash_total",
                "[ALPHA] How often this key was used.",
                &["transformation_type", "provider_name", "key_id_hash", "apiserver_id_hash"],
            ),
            reloads: counter_vec(
                "apiserver_encryption_config_controller_automatic_reloads_total",
                "[ALPHA] Reloads of the encryption configuration by outcome.",
                &["status", "apiserver_id_hash"],
            ),
            reloaded: gauge_vec(
                "apiserver_encryption_config_controller_automatic_reload_last_timestamp_seconds",
                "[ALPHA] When the encryption configuration was last reloaded, by outcome.",
                &["status", "apiserver_id_hash"],
            ),
            config: gauge_vec(
                "apiserver_encryption_config_controller_last_config_info",
                "[ALPHA] Hash of the encryption configuration in force.",
                &["apiserver_id_hash", "hash"],
            ),
            server: Mutex::default(),
            seen: Mutex::default(),
            current: Mutex::default(),
        }
    }

    /// Says which server this is.
    pub(super) fn identify(&self, server: &str) {
        *self.server.lock() = hash(server);
    }

    fn server(&self) -> String {
        self.server.lock().clone()
    }

    pub(super) fn kms_call(&self, provider: &str, method: &str, code: &str, took: Duration) {
        self.calls.with(&[provider, method, code]).observe(took.as_secs_f64());
    }

    pub(super) fn cache_miss(&self) {
        self.misses.inc();
    }

    pub(super) fn generated(&self, outcome: Result<(), String>) -> Result<(), String> {
        if outcome.is_err() {
            self.generation_failures.inc();
        }
        outcome
    }

    pub(super) fn cache_size(&self, provider: &str, size: usize) {
        self.sizes.with(&[provider]).set(size as f64);
    }

    pub(super) fn invalid_key_id(&self, provider: &str, code: &str) {
        self.invalid.with(&[provider, code]).inc();
    }

    pub(super) fn status_key_id(&self, provider: &str, key_id: &str) {
        self.status.with(&[provider, &hash(key_id), &self.server()]).set(now());
    }

    pub(super) fn used_key_id(&self, how: &str, provider: &str, key_id: &str) {
        let (key, server) = (hash(key_id), self.server());
        self.forget_old([how.to_owned(), provider.to_owned(), key.clone()], &server);
        self.used.with(&[how, provider, &key, &server]).set(now());
        self.used_total.with(&[how, provider, &key, &server]).inc();
    }

    /// Bounds the series: the key that has not been seen for longest goes.
    fn forget_old(&self, labels: [String; 3], server: &str) {
        let mut seen = self.seen.lock();
        if seen.contains(&labels) {
            return;
        }
        if seen.len() >= LABELS
            && let Some([how, provider, key]) = seen.pop_front()
        {
            self.used.remove(&[&how, &provider, &key, server]);
        }
        seen.push_back(labels);
    }

    pub(super) fn reloaded(&self, ok: bool) {
        let (status, server) = (if ok { "success" } else { "failure" }, self.server());
        self.reloads.with(&[status, &server]).inc();
        self.reloaded.with(&[status, &server]).set(now());
    }

    pub(super) fn config(&self, hash: &str) {
        let (mut current, server) = (self.current.lock(), self.server());
        self.config.remove(&[&server, &current]);
        hash.clone_into(&mut current);
        self.config.with(&[&server, hash]).set(1.0);
    }
}

/// `sha256:…`, or nothing for nothing.
pub(super) fn hash(text: &str) -> String {
    if text.is_empty() { String::new() } else { digest(text.as_bytes()) }
}

pub(super) fn digest(data: &[u8]) -> String {
    let sum = ring::digest::digest(&ring::digest::SHA256, data);
    let hex: String = sum.as_ref().iter().map(|b| format!("{b:02x}")).collect();
    format!("sha256:{hex}")
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}
