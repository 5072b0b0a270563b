//! Which volume suits a claim. Pure functions.

use std::sync::Arc;

use api::quantity::Quantity;
use controller_kit::meta::{Labels, MetaExt};
use k8s_openapi::api::core::v1::{ObjectReference, PersistentVolume, PersistentVolumeClaim};

const BETA_CLASS: &str = "volume.beta.kubernetes.io/storage-class";

/// The claim's storage class; `Some("")` asks for none at all.
pub(crate) fn claim_class(claim: &PersistentVolumeClaim) -> Option<&str> {
    let spec = claim.spec.as_ref().and_then(|s| s.storage_class_name.as_deref());
    claim.annotation(BETA_CLASS).or(spec)
}

/// The volume's storage class.
pub(crate) fn volume_class(volume: &PersistentVolume) -> &str {
    let spec = volume.spec.as_ref().and_then(|s| s.storage_class_name.as_deref());
    volume.annotation(BETA_CLASS).or(spec).unwrap_or_default()
}

fn storage(
    quantities: Option<
        &std::collections::BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>,
    >,
) -> Quantity {
    let text = quantities.and_then(|q| q.get("storage"));
    text.and_then(|q| Quantity::parse(&q.0).ok()).unwrap_or(Quantity::ZERO)
}

/// What the claim asks for.
pub(crate) fn requested(claim: &PersistentVolumeClaim) -> Quantity {
    storage(claim.spec.as_ref().and_then(|s| s.resources.as_ref()).and_then(|r| r.requests.as_ref()))
}

pub(super) fn capacity(volume: &PersistentVolume) -> Quantity {
    storage(volume.spec.as_ref().and_then(|s| s.capacity.as_ref()))
}

/// Whether the volume is bound to, or meant for, this claim.
pub(super) fn refers_to(reference: &ObjectReference, claim: &PersistentVolumeClaim) -> bool {
    let same = reference.namespace.as_deref().unwrap_or_default() == claim.ns()
        && reference.name.as_deref() == Some(claim.name());
    same && reference.uid.as_deref().is_none_or(|uid| uid.is_empty() || uid == claim.uid())
}

fn phase(volume: &PersistentVolume) -> &str {
    volume.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or_default()
}

fn suits(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let (Some(have), Some(want)) = (&volume.spec, &claim.spec) else { return false };
    let modes = have.access_modes.as_deref().unwrap_or_default();
    let mode = |m: &Option<String>| m.clone().unwrap_or_else(|| "Filesystem".into());
    !volume.deleting()
        && want.access_modes.iter().flatten().all(|m| modes.contains(m))
        && mode(&have.volume_mode) == mode(&want.volume_mode)
        && capacity(volume) >= requested(claim)
        && have.volume_attributes_class_name.as_deref().unwrap_or_default()
            == want.volume_attributes_class_name.as_deref().unwrap_or_default()
}

/// The volume for a claim: one that was made for it, else the smallest free one that suits.
pub(super) fn best(
    claim: &PersistentVolumeClaim,
    volumes: &[Arc<PersistentVolume>],
) -> Option<Arc<PersistentVolume>> {
    let reference = |v: &PersistentVolume| v.spec.as_ref().and_then(|s| s.claim_ref.clone());
    let meant =
        volumes.iter().find(|v| reference(v).is_some_and(|r| refers_to(&r, claim)) && suits(v, claim));
    if let Some(volume) = meant {
        return Some(volume.clone());
    }
    let selector = claim.spec.as_ref().and_then(|s| s.selector.as_ref()).map(Labels::new);
    let free = |v: &&Arc<PersistentVolume>| {
        reference(v).is_none()
            && phase(v) == "Available"
            && volume_class(v) == claim_class(claim).unwrap_or_default()
            && selector.as_ref().is_none_or(|s| s.matches(v.metadata.labels.as_ref()))
            && suits(v, claim)
    };
    volumes
        .iter()
        .filter(free)
        .min_by(|a, b| {
            capacity(a)
                .partial_cmp(&capacity(b))
                .unwrap_or(std::cmp::Ordering::Equal)
                .then_with(|| a.name().cmp(b.name()))
        })
        .cloned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn volume(name: &str, size: &str, extra: serde_json::Value) -> Arc<PersistentVolume> {
        let mut spec = json!({"capacity": {"storage": size}, "accessModes": ["ReadWriteOnce"]});
        spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        Arc::new(
            serde_json::from_value(
                json!({"metadata": {"name": name}, "spec": spec, "status": {"phase": "Available"}}),
            )
            .unwrap(),
        )
    }

    #[test]
    fn the_smallest_that_suits_or_the_one_meant_for_it() {
        let claim = |extra: serde_json::Value| -> PersistentVolumeClaim {
            let mut spec =
                json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "5Gi"}}});
            spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            serde_json::from_value(
                json!({"metadata": {"name": "c", "namespace": "n", "uid": "u"}, "spec": spec}),
            )
            .unwrap()
        };
        let name =
            |c: &PersistentVolumeClaim, v: &[Arc<PersistentVolume>]| best(c, v).map(|v| v.name().to_owned());
        let volumes = vec![
            volume("small", "1Gi", json!({})),
            volume("big", "50Gi", json!({})),
            volume("fit", "10Gi", json!({})),
            volume("classy", "5Gi", json!({"storageClassName": "fast"})),
            volume("block", "5Gi", json!({"volumeMode": "Block"})),
        ];
        assert_eq!(name(&claim(json!({})), &volumes).as_deref(), Some("fit"));
        assert_eq!(name(&claim(json!({"storageClassName": "fast"})), &volumes).as_deref(), Some("classy"));
        assert_eq!(name(&claim(json!({"volumeMode": "Block"})), &volumes).as_deref(), Some("block"));
        assert_eq!(name(&claim(json!({"accessModes": ["ReadWriteMany"]})), &volumes), None);
        let mut meant = volumes.clone();
        meant.push(volume("mine", "90Gi", json!({"claimRef": {"namespace": "n", "name": "c"}})));
        meant.push(volume("others", "5Gi", json!({"claimRef": {"namespace": "n", "name": "d"}})));
        assert_eq!(name(&claim(json!({})), &meant).as_deref(), Some("mine"));
    }
}
