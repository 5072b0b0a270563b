//! FlowSchemas: which requests belong together, and to which level.

mod rules;

use api::Value;
use rules::Rule;

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

/// One FlowSchema, read once so that requests meet no JSON.
#[derive(Debug)]
pub struct Schema {
    pub name: String,
    pub uid: String,
    pub level: String,
    pub precedence: i64,
    method: Option<Method>,
    rules: Vec<Rule>,
}

impl Schema {
    pub fn of(object: &Value) -> Option<Schema> {
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
            rules: rules::items(&spec["rules"]).map(Rule::of).collect(),
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
        self.rules.iter().any(|r| r.fits(digest))
    }
}
