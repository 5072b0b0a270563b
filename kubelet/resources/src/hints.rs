//! Sets of NUMA nodes, wishes for them, and who has wishes.

use std::collections::BTreeMap;
use std::fmt;

use async_trait::async_trait;

use crate::{ContainerRequest, PodRequest};

/// A set of NUMA nodes; at most 64 of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mask(pub u64);

impl Mask {
    /// The set of these nodes.
    pub fn of(nodes: &[u32]) -> Self {
        Self(nodes.iter().filter(|n| **n < 64).fold(0, |mask, node| mask | 1 << node))
    }
    /// How many nodes.
    pub fn count(self) -> usize {
        self.0.count_ones() as usize
    }
    /// Whether a node is in it.
    pub fn has(self, node: u32) -> bool {
        node < 64 && self.0 >> node & 1 == 1
    }
    /// Its nodes.
    pub fn nodes(self) -> Vec<u32> {
        (0..64).filter(|n| self.has(*n)).collect()
    }
    /// Fewer nodes win, lower ones among as many.
    pub fn is_narrower(self, other: Self) -> bool {
        match self.count().cmp(&other.count()) {
            std::cmp::Ordering::Equal => self.0 < other.0,
            less => less.is_lt(),
        }
    }
    /// All sets of these nodes but the empty one, small ones first.
    pub fn all_of(nodes: &[u32]) -> Vec<Self> {
        let nodes: Vec<u32> = nodes.iter().copied().filter(|n| *n < 64).take(16).collect();
        let pick = |bits: u32| {
            let chosen: Vec<u32> =
                nodes.iter().enumerate().filter(|(i, _)| bits >> i & 1 == 1).map(|(_, n)| *n).collect();
            Self::of(&chosen)
        };
        let mut all: Vec<Self> = (1..1u32 << nodes.len()).map(pick).collect();
        all.sort_by_key(|mask| (mask.count(), mask.nodes()));
        all
    }
}

impl fmt::Display for Mask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02b}", self.0)
    }
}

/// A wish: these nodes would do (any, if none are named), and whether they would do well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hint {
    /// The nodes.
    pub nodes: Option<Mask>,
    /// As few nodes as this could ever take.
    pub preferred: bool,
}

impl Hint {
    /// Nothing matters.
    pub const ANY: Self = Self { nodes: None, preferred: true };
}

/// Wishes by resource. `None`: the resource has no opinion; no wishes: it cannot be had.
pub type Hints = BTreeMap<String, Option<Vec<Hint>>>;

/// Why a pod is not let in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// The pod's reason.
    pub reason: &'static str,
    /// The pod's message.
    pub message: String,
}

impl Refusal {
    /// An allocation that failed for a reason nobody planned for.
    pub fn unexpected(why: impl fmt::Display) -> Self {
        let message = format!("Allocate failed due to {why}, which is unexpected");
        Self { reason: "UnexpectedAdmissionError", message }
    }
}

/// Somebody with resources that lie on NUMA nodes.
#[async_trait]
pub trait Provider: Send {
    /// The wishes for a container.
    fn hints(&mut self, pod: &PodRequest, container: &ContainerRequest) -> Hints;
    /// The wishes for a pod as a whole.
    fn pod_hints(&mut self, pod: &PodRequest) -> Hints;
    /// Gives a container what it asks for, on these nodes if possible.
    async fn allocate(
        &mut self,
        pod: &PodRequest,
        container: &ContainerRequest,
        hint: Hint,
    ) -> Result<(), Refusal>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks() {
        let all: Vec<u64> = Mask::all_of(&[0, 1, 2]).into_iter().map(|m| m.0).collect();
        assert_eq!(all, [1, 2, 4, 3, 5, 6, 7]);
        assert!(Mask(1).is_narrower(Mask(2)) && Mask(4).is_narrower(Mask(3)));
        assert_eq!(Mask(5).nodes(), [0, 2]);
    }
}
