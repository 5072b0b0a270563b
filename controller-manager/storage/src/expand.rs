//! persistentvolume-expander-controller: volumes are grown by their drivers' own resizers; this tells users so.

use api::quantity::Quantity;
use controller_kit::meta::MetaExt;
use controller_kit::{Context, Key, Queue, Requeue};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};

use crate::binder::matching::requested;

/// Runs until shutdown.
pub async fn run(ctx: Context) -> anyhow::Result<()> {
    let queue = Queue::new();
    let (claims, volumes) = (ctx.informer::<PersistentVolumeClaim>(), ctx.informer::<PersistentVolume>());
    claims.synced().await;
    volumes.synced().await;
    let q = queue.clone();
    claims.watch(move |change| {
        let claim = change.object();
        if change.old().is_some_and(|old| requested(old) < requested(claim)) {
            q.add(claim.key());
        }
    });
    let workers = ctx.workers("persistentvolume-expander", "expander", 2);
    let events = ctx.events("volume_expand");
    let (claims, volumes, events) = (&claims, &volumes, &events);
    workers
        .run(queue, |key: Key| async move {
            let Some(claim) = claims.get(&key).filter(|c| wants_more(c)) else { return Ok(None) };
            let name = claim.spec.as_ref().and_then(|s| s.volume_name.clone()).unwrap_or_default();
            let volume = volumes.get(&Key::cluster(name));
            if volume.is_some_and(|v| v.spec.as_ref().is_some_and(|s| s.csi.is_some())) {
                let text = "waiting for an external controller to expand this PVC";
                events.normal(&*claim, "ExternalExpanding", text);
            } else {
                let text = "didn't find a plugin capable of expanding the volume; waiting for an external controller to process this PVC";
                events.normal(&*claim, "ExternalExpanding", text);
            }
            Ok::<Requeue, anyhow::Error>(None)
        })
        .await;
    Ok(())
}

fn wants_more(claim: &PersistentVolumeClaim) -> bool {
    let status = claim.status.as_ref();
    let bound = status.and_then(|s| s.phase.as_deref()) == Some("Bound");
    let have = status.and_then(|s| s.capacity.as_ref()?.get("storage"));
    let have = have.and_then(|q| Quantity::parse(&q.0).ok()).unwrap_or(Quantity::ZERO);
    bound && requested(claim) > have
}
