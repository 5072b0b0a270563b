//! Which changes make which nodes be looked at.

use std::sync::Arc;

use controller_kit::meta::MetaExt;
use controller_kit::{Key, Queue, pod};
use k8s_openapi::api::core::v1::{Node, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::VolumeAttachment;

use super::{Controller, MANAGED};
use crate::protection::{claims, uses};

/// Looks at nodes when something about their volumes changes.
pub(super) fn install(c: &Arc<Controller>, queue: &Queue) {
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
    let (q, weak) = (queue.clone(), Arc::downgrade(c));
    c.attachments.watch(move |change| {
        q.add(Key::cluster(&change.object().spec.node_name));
        if let Some(c) = weak.upgrade().filter(|_| change.deleted()) {
            unblock(&c, change.object(), &q);
        }
    });
    let q = queue.clone();
    c.nodes.watch(move |change| {
        if change.deleted() || change.old().is_none_or(|old| facts(old) != facts(change.object())) {
            q.add(change.object().key());
        }
    });
    // A claim may be seen bound only after the pod that uses it is seen on its node.
    let (q, weak) = (queue.clone(), Arc::downgrade(c));
    c.claims.watch(move |change| {
        let volume = |claim: &PersistentVolumeClaim| claim.spec.as_ref().and_then(|s| s.volume_name.clone());
        let claim = change.object();
        if change.old().is_some_and(|old| volume(old) == volume(claim)) {
            return;
        }
        if let Some(c) = weak.upgrade() {
            wake_users(&c, claim.ns(), claim.name(), &q);
        }
    });
    let (q, weak) = (queue.clone(), Arc::downgrade(c));
    c.volumes.watch(move |change| {
        let claim = change.object().spec.as_ref().and_then(|s| s.claim_ref.as_ref());
        let (Some(claim), Some(c), None) = (claim, weak.upgrade(), change.old()) else { return };
        let name = claim.name.as_deref().unwrap_or_default();
        wake_users(&c, claim.namespace.as_deref().unwrap_or_default(), name, &q);
    });
}

/// What of a node matters here.
fn facts(node: &Node) -> (Option<Vec<String>>, bool, bool, bool) {
    let status = node.status.as_ref();
    let managed = node.metadata.annotations.as_ref().is_some_and(|a| a.contains_key(MANAGED));
    let taints = node.spec.iter().flat_map(|s| s.taints.iter().flatten());
    let out = taints.into_iter().any(|t| t.key == "node.kubernetes.io/out-of-service");
    let conditions = status.iter().flat_map(|s| s.conditions.iter().flatten());
    let ready = conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True");
    (status.and_then(|s| s.volumes_in_use.clone()), managed, out, ready)
}

fn wake_users(c: &Controller, namespace: &str, claim: &str, queue: &Queue) {
    for pod in c.pods.namespace(namespace).iter().filter(|p| !pod::node(p).is_empty() && uses(p, claim)) {
        queue.add(Key::cluster(pod::node(pod)));
    }
}

/// Nodes that waited for this attachment to end may have the volume now.
fn unblock(c: &Controller, attachment: &VolumeAttachment, queue: &Queue) {
    let Some(unique) = c.unique_of(attachment) else { return };
    let nodes = c.memory.lock().blocked.remove(&unique);
    for node in nodes.into_iter().flatten() {
        queue.add(Key::cluster(node));
    }
}
