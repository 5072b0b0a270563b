//! Flow schemas: which of them, and so which priority level, a request belongs to.
//!
//! Requests are told in headers. How many may be worked on at once is decided by the in-flight limits alone; nothing
//! is queued by level.

use crate::request::RequestInfo;
use crate::server::Server;
use api::Value;
use auth::UserInfo;
use http::{HeaderMap, HeaderValue};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::{Duration, Instant};

const GROUP: &str = "flowcontrol.apiserver.k8s.io";
/// How soon a change of the objects is noticed.
const FRESH: Duration = Duration::from_secs(1);

/// The schemas in the order in which they are tried.
#[derive(Default)]
pub struct Classifier {
    known: Mutex<Option<(Instant, Arc<Vec<Schema>>)>>,
}

struct Schema {
    object: Arc<Value>,
    uid: HeaderValue,
    level: HeaderValue,
}

impl Classifier {
    fn schemas(&self, server: &Server) -> Arc<Vec<Schema>> {
        let mut known = self.known.lock();
        if let Some((read, schemas)) = known.as_ref()
            && read.elapsed() < FRESH
        {
            return schemas.clone();
        }
        let mut found: Vec<Schema> = server
            .registry
            .list((GROUP, "flowschemas"), None)
            .into_iter()
            .filter_map(|o| schema(server, o))
            .collect();
        found.sort_by_key(|s| {
            let precedence = s.object["spec"]["matchingPrecedence"].as_i64().unwrap_or(i64::MAX);
            (precedence, s.object["metadata"]["name"].as_str().unwrap_or_default().to_owned())
        });
        let found = Arc::new(found);
        *known = Some((Instant::now(), found.clone()));
        found
    }

    /// Tells the client which schema and level its request belonged to.
    pub fn tell(&self, server: &Server, user: &UserInfo, info: &RequestInfo, headers: &mut HeaderMap) {
        let schemas = self.schemas(server);
        if let Some(s) = schemas.iter().find(|s| fits(&s.object, user, info)) {
            headers.insert("x-kubernetes-pf-flowschema-uid", s.uid.clone());
            headers.insert("x-kubernetes-pf-prioritylevel-uid", s.level.clone());
        }
    }
}

fn schema(server: &Server, object: Arc<Value>) -> Option<Schema> {
    let name = object["spec"]["priorityLevelConfiguration"]["name"].as_str()?;
    let level = server.registry.get((GROUP, "prioritylevelconfigurations"), "", name)?;
    let uid = |o: &Value| HeaderValue::from_str(o["metadata"]["uid"].as_str()?).ok();
    Some(Schema { uid: uid(&object)?, level: uid(&level)?, object })
}

fn list(v: &Value) -> impl Iterator<Item = &Value> {
    v.as_array().into_iter().flatten()
}

fn has(v: &Value, wanted: &str) -> bool {
    list(v).any(|x| x == "*" || x == wanted)
}

fn fits(schema: &Value, user: &UserInfo, info: &RequestInfo) -> bool {
    list(&schema["spec"]["rules"]).any(|rule| {
        list(&rule["subjects"]).any(|s| is_subject(s, user))
            && if info.is_resource {
                list(&rule["resourceRules"]).any(|r| resource(r, info))
            } else {
                list(&rule["nonResourceRules"]).any(|r| path(r, info))
            }
    })
}

fn is_subject(subject: &Value, user: &UserInfo) -> bool {
    let is = |v: &Value, text: &str| v == "*" || v == text;
    match subject["kind"].as_str() {
        Some("User") => is(&subject["user"]["name"], &user.name),
        Some("Group") => {
            let name = &subject["group"]["name"];
            name == "*" || user.groups.iter().any(|g| name == g.as_str())
        }
        Some("ServiceAccount") => {
            let account = user.name.strip_prefix("system:serviceaccount:").and_then(|n| n.split_once(':'));
            let wanted = &subject["serviceAccount"];
            account.is_some_and(|(namespace, name)| {
                wanted["namespace"] == namespace && is(&wanted["name"], name)
            })
        }
        _ => false,
    }
}

fn resource(rule: &Value, info: &RequestInfo) -> bool {
    let name = match info.subresource.as_str() {
        "" => info.resource.clone(),
        sub => format!("{}/{sub}", info.resource),
    };
    let scope = if info.namespace.is_empty() {
        rule["clusterScope"] == true
    } else {
        has(&rule["namespaces"], &info.namespace)
    };
    scope
        && has(&rule["verbs"], info.verb)
        && has(&rule["apiGroups"], &info.group)
        && has(&rule["resources"], &name)
}

fn path(rule: &Value, info: &RequestInfo) -> bool {
    let url = |pattern: &str| match pattern.strip_suffix("/*") {
        Some(prefix) => info.path.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('/')),
        None => pattern == "*" || pattern == info.path,
    };
    has(&rule["verbs"], info.verb) && list(&rule["nonResourceURLs"]).filter_map(Value::as_str).any(url)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::query::Query;
    use api::json;
    use http::Method;

    #[test]
    fn rules_name_subjects_and_what_they_do() {
        let schema = json!({"spec": {"rules": [
            {"subjects": [{"kind": "Group", "group": {"name": "g"}}],
             "resourceRules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods/log"], "namespaces": ["a"]}]},
            {"subjects": [{"kind": "ServiceAccount", "serviceAccount": {"namespace": "a", "name": "*"}}],
             "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["nodes"], "clusterScope": true}],
             "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": ["/metrics/*", "/livez"]}]},
        ]}});
        let member = UserInfo::new("x", &["g"]);
        let account = UserInfo::new("system:serviceaccount:a:b", &[]);
        for (user, uri, want) in [
            (&member, "/api/v1/namespaces/a/pods/p/log", true),
            (&member, "/api/v1/namespaces/b/pods/p/log", false),
            (&member, "/api/v1/namespaces/a/pods/p", false),
            (&account, "/api/v1/nodes", true),
            (&account, "/livez", true),
            (&account, "/metrics/slis", true),
            (&account, "/metrics", false),
            (&member, "/livez", false),
        ] {
            let info = RequestInfo::parse(&Method::GET, uri, &Query::default()).unwrap();
            assert_eq!(fits(&schema, user, &info), want, "{} {uri}", user.name);
        }
    }
}
