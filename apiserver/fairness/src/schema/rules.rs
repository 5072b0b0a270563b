//! A FlowSchema's rules: who, and what of theirs.

use super::Digest;
use api::Value;

/// Names of which any one will do, or all that there are.
#[derive(Debug, PartialEq, Eq)]
enum Names {
    All,
    These(Vec<String>),
}

impl Names {
    fn of(list: &Value) -> Names {
        let names: Vec<String> = texts(list).map(str::to_owned).collect();
        if names.iter().any(|n| n == "*") { Names::All } else { Names::These(names) }
    }

    fn one(name: &Value) -> Names {
        match name.as_str().unwrap_or_default() {
            "*" => Names::All,
            name => Names::These(vec![name.to_owned()]),
        }
    }

    fn has(&self, wanted: &str) -> bool {
        match self {
            Names::All => true,
            Names::These(names) => names.iter().any(|n| n == wanted),
        }
    }
}

#[derive(Debug)]
enum Subject {
    User(Names),
    Group(Names),
    ServiceAccount { namespace: String, name: Names },
}

impl Subject {
    fn of(subject: &Value) -> Option<Subject> {
        match subject["kind"].as_str()? {
            "User" => Some(Subject::User(Names::one(&subject["user"]["name"]))),
            "Group" => Some(Subject::Group(Names::one(&subject["group"]["name"]))),
            "ServiceAccount" => Some(Subject::ServiceAccount {
                namespace: subject["serviceAccount"]["namespace"].as_str()?.to_owned(),
                name: Names::one(&subject["serviceAccount"]["name"]),
            }),
            _ => None,
        }
    }

    fn fits(&self, digest: &Digest<'_>) -> bool {
        match self {
            Subject::User(names) => names.has(digest.user),
            Subject::Group(Names::All) => true,
            Subject::Group(names) => digest.groups.iter().any(|g| names.has(g)),
            Subject::ServiceAccount { namespace, name } => digest
                .user
                .strip_prefix("system:serviceaccount:")
                .and_then(|account| account.split_once(':'))
                .is_some_and(|(of, account)| of == namespace && name.has(account)),
        }
    }
}

#[derive(Debug)]
struct ResourceRule {
    verbs: Names,
    groups: Names,
    /// `resource` or `resource/subresource`; all of them also means all subresources.
    resources: Names,
    namespaces: Names,
    cluster_scope: bool,
}

impl ResourceRule {
    fn of(rule: &Value) -> ResourceRule {
        ResourceRule {
            verbs: Names::of(&rule["verbs"]),
            groups: Names::of(&rule["apiGroups"]),
            resources: Names::of(&rule["resources"]),
            namespaces: Names::of(&rule["namespaces"]),
            cluster_scope: rule["clusterScope"] == true,
        }
    }

    fn fits(&self, digest: &Digest<'_>) -> bool {
        let scope = match digest.namespace {
            "" => self.cluster_scope,
            namespace => self.namespaces.has(namespace),
        };
        scope && self.verbs.has(digest.verb) && self.groups.has(digest.group) && self.is_of(digest)
    }

    fn is_of(&self, digest: &Digest<'_>) -> bool {
        let Names::These(resources) = &self.resources else { return true };
        resources.iter().any(|rule| match digest.subresource {
            "" => rule == digest.resource,
            part => rule.split_once('/').is_some_and(|(r, s)| r == digest.resource && s == part),
        })
    }
}

#[derive(Debug)]
struct PathRule {
    verbs: Names,
    paths: Vec<String>,
}

impl PathRule {
    fn of(rule: &Value) -> PathRule {
        let paths = texts(&rule["nonResourceURLs"]).map(str::to_owned).collect();
        PathRule { verbs: Names::of(&rule["verbs"]), paths }
    }

    fn fits(&self, digest: &Digest<'_>) -> bool {
        let is = |pattern: &String| match pattern.strip_suffix("/*") {
            Some(prefix) => digest.path.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('/')),
            None => pattern == "*" || pattern == digest.path,
        };
        self.verbs.has(digest.verb) && self.paths.iter().any(is)
    }
}

/// Somebody of these doing something of those.
#[derive(Debug)]
pub struct Rule {
    subjects: Vec<Subject>,
    resources: Vec<ResourceRule>,
    paths: Vec<PathRule>,
}

impl Rule {
    pub fn of(rule: &Value) -> Rule {
        Rule {
            subjects: items(&rule["subjects"]).filter_map(Subject::of).collect(),
            resources: items(&rule["resourceRules"]).map(ResourceRule::of).collect(),
            paths: items(&rule["nonResourceRules"]).map(PathRule::of).collect(),
        }
    }

    pub fn fits(&self, digest: &Digest<'_>) -> bool {
        self.subjects.iter().any(|s| s.fits(digest))
            && if digest.is_resource {
                self.resources.iter().any(|r| r.fits(digest))
            } else {
                self.paths.iter().any(|r| r.fits(digest))
            }
    }
}

/// What a list holds; nothing if it is none.
pub fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

fn texts(list: &Value) -> impl Iterator<Item = &str> {
    items(list).filter_map(Value::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::json;

    #[test]
    fn rules_fit_who_and_what_they_name() {
        let rule = Rule::of(&json!({
            "subjects": [
                {"kind": "User", "user": {"name": "jane"}},
                {"kind": "Group", "group": {"name": "devs"}},
                {"kind": "ServiceAccount", "serviceAccount": {"namespace": "a", "name": "*"}},
            ],
            "resourceRules": [
                {"verbs": ["list"], "apiGroups": [""], "resources": ["pods", "pods/log"], "namespaces": ["x"]},
                {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "clusterScope": true},
            ],
            "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": ["/healthz", "/api/*"]}],
        }));
        let devs = ["devs".to_owned()];
        let pods =
            Digest { user: "jane", verb: "list", is_resource: true, resource: "pods", ..Digest::default() };
        let path = Digest { user: "jane", verb: "get", path: "/healthz", ..Digest::default() };
        for (digest, fits) in [
            (Digest { namespace: "x", ..pods }, true),
            (Digest { namespace: "y", ..pods }, false),
            (Digest { namespace: "x", subresource: "log", ..pods }, true),
            (Digest { namespace: "x", subresource: "exec", ..pods }, false),
            (Digest { namespace: "x", verb: "get", ..pods }, false),
            (Digest { resource: "nodes", subresource: "status", verb: "patch", ..pods }, true),
            (Digest { user: "joe", ..pods }, false),
            (Digest { user: "joe", groups: &devs, ..pods }, true),
            (Digest { user: "system:serviceaccount:a:b", ..pods }, true),
            (Digest { user: "system:serviceaccount:b:b", ..pods }, false),
            (path, true),
            (Digest { path: "/api/v1", ..path }, true),
            (Digest { path: "/api", ..path }, false),
            (Digest { verb: "post", ..path }, false),
        ] {
            assert_eq!(rule.fits(&digest), fits, "{digest:?}");
        }
    }
}
