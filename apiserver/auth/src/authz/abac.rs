//! `--authorization-policy-file`: one JSON policy a line.

use super::{Attributes, Authorizer, Rules, Verdict};
use crate::user::UserInfo;
use anyhow::{Context, bail};
use api::json;
use serde::Deserialize;
use std::path::Path;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Policy {
    user: String,
    group: String,
    readonly: bool,
    #[serde(rename = "apiGroup")]
    api_group: String,
    resource: String,
    namespace: String,
    #[serde(rename = "nonResourcePath")]
    non_resource_path: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    #[serde(default)]
    spec: Policy,
}

/// The ABAC authorizer.
pub struct Abac {
    policies: Vec<Policy>,
}

impl Abac {
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let shown = path.display();
        let text =
            std::fs::read_to_string(path).with_context(|| format!("error reading policy file {shown}"))?;
        let mut policies = Vec::new();
        for (i, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let place = || format!("error reading policy file {shown}, line {}: {line}", i + 1);
            policies.push(parse(line).with_context(place)?);
        }
        Ok(Abac { policies })
    }
}

fn parse(line: &str) -> anyhow::Result<Policy> {
    let parsed: Line = serde_json::from_str(line)?;
    match (parsed.api_version.as_str(), parsed.kind.as_str()) {
        ("abac.authorization.kubernetes.io/v1beta1", "Policy") => Ok(parsed.spec),
        ("", "") => unversioned(line),
        (version, kind) => bail!("no kind {kind:?} is registered for version {version:?}"),
    }
}

/// The first format had no envelope, and left out what it did not restrict.
fn unversioned(line: &str) -> anyhow::Result<Policy> {
    let mut p: Policy = serde_json::from_str(line)?;
    if p.user.is_empty() && p.group.is_empty() {
        p.group = crate::user::ALL_AUTHENTICATED.into();
    } else if p.user == "*" {
        p.user.clear();
        p.group = crate::user::ALL_AUTHENTICATED.into();
    }
    if p.namespace.is_empty() {
        p.namespace = "*".into();
    }
    if p.resource.is_empty() {
        p.resource = "*".into();
        p.non_resource_path = "*".into();
    }
    p.api_group = "*".into();
    Ok(p)
}

impl Policy {
    fn applies_to(&self, user: &UserInfo) -> bool {
        let user_ok = self.user == "*" || self.user == user.name;
        let group_ok = self.group == "*" || user.in_group(&self.group);
        match (self.user.is_empty(), self.group.is_empty()) {
            (true, true) => false,
            (false, true) => user_ok,
            (true, false) => group_ok,
            (false, false) => user_ok && group_ok,
        }
    }

    fn allows(&self, a: &Attributes<'_>) -> bool {
        let any = |mine: &str, asked: &str| mine == "*" || mine == asked;
        if !self.applies_to(a.user) || self.readonly && !a.is_read_only() {
            return false;
        }
        if a.resource_request {
            return any(&self.namespace, a.namespace)
                && any(&self.resource, a.resource)
                && any(&self.api_group, a.group);
        }
        let mine = &self.non_resource_path;
        mine == a.path || mine.ends_with('*') && a.path.starts_with(mine.trim_end_matches('*'))
    }
}

#[async_trait::async_trait]
impl Authorizer for Abac {
    async fn authorize(&self, a: &Attributes<'_>) -> Verdict {
        if self.policies.iter().any(|p| p.allows(a)) {
            return Verdict::allow("");
        }
        Verdict::no_opinion("No policy matched.")
    }

    fn rules_for(&self, user: &UserInfo, namespace: &str) -> Option<Rules> {
        let mut out = Rules::default();
        let mine = |p: &&Policy| p.applies_to(user) && (p.namespace == "*" || p.namespace == namespace);
        for p in self.policies.iter().filter(mine) {
            let verbs = if p.readonly { json!(["get", "list", "watch"]) } else { json!(["*"]) };
            if !p.resource.is_empty() {
                out.resource
                    .push(json!({"verbs": verbs, "apiGroups": [p.api_group], "resources": [p.resource]}));
            }
            if !p.non_resource_path.is_empty() {
                out.non_resource.push(json!({"verbs": verbs, "nonResourceURLs": [p.non_resource_path]}));
            }
        }
        Some(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_match_as_documented() {
        let line = r#"{"apiVersion":"abac.authorization.kubernetes.io/v1beta1","kind":"Policy","spec":{"user":"bob","namespace":"ns","resource":"pods","apiGroup":"*","readonly":true}}"#;
        let policy = parse(line).unwrap();
        let bob = UserInfo::new("bob", &[]);
        let eve = UserInfo::new("eve", &[]);
        let ask = |user, verb, ns| Attributes::resource(user, verb, "", "pods").namespace(ns);
        assert!(policy.allows(&ask(&bob, "get", "ns")));
        assert!(!policy.allows(&ask(&bob, "create", "ns")));
        assert!(!policy.allows(&ask(&bob, "get", "other")));
        assert!(!policy.allows(&ask(&eve, "get", "ns")));
        let old = parse(r#"{"user":"bob"}"#).unwrap();
        assert!(old.allows(&Attributes::path(&bob, "post", "/anything")));
        assert!(parse(r#"{"apiVersion":"v9","kind":"Policy"}"#).is_err());
    }
}
