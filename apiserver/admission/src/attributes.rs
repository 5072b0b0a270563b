//! What a plugin gets to see of a request, and what it leaves behind.

use api::field::ErrorList;
use api::status::Status;
use api::{GroupVersionKind, GroupVersionResource, Value};
use auth::UserInfo;
use std::fmt;
use std::sync::Arc;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    Create,
    Update,
    Delete,
    Connect,
}

impl Operation {
    pub fn as_str(self) -> &'static str {
        match self {
            Operation::Create => "CREATE",
            Operation::Update => "UPDATE",
            Operation::Delete => "DELETE",
            Operation::Connect => "CONNECT",
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One request on its way to storage. `object` is in the storage (hub) version for the built-in
/// plugins; webhooks convert by `kind` and `resource`, which are those of the request.
#[derive(Clone, Debug)]
pub struct Attributes {
    pub kind: GroupVersionKind,
    pub resource: GroupVersionResource,
    pub subresource: String,
    pub namespace: String,
    pub name: String,
    pub operation: Operation,
    /// Absent for deletions.
    pub object: Option<Value>,
    /// What is stored now; absent for creations.
    pub old_object: Option<Arc<Value>>,
    /// CreateOptions, UpdateOptions, DeleteOptions, or the options of a connect.
    pub options: Option<Value>,
    pub dry_run: bool,
    pub user: Arc<UserInfo>,
    /// `Warning` headers of the response.
    pub warnings: Vec<String>,
    /// Annotations of the audit event.
    pub annotations: Vec<(String, String)>,
    /// What mutating webhooks remember; starts empty.
    pub reinvocation: crate::Reinvocation,
}

impl Attributes {
    /// `("", "pods")` and the like.
    pub fn is(&self, group: &str, resource: &str) -> bool {
        self.resource.group == group && self.resource.resource == resource
    }

    /// The resource itself, not a subresource of it.
    pub fn is_main(&self, group: &str, resource: &str) -> bool {
        self.subresource.is_empty() && self.is(group, resource)
    }

    /// A refusal in a plugin's words.
    pub fn forbidden(&self, why: impl fmt::Display) -> Status {
        Status::forbidden(&self.resource.group, &self.resource.resource, self.display_name(), why)
    }

    /// A 422 by a plugin.
    pub fn invalid(&self, errors: &ErrorList) -> Status {
        Status::invalid(&self.kind.group, &self.kind.kind, self.display_name(), errors)
    }

    /// Everything but the objects, and nothing of what plugins have left behind.
    pub(crate) fn shallow(&self) -> Self {
        Attributes {
            kind: self.kind.clone(),
            resource: self.resource.clone(),
            subresource: self.subresource.clone(),
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            operation: self.operation,
            object: None,
            old_object: None,
            options: self.options.clone(),
            dry_run: self.dry_run,
            user: self.user.clone(),
            warnings: Vec::new(),
            annotations: Vec::new(),
            reinvocation: Default::default(),
        }
    }

    pub fn not_found(&self, group: &str, resource: &str, name: &str) -> Status {
        Status::not_found(group, resource, name)
    }

    pub fn warn(&mut self, text: impl Into<String>) {
        self.warnings.push(text.into());
    }

    pub fn annotate(&mut self, key: impl Into<String>, value: impl Into<String>) {
        self.annotations.push((key.into(), value.into()));
    }

    /// The name of the request or, when the server is to make one up, its prefix.
    fn display_name(&self) -> &str {
        if !self.name.is_empty() {
            return &self.name;
        }
        let meta = self.object.as_ref().and_then(|o| o.get("metadata"));
        let of = |key: &str| meta.and_then(|m| m.get(key)).and_then(Value::as_str).filter(|s| !s.is_empty());
        of("name").or_else(|| of("generateName")).unwrap_or("Unknown")
    }
}
