//! The CSINode object of this node, and what drivers put on the Node itself.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use csi::v1::NodeGetInfoResponse;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::storage::v1::{CSINode, CSINodeDriver, CSINodeSpec, VolumeNodeResources};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use serde_json::json;

use crate::kubelet::Kubelet;

/// Names the volume kinds of old that CSI drivers have taken over.
const MIGRATED_ANNOTATION: &str = "storage.alpha.kubernetes.io/migrated-plugins";
const MIGRATED: &str = "kubernetes.io/aws-ebs,kubernetes.io/azure-disk,kubernetes.io/azure-file,kubernetes.io/cinder,kubernetes.io/gce-pd,kubernetes.io/portworx-volume,kubernetes.io/vsphere-volume";

/// What each driver calls this node.
const NODE_ID_ANNOTATION: &str = "csi.volume.kubernetes.io/nodeid";

/// How often an update is tried.
const TRIES: u32 = 6;

/// Sees to it that the object is there and this node's own; tries until it is.
pub async fn initialize(kubelet: &Arc<Kubelet>) {
    if kubelet.client.is_none() {
        return;
    }
    let mut delay = Duration::from_millis(200);
    while let Err(error) = own(kubelet).await {
        tracing::debug!(error, "CSINode is not yet initialized");
        tokio::time::sleep(delay).await;
        delay = (delay * 2).min(Duration::from_secs(7));
    }
}

fn api<K: kube::Resource<Scope = kube::core::ClusterResourceScope, DynamicType = ()>>(
    kubelet: &Kubelet,
) -> Result<Api<K>, String> {
    kubelet.client.clone().map(Api::all).ok_or_else(|| "error getting kube client".into())
}

/// The object of this node; made if it is not there, made anew if it was another node's of the same name.
async fn own(kubelet: &Kubelet) -> Result<CSINode, String> {
    let nodes: Api<Node> = api(kubelet)?;
    let all: Api<CSINode> = api(kubelet)?;
    let name = &kubelet.node_name;
    let node_uid = match kubelet.node.load_full().and_then(|n| n.metadata.uid.clone()) {
        Some(uid) => uid,
        None => nodes.get(name).await.map_err(|e| e.to_string())?.metadata.uid.unwrap_or_default(),
    };
    if let Some(found) = all.get_opt(name).await.map_err(|e| e.to_string())? {
        let owners = found.metadata.owner_references.iter().flatten();
        if owners.clone().any(|o| o.kind == "Node" && o.name == *name && o.uid == node_uid) {
            return migrated(&all, found).await;
        }
        all.delete(name, &DeleteParams::default()).await.map_err(|e| e.to_string())?;
        return Err(format!("CSINode {name:?} was owned by a different node, deleted it"));
    }
    let object = CSINode {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            annotations: Some(BTreeMap::from([(MIGRATED_ANNOTATION.into(), MIGRATED.into())])),
            owner_references: Some(vec![OwnerReference {
                api_version: "v1".into(),
                kind: "Node".into(),
                name: name.clone(),
                uid: node_uid,
                ..Default::default()
            }]),
            ..Default::default()
        },
        spec: CSINodeSpec { drivers: Vec::new() },
    };
    all.create(&PostParams::default(), &object).await.map_err(|e| e.to_string())
}

async fn migrated(all: &Api<CSINode>, object: CSINode) -> Result<CSINode, String> {
    let has = object.metadata.annotations.as_ref().and_then(|a| a.get(MIGRATED_ANNOTATION));
    if has.map(String::as_str) == Some(MIGRATED) {
        return Ok(object);
    }
    let body = json!({"metadata": {"annotations": {MIGRATED_ANNOTATION: MIGRATED}}});
    let name = object.metadata.name.clone().unwrap_or_default();
    all.patch(&name, &PatchParams::default(), &Patch::Merge(body)).await.map_err(|e| e.to_string())
}

/// Enters a driver, or what has changed about it.
pub async fn install(kubelet: &Kubelet, driver: &str, info: &NodeGetInfoResponse) -> Result<(), String> {
    if info.node_id.is_empty() {
        return Err("error adding CSI driver node info: driverNodeID must not be empty".into());
    }
    let segments = info.accessible_topology.as_ref().map(|t| t.segments.clone()).unwrap_or_default();
    let topology: BTreeMap<String, String> = segments.into_iter().collect();
    retry(|| note_on_node(kubelet, driver, Some((&info.node_id, &topology))))
        .await
        .map_err(|e| format!("error updating Node object with CSI driver node info: {e}"))?;
    let entry = CSINodeDriver {
        name: driver.to_string(),
        node_id: info.node_id.clone(),
        topology_keys: Some(topology.keys().cloned().collect()).filter(|k: &Vec<_>| !k.is_empty()),
        allocatable: i32::try_from(info.max_volumes_per_node)
            .ok()
            .filter(|most| *most > 0)
            .map(|most| VolumeNodeResources { count: Some(most) }),
    };
    retry(|| put(kubelet, driver, Some(&entry)))
        .await
        .map_err(|e| format!("error updating CSINode object with CSI driver node info: {e}"))
}

/// Takes a driver out.
pub async fn uninstall(kubelet: &Kubelet, driver: &str) -> Result<(), String> {
    retry(|| put(kubelet, driver, None))
        .await
        .map_err(|e| format!("error uninstalling CSI driver from CSINode object {e}"))?;
    retry(|| note_on_node(kubelet, driver, None))
        .await
        .map_err(|e| format!("error removing CSI driver node info from Node object {e}"))
}

async fn retry<F: Future<Output = Result<(), String>>>(work: impl Fn() -> F) -> Result<(), String> {
    let mut delay = Duration::from_millis(20);
    let mut last = String::new();
    for _ in 0..TRIES {
        match work().await {
            Ok(()) => return Ok(()),
            Err(error) => last = error,
        }
        tokio::time::sleep(delay).await;
        delay *= 4;
    }
    Err(last)
}

async fn put(kubelet: &Kubelet, driver: &str, entry: Option<&CSINodeDriver>) -> Result<(), String> {
    let mut object = own(kubelet).await?;
    if !change(&mut object.spec.drivers, driver, entry) {
        return Ok(());
    }
    let all: Api<CSINode> = api(kubelet)?;
    all.replace(&kubelet.node_name, &PostParams::default(), &object)
        .await
        .map(drop)
        .map_err(|e| e.to_string())
}

/// Returns whether the list of drivers had to be changed.
fn change(drivers: &mut Vec<CSINodeDriver>, name: &str, entry: Option<&CSINodeDriver>) -> bool {
    let keys = |d: &CSINodeDriver| d.topology_keys.iter().flatten().cloned().collect::<BTreeSet<_>>();
    let count = |d: &CSINodeDriver| d.allocatable.as_ref().and_then(|a| a.count);
    let old = drivers.iter().find(|d| d.name == name);
    let same = match (old, entry) {
        (None, None) => true,
        (Some(old), Some(new)) => {
            old.node_id == new.node_id && keys(old) == keys(new) && count(old) == count(new)
        }
        _ => false,
    };
    if !same {
        drivers.retain(|d| d.name != name);
        drivers.extend(entry.cloned());
    }
    !same
}

/// Notes on the Node what the driver calls it and where it is; `None` when the driver is gone (labels stay).
async fn note_on_node(
    kubelet: &Kubelet,
    driver: &str,
    told: Option<(&str, &BTreeMap<String, String>)>,
) -> Result<(), String> {
    let nodes: Api<Node> = api(kubelet)?;
    let node = nodes.get(&kubelet.node_name).await.map_err(|e| e.to_string())?;
    let none = BTreeMap::new();
    let labels = node.metadata.labels.as_ref().unwrap_or(&none);
    let text = node.metadata.annotations.as_ref().and_then(|a| a.get(NODE_ID_ANNOTATION));
    let mut ids: BTreeMap<String, String> = match text {
        Some(text) => serde_json::from_str(text).map_err(|e| {
            format!("failed to parse node's {NODE_ID_ANNOTATION:?} annotation value ({text:?}) err={e}")
        })?,
        None => BTreeMap::new(),
    };
    let before = ids.clone();
    let mut wanted = BTreeMap::new();
    match told {
        Some((id, topology)) => {
            for (key, value) in topology {
                match labels.get(key) {
                    Some(have) if have != value => {
                        return Err(format!(
                            "detected topology value collision: driver reported {key:?}:{value:?} but existing label is {key:?}:{have:?}"
                        ));
                    }
                    Some(_) => {}
                    None => drop(wanted.insert(key, value)),
                }
            }
            ids.insert(driver.to_string(), id.to_string());
        }
        None => drop(ids.remove(driver)),
    }
    if ids == before && wanted.is_empty() {
        return Ok(());
    }
    let value = if ids.is_empty() { json!(null) } else { json!(json!(ids).to_string()) };
    // The version makes two drivers that register at once see each other.
    let body = json!({"metadata": {
        "annotations": {NODE_ID_ANNOTATION: value},
        "labels": wanted,
        "resourceVersion": node.metadata.resource_version,
    }});
    nodes
        .patch(&kubelet.node_name, &PatchParams::default(), &Patch::Merge(body))
        .await
        .map(drop)
        .map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_changes_are_written() {
        let driver = |name: &str, id: &str, count: Option<i32>| CSINodeDriver {
            name: name.into(),
            node_id: id.into(),
            topology_keys: Some(vec!["z".into()]),
            allocatable: count.map(|c| VolumeNodeResources { count: Some(c) }),
        };
        let mut all = vec![driver("a", "1", None)];
        assert!(!change(&mut all, "a", Some(&driver("a", "1", None))));
        assert!(change(&mut all, "a", Some(&driver("a", "1", Some(5)))));
        assert!(change(&mut all, "b", Some(&driver("b", "2", None))));
        assert_eq!(all.len(), 2);
        assert!(change(&mut all, "a", None));
        assert!(!change(&mut all, "a", None));
    }
}
