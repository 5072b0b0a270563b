//! volumeattributesclass-protection-controller: a class that a claim or a volume names is not removed.

use controller_kit::meta::MetaExt;
use controller_kit::{Change, Context, Key, Queue, Requeue};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::VolumeAttributesClass;
use kube::{Api, Resource};
use std::collections::BTreeSet;

use crate::protection::{change, set_finalizers};

const CLASS: &str = "kubernetes.io/vac-protection";

/// The classes that a claim asks for, has, or is being changed to.
fn of_claim(claim: &PersistentVolumeClaim) -> BTreeSet<&str> {
    let status = claim.status.as_ref();
    let asked = claim.spec.as_ref().and_then(|s| s.volume_attributes_class_name.as_deref());
    let current = status.and_then(|s| s.current_volume_attributes_class_name.as_deref());
    let target = status.and_then(|s| s.modify_volume_status.as_ref());
    let target = target.and_then(|m| m.target_volume_attributes_class_name.as_deref());
    [asked, current, target].into_iter().flatten().filter(|n| !n.is_empty()).collect()
}

fn of_volume(volume: &PersistentVolume) -> BTreeSet<&str> {
    let class = volume.spec.as_ref().and_then(|s| s.volume_attributes_class_name.as_deref());
    class.into_iter().filter(|n| !n.is_empty()).collect()
}

/// The classes that one user fewer names after a change.
fn released<K: Resource>(c: &Change<K>, names: fn(&K) -> BTreeSet<&str>) -> Vec<String> {
    if c.deleted() {
        return names(c.object()).into_iter().map(str::to_owned).collect();
    }
    let Some(old) = c.old() else { return Vec::new() };
    names(old).difference(&names(c.object())).map(|n| (*n).to_owned()).collect()
}

/// Protects classes until shutdown.
pub async fn run(ctx: Context) -> anyhow::Result<()> {
    let queue = Queue::new();
    let classes = ctx.informer::<VolumeAttributesClass>();
    let (claims, volumes) = (ctx.informer::<PersistentVolumeClaim>(), ctx.informer::<PersistentVolume>());
    classes.synced().await;
    claims.synced().await;
    volumes.synced().await;
    let q = queue.clone();
    classes.watch(move |c| {
        if !c.deleted() {
            q.add(c.object().key());
        }
    });
    let q = queue.clone();
    claims.watch(move |c| released(c, of_claim).into_iter().for_each(|n| q.add(Key::new("", n))));
    let q = queue.clone();
    volumes.watch(move |c| released(c, of_volume).into_iter().for_each(|n| q.add(Key::new("", n))));
    let workers = ctx.workers("vac-protection", "vac-protection", 1);
    let (ctx, classes, claims, volumes) = (&ctx, &classes, &claims, &volumes);
    workers
        .run(queue, |key: Key| async move {
            let Some(class) = classes.get(&key) else { return Ok(None) };
            let name = key.name.as_str();
            let in_use = class.deleting()
                && (volumes.list().iter().any(|v| of_volume(v).contains(name))
                    || claims.list().iter().any(|c| of_claim(c).contains(name)));
            if let Some(wanted) = change(&*class, CLASS, Some(in_use)) {
                set_finalizers(Api::all(ctx.client.clone()), &*class, wanted).await?;
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

    #[test]
    fn a_claim_names_what_it_asks_has_and_becomes() {
        let claim: PersistentVolumeClaim = serde_json::from_value(json!({"metadata": {},
            "spec": {"volumeAttributesClassName": "gold"},
            "status": {"currentVolumeAttributesClassName": "silver",
                "modifyVolumeStatus": {"status": "Pending", "targetVolumeAttributesClassName": "gold"}}}))
        .unwrap();
        assert_eq!(of_claim(&claim), BTreeSet::from(["gold", "silver"]));
        assert!(of_claim(&PersistentVolumeClaim::default()).is_empty());
        let volume: PersistentVolume =
            serde_json::from_value(json!({"metadata": {}, "spec": {"volumeAttributesClassName": "gold"}}))
                .unwrap();
        assert_eq!(of_volume(&volume), BTreeSet::from(["gold"]));
    }
}
