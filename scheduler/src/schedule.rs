//! One pod's scheduling cycle: which node, or why none. Pure but for the plugins' own state.

use crate::cache::Snapshot;
use crate::framework::{CycleState, NodeNames, Refusals, Status};
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;
use crate::profile::Profile;
use rand::seq::IndexedRandom;
use std::collections::HashMap;
use std::sync::Arc;

/// Below this number of nodes all are looked at.
const MIN_FEASIBLE_NODES: usize = 100;
const MIN_PERCENTAGE: usize = 5;

/// Pods that are promised a node, by node.
pub type Nominations = HashMap<String, Vec<Arc<PodInfo>>>;

/// Why a pod has no node.
pub struct Failure {
    /// The refusal of the pod as a whole, before any node was looked at.
    pub whole: Option<Status>,
    pub refusals: Refusals,
    /// Something broke: not a refusal.
    pub error: Option<Status>,
}

impl Failure {
    fn error(status: Status) -> Failure {
        Failure { whole: None, refusals: Refusals::new(), error: Some(status) }
    }
}

/// Looks for the best node. `start` is where the last search ended, so that all nodes get their turn.
pub fn find_node(
    profile: &Profile,
    default_percentage: i32,
    state: &mut CycleState,
    pod: &PodInfo,
    snapshot: &Snapshot,
    nominations: &Nominations,
    start: &mut usize,
) -> Result<Arc<NodeInfo>, Failure> {
    if snapshot.nodes.is_empty() {
        let none = Status::unschedulable("no nodes available to schedule pods");
        return Err(Failure { whole: Some(none), refusals: Refusals::new(), error: None });
    }
    let only = profile.pre_filter(state, pod, snapshot).map_err(|status| {
        if !status.is_rejection() {
            return Failure::error(status);
        }
        let refusals = snapshot.nodes.iter().map(|n| (n.name().to_owned(), status.clone())).collect();
        Failure { whole: Some(status), refusals, error: None }
    })?;
    let percentage = profile.percentage_of_nodes_to_score.unwrap_or(default_percentage);
    let mut search = Search { profile, state, pod, snapshot, nominations, refusals: Refusals::new() };
    let feasible = match promised(&mut search) {
        Some(node) => vec![node],
        None => search.feasible(&only, enough(percentage, snapshot.nodes.len()), start)?,
    };
    let refusals = search.refusals;
    match feasible.as_slice() {
        [] => Err(Failure { whole: None, refusals, error: None }),
        [one] => Ok(one.clone()),
        many => choose(profile, state, pod, many, snapshot),
    }
}

/// How many feasible nodes are enough to choose from.
fn enough(percentage: i32, nodes: usize) -> usize {
    if nodes < MIN_FEASIBLE_NODES || percentage >= 100 {
        return nodes;
    }
    let percentage = match usize::try_from(percentage) {
        Ok(0) | Err(_) => 50usize.saturating_sub(nodes / 125).max(MIN_PERCENTAGE),
        Ok(p) => p,
    };
    (nodes * percentage / 100).max(MIN_FEASIBLE_NODES)
}

struct Search<'a> {
    profile: &'a Profile,
    state: &'a CycleState,
    pod: &'a PodInfo,
    snapshot: &'a Snapshot,
    nominations: &'a Nominations,
    refusals: Refusals,
}

/// The node that was promised to the pod, if it takes it now.
fn promised(search: &mut Search<'_>) -> Option<Arc<NodeInfo>> {
    let node = search.snapshot.get(search.pod.nominated_node()?)?.clone();
    search.filter(&node).is_success().then_some(node)
}

impl Search<'_> {
    fn feasible(
        &mut self,
        only: &NodeNames,
        wanted: usize,
        start: &mut usize,
    ) -> Result<Vec<Arc<NodeInfo>>, Failure> {
        let nodes = &self.snapshot.nodes;
        let mut found = Vec::new();
        let mut looked_at = 0;
        for i in 0..nodes.len() {
            let node = &nodes[(*start + i) % nodes.len()];
            looked_at += 1;
            if only.as_ref().is_some_and(|names| !names.contains(node.name())) {
                let status = Status::unresolvable("node(s) didn't satisfy plugin(s) [NodeAffinity]");
                self.refusals.insert(node.name().to_owned(), status.by("NodeAffinity"));
                continue;
            }
            let status = self.filter(node);
            if status.is_success() {
                found.push(node.clone());
                if found.len() >= wanted {
                    break;
                }
            } else if status.is_rejection() {
                self.refusals.insert(node.name().to_owned(), status);
            } else {
                return Err(Failure::error(status));
            }
        }
        *start = (*start + looked_at) % nodes.len();
        Ok(found)
    }

    /// A node must do both with and without the pods of at least the same priority that are promised it: they may
    /// come, and they may not.
    fn filter(&self, node: &Arc<NodeInfo>) -> Status {
        let waiting: Vec<&Arc<PodInfo>> = self
            .nominations
            .get(node.name())
            .into_iter()
            .flatten()
            .filter(|p| p.priority() >= self.pod.priority() && p.uid() != self.pod.uid())
            .collect();
        if !waiting.is_empty() {
            let mut info = (**node).clone();
            let mut state = self.state.clone();
            for p in waiting {
                info.add_pod(p.clone());
                self.profile.add_pod(&mut state, self.pod, p, &info, self.snapshot);
            }
            let status = self.profile.filter(&state, self.pod, &info);
            if !status.is_success() {
                return status;
            }
        }
        self.profile.filter(self.state, self.pod, node)
    }
}

/// The highest score; among equals, any.
fn choose(
    profile: &Profile,
    state: &mut CycleState,
    pod: &PodInfo,
    nodes: &[Arc<NodeInfo>],
    snapshot: &Snapshot,
) -> Result<Arc<NodeInfo>, Failure> {
    let scores = profile.score(state, pod, nodes, snapshot).map_err(Failure::error)?;
    let best = scores.iter().copied().max().unwrap_or(0);
    let equals: Vec<&Arc<NodeInfo>> =
        nodes.iter().zip(&scores).filter(|(_, s)| **s == best).map(|(n, _)| n).collect();
    match equals.choose(&mut rand::rng()) {
        Some(node) => Ok((*node).clone()),
        None => Err(Failure::error(Status::error("no node has a score"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::framework::Plugin;
    use crate::plugins::node_resources_fit::{Args, NodeResourcesFit};
    use crate::pod_info::testing::{node, pod};
    use serde_json::json;

    fn profile() -> Profile {
        let fit: Arc<dyn Plugin> = Arc::new(NodeResourcesFit::new(Args::default()));
        let on = || vec![("NodeResourcesFit".to_owned(), 1)];
        Profile::new("s", None, &[(fit.name(), fit)].into(), &[("filter", on()), ("score", on())].into())
    }

    fn sized(name: &str, cpu: &str) -> PodInfo {
        pod(name, json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}))
    }

    fn cluster() -> Snapshot {
        let nodes = [("small", "1"), ("large", "8")].map(|(name, cpu)| {
            let mut n = NodeInfo::default();
            n.set_node(node(name, json!({}), json!({}), json!({"cpu": cpu, "memory": "8Gi", "pods": "10"})));
            n
        });
        Snapshot::of(nodes.into())
    }

    fn find(pod: &PodInfo, nominations: &Nominations) -> Result<String, Refusals> {
        let state = &mut CycleState::default();
        find_node(&profile(), 0, state, pod, &cluster(), nominations, &mut 0)
            .map(|n| n.name().to_owned())
            .map_err(|f| f.refusals)
    }

    #[test]
    fn the_emptier_node_wins_and_refusals_are_kept() {
        assert_eq!(find(&sized("p", "500m"), &Nominations::new()), Ok("large".to_owned()));
        let refusals = find(&sized("p", "20"), &Nominations::new()).expect_err("too large");
        assert_eq!(refusals["small"].reasons, ["Insufficient cpu"]);
    }

    #[test]
    fn room_that_is_promised_is_not_given_away() {
        let promised = Nominations::from([("large".to_owned(), vec![Arc::new(sized("first", "7"))])]);
        assert_eq!(find(&sized("p", "2"), &promised).map_err(|r| r.len()), Err(2));
        assert!(find(&sized("p", "1"), &promised).is_ok());
    }

    #[test]
    fn large_clusters_are_sampled() {
        assert_eq!((enough(0, 50), enough(0, 1000), enough(0, 5000), enough(30, 5000)), (50, 420, 500, 1500));
    }
}
