//! The audit policy: which requests are recorded, and how much of each.

use super::Asked;
use anyhow::{Context, bail, ensure};
use serde::Deserialize;
use std::path::Path;

/// How much is recorded of a request; each level holds what the one before does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub enum Level {
    #[default]
    None,
    Metadata,
    Request,
    RequestResponse,
}

impl Level {
    pub fn name(self) -> &'static str {
        match self {
            Level::None => "None",
            Level::Metadata => "Metadata",
            Level::Request => "Request",
            Level::RequestResponse => "RequestResponse",
        }
    }
}

/// When in the life of a request a record is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Stage {
    RequestReceived,
    ResponseStarted,
    ResponseComplete,
    Panic,
}

impl Stage {
    pub fn name(self) -> &'static str {
        match self {
            Stage::RequestReceived => "RequestReceived",
            Stage::ResponseStarted => "ResponseStarted",
            Stage::ResponseComplete => "ResponseComplete",
            Stage::Panic => "Panic",
        }
    }
}

/// An `audit.k8s.io/v1` Policy.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Policy {
    api_version: String,
    kind: String,
    #[serde(rename = "metadata")]
    _metadata: serde_json::Value,
    rules: Vec<Rule>,
    omit_stages: Vec<Stage>,
    omit_managed_fields: bool,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rule {
    level: Level,
    #[serde(default)]
    users: Vec<String>,
    #[serde(default)]
    user_groups: Vec<String>,
    #[serde(default)]
    verbs: Vec<String>,
    #[serde(default)]
    resources: Vec<Resources>,
    #[serde(default)]
    namespaces: Vec<String>,
    #[serde(default, rename = "nonResourceURLs")]
    non_resource_urls: Vec<String>,
    #[serde(default)]
    omit_stages: Vec<Stage>,
    omit_managed_fields: Option<bool>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Resources {
    group: String,
    resources: Vec<String>,
    resource_names: Vec<String>,
}

/// What the policy says of one request.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    pub level: Level,
    pub omit_stages: Vec<Stage>,
    pub omit_managed_fields: bool,
}

impl Policy {
    /// Reads the file of `--audit-policy-file`.
    pub fn load(path: &Path) -> anyhow::Result<Policy> {
        let text =
            std::fs::read(path).with_context(|| format!("failed to read file path {:?}", path.display()))?;
        Self::parse(&text).with_context(|| format!("loading audit policy file {}", path.display()))
    }

    pub fn parse(text: &[u8]) -> anyhow::Result<Policy> {
        let value = api::decode::parse_yaml(text)?.value;
        let policy: Policy = serde_json::from_value(value)?;
        if (policy.api_version.as_str(), policy.kind.as_str()) != ("audit.k8s.io/v1", "Policy") {
            bail!("unknown group version field {} in policy", policy.api_version);
        }
        ensure!(!policy.rules.is_empty(), "loaded illegal policy with 0 rules");
        for rule in &policy.rules {
            let resource = !rule.resources.is_empty() || !rule.namespaces.is_empty();
            ensure!(
                !resource || rule.non_resource_urls.is_empty(),
                "rules cannot apply to both regular resources and non-resource URLs"
            );
            for url in &rule.non_resource_urls {
                let fits = url == "*" || (url.starts_with('/') && !url.trim_end_matches('*').contains('*'));
                ensure!(fits, "non-resource URL rules must begin with a '/' character: {url:?}");
            }
        }
        Ok(policy)
    }

    /// The first rule that fits decides; a request that none fits is not recorded.
    pub fn judge(&self, asked: &Asked<'_>) -> Verdict {
        let Some(rule) = self.rules.iter().find(|r| r.fits(asked)) else { return Verdict::default() };
        let mut omit_stages = rule.omit_stages.clone();
        omit_stages.extend(&self.omit_stages);
        Verdict {
            level: rule.level,
            omit_stages,
            omit_managed_fields: rule.omit_managed_fields.unwrap_or(self.omit_managed_fields),
        }
    }
}

fn any(list: &[String], wanted: &str) -> bool {
    list.is_empty() || list.iter().any(|x| x == wanted)
}

impl Rule {
    fn fits(&self, asked: &Asked<'_>) -> bool {
        let (name, groups) = asked.user.map_or(("", &[][..]), |u| (u.name.as_str(), u.groups.as_slice()));
        let in_groups = self.user_groups.is_empty() || self.user_groups.iter().any(|g| groups.contains(g));
        if !any(&self.users, name) || !in_groups || !any(&self.verbs, asked.info.verb) {
            return false;
        }
        if !self.namespaces.is_empty() || !self.resources.is_empty() {
            return asked.info.is_resource && self.fits_resource(asked);
        }
        if !self.non_resource_urls.is_empty() {
            return !asked.info.is_resource
                && self.non_resource_urls.iter().any(|u| path_fits(u, &asked.info.path));
        }
        true
    }

    fn fits_resource(&self, asked: &Asked<'_>) -> bool {
        let info = asked.info;
        if !any(&self.namespaces, &info.namespace) {
            return false;
        }
        self.resources.is_empty()
            || self.resources.iter().any(|r| {
                r.group == info.group
                    && any(&r.resource_names, &info.name)
                    && (r.resources.is_empty()
                        || r.resources.iter().any(|p| resource_fits(p, &info.resource, &info.subresource)))
            })
    }
}

fn resource_fits(pattern: &str, resource: &str, subresource: &str) -> bool {
    match pattern.split_once('/') {
        _ if pattern == "*" => true,
        None => subresource.is_empty() && pattern == resource,
        Some(("*", s)) => s == subresource,
        Some((r, "*")) => r == resource,
        Some((r, s)) => r == resource && s == subresource,
    }
}

fn path_fits(pattern: &str, path: &str) -> bool {
    pattern == "*" || pattern == path || pattern.strip_suffix('*').is_some_and(|p| path.starts_with(p))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::query::Query;
    use crate::request::RequestInfo;
    use auth::UserInfo;
    use http::Method;

    const POLICY: &str = "
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: None
  users: [system:kube-proxy]
  verbs: [watch]
  resources:
  - group: ''
    resources: [endpoints, services/status]
- level: None
  nonResourceURLs: ['/healthz*', /version]
- level: Request
  resources: [{group: '', resources: [configmaps], resourceNames: [secret-plan]}]
  namespaces: [kube-system]
- level: RequestResponse
  omitStages: [ResponseStarted]
  omitManagedFields: true
  resources: [{group: apps, resources: ['*/scale', deployments]}]
- level: Metadata
  userGroups: [system:authenticated]
";

    #[test]
    fn the_first_rule_that_fits_decides() {
        let policy = Policy::parse(POLICY.as_bytes()).unwrap();
        let proxy = UserInfo::new("system:kube-proxy", &["system:authenticated"]);
        let stranger = UserInfo::new("system:anonymous", &["system:unauthenticated"]);
        for (user, method, uri, level) in [
            (&proxy, Method::GET, "/api/v1/endpoints?watch=1", Level::None),
            (&proxy, Method::GET, "/api/v1/endpoints", Level::Metadata),
            (&stranger, Method::GET, "/healthz/etcd", Level::None),
            (&stranger, Method::GET, "/api", Level::None),
            (&proxy, Method::GET, "/api/v1/namespaces/kube-system/configmaps/secret-plan", Level::Request),
            (&proxy, Method::GET, "/api/v1/namespaces/default/configmaps/secret-plan", Level::Metadata),
            (&proxy, Method::PUT, "/apis/apps/v1/namespaces/a/deployments/d/scale", Level::RequestResponse),
            (&proxy, Method::PUT, "/apis/apps/v1/namespaces/a/deployments/d/status", Level::Metadata),
        ] {
            let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
            let info = RequestInfo::parse(&method, path, &Query::parse(query)).unwrap();
            let verdict = policy.judge(&Asked { user: Some(user), info: &info });
            assert_eq!(verdict.level, level, "{uri}");
            assert_eq!(verdict.omit_managed_fields, level == Level::RequestResponse);
        }
    }

    #[test]
    fn a_policy_that_means_nothing_is_refused() {
        for bad in [
            "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: []\n",
            "apiVersion: audit.k8s.io/v1beta9\nkind: Policy\nrules: [{level: None}]\n",
            "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: Everything}]\n",
            "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: None, user: [x]}]\n",
            "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: None, namespaces: [a], nonResourceURLs: [/x]}]\n",
        ] {
            assert!(Policy::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
