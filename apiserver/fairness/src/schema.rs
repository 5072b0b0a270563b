//! FlowSchemas: which requests belong together, and to which level.

use api::Value;
use std::sync::Arc;

/// A request in the words of rules.
#[derive(Clone, Copy, Debug, Default)]
pub struct Digest<'a> {
    pub user: &'a str,
    pub groups: &'a [String],
    pub verb: &'a str,
    pub is_resource: bool,
    pub path: &'a str,
    pub group: &'a str,
    pub version: &'a str,
    pub resource: &'a str,
    pub subresource: &'a str,
    pub namespace: &'a str,
    pub name: &'a str,
}

/// How the requests of a schema are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Method {
    ByUser,
    ByNamespace,
}

/// One FlowSchema.
#[derive(Debug)]
pub struct Schema {
    pub name: String,
    pub uid: String,
    pub level: String,
    pub precedence: i64,
    method: Option<Method>,
    object: Arc<Value>,
}

fn list(v: &Value) -> impl Iterator<Item = &Value> {
    v.as_array().into_iter().flatten()
}

fn has(v: &Value, wanted: &str) -> bool {
    list(v).any(|x| x == "*" || x == wanted)
}

impl Schema {
    pub fn of(object: &Arc<Value>) -> Option<Schema> {
        let text = |v: &Value| v.as_str().map(str::to_owned);
        let spec = &object["spec"];
        Some(Schema {
            name: text(&object["metadata"]["name"])?,
            uid: text(&object["metadata"]["uid"]).unwrap_or_default(),
            level: text(&spec["priorityLevelConfiguration"]["name"])?,
            precedence: spec["matchingPrecedence"].as_i64().unwrap_or(i64::MAX),
            method: match spec["distinguisherMethod"]["type"].as_str() {
                Some("ByUser") => Some(Method::ByUser),
                Some("ByNamespace") => Some(Method::ByNamespace),
                _ => None,
            },
            object: object.clone(),
        })
    }

    /// What makes a flow of its requests.
    pub fn distinguisher<'a>(&self, digest: &Digest<'a>) -> &'a str {
        match self.method {
            Some(Method::ByUser) => digest.user,
            Some(Method::ByNamespace) => digest.namespace,
            None => "",
        }
    }

    pub fn fits(&self, digest: &Digest<'_>) -> bool {
        list(&self.object["spec"]["rules"]).any(|rule| {
            list(&rule["subjects"]).any(|s| is_subject(s, digest))
                && if digest.is_resource {
                    list(&rule["resourceRules"]).any(|r| resource(r, digest))
                } else {
                    list(&rule["nonResourceRules"]).any(|r| path(r, digest))
                }
        })
    }
}

fn is_subject(subject: &Value, digest: &Digest<'_>) -> bool {
    let is = |v: &Value, text: &str| v == "*" || v == text;
    match subject["kind"].as_str() {
        Some("User") => is(&subject["user"]["name"], digest.user),
        Some("Group") => {
            let name = &subject["group"]["name"];
            name == "*" || digest.groups.iter().any(|g| name == g.as_str())
        }
        Some("ServiceAccount") => {
            let account = digest.user.strip_prefix("system:serviceaccount:").and_then(|n| n.split_once(':'));
            let wanted = &subject["serviceAccount"];
            account.is_some_and(|(namespace, name)| {
                wanted["namespace"] == namespace && is(&wanted["name"], name)
            })
        }
        _ => false,
    }
}

fn resource(rule: &Value, digest: &Digest<'_>) -> bool {
    let scope = if digest.namespace.is_empty() {
        rule["clusterScope"] == true
    } else {
        has(&rule["namespaces"], digest.namespace)
    };
    scope
        && has(&rule["verbs"], digest.verb)
        && has(&rule["apiGroups"], digest.group)
        && list(&rule["resources"]).filter_map(Value::as_str).any(|r| is_resource(r, digest))
}

fn is_resource(rule: &str, digest: &Digest<'_>) -> bool {
    if digest.subresource.is_empty() {
        return rule == "*" || rule == digest.resource;
    }
    rule == "*" || rule.split_once('/').is_some_and(|(r, s)| r == digest.resource && s == digest.subresource)
}

fn path(rule: &Value, digest: &Digest<'_>) -> bool {
    let url = |pattern: &str| match pattern.strip_suffix("/*") {
        Some(prefix) => digest.path.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('/')),
        None => pattern == "*" || pattern == digest.path,
    };
    has(&rule["verbs"], digest.verb) && list(&rule["nonResourceURLs"]).filter_map(Value::as_str).any(url)
}
