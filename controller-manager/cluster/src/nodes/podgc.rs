//! pod-garbage-collector-controller: removes pods that nobody else will: of nodes that are gone or out of
//! service, deleted before they were bound, and ended ones beyond a limit.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use controller_kit::meta::MetaExt;
use controller_kit::{Context, Key, Queue, Requeue, Shared, errors, node, pod};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Api;

use super::{end_pod, index_by_node, pods_on};

/// A node may come back under its name: its pods are left alone for so long.
const QUARANTINE: Duration = Duration::from_secs(40);
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

#[derive(Clone, PartialEq, Eq, Hash)]
enum Task {
    Pod(Key),
    MissingNode(String),
    Ended,
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Task::Pod(key) => write!(f, "{key}"),
            Task::MissingNode(name) => write!(f, "node {name}"),
            Task::Ended => f.write_str("ended pods"),
        }
    }
}

struct Controller {
    ctx: Context,
    pods: Arc<Shared<Pod>>,
    nodes: Arc<Shared<Node>>,
}

/// Runs until shutdown.
pub async fn run(ctx: Context) -> anyhow::Result<()> {
    let queue: Queue<Task> = Queue::new();
    let (pods, nodes) = (ctx.informer::<Pod>(), ctx.informer::<Node>());
    index_by_node(&pods);
    pods.synced().await;
    nodes.synced().await;
    let (q, cache) = (queue.clone(), nodes.clone());
    pods.watch(move |change| {
        let pod = change.object();
        if change.deleted() {
            return;
        }
        if pod.deleting() {
            q.add(Task::Pod(pod.key()));
        }
        if pod::finished(pod) && change.old().is_none_or(|old| !pod::finished(old)) {
            // Many end at once: they are counted together.
            q.add_after(Task::Ended, Duration::from_secs(2));
        }
        let name = pod::node(pod);
        if !name.is_empty() && change.old().is_none() && cache.get(&Key::cluster(name)).is_none() {
            q.add_after(Task::MissingNode(name.to_owned()), QUARANTINE);
        }
    });
    let (q, cache) = (queue.clone(), pods.clone());
    nodes.watch(move |change| {
        let node = change.object();
        if change.deleted() {
            q.add_after(Task::MissingNode(node.name().to_owned()), QUARANTINE);
        } else if out_of_service(node) {
            pods_on(&cache, node.name())
                .iter()
                .filter(|p| p.deleting())
                .for_each(|p| q.add(Task::Pod(p.key())));
        }
    });
    let workers = ctx.workers("podgc", "podgc", 2);
    let controller = Controller { ctx, pods, nodes };
    let c = &controller;
    workers.run(queue, |task| async move { c.reconcile(task).await }).await;
    Ok(())
}

fn out_of_service(node: &Node) -> bool {
    !node::ready(node) && node::taints(node).iter().any(|t| t.key == OUT_OF_SERVICE)
}

impl Controller {
    async fn reconcile(&self, task: Task) -> anyhow::Result<Requeue> {
        match task {
            Task::Pod(key) => self.deleted_pod(&key).await?,
            Task::MissingNode(name) => self.missing_node(&name).await?,
            Task::Ended => self.ended().await?,
        }
        Ok(None)
    }

    async fn deleted_pod(&self, key: &Key) -> anyhow::Result<()> {
        let Some(pod) = self.pods.get(key).filter(|p| p.deleting()) else { return Ok(()) };
        let name = pod::node(&pod);
        let stuck =
            name.is_empty() || self.nodes.get(&Key::cluster(name)).is_some_and(|n| out_of_service(&n));
        if stuck {
            end_pod(&self.ctx.client, &pod, None, true, Some(0)).await?;
        }
        Ok(())
    }

    async fn missing_node(&self, name: &str) -> anyhow::Result<()> {
        if self.nodes.get(&Key::cluster(name)).is_some() || pods_on(&self.pods, name).is_empty() {
            return Ok(());
        }
        let api: Api<Node> = Api::all(self.ctx.client.clone());
        if errors::optional(api.get_metadata(name).await)?.is_some() {
            return Ok(());
        }
        let why = Some(("DeletionByPodGC", "PodGC: node no longer exists"));
        for pod in pods_on(&self.pods, name) {
            end_pod(&self.ctx.client, &pod, why, true, Some(0)).await?;
        }
        Ok(())
    }

    async fn ended(&self) -> anyhow::Result<()> {
        let limit = self.ctx.settings.terminated_pod_threshold;
        for pod in surplus(&self.pods.list(), limit) {
            end_pod(&self.ctx.client, &pod, None, false, Some(0)).await?;
        }
        Ok(())
    }
}

/// The ended pods beyond the limit: evicted ones first, then the oldest.
fn surplus(pods: &[Arc<Pod>], limit: i64) -> Vec<Arc<Pod>> {
    let Some(limit) = usize::try_from(limit).ok().filter(|l| *l > 0) else { return Vec::new() };
    let mut ended: Vec<_> = pods.iter().filter(|p| pod::finished(p)).cloned().collect();
    let count = ended.len().saturating_sub(limit);
    let evicted = |p: &Pod| p.status.as_ref().and_then(|s| s.reason.as_deref()) == Some("Evicted");
    ended.sort_by_key(|p| (!evicted(p), p.created(), p.name().to_owned()));
    ended.truncate(count);
    let mut seen = HashSet::new();
    ended.retain(|p| seen.insert(p.uid().to_owned()));
    ended
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn evicted_and_old_pods_go_first() {
        let pod = |name: &str, phase: &str, reason: &str, at: &str| {
            Arc::new(
                serde_json::from_value::<Pod>(
                    json!({"metadata": {"name": name, "uid": name, "creationTimestamp": at},
                "status": {"phase": phase, "reason": reason}}),
                )
                .unwrap(),
            )
        };
        let pods = [
            pod("old", "Succeeded", "", "2026-01-01T00:00:00Z"),
            pod("new", "Failed", "", "2026-01-03T00:00:00Z"),
            pod("evicted", "Failed", "Evicted", "2026-01-04T00:00:00Z"),
            pod("running", "Running", "", "2026-01-01T00:00:00Z"),
        ];
        let names = |limit| surplus(&pods, limit).iter().map(|p| p.name().to_owned()).collect::<Vec<_>>();
        assert_eq!(names(1), ["evicted", "old"]);
        assert!(names(3).is_empty() && names(0).is_empty());
    }
}
