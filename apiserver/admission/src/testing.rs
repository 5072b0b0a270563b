//! Requests and registries for the plugins' tests.

use crate::{Attributes, Deps, Operation};
use api::registry::GroupResource;
use api::{GroupVersionKind, GroupVersionResource, Value};
use auth::testing::FakeRegistry;
use auth::{Authorizer, UserInfo};
use std::sync::Arc;

pub fn deps(registry: &Arc<FakeRegistry>) -> Deps {
    deps_with(registry, Arc::new(auth::authz::AlwaysDeny))
}

pub fn deps_with(registry: &Arc<FakeRegistry>, authorizer: Arc<dyn Authorizer>) -> Deps {
    Deps { registry: registry.clone(), authorizer, gate: Arc::new(|_| true), toleration_seconds: (300, 300) }
}

/// A request about an object in namespace `ns` (or none for cluster-scoped kinds).
pub fn request(operation: Operation, gr: GroupResource<'_>, kind: &str, object: Value) -> Attributes {
    let cluster_scoped =
        ["Node", "Namespace", "PersistentVolume", "PriorityClass", "CertificateSigningRequest"]
            .contains(&kind);
    let text = |k: &str| object["metadata"][k].as_str().unwrap_or_default().to_owned();
    Attributes {
        kind: GroupVersionKind::new(gr.0, "v1", kind),
        resource: GroupVersionResource::new(gr.0, "v1", gr.1),
        subresource: String::new(),
        namespace: if cluster_scoped { String::new() } else { "ns".into() },
        name: text("name"),
        operation,
        object: Some(object),
        old_object: None,
        options: None,
        dry_run: false,
        user: Arc::new(UserInfo::new("alice", &[])),
        warnings: Vec::new(),
        annotations: Vec::new(),
        reinvocation: Default::default(),
    }
}

pub fn create(gr: GroupResource<'_>, kind: &str, object: Value) -> Attributes {
    request(Operation::Create, gr, kind, object)
}

pub fn update(gr: GroupResource<'_>, kind: &str, old: Value, new: Value) -> Attributes {
    let mut a = request(Operation::Update, gr, kind, new);
    a.old_object = Some(Arc::new(old));
    a
}

pub fn create_pod(pod: Value) -> Attributes {
    create(("", "pods"), "Pod", pod)
}
