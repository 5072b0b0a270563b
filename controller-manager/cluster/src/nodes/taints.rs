//! taint-eviction-controller: pods leave nodes with NoExecute taints that they do not tolerate, or no longer.

use std::sync::Arc;
use std::time::Duration;

use controller_kit::meta::MetaExt;
use controller_kit::{Context, Events, Key, Queue, Requeue, Shared, node, now, pod};
use k8s_openapi::api::core::v1::{Node, Pod, Taint, Toleration};

use super::{end_pod, index_by_node, pods_on};

/// Runs until shutdown.
pub async fn run(ctx: Context) -> anyhow::Result<()> {
    let queue = Queue::new();
    let (nodes, pods) = (ctx.informer::<Node>(), ctx.informer::<Pod>());
    index_by_node(&pods);
    nodes.synced().await;
    pods.synced().await;
    let (q, cache) = (queue.clone(), pods.clone());
    nodes.watch(move |change| {
        let now = no_execute(change.object());
        let before = change.old().map(|old| no_execute(old)).unwrap_or_default();
        if now != before && !change.deleted() {
            pods_on(&cache, change.object().name()).iter().for_each(|p| q.add(p.key()));
        }
    });
    let (q, cache) = (queue.clone(), nodes.clone());
    pods.watch(move |change| {
        let pod = change.object();
        let spec = |p: &Pod| p.spec.as_ref().map(|s| (s.node_name.clone(), s.tolerations.clone()));
        let moved = change.old().is_none_or(|old| spec(old) != spec(pod));
        let node = cache.get(&Key::cluster(pod::node(pod)));
        if moved && !change.deleted() && node.is_some_and(|n| !no_execute(&n).is_empty()) {
            q.add(pod.key());
        }
    });
    let workers = ctx.workers("taint-eviction", "taint-eviction", 8);
    let events = ctx.events("taint-eviction-controller");
    let (ctx, events, nodes, pods) = (&ctx, &events, &nodes, &pods);
    workers.run(queue, |key| async move { reconcile(ctx, events, nodes, pods, &key).await }).await;
    Ok(())
}

fn no_execute(node: &Node) -> Vec<Taint> {
    node::taints(node).iter().filter(|t| t.effect == "NoExecute").cloned().collect()
}

async fn reconcile(
    ctx: &Context,
    events: &Events,
    nodes: &Arc<Shared<Node>>,
    pods: &Arc<Shared<Pod>>,
    key: &Key,
) -> anyhow::Result<Requeue> {
    let Some(pod) = pods.get(key).filter(|p| !p.deleting()) else { return Ok(None) };
    let Some(node) = nodes.get(&Key::cluster(pod::node(&pod))) else { return Ok(None) };
    let taints = no_execute(&node);
    let tolerations = pod.spec.as_ref().and_then(|s| s.tolerations.clone()).unwrap_or_default();
    let born = pod.metadata.creation_timestamp.as_ref().map_or(jiff::Timestamp::UNIX_EPOCH, |t| t.0);
    match stay(&taints, &tolerations, born, now()) {
        Stay::Always => Ok(None),
        Stay::For(left) => Ok(Some(left)),
        Stay::Over => {
            let text = format!("Marking for deletion Pod {key}");
            events.normal(&*pod, "TaintManagerEviction", text);
            let why = ("DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint");
            end_pod(&ctx.client, &pod, Some(why), false, None).await?;
            Ok(None)
        }
    }
}

/// How long a pod may stay.
#[derive(Debug, PartialEq, Eq)]
enum Stay {
    Always,
    For(Duration),
    Over,
}

fn stay(taints: &[Taint], tolerations: &[Toleration], born: jiff::Timestamp, now: jiff::Timestamp) -> Stay {
    let mut least: Option<i64> = None;
    for taint in taints {
        let matching: Vec<_> = tolerations.iter().filter(|t| node::tolerates(t, taint)).collect();
        if matching.is_empty() {
            return Stay::Over;
        }
        let Some(seconds) = matching.iter().filter_map(|t| t.toleration_seconds).min() else { continue };
        let since = taint.time_added.as_ref().map_or(born, |t| t.0.max(born));
        let left = seconds.max(0) - now.duration_since(since).as_secs();
        least = Some(least.map_or(left, |l| l.min(left)));
    }
    match least {
        None => Stay::Always,
        Some(left) if left <= 0 => Stay::Over,
        Some(left) => Stay::For(Duration::from_secs(left.unsigned_abs())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_shortest_toleration_counts() {
        let taint: Taint = serde_json::from_value(
            json!({"key": "k", "effect": "NoExecute", "timeAdded": "2026-01-01T00:00:00Z"}),
        )
        .unwrap();
        let tolerations =
            |list: serde_json::Value| -> Vec<Toleration> { serde_json::from_value(list).unwrap() };
        let at = |s: &str| s.parse::<jiff::Timestamp>().unwrap();
        let born = at("2025-01-01T00:00:00Z");
        let stays = |list, now| stay(std::slice::from_ref(&taint), &tolerations(list), born, at(now));
        assert_eq!(stays(json!([]), "2026-01-01T00:00:00Z"), Stay::Over);
        assert_eq!(stays(json!([{"operator": "Exists"}]), "2026-01-01T00:00:00Z"), Stay::Always);
        let timed =
            json!([{"operator": "Exists"}, {"key": "k", "operator": "Exists", "tolerationSeconds": 300}]);
        assert_eq!(stays(timed.clone(), "2026-01-01T00:00:10Z"), Stay::For(Duration::from_secs(290)));
        assert_eq!(stays(timed, "2026-01-01T00:05:00Z"), Stay::Over);
        assert_eq!(stay(&[], &[], born, born), Stay::Always);
    }
}
