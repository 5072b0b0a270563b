//! Which requests a webhook or policy is for.

use super::expressions;
use crate::metadata::{SelectorOptions, label_selector};
use crate::value::Get;
use crate::{checks, names};
use api::Value;
use api::field::{Error, ErrorList, Path};
use std::collections::HashSet;

const OPERATIONS: [&str; 5] = ["*", "CREATE", "UPDATE", "DELETE", "CONNECT"];
const MUTABLE: [&str; 4] = ["*", "CREATE", "UPDATE", "CONNECT"];
pub const MATCH_POLICIES: [&str; 2] = ["Equivalent", "Exact"];

/// Operations, groups, versions and resources.
pub fn rule(rule: &Value, at: &Path, e: &mut ErrorList) {
    checks::required(rule, "operations", at, e);
    alone(rule, "operations", "operations", at, e);
    for (i, operation) in rule.texts("operations").enumerate() {
        checks::one_of(operation, &OPERATIONS, &at.child("operations").index(i), e);
    }
    checks::required(rule, "apiGroups", at, e);
    alone(rule, "apiGroups", "API groups", at, e);
    checks::required(rule, "apiVersions", at, e);
    alone(rule, "apiVersions", "API versions", at, e);
    for (i, version) in rule.texts("apiVersions").enumerate() {
        if version.is_empty() {
            e.push(Error::required(&at.child("apiVersions").index(i), ""));
        }
    }
    resources(rule, at, e);
    checks::opt_one_of(rule, "scope", &["*", "Cluster", "Namespaced"], at, e);
}

/// A wildcard must be the only one.
fn alone(rule: &Value, key: &str, what: &str, at: &Path, e: &mut ErrorList) {
    if rule.len(key) > 1 && rule.texts(key).any(|t| t == "*") {
        let text = format!("if '*' is present, must not specify other {what}");
        e.push(Error::invalid(&at.child(key), rule.at(key).clone(), text));
    }
}

fn resources(rule: &Value, at: &Path, e: &mut ErrorList) {
    checks::required(rule, "resources", at, e);
    let at = at.child("resources");
    let (mut all_subresources, mut of_all) = (HashSet::new(), HashSet::new());
    let (mut everything, mut all, mut plain) = (false, false, false);
    for (i, text) in rule.texts("resources").enumerate() {
        let at = at.index(i);
        if text.is_empty() {
            e.push(Error::required(&at, ""));
            continue;
        }
        everything |= text == "*/*";
        all |= text == "*";
        let Some((resource, sub)) = text.split_once('/') else {
            plain = text != "*";
            continue;
        };
        if all_subresources.contains(resource) {
            let why = format!("if '{resource}/*' is present, must not specify {text}");
            e.push(Error::invalid(&at, text, why));
        }
        if of_all.contains(sub) {
            e.push(Error::invalid(&at, text, format!("if '*/{sub}' is present, must not specify {text}")));
        }
        if sub == "*" {
            all_subresources.insert(resource);
        }
        if resource == "*" {
            of_all.insert(sub);
        }
    }
    let whole = || rule.at("resources").clone();
    if everything && rule.len("resources") > 1 {
        e.push(Error::invalid(&at, whole(), "if '*/*' is present, must not specify other resources"));
    }
    if all && plain {
        let text = "if '*' is present, must not specify other resources without subresources";
        e.push(Error::invalid(&at, whole(), text));
    }
}

/// The `matchConstraints` and `matchResources` of policies and bindings.
pub fn match_resources(m: &Value, at: &Path, e: &mut ErrorList) {
    checks::one_of_pointed(m, "matchPolicy", &MATCH_POLICIES, at, e);
    for key in ["namespaceSelector", "objectSelector"] {
        if m.has(key) {
            label_selector(m.at(key), SelectorOptions::default(), &at.child(key), e);
        } else {
            e.push(Error::required(&at.child(key), ""));
        }
    }
    for key in ["resourceRules", "excludeResourceRules"] {
        for (i, named) in m.list(key).iter().enumerate() {
            let at = at.child(key).index(i);
            let mut seen = HashSet::new();
            for (i, name) in named.texts("resourceNames").enumerate() {
                let at = at.child("resourceNames").index(i);
                checks::texts(name, names::path_segment(name, false), &at, e);
                if !seen.insert(name) {
                    e.push(Error::duplicate(&at, name));
                }
            }
            rule(named, &at, e);
        }
    }
}

/// Deletions cannot be changed.
pub fn mutable_only(m: &Value, at: &Path, e: &mut ErrorList) {
    let at = at.child("resourceRules").child("operations");
    for operation in m.list("resourceRules").iter().flat_map(|r| r.texts("operations")) {
        checks::one_of(operation, &MUTABLE, &at, e);
    }
}

/// Names and expressions. Those of policies may use their parameters.
pub fn match_conditions(list: &[Value], params: bool, at: &Path, e: &mut ErrorList) {
    if list.len() > 64 {
        e.push(Error::too_many(at, list.len(), 64));
    }
    let mut seen = HashSet::new();
    for (i, condition) in list.iter().enumerate() {
        let at = at.index(i);
        if condition.text("expression").trim().is_empty() {
            e.push(Error::required(&at.child("expression"), ""));
        } else {
            expressions::match_condition(condition.text("expression"), params, &at.child("expression"), e);
        }
        let name = condition.text("name");
        if name.is_empty() {
            e.push(Error::required(&at.child("name"), ""));
            continue;
        }
        checks::qualified(name, &at.child("name"), e);
        if !seen.insert(name) {
            e.push(Error::duplicate(&at.child("name"), name));
        }
    }
}
