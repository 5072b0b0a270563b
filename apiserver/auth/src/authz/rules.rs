//! Policy rules: what one allows, what it covers, and how it is shown in refusals.

use super::Attributes;
use api::{Value, json};
use serde::{Deserialize, Serialize};

/// `rbac.authorization.k8s.io/v1` PolicyRule.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Rule {
    #[serde(deserialize_with = "nullable")]
    pub verbs: Vec<String>,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub api_groups: Vec<String>,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<String>,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub resource_names: Vec<String>,
    #[serde(
        rename = "nonResourceURLs",
        deserialize_with = "nullable",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub non_resource_urls: Vec<String>,
}

fn nullable<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::deserialize(d)?.unwrap_or_default())
}

/// The rules of a role object; a rule that cannot be read allows nothing and is left out.
pub fn rules_of(role: &Value) -> Vec<Rule> {
    crate::values::items(role, &["rules"]).iter().filter_map(|r| Rule::deserialize(r).ok()).collect()
}

fn has(set: &[String], wanted: &str) -> bool {
    set.iter().any(|s| s == wanted)
}

fn has_or_all(set: &[String], wanted: &str) -> bool {
    set.iter().any(|s| s == "*" || s == wanted)
}

/// `resource/subresource` without building the string.
fn is_combined(text: &str, resource: &str, subresource: &str) -> bool {
    if subresource.is_empty() {
        return text == resource;
    }
    text.len() == resource.len() + 1 + subresource.len()
        && text.starts_with(resource)
        && text.as_bytes()[resource.len()] == b'/'
        && text.ends_with(subresource)
}

fn url_covers(owner: &str, path: &str) -> bool {
    owner == path || owner.ends_with('*') && path.starts_with(owner.trim_end_matches('*'))
}

impl Rule {
    pub fn allows(&self, a: &Attributes<'_>) -> bool {
        if !has_or_all(&self.verbs, a.verb) {
            return false;
        }
        if !a.resource_request {
            return self.non_resource_urls.iter().any(|u| url_covers(u, a.path));
        }
        has_or_all(&self.api_groups, a.group)
            && self.resources.iter().any(|r| r == "*" || self.resource_matches(r, a))
            && (self.resource_names.is_empty() || has(&self.resource_names, a.name))
    }

    fn resource_matches(&self, rule: &str, a: &Attributes<'_>) -> bool {
        is_combined(rule, a.resource, a.subresource)
            || !a.subresource.is_empty() && rule.strip_prefix("*/") == Some(a.subresource)
    }

    /// One rule per combination of group, resource, verb and name, and per path and verb.
    fn breakdown(&self) -> Vec<Rule> {
        let one = |s: &String| vec![s.clone()];
        let mut out = Vec::new();
        for group in &self.api_groups {
            for resource in &self.resources {
                for verb in &self.verbs {
                    let base = Rule {
                        api_groups: one(group),
                        resources: one(resource),
                        verbs: one(verb),
                        ..Default::default()
                    };
                    if self.resource_names.is_empty() {
                        out.push(base);
                        continue;
                    }
                    let named = |n| Rule { resource_names: one(n), ..base.clone() };
                    out.extend(self.resource_names.iter().map(named));
                }
            }
        }
        for url in &self.non_resource_urls {
            let of = |v| Rule { non_resource_urls: one(url), verbs: one(v), ..Default::default() };
            out.extend(self.verbs.iter().map(of));
        }
        out
    }

    /// Whether this rule allows all that an atomic rule allows.
    fn covers(&self, atom: &Rule) -> bool {
        let all = |set: &[String], wanted: &[String]| has(set, "*") || wanted.iter().all(|w| has(set, w));
        let names = self.resource_names.is_empty()
            || !atom.resource_names.is_empty()
                && atom.resource_names.iter().all(|n| has(&self.resource_names, n));
        let resource = |r: &String| {
            let sub = r.split_once('/').map(|(_, sub)| format!("*/{sub}"));
            has_or_all(&self.resources, r) || sub.is_some_and(|s| has(&self.resources, &s))
        };
        let url = |u: &String| self.non_resource_urls.iter().any(|o| url_covers(o, u));
        all(&self.verbs, &atom.verbs)
            && all(&self.api_groups, &atom.api_groups)
            && atom.resources.iter().all(resource)
            && names
            && atom.non_resource_urls.iter().all(url)
    }

    /// As refusals of an escalation show it.
    fn compact_text(&self) -> String {
        let mut parts = Vec::new();
        for (label, list) in [
            ("APIGroups", &self.api_groups),
            ("Resources", &self.resources),
            ("NonResourceURLs", &self.non_resource_urls),
            ("ResourceNames", &self.resource_names),
            ("Verbs", &self.verbs),
        ] {
            if !list.is_empty() {
                parts.push(format!("{label}:{}", quoted(list)));
            }
        }
        format!("{{{}}}", parts.join(", "))
    }

    /// ResourceRule of a SelfSubjectRulesReview.
    pub(super) fn to_resource_rule(&self) -> Value {
        let mut out = json!({"verbs": self.verbs, "apiGroups": self.api_groups, "resources": self.resources});
        if !self.resource_names.is_empty() {
            out["resourceNames"] = json!(self.resource_names);
        }
        out
    }
}

/// `["a" "b"]`
pub(super) fn quoted(list: &[String]) -> String {
    let texts: Vec<String> = list.iter().map(|s| format!("{s:?}")).collect();
    format!("[{}]", texts.join(" "))
}

/// The atoms of `servant` that no rule of `owner` covers.
pub fn uncovered(owner: &[Rule], servant: &[Rule]) -> Vec<Rule> {
    servant.iter().flat_map(Rule::breakdown).filter(|atom| !owner.iter().any(|o| o.covers(atom))).collect()
}

/// Atoms merged by resource, as sorted texts.
pub(super) fn compact_texts(atoms: Vec<Rule>) -> Vec<String> {
    let mut merged: Vec<Rule> = Vec::new();
    for atom in atoms {
        let same = |r: &&mut Rule| {
            r.non_resource_urls.is_empty()
                && atom.non_resource_urls.is_empty()
                && r.api_groups == atom.api_groups
                && r.resources == atom.resources
                && r.resource_names == atom.resource_names
        };
        match merged.iter_mut().find(same) {
            Some(rule) => rule.verbs.extend(atom.verbs),
            None => merged.push(atom),
        }
    }
    let mut texts: Vec<String> = merged.iter().map(Rule::compact_text).collect();
    texts.sort();
    texts.dedup();
    texts
}
