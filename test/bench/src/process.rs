//! What a process has used, by `/proc`.

/// A reading.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    /// User and system time, in seconds.
    pub cpu: f64,
    /// Resident memory, in KiB.
    pub rss: u64,
    /// The most it ever was.
    pub peak: u64,
}

/// Reads a process; `None` if it is gone.
pub fn usage(pid: u32) -> Option<Usage> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    Some(parse(&stat, &status))
}

/// Our own.
pub fn own() -> Usage {
    usage(std::process::id()).unwrap_or_default()
}

/// What the process is called.
pub fn name(pid: u32) -> Option<String> {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).ok().map(|s| s.trim().to_owned())
}

/// The only process of this name, if there is just one.
pub fn only(wanted: &str) -> Option<u32> {
    let entries = std::fs::read_dir("/proc").ok()?.flatten();
    let ids = entries.filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok());
    let mut found = ids.filter(|id| name(*id).as_deref() == Some(wanted));
    let first = found.next()?;
    found.next().is_none().then_some(first)
}

fn parse(stat: &str, status: &str) -> Usage {
    // The name in parentheses may contain anything, so fields are counted from its end.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |i: usize| fields.get(i).and_then(|t| t.parse::<f64>().ok()).unwrap_or_default();
    let kib = |name: &str| {
        let line = status.lines().find_map(|l| l.strip_prefix(name)).unwrap_or_default();
        line.split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or_default()
    };
    // USER_HZ is 100 on every Linux that matters.
    Usage { cpu: (ticks(11) + ticks(12)) / 100.0, rss: kib("VmRSS:"), peak: kib("VmHWM:") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_a_name_with_parentheses() {
        let stat = "1 (a) b) S 0 1 2 3 4 5 6 7 8 9 150 50 0 0";
        let usage = parse(stat, "Name: x\nVmHWM:\t  2048 kB\nVmRSS:\t  1024 kB\n");
        assert_eq!((usage.cpu, usage.rss, usage.peak), (2.0, 1024, 2048));
        assert!(own().rss > 0);
    }
}
