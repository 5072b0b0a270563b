//! Role based access control. Roles and bindings are compiled into an index by subject, and compiled
//! again only when one of them has changed; a request then touches only the rules of its own user.

use super::rules::{Rule, rules_of};
use super::{Attributes, Authorizer, Rules, Verdict};
use crate::user::{UserInfo, service_account_username};
use crate::values::{items, name, namespace, text};
use api::Value;
use api::registry::Reader;
use api::status::Status;
use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;

pub const GROUP: &str = "rbac.authorization.k8s.io";
const CLUSTER_ROLES: (&str, &str) = (GROUP, "clusterroles");
const CLUSTER_ROLE_BINDINGS: (&str, &str) = (GROUP, "clusterrolebindings");
const ROLES: (&str, &str) = (GROUP, "roles");
const ROLE_BINDINGS: (&str, &str) = (GROUP, "rolebindings");

/// A binding to one subject, with what it grants.
struct Grant {
    binding: Arc<Binding>,
    subject: String,
}

struct Binding {
    /// `ClusterRoleBinding "x" of ClusterRole "y"`
    description: String,
    rules: Result<Arc<[Rule]>, Status>,
}

/// The grants of a scope, by subject.
#[derive(Default)]
struct Scope {
    users: HashMap<String, Vec<Grant>>,
    groups: HashMap<String, Vec<Grant>>,
}

impl Scope {
    fn grants<'a>(&'a self, user: &'a UserInfo) -> impl Iterator<Item = &'a Grant> {
        let by_user = self.users.get(&user.name);
        let by_group = user.groups.iter().filter_map(|g| self.groups.get(g));
        by_user.into_iter().chain(by_group).flatten()
    }

    fn add(&mut self, binding: Arc<Binding>, subjects: &[Value], place: &str) {
        for subject in subjects {
            let (kind, subject_name) = (text(subject, &["kind"]), text(subject, &["name"]));
            let (index, key, shown) = match kind {
                "User" => (&mut self.users, subject_name.to_owned(), subject_name.to_owned()),
                "Group" => (&mut self.groups, subject_name.to_owned(), subject_name.to_owned()),
                "ServiceAccount" => {
                    let own = text(subject, &["namespace"]);
                    let ns = if own.is_empty() { place } else { own };
                    if ns.is_empty() {
                        continue;
                    }
                    let key = service_account_username(ns, subject_name);
                    (&mut self.users, key, format!("{subject_name}/{ns}"))
                }
                _ => continue,
            };
            let grant = Grant { binding: binding.clone(), subject: format!("{kind} {shown:?}") };
            index.entry(key).or_default().push(grant);
        }
    }
}

#[derive(Default)]
struct Policy {
    revisions: [i64; 4],
    cluster: Scope,
    namespaces: HashMap<String, Scope>,
}

/// The RBAC authorizer.
pub struct Rbac {
    reader: Arc<dyn Reader>,
    policy: ArcSwapOption<Policy>,
    compiling: Mutex<()>,
}

impl Rbac {
    pub fn new(reader: Arc<dyn Reader>) -> Self {
        Rbac { reader, policy: ArcSwapOption::empty(), compiling: Mutex::new(()) }
    }

    fn revisions(&self) -> [i64; 4] {
        [CLUSTER_ROLES, CLUSTER_ROLE_BINDINGS, ROLES, ROLE_BINDINGS].map(|gr| self.reader.revision(gr))
    }

    /// The policy of now. While one thread compiles a newer one, the others go on with the last.
    fn policy(&self) -> Arc<Policy> {
        let current = self.policy.load_full();
        let revisions = self.revisions();
        match current {
            Some(policy) if policy.revisions == revisions => policy,
            Some(policy) => match self.compiling.try_lock() {
                Some(_guard) => self.compile(revisions),
                None => policy,
            },
            None => {
                let _guard = self.compiling.lock();
                self.policy.load_full().unwrap_or_else(|| self.compile(revisions))
            }
        }
    }

    fn compile(&self, revisions: [i64; 4]) -> Arc<Policy> {
        let rules_by_name = |objects: Vec<Arc<Value>>| -> HashMap<(String, String), Arc<[Rule]>> {
            let keyed = |o: &Arc<Value>| ((namespace(o).to_owned(), name(o).to_owned()), rules_of(o).into());
            objects.iter().map(keyed).collect()
        };
        let cluster_roles = rules_by_name(self.reader.list(CLUSTER_ROLES, None));
        let roles = rules_by_name(self.reader.list(ROLES, None));
        let resolve = |reference: &Value, place: &str| -> Result<Arc<[Rule]>, Status> {
            let (kind, role) = (text(reference, &["kind"]), text(reference, &["name"]));
            let key = |ns: &str| (ns.to_owned(), role.to_owned());
            match kind {
                "ClusterRole" => cluster_roles
                    .get(&key(""))
                    .cloned()
                    .ok_or_else(|| Status::not_found(GROUP, "clusterrole", role)),
                "Role" => {
                    roles.get(&key(place)).cloned().ok_or_else(|| Status::not_found(GROUP, "role", role))
                }
                _ => Err(Status::internal(format!("unsupported role reference kind: {kind:?}"))),
            }
        };
        let mut policy = Policy { revisions, ..Default::default() };
        for object in self.reader.list(CLUSTER_ROLE_BINDINGS, None) {
            let binding = compile_binding("ClusterRoleBinding", &object, name(&object), &resolve);
            policy.cluster.add(binding, items(&object, &["subjects"]), "");
        }
        for object in self.reader.list(ROLE_BINDINGS, None) {
            let place = namespace(&object).to_owned();
            let shown = format!("{}/{place}", name(&object));
            let binding = compile_binding("RoleBinding", &object, &shown, &resolve);
            let scope = policy.namespaces.entry(place.clone()).or_default();
            scope.add(binding, items(&object, &["subjects"]), &place);
        }
        let policy = Arc::new(policy);
        self.policy.store(Some(policy.clone()));
        policy
    }

    /// All rules that apply to a user in a namespace, and what could not be resolved.
    pub fn rules(&self, user: &UserInfo, namespace: &str) -> (Vec<Rule>, Vec<Status>) {
        let policy = self.policy();
        let (mut rules, mut errors) = (Vec::new(), Vec::new());
        for grant in scopes(&policy, namespace).flat_map(|s| s.grants(user)) {
            match &grant.binding.rules {
                Ok(found) => rules.extend(found.iter().cloned()),
                Err(e) => errors.push(e.clone()),
            }
        }
        (rules, errors)
    }

    /// The rules that a `roleRef` stands for.
    pub(super) fn role_rules(&self, reference: &Value, namespace: &str) -> Result<Vec<Rule>, Status> {
        let (kind, role) = (text(reference, &["kind"]), text(reference, &["name"]));
        let (gr, place, word) = match kind {
            "ClusterRole" => (CLUSTER_ROLES, "", "clusterrole"),
            "Role" => (ROLES, namespace, "role"),
            _ => return Err(Status::internal(format!("unsupported role reference kind: {kind:?}"))),
        };
        let found = self.reader.get(gr, place, role).ok_or_else(|| Status::not_found(GROUP, word, role))?;
        Ok(rules_of(&found))
    }
}

/// Finds the rules of a `roleRef` in a namespace.
type Resolve<'a> = dyn Fn(&Value, &str) -> Result<Arc<[Rule]>, Status> + 'a;

fn compile_binding(kind: &str, object: &Value, shown: &str, resolve: &Resolve<'_>) -> Arc<Binding> {
    let reference = &object["roleRef"];
    let (role_kind, role) = (text(reference, &["kind"]), text(reference, &["name"]));
    Arc::new(Binding {
        description: format!("{kind} {shown:?} of {role_kind} {role:?}"),
        rules: resolve(reference, namespace(object)),
    })
}

fn scopes<'a>(policy: &'a Policy, namespace: &str) -> impl Iterator<Item = &'a Scope> {
    std::iter::once(&policy.cluster).chain(policy.namespaces.get(namespace))
}

/// Several errors are shown in brackets, one as it is.
fn joined(mut errors: Vec<String>) -> String {
    errors.dedup();
    if errors.len() == 1 { errors.remove(0) } else { format!("[{}]", errors.join(", ")) }
}

#[async_trait::async_trait]
impl Authorizer for Rbac {
    async fn authorize(&self, a: &Attributes<'_>) -> Verdict {
        let policy = self.policy();
        let mut errors = Vec::new();
        for grant in scopes(&policy, a.namespace).flat_map(|s| s.grants(a.user)) {
            match &grant.binding.rules {
                Err(e) => errors.push(e.message.clone()),
                Ok(rules) if rules.iter().any(|r| r.allows(a)) => {
                    let Grant { binding, subject } = grant;
                    return Verdict::allow(format!("RBAC: allowed by {} to {subject}", binding.description));
                }
                Ok(_) => {}
            }
        }
        if errors.is_empty() {
            return Verdict::no_opinion("");
        }
        Verdict::no_opinion(format!("RBAC: {}", joined(errors)))
    }

    fn rules_for(&self, user: &UserInfo, namespace: &str) -> Option<Rules> {
        let (rules, errors) = self.rules(user, namespace);
        let mut out = Rules::default();
        for rule in rules {
            if !rule.resources.is_empty() {
                out.resource.push(rule.to_resource_rule());
            }
            if !rule.non_resource_urls.is_empty() {
                let shown = api::json!({"verbs": rule.verbs, "nonResourceURLs": rule.non_resource_urls});
                out.non_resource.push(shown);
            }
        }
        out.errors = errors.into_iter().map(|e| e.message).collect();
        Some(out)
    }
}

pub mod escalation;
pub use escalation::Write;

#[cfg(test)]
mod tests;
