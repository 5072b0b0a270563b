//! Volumes that only one node may have at a time.

use std::sync::Arc;

use controller_kit::meta::MetaExt;
use k8s_openapi::api::core::v1::{PersistentVolume, Pod};

use super::{Controller, Wanted};

/// Whether several nodes may have a volume at once. Of a volume that does not say, its driver decides.
fn is_shared(volume: &PersistentVolume) -> bool {
    let modes = volume.spec.as_ref().and_then(|s| s.access_modes.as_deref()).unwrap_or_default();
    modes.is_empty() || modes.iter().any(|m| m == "ReadWriteMany" || m == "ReadOnlyMany")
}

impl Controller {
    /// The other nodes that have a volume which only one may have.
    pub(super) fn exclusive_elsewhere(&self, node: &str, wanted: &Wanted) -> Option<Vec<String>> {
        if is_shared(&wanted.volume) {
            return None;
        }
        let unique = wanted.unique();
        let others: Vec<String> = self
            .attachments
            .list()
            .iter()
            .filter(|a| a.spec.node_name != node && self.unique_of(a).as_ref() == Some(&unique))
            .map(|a| a.spec.node_name.clone())
            .collect();
        (!others.is_empty()).then_some(others)
    }

    /// Says who has the volume; names of pods only to those who may see them.
    pub(super) fn tell_multi_attach(&self, wanted: &Wanted, others: &[String]) {
        let unique = wanted.unique();
        let holders: Vec<Arc<Pod>> = others
            .iter()
            .flat_map(|node| self.wanted(node).into_values())
            .filter(|w| w.unique() == unique)
            .flat_map(|w| w.pods)
            .collect();
        for pod in &wanted.pods {
            let why = reason(pod, &holders);
            let message = format!("Multi-Attach error for volume {:?} {why}", wanted.name());
            self.events.warning(&**pod, "FailedAttachVolume", &message);
        }
    }
}

fn reason(pod: &Pod, holders: &[Arc<Pod>]) -> String {
    if holders.is_empty() {
        return "Volume is already exclusively attached to one node and can't be attached to another".into();
    }
    let near: Vec<&str> = holders.iter().filter(|h| h.ns() == pod.ns()).map(|h| h.name()).collect();
    let far = holders.len() - near.len();
    match (near.is_empty(), far) {
        (false, 0) => format!("Volume is already used by pod(s) {}", near.join(", ")),
        (false, far) => {
            let near = near.join(", ");
            format!("Volume is already used by pod(s) {near} and {far} pod(s) in different namespaces")
        }
        (true, far) => format!("Volume is already used by {far} pod(s) in different namespaces"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons() {
        let pod = |namespace: &str, name: &str| -> Arc<Pod> {
            let value = serde_json::json!({"metadata": {"namespace": namespace, "name": name}});
            Arc::new(serde_json::from_value(value).unwrap())
        };
        let own = pod("a", "p");
        for (holders, expected) in [
            (vec![], "Volume is already exclusively attached to one node and can't be attached to another"),
            (vec![pod("a", "q"), pod("a", "r")], "Volume is already used by pod(s) q, r"),
            (
                vec![pod("a", "q"), pod("b", "r")],
                "Volume is already used by pod(s) q and 1 pod(s) in different namespaces",
            ),
            (vec![pod("b", "q")], "Volume is already used by 1 pod(s) in different namespaces"),
        ] {
            assert_eq!(reason(&own, &holders), expected);
        }
    }

    #[test]
    fn sharing() {
        let volume = |modes: &[&str]| -> PersistentVolume {
            serde_json::from_value(serde_json::json!({"metadata": {}, "spec": {"accessModes": modes}}))
                .unwrap()
        };
        assert!(is_shared(&volume(&[])) && is_shared(&volume(&["ReadWriteOnce", "ReadOnlyMany"])));
        assert!(!is_shared(&volume(&["ReadWriteOnce"])) && !is_shared(&volume(&["ReadWriteOncePod"])));
    }
}
