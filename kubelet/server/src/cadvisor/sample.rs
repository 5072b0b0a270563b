//! What a cgroup's files say, of version 1 or 2.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

const ROOT: &str = "/sys/fs/cgroup";
/// Microseconds a tick of `cpuacct.stat`.
const NANOS_PER_TICK: u64 = 10_000_000;
/// What version 1 calls no limit.
const UNLIMITED: u64 = 1 << 60;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sample {
    pub cpu: Option<u64>,
    pub cpu_user: Option<u64>,
    pub cpu_system: Option<u64>,
    pub periods: Option<u64>,
    pub throttled: Option<u64>,
    pub throttled_nanos: Option<u64>,
    pub bursts: Option<u64>,
    pub burst_nanos: Option<u64>,
    pub cache: Option<u64>,
    pub failcnt: Option<u64>,
    pub mapped: Option<u64>,
    pub memory: Option<u64>,
    pub memory_max: Option<u64>,
    pub rss: Option<u64>,
    pub swap: Option<u64>,
    pub working_set: Option<u64>,
    pub faults: Option<u64>,
    pub major_faults: Option<u64>,
    pub processes: Option<u64>,
    pub threads: Option<u64>,
    pub period: Option<u64>,
    pub quota: Option<u64>,
    pub shares: Option<u64>,
    pub memory_limit: Option<u64>,
    pub swap_limit: Option<u64>,
    pub started: Option<u64>,
    pub seen: Option<u64>,
    pub kernel: Option<u64>,
    pub active_file: Option<u64>,
    pub inactive_file: Option<u64>,
    pub oom_kills: Option<u64>,
    pub reservation: Option<u64>,
    /// Zero for any number.
    pub threads_max: Option<u64>,
    /// Device, bytes read, bytes written.
    pub disks: Vec<(String, u64, u64)>,
    /// Device, reads, writes.
    pub disk_operations: Vec<(String, u64, u64)>,
    /// Processes of the cgroup itself.
    pub pids: Vec<u32>,
}

/// The cgroups right below one.
pub fn children(relative: &Path) -> Vec<PathBuf> {
    let dir =
        if is_v2() { Path::new(ROOT).join(relative) } else { Path::new(ROOT).join("memory").join(relative) };
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut out: Vec<PathBuf> = entries
        .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()))
        .map(|e| relative.join(e.file_name()))
        .collect();
    out.sort();
    out
}

/// The processes of a container's cgroup. Some OCI runtimes keep them in a cgroup of their own one further below.
pub fn processes(relative: &Path) -> Vec<u32> {
    let own = |path: &Path| {
        let root = Path::new(ROOT);
        let dir = if is_v2() { root.join(path) } else { root.join("memory").join(path) };
        pids(dir.join("cgroup.procs"))
    };
    match own(relative) {
        found if !found.is_empty() => found,
        _ => own(&relative.join("container")),
    }
}

fn is_v2() -> bool {
    Path::new(ROOT).join("cgroup.controllers").exists()
}

impl Sample {
    /// `None` when there is no such cgroup.
    pub fn read(relative: &Path) -> Option<Sample> {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).ok()?.as_secs();
        let unified = Path::new(ROOT).join(relative);
        let dir = if is_v2() { unified.clone() } else { Path::new(ROOT).join("memory").join(relative) };
        let made = std::fs::metadata(&dir).ok()?.ctime();
        let mut sample = if is_v2() { version2(&unified) } else { version1(Path::new(ROOT), relative) };
        sample.started = u64::try_from(made).ok();
        sample.seen = Some(now);
        Some(sample)
    }
}

fn text(path: PathBuf) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

fn number(path: PathBuf) -> Option<u64> {
    text(path).trim().parse().ok()
}

/// A value of `KEY VALUE` lines.
fn entry(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

fn limit(value: Option<u64>) -> Option<u64> {
    value.map(|v| if v >= UNLIMITED { 0 } else { v })
}

fn pids(path: PathBuf) -> Vec<u32> {
    text(path).lines().filter_map(|l| l.parse().ok()).collect()
}

/// A limit of processes; `max` is no number.
fn most(path: PathBuf) -> Option<u64> {
    path.exists().then(|| number(path).unwrap_or(0))
}

fn version1(root: &Path, relative: &Path) -> Sample {
    let of = |controller: &str, file: &str| root.join(controller).join(relative).join(file);
    let stat = text(of("memory", "memory.stat"));
    let cpu_stat = text(of("cpu", "cpu.stat"));
    let acct = text(of("cpuacct", "cpuacct.stat"));
    let ticks = |key: &str| entry(&acct, key).map(|t| t * NANOS_PER_TICK);
    let memory = number(of("memory", "memory.usage_in_bytes"));
    let quota = text(of("cpu", "cpu.cfs_quota_us")).trim().parse::<i64>().ok().filter(|q| *q > 0);
    let procs = pids(of("memory", "cgroup.procs"));
    // A root has no limits and was never throttled.
    let inner = !relative.as_os_str().is_empty();
    let throttle = |key: &str| entry(&cpu_stat, key).filter(|_| inner && quota.is_some());
    Sample {
        cpu: number(of("cpuacct", "cpuacct.usage")),
        cpu_user: ticks("user"),
        cpu_system: ticks("system"),
        periods: throttle("nr_periods"),
        throttled: throttle("nr_throttled"),
        throttled_nanos: throttle("throttled_time"),
        bursts: throttle("nr_bursts"),
        burst_nanos: throttle("burst_time"),
        cache: entry(&stat, "total_cache"),
        failcnt: number(of("memory", "memory.failcnt")),
        mapped: entry(&stat, "total_mapped_file"),
        memory,
        memory_max: number(of("memory", "memory.max_usage_in_bytes")),
        rss: entry(&stat, "total_rss"),
        swap: Some(entry(&stat, "total_swap").unwrap_or(0)),
        working_set: memory.map(|m| m.saturating_sub(entry(&stat, "total_inactive_file").unwrap_or(0))),
        faults: entry(&stat, "total_pgfault"),
        major_faults: entry(&stat, "total_pgmajfault"),
        processes: Some(procs.len() as u64),
        threads: number(of("pids", "pids.current")),
        period: number(of("cpu", "cpu.cfs_period_us")).filter(|_| inner),
        quota: quota.and_then(|q| u64::try_from(q).ok()),
        shares: number(of("cpu", "cpu.shares")),
        memory_limit: limit(number(of("memory", "memory.limit_in_bytes"))),
        swap_limit: limit(number(of("memory", "memory.memsw.limit_in_bytes"))),
        started: None,
        seen: None,
        disks: disks_v1(&text(of("blkio", "blkio.throttle.io_service_bytes_recursive"))),
        disk_operations: disks_v1(&text(of("blkio", "blkio.throttle.io_serviced"))),
        kernel: number(of("memory", "memory.kmem.usage_in_bytes")).or(entry(&stat, "kernel")),
        active_file: entry(&stat, "total_active_file"),
        inactive_file: entry(&stat, "total_inactive_file"),
        oom_kills: Some(entry(&text(of("memory", "memory.oom_control")), "oom_kill").unwrap_or(0)),
        reservation: limit(number(of("memory", "memory.soft_limit_in_bytes"))),
        threads_max: most(of("pids", "pids.max")),
        pids: procs,
    }
}

fn version2(dir: &Path) -> Sample {
    let stat = text(dir.join("memory.stat"));
    let cpu = text(dir.join("cpu.stat"));
    let micros = |key: &str| entry(&cpu, key).map(|v| v * 1000);
    // The root does not tell its sum.
    let sum = || Some(entry(&stat, "anon")? + entry(&stat, "file")?);
    let memory = number(dir.join("memory.current")).or_else(sum);
    let max = text(dir.join("cpu.max"));
    let mut max = max.split_whitespace().map(|v| v.parse::<u64>().ok());
    let (quota, period) = (max.next().flatten(), max.next().flatten());
    let procs = pids(dir.join("cgroup.procs"));
    // Weights are 1 to 10000, shares 2 to 262144.
    let shares = number(dir.join("cpu.weight")).map(|w| 2 + (w.saturating_sub(1) * 262_142) / 9999);
    let throttle = |key: &str| entry(&cpu, key).filter(|_| quota.is_some());
    Sample {
        cpu: micros("usage_usec"),
        cpu_user: micros("user_usec"),
        cpu_system: micros("system_usec"),
        periods: throttle("nr_periods"),
        throttled: throttle("nr_throttled"),
        throttled_nanos: throttle("throttled_usec").map(|v| v * 1000),
        bursts: throttle("nr_bursts"),
        burst_nanos: throttle("burst_usec").map(|v| v * 1000),
        cache: entry(&stat, "file"),
        failcnt: entry(&text(dir.join("memory.events")), "max"),
        mapped: entry(&stat, "file_mapped"),
        memory,
        memory_max: number(dir.join("memory.peak")),
        rss: entry(&stat, "anon"),
        swap: Some(number(dir.join("memory.swap.current")).unwrap_or(0)),
        working_set: memory.map(|m| m.saturating_sub(entry(&stat, "inactive_file").unwrap_or(0))),
        faults: entry(&stat, "pgfault"),
        major_faults: entry(&stat, "pgmajfault"),
        processes: Some(procs.len() as u64),
        threads: number(dir.join("pids.current")),
        period,
        quota,
        shares,
        // `max` is no number.
        memory_limit: Some(number(dir.join("memory.max")).unwrap_or(0)),
        swap_limit: Some(number(dir.join("memory.swap.max")).unwrap_or(0)),
        started: None,
        seen: None,
        disks: disks_v2(&text(dir.join("io.stat")), ("rbytes=", "wbytes=")),
        disk_operations: disks_v2(&text(dir.join("io.stat")), ("rios=", "wios=")),
        kernel: entry(&stat, "kernel"),
        active_file: entry(&stat, "active_file"),
        inactive_file: entry(&stat, "inactive_file"),
        oom_kills: Some(entry(&text(dir.join("memory.events")), "oom_kill").unwrap_or(0)),
        reservation: Some(number(dir.join("memory.low")).unwrap_or(0)),
        threads_max: most(dir.join("pids.max")),
        pids: procs,
    }
}

/// The name of a device by its numbers.
fn device(numbers: &str) -> String {
    let uevent = text(Path::new("/sys/dev/block").join(numbers).join("uevent"));
    let name = uevent.lines().find_map(|l| l.strip_prefix("DEVNAME="));
    name.map_or_else(|| numbers.to_owned(), |n| format!("/dev/{n}"))
}

/// `8:0 Read 4096` and `8:0 Write 0` lines.
fn disks_v1(text: &str) -> Vec<(String, u64, u64)> {
    let mut out: Vec<(String, u64, u64)> = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let (Some(numbers), Some(what), Some(value)) = (words.next(), words.next(), words.next()) else {
            continue;
        };
        let Ok(value) = value.parse::<u64>() else { continue };
        let name = device(numbers);
        let index = out.iter().position(|d| d.0 == name).unwrap_or_else(|| {
            out.push((name, 0, 0));
            out.len() - 1
        });
        match what {
            "Read" => out[index].1 = value,
            "Write" => out[index].2 = value,
            _ => {}
        }
    }
    out
}

/// `8:0 rbytes=1 wbytes=2 …` lines.
fn disks_v2(text: &str, (read, write): (&str, &str)) -> Vec<(String, u64, u64)> {
    let of = |line: &str| {
        let mut words = line.split_whitespace();
        let name = device(words.next()?);
        let value =
            |key: &str| line.split_whitespace().find_map(|w| w.strip_prefix(key)?.parse::<u64>().ok());
        Some((name, value(read)?, value(write)?))
    };
    text.lines().filter_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions() {
        let root = tempfile::tempdir().expect("temp dir");
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().expect("parent")).expect("folder");
            std::fs::write(path, text).expect("file");
        };
        write("memory/p/memory.usage_in_bytes", "500\n");
        write("memory/p/memory.stat", "total_rss 300\ntotal_inactive_file 100\ntotal_pgfault 7\n");
        write("memory/p/memory.limit_in_bytes", "9223372036854771712\n");
        write("cpu/p/cpu.cfs_quota_us", "50000\n");
        write("cpu/p/cpu.stat", "nr_periods 10\nnr_throttled 2\nthrottled_time 30\n");
        let v1 = version1(root.path(), Path::new("p"));
        assert_eq!((v1.working_set, v1.memory_limit, v1.faults), (Some(400), Some(0), Some(7)));
        assert_eq!((v1.quota, v1.throttled, v1.throttled_nanos), (Some(50_000), Some(2), Some(30)));
        write("u/cpu.max", "max 100000\n");
        write("u/cpu.stat", "usage_usec 5\nnr_periods 1\n");
        write("u/cpu.weight", "10000\n");
        let v2 = version2(&root.path().join("u"));
        assert_eq!((v2.cpu, v2.quota, v2.periods, v2.shares), (Some(5000), None, None, Some(262_144)));
        assert_eq!(
            disks_v2("999:9 rbytes=1 wbytes=2 rios=3", ("rbytes=", "wbytes=")),
            [("999:9".to_owned(), 1, 2)]
        );
        assert_eq!(disks_v1("999:9 Read 1\n999:9 Write 2\nTotal 3"), [("999:9".to_owned(), 1, 2)]);
    }
}
