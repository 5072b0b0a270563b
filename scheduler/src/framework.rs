//! The scheduler's extension points. A plugin says which of them it has; a profile runs them in its order.

use crate::cache::Snapshot;
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;
use crate::queue::ClusterEvent;
use async_trait::async_trait;
use std::any::Any;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

pub const MAX_NODE_SCORE: i64 = 100;

/// How a plugin's answer is to be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    Success,
    /// The plugin has nothing to do with this pod; its later points are passed over.
    Skip,
    Unschedulable,
    /// Removing other pods would not help.
    Unresolvable,
    Error,
}

/// A plugin's answer with its reasons, as they appear in events and conditions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    pub code: Code,
    pub reasons: Vec<String>,
    pub plugin: &'static str,
}

impl Status {
    pub fn success() -> Status {
        Status { code: Code::Success, reasons: Vec::new(), plugin: "" }
    }
    pub fn skip() -> Status {
        Status { code: Code::Skip, ..Status::success() }
    }
    pub fn unschedulable(reason: impl Into<String>) -> Status {
        Status { code: Code::Unschedulable, reasons: vec![reason.into()], plugin: "" }
    }
    pub fn unresolvable(reason: impl Into<String>) -> Status {
        Status { code: Code::Unresolvable, ..Status::unschedulable(reason) }
    }
    pub fn error(reason: impl Into<String>) -> Status {
        Status { code: Code::Error, ..Status::unschedulable(reason) }
    }
    pub fn by(mut self, plugin: &'static str) -> Status {
        self.plugin = plugin;
        self
    }
    pub fn is_success(&self) -> bool {
        self.code == Code::Success
    }
    pub fn is_rejection(&self) -> bool {
        matches!(self.code, Code::Unschedulable | Code::Unresolvable)
    }
}

/// What plugins remember of one pod's cycle from one point to the next.
#[derive(Default)]
pub struct CycleState {
    data: HashMap<&'static str, Box<dyn StateData>>,
    pub skip_filter: HashSet<&'static str>,
    pub skip_score: HashSet<&'static str>,
}

/// Remembered data; cloned when it is asked what would be if some pods were gone.
pub trait StateData: Any + Send + Sync {
    fn clone_box(&self) -> Box<dyn StateData>;
    fn as_any(&self) -> &dyn Any;
    fn as_any_mut(&mut self) -> &mut dyn Any;
}

impl<T: Any + Clone + Send + Sync> StateData for T {
    fn clone_box(&self) -> Box<dyn StateData> {
        Box::new(self.clone())
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}

impl CycleState {
    pub fn put<T: Any + Clone + Send + Sync>(&mut self, key: &'static str, value: T) {
        self.data.insert(key, Box::new(value));
    }
    pub fn get<T: Any>(&self, key: &'static str) -> Option<&T> {
        // Through the box: a box of data is data itself to the blanket implementation.
        self.data.get(key).and_then(|d| (**d).as_any().downcast_ref())
    }
    pub fn get_mut<T: Any>(&mut self, key: &'static str) -> Option<&mut T> {
        self.data.get_mut(key).and_then(|d| (**d).as_any_mut().downcast_mut())
    }
}

impl Clone for CycleState {
    fn clone(&self) -> Self {
        CycleState {
            data: self.data.iter().map(|(k, v)| (*k, (**v).clone_box())).collect(),
            skip_filter: self.skip_filter.clone(),
            skip_score: self.skip_score.clone(),
        }
    }
}

/// A plugin and the points it takes part in.
pub trait Plugin: Send + Sync {
    fn name(&self) -> &'static str;
    /// Events that may make a pod schedulable which this plugin has refused.
    fn events(&self) -> Vec<ClusterEvent> {
        Vec::new()
    }
    fn as_pre_enqueue(&self) -> Option<&dyn PreEnqueue> {
        None
    }
    fn as_queue_sort(&self) -> Option<&dyn QueueSort> {
        None
    }
    fn as_pre_filter(&self) -> Option<&dyn PreFilter> {
        None
    }
    fn as_filter(&self) -> Option<&dyn Filter> {
        None
    }
    fn as_post_filter(&self) -> Option<&dyn PostFilter> {
        None
    }
    fn as_pre_score(&self) -> Option<&dyn PreScore> {
        None
    }
    fn as_score(&self) -> Option<&dyn Score> {
        None
    }
    fn as_reserve(&self) -> Option<&dyn Reserve> {
        None
    }
    fn as_permit(&self) -> Option<&dyn Permit> {
        None
    }
    fn as_pre_bind(&self) -> Option<&dyn PreBind> {
        None
    }
    fn as_bind(&self) -> Option<&dyn Bind> {
        None
    }
    fn as_post_bind(&self) -> Option<&dyn PostBind> {
        None
    }
}

/// Whether a pod may enter the queue of pods to be scheduled.
pub trait PreEnqueue {
    fn pre_enqueue(&self, pod: &PodInfo) -> Status;
}

/// Which waiting pod comes first.
pub trait QueueSort {
    /// The smallest key is first; equal keys go by arrival.
    fn key(&self, pod: &PodInfo) -> i64;
}

/// Names of the only nodes that can do, when a plugin knows them beforehand.
pub type NodeNames = Option<BTreeSet<String>>;

pub trait PreFilter {
    fn pre_filter(
        &self,
        state: &mut CycleState,
        pod: &PodInfo,
        snapshot: &Snapshot,
    ) -> Result<NodeNames, Status>;
    /// What changes in the remembered data if `other` ran on `node` too.
    fn add_pod(
        &self,
        _state: &mut CycleState,
        _pod: &PodInfo,
        _other: &PodInfo,
        _node: &NodeInfo,
        _s: &Snapshot,
    ) {
    }
    /// What changes if `other` left `node`.
    fn remove_pod(
        &self,
        _state: &mut CycleState,
        _pod: &PodInfo,
        _other: &PodInfo,
        _node: &NodeInfo,
        _s: &Snapshot,
    ) {
    }
}

pub trait Filter {
    fn filter(&self, state: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Status;
}

/// Every node's refusal, by node name.
pub type Refusals = BTreeMap<String, Status>;

/// What may be done for a pod that no node takes.
#[async_trait]
pub trait PostFilter: Send + Sync {
    /// The node on which room is being made, or why none can be.
    async fn post_filter(&self, cycle: &PostFilterCycle<'_>) -> Result<String, Status>;
}

/// All that a PostFilter plugin may look at.
pub struct PostFilterCycle<'a> {
    pub profile: &'a crate::profile::Profile,
    pub state: &'a CycleState,
    pub pod: &'a Arc<PodInfo>,
    pub snapshot: &'a Snapshot,
    pub refusals: &'a Refusals,
}

pub trait PreScore {
    fn pre_score(
        &self,
        state: &mut CycleState,
        pod: &PodInfo,
        nodes: &[Arc<NodeInfo>],
        snapshot: &Snapshot,
    ) -> Status;
}

pub trait Score {
    fn score(&self, state: &CycleState, pod: &PodInfo, node: &NodeInfo, snapshot: &Snapshot) -> i64;
    /// Brings the raw scores of all nodes between 0 and [`MAX_NODE_SCORE`].
    fn normalize(&self, _state: &CycleState, _pod: &PodInfo, _nodes: &[Arc<NodeInfo>], _scores: &mut [i64]) {}
}

#[async_trait]
pub trait Reserve: Send + Sync {
    async fn reserve(&self, state: &CycleState, pod: &PodInfo, node: &str) -> Status;
    async fn unreserve(&self, state: &CycleState, pod: &PodInfo, node: &str);
}

#[async_trait]
pub trait Permit: Send + Sync {
    /// Returns when the pod may be bound; a plugin that waits bounds its waiting itself.
    async fn permit(&self, state: &CycleState, pod: &PodInfo, node: &str) -> Status;
}

#[async_trait]
pub trait PreBind: Send + Sync {
    async fn pre_bind(&self, state: &CycleState, pod: &PodInfo, node: &str) -> Status;
}

#[async_trait]
pub trait Bind: Send + Sync {
    async fn bind(&self, pod: &PodInfo, node: &str) -> Status;
}

#[async_trait]
pub trait PostBind: Send + Sync {
    async fn post_bind(&self, pod: &PodInfo, node: &str);
}

/// Scales scores so that the best has [`MAX_NODE_SCORE`]; with `reverse`, the lowest raw score is the best.
pub fn default_normalize(scores: &mut [i64], reverse: bool) {
    let max = scores.iter().copied().max().unwrap_or(0);
    for s in scores {
        let scaled = if max == 0 { 0 } else { MAX_NODE_SCORE * *s / max };
        *s = if reverse { MAX_NODE_SCORE - scaled } else { scaled };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normalising_both_ways() {
        let mut s = [0, 5, 10];
        default_normalize(&mut s, false);
        assert_eq!(s, [0, 50, 100]);
        let mut s = [0, 5, 10];
        default_normalize(&mut s, true);
        assert_eq!(s, [100, 50, 0]);
        let mut s = [0, 0];
        default_normalize(&mut s, true);
        assert_eq!(s, [100, 100]);
    }

    #[test]
    fn state_is_cloned_deeply() {
        let mut a = CycleState::default();
        a.put("k", vec![1]);
        let mut b = a.clone();
        if let Some(v) = b.get_mut::<Vec<i32>>("k") {
            v.push(2);
        }
        assert_eq!(a.get::<Vec<i32>>("k"), Some(&vec![1]));
        assert_eq!(b.get::<Vec<i32>>("k"), Some(&vec![1, 2]));
    }
}
