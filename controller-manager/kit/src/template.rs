//! A pod as a controller makes it from a template.

use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

/// A pod from `template`, controlled by `owner`. Its name is generated from `<owner name>-`.
pub fn pod(template: &PodTemplateSpec, namespace: &str, owner: OwnerReference) -> Pod {
    let meta = template.metadata.clone().unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            namespace: Some(namespace.to_owned()),
            generate_name: Some(prefix(&owner.name)),
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

/// The `generateName` of an owner's pods: its name and a dash, or the name alone where the dash would make
/// it longer than a pod name may be.
pub fn prefix(owner: &str) -> String {
    if owner.len() + 1 > 253 {
        return owner.to_owned();
    }
    format!("{owner}-")
}
