//! The CPU manager. Its static policy gives whole CPUs to containers of Guaranteed pods that ask for whole CPUs; all
//! others share what is left. What was given is kept in `cpu_manager_state`.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;

use async_trait::async_trait;

use crate::machine::Part;
use crate::topology::parse_bool;
use crate::{
    ContainerKind, ContainerRequest, CpuSet, Hint, Hints, Machine, Mask, PodRequest, Provider, Refusal,
};

mod assign;
mod state;

use assign::Strategy;
use state::State;

/// Options of the static policy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Options {
    full_cores_only: bool,
    distribute_over_numas: bool,
    align_by_socket: bool,
    spread_over_cores: bool,
    strict_reservation: bool,
    align_by_uncore: bool,
}

impl Options {
    /// Reads them; `alpha` and `beta` say whether options of that maturity are open.
    pub fn parse(options: &BTreeMap<String, String>, alpha: bool, beta: bool) -> Result<Self, String> {
        let mut out = Self::default();
        for (name, value) in options {
            let (slot, level, open) = match name.as_str() {
                "full-pcpus-only" => (&mut out.full_cores_only, "", true),
                "strict-cpu-reservation" => (&mut out.strict_reservation, "", true),
                "prefer-align-cpus-by-uncorecache" => (&mut out.align_by_uncore, "", true),
                "distribute-cpus-across-numa" => (&mut out.distribute_over_numas, "Beta", beta),
                "align-by-socket" => (&mut out.align_by_socket, "Alpha", alpha),
                "distribute-cpus-across-cores" => (&mut out.spread_over_cores, "Alpha", alpha),
                _ => return Err(format!("unknown CPU Manager Policy option: {name:?}")),
            };
            if !open {
                return Err(format!(
                    "CPU Manager Policy {level}-level Options not enabled, but option {name:?} provided"
                ));
            }
            *slot = parse_bool(name, value)?;
        }
        let clashes = [
            (out.full_cores_only && out.spread_over_cores, "full-pcpus-only", "distribute-cpus-across-cores"),
            (
                out.distribute_over_numas && out.spread_over_cores,
                "distribute-cpus-across-numa",
                "distribute-cpus-across-cores",
            ),
            (
                out.align_by_uncore && out.spread_over_cores,
                "prefer-align-cpus-by-uncorecache",
                "distribute-cpus-across-cores",
            ),
            (
                out.align_by_uncore && out.distribute_over_numas,
                "prefer-align-cpus-by-uncorecache",
                "distribute-cpus-across-numa",
            ),
        ];
        match clashes.into_iter().find(|(clash, ..)| *clash) {
            Some((_, a, b)) => {
                Err(format!("static policy options {a} and {b} can not be used at the same time"))
            }
            None => Ok(out),
        }
    }
}

/// Policy `none` gives nothing, but says so in its file: a change of policy has to be noticed.
pub fn keep_none(file: PathBuf) -> Result<(), String> {
    State::read(file, "none")?.write()
}

/// The CPU manager with the static policy. With policy `none` there is no manager.
pub struct CpuManager {
    machine: Machine,
    options: Options,
    reserved: CpuSet,
    /// All CPUs of the cores of which one is reserved.
    reserved_cores: CpuSet,
    state: State,
    /// CPUs that init containers of the pod being admitted leave to those after them.
    reusable: (String, CpuSet),
}

impl CpuManager {
    /// Reads back what was given. `reserved` are the CPUs of nobody; without a list of them, `reserved_count` are
    /// chosen.
    pub fn new(
        machine: Machine,
        options: Options,
        reserved: CpuSet,
        reserved_count: usize,
        single_numa: bool,
        file: PathBuf,
    ) -> Result<Self, String> {
        if options.align_by_socket {
            if single_numa {
                return Err("Topolgy manager single-numa-node policy is incompatible with CPUManager align-by-socket policy option".into());
            }
            if machine.parts(Part::Socket).len() > machine.parts(Part::Numa).len() {
                return Err("Align by socket is not compatible with hardware where number of sockets are more than number of NUMA".into());
            }
        }
        let mut manager = Self {
            options,
            reserved: CpuSet::default(),
            reserved_cores: CpuSet::default(),
            state: State::read(file, "static")?,
            reusable: Default::default(),
            machine,
        };
        manager.reserved = match reserved.is_empty() {
            false => reserved,
            true => manager.take(&manager.machine.all(), reserved_count).unwrap_or_default(),
        };
        let (wanted, got) = (reserved_count, manager.reserved.len());
        if got != wanted && reserved_count > 0 {
            return Err(format!(
                "[cpumanager] unable to reserve the required amount of CPUs (size of {} did not equal {wanted})",
                manager.reserved
            ));
        }
        let cores: Vec<u32> = manager.machine.parts_of(Part::Core, &manager.reserved).into_iter().collect();
        manager.reserved_cores = manager.machine.in_parts(Part::Core, &cores);
        manager.check_state()?;
        Ok(manager)
    }

    /// What was read back must fit this machine and configuration.
    fn check_state(&mut self) -> Result<(), String> {
        let all = self.machine.all();
        let shared = &self.state.shared;
        if shared.is_empty() {
            if !self.state.given.is_empty() {
                return Err("default cpuset cannot be empty".into());
            }
            let strict = self.options.strict_reservation;
            self.state.shared = if strict { all.difference(&self.reserved) } else { all };
            return self.state.write();
        }
        let reserved = self.reserved.intersection(shared);
        if self.options.strict_reservation && !reserved.is_empty() {
            return Err(format!(
                "some of strictly reserved cpus: \"{reserved}\" are present in defaultCpuSet: \"{shared}\""
            ));
        }
        if !self.options.strict_reservation && reserved != self.reserved {
            return Err(format!(
                "not all reserved cpus: \"{}\" are present in defaultCpuSet: \"{shared}\"",
                self.reserved
            ));
        }
        let mut known = shared.clone();
        for (pod, containers) in &self.state.given {
            for (container, cpus) in containers {
                if !cpus.intersection(shared).is_empty() {
                    return Err(format!(
                        "pod: {pod}, container: {container} cpuset: \"{cpus}\" overlaps with default cpuset \"{shared}\""
                    ));
                }
                known = known.union(cpus);
            }
        }
        let available =
            if self.options.strict_reservation { all.difference(&self.reserved) } else { all.clone() };
        // Upstream compares with all CPUs, also under strict reservation, where its own first state would fail.
        if known != available && known != all {
            return Err(format!(
                "current set of available CPUs \"{available}\" doesn't match with CPUs in state \"{known}\""
            ));
        }
        Ok(())
    }

    /// The CPUs of those who have none of their own.
    pub fn shared(&self) -> &CpuSet {
        &self.state.shared
    }

    /// Whether only whole cores are given.
    pub fn whole_cores(&self) -> bool {
        self.options.full_cores_only
    }

    /// How many CPUs containers have to themselves.
    pub fn given(&self) -> usize {
        self.state.given.values().flat_map(|pod| pod.values()).map(CpuSet::len).sum()
    }

    /// The CPUs a container has to itself.
    pub fn exclusive(&self, uid: &str, container: &str) -> Option<&CpuSet> {
        self.state.given.get(uid)?.get(container)
    }

    /// The CPUs a container may run on.
    pub fn of_container(&self, uid: &str, container: &str) -> &CpuSet {
        self.exclusive(uid, container).unwrap_or(&self.state.shared)
    }

    /// CPUs that can be given at all.
    pub fn allocatable(&self) -> CpuSet {
        self.machine.all().difference(&self.reserved)
    }

    /// Takes back what a pod has. Returns whether it had something.
    pub fn release(&mut self, uid: &str) -> bool {
        let Some(containers) = self.state.given.remove(uid) else { return false };
        for cpus in containers.into_values() {
            self.state.shared = self.state.shared.union(&cpus);
        }
        self.save();
        true
    }

    /// Takes back what all others have.
    pub fn retain(&mut self, uids: &HashSet<String>) -> bool {
        let stale: Vec<String> =
            self.state.given.keys().filter(|uid| !uids.contains(*uid)).cloned().collect();
        for uid in &stale {
            self.release(uid);
        }
        !stale.is_empty()
    }

    fn save(&self) {
        if let Err(error) = self.state.write() {
            tracing::error!(error, "Cannot keep what CPUs were given");
        }
    }

    fn free(&self) -> CpuSet {
        self.state.shared.difference(&self.reserved)
    }

    fn reusable(&self, pod: &PodRequest) -> CpuSet {
        if self.reusable.0 == pod.uid { self.reusable.1.clone() } else { CpuSet::default() }
    }

    fn note_reuse(&mut self, pod: &PodRequest, container: &ContainerRequest, cpus: &CpuSet) {
        let before = self.reusable(pod);
        let now = match container.kind {
            ContainerKind::Init => before.union(cpus),
            _ => before.difference(cpus),
        };
        self.reusable = (pod.uid.clone(), now);
    }

    fn take(&self, free: &CpuSet, count: usize) -> Result<CpuSet, String> {
        let group = if self.options.full_cores_only { self.machine.per(Part::Core) } else { 1 };
        let strategy = Strategy {
            spread_over_cores: self.options.spread_over_cores,
            align_by_uncore: self.options.align_by_uncore,
            distribute: self.options.distribute_over_numas.then_some(group),
        };
        assign::take(&self.machine, free, count, strategy)
    }

    fn full_cores(&self, count: usize) -> Result<(), Refusal> {
        let threads = self.machine.per(Part::Core);
        let refuse = |message: String| Err(Refusal { reason: "SMTAlignmentError", message });
        if !self.options.full_cores_only {
            return Ok(());
        }
        if !count.is_multiple_of(threads.max(1)) {
            return refuse(format!(
                "SMT Alignment Error: requested {count} cpus not multiple cpus per core = {threads}"
            ));
        }
        let available = self.state.shared.difference(&self.reserved_cores).len();
        if count > available {
            return refuse(format!(
                "SMT Alignment Error: not enough free physical CPUs: available physical CPUs = {available}, requested CPUs = {count}, CPUs per core = {threads}"
            ));
        }
        Ok(())
    }

    fn aligned(&self, mask: Mask, free: &CpuSet) -> CpuSet {
        let nodes = mask.nodes();
        let inside = self.machine.in_parts(Part::Numa, &nodes);
        if !self.options.align_by_socket {
            return free.intersection(&inside);
        }
        let sockets: Vec<u32> = self.machine.parts_of(Part::Socket, &inside).into_iter().collect();
        free.intersection(&self.machine.in_parts(Part::Socket, &sockets))
    }

    fn make_hints(&self, available: &CpuSet, reusable: &CpuSet, count: usize) -> Vec<Hint> {
        let nodes: Vec<u32> = self.machine.parts(Part::Numa).into_iter().collect();
        let mut smallest = nodes.len();
        let mut fitting = Vec::new();
        for mask in Mask::all_of(&nodes) {
            let inside = self.machine.in_parts(Part::Numa, &mask.nodes());
            if inside.len() >= count {
                smallest = smallest.min(mask.count());
            }
            let usable = inside.intersection(&available.union(reusable));
            if reusable.is_subset(&inside) && usable.len() >= count {
                fitting.push(mask);
            }
        }
        let preferred = |mask: &Mask| {
            mask.count() == smallest
                || (self.options.align_by_socket && self.in_fewest_sockets(*mask, smallest))
        };
        fitting.iter().map(|mask| Hint { nodes: Some(*mask), preferred: preferred(mask) }).collect()
    }

    fn in_fewest_sockets(&self, mask: Mask, smallest: usize) -> bool {
        let nodes_a_socket =
            self.machine.parts(Part::Numa).len() / self.machine.parts(Part::Socket).len().max(1);
        let inside = self.machine.in_parts(Part::Numa, &mask.nodes());
        nodes_a_socket > 0
            && self.machine.parts_of(Part::Socket, &inside).len() == smallest.div_ceil(nodes_a_socket)
    }
}

/// The whole CPUs that a container gets to itself; zero for one that shares.
pub fn exclusive_cpus(pod: &PodRequest, container: &ContainerRequest) -> usize {
    let whole = container.milli_cpu % 1000 == 0;
    if pod.guaranteed && !pod.pod_level && whole {
        usize::try_from(container.milli_cpu / 1000).unwrap_or(0)
    } else {
        0
    }
}

fn hints_of(list: Vec<Hint>) -> Hints {
    Hints::from([("cpu".to_string(), Some(list))])
}

impl CpuManager {
    /// Gives a container what it asks for, on these nodes if possible.
    pub fn give(
        &mut self,
        pod: &PodRequest,
        container: &ContainerRequest,
        hint: Hint,
    ) -> Result<(), Refusal> {
        let count = exclusive_cpus(pod, container);
        if count == 0 {
            return Ok(());
        }
        if let Some(cpus) = self.exclusive(&pod.uid, &container.name).cloned() {
            self.note_reuse(pod, container, &cpus);
            return Ok(());
        }
        self.full_cores(count)?;
        let free = self.free().union(&self.reusable(pod));
        let mut cpus = CpuSet::default();
        if let Some(mask) = hint.nodes {
            let aligned = self.aligned(mask, &free);
            cpus = self.take(&aligned, count.min(aligned.len())).map_err(Refusal::unexpected)?;
        }
        let rest = free.difference(&cpus);
        let more = self.take(&rest, count - cpus.len()).map_err(Refusal::unexpected)?;
        let cpus = cpus.union(&more);
        self.state.shared = self.state.shared.difference(&cpus);
        self.note_reuse(pod, container, &cpus);
        self.state.given.entry(pod.uid.clone()).or_default().insert(container.name.clone(), cpus);
        self.save();
        Ok(())
    }
}

#[async_trait]
impl Provider for CpuManager {
    fn hints(&mut self, pod: &PodRequest, container: &ContainerRequest) -> Hints {
        let count = exclusive_cpus(pod, container);
        if count == 0 {
            return Hints::new();
        }
        match self.exclusive(&pod.uid, &container.name) {
            Some(cpus) if cpus.len() == count => hints_of(self.make_hints(cpus, &CpuSet::default(), count)),
            Some(_) => hints_of(Vec::new()),
            None => hints_of(self.make_hints(&self.free(), &self.reusable(pod), count)),
        }
    }

    fn pod_hints(&mut self, pod: &PodRequest) -> Hints {
        let count = usize::try_from(pod.peak(|c| exclusive_cpus(pod, c) as u64)).unwrap_or(usize::MAX);
        if count == 0 {
            return Hints::new();
        }
        let mut had = CpuSet::default();
        for container in &pod.containers {
            if let Some(cpus) = self.exclusive(&pod.uid, &container.name) {
                if cpus.len() != exclusive_cpus(pod, container) {
                    return hints_of(Vec::new());
                }
                had = had.union(cpus);
            }
        }
        if had.len() == count {
            return hints_of(self.make_hints(&had, &CpuSet::default(), count));
        }
        hints_of(self.make_hints(&self.free(), &self.reusable(pod).union(&had), count))
    }

    async fn allocate(
        &mut self,
        pod: &PodRequest,
        container: &ContainerRequest,
        hint: Hint,
    ) -> Result<(), Refusal> {
        self.give(pod, container, hint)
    }
}

#[cfg(test)]
mod tests;
