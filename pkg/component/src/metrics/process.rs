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
            "Total user and system CPU time spent in seconds",
            None,
            cpu.metric_type(),
        )?;
        cpu.encode(descriptor)?;
        let open = std::fs::read_dir("/proc/self/fd").map(|d| d.count()).unwrap_or(0);
        for (name, help, value) in [
            ("process_resident_memory_bytes", "Resident memory size in bytes", field(21) * PAGE),
            ("process_virtual_memory_bytes", "Virtual memory size in bytes", field(20)),
            ("process_open_fds", "Number of open file descriptors", open as f64),
            ("process_max_fds", "Maximum number of open file descriptors", most("Max open files", 0.0)),
            (
                "process_virtual_memory_max_bytes",
                "Maximum amount of virtual memory available in bytes",
                most("Max address space", u64::MAX as f64),
            ),
            (
                "process_start_time_seconds",
                "Start time of the process since unix epoch in seconds",
                self.started,
            ),
        ] {
            let gauge = ConstGauge::new(value);
            let descriptor = encoder.encode_descriptor(name, help, None, gauge.metric_type())?;
            gauge.encode(descriptor)?;
        }
        Ok(())
    }
}

/// A limit of this process, or what stands for none.
fn most(what: &str, unlimited: f64) -> f64 {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find_map(|l| l.strip_prefix(what));
    line.and_then(|l| l.split_whitespace().next()?.parse().ok()).unwrap_or(unlimited)
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
    let help = "[BETA] A metric with a constant '1' value labeled by major, minor, git version, git commit, git tree state, build date, Go version, and compiler from which Kubernetes was built, and platform on which it is running.";
    metrics.register("kubernetes_build_info", help, family);
}
