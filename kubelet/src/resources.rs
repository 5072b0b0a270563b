//! CPU, memory and huge page settings of containers, and how soon the kernel may kill them.

use cri::v1;
use k8s_openapi::api::core::v1::{Container, Pod};
use volumes::quantity::{get, get_milli};

use crate::pod::{self, PodExt};

const MIN_SHARES: i64 = 2;
const MAX_SHARES: i64 = 262_144;
const MIN_QUOTA: i64 = 1000;

/// Settings of the node that container resources depend on.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeResources {
    /// Memory of the machine in bytes.
    pub memory: i64,
    /// Whether CPU limits are enforced.
    pub cfs_quota: bool,
    /// The period in microseconds.
    pub cfs_period: i64,
    /// Whether containers with CPUs of their own are free of quota.
    pub free_pinned: bool,
    /// Whether cgroups are of version 2.
    pub cgroup_v2: bool,
    /// How containers may use swap.
    pub swap: Swap,
    /// A container that runs out of memory dies as a whole, not only the process that asked for more.
    pub kill_whole: bool,
    /// How memory is protected and throttled, where that is on; version 2 only.
    pub memory_qos: Option<MemoryQos>,
}

/// How memory is protected and throttled.
#[derive(Debug, Clone, PartialEq)]
pub struct MemoryQos {
    /// Where between request and limit throttling begins.
    pub factor: f64,
    /// Requests are kept for those who made them.
    pub tiered: bool,
    /// What all pods together may have, for containers without a limit.
    pub allocatable: i64,
}

/// Throttling begins at whole pages.
const PAGE: i64 = 4096;

impl MemoryQos {
    fn settings(&self, pod: &Pod, request: i64, limit: i64) -> Vec<(&'static str, String)> {
        let guaranteed = pod::qos(pod) == "Guaranteed";
        let mut out = match (self.tiered && request != 0, guaranteed) {
            (true, true) => vec![("memory.min", request.to_string())],
            (true, false) => vec![("memory.low", request.to_string())],
            (false, _) => vec![("memory.min", "0".into()), ("memory.low", "0".into())],
        };
        let most = if limit != 0 { limit } else { self.allocatable };
        let high = request as f64 + (most - request) as f64 * self.factor;
        let high = (high / PAGE as f64).floor() as i64 * PAGE;
        if request != limit && high > request {
            out.push(("memory.high", high.to_string()));
        }
        out
    }
}

/// How containers may use swap.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Swap {
    /// The kernel cannot limit it: containers are left alone.
    #[default]
    Unlimitable,
    /// Not at all.
    None,
    /// Burstable pods in proportion to the memory they ask for, out of so many bytes.
    Limited(i64),
}

impl Swap {
    /// What the configuration asks for and this machine can do.
    pub fn new(behavior: &str, cgroup_v2: bool, capacity: i64) -> Self {
        if !swap_controller(cgroup_v2) {
            return Self::Unlimitable;
        }
        if behavior == "LimitedSwap" && cgroup_v2 { Self::Limited(capacity) } else { Self::None }
    }

    /// The swap that a container may use, in bytes.
    pub fn of_container(self, pod: &Pod, container: &Container, memory: i64) -> i64 {
        let Self::Limited(swap) = self else { return 0 };
        let resources = container.resources.as_ref();
        let request = get(resources.and_then(|r| r.requests.as_ref()), "memory").unwrap_or(0);
        let limit = get(resources.and_then(|r| r.limits.as_ref()), "memory").unwrap_or(0);
        if pod.is_critical() || pod::qos(pod) != "Burstable" || request == 0 || request == limit {
            return 0;
        }
        i64::try_from(i128::from(request) * i128::from(swap) / i128::from(memory.max(1))).unwrap_or(0)
    }
}

/// Whether the kernel accounts for swap by cgroup.
fn swap_controller(cgroup_v2: bool) -> bool {
    if !cgroup_v2 {
        return std::path::Path::new("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes").exists();
    }
    // The root has no such file, so the kubelet's own cgroup is looked at.
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = own.lines().find_map(|l| l.strip_prefix("0::")).unwrap_or("/").trim_matches('/');
    std::path::Path::new("/sys/fs/cgroup").join(own).join("memory.swap.max").exists()
}

/// CPU shares for thousandths of a CPU.
pub fn shares(milli: i64) -> i64 {
    if milli == 0 {
        return MIN_SHARES;
    }
    (milli.saturating_mul(1024) / 1000).clamp(MIN_SHARES, MAX_SHARES)
}

/// CPU quota in microseconds a period for thousandths of a CPU; zero for none.
pub fn quota(milli: i64, period: i64) -> i64 {
    if milli <= 0 {
        return 0;
    }
    (milli.saturating_mul(period) / 1000).max(MIN_QUOTA)
}

/// The settings of a container.
pub fn of_container(pod: &Pod, container: &Container, node: &NodeResources) -> v1::LinuxContainerResources {
    let resources = container.resources.as_ref();
    let limits = resources.and_then(|r| r.limits.as_ref());
    let requests = resources.and_then(|r| r.requests.as_ref());
    let pod_limits = pod.spec().resources.as_ref().and_then(|r| r.limits.as_ref());
    let cpu_limit = get_milli(limits, "cpu").or_else(|| get_milli(pod_limits, "cpu")).unwrap_or(0);
    let memory_limit = get(limits, "memory").or_else(|| get(pod_limits, "memory")).unwrap_or(0);
    // A container with a limit but no request asks for its limit.
    let cpu_request = get_milli(requests, "cpu").unwrap_or(cpu_limit);
    let mut out = v1::LinuxContainerResources {
        cpu_shares: shares(cpu_request),
        memory_limit_in_bytes: memory_limit,
        oom_score_adj: oom_score_adj(pod, container, node.memory),
        hugepage_limits: hugepages(limits, pod_limits, page_sizes()),
        ..Default::default()
    };
    if node.cfs_quota {
        out.cpu_period = node.cfs_period;
        let free = node.free_pinned && crate::managers::is_pinned(pod, &container.name);
        out.cpu_quota = if free { -1 } else { quota(cpu_limit, node.cfs_period) };
    }
    if node.cgroup_v2 && node.kill_whole {
        out.unified.insert("memory.oom.group".into(), "1".into());
    }
    if let Some(qos) = node.memory_qos.as_ref().filter(|_| node.cgroup_v2) {
        let request = get(requests, "memory").unwrap_or(0);
        let own_limit = get(limits, "memory").unwrap_or(0);
        let settings = qos.settings(pod, request, own_limit).into_iter();
        out.unified.extend(settings.map(|(file, value)| (file.to_string(), value)));
    }
    match node.swap {
        Swap::Unlimitable => {}
        swap if node.cgroup_v2 => {
            let most = swap.of_container(pod, container, node.memory);
            out.unified.insert("memory.swap.max".into(), most.to_string());
        }
        // Memory and swap together; no limit of memory means none of swap either.
        _ => out.memory_swap_limit_in_bytes = memory_limit,
    }
    out
}

/// The sizes of huge pages that the machine has, as resources (`2Mi`) and as the kernel writes them (`2MB`).
pub fn page_sizes() -> Vec<(String, String)> {
    let sizes = std::fs::read_dir("/sys/kernel/mm/hugepages").into_iter().flatten().flatten();
    let sizes = sizes.filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse::<u64>().ok()
    });
    let mut sizes: Vec<u64> = sizes.collect();
    sizes.sort_unstable();
    let names = |kilobytes| match kilobytes {
        k if k >= 1 << 20 => (format!("{}Gi", k >> 20), format!("{}GB", k >> 20)),
        k if k >= 1 << 10 => (format!("{}Mi", k >> 10), format!("{}MB", k >> 10)),
        k => (format!("{k}Ki"), format!("{k}KB")),
    };
    sizes.into_iter().map(names).collect()
}

type Quantities = std::collections::BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>;

/// Limits for every page size: the container's own, else the pod's, else none may be used.
fn hugepages(
    own: Option<&Quantities>,
    pod: Option<&Quantities>,
    sizes: Vec<(String, String)>,
) -> Vec<v1::HugepageLimit> {
    let limit = |resource: &str| get(own, resource).or_else(|| get(pod, resource)).unwrap_or(0);
    let of = |(size, page_size): (String, String)| {
        let limit = u64::try_from(limit(&format!("hugepages-{size}"))).unwrap_or(0);
        v1::HugepageLimit { page_size, limit }
    };
    sizes.into_iter().map(of).collect()
}

/// How willing the kernel should be to kill the container: the more of its memory it did not ask for, the sooner.
pub fn oom_score_adj(pod: &Pod, container: &Container, capacity: i64) -> i64 {
    if pod.is_critical() {
        return -997;
    }
    match pod::qos(pod) {
        "Guaranteed" => return -997,
        "BestEffort" => return 1000,
        _ => {}
    }
    let request =
        |c: &Container| get(c.resources.as_ref().and_then(|r| r.requests.as_ref()), "memory").unwrap_or(0);
    let mut asked = request(container);
    let pod_level = pod.spec().resources.as_ref().and_then(|r| get(r.requests.as_ref(), "memory"));
    if let Some(pod_level) = pod_level {
        // What the pod asks beyond its containers is shared among them.
        let containers = &pod.spec().containers;
        let sum: i64 = containers.iter().map(request).sum();
        asked += (pod_level - sum).max(0) / i64::try_from(containers.len().max(1)).unwrap_or(1);
    }
    let score = 1000 - (1000 * i128::from(asked)) / i128::from(capacity.max(1));
    let score = i64::try_from(score).unwrap_or(0);
    // Never as safe as Guaranteed, never as exposed as BestEffort.
    score.clamp(3, 999)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn swap_in_proportion_to_memory() {
        let node = NodeResources {
            memory: 8 << 30,
            cfs_quota: true,
            cfs_period: 100_000,
            free_pinned: true,
            cgroup_v2: true,
            swap: Swap::Limited(4 << 30),
            kill_whole: false,
            memory_qos: None,
        };
        for (resources, most) in [
            (json!({}), "0"),
            (json!({"requests": {"memory": "2Gi"}}), "1073741824"),
            (json!({"requests": {"memory": "2Gi"}, "limits": {"memory": "2Gi"}}), "0"),
        ] {
            let pod: Pod = serde_json::from_value(
                json!({"metadata": {}, "spec": {"containers": [{"name": "c", "resources": resources}]}}),
            )
            .unwrap();
            let got = of_container(&pod, &pod.spec().containers[0], &node);
            assert_eq!(got.unified["memory.swap.max"], most, "{resources}");
            assert!(!got.unified.contains_key("memory.oom.group"));
        }
    }

    #[test]
    fn huge_pages_are_the_containers_or_the_pods() {
        let list =
            |bytes: &str| -> Quantities { serde_json::from_value(json!({"hugepages-2Mi": bytes})).unwrap() };
        let sizes = || vec![("2Mi".to_string(), "2MB".to_string()), ("1Gi".into(), "1GB".into())];
        let limits = |own: Option<&Quantities>, pod: Option<&Quantities>| -> Vec<u64> {
            hugepages(own, pod, sizes()).iter().map(|l| l.limit).collect()
        };
        let (two, four) = (list("2Mi"), list("4Mi"));
        assert_eq!(limits(Some(&two), Some(&four)), [2 << 20, 0]);
        assert_eq!(limits(None, Some(&four)), [4 << 20, 0]);
        assert_eq!(limits(None, None), [0, 0]);
    }

    #[test]
    fn containers_with_their_own_cpus_have_no_quota() {
        let mut node = NodeResources {
            memory: 8 << 30,
            cfs_quota: true,
            cfs_period: 100_000,
            free_pinned: true,
            cgroup_v2: true,
            swap: Swap::Unlimitable,
            kill_whole: false,
            memory_qos: None,
        };
        let pod = |cpu: &str| -> Pod {
            let list = json!({"cpu": cpu, "memory": "1Mi"});
            let resources = json!({"requests": list, "limits": list});
            serde_json::from_value(json!({"metadata": {}, "spec": {"containers": [
                {"name": "c", "resources": resources}]}}))
            .unwrap()
        };
        let quota = |node: &NodeResources, cpu| {
            let pod = pod(cpu);
            of_container(&pod, &pod.spec().containers[0], node).cpu_quota
        };
        assert_eq!([quota(&node, "1"), quota(&node, "500m")], [-1, 50_000]);
        node.free_pinned = false;
        assert_eq!(quota(&node, "1"), 100_000);
        // The limit may be the pod's, and what else is asked for does not matter.
        let pod: Pod = serde_json::from_value(json!({"metadata": {}, "spec": {
            "resources": {"limits": {"cpu": "300m"}},
            "containers": [{"name": "c", "resources": {"requests": {"memory": "1Mi"}}}]}}))
        .unwrap();
        assert_eq!(of_container(&pod, &pod.spec().containers[0], &node).cpu_shares, 307);
    }

    #[test]
    fn memory_is_protected_and_throttled() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {}, "spec": {"containers": [
            {"name": "c", "resources": {"requests": {"memory": "4Ki"}}}]}}))
        .unwrap();
        let qos = |tiered| MemoryQos { factor: 0.5, tiered, allocatable: 12 << 10 };
        let low = ("memory.low", "4096".to_string());
        assert_eq!(qos(true).settings(&pod, 4096, 0), [low.clone(), ("memory.high", "8192".into())]);
        assert_eq!(qos(true).settings(&pod, 4096, 4096), [low]);
        assert_eq!(qos(false).settings(&pod, 4096, 20_480)[2], ("memory.high", "12288".into()));
    }

    #[test]
    fn container_settings() {
        let node = NodeResources {
            memory: 8 << 30,
            cfs_quota: true,
            cfs_period: 100_000,
            free_pinned: true,
            cgroup_v2: false,
            swap: Swap::Unlimitable,
            kill_whole: true,
            memory_qos: None,
        };
        for (resources, shares, quota, memory, oom) in [
            (json!({}), 2, 0, 0, 1000),
            (json!({"requests": {"cpu": "250m", "memory": "4Gi"}}), 256, 0, 0, 500),
            (json!({"limits": {"cpu": "500m", "memory": "64Mi"}}), 512, 50_000, 64 << 20, -997),
            (json!({"requests": {"cpu": "1m"}, "limits": {"cpu": "5m"}}), 2, 1000, 0, 999),
        ] {
            let pod: Pod = serde_json::from_value(
                json!({"metadata": {}, "spec": {"containers": [{"name": "c", "resources": resources}]}}),
            )
            .unwrap();
            let got = of_container(&pod, &pod.spec().containers[0], &node);
            let got = (got.cpu_shares, got.cpu_quota, got.memory_limit_in_bytes, got.oom_score_adj);
            assert_eq!(got, (shares, quota, memory, oom), "{resources}");
        }
    }
}
