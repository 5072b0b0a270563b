//! Which requests a webhook, a policy or a binding is for: rules, and selectors of namespaces and objects.

use crate::attributes::{Attributes, Operation};
use crate::live::fetch;
use crate::objects::{items, labels, strings, text};
use crate::versions;
use api::registry::Registry;
use api::selectors::Selector;
use api::status::{Result, Status};
use api::{GroupVersionKind, GroupVersionResource, Map, Value};

struct Rule {
    operations: Vec<String>,
    groups: Vec<String>,
    versions: Vec<String>,
    /// Resource and subresource.
    resources: Vec<(String, String)>,
    /// Objects' names; all if there are none.
    names: Vec<String>,
    scope: String,
}

/// The resource and kind in which a hook or policy sees a request.
#[derive(Clone, Debug, PartialEq)]
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
            names: strings(v, &["resourceNames"]),
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
            && (self.names.is_empty() || self.names.contains(&a.name))
            && self
                .resources
                .iter()
                .any(|(r, s)| (r == "*" || *r == resource.resource) && (s == "*" || *s == a.subresource))
    }
}

type MaybeSelector = std::result::Result<Selector, String>;

/// What is asked of a request.
pub struct Criteria {
    rules: Vec<Rule>,
    excluded: Vec<Rule>,
    /// Without rules everything matches, as for bindings, rather than nothing.
    open: bool,
    equivalent: bool,
    namespaces: MaybeSelector,
    objects: MaybeSelector,
}

fn selector(v: &Value, key: &str) -> MaybeSelector {
    match v.get(key) {
        None | Some(Value::Null) => Ok(Selector::everything()),
        found => Selector::from_label_selector(found),
    }
}

impl Criteria {
    /// Those of a webhook.
    pub fn of_webhook(v: &Value) -> Self {
        Criteria { rules: rules(v, "rules"), ..Criteria::base(v) }
    }

    /// The `matchConstraints` of a policy.
    pub fn of_policy(v: &Value) -> Self {
        Criteria {
            rules: rules(v, "resourceRules"),
            excluded: rules(v, "excludeResourceRules"),
            ..Criteria::base(v)
        }
    }

    /// The `matchResources` of a binding.
    pub fn of_binding(v: &Value) -> Self {
        Criteria { open: true, ..Criteria::of_policy(v) }
    }

    fn base(v: &Value) -> Self {
        Criteria {
            rules: Vec::new(),
            excluded: Vec::new(),
            open: false,
            equivalent: text(v, &["matchPolicy"]) != "Exact",
            namespaces: selector(v, "namespaceSelector"),
            objects: selector(v, "objectSelector"),
        }
    }

    /// How the request is to be seen, if it is wanted.
    pub async fn find(&self, a: &Attributes, registry: &dyn Registry) -> Result<Option<Match>> {
        if self.by_rules(&self.excluded, a, registry).is_some() {
            return Ok(None);
        }
        let found = match self.by_rules(&self.rules, a, registry) {
            Some(found) => found,
            None if self.open && self.rules.is_empty() => {
                Match { resource: a.resource.clone(), kind: a.kind.clone() }
            }
            None => return Ok(None),
        };
        let wanted = self.wants_object(a)? && self.wants_namespace(a, registry).await?;
        Ok(wanted.then_some(found))
    }

    fn by_rules(&self, rules: &[Rule], a: &Attributes, registry: &dyn Registry) -> Option<Match> {
        if rules.iter().any(|r| r.matches(a, &a.resource)) {
            return Some(Match { resource: a.resource.clone(), kind: a.kind.clone() });
        }
        if !self.equivalent || rules.is_empty() {
            return None;
        }
        let others = versions::equivalents(registry, &a.resource, &a.subresource);
        rules.iter().find_map(|rule| {
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

fn rules(v: &Value, key: &str) -> Vec<Rule> {
    items(v, &[key]).iter().map(Rule::read).collect()
}
