//! `process_*` metrics, read from `/proc` when they are asked for, and `kubernetes_build_info`.

use std::sync::atomic::AtomicU64;
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};

use crate::version;

/// Linux' USER_HZ, which is 100 on every architecture that Kubernetes runs on.
const TICKS: f64 = 100.0;
const PAGE: f64 = 4096.0;

#[derive(Debug)]
pub(super) struct Process {
    started: f64,
}

impl Process {
    pub(super) fn new() -> Process {
        let started =
            SystemTime::now().duration_since(UNIX_EPOCH).map(|d| d.as_secs_f64()).unwrap_or_default();
        Process { started }
    }
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
        // The command may hold spaces and parentheses; fields are counted after its closing one.
        let fields: Vec<f64> = stat
            .rsplit_once(')')
            .map(|(_, rest)| rest.split_whitespace().map(|f| f.parse().unwrap_or(0.0)).collect())
            .unwrap_or_default();
        let field = |n: usize| fields.get(n).copied().unwrap_or(0.0);
        let cpu = ConstCounter::new((field(11) + field(12)) / TICKS);
        let descriptor = encoder.encode_descriptor(
            "process_cpu_seconds",
            "CPU time of this process",
            None,
            cpu.metric_type(),
        )?;
        cpu.encode(descriptor)?;
        let open = std::fs::read_dir("/proc/self/fd").map(|d| d.count()).unwrap_or(0);
        for (name, help, value) in [
            ("process_resident_memory_bytes", "Memory that is in RAM", field(21) * PAGE),
            ("process_virtual_memory_bytes", "Address space", field(20)),
            ("process_open_fds", "Open descriptors", open as f64),
            ("process_max_fds", "Most descriptors that may be open", max_fds()),
            ("process_start_time_seconds", "When this process started", self.started),
        ] {
            let gauge = ConstGauge::new(value);
            let descriptor = encoder.encode_descriptor(name, help, None, gauge.metric_type())?;
            gauge.encode(descriptor)?;
        }
        Ok(())
    }
}

fn max_fds() -> f64 {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find_map(|l| l.strip_prefix("Max open files"));
    line.and_then(|l| l.split_whitespace().next()?.parse().ok()).unwrap_or(0.0)
}

pub(super) fn build_info(metrics: &super::Metrics) {
    let family: Family<Vec<(&'static str, String)>, Gauge<f64, AtomicU64>> = Family::default();
    let labels = [
        ("compiler", "rustc".to_owned()),
        ("git_version", version::GIT_VERSION.to_owned()),
        ("major", version::MAJOR.to_owned()),
        ("minor", version::MINOR.to_owned()),
        ("platform", version::platform()),
    ];
    family.get_or_create(&labels.to_vec()).set(1.0);
    let help = "[ALPHA] 1, with this build in its labels";
    metrics.register("kubernetes_build_info", help, family);
}
