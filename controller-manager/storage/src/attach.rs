//! persistentvolume-attach-detach-controller: a VolumeAttachment for each CSI volume and node with a pod that
//! uses it, and none otherwise. The driver's own attacher does the work; the kubelet mounts a volume once the node's
//! status calls it attached, and a volume is detached only after the node's status no longer calls it in use.
//!
//! Work is keyed by node: each look compares what pods want with what attachments there are.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use controller_kit::meta::MetaExt;
use controller_kit::{Context, Events, Key, Queue, Requeue, Shared, errors, pod};
use k8s_openapi::api::core::v1::{AttachedVolume, Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::{
    CSIDriver, VolumeAttachment, VolumeAttachmentSource, VolumeAttachmentSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use parking_lot::Mutex;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::protection::claims;

mod multi;
mod triggers;

/// A kubelet puts this on its node if it leaves attaching to the controller.
const MANAGED: &str = "volumes.kubernetes.io/controller-managed-attach-detach";

/// How long a node that is not ready may keep a volume that is to go.
const FORCE_AFTER: Duration = Duration::from_secs(360);

/// How long an attacher may take before people are told.
const ATTACHER_PATIENCE: Duration = Duration::from_secs(120);

struct Controller {
    ctx: Context,
    events: Events,
    pods: Arc<Shared<Pod>>,
    claims: Arc<Shared<PersistentVolumeClaim>>,
    volumes: Arc<Shared<PersistentVolume>>,
    nodes: Arc<Shared<Node>>,
    drivers: Arc<Shared<CSIDriver>>,
    attachments: Arc<Shared<VolumeAttachment>>,
    memory: Mutex<Memory>,
}

/// What the API does not keep.
#[derive(Default)]
struct Memory {
    /// Since when an attachment is to go.
    unwanted: HashMap<String, Instant>,
    /// Since when an attachment is waited for.
    pending: HashMap<String, Instant>,
    /// The last error told of an attachment.
    told: HashMap<String, String>,
    /// Nodes that wait for an attachment (by volume) elsewhere to end.
    blocked: BTreeMap<String, BTreeSet<String>>,
}

/// A volume that a node wants.
struct Wanted {
    volume: Arc<PersistentVolume>,
    driver: String,
    handle: String,
    pods: Vec<Arc<Pod>>,
}

impl Wanted {
    fn name(&self) -> &str {
        self.volume.name()
    }

    fn unique(&self) -> String {
        unique_name(&self.driver, &self.handle)
    }
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
        memory: Mutex::default(),
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
    let c = Arc::new(c);
    triggers::install(&c, &queue);
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
    fn wanted(&self, node: &str) -> BTreeMap<String, Wanted> {
        let mut wanted: BTreeMap<String, Wanted> = BTreeMap::new();
        for pod in self.pods.by("node", node).iter().filter(|p| !pod::finished(p)) {
            for name in claims(pod) {
                let claim = self.claims.get(&Key::new(pod.ns(), name));
                let volume = claim.and_then(|c| c.spec.as_ref()?.volume_name.clone());
                let Some(volume) = volume.and_then(|v| self.volumes.get(&Key::cluster(v))) else { continue };
                let Some(csi) = volume.spec.as_ref().and_then(|s| s.csi.as_ref()) else { continue };
                let object = self.drivers.get(&Key::cluster(&csi.driver));
                if object.and_then(|d| d.spec.attach_required) == Some(false) {
                    continue;
                }
                let (driver, handle) = (csi.driver.clone(), csi.volume_handle.clone());
                let key = attachment_name(&handle, &driver, node);
                let entry = wanted.entry(key);
                let entry =
                    entry.or_insert(Wanted { volume: volume.clone(), driver, handle, pods: Vec::new() });
                entry.pods.push(pod.clone());
            }
        }
        wanted
    }

    async fn reconcile(&self, name: &str) -> anyhow::Result<Requeue> {
        let node = self.nodes.get(&Key::cluster(name));
        let managed = node.as_ref().is_some_and(|n| {
            n.metadata.annotations.as_ref().is_some_and(|a| a.get(MANAGED).is_some_and(|v| v == "true"))
        });
        if node.is_some() && !managed {
            // Its kubelet sees to it, or has not registered yet.
            return Ok(None);
        }
        let wanted = if managed { self.wanted(name) } else { BTreeMap::new() };
        // Detaching comes first: a volume may be waited for elsewhere.
        let mut again = self.detach_unwanted(name, node.as_deref(), &wanted).await?;
        for (attachment, volume) in &wanted {
            self.memory.lock().unwanted.remove(attachment);
            let wait = self.attach(name, attachment, volume).await?;
            again = sooner(again, wait);
        }
        if let Some(node) = node {
            self.report(&node, &wanted).await?;
        }
        Ok(again)
    }

    async fn attach(&self, node: &str, name: &str, wanted: &Wanted) -> anyhow::Result<Requeue> {
        if let Some(found) = self.attachments.get(&Key::cluster(name)) {
            if found.deleting() {
                // Made again once it is gone.
                return Ok(None);
            }
            return Ok(self.watch_over(&found, wanted));
        }
        if let Some(others) = self.exclusive_elsewhere(node, wanted) {
            let blocked = {
                let mut memory = self.memory.lock();
                memory.blocked.entry(wanted.unique()).or_default().insert(node.to_owned())
            };
            if blocked {
                self.tell_multi_attach(wanted, &others);
            }
            return Ok(Some(Duration::from_secs(60)));
        }
        let attachment = VolumeAttachment {
            metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
            spec: VolumeAttachmentSpec {
                attacher: wanted.driver.clone(),
                node_name: node.to_owned(),
                source: VolumeAttachmentSource {
                    persistent_volume_name: Some(wanted.name().to_owned()),
                    inline_volume_spec: None,
                },
            },
            status: None,
        };
        let api: Api<VolumeAttachment> = Api::all(self.ctx.client.clone());
        match api.create(&PostParams::default(), &attachment).await {
            Err(error) if !errors::already_exists(&error) => {
                self.tell_failure(wanted, &errors::text(&error));
                return Err(error.into());
            }
            _ => {}
        }
        self.memory.lock().pending.insert(name.to_owned(), Instant::now());
        Ok(Some(ATTACHER_PATIENCE))
    }

    /// Tells of an attachment that does not come about.
    fn watch_over(&self, attachment: &VolumeAttachment, wanted: &Wanted) -> Requeue {
        let name = attachment.name();
        let status = attachment.status.as_ref();
        let mut memory = self.memory.lock();
        if status.is_some_and(|s| s.attached) {
            memory.pending.remove(name);
            memory.told.remove(name);
            return None;
        }
        let since = *memory.pending.entry(name.to_owned()).or_insert_with(Instant::now);
        let error = status.and_then(|s| s.attach_error.as_ref()).and_then(|e| e.message.clone());
        let late = since.elapsed() >= ATTACHER_PATIENCE;
        let text = match error {
            Some(text) => Some(text),
            None if late => Some(format!(
                "timed out waiting for external-attacher of {} CSI driver to attach volume {}",
                wanted.driver, wanted.handle
            )),
            None => None,
        };
        let fresh = text.filter(|text| late || memory.told.get(name) != Some(text));
        if let Some(text) = fresh {
            memory.told.insert(name.to_owned(), text.clone());
            memory.pending.insert(name.to_owned(), Instant::now());
            drop(memory);
            self.tell_failure(wanted, &text);
        }
        Some(ATTACHER_PATIENCE)
    }

    fn tell_failure(&self, wanted: &Wanted, text: &str) {
        let message = format!("AttachVolume.Attach failed for volume {:?} : {text}", wanted.name());
        for pod in &wanted.pods {
            self.events.warning(&**pod, "FailedAttachVolume", &message);
        }
    }

    async fn detach_unwanted(
        &self,
        name: &str,
        node: Option<&Node>,
        wanted: &BTreeMap<String, Wanted>,
    ) -> anyhow::Result<Requeue> {
        let api: Api<VolumeAttachment> = Api::all(self.ctx.client.clone());
        let mut again = None;
        for attachment in self.attachments.by("node", name) {
            let key = attachment.name();
            if !key.starts_with("csi-") || attachment.deleting() || wanted.contains_key(key) {
                continue;
            }
            let since = *self.memory.lock().unwanted.entry(key.to_owned()).or_insert_with(Instant::now);
            if let Some(node) = node
                && let Some(unique) = self.unique_of(&attachment)
            {
                if in_use(node, &unique) && !self.may_force(node, since) {
                    // The node's status says when it has been unmounted; a node that is gone for long never will.
                    let left = FORCE_AFTER.saturating_sub(since.elapsed()).max(Duration::from_secs(1));
                    again = sooner(again, Some(left));
                    continue;
                }
                // The kubelet must not mount it again from here on.
                if !self.unreport(node, &unique).await? {
                    again = sooner(again, Some(Duration::from_secs(1)));
                    continue;
                }
            }
            errors::optional(api.delete(key, &DeleteParams::default()).await)?;
            let mut memory = self.memory.lock();
            memory.unwanted.remove(key);
            memory.pending.remove(key);
            memory.told.remove(key);
        }
        Ok(again)
    }

    /// Whether a volume is taken away from a node that still has it mounted.
    fn may_force(&self, node: &Node, since: Instant) -> bool {
        let taints = node.spec.iter().flat_map(|s| s.taints.iter().flatten());
        if taints.into_iter().any(|t| t.key == "node.kubernetes.io/out-of-service") {
            return true;
        }
        let conditions = node.status.iter().flat_map(|s| s.conditions.iter().flatten());
        let ready = conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True");
        !ready && !self.ctx.settings.no_force_detach && since.elapsed() >= FORCE_AFTER
    }

    fn unique_of(&self, attachment: &VolumeAttachment) -> Option<String> {
        let name = attachment.spec.source.persistent_volume_name.as_ref()?;
        let volume = self.volumes.get(&Key::cluster(name))?;
        let csi = volume.spec.as_ref()?.csi.as_ref()?;
        Some(unique_name(&csi.driver, &csi.volume_handle))
    }

    /// Takes a volume out of what the node's status calls attached. `false` if the node has taken it into use again.
    async fn unreport(&self, node: &Node, unique: &str) -> anyhow::Result<bool> {
        let listed = |n: &Node| attached(n).iter().any(|v| v.name == unique);
        if !listed(node) {
            return Ok(true);
        }
        let left: Vec<AttachedVolume> = attached(node).into_iter().filter(|v| v.name != unique).collect();
        let Some(now) = self.patch(node.name(), &left).await? else { return Ok(true) };
        let taken = in_use(&now, unique);
        Ok(!taken || in_use(node, unique))
    }

    async fn patch(&self, name: &str, volumes: &[AttachedVolume]) -> anyhow::Result<Option<Node>> {
        let api: Api<Node> = Api::all(self.ctx.client.clone());
        let patch = json!({"status": {"volumesAttached": volumes}});
        Ok(errors::optional(api.patch_status(name, &PatchParams::default(), &Patch::Merge(patch)).await)?)
    }

    /// Tells kubelet and people what is attached.
    async fn report(&self, node: &Node, wanted: &BTreeMap<String, Wanted>) -> anyhow::Result<()> {
        let is_attached = |a: &&Arc<VolumeAttachment>| {
            let unwanted = self.memory.lock().unwanted.contains_key(a.name());
            a.status.as_ref().is_some_and(|s| s.attached) && !a.deleting() && !unwanted
        };
        let name = node.name();
        let mut volumes: Vec<AttachedVolume> = self
            .attachments
            .by("node", name)
            .iter()
            .filter(is_attached)
            .filter_map(|a| Some(AttachedVolume { name: self.unique_of(a)?, device_path: String::new() }))
            .collect();
        volumes.sort_by(|a, b| a.name.cmp(&b.name));
        let mut old = attached(node);
        old.sort_by(|a, b| a.name.cmp(&b.name));
        if volumes == old {
            return Ok(());
        }
        for volume in wanted.values() {
            let unique = volume.unique();
            let is_new = volumes.iter().any(|v| v.name == unique) && !old.iter().any(|v| v.name == unique);
            let text = format!("AttachVolume.Attach succeeded for volume {:?} ", volume.name());
            for pod in volume.pods.iter().filter(|_| is_new) {
                self.events.normal(&**pod, "SuccessfulAttachVolume", &text);
            }
        }
        self.patch(name, &volumes).await.map(drop)
    }
}

fn attached(node: &Node) -> Vec<AttachedVolume> {
    node.status.as_ref().and_then(|s| s.volumes_attached.clone()).unwrap_or_default()
}

fn in_use(node: &Node, unique: &str) -> bool {
    node.status.iter().flat_map(|s| s.volumes_in_use.iter().flatten()).any(|v| v == unique)
}

fn sooner(a: Requeue, b: Requeue) -> Requeue {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
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

    #[test]
    fn the_sooner_of_two() {
        let s = |n| Some(Duration::from_secs(n));
        assert_eq!(sooner(s(3), s(2)), s(2));
        assert_eq!(sooner(None, s(2)), s(2));
        assert_eq!(sooner(None, None), None);
    }
}
