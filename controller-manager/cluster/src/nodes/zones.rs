//! How fast pods may be evicted from nodes, zone by zone: where many nodes fail at once, the fault is more
//! likely in the network than in them. Pure functions and a clockless token bucket.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use controller_kit::context::Nodes;
use controller_kit::meta::MetaExt;
use controller_kit::node;
use k8s_openapi::api::core::v1::Node;
use tokio::time::Instant;

/// How a zone fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Normal,
    Partial,
    Full,
}

/// The zone of a node, by region and zone label.
pub(super) fn zone_of(node: &Node) -> String {
    let label = |new: &str, old: &str| node.label(new).or(node.label(old)).unwrap_or_default().to_owned();
    let region = label("topology.kubernetes.io/region", "failure-domain.beta.kubernetes.io/region");
    let zone = label("topology.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/zone");
    if region.is_empty() && zone.is_empty() { String::new() } else { format!("{region}:\u{0}:{zone}") }
}

/// The state of every zone and how many nodes it has.
pub(super) fn states(nodes: &[Arc<Node>], threshold: f64) -> BTreeMap<String, (State, usize)> {
    let mut counts: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for n in nodes {
        let (ready, not_ready) = counts.entry(zone_of(n)).or_default();
        if node::ready(n) { *ready += 1 } else { *not_ready += 1 }
    }
    let state = |ready: usize, not_ready: usize| {
        if ready == 0 && not_ready > 0 {
            State::Full
        } else if not_ready > 2 && not_ready as f64 / (not_ready + ready) as f64 >= threshold {
            State::Partial
        } else {
            State::Normal
        }
    };
    counts.into_iter().map(|(zone, (r, n))| (zone, (state(r, n), r + n))).collect()
}

/// Nodes a second that may be emptied in a zone; `None` where everything is down and nothing is to be done.
pub(super) fn rate(states: &BTreeMap<String, (State, usize)>, zone: &str, settings: &Nodes) -> Option<f64> {
    if !states.is_empty() && states.values().all(|(s, _)| *s == State::Full) {
        return None;
    }
    let (state, size) = states.get(zone).copied().unwrap_or((State::Normal, 0));
    Some(match state {
        State::Normal | State::Full => settings.eviction_rate,
        State::Partial if size > settings.large_cluster => settings.secondary_eviction_rate,
        State::Partial => 0.0,
    })
}

/// One token a node.
#[derive(Debug, Default)]
pub(super) struct Bucket {
    last: Option<Instant>,
}

impl Bucket {
    /// Takes a token, or says when to ask again.
    pub fn take(&mut self, rate: f64, now: Instant) -> Result<(), Duration> {
        if rate <= 0.0 {
            return Err(Duration::from_secs(10));
        }
        let interval = Duration::from_secs_f64(1.0 / rate);
        match self.last.map(|last| last + interval).filter(|due| *due > now) {
            Some(due) => Err(due - now),
            None => {
                self.last = Some(now);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn zones_slow_down_and_stop() {
        let node = |i: usize, zone: &str, ready: bool| {
            let status = if ready { "True" } else { "Unknown" };
            Arc::new(serde_json::from_value::<Node>(json!({"metadata": {"name": i.to_string(), "labels": {"topology.kubernetes.io/zone": zone}},
                "status": {"conditions": [{"type": "Ready", "status": status}]}})).unwrap())
        };
        let settings = Nodes {
            eviction_rate: 0.1,
            secondary_eviction_rate: 0.01,
            unhealthy_zone: 0.55,
            large_cluster: 4,
            ..Nodes::default()
        };
        let all = |list: &[(&str, bool)]| {
            let nodes: Vec<_> = list.iter().enumerate().map(|(i, (z, r))| node(i, z, *r)).collect();
            states(&nodes, 0.55)
        };
        let key = |zone: &str| format!(":\u{0}:{zone}");
        let normal = all(&[("a", true), ("a", false), ("b", true)]);
        assert_eq!(rate(&normal, &key("a"), &settings), Some(0.1));
        let partial = all(&[("a", false), ("a", false), ("a", false), ("a", true), ("b", true)]);
        assert_eq!(partial[&key("a")].0, State::Partial);
        assert_eq!(rate(&partial, &key("a"), &settings), Some(0.0));
        let large = all(&[("a", false), ("a", false), ("a", false), ("a", false), ("a", true), ("b", true)]);
        assert_eq!(rate(&large, &key("a"), &settings), Some(0.01));
        assert_eq!(rate(&all(&[("a", false), ("b", false)]), &key("a"), &settings), None);
        let mut bucket = Bucket::default();
        let now = Instant::now();
        assert!(bucket.take(0.1, now).is_ok());
        assert_eq!(bucket.take(0.1, now), Err(Duration::from_secs(10)));
    }
}
