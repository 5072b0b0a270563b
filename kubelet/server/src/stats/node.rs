//! What the node as a whole uses, from `/proc`.

#[derive(Clone, Debug, Default)]
pub struct NodeUsage {
    pub boot_time: Option<String>,
    pub cpu_nanos: Option<u64>,
    /// Billionths of a core, averaged since the last reading.
    pub cpu_rate: Option<u64>,
    pub memory: Option<u64>,
    pub memory_available: Option<u64>,
    pub memory_used: Option<u64>,
    pub swap_used: Option<u64>,
    pub swap_free: Option<u64>,
    pub pids: Option<u64>,
    pub max_pids: Option<u64>,
    /// Name, received and sent bytes of the interface of the default route.
    pub network: Option<(String, u64, u64)>,
}

/// Clock ticks a second in `/proc/stat`, fixed by the kernel's interface.
const NANOS_PER_TICK: u64 = 10_000_000;

impl NodeUsage {
    pub fn read() -> NodeUsage {
        let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
        let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let cpu_nanos = cpu(&stat);
        let available = kilobytes(&memory, "MemAvailable:");
        let total = kilobytes(&memory, "MemTotal:");
        let (swap, swap_free) = (kilobytes(&memory, "SwapTotal:"), kilobytes(&memory, "SwapFree:"));
        let number = |file: &str| {
            let text = std::fs::read_to_string(format!("/proc/sys/kernel/{file}")).ok()?;
            text.trim().parse::<u64>().ok()
        };
        NodeUsage {
            boot_time: field(&stat, "btime").and_then(|t| t.parse().ok()).map(api::time::format_rfc3339),
            cpu_nanos,
            cpu_rate: cpu_nanos.and_then(|nanos| super::rates::CPU.of("", nanos)),
            memory: total,
            memory_available: available,
            memory_used: total.zip(available).map(|(t, a)| t.saturating_sub(a)),
            swap_used: swap.zip(swap_free).map(|(all, free)| all.saturating_sub(free)),
            swap_free,
            pids: std::fs::read_to_string("/proc/loadavg").ok().and_then(|t| tasks(&t)),
            max_pids: ["pid_max", "threads-max"].iter().filter_map(|f| number(f)).min(),
            network: network(),
        }
    }
}

/// All tasks there are, of a line like `0.00 0.01 0.05 1/167 4242`.
fn tasks(loads: &str) -> Option<u64> {
    loads.split_whitespace().nth(3)?.split_once('/')?.1.parse().ok()
}

fn field<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|l| l.strip_prefix(key)).map(str::trim)
}

fn kilobytes(text: &str, key: &str) -> Option<u64> {
    field(text, key)?.strip_suffix("kB")?.trim().parse::<u64>().ok().map(|n| n * 1024)
}

/// All time that is neither idle nor waiting for a disk.
fn cpu(stat: &str) -> Option<u64> {
    let numbers: Vec<u64> =
        field(stat, "cpu ")?.split_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?;
    let idle = numbers.get(3)? + numbers.get(4)?;
    // Guests' time (from the ninth on) is in the users' time already.
    Some((numbers.iter().take(8).sum::<u64>() - idle) * NANOS_PER_TICK)
}

fn network() -> Option<(String, u64, u64)> {
    let routes = std::fs::read_to_string("/proc/net/route").ok()?;
    let default = routes.lines().skip(1).find(|l| l.split_whitespace().nth(1) == Some("00000000"))?;
    let name = default.split_whitespace().next()?;
    let devices = std::fs::read_to_string("/proc/net/dev").ok()?;
    let line = devices.lines().find_map(|l| l.trim().strip_prefix(name)?.strip_prefix(':'))?;
    let numbers: Vec<u64> = line.split_whitespace().filter_map(|n| n.parse().ok()).collect();
    Some((name.to_owned(), *numbers.first()?, *numbers.get(8)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_of_all_kinds() {
        assert_eq!((tasks("0.00 0.01 0.05 1/167 4242\n"), tasks("")), (Some(167), None));
    }

    #[test]
    fn proc_files_are_understood() {
        assert_eq!(cpu("cpu  10 0 5 100 20 1 1 0 3 0\ncpu0 1"), Some(17 * NANOS_PER_TICK));
        assert_eq!(kilobytes("MemTotal:  8 kB\nMemAvailable: 4 kB\n", "MemAvailable:"), Some(4096));
        assert!(NodeUsage::read().memory_used.is_some());
    }
}
