//! The machine, and network interfaces of network namespaces.

use crate::metrics::Family;
use std::collections::BTreeSet;
use std::path::Path;

/// An interface with bytes, packets, errors and drops.
#[derive(Clone, Debug, PartialEq)]
pub struct Interface {
    pub name: String,
    pub received: [u64; 4],
    pub sent: [u64; 4],
}

/// The interfaces that a `net/dev` file tells of, but loopback and those that only lead to pods.
pub fn interfaces(path: &Path) -> Vec<Interface> {
    parse(&std::fs::read_to_string(path).unwrap_or_default())
}

fn parse(text: &str) -> Vec<Interface> {
    let skipped = |name: &str| name == "lo" || name.starts_with("veth") || name.starts_with("docker");
    let of = |line: &str| {
        let (name, numbers) = line.split_once(':')?;
        let n: Vec<u64> = numbers.split_whitespace().filter_map(|n| n.parse().ok()).collect();
        let received = [*n.first()?, *n.get(1)?, *n.get(2)?, *n.get(3)?];
        let sent = [*n.get(8)?, *n.get(9)?, *n.get(10)?, *n.get(11)?];
        Some(Interface { name: name.trim().to_owned(), received, sent })
    };
    text.lines().filter_map(of).filter(|i| !skipped(&i.name)).collect()
}

/// The interfaces of the network namespace of processes; none if it is the node's own.
pub fn interfaces_of(pids: &[u32]) -> Vec<Interface> {
    let namespace = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/net")).ok();
    let Some(pid) = pids.first().map(u32::to_string) else { return Vec::new() };
    if namespace(&pid) == namespace("self") {
        return Vec::new();
    }
    interfaces(Path::new(&format!("/proc/{pid}/net/dev")))
}

/// Open files and sockets of processes.
pub fn descriptors(pids: &[u32]) -> (u64, u64) {
    let mut counts = (0, 0);
    for pid in pids {
        for entry in std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten() {
            counts.0 += 1;
            let target = std::fs::read_link(entry.path()).unwrap_or_default();
            counts.1 += u64::from(target.to_string_lossy().starts_with("socket:"));
        }
    }
    counts
}

/// How many files a process may open; -1 for any number.
pub fn open_files(pid: u32) -> Option<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/limits")).ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix("Max open files"))?;
    match line.split_whitespace().next()? {
        "unlimited" => Some(-1.0),
        number => number.parse().ok(),
    }
}

/// Families about the machine.
pub fn machine() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let ids = |key: &str| -> Vec<&str> {
        info.lines()
            .filter(|l| l.starts_with(key))
            .filter_map(|l| Some(l.split_once(':')?.1.trim()))
            .collect()
    };
    let sockets: BTreeSet<&str> = ids("physical id").into_iter().collect();
    let cores: BTreeSet<(&str, &str)> = ids("physical id").into_iter().zip(ids("core id")).collect();
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kilobytes = |key: &str| -> u64 {
        let line = memory.lines().find(|l| l.starts_with(key));
        line.and_then(|l| l.split_whitespace().nth(1)?.parse().ok()).unwrap_or(0)
    };
    let logical = std::thread::available_parallelism().map_or(1, |n| n.get());
    let mut text = String::new();
    for (name, help, value) in [
        ("machine_cpu_cores", "Number of logical CPU cores.", logical as f64),
        ("machine_cpu_physical_cores", "Number of physical CPU cores.", cores.len().max(1) as f64),
        ("machine_cpu_sockets", "Number of CPU sockets.", sockets.len().max(1) as f64),
        (
            "machine_memory_bytes",
            "Amount of memory installed on the machine.",
            (kilobytes("MemTotal:") * 1024) as f64,
        ),
        (
            "machine_swap_bytes",
            "Amount of swap memory available on the machine.",
            (kilobytes("SwapTotal:") * 1024) as f64,
        ),
    ] {
        let mut family = Family::new(name, "gauge", help);
        family.add(
            name,
            &[
                ("boot_id", &id("/proc/sys/kernel/random/boot_id")),
                ("machine_id", &id("/etc/machine-id")),
                ("system_uuid", &id("/sys/class/dmi/id/product_uuid")),
            ],
            value,
        );
        text += &family.text;
    }
    let mut version = Family::new(
        "cadvisor_version_info",
        "gauge",
        "A metric with a constant '1' value labeled by kernel version, OS version, docker version, cadvisor version & cadvisor revision.",
    );
    let kernel = nix::sys::utsname::uname().map(|u| u.release().to_string_lossy().into_owned());
    let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let os =
        release.lines().find_map(|l| l.strip_prefix("PRETTY_NAME=")).unwrap_or("Linux").trim_matches('"');
    let nothing = ["cadvisorRevision", "cadvisorVersion", "dockerVersion"].map(|l| (l, ""));
    let mut labels = nothing.to_vec();
    let kernel = kernel.unwrap_or_default();
    labels.extend([("kernelVersion", kernel.as_str()), ("osVersion", os)]);
    version.add("cadvisor_version_info", &labels, 1.0);
    text += &version.text;
    let mut failed = Family::new(
        "machine_scrape_error",
        "gauge",
        "1 if there was an error while getting machine metrics, 0 otherwise.",
    );
    failed.add("machine_scrape_error", &[], 0.0);
    text += &failed.text;
    let mut error = Family::new(
        "container_scrape_error",
        "gauge",
        "1 if there was an error while getting container metrics, 0 otherwise",
    );
    error.add("container_scrape_error", &[], 0.0);
    text + &error.text
}

fn id(path: &str) -> String {
    std::fs::read_to_string(path).map(|t| t.trim().to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_read() {
        let text = "Inter-| Receive\n face |bytes\n    lo: 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1\n  eth0: 10 2 0 1 0 0 0 0 20 4 3 5 0 0 0 0\n";
        let found = parse(text);
        assert_eq!(found, [Interface { name: "eth0".into(), received: [10, 2, 0, 1], sent: [20, 4, 3, 5] }]);
    }
}
