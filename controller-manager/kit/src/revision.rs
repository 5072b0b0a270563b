//! The history of a workload's template, kept in ControllerRevisions.
//!
//! The bytes of a revision's data and the hash in its name are the same as upstream's for the same template,
//! so that changing from one implementation to the other rolls nothing out.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use kube::{Api, Client};
use serde_json::{Value, json};

use crate::claim::Claimable;
use crate::errors;
use crate::hash;
use crate::meta::MetaExt;

/// The label that names a pod's revision.
pub const HASH_LABEL: &str = "controller-revision-hash";

/// The data of a revision: a patch that puts the template in place of another.
pub fn data(template: &PodTemplateSpec) -> Value {
    let mut template = serde_json::to_value(template).unwrap_or(Value::Null);
    if let Some(map) = template.as_object_mut() {
        map.insert("$patch".into(), "replace".into());
        map.entry("metadata").or_insert_with(|| json!({}));
    }
    json!({"spec": {"template": template}})
}

/// The template in a revision's data.
pub fn template(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    let mut template = revision.data.as_ref()?.0.pointer("/spec/template")?.clone();
    template.as_object_mut()?.remove("$patch");
    serde_json::from_value(template).ok()
}

/// The hash in a revision's name and label.
pub fn hash(data: &Value, collisions: Option<i32>) -> String {
    let mut h = hash::fnv32(hash::OFFSET, hash::sorted_json(data).as_bytes());
    if let Some(count) = collisions {
        h = hash::fnv32(h, count.to_string().as_bytes());
    }
    hash::safe_encode(&h.to_string())
}

/// `<owner>-<hash>`, within the length a name may have.
pub fn name(owner: &str, hash: &str) -> String {
    let mut end = owner.len().min(223);
    while !owner.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}-{hash}", &owner[..end])
}

/// A revision not yet stored.
pub struct New<'a> {
    pub namespace: &'a str,
    pub owner: OwnerReference,
    pub labels: BTreeMap<String, String>,
    pub data: Value,
    pub revision: i64,
}

impl New<'_> {
    /// The object under the name that `collisions` leads to.
    pub fn build(&self, collisions: Option<i32>) -> ControllerRevision {
        let hash = hash(&self.data, collisions);
        let mut labels = self.labels.clone();
        labels.insert(HASH_LABEL.into(), hash.clone());
        ControllerRevision {
            metadata: ObjectMeta {
                name: Some(name(&self.owner.name, &hash)),
                namespace: Some(self.namespace.to_owned()),
                labels: Some(labels),
                owner_references: Some(vec![self.owner.clone()]),
                ..ObjectMeta::default()
            },
            data: Some(RawExtension(self.data.clone())),
            revision: self.revision,
        }
    }

    /// Stores the revision; where the name is taken by other data, counts the collision and takes the next name.
    pub async fn store(
        &self,
        client: &Client,
        collisions: &mut i32,
    ) -> Result<ControllerRevision, kube::Error> {
        let api: Api<ControllerRevision> = Api::namespaced(client.clone(), self.namespace);
        loop {
            let new = self.build(Some(*collisions));
            match create(client, &new).await {
                Ok(stored) => return Ok(stored),
                Err(error) if errors::already_exists(&error) => {
                    let existing = api.get(new.name()).await?;
                    let own = existing.m().owner_references.iter().flatten().any(|o| o.uid == self.owner.uid);
                    if own && existing.data == new.data {
                        return Ok(existing);
                    }
                    *collisions += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// Sends the object with sorted keys and Go's escapes, because the server keeps the data byte for byte.
async fn create(client: &Client, revision: &ControllerRevision) -> Result<ControllerRevision, kube::Error> {
    let mut value = serde_json::to_value(revision).map_err(kube::Error::SerdeError)?;
    value["apiVersion"] = "apps/v1".into();
    value["kind"] = "ControllerRevision".into();
    let path = format!("/apis/apps/v1/namespaces/{}/controllerrevisions", revision.ns());
    let request = http::Request::post(path)
        .header("content-type", "application/json")
        .body(hash::sorted_json(&value).into_bytes())
        .map_err(|e| kube::Error::BuildRequest(kube::core::request::Error::BuildRequest(e)))?;
    client.request(request).await
}

/// Oldest first.
pub fn sort(revisions: &mut [Arc<ControllerRevision>]) {
    revisions.sort_by(|a, b| (a.revision, a.created(), a.name()).cmp(&(b.revision, b.created(), b.name())));
}

/// The number that a revision after all of these gets.
pub fn next(revisions: &[Arc<ControllerRevision>]) -> i64 {
    revisions.iter().map(|r| r.revision).max().unwrap_or(0) + 1
}

/// The labels of a new revision: the selector's, as far as they are exact.
pub fn labels<O: Claimable>(_owner: &O, template: &PodTemplateSpec) -> BTreeMap<String, String> {
    template.metadata.as_ref().and_then(|m| m.labels.clone()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_is_a_replacing_patch_that_reads_back() {
        let t: PodTemplateSpec = serde_json::from_value(json!({
            "metadata": {"labels": {"a": "b"}},
            "spec": {"containers": [{"name": "c", "image": "i", "command": ["sh", "-c", "a && b"]}]}}))
        .unwrap();
        let data = data(&t);
        assert!(
            hash::sorted_json(&data)
                .starts_with(r#"{"spec":{"template":{"$patch":"replace","metadata":{"labels""#)
        );
        assert!(hash::sorted_json(&data).contains(r"\u0026\u0026"));
        let revision = ControllerRevision { data: Some(RawExtension(data)), ..ControllerRevision::default() };
        assert_eq!(template(&revision), Some(t));
    }

    #[test]
    fn collisions_lead_to_other_names() {
        let d = json!({"spec": {}});
        assert_ne!(hash(&d, Some(0)), hash(&d, Some(1)));
        assert_eq!(name("web", "abc"), "web-abc");
        assert_eq!(name(&"x".repeat(250), "abc").len(), 227);
    }
}
