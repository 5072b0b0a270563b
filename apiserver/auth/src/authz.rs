//! May this user do this? A chain of authorizers, each of which allows, denies or has no opinion;
//! the first that has one decides, and no opinion at all is a refusal.

pub mod abac;
pub mod bootstrap;
mod modes;
pub mod node;
pub mod rbac;
pub mod rules;
pub mod webhook;

pub use modes::{Built, Options, build};

use crate::user::UserInfo;
use api::status::Status;
use api::{Value, json};
use std::borrow::Cow;
use std::sync::Arc;

/// What is asked for. For a non-resource request only `user`, `verb` and `path` count.
#[derive(Clone, Debug)]
pub struct Attributes<'a> {
    pub user: &'a UserInfo,
    pub verb: &'a str,
    pub namespace: &'a str,
    pub group: &'a str,
    pub version: &'a str,
    pub resource: &'a str,
    pub subresource: &'a str,
    pub name: &'a str,
    pub resource_request: bool,
    pub path: &'a str,
    /// `(field, value)` of the `=` requirements of a field selector.
    pub field_selector: Vec<(&'a str, &'a str)>,
    /// The label selector as the client wrote it.
    pub label_selector: &'a str,
}

impl<'a> Attributes<'a> {
    pub fn resource(user: &'a UserInfo, verb: &'a str, group: &'a str, resource: &'a str) -> Self {
        Attributes {
            user,
            verb,
            namespace: "",
            group,
            version: "*",
            resource,
            subresource: "",
            name: "",
            resource_request: true,
            path: "",
            field_selector: Vec::new(),
            label_selector: "",
        }
    }
    pub fn path(user: &'a UserInfo, verb: &'a str, path: &'a str) -> Self {
        Attributes { path, resource_request: false, version: "", ..Self::resource(user, verb, "", "") }
    }
    pub fn version(mut self, version: &'a str) -> Self {
        self.version = version;
        self
    }
    pub fn namespace(mut self, namespace: &'a str) -> Self {
        self.namespace = namespace;
        self
    }
    pub fn name(mut self, name: &'a str) -> Self {
        self.name = name;
        self
    }
    pub fn subresource(mut self, subresource: &'a str) -> Self {
        self.subresource = subresource;
        self
    }
    pub fn is_read_only(&self) -> bool {
        matches!(self.verb, "get" | "list" | "watch")
    }

    /// The sentence of a refusal, without the resource in front that `Status::forbidden` puts there.
    pub fn refusal(&self, reason: &str) -> String {
        let user = &self.user.name;
        let mut text = if self.resource_request {
            let mut resource = self.resource.to_owned();
            if !self.subresource.is_empty() {
                resource = format!("{resource}/{}", self.subresource);
            }
            let place = if self.namespace.is_empty() {
                "at the cluster scope".to_owned()
            } else {
                format!("in the namespace {:?}", self.namespace)
            };
            format!(
                "User {user:?} cannot {} resource {resource:?} in API group {:?} {place}",
                self.verb, self.group
            )
        } else {
            format!("User {user:?} cannot {} path {:?}", self.verb, self.path)
        };
        // Browsers must not take a name in an error for markup.
        if text.contains(['&', '<', '>']) {
            text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        }
        if !reason.is_empty() {
            text.push_str(": ");
            text.push_str(reason);
        }
        text
    }

    /// The 403 of a refusal.
    pub fn forbidden(&self, reason: &str) -> Status {
        if self.resource_request {
            Status::forbidden(self.group, self.resource, self.name, self.refusal(reason))
        } else {
            Status::forbidden("", "", "", self.refusal(reason))
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    Allow,
    Deny,
    NoOpinion,
}

/// A decision with its reason and, if something failed on the way, what.
#[derive(Clone, Debug)]
pub struct Verdict {
    pub decision: Decision,
    pub reason: Cow<'static, str>,
    pub error: Option<String>,
}

impl Verdict {
    pub fn allow(reason: impl Into<Cow<'static, str>>) -> Self {
        Verdict { decision: Decision::Allow, reason: reason.into(), error: None }
    }
    pub fn deny(reason: impl Into<Cow<'static, str>>) -> Self {
        Verdict { decision: Decision::Deny, reason: reason.into(), error: None }
    }
    pub fn no_opinion(reason: impl Into<Cow<'static, str>>) -> Self {
        Verdict { decision: Decision::NoOpinion, reason: reason.into(), error: None }
    }
    pub fn allowed(&self) -> bool {
        self.decision == Decision::Allow
    }
}

/// What a user may do in a namespace, for SelfSubjectRulesReview.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// `authorization.k8s.io/v1` ResourceRule objects.
    pub resource: Vec<Value>,
    /// `authorization.k8s.io/v1` NonResourceRule objects.
    pub non_resource: Vec<Value>,
    pub incomplete: bool,
    pub errors: Vec<String>,
}

impl Rules {
    /// The `status` of a SelfSubjectRulesReview.
    pub fn to_status(&self) -> Value {
        let mut out = json!({
            "resourceRules": self.resource,
            "nonResourceRules": self.non_resource,
            "incomplete": self.incomplete,
        });
        if !self.errors.is_empty() {
            out["evaluationError"] = self.errors.join(", ").into();
        }
        out
    }
}

#[async_trait::async_trait]
pub trait Authorizer: Send + Sync {
    async fn authorize(&self, a: &Attributes<'_>) -> Verdict;

    /// `None` from an authorizer that cannot tell.
    fn rules_for(&self, _user: &UserInfo, _namespace: &str) -> Option<Rules> {
        None
    }
}

/// Authorizers in the order of `--authorization-mode`, behind the one that lets `system:masters` pass.
pub struct Union {
    links: Vec<Arc<dyn Authorizer>>,
}

impl Union {
    pub fn new(links: Vec<Arc<dyn Authorizer>>) -> Self {
        Union { links }
    }
}

#[async_trait::async_trait]
impl Authorizer for Union {
    async fn authorize(&self, a: &Attributes<'_>) -> Verdict {
        let mut reasons: Vec<Cow<'static, str>> = Vec::new();
        let mut errors = Vec::new();
        for link in &self.links {
            let verdict = link.authorize(a).await;
            if verdict.decision != Decision::NoOpinion {
                return verdict;
            }
            if !verdict.reason.is_empty() {
                reasons.push(verdict.reason);
            }
            errors.extend(verdict.error);
        }
        Verdict {
            decision: Decision::NoOpinion,
            reason: reasons.join("\n").into(),
            error: (!errors.is_empty()).then(|| errors.join("\n")),
        }
    }

    fn rules_for(&self, user: &UserInfo, namespace: &str) -> Option<Rules> {
        let mut all = Rules::default();
        for rules in self.links.iter().filter_map(|l| l.rules_for(user, namespace)) {
            all.resource.extend(rules.resource);
            all.non_resource.extend(rules.non_resource);
            all.incomplete |= rules.incomplete;
            all.errors.extend(rules.errors);
        }
        Some(all)
    }
}

/// `system:masters` may do everything, in every configuration.
pub struct PrivilegedGroup;

#[async_trait::async_trait]
impl Authorizer for PrivilegedGroup {
    async fn authorize(&self, a: &Attributes<'_>) -> Verdict {
        if a.user.in_group(crate::user::MASTERS) { Verdict::allow("") } else { Verdict::no_opinion("") }
    }
}

pub struct AlwaysAllow;

#[async_trait::async_trait]
impl Authorizer for AlwaysAllow {
    async fn authorize(&self, _a: &Attributes<'_>) -> Verdict {
        Verdict::allow("")
    }
    fn rules_for(&self, _user: &UserInfo, _namespace: &str) -> Option<Rules> {
        Some(Rules {
            resource: vec![json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]})],
            non_resource: vec![json!({"verbs": ["*"], "nonResourceURLs": ["*"]})],
            ..Default::default()
        })
    }
}

pub struct AlwaysDeny;

#[async_trait::async_trait]
impl Authorizer for AlwaysDeny {
    async fn authorize(&self, _a: &Attributes<'_>) -> Verdict {
        Verdict::no_opinion("Everything is forbidden.")
    }
    fn rules_for(&self, _user: &UserInfo, _namespace: &str) -> Option<Rules> {
        Some(Rules::default())
    }
}
