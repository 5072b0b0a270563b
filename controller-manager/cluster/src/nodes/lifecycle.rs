//! node-lifecycle-controller: notices nodes that fell silent and taints nodes by their conditions.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use controller_kit::meta::MetaExt;
use controller_kit::{Context, Events, Key, Queue, Requeue, Shared, errors, node, now_time, pod};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod, Taint};
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use parking_lot::Mutex;
use serde_json::json;
use tokio::time::Instant;

use super::zones::{self, Bucket, zone_of};
use super::{index_by_node, node_reference, pods_on, told_status};

/// When a node last gave a sign of life, and what the sign was.
#[derive(Clone, Debug, PartialEq)]
struct Health {
    at: Instant,
    heartbeat: Option<jiff::Timestamp>,
    renewed: Option<jiff::Timestamp>,
}

struct Controller {
    ctx: Context,
    events: Events,
    nodes: Arc<Shared<Node>>,
    pods: Arc<Shared<Pod>>,
    leases: Arc<Shared<Lease>>,
    health: Mutex<HashMap<String, Health>>,
    buckets: Mutex<HashMap<String, Bucket>>,
}

/// Runs until shutdown.
pub async fn run(ctx: Context) -> anyhow::Result<()> {
    let queue = Queue::new();
    let (nodes, pods) = (ctx.informer::<Node>(), ctx.informer::<Pod>());
    let leases = ctx.informers.selected::<Lease>("metadata.namespace=kube-node-lease");
    index_by_node(&pods);
    nodes.synced().await;
    pods.synced().await;
    leases.synced().await;
    let events = ctx.events("node-controller");
    let (q, e) = (queue.clone(), events.clone());
    nodes.watch(move |change| {
        let node = change.object();
        let text =
            |what: &str, way: &str| format!("Node {0} event: {what} Node {0} {way} Controller", node.name());
        if change.deleted() {
            e.about(&node_reference(node), "Normal", "RemovingNode", text("Removing", "from"));
        } else if change.old().is_none() {
            e.about(&node_reference(node), "Normal", "RegisteredNode", text("Registered", "in"));
        }
        q.add(node.key());
    });
    let q = queue.clone();
    leases.watch(move |change| {
        if !change.deleted() {
            q.add(Key::cluster(change.object().name()));
        }
    });
    let workers = ctx.workers("nodelifecycle", "nodelifecycle", 8);
    let controller =
        Controller { ctx, events, nodes, pods, leases, health: Mutex::default(), buckets: Mutex::default() };
    let c = &controller;
    workers.run(queue, |key| async move { c.reconcile(&key).await }).await;
    Ok(())
}

impl Controller {
    async fn reconcile(&self, key: &Key) -> anyhow::Result<Requeue> {
        let Some(cached) = self.nodes.get(key) else {
            self.health.lock().remove(&key.name);
            return Ok(None);
        };
        let mut node = (*cached).clone();
        let silent = self.silent_for(&node);
        let grace = if node::condition(&node, "Ready").is_some() {
            self.ctx.settings.nodes.grace
        } else {
            self.ctx.settings.nodes.startup_grace
        };
        let mut again = grace.checked_sub(silent).map(|left| left + Duration::from_millis(100));
        if silent > grace {
            let was_ready = node::ready(&node);
            if make_unknown(&mut node) {
                let api: Api<Node> = Api::all(self.ctx.client.clone());
                let written = api.replace_status(&key.name, &PostParams::default(), &node).await;
                let Some(written) = errors::optional(written)? else { return Ok(None) };
                node = written;
                if was_ready {
                    told_status(&self.events, &node, "NodeNotReady");
                }
            }
            again = None;
        }
        self.label(&mut node).await?;
        self.taint_by_condition(&mut node).await?;
        let evict = self.taint_for_eviction(&mut node).await?;
        if node::condition(&node, "Ready").is_some_and(|c| c.status != "True") {
            self.mark_pods_not_ready(&node).await?;
        }
        Ok([again, evict].into_iter().flatten().min())
    }

    /// How long ago the node's status or lease last moved, as far as this process has seen.
    fn silent_for(&self, node: &Node) -> Duration {
        let heartbeat =
            node::condition(node, "Ready").and_then(|c| c.last_heartbeat_time.as_ref()).map(|t| t.0);
        let lease = self.leases.get(&Key::new("kube-node-lease", node.name()));
        let renewed = lease.and_then(|l| Some(l.spec.as_ref()?.renew_time.as_ref()?.0));
        let mut all = self.health.lock();
        let now = Instant::now();
        let health = all.entry(node.name().to_owned()).or_insert(Health { at: now, heartbeat, renewed });
        if heartbeat != health.heartbeat || renewed > health.renewed {
            *health = Health { at: now, heartbeat, renewed };
        }
        now.duration_since(health.at)
    }

    /// The older names of the labels of system and architecture.
    async fn label(&self, node: &mut Node) -> anyhow::Result<()> {
        let mut missing = serde_json::Map::new();
        for (new, old) in
            [("kubernetes.io/os", "beta.kubernetes.io/os"), ("kubernetes.io/arch", "beta.kubernetes.io/arch")]
        {
            if let Some(value) = node.label(new).filter(|v| node.label(old) != Some(v)) {
                missing.insert(old.into(), value.into());
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        self.patch(node, json!({"metadata": {"labels": missing}})).await
    }

    async fn taint_by_condition(&self, node: &mut Node) -> anyhow::Result<()> {
        let managed = |t: &Taint| t.effect == "NoSchedule" && MANAGED.contains(&t.key.as_str());
        let wanted = no_schedule(node);
        let have: Vec<&str> =
            node::taints(node).iter().filter(|t| managed(t)).map(|t| t.key.as_str()).collect();
        let same = have.len() == wanted.len() && wanted.iter().all(|w| have.contains(w));
        if same {
            return Ok(());
        }
        let mut taints: Vec<Taint> = node::taints(node).iter().filter(|t| !managed(t)).cloned().collect();
        taints.extend(wanted.into_iter().map(|key| Taint {
            key: key.into(),
            effect: "NoSchedule".into(),
            time_added: Some(now_time()),
            ..Taint::default()
        }));
        self.write_taints(node, taints).await
    }

    /// NoExecute taints make pods leave; how many nodes get one a second depends on how their zone fares.
    async fn taint_for_eviction(&self, node: &mut Node) -> anyhow::Result<Requeue> {
        let wanted = match node::condition(node, "Ready").map(|c| c.status.as_str()) {
            Some("False") => Some("node.kubernetes.io/not-ready"),
            Some("Unknown") => Some("node.kubernetes.io/unreachable"),
            _ => None,
        };
        let mut wanted = wanted;
        let ours = |t: &Taint| {
            t.effect == "NoExecute"
                && matches!(t.key.as_str(), "node.kubernetes.io/not-ready" | "node.kubernetes.io/unreachable")
        };
        let has = |key: &str| node::taints(node).iter().any(|t| ours(t) && t.key == key);
        let mut wait = None;
        if let Some(key) = wanted {
            let settings = &self.ctx.settings.nodes;
            let states = zones::states(&self.nodes.list(), settings.unhealthy_zone);
            match zones::rate(&states, &zone_of(node), settings) {
                // With every zone down it is us who are cut off: nothing is evicted, taints come off again.
                None => {
                    wanted = None;
                    wait = Some(Duration::from_secs(5));
                }
                Some(rate) if !node::taints(node).iter().any(ours) => {
                    let mut buckets = self.buckets.lock();
                    if let Err(later) = buckets.entry(zone_of(node)).or_default().take(rate, Instant::now()) {
                        return Ok(Some(later));
                    }
                }
                Some(_) if has(key) => return Ok(None),
                Some(_) => {}
            }
        }
        if wanted.is_none() && !node::taints(node).iter().any(ours) {
            return Ok(wait);
        }
        let mut taints: Vec<Taint> = node::taints(node).iter().filter(|t| !ours(t)).cloned().collect();
        taints.extend(wanted.map(|key| Taint {
            key: key.into(),
            effect: "NoExecute".into(),
            time_added: Some(now_time()),
            ..Taint::default()
        }));
        self.write_taints(node, taints).await?;
        Ok(wait)
    }

    async fn write_taints(&self, node: &mut Node, taints: Vec<Taint>) -> anyhow::Result<()> {
        let version = node.metadata.resource_version.clone();
        self.patch(node, json!({"metadata": {"resourceVersion": version}, "spec": {"taints": taints}})).await
    }

    async fn patch(&self, node: &mut Node, patch: serde_json::Value) -> anyhow::Result<()> {
        let api: Api<Node> = Api::all(self.ctx.client.clone());
        let done = api.patch(node.name(), &PatchParams::default(), &Patch::Merge(patch)).await;
        if let Some(new) = errors::optional(done)? {
            *node = new;
        }
        Ok(())
    }

    /// Nobody on a silent node can say that its pods are not ready.
    async fn mark_pods_not_ready(&self, node: &Node) -> anyhow::Result<()> {
        for pod in pods_on(&self.pods, node.name()).iter().filter(|p| pod::ready(p)) {
            let api: Api<Pod> = Api::namespaced(self.ctx.client.clone(), pod.ns());
            let condition = json!({"type": "Ready", "status": "False", "lastTransitionTime": now_time()});
            let patch = json!({"metadata": {"uid": pod.uid()}, "status": {"conditions": [condition]}});
            let done = api.patch_status(pod.name(), &PatchParams::default(), &Patch::Strategic(patch)).await;
            if errors::optional(done)?.is_some() {
                self.events.warning(&**pod, "NodeNotReady", "Node is not ready");
            }
        }
        Ok(())
    }
}

const MANAGED: [&str; 7] = [
    "node.kubernetes.io/not-ready",
    "node.kubernetes.io/unreachable",
    "node.kubernetes.io/memory-pressure",
    "node.kubernetes.io/disk-pressure",
    "node.kubernetes.io/pid-pressure",
    "node.kubernetes.io/network-unavailable",
    "node.kubernetes.io/unschedulable",
];

/// The taints that a node's conditions call for.
fn no_schedule(node: &Node) -> Vec<&'static str> {
    let is = |kind: &str, status: &str| node::condition(node, kind).is_some_and(|c| c.status == status);
    let table = [
        ("Ready", "False", MANAGED[0]),
        ("Ready", "Unknown", MANAGED[1]),
        ("MemoryPressure", "True", MANAGED[2]),
        ("DiskPressure", "True", MANAGED[3]),
        ("PIDPressure", "True", MANAGED[4]),
        ("NetworkUnavailable", "True", MANAGED[5]),
    ];
    let mut taints: Vec<_> =
        table.iter().filter(|(kind, status, _)| is(kind, status)).map(|(_, _, t)| *t).collect();
    if node.spec.as_ref().and_then(|s| s.unschedulable) == Some(true) {
        taints.push(MANAGED[6]);
    }
    taints
}

/// Sets the conditions a silent kubelet cannot speak for to Unknown; says whether anything changed.
fn make_unknown(node: &mut Node) -> bool {
    let created = node.metadata.creation_timestamp.clone();
    let conditions = node.status.get_or_insert_default().conditions.get_or_insert_default();
    let mut changed = false;
    for kind in ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"] {
        let (reason, message) = match conditions.iter_mut().find(|c| c.type_ == kind) {
            Some(old) if old.status == "Unknown" => continue,
            Some(old) => {
                old.status = "Unknown".into();
                old.reason = Some("NodeStatusUnknown".into());
                old.message = Some("Kubelet stopped posting node status.".into());
                old.last_transition_time = Some(now_time());
                changed = true;
                continue;
            }
            None => ("NodeStatusNeverUpdated", "Kubelet never posted node status."),
        };
        conditions.push(NodeCondition {
            type_: kind.into(),
            status: "Unknown".into(),
            reason: Some(reason.into()),
            message: Some(message.into()),
            last_heartbeat_time: created.clone(),
            last_transition_time: Some(now_time()),
        });
        changed = true;
    }
    changed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_turns_conditions_unknown_once() {
        let mut node: Node = serde_json::from_value(json!({"metadata": {"name": "n"}, "spec": {"unschedulable": true},
            "status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "DiskPressure", "status": "True"}]}}))
        .unwrap();
        assert_eq!(
            no_schedule(&node),
            ["node.kubernetes.io/disk-pressure", "node.kubernetes.io/unschedulable"]
        );
        assert!(make_unknown(&mut node));
        let reason = |kind: &str| node::condition(&node, kind).and_then(|c| c.reason.clone());
        assert_eq!(reason("Ready").as_deref(), Some("NodeStatusUnknown"));
        assert_eq!(reason("PIDPressure").as_deref(), Some("NodeStatusNeverUpdated"));
        assert_eq!(no_schedule(&node)[0], "node.kubernetes.io/unreachable");
        assert!(!make_unknown(&mut node));
    }
}
