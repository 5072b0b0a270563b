//! What the machine looks like: CPUs in cores, sockets and NUMA nodes, and the memory of each node, from `/sys`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use crate::CpuSet;

/// A logical CPU and where it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cpu {
    /// Its number.
    pub id: u32,
    /// Its physical core, named after the lowest of its CPUs.
    pub core: u32,
    /// Its socket.
    pub socket: u32,
    /// Its NUMA node.
    pub numa: u32,
    /// Its last-level cache.
    pub uncore: u32,
}

/// A NUMA node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Numa {
    /// Its number.
    pub id: u32,
    /// Its memory in bytes.
    pub memory: u64,
    /// Pages by page size in bytes.
    pub hugepages: BTreeMap<u64, u64>,
    /// The distance to every node, in their order.
    pub distances: Vec<u64>,
}

/// The machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Machine {
    /// CPUs that are online, by number.
    pub cpus: Vec<Cpu>,
    /// NUMA nodes by number.
    pub numas: Vec<Numa>,
}

/// Parts of a machine that contain CPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// A NUMA node.
    Numa,
    /// A socket.
    Socket,
    /// A last-level cache.
    Uncore,
    /// A core.
    Core,
}

impl Cpu {
    /// The part of that kind in which this CPU is.
    pub fn part(&self, part: Part) -> u32 {
        match part {
            Part::Numa => self.numa,
            Part::Socket => self.socket,
            Part::Uncore => self.uncore,
            Part::Core => self.core,
        }
    }
}

impl Machine {
    /// Looks at this machine; `memory` is what it has if it does not tell of NUMA nodes.
    pub fn read(memory: u64) -> Self {
        Self::read_below(Path::new("/sys/devices/system"), memory)
    }

    fn read_below(root: &Path, memory: u64) -> Self {
        let mut numas = numas(root);
        let set = |path: &str| -> Option<CpuSet> { fs::read_to_string(root.join(path)).ok()?.parse().ok() };
        let number =
            |path: String| -> Option<u32> { fs::read_to_string(root.join(path)).ok()?.trim().parse().ok() };
        let online = set("cpu/online").filter(|o| !o.is_empty()).unwrap_or_else(|| {
            let n = std::thread::available_parallelism().map_or(1, |n| n.get());
            (0..u32::try_from(n).unwrap_or(1)).collect()
        });
        let of_node: Vec<(u32, CpuSet)> =
            numas.iter().filter_map(|n| Some((n.id, set(&format!("node/node{}/cpulist", n.id))?))).collect();
        let cpus = online
            .iter()
            .map(|id| {
                let siblings = set(&format!("cpu/cpu{id}/topology/thread_siblings_list"));
                let core = siblings.and_then(|s| s.iter().find(|c| online.contains(*c))).unwrap_or(id);
                let socket = number(format!("cpu/cpu{id}/topology/physical_package_id")).unwrap_or(0);
                Cpu {
                    id,
                    core,
                    socket,
                    numa: of_node.iter().find(|(_, set)| set.contains(id)).map_or(0, |(node, _)| *node),
                    uncore: number(format!("cpu/cpu{id}/cache/index3/id")).unwrap_or(socket),
                }
            })
            .collect();
        if numas.is_empty() {
            let hugepages = hugepages(Path::new("/sys/kernel/mm/hugepages"));
            numas.push(Numa { id: 0, memory, hugepages, distances: vec![10] });
        }
        Self { cpus, numas }
    }

    /// All CPUs.
    pub fn all(&self) -> CpuSet {
        self.cpus.iter().map(|c| c.id).collect()
    }

    /// The CPUs of the given parts.
    pub fn in_parts(&self, part: Part, ids: &[u32]) -> CpuSet {
        self.cpus.iter().filter(|c| ids.contains(&c.part(part))).map(|c| c.id).collect()
    }

    /// The parts of a kind.
    pub fn parts(&self, part: Part) -> BTreeSet<u32> {
        self.cpus.iter().map(|c| c.part(part)).collect()
    }

    /// The parts of a kind in which a CPU of the set is.
    pub fn parts_of(&self, part: Part, set: &CpuSet) -> BTreeSet<u32> {
        self.cpus.iter().filter(|c| set.contains(c.id)).map(|c| c.part(part)).collect()
    }

    /// CPUs a part of that kind, on average.
    pub fn per(&self, part: Part) -> usize {
        self.cpus.len() / self.parts(part).len().max(1)
    }

    /// The numbers of the NUMA nodes.
    pub fn numa_ids(&self) -> Vec<u32> {
        self.numas.iter().map(|n| n.id).collect()
    }
}

fn numas(root: &Path) -> Vec<Numa> {
    let mut out = Vec::new();
    for entry in fs::read_dir(root.join("node")).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(id) = name.to_str().and_then(|n| n.strip_prefix("node")?.parse().ok()) else { continue };
        let dir = entry.path();
        let info = fs::read_to_string(dir.join("meminfo")).unwrap_or_default();
        let total = info.lines().find(|l| l.contains("MemTotal:"));
        let kilobytes = total.and_then(|l| l.split_whitespace().nth(3)?.parse::<u64>().ok()).unwrap_or(0);
        let distances = fs::read_to_string(dir.join("distance")).unwrap_or_default();
        out.push(Numa {
            id,
            memory: kilobytes * 1024,
            hugepages: hugepages(&dir.join("hugepages")),
            distances: distances.split_whitespace().filter_map(|d| d.parse().ok()).collect(),
        });
    }
    out.sort_by_key(|n| n.id);
    out
}

fn hugepages(dir: &Path) -> BTreeMap<u64, u64> {
    let sizes = fs::read_dir(dir).into_iter().flatten().flatten().filter_map(|entry| {
        let name = entry.file_name();
        let kilobytes: u64 = name.to_str()?.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
        let count = fs::read_to_string(entry.path().join("nr_hugepages")).ok()?.trim().parse().ok()?;
        Some((kilobytes * 1024, count))
    });
    sizes.collect()
}

/// The resource that stands for pages of a size.
pub fn hugepage_resource(bytes: u64) -> String {
    match bytes {
        b if b >= 1 << 30 => format!("hugepages-{}Gi", b >> 30),
        b if b >= 1 << 20 => format!("hugepages-{}Mi", b >> 20),
        b => format!("hugepages-{}Ki", b >> 10),
    }
}

/// Machines for tests.
#[cfg(test)]
pub(crate) mod samples {
    use super::*;

    /// A machine of so many sockets, NUMA nodes a socket, cores a node and threads a core. Sibling threads are numbered
    /// as on real machines: first one of each core, then the others.
    pub fn machine(sockets: u32, numas: u32, cores: u32, threads: u32) -> Machine {
        let total = sockets * numas * cores;
        let cpus = (0..total * threads)
            .map(|id| {
                let core = id % total;
                let numa = core / cores;
                Cpu { id, core, socket: numa / numas, numa, uncore: numa }
            })
            .collect();
        let nodes = sockets * numas;
        let distances = |a: u32| (0..nodes).map(|b| if a == b { 10 } else { 20 }).collect();
        let numa = |id| Numa { id, memory: 8 << 30, hugepages: BTreeMap::new(), distances: distances(id) };
        Machine { cpus, numas: (0..nodes).map(numa).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn read_from_sys() {
        let dir = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("cpu/online", "0-3\n");
        for cpu in 0..4 {
            write(&format!("cpu/cpu{cpu}/topology/physical_package_id"), &format!("{}\n", cpu % 2));
            write(
                &format!("cpu/cpu{cpu}/topology/thread_siblings_list"),
                &format!("{},{}\n", cpu % 2, cpu % 2 + 2),
            );
        }
        for node in 0..2 {
            write(&format!("node/node{node}/cpulist"), &format!("{node},{}\n", node + 2));
            write(&format!("node/node{node}/meminfo"), &format!("Node {node} MemTotal:   1024 kB\n"));
            write(&format!("node/node{node}/distance"), "10 21\n");
            write(&format!("node/node{node}/hugepages/hugepages-2048kB/nr_hugepages"), "3\n");
        }
        let machine = Machine::read_below(dir.path(), 0);
        assert_eq!(machine.cpus[3], Cpu { id: 3, core: 1, socket: 1, numa: 1, uncore: 1 });
        assert_eq!((machine.per(Part::Core), machine.numas[1].memory), (2, 1 << 20));
        assert_eq!(machine.numas[0].hugepages, BTreeMap::from([(2 << 20, 3)]));
        assert!(!Machine::read(5).cpus.is_empty());
    }
}
