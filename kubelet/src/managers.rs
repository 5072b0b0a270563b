//! The managers of CPUs, memory and devices as this kubelet uses them: they decide whether a pod may run here and what
//! its containers have for themselves. Managers that are off are not there and cost nothing.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Weak};

use async_trait::async_trait;
use cri::v1;
use k8s_openapi::api::core::v1::{Container, Pod};
use kubelet_plugins::devices::{Allocator, DeviceManager};
use kubelet_resources::cpu::{self, CpuManager};
use kubelet_resources::memory::{self, MemoryManager};
use kubelet_resources::topology::{self, Policy};
use kubelet_resources::{
    ContainerKind, ContainerRequest, CpuSet, Hint, Hints, Machine, PodRequest, Provider, Refusal,
};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use volumes::quantity;

use crate::config::KubeletConfiguration;
use crate::kubelet::Kubelet;
use crate::labels;
use crate::pod::{self, PodExt};
use crate::status::Verdict;

pub mod health;
mod pod_resources;

pub use pod_resources::serve as serve_pod_resources;

/// The managers.
pub struct Managers {
    topology: topology::Manager,
    /// What is aligned together: `container` or `pod`.
    scope: &'static str,
    cpus: Option<Mutex<CpuManager>>,
    memory: Option<Mutex<MemoryManager>>,
    pub devices: Arc<DeviceManager>,
    /// One pod at a time: what one is promised, the next does not see as free.
    admitting: tokio::sync::Mutex<()>,
    /// CPUs were given or taken back, so all others share more or fewer.
    cpus_changed: Notify,
}

/// What a container gets beside what its spec says.
#[derive(Debug, Default, PartialEq)]
pub struct Extras {
    pub envs: Vec<(String, String)>,
    pub mounts: Vec<v1::Mount>,
    pub devices: Vec<v1::Device>,
    pub annotations: HashMap<String, String>,
    pub cdi_devices: Vec<v1::CdiDevice>,
}

/// What the managers are made with.
pub struct Setup<'a> {
    pub config: &'a KubeletConfiguration,
    pub gates: &'a component::gates::Gates,
    pub root: PathBuf,
    /// Bytes of the machine.
    pub memory: i64,
    /// Told when the node's devices changed.
    pub changed: Arc<Notify>,
    pub shutdown: CancellationToken,
}

impl Managers {
    /// The managers that the configuration asks for, with what they gave in an earlier life.
    pub fn new(setup: Setup<'_>) -> anyhow::Result<Self> {
        let config = setup.config;
        let failed = |e: String| anyhow::anyhow!(e);
        let machine = Machine::read(u64::try_from(setup.memory).unwrap_or(0));
        let topology = topology::Manager::new(
            &machine,
            &config.topology_manager_policy,
            &config.topology_manager_scope,
            &config.topology_manager_policy_options,
        )
        .map_err(failed)?;
        let single = topology.policy() == Policy::SingleNumaNode;
        let cpus = cpus(&setup, &machine, single).map_err(failed)?;
        let memory = memory(&setup, &machine).map_err(failed)?;
        let dir = setup.root.join("device-plugins");
        let numas = machine.numa_ids();
        let devices = DeviceManager::new(&dir, numas, setup.changed, setup.shutdown).map_err(failed)?;
        Ok(Self {
            topology,
            scope: if config.topology_manager_scope == "pod" { "pod" } else { "container" },
            cpus: cpus.map(Mutex::new),
            memory: memory.map(Mutex::new),
            devices,
            admitting: tokio::sync::Mutex::new(()),
            cpus_changed: Notify::new(),
        })
    }

    /// Whether any manager has a say about a pod.
    fn concerns(&self, pod: &PodRequest) -> bool {
        let exclusive = || pod.containers.iter().any(|c| cpu::exclusive_cpus(pod, c) > 0);
        let devices = || pod.containers.iter().flat_map(|c| c.others.keys()).any(|r| self.devices.knows(r));
        (self.cpus.is_some() && exclusive())
            || (self.memory.is_some() && pod.guaranteed && !pod.pod_level)
            || devices()
    }

    /// Gives a pod's containers what they ask for, or says why the pod may not run here.
    pub async fn admit(&self, runtime: &cri::Runtime, pod: &Pod) -> Result<(), Verdict> {
        let request = request(pod);
        if !self.concerns(&request) {
            return Ok(());
        }
        let _turn = self.admitting.lock().await;
        // Devices of what runs already are not asked for again after a restart.
        let running = if self.devices.has_any(&request.uid) {
            running(runtime, &request.uid).await
        } else {
            Vec::new()
        };
        let mut cpus = self.cpus.as_ref().map(Locked);
        let mut memory = self.memory.as_ref().map(Locked);
        let mut devices = Allocator { manager: self.devices.clone(), running };
        let mut providers: Vec<&mut dyn Provider> = vec![&mut devices];
        providers.extend(cpus.as_mut().map(|p| p as &mut dyn Provider));
        providers.extend(memory.as_mut().map(|p| p as &mut dyn Provider));
        let began = std::time::Instant::now();
        let admitted = self.topology.admit(&request, &mut providers).await;
        self.cpus_changed.notify_one();
        crate::metrics::aligned(admitted.is_ok(), began.elapsed());
        if self.topology.policy() == Policy::SingleNumaNode {
            crate::metrics::kept_together("numa_node", self.scope, admitted.is_ok());
        }
        admitted.map_err(|refusal| {
            self.release(&request.uid);
            Verdict { reason: refusal.reason.into(), message: refusal.message }
        })
    }

    /// Takes back what a pod has.
    pub fn release(&self, uid: &str) {
        if self.cpus.as_ref().is_some_and(|cpus| cpus.lock().release(uid)) {
            self.cpus_changed.notify_one();
        }
        if let Some(memory) = &self.memory {
            memory.lock().release(uid);
        }
        self.devices.release(uid);
    }

    /// Takes back what pods have that are no more; called when all pods are known.
    pub fn retain(&self, uids: &HashSet<String>) {
        if self.cpus.as_ref().is_some_and(|cpus| cpus.lock().retain(uids)) {
            self.cpus_changed.notify_one();
        }
        if let Some(memory) = &self.memory {
            memory.lock().retain(uids);
        }
        self.devices.retain(uids);
    }

    /// The CPUs and memory nodes that a container may use, as the kernel writes them; empty for all.
    pub fn cpuset(&self, pod: &Pod, container: &str) -> (String, String) {
        let cpus = self.cpus.as_ref().map(|c| c.lock().of_container(pod.uid(), container).to_string());
        let nodes = self.memory.as_ref().map(|m| m.lock().nodes(pod.uid(), container));
        let nodes: CpuSet = nodes.into_iter().flatten().collect();
        (cpus.unwrap_or_default(), nodes.to_string())
    }

    /// How many CPUs are given to containers for themselves, and how many all others share.
    pub fn cpu_counts(&self) -> (usize, usize) {
        let Some(cpus) = &self.cpus else { return (0, 0) };
        let cpus = cpus.lock();
        let (all, shared) = (cpus.allocatable().len(), cpus.shared().len());
        (cpus.given(), shared.min(all))
    }

    /// What is to be done to a container that is about to be made.
    pub async fn before_start(&self, pod: &Pod, container: &Container) -> Result<Extras, String> {
        let mut out = Extras::default();
        for todo in self.devices.before_start(pod.uid(), &container.name).await? {
            out.envs.extend(todo.envs);
            out.annotations.extend(todo.annotations);
            out.mounts.extend(todo.mounts.into_iter().map(|m| v1::Mount {
                container_path: m.container_path,
                host_path: m.host_path,
                readonly: m.read_only,
                ..Default::default()
            }));
            out.devices.extend(todo.devices.into_iter().map(|d| v1::Device {
                container_path: d.container_path,
                host_path: d.host_path,
                permissions: d.permissions,
            }));
            out.cdi_devices.extend(todo.cdi_devices.into_iter().map(|d| v1::CdiDevice { name: d.name }));
        }
        Ok(out)
    }
}

fn cpus(setup: &Setup<'_>, machine: &Machine, single: bool) -> Result<Option<CpuManager>, String> {
    let config = setup.config;
    let file = setup.root.join("cpu_manager_state");
    if config.cpu_manager_policy != "static" {
        return cpu::keep_none(file).map(|()| None);
    }
    let gate = |name| setup.gates.enabled(name);
    let options = cpu::Options::parse(
        &config.cpu_manager_policy_options,
        gate("CPUManagerPolicyAlphaOptions"),
        gate("CPUManagerPolicyBetaOptions"),
    )?;
    let reserved: CpuSet = config.reserved_system_cpus.parse()?;
    let milli = crate::machine::reserved(config, "cpu");
    let count = match reserved.len() {
        0 => usize::try_from(milli.div_euclid(1000) + i64::from(milli % 1000 != 0)).unwrap_or(0),
        n => n,
    };
    if count == 0 {
        return Err(
            "[cpumanager] the static policy requires systemreserved.cpu + kubereserved.cpu to be greater than zero"
                .into(),
        );
    }
    CpuManager::new(machine.clone(), options, reserved, count, single, file).map(Some)
}

fn memory(setup: &Setup<'_>, machine: &Machine) -> Result<Option<MemoryManager>, String> {
    let config = setup.config;
    let file = setup.root.join("memory_manager_state");
    if config.memory_manager_policy != "Static" {
        return memory::keep_none(file).map(|()| None);
    }
    let mut reserved = memory::Reserved::new();
    for entry in &config.reserved_memory {
        let node = u32::try_from(entry.numa_node).map_err(|_| "reservedMemory.numaNode is negative")?;
        for (name, amount) in &entry.limits {
            let bytes = quantity::units(&amount.0).and_then(|b| u64::try_from(b).ok());
            let bytes =
                bytes.ok_or_else(|| format!("reservedMemory: {:?} is no amount of {name}", amount.0))?;
            *reserved.entry(node).or_default().entry(name.clone()).or_default() += bytes;
        }
    }
    let hard = crate::machine::threshold(config.eviction_hard.get("memory.available"), setup.memory);
    let kept = crate::machine::reserved(config, "memory") / 1000 + hard;
    let expected = BTreeMap::from([("memory".to_string(), u64::try_from(kept).unwrap_or(0))]);
    memory::check_reserved(machine, &reserved, &expected)?;
    MemoryManager::new(machine.clone(), reserved, file).map(Some)
}

/// The names of a pod's containers that run.
async fn running(runtime: &cri::Runtime, uid: &str) -> Vec<String> {
    let list = runtime.list_containers(Some(labels::container_filter(uid))).await.unwrap_or_default();
    let up = list.into_iter().filter(|c| c.state == v1::ContainerState::ContainerRunning as i32);
    up.filter_map(|c| c.labels.get(labels::CONTAINER_NAME).cloned()).collect()
}

/// A pod as the managers see it.
fn request(pod: &Pod) -> PodRequest {
    let spec = pod.spec();
    let container = |c: &Container, kind| {
        let resources = c.resources.as_ref();
        let requests = resources.and_then(|r| r.requests.as_ref());
        let limits = resources.and_then(|r| r.limits.as_ref());
        let milli = quantity::get_milli(requests, "cpu").or_else(|| quantity::get_milli(limits, "cpu"));
        let amounts = limits.into_iter().flatten().filter(|(name, _)| *name != "cpu");
        let units = |q: &str| quantity::units(q).and_then(|v| u64::try_from(v).ok());
        ContainerRequest {
            name: c.name.clone(),
            kind,
            milli_cpu: milli.unwrap_or(0),
            others: amounts.filter_map(|(name, q)| Some((name.clone(), units(&q.0)?))).collect(),
        }
    };
    let init = pod
        .init_containers()
        .iter()
        .map(|c| container(c, if pod::is_sidecar(c) { ContainerKind::Sidecar } else { ContainerKind::Init }));
    let main = spec.containers.iter().map(|c| container(c, ContainerKind::Main));
    PodRequest {
        uid: pod.uid().into(),
        guaranteed: pod::qos(pod) == "Guaranteed",
        pod_level: spec.resources.is_some(),
        containers: init.chain(main).collect(),
    }
}

/// Whether a container has CPUs to itself where the static CPU policy rules.
pub fn is_pinned(pod: &Pod, container: &str) -> bool {
    let request = request(pod);
    request.containers.iter().any(|c| c.name == container && cpu::exclusive_cpus(&request, c) > 0)
}

/// Whether any container of a pod has.
pub fn has_pinned(pod: &Pod) -> bool {
    let request = request(pod);
    request.containers.iter().any(|c| cpu::exclusive_cpus(&request, c) > 0)
}

/// A manager behind a lock that is never held while somebody is waited for.
struct Locked<'a, P>(&'a Mutex<P>);

#[async_trait]
impl Provider for Locked<'_, CpuManager> {
    fn hints(&mut self, pod: &PodRequest, container: &ContainerRequest) -> Hints {
        self.0.lock().hints(pod, container)
    }
    fn pod_hints(&mut self, pod: &PodRequest) -> Hints {
        self.0.lock().pod_hints(pod)
    }
    async fn allocate(&mut self, pod: &PodRequest, c: &ContainerRequest, hint: Hint) -> Result<(), Refusal> {
        let given = self.0.lock().give(pod, c, hint);
        if cpu::exclusive_cpus(pod, c) > 0 {
            crate::metrics::pinned(true, given.is_ok());
            if self.0.lock().whole_cores() {
                crate::metrics::kept_together("physical_cpu", "container", given.is_ok());
            }
        }
        given
    }
}

#[async_trait]
impl Provider for Locked<'_, MemoryManager> {
    fn hints(&mut self, pod: &PodRequest, container: &ContainerRequest) -> Hints {
        self.0.lock().hints(pod, container)
    }
    fn pod_hints(&mut self, pod: &PodRequest) -> Hints {
        self.0.lock().pod_hints(pod)
    }
    async fn allocate(&mut self, pod: &PodRequest, c: &ContainerRequest, hint: Hint) -> Result<(), Refusal> {
        let given = self.0.lock().give(pod, c, hint);
        if pod.guaranteed {
            crate::metrics::pinned(false, given.is_ok());
        }
        given
    }
}

/// Keeps every container on the CPUs that it may use, as what others have for themselves changes. Runs only with the
/// static CPU policy.
pub async fn keep_cpusets(kubelet: Weak<Kubelet>, shutdown: CancellationToken) {
    let mut last: HashMap<String, String> = HashMap::new();
    loop {
        let Some(kubelet) = kubelet.upgrade() else { return };
        if kubelet.managers.cpus.is_none() {
            return;
        }
        if kubelet.pods.all_known() {
            set_cpusets(&kubelet, &mut last).await;
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(kubelet.config.cpu_manager_reconcile_period) => {}
            () = kubelet.managers.cpus_changed.notified() => {}
        }
    }
}

async fn set_cpusets(kubelet: &Kubelet, last: &mut HashMap<String, String>) {
    let state = Some(v1::ContainerStateValue { state: v1::ContainerState::ContainerRunning as i32 });
    let filter = v1::ContainerFilter { state, ..Default::default() };
    let Ok(running) = kubelet.runtime.list_containers(Some(filter)).await else { return };
    last.retain(|id, _| running.iter().any(|c| c.id == *id));
    for container in running {
        let label = |key: &str| container.labels.get(key).cloned().unwrap_or_default();
        let Some(desired) = kubelet.pods.get(&label(labels::POD_UID)) else { continue };
        let (cpus, _) = kubelet.managers.cpuset(&desired.pod, &label(labels::CONTAINER_NAME));
        if cpus.is_empty() || last.get(&container.id) == Some(&cpus) {
            continue;
        }
        let linux = v1::LinuxContainerResources { cpuset_cpus: cpus.clone(), ..Default::default() };
        match kubelet.runtime.update_container_resources(&container.id, linux).await {
            Ok(()) => drop(last.insert(container.id, cpus)),
            Err(error) => {
                tracing::warn!(container = container.id, %error, "Failed to update the CPUs of a container");
            }
        }
    }
}
