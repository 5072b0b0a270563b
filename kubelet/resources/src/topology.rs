//! The topology manager: asks everyone for wishes about NUMA nodes, finds nodes that suit all, and lets a pod in or not.

use std::collections::BTreeMap;

use crate::{Hint, Hints, Machine, Mask, PodRequest, Provider, Refusal};

/// More nodes than this are too many combinations to look at, unless an option says otherwise.
const USUAL_MOST_NODES: usize = 8;

/// How much agreement is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// None: everyone gives as they like.
    None,
    /// The best there is, whatever it is.
    BestEffort,
    /// What could not be better, or the pod is refused.
    Restricted,
    /// One node for all, or the pod is refused.
    SingleNumaNode,
}

/// For what nodes are sought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Each container.
    Container,
    /// The pod.
    Pod,
}

/// The topology manager.
#[derive(Debug, Clone)]
pub struct Manager {
    policy: Policy,
    scope: Scope,
    nodes: Vec<u32>,
    distances: BTreeMap<u32, Vec<u64>>,
    prefer_closest: bool,
}

impl Manager {
    /// By what the configuration says.
    pub fn new(
        machine: &Machine,
        policy: &str,
        scope: &str,
        options: &BTreeMap<String, String>,
    ) -> Result<Self, String> {
        let policy = match policy {
            "none" => Policy::None,
            "best-effort" => Policy::BestEffort,
            "restricted" => Policy::Restricted,
            "single-numa-node" => Policy::SingleNumaNode,
            other => return Err(format!("unknown policy: {other:?}")),
        };
        let scope = match scope {
            "container" => Scope::Container,
            "pod" => Scope::Pod,
            other => return Err(format!("unknown scope: {other:?}")),
        };
        let (mut prefer_closest, mut most) = (false, USUAL_MOST_NODES);
        for (name, value) in options.iter().filter(|_| policy != Policy::None) {
            match name.as_str() {
                "prefer-closest-numa-nodes" => prefer_closest = parse_bool(name, value)?,
                "max-allowable-numa-nodes" => {
                    most = value.parse().map_err(|_| {
                        format!("unable to convert policy option to integer {name:?}: strconv.Atoi: parsing {value:?}: invalid syntax")
                    })?;
                    if most < USUAL_MOST_NODES {
                        return Err(format!(
                            "the minimum value of {name:?} should not be less than {USUAL_MOST_NODES}"
                        ));
                    }
                }
                _ => return Err(format!("unknown Topology Manager Policy option: {name:?}")),
            }
        }
        let nodes = machine.numa_ids();
        if policy != Policy::None && nodes.len() > most {
            return Err(format!("unsupported on machines with more than {most} NUMA Nodes"));
        }
        let distances = machine.numas.iter().map(|n| (n.id, n.distances.clone())).collect();
        Ok(Self { policy, scope, nodes, distances, prefer_closest })
    }

    /// The policy.
    pub fn policy(&self) -> Policy {
        self.policy
    }

    /// Gives every container of a pod what it asks for, or says why not. What was given before a refusal is for the
    /// caller to take back.
    pub async fn admit(&self, pod: &PodRequest, providers: &mut [&mut dyn Provider]) -> Result<(), Refusal> {
        let of_pod = match (self.policy, self.scope) {
            (Policy::None, _) => Some(Hint::ANY),
            (_, Scope::Pod) => {
                let hints = providers.iter_mut().map(|p| p.pod_hints(pod)).collect();
                Some(self.agree(hints)?)
            }
            (_, Scope::Container) => None,
        };
        for container in &pod.containers {
            let hint = match of_pod {
                Some(hint) => hint,
                None => self.agree(providers.iter_mut().map(|p| p.hints(pod, container)).collect())?,
            };
            for provider in providers.iter_mut() {
                provider.allocate(pod, container, hint).await?;
            }
        }
        Ok(())
    }

    fn agree(&self, hints: Vec<Hints>) -> Result<Hint, Refusal> {
        let (hint, fine) = self.merge(hints);
        let message = "Resources cannot be allocated with Topology locality".to_string();
        if fine { Ok(hint) } else { Err(Refusal { reason: "TopologyAffinityError", message }) }
    }

    /// The best common hint, and whether the policy takes it.
    pub fn merge(&self, hints: Vec<Hints>) -> (Hint, bool) {
        let mut lists = lists(hints);
        if self.policy == Policy::SingleNumaNode {
            for list in &mut lists {
                list.retain(|h| h.preferred && h.nodes.is_none_or(|m| m.count() == 1));
            }
        }
        let mut best = self.best(&lists);
        match self.policy {
            Policy::None | Policy::BestEffort => (best, true),
            Policy::Restricted => (best, best.preferred),
            Policy::SingleNumaNode => {
                // All nodes together is no wish for a node.
                if best.nodes == Some(self.everywhere()) {
                    best.nodes = None;
                }
                (best, best.preferred)
            }
        }
    }

    fn everywhere(&self) -> Mask {
        Mask::of(&self.nodes)
    }

    fn best(&self, lists: &[Vec<Hint>]) -> Hint {
        let narrowest = |list: &Vec<Hint>| {
            list.iter().filter_map(|h| h.nodes).reduce(|a, b| if b.is_narrower(a) { b } else { a })
        };
        // What nobody can go below: a hint of more nodes than this is wider than need be.
        let floor = lists.iter().filter_map(narrowest).map(Mask::count).max().unwrap_or(0);
        let mut best: Option<Hint> = None;
        let mut index = vec![0; lists.len()];
        if lists.iter().any(Vec::is_empty) {
            return Hint { nodes: Some(self.everywhere()), preferred: false };
        }
        loop {
            let candidate = self.common(lists.iter().zip(&index).map(|(list, i)| list[*i]));
            best = self.better(best, candidate, floor);
            // The next combination, the last list turning fastest.
            let Some(turn) = (0..lists.len()).rev().find(|i| index[*i] + 1 < lists[*i].len()) else { break };
            index[turn] += 1;
            index[turn + 1..].fill(0);
        }
        best.unwrap_or(Hint { nodes: Some(self.everywhere()), preferred: false })
    }

    /// What one wish of each has in common.
    fn common(&self, hints: impl Iterator<Item = Hint>) -> Hint {
        let (mut nodes, mut preferred, mut first) = (self.everywhere(), true, None);
        for hint in hints {
            preferred &= hint.preferred;
            if let Some(mask) = hint.nodes {
                preferred &= *first.get_or_insert(mask) == mask;
                nodes.0 &= mask.0;
            }
        }
        Hint { nodes: Some(nodes), preferred }
    }

    fn better(&self, current: Option<Hint>, candidate: Hint, floor: usize) -> Option<Hint> {
        let mask = |hint: &Hint| hint.nodes.unwrap_or_default();
        let new = mask(&candidate);
        if new.count() == 0 {
            return current;
        }
        let Some(current) = current else { return Some(candidate) };
        if current.preferred != candidate.preferred {
            return Some(if candidate.preferred { candidate } else { current });
        }
        let old = mask(&current);
        let take = if current.preferred || old.count() > floor {
            self.prefers(new, old)
        } else if old.count() == floor {
            new.count() == floor && self.prefers(new, old)
        } else if new.count() == old.count() {
            self.prefers(new, old)
        } else {
            // Below the floor wider is better, as far as the floor.
            new.count() <= floor && new.count() > old.count()
        };
        Some(if take { candidate } else { current })
    }

    /// Whether `new` is better than `old`, both being equally preferred.
    fn prefers(&self, new: Mask, old: Mask) -> bool {
        if new == old {
            return false;
        }
        if self.prefer_closest && self.policy != Policy::SingleNumaNode && new.count() == old.count() {
            let (a, b) = (self.distance(new), self.distance(old));
            if a != b {
                return a < b;
            }
        }
        new.is_narrower(old)
    }

    /// The average distance of the nodes from each other.
    fn distance(&self, mask: Mask) -> f64 {
        let nodes = mask.nodes();
        let position = |node: &u32| self.nodes.iter().position(|n| n == node);
        let mut sum = 0.0;
        for a in &nodes {
            let row = self.distances.get(a);
            for b in &nodes {
                let distance = row.zip(position(b)).and_then(|(row, i)| row.get(i));
                sum += distance.copied().unwrap_or(0) as f64;
            }
        }
        sum / (nodes.len() * nodes.len()).max(1) as f64
    }
}

/// One list of wishes a resource.
fn lists(providers: Vec<Hints>) -> Vec<Vec<Hint>> {
    let mut out = Vec::new();
    for hints in providers {
        if hints.is_empty() {
            out.push(vec![Hint::ANY]);
        }
        for list in hints.into_values() {
            out.push(match list {
                None => vec![Hint::ANY],
                Some(list) if list.is_empty() => vec![Hint { nodes: None, preferred: false }],
                Some(list) => list,
            });
        }
    }
    out
}

/// A policy option's value, with the words of a mistake.
pub(crate) fn parse_bool(name: &str, value: &str) -> Result<bool, String> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(format!(
            "bad value for option {name:?}: strconv.ParseBool: parsing {value:?}: invalid syntax"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::samples;

    fn hints(lists: &[&[(u64, bool)]]) -> Vec<Hints> {
        let hint = |(mask, preferred): &(u64, bool)| Hint {
            nodes: (*mask != 0).then_some(Mask(*mask)),
            preferred: *preferred,
        };
        let of = |(i, list): (usize, &&[(u64, bool)])| {
            Hints::from([(format!("r{i}"), Some(list.iter().map(hint).collect()))])
        };
        lists.iter().enumerate().map(of).collect()
    }

    fn merge(policy: &str, lists: &[&[(u64, bool)]]) -> (Option<u64>, bool, bool) {
        let machine = samples::machine(2, 1, 2, 2);
        let manager = Manager::new(&machine, policy, "container", &BTreeMap::new()).unwrap();
        let (hint, fine) = manager.merge(hints(lists));
        (hint.nodes.map(|m| m.0), hint.preferred, fine)
    }

    #[test]
    fn policies() {
        type Case = (&'static [&'static [(u64, bool)]], [(Option<u64>, bool, bool); 3]);
        let cases: [Case; 6] = [
            // Nobody has a wish.
            (&[], [(Some(3), true, true), (Some(3), true, true), (None, true, true)]),
            // Two agree on the second node.
            (
                &[&[(1, true), (2, true), (3, false)], &[(2, true), (3, false)]],
                [(Some(2), true, true), (Some(2), true, true), (Some(2), true, true)],
            ),
            // They want different nodes.
            (
                &[&[(1, true), (3, false)], &[(2, true), (3, false)]],
                [(Some(1), false, true), (Some(1), false, false), (None, false, false)],
            ),
            // Something needs both nodes, which is as good as it gets, but not one node.
            (
                &[&[(3, true)], &[(1, true), (2, true), (3, false)]],
                [(Some(1), false, true), (Some(1), false, false), (None, false, false)],
            ),
            (
                &[&[(3, true)], &[(3, true)]],
                [(Some(3), true, true), (Some(3), true, true), (None, false, false)],
            ),
            // Something cannot be had.
            (&[&[(1, true)], &[]], [(Some(1), false, true), (Some(1), false, false), (None, false, false)]),
        ];
        for (lists, expected) in cases {
            for (policy, expected) in
                ["best-effort", "restricted", "single-numa-node"].into_iter().zip(expected)
            {
                assert_eq!(merge(policy, lists).1, expected.1, "{policy} {lists:?}");
                assert_eq!(merge(policy, lists).2, expected.2, "{policy} {lists:?}");
                if policy != "single-numa-node" && lists != cases[3].0 {
                    assert_eq!(merge(policy, lists).0, expected.0, "{policy} {lists:?}");
                }
            }
        }
    }

    #[test]
    fn mistakes() {
        let machine = samples::machine(9, 1, 1, 1);
        let options = |name: &str, value: &str| BTreeMap::from([(name.to_string(), value.to_string())]);
        let new = |policy, scope, options| Manager::new(&machine, policy, scope, &options).map(drop);
        assert_eq!(
            new("restricted", "pod", BTreeMap::new()),
            Err("unsupported on machines with more than 8 NUMA Nodes".into())
        );
        assert!(new("restricted", "pod", options("max-allowable-numa-nodes", "16")).is_ok());
        assert!(new("restricted", "pod", options("max-allowable-numa-nodes", "2")).is_err());
        assert!(new("restricted", "pod", options("nonsense", "2")).is_err());
        assert!(new("none", "pod", options("nonsense", "2")).is_ok());
        assert!(new("some", "pod", BTreeMap::new()).is_err());
    }
}
