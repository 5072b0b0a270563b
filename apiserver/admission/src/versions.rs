//! Which other versions an object can be shown in, and the way there and back.

use crate::objects::{at, items, text};
use api::registry::Registry;
use api::resources::{Resource, builtin};
use api::{GroupVersionKind, GroupVersionResource, Value};

/// Version and kind that an object says it is of.
fn gvk_of(object: &Value) -> GroupVersionKind {
    let version = text(object, &["apiVersion"]);
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    GroupVersionKind::new(group, version, text(object, &["kind"]))
}

/// The object in that version. Kinds of other resources (options, scales) are left as they are.
pub fn shown(object: &Value, to: &GroupVersionKind) -> Value {
    let mut object = object.clone();
    let from = gvk_of(&object);
    if from.kind == to.kind {
        kinds::convert(&mut object, &from, to);
    } else if from.kind.is_empty() && object.is_object() {
        object["kind"] = to.kind.as_str().into();
        object["apiVersion"] = to.api_version().into();
    }
    object
}

/// A changed object in the version of the one it came from, with defaults for what was added.
pub fn back(mut changed: Value, original: &Value) -> Value {
    let (from, to) = (gvk_of(&changed), gvk_of(original));
    if from.kind == to.kind {
        kinds::convert(&mut changed, &from, &to);
    }
    kinds::room(&to.group, &to.version, &to.kind).defaults(&mut changed);
    changed
}

fn same_storage(a: &Resource, b: &Resource) -> bool {
    matches!((&a.etcd, &b.etcd), (Some(x), Some(y)) if x.prefix == y.prefix)
}

/// The other resources by which the same objects are served, with the kind that a hook for them sees.
pub fn equivalents(
    registry: &dyn Registry,
    gvr: &GroupVersionResource,
    subresource: &str,
) -> Vec<(GroupVersionResource, GroupVersionKind)> {
    let Some(own) = builtin().iter().find(|r| r.gvr() == *gvr) else {
        return of_custom(registry, gvr, subresource);
    };
    let kind = |r: &Resource| match r.subresource(subresource) {
        Some(s) if !s.kind.is_empty() && s.kind != r.kind => {
            GroupVersionKind::new(&s.kind_group, &s.kind_version, &s.kind)
        }
        _ => r.gvk(),
    };
    let other = |r: &&Resource| r.enabled_by_default && same_storage(r, own) && r.gvr() != *gvr;
    builtin().iter().filter(other).map(|r| (r.gvr(), kind(r))).collect()
}

/// The other served versions of a custom resource.
fn of_custom(
    registry: &dyn Registry,
    gvr: &GroupVersionResource,
    subresource: &str,
) -> Vec<(GroupVersionResource, GroupVersionKind)> {
    let definition = format!("{}.{}", gvr.resource, gvr.group);
    let found = registry.get(("apiextensions.k8s.io", "customresourcedefinitions"), "", &definition);
    let Some(found) = found.filter(|_| subresource != "scale") else { return Vec::new() };
    let kind = text(&found, &["spec", "names", "kind"]);
    items(&found, &["spec", "versions"])
        .iter()
        .filter(|v| at(v, &["served"]) == &Value::Bool(true))
        .map(|v| text(v, &["name"]))
        .filter(|v| *v != gvr.version)
        .map(|v| {
            let resource = GroupVersionResource::new(&gvr.group, v, &gvr.resource);
            (resource, GroupVersionKind::new(&gvr.group, v, kind))
        })
        .collect()
}
