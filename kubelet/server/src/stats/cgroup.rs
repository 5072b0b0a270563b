//! What a cgroup uses, read from version 1 or version 2 hierarchies.

use std::path::{Path, PathBuf};

const ROOT: &str = "/sys/fs/cgroup";

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub cpu_nanos: Option<u64>,
    pub memory: Option<u64>,
    pub working_set: Option<u64>,
    pub rss: Option<u64>,
    pub page_faults: Option<u64>,
    pub major_page_faults: Option<u64>,
    pub swap: Option<u64>,
    /// The most memory it may use, if there is a limit.
    pub limit: Option<u64>,
    pub pids: Option<u64>,
}

/// What version 1 calls no limit.
pub const UNLIMITED: u64 = 1 << 60;

impl Usage {
    /// What it may use beyond what it cannot do without.
    pub fn available(&self) -> Option<u64> {
        Some(self.limit?.saturating_sub(self.working_set?))
    }

    /// `None` when no hierarchy has the cgroup.
    pub fn of(relative: &Path) -> Option<Usage> {
        Usage::below(Path::new(ROOT), relative)
    }

    fn below(root: &Path, relative: &Path) -> Option<Usage> {
        let relative = relative.strip_prefix("/").unwrap_or(relative);
        let unified = root.join(relative);
        let usage = if root.join("cgroup.controllers").exists() {
            unified.exists().then(|| version2(&unified))
        } else {
            let of = |controller: &str| root.join(controller).join(relative);
            of("memory").exists().then(|| version1(&of("cpuacct"), &of("memory"), &of("pids")))
        };
        usage.filter(|u| *u != Usage::default())
    }
}

fn number(path: PathBuf) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// A value of a file of `KEY VALUE` lines.
fn entry(path: &Path, key: &str) -> Option<u64> {
    let text = std::fs::read_to_string(path).ok()?;
    text.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

fn version1(cpu: &Path, memory: &Path, pids: &Path) -> Usage {
    let used = number(memory.join("memory.usage_in_bytes"));
    let stat = memory.join("memory.stat");
    let inactive = entry(&stat, "total_inactive_file").unwrap_or(0);
    Usage {
        cpu_nanos: number(cpu.join("cpuacct.usage")),
        memory: used,
        working_set: used.map(|u| u.saturating_sub(inactive)),
        rss: entry(&stat, "total_rss"),
        page_faults: entry(&stat, "total_pgfault"),
        major_page_faults: entry(&stat, "total_pgmajfault"),
        swap: entry(&stat, "total_swap"),
        limit: number(memory.join("memory.limit_in_bytes")).filter(|l| *l < UNLIMITED),
        pids: number(pids.join("pids.current")),
    }
}

fn version2(dir: &Path) -> Usage {
    let stat = dir.join("memory.stat");
    // The root does not tell its sum.
    let sum = || Some(entry(&stat, "anon")? + entry(&stat, "file")?);
    let used = number(dir.join("memory.current")).or_else(sum);
    let inactive = entry(&stat, "inactive_file").unwrap_or(0);
    Usage {
        cpu_nanos: entry(&dir.join("cpu.stat"), "usage_usec").map(|u| u * 1000),
        memory: used,
        working_set: used.map(|u| u.saturating_sub(inactive)),
        rss: entry(&stat, "anon"),
        page_faults: entry(&stat, "pgfault"),
        major_page_faults: entry(&stat, "pgmajfault"),
        swap: number(dir.join("memory.swap.current")),
        limit: number(dir.join("memory.max")),
        pids: number(dir.join("pids.current")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_are_read() {
        let root = tempfile::tempdir().expect("temp dir");
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().expect("parent")).expect("folder");
            std::fs::write(path, text).expect("file");
        };
        write("cpuacct/pods/cpuacct.usage", "1000\n");
        write("memory/pods/memory.usage_in_bytes", "500\n");
        write("memory/pods/memory.stat", "cache 1\ntotal_rss 300\ntotal_inactive_file 100\n");
        let v1 = Usage::below(root.path(), Path::new("/pods")).expect("version 1");
        assert_eq!((v1.cpu_nanos, v1.working_set, v1.rss), (Some(1000), Some(400), Some(300)));
        write("cgroup.controllers", "cpu memory");
        write("pods/cpu.stat", "usage_usec 7\n");
        write("memory.stat", "anon 30\nfile 20\ninactive_file 5\n");
        write("pods/memory.current", "50\n");
        let v2 = Usage::below(root.path(), Path::new("pods")).expect("version 2");
        assert_eq!((v2.cpu_nanos, v2.memory), (Some(7000), Some(50)));
        let all = Usage::below(root.path(), Path::new("/")).expect("root");
        assert_eq!((all.memory, all.working_set), (Some(50), Some(45)));
        assert_eq!(Usage::below(root.path(), Path::new("none")), None);
    }
}
