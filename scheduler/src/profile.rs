//! A profile: a scheduler name and the plugins that schedule its pods, point by point.

use crate::cache::Snapshot;
use crate::framework::{Code, CycleState, NodeNames, Plugin, PreFilter, Refusals, Status};
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;
use crate::queue::ClusterEvent;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Which plugins take part in one extension point, in order, with their weights (used by Score only).
pub type Enabled = Vec<(String, i64)>;

/// The plugins of one point with their weights.
type Point = Vec<(Arc<dyn Plugin>, i64)>;

pub struct Profile {
    pub scheduler_name: String,
    pub percentage_of_nodes_to_score: Option<i32>,
    points: HashMap<&'static str, Point>,
}

/// The points at which plugins take part, by their names in the configuration.
pub const POINTS: [&str; 12] = [
    "preEnqueue",
    "queueSort",
    "preFilter",
    "filter",
    "postFilter",
    "preScore",
    "score",
    "reserve",
    "permit",
    "preBind",
    "bind",
    "postBind",
];

/// Whether the plugin implements the point.
pub fn takes_part(plugin: &dyn Plugin, point: &str) -> bool {
    match point {
        "preEnqueue" => plugin.as_pre_enqueue().is_some(),
        "queueSort" => plugin.as_queue_sort().is_some(),
        "preFilter" => plugin.as_pre_filter().is_some(),
        "filter" => plugin.as_filter().is_some(),
        "postFilter" => plugin.as_post_filter().is_some(),
        "preScore" => plugin.as_pre_score().is_some(),
        "score" => plugin.as_score().is_some(),
        "reserve" => plugin.as_reserve().is_some(),
        "permit" => plugin.as_permit().is_some(),
        "preBind" => plugin.as_pre_bind().is_some(),
        "bind" => plugin.as_bind().is_some(),
        "postBind" => plugin.as_post_bind().is_some(),
        _ => false,
    }
}

impl Profile {
    /// `enabled` names plugins of `plugins` for every point.
    pub fn new(
        scheduler_name: &str,
        percentage_of_nodes_to_score: Option<i32>,
        plugins: &BTreeMap<&'static str, Arc<dyn Plugin>>,
        enabled: &HashMap<&'static str, Enabled>,
    ) -> Profile {
        let mut points = HashMap::new();
        for point in POINTS {
            let list = enabled.get(point).map(Vec::as_slice).unwrap_or_default();
            let of = |(name, weight): &(String, i64)| Some((plugins.get(name.as_str())?.clone(), *weight));
            points.insert(point, list.iter().filter_map(of).collect());
        }
        Profile { scheduler_name: scheduler_name.to_owned(), percentage_of_nodes_to_score, points }
    }

    fn at(&self, point: &str) -> impl Iterator<Item = &Arc<dyn Plugin>> {
        self.points.get(point).into_iter().flatten().map(|(p, _)| p)
    }

    pub fn plugins(&self, point: &str) -> Vec<Arc<dyn Plugin>> {
        self.at(point).cloned().collect()
    }

    /// For every plugin, the events that may lift its refusal.
    pub fn events(&self) -> HashMap<&'static str, Vec<ClusterEvent>> {
        self.points.values().flatten().map(|(p, _)| (p.name(), p.events())).collect()
    }

    /// The plugin that keeps the pod out of the queue for now.
    pub fn gate(&self, pod: &PodInfo) -> Option<&'static str> {
        self.at("preEnqueue")
            .find(|p| p.as_pre_enqueue().is_some_and(|x| !x.pre_enqueue(pod).is_success()))
            .map(|p| p.name())
    }

    pub fn sort_key(&self, pod: &PodInfo) -> i64 {
        self.at("queueSort").find_map(|p| p.as_queue_sort().map(|s| s.key(pod))).unwrap_or(0)
    }

    /// The only nodes worth looking at, or the refusal of the pod as a whole.
    pub fn pre_filter(
        &self,
        state: &mut CycleState,
        pod: &PodInfo,
        snapshot: &Snapshot,
    ) -> Result<NodeNames, Status> {
        let mut names: NodeNames = None;
        let mut limited_by: Vec<&str> = Vec::new();
        for plugin in self.at("preFilter") {
            let Some(point) = plugin.as_pre_filter() else { continue };
            match point.pre_filter(state, pod, snapshot) {
                Ok(None) => {}
                Ok(Some(only)) => {
                    limited_by.push(plugin.name());
                    names = Some(match names {
                        None => only,
                        Some(before) => before.intersection(&only).cloned().collect(),
                    });
                    if names.as_ref().is_some_and(|n| n.is_empty()) {
                        let text = format!("node(s) didn't satisfy plugin(s) {limited_by:?} simultaneously");
                        return Err(Status::unresolvable(text).by(plugin.name()));
                    }
                }
                Err(s) if s.code == Code::Skip => {
                    state.skip_filter.insert(plugin.name());
                }
                Err(s) => return Err(s.by(plugin.name())),
            }
        }
        Ok(names)
    }

    /// The first refusal of the node, if any.
    pub fn filter(&self, state: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Status {
        for plugin in self.at("filter") {
            if state.skip_filter.contains(plugin.name()) {
                continue;
            }
            if let Some(point) = plugin.as_filter() {
                let status = point.filter(state, pod, node);
                if !status.is_success() {
                    return status.by(plugin.name());
                }
            }
        }
        Status::success()
    }

    /// Applies `change` to every plugin's remembered data.
    fn change(&self, state: &mut CycleState, change: impl Fn(&dyn PreFilter, &mut CycleState)) {
        for plugin in self.at("preFilter") {
            if let Some(point) = plugin.as_pre_filter()
                && !state.skip_filter.contains(plugin.name())
            {
                change(point, state);
            }
        }
    }

    /// As if `other` ran on `node` too.
    pub fn add_pod(
        &self,
        state: &mut CycleState,
        pod: &PodInfo,
        other: &PodInfo,
        node: &NodeInfo,
        s: &Snapshot,
    ) {
        self.change(state, |p, state| p.add_pod(state, pod, other, node, s));
    }

    /// As if `other` had left `node`.
    pub fn remove_pod(
        &self,
        state: &mut CycleState,
        pod: &PodInfo,
        other: &PodInfo,
        node: &NodeInfo,
        s: &Snapshot,
    ) {
        self.change(state, |p, state| p.remove_pod(state, pod, other, node, s));
    }

    /// The weighted sum of all plugins' scores for each node.
    pub fn score(
        &self,
        state: &mut CycleState,
        pod: &PodInfo,
        nodes: &[Arc<NodeInfo>],
        snapshot: &Snapshot,
    ) -> Result<Vec<i64>, Status> {
        for plugin in self.at("preScore") {
            let Some(point) = plugin.as_pre_score() else { continue };
            let status = point.pre_score(state, pod, nodes, snapshot);
            match status.code {
                Code::Success => {}
                Code::Skip => {
                    state.skip_score.insert(plugin.name());
                }
                _ => return Err(status.by(plugin.name())),
            }
        }
        let mut totals = vec![0; nodes.len()];
        for (plugin, weight) in self.points.get("score").into_iter().flatten() {
            let Some(point) = plugin.as_score().filter(|_| !state.skip_score.contains(plugin.name())) else {
                continue;
            };
            let mut scores: Vec<i64> = nodes.iter().map(|n| point.score(state, pod, n, snapshot)).collect();
            point.normalize(state, pod, nodes, &mut scores);
            totals.iter_mut().zip(&scores).for_each(|(total, score)| *total += score * weight);
        }
        Ok(totals)
    }

    /// Why no node takes the pod, as its condition and event say it.
    pub fn refusal_message(
        all_nodes: usize,
        whole: Option<&Status>,
        refusals: &Refusals,
        after: &str,
    ) -> String {
        let mut text = format!("0/{all_nodes} nodes are available:");
        if let Some(status) = whole {
            text += &format!(" {}.", status.reasons.join(", "));
        } else {
            let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
            refusals.values().flat_map(|s| &s.reasons).for_each(|r| *counts.entry(r).or_default() += 1);
            let mut lines: Vec<String> =
                counts.into_iter().map(|(reason, n)| format!("{n} {reason}")).collect();
            lines.sort();
            if !lines.is_empty() {
                text += &format!(" {}.", lines.join(", "));
            }
        }
        if !after.is_empty() {
            text += &format!(" {after}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_counts_reasons() {
        let refusals: Refusals = [
            ("a".to_owned(), Status::unschedulable("Insufficient cpu")),
            ("b".to_owned(), Status::unschedulable("Insufficient cpu")),
            ("c".to_owned(), Status::unresolvable("node(s) were unschedulable")),
        ]
        .into();
        assert_eq!(
            Profile::refusal_message(3, None, &refusals, "preemption: none"),
            "0/3 nodes are available: 1 node(s) were unschedulable, 2 Insufficient cpu. preemption: none"
        );
        let whole = Status::unresolvable("persistentvolumeclaim \"x\" not found");
        assert_eq!(
            Profile::refusal_message(1, Some(&whole), &refusals, ""),
            "0/1 nodes are available: persistentvolumeclaim \"x\" not found."
        );
    }
}
