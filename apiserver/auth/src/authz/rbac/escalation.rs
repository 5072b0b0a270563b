//! Nobody grants what they do not have: the check on every write of a role or a binding.

use super::super::rules::{Rule, compact_texts, quoted, uncovered};
use super::super::{Attributes, Authorizer};
use super::{GROUP, Rbac};
use crate::authz::rules::rules_of;
use crate::user::{MASTERS, UserInfo};
use crate::values::{items, name, text};
use api::Value;
use api::status::{Result, Status};

/// A write of one of the four kinds.
pub struct Write<'a> {
    pub user: &'a UserInfo,
    /// `roles`, `clusterroles`, `rolebindings` or `clusterrolebindings`
    pub resource: &'a str,
    pub namespace: &'a str,
    pub object: &'a Value,
    pub old: Option<&'a Value>,
}

impl Rbac {
    /// Refuses a write that would give somebody more than its author has, unless the author holds
    /// the `escalate` (roles) or `bind` (bindings) verb. To be asked before admission.
    pub async fn escalation_check(&self, write: &Write<'_>, authorizer: &dyn Authorizer) -> Result<()> {
        if write.user.in_group(MASTERS)
            || write.old.is_some_and(|old| same_but_for_collection(old, write.object))
        {
            return Ok(());
        }
        match write.resource {
            "roles" | "clusterroles" => self.check_role(write, authorizer).await,
            "rolebindings" | "clusterrolebindings" => self.check_binding(write, authorizer).await,
            _ => Ok(()),
        }
    }

    async fn check_role(&self, write: &Write<'_>, authorizer: &dyn Authorizer) -> Result<()> {
        let named = if write.old.is_some() { name(write.object) } else { "" };
        let ask = Attributes::resource(write.user, "escalate", GROUP, write.resource)
            .namespace(write.namespace)
            .name(named);
        if authorizer.authorize(&ask).await.allowed() {
            return Ok(());
        }
        self.confirm(write, &rules_of(write.object))?;
        let aggregates = |o: &Value| !items(o, &["aggregationRule", "clusterRoleSelectors"]).is_empty();
        if write.resource == "clusterroles" && (aggregates(write.object) || write.old.is_some_and(aggregates))
        {
            let any = || vec!["*".to_owned()];
            let everything = [
                Rule { verbs: any(), api_groups: any(), resources: any(), ..Default::default() },
                Rule { verbs: any(), non_resource_urls: any(), ..Default::default() },
            ];
            if self.confirm(write, &everything).is_err() {
                return Err(
                    self.refuse(write, "must have cluster-admin privileges to use the aggregationRule")
                );
            }
        }
        Ok(())
    }

    async fn check_binding(&self, write: &Write<'_>, authorizer: &dyn Authorizer) -> Result<()> {
        let reference = &write.object["roleRef"];
        let resource = match text(reference, &["kind"]) {
            "ClusterRole" => Some("clusterroles"),
            "Role" => Some("roles"),
            _ => None,
        };
        if let Some(resource) = resource {
            let ask = Attributes::resource(write.user, "bind", text(reference, &["apiGroup"]), resource)
                .namespace(write.namespace)
                .name(text(reference, &["name"]));
            if authorizer.authorize(&ask).await.allowed() {
                return Ok(());
            }
        }
        let rules = self.role_rules(reference, write.namespace)?;
        self.confirm(write, &rules)
    }

    fn confirm(&self, write: &Write<'_>, wanted: &[Rule]) -> Result<()> {
        let (held, errors) = self.rules(write.user, write.namespace);
        let missing = uncovered(&held, wanted);
        if missing.is_empty() {
            return Ok(());
        }
        let mut why = format!(
            "user {:?} (groups={}) is attempting to grant RBAC permissions not currently held:\n{}",
            write.user.name,
            quoted(&write.user.groups),
            compact_texts(missing).join("\n")
        );
        if !errors.is_empty() {
            let texts: Vec<String> = errors.into_iter().map(|e| e.message).collect();
            why.push_str(&format!("; resolution errors: [{}]", texts.join(" ")));
        }
        Err(self.refuse(write, &why))
    }

    fn refuse(&self, write: &Write<'_>, why: &str) -> Status {
        Status::forbidden(GROUP, write.resource, name(write.object), why)
    }
}

/// Owner references and finalizers are what garbage collection has to change on any object.
fn same_but_for_collection(old: &Value, new: &Value) -> bool {
    let bare = |v: &Value| {
        let mut v = v.clone();
        if let Some(meta) = v["metadata"].as_object_mut() {
            for key in ["ownerReferences", "finalizers", "managedFields", "resourceVersion", "generation"] {
                meta.remove(key);
            }
        }
        v
    };
    old != new && bare(old) == bare(new) || old == new
}
