//! What people and the runtime are told of the node as it changes.

use k8s_openapi::api::core::v1::NodeStatus;

use crate::kubelet::Kubelet;

/// What events have told of the node already.
#[derive(Default)]
pub struct Told {
    /// Whether the node was ready at its last report.
    pub ready: Option<bool>,
    unschedulable: bool,
    rebooted: bool,
    pod_cidr: String,
}

impl Told {
    /// Tells the runtime which addresses are the node's to give to pods, once they are known.
    pub async fn pod_cidr(&mut self, kubelet: &Kubelet) {
        let node = kubelet.node.load_full();
        let spec = node.as_ref().and_then(|n| n.spec.as_ref());
        let list = spec.and_then(|s| s.pod_cidrs.clone()).filter(|list| !list.is_empty());
        let list = list.or_else(|| Some(vec![spec?.pod_cidr.clone()?]));
        let Some(wanted) = list.map(|list| list.join(",")).filter(|w| *w != self.pod_cidr) else { return };
        match kubelet.runtime.update_runtime_config(&wanted).await {
            Ok(()) => self.pod_cidr = wanted,
            Err(error) => tracing::error!(%error, pod_cidr = wanted, "Pod CIDR update failed"),
        }
    }

    /// Whether the node takes pods, and whether it has been started anew since its last report.
    pub fn changes(&mut self, kubelet: &Kubelet, old: &NodeStatus, new: &NodeStatus) {
        let node = kubelet.node.load();
        let unschedulable = node.as_ref().and_then(|n| n.spec.as_ref()?.unschedulable).unwrap_or_default();
        if std::mem::replace(&mut self.unschedulable, unschedulable) != unschedulable {
            let reason = if unschedulable { "NodeNotSchedulable" } else { "NodeSchedulable" };
            let message = format!("Node {} status is now: {reason}", kubelet.node_name);
            kubelet.events.node("Normal", reason, &message);
        }
        let boot = |s: &NodeStatus| s.node_info.as_ref().map(|i| i.boot_id.clone()).unwrap_or_default();
        let (before, now) = (boot(old), boot(new));
        if !self.rebooted && !before.is_empty() && before != now {
            self.rebooted = true;
            let message = format!("Node {} has been rebooted, boot id: {now}", kubelet.node_name);
            kubelet.events.node("Warning", "Rebooted", &message);
        }
    }
}

/// Events about conditions that changed, and about all of them when the node is new.
pub fn tell_of_conditions(kubelet: &Kubelet, old: &NodeStatus, new: &NodeStatus) {
    for condition in new.conditions.iter().flatten().filter(|c| c.type_ != "Ready") {
        let before = old.conditions.iter().flatten().find(|c| c.type_ == condition.type_);
        if before.is_some_and(|b| b.status == condition.status) {
            continue;
        }
        // `KubeletHasSufficientMemory` of the condition is `NodeHasSufficientMemory` of the event.
        let reason = condition.reason.as_deref().unwrap_or_default().replacen("Kubelet", "Node", 1);
        let message = format!("Node {} status is now: {reason}", kubelet.node_name);
        kubelet.events.node("Normal", &reason, &message);
    }
}
