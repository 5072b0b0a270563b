//! Which CPUs to take so that as many as are asked for lie well together.

use std::collections::BTreeMap;

use crate::CpuSet;
use crate::machine::{Cpu, Machine, Part};

/// How CPUs are chosen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Strategy {
    /// Spread over cores rather than packed into them.
    pub spread_over_cores: bool,
    /// Whole last-level caches first.
    pub align_by_uncore: bool,
    /// Evenly over as few NUMA nodes as it takes; CPUs go in groups of this many.
    pub distribute: Option<usize>,
}

/// Takes `count` of the `free` CPUs.
pub fn take(machine: &Machine, free: &CpuSet, count: usize, strategy: Strategy) -> Result<CpuSet, String> {
    match strategy.distribute {
        Some(group) => distribute(machine, free, count, group.max(1), strategy),
        None => pack(machine, free, count, strategy),
    }
}

/// Whole parts first, the largest ones first, then what is left of those that are most used already.
fn pack(machine: &Machine, free: &CpuSet, count: usize, strategy: Strategy) -> Result<CpuSet, String> {
    let mut picker = Picker::new(machine, free, count);
    if count > free.len() {
        let have = free.len();
        return Err(format!(
            "not enough cpus available to satisfy request: requested={count}, available={have}"
        ));
    }
    picker.take_whole(picker.order[0]);
    picker.take_whole(picker.order[1]);
    if strategy.align_by_uncore {
        picker.take_uncore();
    }
    if !strategy.spread_over_cores {
        picker.take_whole(Part::Core);
    }
    let rest = if strategy.spread_over_cores { picker.by_socket() } else { picker.by_core() };
    for cpu in rest.into_iter().take(picker.need) {
        picker.take([cpu].into_iter().collect());
    }
    if picker.need == 0 { Ok(picker.taken) } else { Err("failed to allocate cpus".into()) }
}

struct Picker<'a> {
    machine: &'a Machine,
    free: BTreeMap<u32, Cpu>,
    need: usize,
    taken: CpuSet,
    /// What contains what: nodes then sockets, or the other way round on machines with several nodes a socket.
    order: [Part; 2],
}

impl<'a> Picker<'a> {
    fn new(machine: &'a Machine, free: &CpuSet, need: usize) -> Self {
        let nodes_first = machine.parts(Part::Socket).len() >= machine.parts(Part::Numa).len();
        let order = if nodes_first { [Part::Numa, Part::Socket] } else { [Part::Socket, Part::Numa] };
        let free = machine.cpus.iter().filter(|c| free.contains(c.id)).map(|c| (c.id, *c)).collect();
        Self { machine, free, need, taken: CpuSet::default(), order }
    }

    fn take(&mut self, cpus: CpuSet) {
        self.free.retain(|id, _| !cpus.contains(*id));
        self.need = self.need.saturating_sub(cpus.len());
        self.taken = self.taken.union(&cpus);
    }

    fn free_in(&self, part: Part, id: u32) -> CpuSet {
        self.free.values().filter(|c| c.part(part) == id).map(|c| c.id).collect()
    }

    /// The parts of a kind in which `within` holds, the one with the fewest free CPUs first.
    fn sorted(&self, part: Part, within: impl Fn(&Cpu) -> bool) -> Vec<u32> {
        let mut counts: BTreeMap<u32, usize> = BTreeMap::new();
        for cpu in self.free.values().filter(|c| within(c)) {
            *counts.entry(cpu.part(part)).or_default() += 1;
        }
        let mut ids: Vec<u32> = counts.keys().copied().collect();
        ids.sort_by_key(|id| (counts[id], *id));
        ids
    }

    /// The parts of a kind, those of one larger part together.
    fn ordered(&self, part: Part) -> Vec<u32> {
        let parent = match part {
            p if p == self.order[0] => return self.sorted(part, |_| true),
            p if p == self.order[1] => self.order[0],
            Part::Uncore => Part::Numa,
            _ => self.order[1],
        };
        let parents = self.ordered(parent);
        parents.into_iter().flat_map(|id| self.sorted(part, |c| c.part(parent) == id)).collect()
    }

    fn take_whole(&mut self, part: Part) {
        let whole: Vec<CpuSet> = self
            .ordered(part)
            .into_iter()
            .map(|id| (self.free_in(part, id), self.machine.in_parts(part, &[id])))
            .filter(|(free, all)| free.len() == all.len())
            .map(|(_, all)| all)
            .collect();
        for cpus in whole {
            if self.need > 0 && self.need >= cpus.len() {
                self.take(cpus);
            }
        }
    }

    /// Whole caches, then cores within one cache if that is enough.
    fn take_uncore(&mut self) {
        let size = self.machine.per(Part::Uncore);
        for uncore in self.ordered(Part::Uncore) {
            if self.need == 0 {
                return;
            }
            if self.need >= size {
                self.take_whole(Part::Uncore);
            }
            if self.need > 0 {
                self.take_of_uncore(uncore);
            }
        }
    }

    fn take_of_uncore(&mut self, uncore: u32) {
        let threads = self.machine.per(Part::Core).max(1);
        let wanted = self.need.div_ceil(threads);
        let inside = self.free.values().filter(|c| c.uncore == uncore);
        let mut cores: Vec<u32> = inside.map(|c| c.core).collect();
        cores.sort_unstable();
        cores.dedup();
        cores.truncate(wanted);
        let mut cpus: Vec<u32> =
            self.free.values().filter(|c| cores.contains(&c.core)).map(|c| c.id).collect();
        if !self.need.is_multiple_of(2) && threads > 1 && cpus.len() > self.need {
            cpus.pop();
        }
        if cpus.len() == self.need {
            self.take(cpus.into_iter().collect());
        }
    }

    fn by_core(&self) -> Vec<u32> {
        let cores = self.ordered(Part::Core);
        cores.into_iter().flat_map(|id| self.free_in(Part::Core, id).iter().collect::<Vec<_>>()).collect()
    }

    fn by_socket(&self) -> Vec<u32> {
        let sockets = self.ordered(Part::Socket);
        sockets.into_iter().flat_map(|id| self.free_in(Part::Socket, id).iter().collect::<Vec<_>>()).collect()
    }
}

/// A way to distribute: the nodes, and those of them that take one group more.
type Plan = (Vec<u32>, Vec<u32>);

/// Evenly over as few nodes as can hold it; among equally few, so that the free CPUs of all nodes stay most even.
fn distribute(
    machine: &Machine,
    free: &CpuSet,
    count: usize,
    group: usize,
    strategy: Strategy,
) -> Result<CpuSet, String> {
    let packed = Strategy { distribute: None, align_by_uncore: false, ..strategy };
    if !count.is_multiple_of(group) || count == 0 || count > free.len() {
        return pack(machine, free, count, packed);
    }
    let mut picker = Picker::new(machine, free, count);
    let nodes = picker.ordered(Part::Numa);
    let all_nodes = machine.parts(Part::Numa).len().max(1);
    let groups_a_node = machine.cpus.len().div_ceil(group).div_ceil(all_nodes).max(1);
    let groups = count / group;
    let fewest = groups.div_ceil(groups_a_node);
    for size in fewest..=groups.min(nodes.len()) {
        let Some((chosen, extra)) = best_plan(&picker, &nodes, size, count, group) else { continue };
        let each = count / size / group * group;
        for node in &chosen {
            let cpus = pack(machine, &picker.free_in(Part::Numa, *node), each, packed)?;
            picker.take(cpus);
        }
        let mut rest = count - each * size;
        while rest > 0 {
            let before = rest;
            for node in &extra {
                let inside = picker.free_in(Part::Numa, *node);
                if rest > 0 && inside.len() >= group {
                    let cpus = pack(machine, &inside, group, packed)?;
                    picker.take(cpus);
                    rest -= group;
                }
            }
            if rest == before {
                return Err(format!("accounting error, not enough CPUs allocated, remaining: {rest}"));
            }
        }
        return Ok(picker.taken);
    }
    pack(machine, free, count, packed)
}

fn best_plan(picker: &Picker<'_>, nodes: &[u32], size: usize, count: usize, group: usize) -> Option<Plan> {
    let free = |node: u32| picker.free_in(Part::Numa, node).len();
    let each = count / size / group * group;
    let mut best: Option<(f64, Plan)> = None;
    for chosen in combinations(nodes, size) {
        let room: usize = chosen.iter().map(|n| free(*n) / group * group).sum();
        if room < count || chosen.iter().any(|n| free(*n) < each) {
            continue;
        }
        let left: BTreeMap<u32, usize> =
            nodes.iter().map(|n| (*n, free(*n) - if chosen.contains(n) { each } else { 0 })).collect();
        let rest = count - each * size;
        let with_room: Vec<u32> = chosen.iter().copied().filter(|n| left[n] >= group).collect();
        let takers = match rest {
            0 => vec![Vec::new()],
            _ => (1..=with_room.len()).rev().flat_map(|k| combinations(&with_room, k)).collect(),
        };
        for extra in takers {
            let Some(balance) = balance(left.clone(), &extra, rest, group) else { continue };
            if best.as_ref().is_none_or(|(b, _)| balance < *b) {
                best = Some((balance, (chosen.clone(), extra)));
            }
        }
    }
    best.map(|(_, plan)| plan)
}

/// How uneven the free CPUs are after the rest was handed out in turns; `None` if it does not fit.
fn balance(mut left: BTreeMap<u32, usize>, extra: &[u32], mut rest: usize, group: usize) -> Option<f64> {
    while rest > 0 {
        let before = rest;
        for node in extra {
            let free = left.get_mut(node)?;
            if rest > 0 && *free >= group {
                *free -= group;
                rest -= group;
            }
        }
        if rest == before {
            return None;
        }
    }
    let thousandths = |x: f64| (x * 1000.0).round() / 1000.0;
    let values: Vec<f64> = left.values().map(|v| *v as f64).collect();
    let mean = thousandths(values.iter().sum::<f64>() / values.len() as f64);
    let variance = values.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / values.len() as f64;
    Some(thousandths(variance.sqrt()))
}

/// All choices of `size` items, in order.
fn combinations(items: &[u32], size: usize) -> Vec<Vec<u32>> {
    if size == 0 {
        return vec![Vec::new()];
    }
    let mut out = Vec::new();
    for (index, first) in items.iter().enumerate() {
        for mut rest in combinations(&items[index + 1..], size - 1) {
            rest.insert(0, *first);
            out.push(rest);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::samples;

    #[test]
    fn what_lies_well_together() {
        let plain = Strategy::default();
        let spread = Strategy { spread_over_cores: true, ..plain };
        let distributed = |group| Strategy { distribute: Some(group), ..plain };
        // Two sockets of four cores of two threads: 0-3 and 8-11, 4-7 and 12-15.
        let cases: [(&str, usize, Strategy, Result<&str, &str>); 12] = [
            ("0-15", 1, plain, Ok("0")),
            ("0-15", 2, plain, Ok("0,8")),
            ("0-15", 3, plain, Ok("0-1,8")),
            ("0-15", 8, plain, Ok("0-3,8-11")),
            ("1-15", 8, plain, Ok("4-7,12-15")),
            ("1-15", 1, plain, Ok("8")),
            ("0-15", 10, plain, Ok("0-4,8-12")),
            ("0-15", 3, spread, Ok("0-2")),
            ("0-15", 4, distributed(1), Ok("0-1,8-9")),
            ("0-15", 10, distributed(1), Ok("0-2,4-6,8-9,12-13")),
            ("0-15", 10, distributed(2), Ok("0-2,4-5,8-10,12-13")),
            ("0-3", 5, plain, Err("not enough cpus available to satisfy request: requested=5, available=4")),
        ];
        let machine = samples::machine(2, 1, 4, 2);
        for (free, count, strategy, expected) in cases {
            let got = take(&machine, &free.parse().unwrap(), count, strategy).map(|s| s.to_string());
            assert_eq!(got.as_deref().map_err(String::as_str), expected, "{free} {count} {strategy:?}");
        }
    }

    #[test]
    fn caches_are_kept_whole() {
        let mut machine = samples::machine(1, 1, 8, 2);
        for cpu in &mut machine.cpus {
            cpu.uncore = cpu.core / 4;
        }
        let strategy = Strategy { align_by_uncore: true, ..Strategy::default() };
        for (free, count, expected) in [
            ("1-15", 8, "4-7,12-15"),
            ("0-15", 4, "0-1,8-9"),
            ("1-15", 4, "4-5,12-13"),
            ("0-15", 10, "0-4,8-12"),
        ] {
            let got = take(&machine, &free.parse().unwrap(), count, strategy).unwrap().to_string();
            assert_eq!(got, expected, "{free} {count}");
        }
    }
}
