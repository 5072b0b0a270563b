//! A stateful pod's identity: its name and ordinal, its labels, its claims. Pure functions.

use controller_kit::meta::{MetaExt, controller_ref};
use controller_kit::{revision, template};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, PodTemplateSpec, Volume,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

const NAME_LABEL: &str = "statefulset.kubernetes.io/pod-name";
const INDEX_LABEL: &str = "apps.kubernetes.io/pod-index";

pub(super) fn start_ordinal(set: &StatefulSet) -> i64 {
    let ordinals = set.spec.as_ref().and_then(|s| s.ordinals.as_ref());
    ordinals.and_then(|o| o.start).map_or(0, i64::from)
}

pub(super) fn end_ordinal(set: &StatefulSet) -> i64 {
    start_ordinal(set) + super::plan::replicas(set) - 1
}

/// The number at the end of a pod's name.
pub(super) fn ordinal(pod: &Pod) -> Option<i64> {
    let (_, digits) = pod.name().rsplit_once('-')?;
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse::<i32>().ok().map(i64::from)
}

/// Whether the pod's name says that it belongs to the set.
pub(super) fn member(set: &StatefulSet, pod: &Pod) -> bool {
    ordinal(pod).is_some() && pod.name().rsplit_once('-').is_some_and(|(parent, _)| parent == set.name())
}

pub(super) fn identity_matches(set: &StatefulSet, pod: &Pod) -> bool {
    member(set, pod) && pod.label(NAME_LABEL) == Some(pod.name())
}

fn templates(set: &StatefulSet) -> &[PersistentVolumeClaim] {
    set.spec.as_ref().and_then(|s| s.volume_claim_templates.as_deref()).unwrap_or_default()
}

pub(super) fn claim_name(set: &StatefulSet, template: &PersistentVolumeClaim, ordinal: i64) -> String {
    format!("{}-{}-{ordinal}", template.name(), set.name())
}

pub(super) fn storage_matches(set: &StatefulSet, pod: &Pod) -> bool {
    let Some(ordinal) = ordinal(pod) else { return false };
    let volumes = pod.spec.as_ref().and_then(|s| s.volumes.as_deref()).unwrap_or_default();
    templates(set).iter().all(|template| {
        let volume = volumes.iter().find(|v| v.name == template.name());
        let claim = volume.and_then(|v| v.persistent_volume_claim.as_ref());
        claim.is_some_and(|c| c.claim_name == claim_name(set, template, ordinal))
    })
}

/// The claims of an ordinal, as the templates have them.
pub(super) fn claims(set: &StatefulSet, ordinal: i64) -> Vec<PersistentVolumeClaim> {
    let selector = set.spec.as_ref().and_then(|s| s.selector.match_labels.clone()).unwrap_or_default();
    let make = |template: &PersistentVolumeClaim| {
        let mut claim = template.clone();
        claim.metadata.name = Some(claim_name(set, template, ordinal));
        claim.metadata.namespace = set.metadata.namespace.clone();
        claim.metadata.labels.get_or_insert_default().extend(selector.clone());
        claim.status = None;
        claim
    };
    templates(set).iter().map(make).collect()
}

/// Writes name, labels and claims into a pod.
pub(super) fn identify(set: &StatefulSet, pod: &mut Pod, ordinal: i64) {
    let name = format!("{}-{ordinal}", set.name());
    pod.metadata.namespace = set.metadata.namespace.clone();
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(NAME_LABEL.into(), name.clone());
    labels.insert(INDEX_LABEL.into(), ordinal.to_string());
    pod.metadata.name = Some(name);
    let spec = pod.spec.get_or_insert_default();
    let volumes = spec.volumes.take().unwrap_or_default();
    let mut all: Vec<Volume> = templates(set)
        .iter()
        .map(|template| Volume {
            name: template.name().to_owned(),
            persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                claim_name: claim_name(set, template, ordinal),
                read_only: None,
            }),
            ..Volume::default()
        })
        .collect();
    let claimed = |v: &Volume| templates(set).iter().any(|t| t.name() == v.name);
    all.extend(volumes.into_iter().filter(|v| !claimed(v)));
    spec.volumes = Some(all);
}

/// The pod of an ordinal, from a revision's template.
pub(super) fn new_pod(set: &StatefulSet, from: &PodTemplateSpec, ordinal: i64, revision_name: &str) -> Pod {
    let mut pod = template::pod(from, set.ns(), controller_ref(set));
    pod.metadata.generate_name = None;
    identify(set, &mut pod, ordinal);
    pod.metadata.labels.get_or_insert_default().insert(revision::HASH_LABEL.into(), revision_name.to_owned());
    let service = set.spec.as_ref().and_then(|s| s.service_name.clone());
    let name = pod.metadata.name.clone();
    let spec = pod.spec.get_or_insert_default();
    spec.hostname = name;
    spec.subdomain = service.filter(|s| !s.is_empty());
    pod
}

/// Who is to own a claim by the retention policy: the set, the pod, or neither.
pub(super) fn retention(set: &StatefulSet, pod: &Pod) -> (bool, bool) {
    let policy = set.spec.as_ref().and_then(|s| s.persistent_volume_claim_retention_policy.as_ref());
    let deletes = |value: Option<&String>| value.is_some_and(|v| v == "Delete");
    let when_deleted = deletes(policy.and_then(|p| p.when_deleted.as_ref()));
    let when_scaled = deletes(policy.and_then(|p| p.when_scaled.as_ref()));
    let condemned = ordinal(pod).is_none_or(|o| o < start_ordinal(set) || o > end_ordinal(set));
    match (when_scaled, when_deleted) {
        (false, deleted) => (deleted, false),
        (true, deleted) => (deleted && !condemned, condemned),
    }
}

/// The owner references a claim shall have; `None` when they are right as they are or belong to someone else.
pub(super) fn claim_owners(
    set: &StatefulSet,
    pod: &Pod,
    claim: &PersistentVolumeClaim,
) -> Option<Vec<OwnerReference>> {
    let old = claim.metadata.owner_references.clone().unwrap_or_default();
    let is_set = |o: &OwnerReference| o.kind == "StatefulSet" && o.name == set.name();
    let is_pod = |o: &OwnerReference| o.kind == "Pod" && o.name == pod.name();
    let stale = |o: &OwnerReference| (is_set(o) && o.uid != set.uid()) || (is_pod(o) && o.uid != pod.uid());
    let foreign = |o: &OwnerReference| o.controller == Some(true) && !is_set(o) && !is_pod(o);
    let (by_set, by_pod) = retention(set, pod);
    let none = !by_set && !by_pod && !old.iter().any(|o| is_set(o) || is_pod(o));
    if none || old.iter().any(stale) {
        return None;
    }
    let mut new: Vec<OwnerReference> = old.iter().filter(|o| !is_set(o) && !is_pod(o)).cloned().collect();
    if !old.iter().any(foreign) {
        if by_set {
            new.push(controller_ref(set));
        }
        if by_pod {
            new.push(controller_ref(pod));
        }
    }
    (new != old).then_some(new)
}

/// Whether a claim is left from an earlier pod of the name and goes away: the new pod has to wait for that.
pub(super) fn stale_claim(set: &StatefulSet, claim: &PersistentVolumeClaim, name: &str, uid: &str) -> bool {
    let policy = set.spec.as_ref().and_then(|s| s.persistent_volume_claim_retention_policy.as_ref());
    if policy.and_then(|p| p.when_scaled.as_deref()) != Some("Delete") {
        return false;
    }
    let owners = claim.metadata.owner_references.iter().flatten();
    owners.into_iter().any(|o| o.kind == "Pod" && o.name == name && o.uid != uid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn set(policy: serde_json::Value) -> StatefulSet {
        serde_json::from_value(
            json!({"metadata": {"name": "web", "namespace": "n", "uid": "su"}, "spec": {"replicas": 1,
            "serviceName": "svc", "selector": {"matchLabels": {"a": "b"}}, "template": {},
            "persistentVolumeClaimRetentionPolicy": policy,
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {}}]}}),
        )
        .unwrap()
    }

    #[test]
    fn a_pod_carries_its_identity() {
        let s = set(json!({}));
        let template =
            serde_json::from_value(json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": []}}))
                .unwrap();
        let pod = new_pod(&s, &template, 0, "web-abc");
        assert_eq!(pod.name(), "web-0");
        assert!(identity_matches(&s, &pod) && storage_matches(&s, &pod));
        assert_eq!(pod.spec.as_ref().and_then(|s| s.subdomain.as_deref()), Some("svc"));
        assert_eq!(pod.label(INDEX_LABEL), Some("0"));
        assert_eq!(claims(&s, 0)[0].name(), "data-web-0");
        assert_eq!(claims(&s, 0)[0].label("a"), Some("b"));
    }

    #[test]
    fn retention_policy_decides_the_owner() {
        let pod = |name: &str| -> Pod {
            serde_json::from_value(json!({"metadata": {"name": name, "uid": "pu"}})).unwrap()
        };
        for (policy, name, want) in [
            (json!({}), "web-0", (false, false)),
            (json!({"whenDeleted": "Delete", "whenScaled": "Retain"}), "web-5", (true, false)),
            (json!({"whenDeleted": "Retain", "whenScaled": "Delete"}), "web-5", (false, true)),
            (json!({"whenDeleted": "Delete", "whenScaled": "Delete"}), "web-0", (true, false)),
            (json!({"whenDeleted": "Delete", "whenScaled": "Delete"}), "web-5", (false, true)),
        ] {
            assert_eq!(retention(&set(policy.clone()), &pod(name)), want, "{policy} {name}");
        }
        let deleted = set(json!({"whenDeleted": "Delete"}));
        let owners = claim_owners(&deleted, &pod("web-0"), &PersistentVolumeClaim::default()).unwrap();
        assert_eq!(owners[0].uid, "su");
        assert!(claim_owners(&set(json!({})), &pod("web-0"), &PersistentVolumeClaim::default()).is_none());
    }
}
