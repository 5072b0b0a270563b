//! The memory manager. Its static policy gives memory of certain NUMA nodes to containers of Guaranteed pods, so that
//! nodes are not promised twice. What was given is kept in `memory_manager_state`.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;

use async_trait::async_trait;

use crate::machine::hugepage_resource;
use crate::{ContainerKind, ContainerRequest, Hint, Hints, Machine, Mask, PodRequest, Provider, Refusal};

mod state;

pub use state::{Block, Table};
use state::{NodeState, State};

/// Memory that is not for pods, in bytes by resource and NUMA node.
pub type Reserved = BTreeMap<u32, BTreeMap<String, u64>>;

/// What a container asks, by resource.
type Wanted = BTreeMap<String, u64>;

/// Policy `None` gives nothing, but says so in its file: a change of policy has to be noticed.
pub fn keep_none(file: PathBuf) -> Result<(), String> {
    State::read(file, "None")?.write()
}

/// The memory manager with the static policy. With policy `None` there is no manager.
pub struct MemoryManager {
    machine: Machine,
    reserved: Reserved,
    state: State,
    /// What init containers of the pod being admitted leave to those after them: by nodes and resource.
    reusable: (String, BTreeMap<(Mask, String), u64>),
}

/// Checks that what is reserved of the nodes together is what node allocatable reserves.
pub fn check_reserved(machine: &Machine, reserved: &Reserved, expected: &Wanted) -> Result<(), String> {
    let known = machine.numa_ids();
    if let Some(node) = reserved.keys().find(|n| !known.contains(n)) {
        return Err(format!(
            "the reserved memory configuration references a NUMA node {node} that does not exist on this machine"
        ));
    }
    let mut sums = Wanted::new();
    for (name, bytes) in reserved.values().flatten() {
        *sums.entry(name.clone()).or_default() += bytes;
    }
    let relevant = expected.keys().filter(|n| *n == "memory" || n.starts_with("hugepages-"));
    for name in sums.keys().chain(relevant) {
        let of = |list: &Wanted| list.get(name).copied().unwrap_or(0);
        let (got, wanted) = (of(&sums), of(expected));
        if got != wanted {
            return Err(format!(
                "the total amount \"{got}\" of type {name:?} is not equal to the value \"{wanted}\" determined by Node Allocatable feature"
            ));
        }
    }
    match sums.get("memory").copied().unwrap_or(0) {
        0 => Err("[memorymanager] you should specify the system reserved memory".into()),
        _ => Ok(()),
    }
}

impl MemoryManager {
    /// Reads back what was given.
    pub fn new(machine: Machine, reserved: Reserved, file: PathBuf) -> Result<Self, String> {
        let state = State::read(file, "Static")?;
        let mut manager = Self { machine, reserved, state, reusable: Default::default() };
        let fresh = manager.fresh();
        if manager.state.nodes.is_empty() {
            if !manager.state.given.is_empty() {
                return Err(
                    "[memorymanager] machine state can not be empty when it has memory assignments".into()
                );
            }
            manager.state.nodes = fresh;
            manager.state.write()?;
        } else {
            manager.compare(fresh)?;
        }
        Ok(manager)
    }

    /// The machine with nothing given.
    fn fresh(&self) -> BTreeMap<u32, NodeState> {
        let of_node = |numa: &crate::machine::Numa| {
            let kept =
                |name: &str| self.reserved.get(&numa.id).and_then(|r| r.get(name)).copied().unwrap_or(0);
            let table = |total: u64, taken: u64, name: &str| {
                let left = total.saturating_sub(taken).saturating_sub(kept(name));
                Table { total, system_reserved: kept(name), allocatable: left, reserved: 0, free: left }
            };
            let mut memory = BTreeMap::new();
            let mut in_pages = 0;
            for (size, count) in &numa.hugepages {
                let name = hugepage_resource(*size);
                memory.insert(name.clone(), table(size * count, 0, &name));
                in_pages += size * count;
            }
            memory.insert("memory".to_string(), table(numa.memory, in_pages, "memory"));
            (numa.id, NodeState { assignments: 0, memory, cells: vec![numa.id] })
        };
        self.machine.numas.iter().map(of_node).collect()
    }

    /// The state that was read back must be what the machine would be with what was given.
    fn compare(&self, mut expected: BTreeMap<u32, NodeState>) -> Result<(), String> {
        for (pod, containers) in &self.state.given {
            for (container, block) in containers.iter().flat_map(|(c, b)| b.iter().map(move |b| (c, b))) {
                let about = format!(
                    "[memorymanager] (pod: {pod}, container: {container}) the memory assignment uses"
                );
                for node in &block.nodes {
                    let Some(node) = expected.get(node) else {
                        return Err(format!("{about} the NUMA that does not exist"));
                    };
                    if !node.memory.contains_key(&block.resource) {
                        return Err(format!("{about} memory resource that does not exist"));
                    }
                }
                reserve(&mut expected, block);
            }
        }
        let same = expected.len() == self.state.nodes.len()
            && expected.iter().all(|(id, node)| {
                self.state.nodes.get(id).is_some_and(|real| {
                    real.assignments == node.assignments
                        && sorted(&real.cells) == sorted(&node.cells)
                        && real.memory.len() == node.memory.len()
                        && node.memory.iter().all(|(name, table)| {
                            let sums = |nodes: &BTreeMap<u32, NodeState>| sums(nodes, &node.cells, name);
                            real.memory.get(name).is_some_and(|t| t.same_size(table))
                                && sums(&expected) == sums(&self.state.nodes)
                        })
                })
            });
        if same {
            Ok(())
        } else {
            Err("[memorymanager] the expected machine state is different from the real one".into())
        }
    }

    /// The memory that can be given at all.
    pub fn allocatable(&self) -> Vec<Block> {
        let mut out = Vec::new();
        for (id, node) in &self.state.nodes {
            for (name, table) in node.memory.iter().filter(|(_, t)| t.allocatable > 0) {
                out.push(Block { nodes: vec![*id], resource: name.clone(), size: table.allocatable });
            }
        }
        out
    }

    /// What a container has.
    pub fn of_container(&self, uid: &str, container: &str) -> &[Block] {
        self.state.given.get(uid).and_then(|c| c.get(container)).map(Vec::as_slice).unwrap_or_default()
    }

    /// The NUMA nodes of a container's memory; none if it may use any.
    pub fn nodes(&self, uid: &str, container: &str) -> Vec<u32> {
        let blocks = self.of_container(uid, container).iter();
        sorted(&blocks.flat_map(|b| b.nodes.iter().copied()).collect::<Vec<_>>())
    }

    /// Takes back what a pod has. Returns whether it had something.
    pub fn release(&mut self, uid: &str) -> bool {
        let Some(containers) = self.state.given.remove(uid) else { return false };
        for block in containers.values().flatten() {
            give_back(&mut self.state.nodes, block);
        }
        self.save();
        true
    }

    /// Takes back what all others have.
    pub fn retain(&mut self, uids: &HashSet<String>) {
        let stale: Vec<String> =
            self.state.given.keys().filter(|uid| !uids.contains(*uid)).cloned().collect();
        for uid in stale {
            self.release(&uid);
        }
    }

    fn save(&self) {
        if let Err(error) = self.state.write() {
            tracing::error!(error, "Cannot keep what memory was given");
        }
    }

    fn reusable(&self, pod: &PodRequest, mask: Mask, resource: &str) -> u64 {
        if self.reusable.0 != pod.uid {
            return 0;
        }
        self.reusable.1.get(&(mask, resource.to_string())).copied().unwrap_or(0)
    }

    fn note_reuse(&mut self, pod: &PodRequest, container: &ContainerRequest, blocks: &[Block]) {
        if self.reusable.0 != pod.uid {
            self.reusable = (pod.uid.clone(), BTreeMap::new());
        }
        for block in blocks {
            let left = self.reusable.1.entry((Mask::of(&block.nodes), block.resource.clone())).or_default();
            *left = match container.kind {
                ContainerKind::Init => block.size.max(*left),
                _ => left.saturating_sub(block.size),
            };
        }
    }

    /// The wishes for memory that is not given yet.
    fn make_hints(&self, pod: &PodRequest, wanted: &Wanted) -> Hints {
        let ids: Vec<u32> = self.state.nodes.keys().copied().collect();
        let mut smallest = ids.len();
        let mut fitting = Vec::new();
        for mask in Mask::all_of(&ids) {
            let nodes = mask.nodes();
            let total = |name: &str, of: fn(&Table) -> u64| -> u64 {
                nodes.iter().filter_map(|n| self.state.nodes[n].memory.get(name)).map(of).sum()
            };
            if wanted.iter().any(|(name, size)| total(name, |t| t.allocatable) < *size) {
                continue;
            }
            smallest = smallest.min(mask.count());
            let enough = |(name, size): (&String, &u64)| {
                total(name, |t| t.free) + self.reusable(pod, mask, name) >= *size
            };
            if self.fits_groups(mask) && wanted.iter().all(enough) {
                fitting.push(mask);
            }
        }
        let hint = |mask: &Mask| Hint { nodes: Some(*mask), preferred: mask.count() == smallest };
        let list: Vec<Hint> = fitting.iter().map(hint).collect();
        wanted.keys().map(|name| (name.clone(), Some(list.clone()))).collect()
    }

    /// Nodes that are used together are used by nobody in other company.
    fn fits_groups(&self, mask: Mask) -> bool {
        let nodes = mask.nodes();
        nodes.iter().filter_map(|n| self.state.nodes.get(n)).filter(|s| s.assignments > 0).all(
            |s| match nodes.len() {
                1 => s.cells.len() == 1,
                _ => s.cells.len() > 1 && sorted(&s.cells) == nodes,
            },
        )
    }

    /// The wishes that lead to what is given already.
    fn repeated(&self, blocks: &[Block], wanted: &Wanted) -> Hints {
        let mut out: Hints = wanted.keys().map(|name| (name.clone(), Some(Vec::new()))).collect();
        if blocks.len() != wanted.len() {
            return out;
        }
        for block in blocks {
            if wanted.get(&block.resource) != Some(&block.size) {
                return wanted.keys().map(|name| (name.clone(), Some(Vec::new()))).collect();
            }
            let hint = Hint { nodes: Some(Mask::of(&block.nodes)), preferred: true };
            out.insert(block.resource.clone(), Some(vec![hint]));
        }
        out
    }

    /// The nodes to take memory from, given what others wish.
    fn choose(&self, pod: &PodRequest, wanted: &Wanted, hint: Hint) -> Result<Mask, String> {
        let best = |hints: Vec<Hint>| {
            hints.into_iter().reduce(|a, b| {
                let narrower = b.nodes.zip(a.nodes).is_some_and(|(b, a)| b.is_narrower(a));
                if (b.preferred && !a.preferred) || (a.preferred == b.preferred && narrower) { b } else { a }
            })
        };
        let of_memory = || {
            let mut hints = self.make_hints(pod, wanted);
            let first = wanted.keys().next().cloned().unwrap_or_default();
            let key = if hints.contains_key("memory") { "memory".to_string() } else { first };
            hints.remove(&key).flatten().unwrap_or_default()
        };
        let mut chosen = hint;
        if chosen.nodes.is_none() {
            let found = best(of_memory()).ok_or(
                "[memorymanager] failed to get the default NUMA affinity, no NUMA nodes with enough memory is available",
            )?;
            if !found.preferred && hint.preferred {
                return Err("[memorymanager] failed to find the default preferred hint".into());
            }
            chosen = found;
        }
        let mut mask = chosen.nodes.unwrap_or_default();
        let free = |name: &str| sums(&self.state.nodes, &mask.nodes(), name).0;
        if wanted.iter().any(|(name, size)| free(name) + self.reusable(pod, mask, name) < *size) {
            let wider = of_memory().into_iter().filter(|h| h.nodes.is_some_and(|m| m.0 & mask.0 == mask.0));
            let found = best(wider.collect())
                .ok_or("[memorymanager] failed to find NUMA nodes to extend the current topology hint")?;
            if !found.preferred && chosen.preferred {
                return Err("[memorymanager] failed to find the extended preferred hint".into());
            }
            mask = found.nodes.unwrap_or_default();
        }
        if mask.count() > 1 && !self.fits_groups(mask) {
            return Err("[memorymanager] preferred hint violates NUMA node allocation".into());
        }
        Ok(mask)
    }

    /// Memory that a container takes over from init containers is no longer theirs.
    fn shrink_init(&mut self, pod: &PodRequest, container: &ContainerRequest, blocks: &[Block]) {
        let before = pod.containers.iter().take_while(|c| c.name != container.name);
        let init: Vec<&str> =
            before.filter(|c| c.kind == ContainerKind::Init).map(|c| c.name.as_str()).collect();
        let Some(given) = self.state.given.get_mut(&pod.uid) else { return };
        for block in blocks {
            let mut left = block.size;
            for name in &init {
                for old in given.get_mut(*name).into_iter().flatten() {
                    if old.resource == block.resource && sorted(&old.nodes) == sorted(&block.nodes) {
                        let taken = old.size.min(left);
                        old.size -= taken;
                        left -= taken;
                    }
                }
            }
        }
    }
}

/// What a container asks of memory and huge pages, if its memory is to be managed.
fn wanted(pod: &PodRequest, container: &ContainerRequest) -> Wanted {
    if !pod.guaranteed || pod.pod_level {
        return Wanted::new();
    }
    let memory = |(name, _): &(&String, &u64)| *name == "memory" || name.starts_with("hugepages-");
    container.others.iter().filter(memory).filter(|(_, v)| **v > 0).map(|(k, v)| (k.clone(), *v)).collect()
}

fn sorted(nodes: &[u32]) -> Vec<u32> {
    let mut nodes = nodes.to_vec();
    nodes.sort_unstable();
    nodes.dedup();
    nodes
}

/// Free and reserved memory of nodes.
fn sums(nodes: &BTreeMap<u32, NodeState>, ids: &[u32], resource: &str) -> (u64, u64) {
    let tables = ids.iter().filter_map(|id| nodes.get(id)?.memory.get(resource));
    tables.fold((0, 0), |(free, reserved), t| (free + t.free, reserved + t.reserved))
}

/// Takes a block from its nodes, the first as much as it has.
fn reserve(nodes: &mut BTreeMap<u32, NodeState>, block: &Block) {
    let mut left = block.size;
    for id in &block.nodes {
        let Some(node) = nodes.get_mut(id) else { continue };
        node.assignments += 1;
        node.cells = block.nodes.clone();
        if let Some(table) = node.memory.get_mut(&block.resource) {
            let taken = left.min(table.free);
            table.reserved += taken;
            table.free -= taken;
            left -= taken;
        }
    }
}

/// The other way round.
fn give_back(nodes: &mut BTreeMap<u32, NodeState>, block: &Block) {
    let mut left = block.size;
    for id in &block.nodes {
        let Some(node) = nodes.get_mut(id) else { continue };
        node.assignments -= 1;
        if node.assignments == 0 {
            node.cells = vec![*id];
        }
        if let Some(table) = node.memory.get_mut(&block.resource) {
            let back = left.min(table.reserved);
            table.reserved -= back;
            table.free += back;
            left -= back;
        }
    }
}

impl MemoryManager {
    /// Gives a container what it asks for, on these nodes if possible.
    pub fn give(
        &mut self,
        pod: &PodRequest,
        container: &ContainerRequest,
        hint: Hint,
    ) -> Result<(), Refusal> {
        let wanted = wanted(pod, container);
        if wanted.is_empty() {
            return Ok(());
        }
        let had = self.of_container(&pod.uid, &container.name).to_vec();
        if !had.is_empty() {
            self.note_reuse(pod, container, &had);
            return Ok(());
        }
        let mask = self.choose(pod, &wanted, hint).map_err(Refusal::unexpected)?;
        let block = |(resource, size): (String, u64)| Block { nodes: mask.nodes(), resource, size };
        let blocks: Vec<Block> = wanted.into_iter().map(block).collect();
        for block in &blocks {
            let left = block.size.saturating_sub(self.reusable(pod, mask, &block.resource));
            reserve(&mut self.state.nodes, &Block { size: left, ..block.clone() });
        }
        self.note_reuse(pod, container, &blocks);
        self.state.given.entry(pod.uid.clone()).or_default().insert(container.name.clone(), blocks.clone());
        self.shrink_init(pod, container, &blocks);
        self.save();
        Ok(())
    }
}

#[async_trait]
impl Provider for MemoryManager {
    fn hints(&mut self, pod: &PodRequest, container: &ContainerRequest) -> Hints {
        let wanted = wanted(pod, container);
        if wanted.is_empty() {
            return Hints::new();
        }
        match self.of_container(&pod.uid, &container.name) {
            [] => self.make_hints(pod, &wanted),
            blocks => self.repeated(blocks, &wanted),
        }
    }

    fn pod_hints(&mut self, pod: &PodRequest) -> Hints {
        let names: HashSet<String> = pod.containers.iter().flat_map(|c| wanted(pod, c).into_keys()).collect();
        let of = |name: &String| (name.clone(), pod.peak(|c| wanted(pod, c).get(name).copied().unwrap_or(0)));
        let total: Wanted = names.iter().map(of).collect();
        if total.is_empty() {
            return Hints::new();
        }
        // A pod that has its memory already wants the same again.
        let had = pod.containers.iter().find_map(|c| self.of_container(&pod.uid, &c.name).first());
        match had {
            None => self.make_hints(pod, &total),
            Some(block) => {
                let hint = Hint { nodes: Some(Mask::of(&block.nodes)), preferred: true };
                total.into_keys().map(|name| (name, Some(vec![hint]))).collect()
            }
        }
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
