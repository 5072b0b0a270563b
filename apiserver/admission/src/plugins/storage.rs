//! Volumes and claims: default class, protection while in use, growing only where the class allows.

use crate::attributes::{Attributes, Operation};
use crate::chain::{Deps, Plugin};
use crate::objects::{annotation, at, list_at, name, strings, text};
use api::Value;
use api::quantity::Quantity;
use api::registry::{GroupResource, Registry};
use api::status::Result;
use std::sync::Arc;

const CLASSES: (&str, &str) = ("storage.k8s.io", "storageclasses");
const BETA_CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";

/// The newest object that an annotation marks as the default; of equally old ones the first by name.
pub fn newest_default(registry: &dyn Registry, gr: GroupResource<'_>, keys: &[&str]) -> Option<Arc<Value>> {
    let marked = |o: &Arc<Value>| keys.iter().any(|k| annotation(o, k) == Some("true"));
    let created = |o: &Value| {
        let text = text(o, &["metadata", "creationTimestamp"]);
        text.parse::<jiff::Timestamp>().map(|t| t.as_nanosecond()).unwrap_or(0)
    };
    registry
        .list(gr, None)
        .into_iter()
        .filter(marked)
        .min_by(|x, y| created(y).cmp(&created(x)).then_with(|| name(x).cmp(name(y))))
}

/// DefaultStorageClass.
pub struct DefaultClass {
    registry: Arc<dyn Registry>,
}

impl DefaultClass {
    pub fn new(deps: &Deps) -> Self {
        DefaultClass { registry: deps.registry.clone() }
    }
}

#[async_trait::async_trait]
impl Plugin for DefaultClass {
    fn name(&self) -> &'static str {
        "DefaultStorageClass"
    }
    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Create
    }
    async fn admit(&self, a: &mut Attributes) -> Result<()> {
        if !a.is_main("", "persistentvolumeclaims") {
            return Ok(());
        }
        let Some(claim) = a.object.as_mut() else { return Ok(()) };
        let chosen = annotation(claim, BETA_CLASS_ANNOTATION).is_some()
            || !at(claim, &["spec", "storageClassName"]).is_null();
        if chosen {
            return Ok(());
        }
        let keys = [
            "storageclass.kubernetes.io/is-default-class",
            "storageclass.beta.kubernetes.io/is-default-class",
        ];
        if let Some(class) = newest_default(&*self.registry, CLASSES, &keys) {
            claim["spec"]["storageClassName"] = name(&class).into();
        }
        Ok(())
    }
}

/// StorageObjectInUseProtection.
pub struct InUseProtection;

#[async_trait::async_trait]
impl Plugin for InUseProtection {
    fn name(&self) -> &'static str {
        "StorageObjectInUseProtection"
    }
    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Create
    }
    async fn admit(&self, a: &mut Attributes) -> Result<()> {
        if !a.subresource.is_empty() {
            return Ok(());
        }
        let finalizer = match (a.resource.group.as_str(), a.resource.resource.as_str()) {
            ("", "persistentvolumeclaims") => "kubernetes.io/pvc-protection",
            ("", "persistentvolumes") => "kubernetes.io/pv-protection",
            ("storage.k8s.io", "volumeattributesclasses") => "kubernetes.io/vac-protection",
            _ => return Ok(()),
        };
        let Some(object) = a.object.as_mut() else { return Ok(()) };
        if !strings(object, &["metadata", "finalizers"]).iter().any(|f| f == finalizer) {
            list_at(&mut object["metadata"], "finalizers").push(finalizer.into());
        }
        Ok(())
    }
}

/// PersistentVolumeClaimResize.
pub struct Resize {
    registry: Arc<dyn Registry>,
}

impl Resize {
    pub fn new(deps: &Deps) -> Self {
        Resize { registry: deps.registry.clone() }
    }

    fn class_allows(&self, new: &Value, old: &Value) -> bool {
        let class = class_of(new);
        !class.is_empty()
            && class == class_of(old)
            && self
                .registry
                .get(CLASSES, "", class)
                .is_some_and(|c| at(&c, &["allowVolumeExpansion"]) == &Value::Bool(true))
    }
}

fn class_of(claim: &Value) -> &str {
    annotation(claim, BETA_CLASS_ANNOTATION).unwrap_or_else(|| text(claim, &["spec", "storageClassName"]))
}

#[async_trait::async_trait]
impl Plugin for Resize {
    fn name(&self) -> &'static str {
        "PersistentVolumeClaimResize"
    }
    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Update
    }
    async fn validate(&self, a: &mut Attributes) -> Result<()> {
        if !a.is_main("", "persistentvolumeclaims") {
            return Ok(());
        }
        let (Some(new), Some(old)) = (&a.object, a.old_object.as_deref()) else { return Ok(()) };
        let size = |c: &Value| Quantity::of(Some(at(c, &["spec", "resources", "requests", "storage"])));
        if size(new) <= size(old) {
            return Ok(());
        }
        if text(old, &["status", "phase"]) != "Bound" {
            return Err(a.forbidden("Only bound persistent volume claims can be expanded"));
        }
        if !self.class_allows(new, old) {
            return Err(a.forbidden(
                "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize",
            ));
        }
        Ok(())
    }
}
