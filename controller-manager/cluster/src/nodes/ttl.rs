//! ttl-controller: tells kubelets how long they may cache Secrets and ConfigMaps, longer in larger clusters.

use std::sync::Arc;

use controller_kit::meta::MetaExt;
use controller_kit::{Context, Key, Queue, Requeue, Shared, errors};
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;

const ANNOTATION: &str = "node.alpha.kubernetes.io/ttl";

/// Runs until shutdown.
pub async fn run(ctx: Context) -> anyhow::Result<()> {
    let queue = Queue::new();
    let nodes = ctx.informer::<Node>();
    nodes.synced().await;
    let (q, cache) = (queue.clone(), nodes.clone());
    nodes.watch(move |change| {
        q.add(change.object().key());
        // Crossing a boundary concerns every node.
        let count = cache.len();
        let other = if change.deleted() { count + 1 } else { count.saturating_sub(1) };
        if change.old().is_none() && ttl(count) != ttl(other) {
            cache.list().iter().for_each(|n| q.add(n.key()));
        }
    });
    let workers = ctx.workers("ttl", "ttl", 5);
    let (ctx, nodes) = (&ctx, &nodes);
    workers.run(queue, |key| async move { reconcile(ctx, nodes, &key).await }).await;
    Ok(())
}

/// Seconds by cluster size.
fn ttl(nodes: usize) -> u32 {
    match nodes {
        0..=100 => 0,
        101..=500 => 15,
        501..=1000 => 30,
        1001..=2000 => 60,
        _ => 300,
    }
}

async fn reconcile(ctx: &Context, nodes: &Arc<Shared<Node>>, key: &Key) -> anyhow::Result<Requeue> {
    let Some(node) = nodes.get(key) else { return Ok(None) };
    let wanted = ttl(nodes.len()).to_string();
    if node.annotation(ANNOTATION) == Some(&wanted) {
        return Ok(None);
    }
    let api: Api<Node> = Api::all(ctx.client.clone());
    let patch = json!({"metadata": {"annotations": {ANNOTATION: wanted}}});
    errors::optional(api.patch(&key.name, &PatchParams::default(), &Patch::Merge(patch)).await)?;
    Ok(None)
}
