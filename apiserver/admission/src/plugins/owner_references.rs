//! OwnerReferencesPermissionEnforcement: who hands an object to an owner could have deleted it, and
//! who blocks an owner's deletion could have done so by a finalizer.

use crate::attributes::{Attributes, Operation};
use crate::chain::{Deps, Plugin};
use crate::objects::{at, items, text};
use api::Value;
use api::registry::Registry;
use api::status::Result;
use auth::{Attributes as Question, Authorizer};
use std::sync::Arc;

pub struct OwnerReferences {
    registry: Arc<dyn Registry>,
    authorizer: Arc<dyn Authorizer>,
}

impl OwnerReferences {
    pub fn new(deps: &Deps) -> Self {
        OwnerReferences { registry: deps.registry.clone(), authorizer: deps.authorizer.clone() }
    }

    async fn check_blocking(&self, a: &Attributes, reference: &Value) -> Result<()> {
        let (version, kind) = (text(reference, &["apiVersion"]), text(reference, &["kind"]));
        let (group, v) = version.split_once('/').unwrap_or(("", version));
        let Some((resource, namespaced)) = resource_of(&*self.registry, group, kind) else {
            return Err(a.forbidden(format!(
                "cannot set blockOwnerDeletion in this case because cannot find RESTMapping for APIVersion {version} Kind {kind}: no matches for kind {kind:?} in version {version:?}"
            )));
        };
        let ask = Question::resource(&a.user, "update", group, &resource)
            .version(v)
            .subresource("finalizers")
            .name(text(reference, &["name"]))
            .namespace(if namespaced { &a.namespace } else { "" });
        let verdict = self.authorizer.authorize(&ask).await;
        if verdict.allowed() {
            return Ok(());
        }
        Err(a.forbidden(format!(
            "cannot set blockOwnerDeletion if an ownerReference refers to a resource you can't set finalizers on: {}, <nil>",
            verdict.reason
        )))
    }
}

/// The resource of a kind and whether it is namespaced: built in, or by a custom resource definition.
fn resource_of(registry: &dyn Registry, group: &str, kind: &str) -> Option<(String, bool)> {
    let table = api::resources::builtin();
    if let Some(found) = table.iter().find(|r| r.group == group && r.kind == kind) {
        return Some((found.resource.clone(), found.namespaced));
    }
    let definitions = registry.list(("apiextensions.k8s.io", "customresourcedefinitions"), None);
    let found = definitions
        .iter()
        .find(|d| text(d, &["spec", "group"]) == group && text(d, &["spec", "names", "kind"]) == kind)?;
    let plural = text(found, &["spec", "names", "plural"]).to_owned();
    Some((plural, text(found, &["spec", "scope"]) == "Namespaced"))
}

fn references(v: Option<&Value>) -> &[Value] {
    v.map_or(&[], |v| items(v, &["metadata", "ownerReferences"]))
}

fn blocks(reference: &Value) -> bool {
    at(reference, &["blockOwnerDeletion"]) == &Value::Bool(true)
}

/// References that block and did not before.
fn newly_blocking<'a>(new: &'a [Value], old: &[Value]) -> Vec<&'a Value> {
    let before = |r: &Value| old.iter().find(|o| text(o, &["uid"]) == text(r, &["uid"])).is_some_and(blocks);
    new.iter().filter(|r| blocks(r) && !before(r)).collect()
}

#[async_trait::async_trait]
impl Plugin for OwnerReferences {
    fn name(&self) -> &'static str {
        "OwnerReferencesPermissionEnforcement"
    }
    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }
    async fn validate(&self, a: &mut Attributes) -> Result<()> {
        let (new, old) = (references(a.object.as_ref()), references(a.old_object.as_deref()));
        if new == old || a.is("", "pods") && a.subresource == "status" {
            return Ok(());
        }
        if a.operation != Operation::Create {
            let ask = Question::resource(&a.user, "delete", &a.resource.group, &a.resource.resource)
                .version(&a.resource.version)
                .subresource(&a.subresource)
                .namespace(&a.namespace)
                .name(&a.name);
            let verdict = self.authorizer.authorize(&ask).await;
            if !verdict.allowed() {
                return Err(a.forbidden(format!(
                    "cannot set an ownerRef on a resource you can't delete: {}, <nil>",
                    verdict.reason
                )));
            }
        }
        let blocking = newly_blocking(new, old);
        if blocking.is_empty() {
            return Ok(());
        }
        let anything = Question::resource(&a.user, "update", "*", "*").subresource("finalizers").name("*");
        if self.authorizer.authorize(&anything).await.allowed() {
            return Ok(());
        }
        for reference in blocking {
            self.check_blocking(a, reference).await?;
        }
        Ok(())
    }
}
