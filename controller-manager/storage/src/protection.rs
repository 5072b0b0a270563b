//! persistentvolumeclaim-protection-controller and persistentvolume-protection-controller: what is in use is
//! not removed before its last user is gone.

use std::fmt::Debug;

use controller_kit::meta::MetaExt;
use controller_kit::{Context, Key, Queue, Requeue, errors, pod};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use kube::api::{ListParams, PostParams};
use kube::{Api, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;

const CLAIM: &str = "kubernetes.io/pvc-protection";
const VOLUME: &str = "kubernetes.io/pv-protection";

/// The claims a pod uses, by name.
pub(crate) fn claims(pod: &Pod) -> Vec<String> {
    let volumes = pod.spec.iter().flat_map(|s| s.volumes.iter().flatten());
    volumes
        .filter_map(|v| match (&v.persistent_volume_claim, &v.ephemeral) {
            (Some(claim), _) => Some(claim.claim_name.clone()),
            (None, Some(_)) => Some(format!("{}-{}", pod.name(), v.name)),
            _ => None,
        })
        .collect()
}

/// Whether a pod uses a claim.
pub(crate) fn uses(pod: &Pod, claim: &str) -> bool {
    claims(pod).iter().any(|c| c == claim)
}

/// A pod holds its claims until it is gone, or has ended, or if it never got to a node.
fn holds(p: &Pod, claim: &str) -> bool {
    !pod::finished(p) && !pod::node(p).is_empty() && uses(p, claim)
}

/// The controllers of this file may update, not patch.
pub(crate) async fn set_finalizers<K>(api: Api<K>, object: &K, wanted: Vec<String>) -> anyhow::Result<()>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Serialize + Debug,
{
    let mut changed = object.clone();
    changed.meta_mut().finalizers = Some(wanted);
    errors::optional(api.replace(object.name(), &PostParams::default(), &changed).await)?;
    Ok(())
}

/// The finalizers an object shall have; `None` when they are right.
pub(crate) fn change<K: Resource>(object: &K, finalizer: &str, in_use: Option<bool>) -> Option<Vec<String>> {
    let mut all = object.meta().finalizers.clone().unwrap_or_default();
    let has = all.iter().any(|f| f == finalizer);
    match (object.deleting(), has, in_use) {
        (true, true, Some(false)) => {
            all.retain(|f| f != finalizer);
            Some(all)
        }
        (false, false, _) => {
            all.push(finalizer.to_owned());
            Some(all)
        }
        _ => None,
    }
}

/// Protects claims until shutdown.
pub async fn run_claims(ctx: Context) -> anyhow::Result<()> {
    let queue = Queue::new();
    let (claims_cache, pods) = (ctx.informer::<PersistentVolumeClaim>(), ctx.informer::<Pod>());
    claims_cache.synced().await;
    pods.synced().await;
    let q = queue.clone();
    claims_cache.watch(move |c| {
        if !c.deleted() {
            q.add(c.object().key());
        }
    });
    let (q, cache) = (queue.clone(), claims_cache.clone());
    pods.watch(move |c| {
        let pod = c.object();
        if c.deleted() || pod::finished(pod) {
            let deleting = |key: &Key| cache.get(key).is_some_and(|claim| claim.deleting());
            claims(pod)
                .into_iter()
                .map(|name| Key::new(pod.ns(), name))
                .filter(deleting)
                .for_each(|key| q.add(key));
        }
    });
    let workers = ctx.workers("pvc-protection", "pvc-protection", 2);
    let (ctx, claims_cache, pods) = (&ctx, &claims_cache, &pods);
    workers
        .run(queue, |key: Key| async move {
            let Some(claim) = claims_cache.get(&key) else { return Ok(None) };
            let api: Api<PersistentVolumeClaim> = Api::namespaced(ctx.client.clone(), &key.namespace);
            let mut in_use = None;
            if claim.deleting() && claim.has_finalizer(CLAIM) {
                let cached = pods.namespace(&key.namespace).iter().any(|p| holds(p, &key.name));
                in_use = Some(cached || used_live(ctx, &key).await?);
            }
            if let Some(wanted) = change(&*claim, CLAIM, in_use) {
                set_finalizers(api, &*claim, wanted).await?;
            }
            Ok::<Requeue, anyhow::Error>(None)
        })
        .await;
    Ok(())
}

/// The cache may not show a pod yet that was bound to a node just now.
async fn used_live(ctx: &Context, key: &Key) -> anyhow::Result<bool> {
    let api: Api<Pod> = Api::namespaced(ctx.client.clone(), &key.namespace);
    Ok(api.list(&ListParams::default()).await?.items.iter().any(|p| holds(p, &key.name)))
}

/// Protects volumes until shutdown.
pub async fn run_volumes(ctx: Context) -> anyhow::Result<()> {
    let queue = Queue::new();
    let volumes = ctx.informer::<PersistentVolume>();
    volumes.synced().await;
    let q = queue.clone();
    volumes.watch(move |c| {
        if !c.deleted() {
            q.add(c.object().key());
        }
    });
    let workers = ctx.workers("pv-protection", "pv-protection", 1);
    let (ctx, volumes) = (&ctx, &volumes);
    workers
        .run(queue, |key: Key| async move {
            let Some(volume) = volumes.get(&key) else { return Ok(None) };
            let bound = volume.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound");
            if let Some(wanted) = change(&*volume, VOLUME, Some(bound)) {
                set_finalizers(Api::all(ctx.client.clone()), &*volume, wanted).await?;
            }
            Ok::<Requeue, anyhow::Error>(None)
        })
        .await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::sync::Arc;

    #[test]
    fn finalizers_come_and_go() {
        let claim = |extra: serde_json::Value| -> PersistentVolumeClaim {
            let mut meta = json!({"name": "c"});
            meta.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            serde_json::from_value(json!({"metadata": meta})).unwrap()
        };
        let deleting = json!({"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": [CLAIM, "x"]});
        assert_eq!(change(&claim(json!({})), CLAIM, None), Some(vec![CLAIM.to_owned()]));
        assert_eq!(change(&claim(deleting.clone()), CLAIM, Some(true)), None);
        assert_eq!(change(&claim(deleting), CLAIM, Some(false)), Some(vec!["x".to_owned()]));
        let user: Arc<Pod> = Arc::new(serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n", "containers": [],
            "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}, {"name": "e", "ephemeral": {}}]}})).unwrap());
        assert!(holds(&user, "c") && holds(&user, "p-e") && !holds(&user, "d"));
    }
}
