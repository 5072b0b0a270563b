//! The configured webhooks, read again when a configuration changes, and which requests they want.

use super::versions;
use crate::attributes::{Attributes, Operation};
use crate::live::fetch;
use crate::objects::{at, items, labels, name, strings, text};
use api::registry::Registry;
use api::selectors::Selector;
use api::status::{Result, Status};
use api::{GroupVersionKind, GroupVersionResource, Map, Value};
use arc_swap::ArcSwapOption;
use std::sync::Arc;
use std::time::Duration;

pub const GROUP: &str = "admissionregistration.k8s.io";

struct Rule {
    operations: Vec<String>,
    groups: Vec<String>,
    versions: Vec<String>,
    /// Resource and subresource.
    resources: Vec<(String, String)>,
    scope: String,
}

/// One webhook of one configuration.
pub struct Hook {
    /// Unique among all hooks.
    pub id: String,
    pub configuration: String,
    pub name: String,
    pub client_config: Value,
    pub timeout: Duration,
    pub ignore_failure: bool,
    pub no_side_effects: bool,
    pub reinvoke_if_needed: bool,
    review_versions: Vec<String>,
    equivalent: bool,
    conditional: bool,
    rules: Vec<Rule>,
    namespaces: std::result::Result<Selector, String>,
    objects: std::result::Result<Selector, String>,
}

/// The resource and kind in which a hook sees a request.
pub struct Match {
    pub resource: GroupVersionResource,
    pub kind: GroupVersionKind,
}

impl Rule {
    fn read(v: &Value) -> Self {
        let split = |s: String| match s.split_once('/') {
            Some((resource, sub)) => (resource.to_owned(), sub.to_owned()),
            None => (s, String::new()),
        };
        Rule {
            operations: strings(v, &["operations"]),
            groups: strings(v, &["apiGroups"]),
            versions: strings(v, &["apiVersions"]),
            resources: strings(v, &["resources"]).into_iter().map(split).collect(),
            scope: text(v, &["scope"]).to_owned(),
        }
    }

    fn matches(&self, a: &Attributes, resource: &GroupVersionResource) -> bool {
        let any = |list: &[String], wanted: &str| list.iter().any(|x| x == "*" || x == wanted);
        let namespace_itself = resource.group.is_empty() && resource.resource == "namespaces";
        let namespaced = !a.namespace.is_empty() && !namespace_itself;
        let in_scope = match self.scope.as_str() {
            "Namespaced" => namespaced,
            "Cluster" => !namespaced,
            _ => true,
        };
        in_scope
            && any(&self.operations, a.operation.as_str())
            && any(&self.groups, &resource.group)
            && any(&self.versions, &resource.version)
            && self
                .resources
                .iter()
                .any(|(r, s)| (r == "*" || *r == resource.resource) && (s == "*" || *s == a.subresource))
    }
}

impl Hook {
    fn read(configuration: &str, index: usize, v: &Value) -> Self {
        let hook = text(v, &["name"]);
        let selector = |key: &str| match v.get(key) {
            None | Some(Value::Null) => Ok(Selector::everything()),
            found => Selector::from_label_selector(found),
        };
        let seconds = at(v, &["timeoutSeconds"]).as_u64().unwrap_or(10).clamp(1, 30);
        Hook {
            id: format!("{configuration}/{hook}/{index}"),
            configuration: configuration.to_owned(),
            name: hook.to_owned(),
            client_config: at(v, &["clientConfig"]).clone(),
            timeout: Duration::from_secs(seconds),
            ignore_failure: text(v, &["failurePolicy"]) == "Ignore",
            no_side_effects: matches!(text(v, &["sideEffects"]), "None" | "NoneOnDryRun"),
            reinvoke_if_needed: text(v, &["reinvocationPolicy"]) == "IfNeeded",
            review_versions: strings(v, &["admissionReviewVersions"]),
            equivalent: text(v, &["matchPolicy"]) != "Exact",
            conditional: !items(v, &["matchConditions"]).is_empty(),
            rules: items(v, &["rules"]).iter().map(Rule::read).collect(),
            namespaces: selector("namespaceSelector"),
            objects: selector("objectSelector"),
        }
    }

    /// The first version of AdmissionReview that both sides know.
    pub fn review_version(&self) -> Option<&'static str> {
        let known = |v: &String| ["v1", "v1beta1"].into_iter().find(|k| k == v);
        self.review_versions.iter().find_map(known)
    }

    /// How the hook is to see the request, if it wants to.
    pub async fn matches(&self, a: &Attributes, registry: &dyn Registry) -> Result<Option<Match>> {
        let Some(found) = self.by_rules(a, registry) else { return Ok(None) };
        if !self.wants_object(a)? || !self.wants_namespace(a, registry).await? {
            return Ok(None);
        }
        if self.conditional {
            // Conditions are CEL expressions, which this server cannot evaluate: that is a failure
            // of the hook, and its policy decides.
            let why = format!("webhook {:?} has matchConditions, which cannot be evaluated", self.name);
            if self.ignore_failure {
                tracing::warn!(webhook = self.name, why, "webhook skipped");
                return Ok(None);
            }
            return Err(a.forbidden(why));
        }
        Ok(Some(found))
    }

    fn by_rules(&self, a: &Attributes, registry: &dyn Registry) -> Option<Match> {
        if self.rules.iter().any(|r| r.matches(a, &a.resource)) {
            return Some(Match { resource: a.resource.clone(), kind: a.kind.clone() });
        }
        if !self.equivalent {
            return None;
        }
        let others = versions::equivalents(registry, &a.resource, &a.subresource);
        self.rules.iter().find_map(|rule| {
            let found = others.iter().find(|(resource, _)| rule.matches(a, resource))?;
            Some(Match { resource: found.0.clone(), kind: found.1.clone() })
        })
    }

    fn wants_object(&self, a: &Attributes) -> Result<bool> {
        let selector = self.objects.as_ref().map_err(Status::internal)?;
        if selector.is_empty() {
            return Ok(true);
        }
        let matches = |o: &Value| o.get("metadata").is_some() && selector.matches(&labels(o));
        Ok(a.object.as_ref().is_some_and(matches) || a.old_object.as_deref().is_some_and(matches))
    }

    async fn wants_namespace(&self, a: &Attributes, registry: &dyn Registry) -> Result<bool> {
        let namespaces = a.is("", "namespaces");
        if a.namespace.is_empty() && !namespaces {
            return Ok(true);
        }
        let selector = self.namespaces.as_ref().map_err(Status::internal)?;
        if selector.is_empty() {
            return Ok(true);
        }
        let writes_it = namespaces
            && a.subresource.is_empty()
            && matches!(a.operation, Operation::Create | Operation::Update);
        let found: Map<String, Value> = match &a.object {
            Some(object) if writes_it => labels(object),
            _ => {
                let wanted = if namespaces { &a.name } else { &a.namespace };
                labels(&*fetch(registry, ("", "namespaces"), "", wanted).await?)
            }
        };
        Ok(selector.matches(&found))
    }
}

type List = Arc<Vec<Arc<Hook>>>;

/// All hooks of one sort, by name of their configurations.
pub struct Hooks {
    registry: Arc<dyn Registry>,
    resource: &'static str,
    current: ArcSwapOption<(i64, List)>,
}

impl Hooks {
    pub fn new(registry: Arc<dyn Registry>, resource: &'static str) -> Self {
        Hooks { registry, resource, current: ArcSwapOption::empty() }
    }

    pub fn current(&self) -> List {
        let gr = (GROUP, self.resource);
        let revision = self.registry.revision(gr);
        if let Some(known) = self.current.load_full()
            && known.0 == revision
        {
            return known.1.clone();
        }
        let mut configurations = self.registry.list(gr, None);
        configurations.sort_by(|a, b| name(a).cmp(name(b)));
        let read = |c: &Arc<Value>| {
            let hooks = items(c, &["webhooks"]).iter().enumerate();
            hooks.map(|(i, v)| Arc::new(Hook::read(name(c), i, v))).collect::<Vec<_>>()
        };
        let list: List = Arc::new(configurations.iter().flat_map(read).collect());
        self.current.store(Some(Arc::new((revision, list.clone()))));
        list
    }
}
