//! Namespaces: nothing is created in one that is missing or going away.

use crate::attributes::{Attributes, Operation};
use crate::chain::{Deps, Plugin};
use crate::live::fetch;
use crate::objects::{text, with_cause};
use api::registry::Registry;
use api::status::{Result, Status};
use api::{Value, json};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

const NAMESPACES: (&str, &str) = ("", "namespaces");
const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];
/// After a deletion, memory may still show the namespace as active for a moment.
const DISTRUST: Duration = Duration::from_secs(30);
const DISTRUSTED_AT_MOST: usize = 100;

fn is_namespace(a: &Attributes) -> bool {
    a.kind.group.is_empty() && a.kind.kind == "Namespace"
}

/// NamespaceLifecycle.
pub struct Lifecycle {
    registry: Arc<dyn Registry>,
    deleted: Mutex<HashMap<String, Instant>>,
}

impl Lifecycle {
    pub fn new(deps: &Deps) -> Self {
        Lifecycle { registry: deps.registry.clone(), deleted: Mutex::default() }
    }

    fn distrust(&self, namespace: &str) {
        let mut deleted = self.deleted.lock();
        deleted.retain(|_, until| *until > Instant::now());
        if deleted.len() < DISTRUSTED_AT_MOST {
            deleted.insert(namespace.to_owned(), Instant::now() + DISTRUST);
        }
    }

    fn is_distrusted(&self, namespace: &str) -> bool {
        self.deleted.lock().get(namespace).is_some_and(|until| *until > Instant::now())
    }

    /// Whether the namespace is terminating; 404 if there is none.
    async fn is_terminating(&self, namespace: &str) -> Result<bool> {
        let cached = self.registry.get(NAMESPACES, "", namespace);
        let terminating = |v: &Value| text(v, &["status", "phase"]) == "Terminating";
        if let Some(found) = cached
            && (terminating(&found) || !self.is_distrusted(namespace))
        {
            return Ok(terminating(&found));
        }
        let found = self.registry.get_live(NAMESPACES, "", namespace).await;
        match found {
            Ok(found) => Ok(terminating(&found)),
            Err(e) if e.code == 404 => Err(e),
            Err(e) => Err(Status::internal(e)),
        }
    }
}

#[async_trait::async_trait]
impl Plugin for Lifecycle {
    fn name(&self) -> &'static str {
        "NamespaceLifecycle"
    }
    fn handles(&self, operation: Operation) -> bool {
        operation != Operation::Connect
    }
    async fn admit(&self, a: &mut Attributes) -> Result<()> {
        if is_namespace(a) {
            if a.operation == Operation::Delete {
                if IMMORTAL.contains(&a.name.as_str()) {
                    return Err(Status::forbidden(
                        "",
                        "namespaces",
                        &a.name,
                        "this namespace may not be deleted",
                    ));
                }
                self.distrust(&a.name);
            }
            return Ok(());
        }
        if a.namespace.is_empty()
            || a.operation == Operation::Delete
            || a.is("authorization.k8s.io", "localsubjectaccessreviews")
        {
            return Ok(());
        }
        if !self.is_terminating(&a.namespace).await? || a.operation != Operation::Create {
            return Ok(());
        }
        let ns = &a.namespace;
        let refusal = a.forbidden(format!(
            "unable to create new content in namespace {ns} because it is being terminated"
        ));
        let message = format!("namespace {ns} is being terminated");
        Err(with_cause(refusal, "NamespaceTerminating", &message, "metadata.namespace"))
    }
}

/// NamespaceExists.
pub struct Exists {
    registry: Arc<dyn Registry>,
}

impl Exists {
    pub fn new(deps: &Deps) -> Self {
        Exists { registry: deps.registry.clone() }
    }
}

#[async_trait::async_trait]
impl Plugin for Exists {
    fn name(&self) -> &'static str {
        "NamespaceExists"
    }
    fn handles(&self, operation: Operation) -> bool {
        operation != Operation::Connect
    }
    async fn validate(&self, a: &mut Attributes) -> Result<()> {
        if a.namespace.is_empty() || is_namespace(a) {
            return Ok(());
        }
        fetch(&*self.registry, NAMESPACES, "", &a.namespace).await.map(drop)
    }
}

/// NamespaceAutoProvision.
pub struct AutoProvision {
    registry: Arc<dyn Registry>,
}

impl AutoProvision {
    pub fn new(deps: &Deps) -> Self {
        AutoProvision { registry: deps.registry.clone() }
    }
}

#[async_trait::async_trait]
impl Plugin for AutoProvision {
    fn name(&self) -> &'static str {
        "NamespaceAutoProvision"
    }
    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Create
    }
    async fn admit(&self, a: &mut Attributes) -> Result<()> {
        if a.dry_run || a.namespace.is_empty() || is_namespace(a) {
            return Ok(());
        }
        if self.registry.get(NAMESPACES, "", &a.namespace).is_some() {
            return Ok(());
        }
        let namespace = json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": a.namespace, "labels": {"kubernetes.io/metadata.name": a.namespace}},
            "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"},
        });
        match self.registry.create(NAMESPACES, "", namespace).await {
            Err(e) if e.code != 409 => Err(a.forbidden(e)),
            _ => Ok(()),
        }
    }
}
