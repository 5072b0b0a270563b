//! What the scheduler believes of the cluster: nodes and pods as watched, plus pods it has just placed.
//!
//! A snapshot is taken for each pod's cycle. It shares the nodes' entries with the cache; a change in the cache copies
//! only the entry that changes, so a cycle's cost does not grow with what did not change.

use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;
use k8s_openapi::api::core::v1::Node;
use scheduling::selector::Labels;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

/// The cluster at one moment; nothing in it changes.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Existing nodes, taken from the zones in turn.
    pub nodes: Vec<Arc<NodeInfo>>,
    index: HashMap<String, usize>,
    pub namespaces: Arc<HashMap<String, Labels>>,
    /// Image name → how many nodes have it.
    pub image_nodes: Arc<HashMap<String, usize>>,
}

impl Snapshot {
    pub fn get(&self, node: &str) -> Option<&Arc<NodeInfo>> {
        self.index.get(node).map(|i| &self.nodes[*i])
    }
    pub fn namespace_labels(&self, namespace: &str) -> Option<Labels> {
        self.namespaces.get(namespace).cloned()
    }
    /// Nodes with at least one pod that has (anti-)affinity terms.
    pub fn nodes_with_affinity(&self) -> impl Iterator<Item = &Arc<NodeInfo>> {
        self.nodes.iter().filter(|n| n.pods_with_affinity > 0)
    }
    pub fn nodes_with_required_anti_affinity(&self) -> impl Iterator<Item = &Arc<NodeInfo>> {
        self.nodes.iter().filter(|n| n.pods_with_required_anti_affinity > 0)
    }
    /// A snapshot in which one node looks different; for what-if questions.
    pub fn with_node(&self, node: Arc<NodeInfo>) -> Snapshot {
        let mut copy = self.clone();
        if let Some(i) = self.index.get(node.name()) {
            copy.nodes[*i] = node;
        }
        copy
    }
    #[cfg(test)]
    pub fn of(nodes: Vec<NodeInfo>) -> Snapshot {
        let mut cache = Cache::default();
        for n in nodes {
            if let Some(node) = n.node.clone() {
                cache.set_node(node);
            }
            for p in &n.pods {
                cache.place(p.clone(), n.name());
            }
        }
        (*cache.snapshot()).clone()
    }
}

#[derive(Default)]
pub struct Cache {
    nodes: HashMap<String, Arc<NodeInfo>>,
    /// Pod uid → node it counts on.
    placed: HashMap<String, String>,
    /// Placed by this scheduler and not yet seen back from the apiserver.
    assumed: HashSet<String>,
    namespaces: Arc<HashMap<String, Labels>>,
    image_nodes: Arc<HashMap<String, usize>>,
    snapshot: Arc<Snapshot>,
    dirty: HashSet<String>,
    /// A node came, went or changed its zone: the order has to be made anew.
    reorder: bool,
}

impl Cache {
    fn edit(&mut self, node: &str, change: impl FnOnce(&mut NodeInfo)) {
        let entry = self.nodes.entry(node.to_owned()).or_default();
        change(Arc::make_mut(entry));
        if entry.is_unused() {
            self.nodes.remove(node);
        }
        self.dirty.insert(node.to_owned());
    }

    pub fn set_node(&mut self, node: Arc<Node>) {
        let Some(name) = node.metadata.name.clone() else { return };
        let before = self.nodes.get(&name).and_then(|n| n.node.clone());
        let known = before.as_ref().is_some_and(|b| zone(b) == zone(&node));
        self.reorder |= !known;
        let images_changed = before.as_ref().and_then(|b| b.status.as_ref()?.images.as_ref())
            != node.status.as_ref().and_then(|s| s.images.as_ref());
        self.edit(&name, |n| n.set_node(node));
        if images_changed {
            self.count_images();
        }
    }

    pub fn remove_node(&mut self, name: &str) {
        self.reorder = true;
        self.edit(name, |n| n.node = None);
        self.count_images();
    }

    fn count_images(&mut self) {
        let mut counts: HashMap<String, usize> = HashMap::new();
        for image in self.nodes.values().filter(|n| n.node.is_some()).flat_map(|n| n.images.keys()) {
            *counts.entry(image.clone()).or_default() += 1;
        }
        self.image_nodes = Arc::new(counts);
    }

    pub fn set_namespace(&mut self, name: &str, labels: Option<Labels>) {
        let namespaces = Arc::make_mut(&mut self.namespaces);
        match labels {
            Some(labels) => namespaces.insert(name.to_owned(), labels),
            None => namespaces.remove(name),
        };
    }

    /// Counts the pod on the node, wherever it was counted before.
    pub fn place(&mut self, pod: Arc<PodInfo>, node: &str) {
        self.remove_pod(pod.uid());
        self.placed.insert(pod.uid().to_owned(), node.to_owned());
        self.edit(node, |n| n.add_pod(pod));
    }

    /// Placed by a decision of ours that the apiserver has yet to confirm.
    pub fn assume(&mut self, pod: Arc<PodInfo>, node: &str) {
        let uid = pod.uid().to_owned();
        self.place(pod, node);
        self.assumed.insert(uid);
    }

    /// Takes an assumption back; false when the apiserver has confirmed (or removed) the pod meanwhile.
    pub fn forget(&mut self, uid: &str) -> bool {
        self.assumed.contains(uid) && self.remove_pod(uid)
    }

    pub fn is_assumed(&self, uid: &str) -> bool {
        self.assumed.contains(uid)
    }

    pub fn remove_pod(&mut self, uid: &str) -> bool {
        self.assumed.remove(uid);
        let Some(node) = self.placed.remove(uid) else { return false };
        self.edit(&node, |n| {
            n.remove_pod(uid);
        });
        true
    }

    pub fn node_of(&self, uid: &str) -> Option<&str> {
        self.placed.get(uid).map(String::as_str)
    }

    /// The cluster now. Only what changed since the last call costs anything.
    pub fn snapshot(&mut self) -> Arc<Snapshot> {
        if self.reorder {
            self.snapshot = Arc::new(self.ordered());
        } else if !self.dirty.is_empty() {
            let snapshot = Arc::make_mut(&mut self.snapshot);
            for name in &self.dirty {
                if let (Some(i), Some(n)) = (snapshot.index.get(name), self.nodes.get(name)) {
                    snapshot.nodes[*i] = n.clone();
                }
            }
        }
        self.dirty.clear();
        self.reorder = false;
        if !Arc::ptr_eq(&self.snapshot.namespaces, &self.namespaces)
            || !Arc::ptr_eq(&self.snapshot.image_nodes, &self.image_nodes)
        {
            let snapshot = Arc::make_mut(&mut self.snapshot);
            snapshot.namespaces = self.namespaces.clone();
            snapshot.image_nodes = self.image_nodes.clone();
        }
        self.snapshot.clone()
    }

    /// One node of each zone in turn, so that a search that stops early has seen all zones.
    fn ordered(&self) -> Snapshot {
        let mut zones: BTreeMap<(String, String), Vec<&Arc<NodeInfo>>> = BTreeMap::new();
        let mut existing: Vec<&Arc<NodeInfo>> = self.nodes.values().filter(|n| n.node.is_some()).collect();
        existing.sort_by(|a, b| b.name().cmp(a.name()));
        for n in existing {
            if let Some(node) = &n.node {
                zones.entry(zone(node)).or_default().push(n);
            }
        }
        let mut nodes = Vec::with_capacity(self.nodes.len());
        while !zones.is_empty() {
            zones.retain(|_, list| {
                nodes.extend(list.pop().cloned());
                !list.is_empty()
            });
        }
        let index = nodes.iter().enumerate().map(|(i, n)| (n.name().to_owned(), i)).collect();
        Snapshot { nodes, index, namespaces: self.namespaces.clone(), image_nodes: self.image_nodes.clone() }
    }
}

fn zone(node: &Node) -> (String, String) {
    let label =
        |key: &str| node.metadata.labels.as_ref().and_then(|l| l.get(key)).cloned().unwrap_or_default();
    (label("topology.kubernetes.io/region"), label("topology.kubernetes.io/zone"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod_info::testing::{node, pod};
    use serde_json::json;

    fn zoned(name: &str, zone: &str) -> Arc<Node> {
        node(name, json!({"topology.kubernetes.io/zone": zone}), json!({}), json!({"cpu": "1"}))
    }

    #[test]
    fn a_snapshot_stands_still_while_the_cache_moves() {
        let mut c = Cache::default();
        c.set_node(zoned("a", "1"));
        let before = c.snapshot();
        c.assume(Arc::new(pod("p", json!({}))), "a");
        let after = c.snapshot();
        assert_eq!(before.get("a").map(|n| n.pods.len()), Some(0));
        assert_eq!(after.get("a").map(|n| n.pods.len()), Some(1));
        assert!(c.forget("p") && !c.forget("p"));
        assert_eq!(c.snapshot().get("a").map(|n| n.pods.len()), Some(0));
    }

    #[test]
    fn a_confirmed_pod_is_counted_once_and_cannot_be_forgotten() {
        let mut c = Cache::default();
        c.set_node(zoned("a", "1"));
        let p = Arc::new(pod("p", json!({})));
        c.assume(p.clone(), "a");
        c.place(p, "a");
        assert!(!c.is_assumed("p") && !c.forget("p"));
        assert_eq!(c.snapshot().get("a").map(|n| n.pods.len()), Some(1));
    }

    #[test]
    fn zones_take_turns_and_vanished_nodes_leave() {
        let mut c = Cache::default();
        for (name, zone) in [("a", "1"), ("b", "1"), ("c", "2")] {
            c.set_node(zoned(name, zone));
        }
        let names = |s: &Snapshot| s.nodes.iter().map(|n| n.name().to_owned()).collect::<Vec<_>>();
        assert_eq!(names(&c.snapshot()), ["a", "c", "b"]);
        c.remove_node("a");
        assert_eq!(names(&c.snapshot()), ["b", "c"]);
    }
}
