//! Mirror pods: how a static pod shows at the apiserver.

use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{Api, DeleteParams, PostParams, Preconditions};

use crate::pod::{HASH_ANNOTATION, MIRROR_ANNOTATION, PodExt};

/// Whether the pod at the apiserver is missing or no picture of this static pod.
pub fn is_needed(pod: &Pod, mirror: Option<&Pod>) -> bool {
    match mirror {
        None => true,
        Some(mirror) => {
            mirror.is_deleting() || mirror.annotation(MIRROR_ANNOTATION) != pod.annotation(HASH_ANNOTATION)
        }
    }
}

/// Puts the picture of a static pod in the place of the old one.
pub async fn replace(client: &kube::Client, pod: &Pod, old: Option<&Pod>, node: &Node) -> kube::Result<()> {
    if let Some(old) = old {
        delete(client, old).await?;
    }
    let mut mirror = pod.clone();
    mirror.metadata.uid = None;
    mirror.metadata.resource_version = None;
    mirror.status = None;
    let hash = pod.annotation(HASH_ANNOTATION).unwrap_or_default().to_string();
    let annotations = mirror.metadata.annotations.get_or_insert_default();
    annotations.insert(MIRROR_ANNOTATION.into(), hash);
    // The node owns it, so that it goes with the node.
    mirror.metadata.owner_references = Some(vec![OwnerReference {
        api_version: "v1".into(),
        kind: "Node".into(),
        name: node.metadata.name.clone().unwrap_or_default(),
        uid: node.metadata.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: None,
    }]);
    let api: Api<Pod> = Api::namespaced(client.clone(), pod.namespace());
    match api.create(&PostParams::default(), &mirror).await {
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        other => other.map(drop),
    }
}

/// Deletes a mirror pod at once.
pub async fn delete(client: &kube::Client, mirror: &Pod) -> kube::Result<()> {
    let api: Api<Pod> = Api::namespaced(client.clone(), mirror.namespace());
    let params = DeleteParams {
        grace_period_seconds: Some(0),
        preconditions: Some(Preconditions { uid: Some(mirror.uid().into()), resource_version: None }),
        ..Default::default()
    };
    match api.delete(mirror.name(), &params).await {
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        other => other.map(drop),
    }
}
