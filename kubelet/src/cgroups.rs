//! The cgroup tree of pods: `kubepods`, its classes, and a cgroup for each pod, on cgroup v1 and v2, named as the
//! cgroupfs or the systemd driver of the runtime wants it.
//!
//! A hierarchy that may not be written (as in many containers) is said once in the log and then left alone.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;

use crate::pod::{self, PodExt};
use crate::resources::{quota, shares};

mod place;
mod reap;
pub mod resize;
mod tree;
pub mod units;

pub use tree::is_v2;
use tree::{enable_controllers, remove_tree, slice_name, uid_of, v1_hierarchies, weight};

/// Where the cgroup file systems are mounted.
const ROOT: &str = "/sys/fs/cgroup";

/// Which of the runtime's ways to name cgroups is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Driver {
    Cgroupfs,
    Systemd,
}

/// The cgroups of this node's pods.
pub struct Cgroups {
    driver: Driver,
    /// `kubepods` and what is above it, by parts: `["root", "kubepods"]`.
    base: Vec<String>,
    hierarchies: Vec<PathBuf>,
    v2: bool,
    per_qos: bool,
    period: i64,
    enforce_quota: bool,
    /// Pods with CPUs of their own are not throttled.
    free_pinned: bool,
    /// How memory is protected (version 2 only): `None` not at all, else whether in tiers.
    protection: Option<bool>,
    /// Sizes of huge pages, as resources (`2Mi`) and as the kernel writes them (`2MB`).
    page_sizes: Vec<(String, String)>,
    /// The CPUs that are told to the cgroup of all pods, where nobody divides them; version 2 only. So systemd knows
    /// that the controller is wanted and leaves it on.
    cpus: String,
    complained: Mutex<BTreeSet<PathBuf>>,
    /// A pod came, so its class is to have more.
    came: tokio::sync::Notify,
    /// systemd, where slices are its units.
    units: Option<units::Units>,
}

/// What a cgroup is limited to. Zero leaves a setting as it is, less takes a limit away.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Limits {
    /// CPU shares as of cgroup v1.
    pub shares: i64,
    /// Microseconds of CPU a period.
    pub quota: i64,
    /// The period, where it matters.
    pub period: i64,
    /// Bytes.
    pub memory: i64,
    /// Processes.
    pub pids: i64,
    /// Bytes by page size as the kernel writes it (`2MB`).
    pub hugepages: Vec<(String, i64)>,
    /// CPUs as the kernel writes them; version 2 only.
    pub cpus: String,
    /// Memory that is never taken away, and memory that is taken last; version 2 only.
    pub min: Option<i64>,
    pub low: Option<i64>,
}

/// What the tree is made with, beside the configuration.
pub struct Setup {
    pub driver: Driver,
    pub units: Option<units::Units>,
    /// Whether memory is protected at all.
    pub memory_qos: bool,
    /// Whether containers with CPUs of their own are free of quota.
    pub free_pinned: bool,
}

impl Cgroups {
    /// The tree below `cgroup_root`.
    pub fn new(config: &crate::config::KubeletConfiguration, setup: Setup) -> Self {
        let v2 = is_v2();
        let mut base: Vec<String> =
            config.cgroup_root.split('/').filter(|part| !part.is_empty()).map(str::to_string).collect();
        if config.cgroups_per_qos {
            base.push("kubepods".into());
        }
        let hierarchies = if v2 { vec![PathBuf::from(ROOT)] } else { v1_hierarchies() };
        let tiered = config.memory_reservation_policy == "TieredReservation";
        let shared = v2 && config.cpu_manager_policy != "static";
        let online = fs::read_to_string("/sys/devices/system/cpu/online").unwrap_or_default();
        Self {
            driver: setup.driver,
            base,
            hierarchies,
            v2,
            per_qos: config.cgroups_per_qos,
            period: i64::try_from(config.cpu_cfs_quota_period.as_micros()).unwrap_or(100_000),
            enforce_quota: config.cpu_cfs_quota,
            free_pinned: setup.free_pinned,
            protection: (setup.memory_qos && v2).then_some(tiered),
            page_sizes: crate::resources::page_sizes(),
            cpus: if shared { online.trim().to_string() } else { String::new() },
            complained: Mutex::default(),
            came: tokio::sync::Notify::new(),
            units: setup.units,
        }
    }

    /// Refuses a configured root that is not there.
    pub fn check_root(&self) -> Result<(), String> {
        let root = if self.per_qos { &self.base[..self.base.len() - 1] } else { &self.base[..] };
        if root.is_empty() {
            return Ok(());
        }
        let path = self.path(root);
        let missing = self.hierarchies.iter().map(|h| h.join(&path)).filter(|p| !p.is_dir());
        let missing: Vec<String> = missing.map(|p| p.display().to_string()).collect();
        match missing.is_empty() {
            true => Ok(()),
            false => Err(format!(
                "invalid configuration: cgroup {root:?} has some missing paths: {}",
                missing.join(", ")
            )),
        }
    }

    /// Whether the machine has cgroup v2 only.
    pub fn is_v2(&self) -> bool {
        self.v2
    }

    /// The cgroup of all pods.
    pub fn pods_path(&self) -> PathBuf {
        self.path(&self.base)
    }

    /// The cgroup of a pod; `None` where pods have none of their own.
    pub fn pod_path(&self, pod: &Pod) -> Option<PathBuf> {
        self.per_qos.then(|| self.path(&self.pod_parts(pod)))
    }

    /// What the runtime is told as the parent of a pod's cgroups.
    pub fn parent_for_runtime(&self, pod: &Pod) -> String {
        let parts = if self.per_qos { self.pod_parts(pod) } else { self.base.clone() };
        match self.driver {
            Driver::Cgroupfs => format!("/{}", parts.join("/")),
            Driver::Systemd => slice_name(&parts),
        }
    }

    fn pod_parts(&self, pod: &Pod) -> Vec<String> {
        let mut parts = self.base.clone();
        match pod::qos(pod) {
            "Burstable" => parts.push("burstable".into()),
            "BestEffort" => parts.push("besteffort".into()),
            _ => {}
        }
        parts.push(format!("pod{}", pod.uid()));
        parts
    }

    /// A cgroup relative to a hierarchy's root.
    fn path(&self, parts: &[String]) -> PathBuf {
        match self.driver {
            Driver::Cgroupfs => parts.iter().collect(),
            Driver::Systemd => (1..=parts.len()).map(|n| slice_name(&parts[..n])).collect(),
        }
    }

    /// Makes the tree of classes.
    pub fn set_up(&self, all: Limits) {
        if !self.per_qos {
            return;
        }
        let _ = self.make(&self.base, &Limits { cpus: self.cpus.clone(), ..all });
        for class in ["burstable", "besteffort"] {
            let mut parts = self.base.clone();
            parts.push(class.into());
            let _ = self.make(&parts, &Limits { shares: 2, ..Default::default() });
        }
    }

    /// Limits a cgroup that somebody else made; it must be there.
    pub fn limit_existing(&self, name: &str, limits: &Limits) -> Result<(), String> {
        let limits = &Limits {
            hugepages: self.hugepages(|_| 0),
            cpus: self.cpus.clone(),
            min: self.protection.and((limits.memory > 0).then_some(limits.memory)),
            ..limits.clone()
        };
        let name = name.trim_matches('/');
        let path = match self.driver {
            Driver::Systemd if !name.contains('.') => PathBuf::from(format!("{name}.slice")),
            _ => PathBuf::from(name),
        };
        if name.is_empty() || path.components().any(|c| !matches!(c, std::path::Component::Normal(_))) {
            return Err(format!("cgroup {name:?} is not configured properly"));
        }
        let missing = |h: &&PathBuf| !h.join(&path).is_dir();
        let known = ["cpu", "memory", "pids"];
        let of_interest = |h: &&PathBuf| {
            let name = h.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            self.v2 || name.split(',').any(|n| known.contains(&n))
        };
        if let Some(hierarchy) = self.hierarchies.iter().filter(of_interest).find(missing) {
            let full = hierarchy.join(&path);
            return Err(format!("cgroup {name:?} has some missing paths: {}", full.display()));
        }
        for hierarchy in self.hierarchies.iter().filter(of_interest) {
            self.make_in(hierarchy, &path, limits).map_err(|e| e.to_string())?;
        }
        Ok(())
    }

    /// Keeps the weight of the burstable class at what its pods ask together.
    pub fn weigh_burstable(&self, milli_cpu: i64) {
        self.limit_burstable(&Limits { shares: shares(milli_cpu), ..Default::default() });
    }

    fn limit_burstable(&self, limits: &Limits) {
        if self.per_qos {
            let mut parts = self.base.clone();
            parts.push("burstable".into());
            let _ = self.make(&parts, limits);
        }
    }

    /// Protects the memory that the classes of pods ask for: what is above them has to be protected at least as much.
    pub fn protect(&self, guaranteed: i64, burstable: i64) {
        let Some(tiered) = self.protection.filter(|_| self.per_qos) else { return };
        let [guaranteed, burstable] = [guaranteed, burstable].map(|bytes| if tiered { bytes } else { 0 });
        let _ = self.make(&self.base, &Limits { min: Some(guaranteed + burstable), ..Default::default() });
        self.limit_burstable(&Limits { low: Some(burstable), ..Default::default() });
    }

    /// Limits the memory of the lower classes, so that what is kept for the higher ones is there when they need it.
    pub fn reserve(&self, burstable: i64, best_effort: i64) {
        for (class, memory) in [("burstable", burstable), ("besteffort", best_effort)] {
            let mut parts = self.base.clone();
            parts.push(class.into());
            let path = self.path(&parts);
            let file = if self.v2 { "memory.max" } else { "memory.limit_in_bytes" };
            for file in self.hierarchies.iter().map(|h| h.join(&path).join(file)).filter(|f| f.exists()) {
                if let Err(error) = fs::write(&file, memory.max(0).to_string()) {
                    // More may be in use already: then it is at least not to grow.
                    tracing::debug!(%error, file = %file.display(), "Cannot limit the memory of a class");
                }
            }
        }
    }

    /// Makes the cgroup of a pod, or brings its limits up to date.
    ///
    /// A hierarchy that can be written at all must take it: a pod without its limits is none.
    pub fn ensure_pod(&self, pod: &Pod, pids_limit: i64) -> Result<(), String> {
        if !self.per_qos {
            return Ok(());
        }
        let new = !self.has_pod(pod);
        self.make(&self.pod_parts(pod), &self.limits_of(pod, pids_limit))?;
        if new {
            self.came.notify_one();
        }
        Ok(())
    }

    /// Waits until a pod has got its cgroup.
    pub async fn pod_came(&self) {
        self.came.notified().await;
    }

    fn limits_of(&self, pod: &Pod, pids: i64) -> Limits {
        let limit = |name| pod::limit_milli(pod, name).unwrap_or(0);
        let free = self.free_pinned && crate::managers::has_pinned(pod);
        let enforce = self.enforce_quota && limit("cpu") > 0 && !free;
        let memory = limit("memory") / 1000;
        let asked = pod::request_milli(pod, "memory") / 1000;
        let protected = (self.protection == Some(true) && asked > 0).then_some(asked);
        let guaranteed = pod::qos(pod) == "Guaranteed";
        Limits {
            shares: shares(pod::request_milli(pod, "cpu")),
            quota: if enforce { self.quota(limit("cpu")) } else { -1 },
            memory: if memory > 0 { memory } else { -1 },
            pids,
            hugepages: self.hugepages(|size| pod::request_milli(pod, &format!("hugepages-{size}")) / 1000),
            period: self.period,
            cpus: String::new(),
            min: protected.filter(|_| guaranteed),
            low: protected.filter(|_| !guaranteed),
        }
    }

    fn quota(&self, milli_cpu: i64) -> i64 {
        let exact = quota(milli_cpu, self.period);
        match self.driver {
            // Else systemd and the kubelet would set the same file in turns.
            Driver::Systemd => units::rounded(exact, self.period),
            Driver::Cgroupfs => exact,
        }
    }

    /// Limits for every page size of the machine: what is not asked for may not be used.
    fn hugepages(&self, bytes: impl Fn(&str) -> i64) -> Vec<(String, i64)> {
        self.page_sizes.iter().map(|(resource, kernel)| (kernel.clone(), bytes(resource))).collect()
    }

    /// Removes the cgroup of a pod, in whatever class it is. Returns whether it is gone.
    pub fn remove_pod(&self, uid: &str) -> bool {
        if !self.per_qos {
            return true;
        }
        let mut gone = true;
        let began = std::time::Instant::now();
        for class in ["", "burstable", "besteffort"] {
            let mut parts = self.base.clone();
            if !class.is_empty() {
                parts.push(class.into());
            }
            parts.push(format!("pod{uid}"));
            let path = self.path(&parts);
            let there = |h: &PathBuf| h.join(&path).exists();
            if let Some(units) = self.units.as_ref().filter(|_| self.hierarchies.iter().any(there)) {
                units.order(units::Order::Stop(slice_name(&parts)));
            }
            for hierarchy in self.all_hierarchies() {
                gone &= remove_tree(&hierarchy.join(&path), 0);
            }
        }
        crate::metrics::node::cgroup("destroy", began.elapsed());
        gone
    }

    /// The UIDs of all pods that have a cgroup.
    pub fn pods(&self) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        for class in ["", "burstable", "besteffort"] {
            let mut parts = self.base.clone();
            if !class.is_empty() {
                parts.push(class.into());
            }
            let path = self.path(&parts);
            for hierarchy in self.all_hierarchies() {
                for entry in fs::read_dir(hierarchy.join(&path)).into_iter().flatten().flatten() {
                    found.extend(entry.file_name().to_str().and_then(uid_of));
                }
            }
        }
        found
    }

    /// Where pods may have left a cgroup: beside version 1 a runtime may use the hierarchy of version 2, too.
    fn all_hierarchies(&self) -> impl Iterator<Item = PathBuf> + '_ {
        let unified = (!self.v2).then(|| Path::new(ROOT).join("unified"));
        self.hierarchies.iter().cloned().chain(unified)
    }

    /// Makes a cgroup in every hierarchy, as far as they can be written; an error if one that has the tree of pods
    /// does not take it.
    fn make(&self, parts: &[String], limits: &Limits) -> Result<(), String> {
        let path = self.path(parts);
        let mut result = Ok(());
        let began = std::time::Instant::now();
        let known = self.hierarchies.iter().any(|h| h.join(&path).is_dir());
        if let Some(units) = &self.units {
            let limits = Limits { period: self.period, ..limits.clone() };
            units.order(units::Order::Slice(slice_name(parts), limits));
        }
        for hierarchy in &self.hierarchies {
            let Err(error) = self.make_in(hierarchy, &path, limits) else { continue };
            let full = hierarchy.join(&path);
            if !full.is_dir() && hierarchy.join(self.pods_path()).is_dir() {
                result = Err(format!("failed to create cgroup {}: {error}", full.display()));
            } else if self.complained.lock().insert(hierarchy.clone()) {
                let hierarchy = hierarchy.display();
                tracing::warn!(%hierarchy, %error, "Cannot write this cgroup hierarchy; going on without its limits");
            }
        }
        crate::metrics::node::cgroup(if known { "update" } else { "create" }, began.elapsed());
        result
    }

    fn make_in(&self, hierarchy: &Path, path: &Path, limits: &Limits) -> std::io::Result<()> {
        let mut full = hierarchy.to_path_buf();
        for part in path.components() {
            let parent = full.clone();
            full.push(part);
            if !full.exists() {
                if self.v2 {
                    enable_controllers(&parent);
                }
                fs::create_dir(&full)?;
                if !self.v2 {
                    // A new cpuset has no CPUs, so nothing can run in it.
                    for file in ["cpuset.cpus", "cpuset.mems"] {
                        if let Ok(value) = fs::read_to_string(parent.join(file)) {
                            let _ = fs::write(full.join(file), value.trim());
                        }
                    }
                }
            }
        }
        if self.v2 {
            enable_controllers(&full);
        }
        for (file, value) in self.settings(limits) {
            let file = full.join(file);
            // Only the hierarchy of that controller has the file.
            if file.exists() && fs::read_to_string(&file).is_ok_and(|now| now.trim() != value) {
                fs::write(&file, value)?;
            }
        }
        Ok(())
    }

    fn settings(&self, limits: &Limits) -> Vec<(String, String)> {
        let or = |value: i64, none: &str| if value > 0 { value.to_string() } else { none.to_string() };
        let mut out: Vec<(String, String)> = Vec::new();
        let mut set = |file: &str, value: String| out.push((file.to_string(), value));
        if self.v2 {
            if limits.shares > 0 {
                set("cpu.weight", weight(limits.shares).to_string());
            }
            if limits.quota != 0 {
                set("cpu.max", format!("{} {}", or(limits.quota, "max"), self.period));
            }
            if limits.memory != 0 {
                set("memory.max", or(limits.memory, "max"));
            }
            if !limits.cpus.is_empty() {
                set("cpuset.cpus", limits.cpus.clone());
            }
            for (file, value) in [("memory.min", limits.min), ("memory.low", limits.low)] {
                value.into_iter().for_each(|value| set(file, value.to_string()));
            }
        } else {
            if limits.shares > 0 {
                set("cpu.shares", limits.shares.to_string());
            }
            if limits.quota > 0 {
                set("cpu.cfs_period_us", self.period.to_string());
            }
            if limits.quota != 0 {
                set("cpu.cfs_quota_us", or(limits.quota, "-1"));
            }
            if limits.memory > 0 {
                set("memory.limit_in_bytes", limits.memory.to_string());
            }
        }
        if limits.pids > 0 {
            set("pids.max", limits.pids.to_string());
        }
        for (size, bytes) in &limits.hugepages {
            let end = if self.v2 { "max" } else { "limit_in_bytes" };
            set(&format!("hugetlb.{size}.{end}"), bytes.to_string());
        }
        out
    }
}

#[cfg(test)]
mod tests;
