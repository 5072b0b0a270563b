//! persistentvolume-attach-detach-controller: a VolumeAttachment for each CSI volume and node with a pod that
//! uses it, and none otherwise. The driver's own attacher does the work.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use controller_kit::meta::MetaExt;
use controller_kit::{Context, Events, Key, Queue, Requeue, Shared, errors, pod};
use k8s_openapi::api::core::v1::{AttachedVolume, Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::{
    CSIDriver, VolumeAttachment, VolumeAttachmentSource, VolumeAttachmentSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::protection::claims;

struct Controller {
    ctx: Context,
    events: Events,
    pods: Arc<Shared<Pod>>,
    claims: Arc<Shared<PersistentVolumeClaim>>,
    volumes: Arc<Shared<PersistentVolume>>,
    nodes: Arc<Shared<Node>>,
    drivers: Arc<Shared<CSIDriver>>,
    attachments: Arc<Shared<VolumeAttachment>>,
}

/// Runs until shutdown.
pub async fn run(ctx: Context) -> anyhow::Result<()> {
    let queue = Queue::new();
    let c = Controller {
        events: ctx.events("attachdetach-controller"),
        pods: ctx.informer(),
        claims: ctx.informer(),
        volumes: ctx.informer(),
        nodes: ctx.informer(),
        drivers: ctx.informer(),
        attachments: ctx.informer(),
        ctx,
    };
    c.pods.index("node", |p: &Pod| Some(pod::node(p).to_owned()).filter(|n| !n.is_empty()));
    c.attachments.index("node", |a: &VolumeAttachment| Some(a.spec.node_name.clone()));
    c.pods.synced().await;
    c.claims.synced().await;
    c.volumes.synced().await;
    c.nodes.synced().await;
    c.drivers.synced().await;
    c.attachments.synced().await;
    let q = queue.clone();
    c.pods.watch(move |change| {
        let pod = change.object();
        let moved = change
            .old()
            .is_none_or(|old| pod::node(old) != pod::node(pod) || pod::finished(old) != pod::finished(pod));
        if (moved || change.deleted()) && !pod::node(pod).is_empty() && !claims(pod).is_empty() {
            q.add(Key::cluster(pod::node(pod)));
        }
    });
    let q = queue.clone();
    c.attachments.watch(move |change| q.add(Key::cluster(&change.object().spec.node_name)));
    let q = queue.clone();
    c.nodes.watch(move |change| {
        let in_use = |n: &Node| n.status.as_ref().and_then(|s| s.volumes_in_use.clone());
        if change.old().is_some_and(|old| in_use(old) != in_use(change.object())) {
            q.add(change.object().key());
        }
    });
    let workers = c.ctx.workers("attachdetach", "attachdetach", 4);
    let c = &c;
    workers.run(queue, |key| async move { c.reconcile(&key.name).await }).await;
    Ok(())
}

/// The name every attacher expects.
fn attachment_name(handle: &str, driver: &str, node: &str) -> String {
    let digest = Sha256::digest(format!("{handle}{driver}{node}").as_bytes());
    format!("csi-{}", hex::encode(digest))
}

fn unique_name(driver: &str, handle: &str) -> String {
    format!("kubernetes.io/csi/{driver}^{handle}")
}

impl Controller {
    /// The CSI volumes that pods of a node use: attachment name to volume.
    fn wanted(&self, node: &str) -> BTreeMap<String, Arc<PersistentVolume>> {
        let mut wanted = BTreeMap::new();
        for pod in self.pods.by("node", node).iter().filter(|p| !pod::finished(p)) {
            for name in claims(pod) {
                let claim = self.claims.get(&Key::new(pod.ns(), name));
                let volume = claim.and_then(|c| c.spec.as_ref()?.volume_name.clone());
                let Some(volume) = volume.and_then(|v| self.volumes.get(&Key::cluster(v))) else { continue };
                let Some(csi) = volume.spec.as_ref().and_then(|s| s.csi.as_ref()) else { continue };
                let driver = self.drivers.get(&Key::cluster(&csi.driver));
                if driver.and_then(|d| d.spec.attach_required) == Some(false) {
                    continue;
                }
                wanted.insert(attachment_name(&csi.volume_handle, &csi.driver, node), volume.clone());
            }
        }
        wanted
    }

    async fn reconcile(&self, node: &str) -> anyhow::Result<Requeue> {
        let api: Api<VolumeAttachment> = Api::all(self.ctx.client.clone());
        let wanted = self.wanted(node);
        for (name, volume) in &wanted {
            if self.attachments.get(&Key::cluster(name)).is_some() {
                continue;
            }
            let driver = volume.spec.as_ref().and_then(|s| s.csi.as_ref()).map(|c| c.driver.clone());
            let attachment = VolumeAttachment {
                metadata: ObjectMeta { name: Some(name.clone()), ..ObjectMeta::default() },
                spec: VolumeAttachmentSpec {
                    attacher: driver.unwrap_or_default(),
                    node_name: node.to_owned(),
                    source: VolumeAttachmentSource {
                        persistent_volume_name: volume.metadata.name.clone(),
                        inline_volume_spec: None,
                    },
                },
                status: None,
            };
            match api.create(&PostParams::default(), &attachment).await {
                Err(error) if !errors::already_exists(&error) => return Err(error.into()),
                _ => {}
            }
        }
        let mut again = None;
        for attachment in self.attachments.by("node", node) {
            let ours = attachment.name().starts_with("csi-") && !attachment.deleting();
            if !ours || wanted.contains_key(attachment.name()) {
                continue;
            }
            if self.mounted(node, &attachment) {
                // The kubelet has not unmounted it yet; its node status says when it has.
                again = Some(Duration::from_secs(360));
                continue;
            }
            errors::optional(api.delete(attachment.name(), &DeleteParams::default()).await)?;
        }
        self.note_attached(node).await?;
        Ok(again)
    }

    fn handle(&self, attachment: &VolumeAttachment) -> Option<(String, String)> {
        let name = attachment.spec.source.persistent_volume_name.as_ref()?;
        let volume = self.volumes.get(&Key::cluster(name))?;
        let csi = volume.spec.as_ref()?.csi.as_ref()?;
        Some((csi.driver.clone(), csi.volume_handle.clone()))
    }

    fn mounted(&self, node: &str, attachment: &VolumeAttachment) -> bool {
        let Some((driver, handle)) = self.handle(attachment) else { return false };
        let Some(node) = self.nodes.get(&Key::cluster(node)) else { return false };
        let unique = unique_name(&driver, &handle);
        node.status.iter().flat_map(|s| s.volumes_in_use.iter().flatten()).any(|v| *v == unique)
    }

    /// The kubelet mounts a volume once the node's status says that it is attached.
    async fn note_attached(&self, name: &str) -> anyhow::Result<()> {
        let Some(node) = self.nodes.get(&Key::cluster(name)) else { return Ok(()) };
        let attached =
            |a: &&Arc<VolumeAttachment>| a.status.as_ref().is_some_and(|s| s.attached) && !a.deleting();
        let old = node.status.as_ref().and_then(|s| s.volumes_attached.clone()).unwrap_or_default();
        let mut volumes: Vec<AttachedVolume> = self
            .attachments
            .by("node", name)
            .iter()
            .filter(attached)
            .filter_map(|a| {
                let (driver, handle) = self.handle(a)?;
                Some(AttachedVolume { name: unique_name(&driver, &handle), device_path: String::new() })
            })
            .collect();
        volumes.sort_by(|a, b| a.name.cmp(&b.name));
        if volumes == old {
            return Ok(());
        }
        for new in volumes.iter().filter(|v| !old.contains(v)) {
            let text = format!("AttachVolume.Attach succeeded for volume \"{}\"", new.name);
            for pod in self.pods.by("node", name).iter().filter(|p| !claims(p).is_empty()) {
                self.events.normal(&**pod, "SuccessfulAttachVolume", &text);
            }
        }
        let api: Api<Node> = Api::all(self.ctx.client.clone());
        let patch = json!({"status": {"volumesAttached": volumes}});
        errors::optional(api.patch_status(name, &PatchParams::default(), &Patch::Merge(patch)).await)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_attachers_expect() {
        let name = attachment_name("vol", "driver", "node");
        assert!(name.starts_with("csi-") && name.len() == 68);
        assert_eq!(unique_name("d", "h"), "kubernetes.io/csi/d^h");
    }
}
