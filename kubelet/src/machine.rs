//! The machine: what it has, what it is.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use api::quantity::{Format, Quantity};
use k8s_openapi::api::core::v1::NodeSystemInfo;
use volumes::quantity;

use crate::cgroups::Limits;
use crate::config::KubeletConfiguration;
use crate::resources::shares;

/// What the machine has.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Machine {
    pub cpus: i64,
    pub memory: i64,
    /// Bytes of the file system of the kubelet's folder.
    pub storage: i64,
    /// Bytes by huge page size (`2Mi`).
    pub hugepages: BTreeMap<String, i64>,
    pub swap: i64,
}

/// Resources for pods.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Resources {
    pub milli_cpu: i64,
    pub memory: i64,
    pub storage: i64,
    pub pods: i64,
}

impl Machine {
    /// Looks at the machine.
    pub fn read(root: &Path) -> Self {
        let info = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let field = |name: &str| -> i64 {
            let line = info.lines().find(|l| l.starts_with(name));
            let kilobytes =
                line.and_then(|l| l.split_whitespace().nth(1)).and_then(|v| v.parse::<i64>().ok());
            kilobytes.unwrap_or(0) * 1024
        };
        let cpus = std::thread::available_parallelism().map_or(1, |n| n.get());
        let storage = nix::sys::statvfs::statvfs(root).map(|s| s.blocks() as i64 * s.fragment_size() as i64);
        Self {
            cpus: i64::try_from(cpus).unwrap_or(1),
            memory: field("MemTotal:"),
            storage: storage.unwrap_or(0),
            hugepages: hugepages(),
            swap: field("SwapTotal:"),
        }
    }

    /// The limits of all pods together: with `enforced` what is not reserved (the kernel must not be stricter than
    /// eviction, so thresholds do not count), else the machine.
    pub fn for_all_pods(&self, config: &KubeletConfiguration, enforced: bool) -> Limits {
        let kept = |name: &str| if enforced { reserved(config, name) } else { 0 };
        let left = |name: &str, all: i64| (all - kept(name) / 1000).max(0);
        let kernel_name = |size: &str| size.replace("Ki", "KB").replace("Mi", "MB").replace("Gi", "GB");
        let huge = self.hugepages.iter();
        let huge = huge.map(|(size, all)| (kernel_name(size), left(&format!("hugepages-{size}"), *all)));
        Limits {
            shares: shares((self.cpus * 1000 - kept("cpu")).max(0)),
            memory: left("memory", self.memory),
            pids: left("pid", most_processes(Path::new("/proc/sys/kernel"))),
            hugepages: huge.collect(),
            ..Default::default()
        }
    }

    /// Whether the machine has what is to be kept of it.
    pub fn check_reserved(&self, config: &KubeletConfiguration) -> Result<(), String> {
        let hard = |signal: &str, capacity: i64| threshold(config.eviction_hard.get(signal), capacity);
        let bytes = |name: &str, signal: &str, all: i64| reserved(config, name) / 1000 + hard(signal, all);
        let (memory, storage) = (self.memory, self.storage);
        let kept_storage = bytes("ephemeral-storage", "nodefs.available", storage);
        let checks = [
            ("cpu", cores as fn(i64) -> String, self.cpus * 1000, reserved(config, "cpu")),
            ("memory", binary, memory, bytes("memory", "memory.available", memory)),
            ("ephemeral-storage", binary, storage, kept_storage),
        ];
        let mut wrong = Vec::new();
        for (name, text, capacity, kept) in checks {
            if kept > capacity {
                let (kept, capacity) = (text(kept), text(capacity));
                wrong.push(format!(
                    "Resource {name:?} has a reservation of {kept} but capacity of {capacity}. Expected capacity >= reservation."
                ));
            }
        }
        match wrong.is_empty() {
            true => Ok(()),
            false => Err(format!("invalid Node Allocatable configuration. {}", wrong.join(" "))),
        }
    }

    /// How many pods the node takes.
    fn pods(&self, config: &KubeletConfiguration) -> i64 {
        let most = i64::from(config.max_pods);
        match i64::from(config.pods_per_core) {
            n if n > 0 => most.min(n * self.cpus),
            _ => most,
        }
    }

    /// What is left for pods after what is kept for system, kubelet and eviction.
    pub fn allocatable(&self, config: &KubeletConfiguration) -> Resources {
        let kept = |name: &str| reserved(config, name);
        let huge: i64 = self.hugepages.values().sum();
        let hard = |signal: &str, capacity: i64| match config.ignore_eviction {
            true => 0,
            false => threshold(config.eviction_hard.get(signal), capacity),
        };
        Resources {
            milli_cpu: (self.cpus * 1000 - kept("cpu")).max(0),
            memory: (self.memory - kept("memory") / 1000 - hard("memory.available", self.memory) - huge)
                .max(0),
            storage: (self.storage
                - kept("ephemeral-storage") / 1000
                - hard("nodefs.available", self.storage))
            .max(0),
            pods: self.pods(config),
        }
    }
}

/// Thousandths of a CPU as a quantity.
fn cores(milli: i64) -> String {
    Quantity::from_milli(milli, Format::DecimalSI).to_string()
}

/// Bytes as a quantity.
fn binary(bytes: i64) -> String {
    Quantity::new(bytes, Format::BinarySI).to_string()
}

/// How many processes the kernel allows.
fn most_processes(dir: &Path) -> i64 {
    let read = |name: &str| fs::read_to_string(dir.join(name)).ok()?.trim().parse::<i64>().ok();
    ["pid_max", "threads-max"].into_iter().filter_map(read).min().unwrap_or(0)
}

/// A list of reserved resources as limits of a cgroup.
pub fn limits(list: &BTreeMap<String, String>, cpu_only: bool) -> Limits {
    let of = |name: &str| list.get(name).and_then(|q| quantity::units(q)).unwrap_or(0);
    let milli = list.get("cpu").and_then(|q| quantity::milli(q)).and_then(|m| i64::try_from(m).ok());
    let cpu = Limits { shares: milli.map(shares).unwrap_or(0), ..Default::default() };
    if cpu_only { cpu } else { Limits { memory: of("memory"), pids: of("pid"), ..cpu } }
}

/// Whether the kernel is set as the kubelet wants it, where it may not set it itself.
pub fn check_kernel(root: &Path) -> anyhow::Result<()> {
    let wanted = [
        ("vm/overcommit_memory", "1"),
        ("vm/panic_on_oom", "0"),
        ("kernel/panic", "10"),
        ("kernel/panic_on_oops", "1"),
        ("kernel/keys/root_maxkeys", "1000000"),
        ("kernel/keys/root_maxbytes", "25000000"),
    ];
    let mut wrong = Vec::new();
    for (flag, expected) in wanted {
        let actual = fs::read_to_string(root.join(flag)).unwrap_or_default();
        let actual = actual.trim();
        if actual != expected {
            wrong.push(format!(
                "invalid kernel flag: {flag}, expected value: {expected}, actual value: {actual}"
            ));
        }
    }
    anyhow::ensure!(wrong.is_empty(), "[{}]", wrong.join(", "));
    Ok(())
}

/// What is kept for system and kubelet, in thousandths.
pub fn reserved(config: &KubeletConfiguration, name: &str) -> i64 {
    if name == "cpu" && !config.reserved_system_cpus.is_empty() {
        // The list says which CPUs, so their number is how many.
        let set = config.reserved_system_cpus.parse::<kubelet_resources::CpuSet>().unwrap_or_default();
        return i64::try_from(set.len()).unwrap_or(0) * 1000;
    }
    let of = |list: &BTreeMap<String, String>| list.get(name).and_then(|q| quantity::milli(q)).unwrap_or(0);
    i64::try_from(of(&config.kube_reserved) + of(&config.system_reserved)).unwrap_or(0)
}

/// An eviction threshold in bytes: a quantity, or a percentage of the capacity.
pub fn threshold(text: Option<&String>, capacity: i64) -> i64 {
    let Some(text) = text else { return 0 };
    // Upstream keeps the share in single precision, which shows in what is left to allocate.
    match text.strip_suffix('%').and_then(|p| p.parse::<f32>().ok()) {
        Some(percent) => (capacity as f64 * f64::from(percent / 100.0)) as i64,
        None => quantity::units(text).unwrap_or(0),
    }
}

fn hugepages() -> BTreeMap<String, i64> {
    let mut out = BTreeMap::new();
    for entry in fs::read_dir("/sys/kernel/mm/hugepages").into_iter().flatten().flatten() {
        let name = entry.file_name();
        let size =
            name.to_str().and_then(|n| n.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse::<i64>().ok());
        let Some(kilobytes) = size else { continue };
        let count = fs::read_to_string(entry.path().join("nr_hugepages"))
            .ok()
            .and_then(|n| n.trim().parse::<i64>().ok());
        let name = match kilobytes {
            k if k >= 1 << 20 => format!("{}Gi", k >> 20),
            k if k >= 1 << 10 => format!("{}Mi", k >> 10),
            k => format!("{k}Ki"),
        };
        out.insert(name, count.unwrap_or(0) * kilobytes * 1024);
    }
    out
}

/// What the machine is, for `status.nodeInfo`.
pub fn system_info(runtime: &str, swap: i64) -> NodeSystemInfo {
    let line = |path: &str| fs::read_to_string(path).map(|t| t.trim().to_string()).unwrap_or_default();
    let uname = nix::sys::utsname::uname();
    let release = uname.map(|u| u.release().to_string_lossy().into_owned()).unwrap_or_default();
    let os = line("/etc/os-release");
    let pretty = os.lines().find_map(|l| l.strip_prefix("PRETTY_NAME=")).unwrap_or("Linux").trim_matches('"');
    let machine_id = match line("/etc/machine-id") {
        id if id.is_empty() => line("/var/lib/dbus/machine-id"),
        id => id,
    };
    let uuid = match line("/sys/class/dmi/id/product_uuid") {
        id if id.is_empty() => machine_id.clone(),
        id => id,
    };
    NodeSystemInfo {
        architecture: match std::env::consts::ARCH {
            "x86_64" => "amd64".into(),
            "aarch64" => "arm64".into(),
            other => other.into(),
        },
        boot_id: line("/proc/sys/kernel/random/boot_id"),
        container_runtime_version: runtime.to_string(),
        kernel_version: release,
        kube_proxy_version: String::new(),
        kubelet_version: component::version::GIT_VERSION.into(),
        machine_id,
        operating_system: "linux".into(),
        os_image: pretty.to_string(),
        system_uuid: uuid,
        swap: (swap > 0).then_some(k8s_openapi::api::core::v1::NodeSwapStatus { capacity: Some(swap) }),
    }
}

/// The node's name: as told, or the machine's.
pub fn node_name(over: Option<&str>) -> anyhow::Result<String> {
    let name = match over {
        Some(name) => name.to_string(),
        None => nix::unistd::gethostname()?.to_string_lossy().into_owned(),
    };
    let name = name.trim().to_lowercase();
    anyhow::ensure!(!name.is_empty(), "empty hostname is invalid");
    Ok(name)
}

/// The addresses of the node: as told, or the one that routes lead out by.
pub fn addresses(told: Option<&str>) -> anyhow::Result<Vec<String>> {
    if let Some(told) = told {
        let list: Result<Vec<std::net::IpAddr>, _> = told.split(',').map(|ip| ip.trim().parse()).collect();
        let list = list.map_err(|_| anyhow::anyhow!("bad --node-ip {told:?}"))?;
        anyhow::ensure!(list.len() <= 2, "bad --node-ip {told:?}: at most one address a family");
        if !list.iter().any(|ip| ip.is_unspecified()) {
            return Ok(list.iter().map(ToString::to_string).collect());
        }
    }
    // Connecting a datagram socket sends nothing, but makes the kernel choose an address.
    let chosen = std::net::UdpSocket::bind("0.0.0.0:0").and_then(|socket| {
        socket.connect("192.0.2.1:9")?;
        socket.local_addr()
    });
    match chosen {
        Ok(address) => Ok(vec![address.ip().to_string()]),
        Err(_) => {
            let interfaces = nix::ifaddrs::getifaddrs()?;
            let mut found = interfaces.filter_map(|i| i.address?.as_sockaddr_in().map(|a| a.ip()));
            let ip = found.find(|ip| !ip.is_loopback() && !ip.is_link_local());
            Ok(vec![ip.unwrap_or(std::net::Ipv4Addr::LOCALHOST).to_string()])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn machine() -> Machine {
        Machine {
            cpus: 2,
            memory: 6 << 30,
            storage: 100 << 30,
            hugepages: [("2Mi".to_string(), 8 << 20)].into(),
            swap: 0,
        }
    }

    fn config(value: serde_json::Value) -> KubeletConfiguration {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn all_pods_have_what_is_not_kept() {
        let config = config(
            json!({"kubeReserved": {"cpu": "500m", "memory": "1Gi"}, "systemReserved": {"pid": "10"}}),
        );
        let (open, kept) = (machine().for_all_pods(&config, false), machine().for_all_pods(&config, true));
        assert_eq!([open.memory, kept.memory], [6 << 30, 5 << 30]);
        assert_eq!([open.shares, kept.shares], [2048, 1536]);
        assert_eq!(open.pids - kept.pids, 10);
        assert_eq!(kept.hugepages, [("2MB".to_string(), 8 << 20)]);
    }

    #[test]
    fn shares_are_of_single_precision() {
        let of = |text: &str| threshold(Some(&text.to_string()), 4_143_677_440);
        assert_eq!([of("10%"), of("50%"), of("1Ki")], [414_367_750, 2_071_838_720, 1024]);
    }

    #[test]
    fn no_more_is_kept_than_there_is() {
        assert_eq!(machine().check_reserved(&config(json!({}))), Ok(()));
        let greedy = config(
            json!({"kubeReserved": {"cpu": "2500m", "memory": "6Gi"}, "evictionHard": {"memory.available": "1Mi"}}),
        );
        let expected = "invalid Node Allocatable configuration. Resource \"cpu\" has a reservation of 2500m but capacity of 2. Expected capacity >= reservation. Resource \"memory\" has a reservation of 6145Mi but capacity of 6Gi. Expected capacity >= reservation.";
        assert_eq!(machine().check_reserved(&greedy), Err(expected.into()));
    }
}
