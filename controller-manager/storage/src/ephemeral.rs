//! ephemeral-volume-controller: makes the claims of generic ephemeral volumes, owned by their pods.

use std::sync::Arc;

use controller_kit::meta::{MetaExt, controller_of, controller_ref};
use controller_kit::{Context, Events, Key, Queue, Requeue, Shared, errors, pod};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, PersistentVolumeClaimTemplate, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::api::PostParams;

/// Runs until shutdown.
pub async fn run(ctx: Context) -> anyhow::Result<()> {
    let queue = Queue::new();
    let (pods, claims) = (ctx.informer::<Pod>(), ctx.informer::<PersistentVolumeClaim>());
    pods.synced().await;
    claims.synced().await;
    let q = queue.clone();
    pods.watch(move |change| {
        if !change.deleted() && change.old().is_none() && !templates(change.object()).is_empty() {
            q.add(change.object().key());
        }
    });
    let q = queue.clone();
    claims.watch(move |change| {
        let owner = controller_of(&change.object().metadata).filter(|o| o.kind == "Pod");
        if let Some(owner) = owner.filter(|_| change.deleted()) {
            q.add(Key::new(change.object().ns(), &owner.name));
        }
    });
    let workers = ctx.workers("ephemeral-volume", "ephemeralvolume", 5);
    let events = ctx.events("ephemeral_volume");
    let (ctx, events, pods, claims) = (&ctx, &events, &pods, &claims);
    workers.run(queue, |key| async move { reconcile(ctx, events, pods, claims, &key).await }).await;
    Ok(())
}

fn templates(pod: &Pod) -> Vec<(String, PersistentVolumeClaimTemplate)> {
    let volumes = pod.spec.iter().flat_map(|s| s.volumes.iter().flatten());
    let template =
        |v: &k8s_openapi::api::core::v1::Volume| v.ephemeral.as_ref()?.volume_claim_template.clone();
    volumes.filter_map(|v| Some((format!("{}-{}", pod.name(), v.name), template(v)?))).collect()
}

async fn reconcile(
    ctx: &Context,
    events: &Events,
    pods: &Arc<Shared<Pod>>,
    claims: &Arc<Shared<PersistentVolumeClaim>>,
    key: &Key,
) -> anyhow::Result<Requeue> {
    let Some(pod) = pods.get(key).filter(|p| !p.deleting() && !pod::finished(p)) else { return Ok(None) };
    for (name, template) in templates(&pod) {
        if let Some(claim) = claims.get(&Key::new(pod.ns(), &name)) {
            let ours = controller_of(&claim.metadata).is_some_and(|o| o.uid == pod.uid());
            anyhow::ensure!(ours, "PVC {} was not created for pod {key} (pod is not owner)", claim.key());
            continue;
        }
        let meta = template.metadata.unwrap_or_default();
        let claim = PersistentVolumeClaim {
            metadata: ObjectMeta {
                name: Some(name),
                namespace: pod.metadata.namespace.clone(),
                labels: meta.labels,
                annotations: meta.annotations,
                owner_references: Some(vec![controller_ref(&*pod)]),
                ..ObjectMeta::default()
            },
            spec: Some(template.spec),
            status: None,
        };
        let api: Api<PersistentVolumeClaim> = Api::namespaced(ctx.client.clone(), pod.ns());
        if let Err(error) = api.create(&PostParams::default(), &claim).await {
            let text = format!("ephemeral volume claim {}: {}", claim.name(), errors::text(&error));
            events.warning(&*pod, "EphemeralVolumeClaimFailed", text);
            return Err(error.into());
        }
    }
    Ok(None)
}
