//! Resource pressure: how much memory, disk and process ids are left, measured against the eviction thresholds.

use std::fs;
use std::sync::atomic::{AtomicI64, Ordering};

use crate::kubelet::Kubelet;
use crate::machine::threshold;

pub mod manager;

/// Which resources are short.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pressure {
    pub memory: bool,
    pub disk: bool,
    pub pid: bool,
}

/// What is left of a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Left {
    pub available: i64,
    pub capacity: i64,
}

/// When each pressure was last seen, in seconds since the start of the machine; conditions last a while.
static LAST_SEEN: [AtomicI64; 3] =
    [AtomicI64::new(i64::MIN), AtomicI64::new(i64::MIN), AtomicI64::new(i64::MIN)];

/// The pressure now, or not long ago.
pub fn pressure(kubelet: &Kubelet) -> Pressure {
    let hold = i64::try_from(kubelet.config.eviction_pressure_transition_period.as_secs()).unwrap_or(300);
    let now = uptime();
    let lasting = |index: usize, on: bool| {
        if on {
            LAST_SEEN[index].store(now, Ordering::Relaxed);
        }
        let last = LAST_SEEN[index].load(Ordering::Relaxed);
        on || (last != i64::MIN && now - last < hold)
    };
    let met = |signal: &str| signal_met(kubelet, signal);
    Pressure {
        memory: lasting(0, met("memory.available")),
        disk: lasting(
            1,
            ["nodefs.available", "nodefs.inodesFree", "imagefs.available", "imagefs.inodesFree"]
                .into_iter()
                .any(met),
        ),
        pid: lasting(2, met("pid.available")),
    }
}

/// Whether a hard threshold is met.
pub fn signal_met(kubelet: &Kubelet, signal: &str) -> bool {
    let Some(text) = kubelet.config.eviction_hard.get(signal) else { return false };
    observe(kubelet, signal).is_some_and(|left| left.available < threshold(Some(text), left.capacity))
}

/// What is left of what a signal measures.
pub fn observe(kubelet: &Kubelet, signal: &str) -> Option<Left> {
    match signal {
        "memory.available" => memory(),
        "nodefs.available" | "imagefs.available" => disk(kubelet, false),
        "nodefs.inodesFree" | "imagefs.inodesFree" => disk(kubelet, true),
        "pid.available" => pids(),
        _ => None,
    }
}

fn memory() -> Option<Left> {
    let info = fs::read_to_string("/proc/meminfo").ok()?;
    let field = |name: &str| -> Option<i64> {
        info.lines().find(|l| l.starts_with(name))?.split_whitespace().nth(1)?.parse::<i64>().ok()
    };
    Some(Left { available: field("MemAvailable:")? * 1024, capacity: field("MemTotal:")? * 1024 })
}

fn disk(kubelet: &Kubelet, inodes: bool) -> Option<Left> {
    let stat = nix::sys::statvfs::statvfs(kubelet.root()).ok()?;
    let size = i64::try_from(stat.fragment_size()).ok()?;
    Some(if inodes {
        Left { available: stat.files_available() as i64, capacity: stat.files() as i64 }
    } else {
        Left { available: stat.blocks_available() as i64 * size, capacity: stat.blocks() as i64 * size }
    })
}

fn pids() -> Option<Left> {
    let max = fs::read_to_string("/proc/sys/kernel/pid_max").ok()?.trim().parse().ok()?;
    let load = fs::read_to_string("/proc/loadavg").ok()?;
    let used: i64 = load.split_whitespace().nth(3)?.split('/').nth(1)?.parse().ok()?;
    Some(Left { available: max - used, capacity: max })
}

fn uptime() -> i64 {
    let text = fs::read_to_string("/proc/uptime").unwrap_or_default();
    text.split('.').next().and_then(|s| s.parse().ok()).unwrap_or(0)
}
