//! ResourceQuota: a namespace uses no more than its quotas allow. The usage in a quota's status is
//! raised, compared on its version, before the object is stored; a controller lowers it again.

mod evaluators;

use crate::attributes::{Attributes, Operation};
use crate::chain::{Deps, Plugin};
use crate::objects::{at, items, name, strings, text};
use crate::resources::{Amounts, amounts, plus};
use api::quantity::Quantity;
use api::registry::Registry;
use api::status::{Result, Status};
use api::{Map, Value};
use evaluators::{Evaluator, Scope};
use parking_lot::Mutex;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

const QUOTAS: (&str, &str) = ("", "resourcequotas");
const RETRIES: usize = 3;
/// Namespaces whose last written quotas are remembered.
const REMEMBERED: usize = 4096;
/// Resources that are questions rather than objects, and events.
const IGNORED: [(&str, &str); 10] = [
    ("", "bindings"),
    ("", "componentstatuses"),
    ("", "events"),
    ("events.k8s.io", "events"),
    ("authentication.k8s.io", "tokenreviews"),
    ("authentication.k8s.io", "selfsubjectreviews"),
    ("authorization.k8s.io", "localsubjectaccessreviews"),
    ("authorization.k8s.io", "selfsubjectaccessreviews"),
    ("authorization.k8s.io", "selfsubjectrulesreviews"),
    ("authorization.k8s.io", "subjectaccessreviews"),
];

/// A resource of which nothing may be made unless a quota covers it.
struct Limited {
    group: String,
    resource: String,
    match_contains: Vec<String>,
    match_scopes: Vec<Scope>,
}

/// The quotas of a namespace as we last wrote them; memory may still show older ones.
type Written = HashMap<String, Arc<Value>>;

pub struct ResourceQuota {
    registry: Arc<dyn Registry>,
    limited: Vec<Limited>,
    /// Requests of one namespace are checked one after the other.
    namespaces: Mutex<HashMap<String, Arc<tokio::sync::Mutex<Written>>>>,
}

fn revision(quota: &Value) -> u64 {
    text(quota, &["metadata", "resourceVersion"]).parse().unwrap_or(0)
}

impl ResourceQuota {
    pub fn new(deps: &Deps, config: Option<&Value>) -> Self {
        let limited = config.map_or(&[][..], |c| items(c, &["limitedResources"]));
        let read = |l: &Value| Limited {
            group: text(l, &["apiGroup"]).to_owned(),
            resource: text(l, &["resource"]).to_owned(),
            match_contains: strings(l, &["matchContains"]),
            match_scopes: items(l, &["matchScopes"]).iter().map(Scope::from_requirement).collect(),
        };
        ResourceQuota {
            registry: deps.registry.clone(),
            limited: limited.iter().map(read).collect(),
            namespaces: Mutex::default(),
        }
    }

    fn lane(&self, namespace: &str) -> Arc<tokio::sync::Mutex<Written>> {
        let mut lanes = self.namespaces.lock();
        if lanes.len() >= REMEMBERED {
            lanes.retain(|_, lane| Arc::strong_count(lane) > 1);
        }
        lanes.entry(namespace.to_owned()).or_default().clone()
    }

    /// The quotas of memory, or ours where they are newer.
    fn quotas(&self, namespace: &str, written: &mut Written) -> Vec<Arc<Value>> {
        let cached = self.registry.list(QUOTAS, Some(namespace));
        written.retain(|n, ours| {
            cached.iter().any(|q| {
                name(q) == n
                    && revision(q) < revision(ours)
                    && at(q, &["metadata", "uid"]) == at(ours, &["metadata", "uid"])
            })
        });
        cached.into_iter().map(|q| written.get(name(&q)).cloned().unwrap_or(q)).collect()
    }

    async fn evaluate(&self, a: &Attributes, evaluator: &Evaluator) -> Result<()> {
        let lane = self.lane(&a.namespace);
        let mut written = lane.lock().await;
        let mut quotas = self.quotas(&a.namespace, &mut written);
        if quotas.is_empty() && self.limited.is_empty() {
            return Ok(());
        }
        let mut last = Ok(());
        for _ in 0..=RETRIES {
            let charges = Check { a, evaluator, limited: &self.limited }.run(&quotas)?;
            if charges.is_empty() || a.dry_run {
                return Ok(());
            }
            let mut failed = Vec::new();
            for (index, used) in charges {
                match self.write(&quotas[index], &used).await {
                    Ok(new) => drop(written.insert(name(&new).to_owned(), Arc::new(new))),
                    Err(e) => {
                        last = Err(e);
                        failed.push(name(&quotas[index]).to_owned());
                    }
                }
            }
            if failed.is_empty() {
                return Ok(());
            }
            quotas = self.reread(&a.namespace, &failed).await;
        }
        last
    }

    async fn reread(&self, namespace: &str, names: &[String]) -> Vec<Arc<Value>> {
        let mut found = Vec::new();
        for n in names {
            if let Ok(quota) = self.registry.get_live(QUOTAS, namespace, n).await {
                found.push(Arc::new(quota));
            }
        }
        found
    }

    async fn write(&self, quota: &Value, used: &Amounts) -> Result<Value> {
        let mut quota = quota.clone();
        let texts: Map<String, Value> = used.iter().map(|(k, v)| (k.clone(), v.to_string().into())).collect();
        quota["status"]["used"] = texts.into();
        self.registry.update(QUOTAS, "status", quota).await
    }
}

fn pretty(amounts: &Amounts) -> String {
    let texts: Vec<String> = amounts.iter().map(|(k, v)| format!("{k}={v}")).collect();
    texts.join(",")
}

fn joined(names: &BTreeSet<String>) -> String {
    names.iter().map(String::as_str).collect::<Vec<_>>().join(",")
}

fn masked(all: &Amounts, names: impl Fn(&str) -> bool) -> Amounts {
    all.iter().filter(|(k, _)| names(k)).map(|(k, v)| (k.clone(), *v)).collect()
}

/// `new - old`, where more is asked; nothing is given back here.
fn growth(new: &Amounts, old: &Amounts) -> Amounts {
    let less = |(k, v): (&String, &Quantity)| {
        let before = old.get(k).copied().unwrap_or(Quantity::ZERO);
        (k.clone(), if *v > before { v.sub(before) } else { Quantity::ZERO })
    };
    new.iter().map(less).collect()
}

/// One request against the quotas of its namespace.
struct Check<'a> {
    a: &'a Attributes,
    evaluator: &'a Evaluator,
    limited: &'a [Limited],
}

impl Check<'_> {
    fn matches(&self, quota: &Value, object: &Value) -> bool {
        let hard = amounts(at(quota, &["status", "hard"]));
        !self.evaluator.names(hard.keys()).is_empty()
            && Scope::of_quota(quota).iter().all(|s| self.evaluator.in_scope(s, object))
    }

    /// The new usage of every quota that the request is charged to.
    fn run(&self, quotas: &[Arc<Value>]) -> Result<Vec<(usize, Amounts)>> {
        let (a, evaluator) = (self.a, self.evaluator);
        let Some(object) = &a.object else { return Ok(Vec::new()) };
        let mut covered = BTreeSet::new();
        let mut interesting = Vec::new();
        for (i, quota) in quotas.iter().enumerate() {
            if !self.matches(quota, object) {
                continue;
            }
            covered.extend(self.fit_for_use(quota, object)?);
            interesting.push(i);
        }
        let usage = evaluator.usage(object);
        let negative: BTreeSet<String> =
            usage.iter().filter(|(_, v)| v.sign() < 0).map(|(k, _)| k.clone()).collect();
        if !negative.is_empty() {
            return Err(
                a.forbidden(format!("quota usage is negative for resource(s): {}", joined(&negative)))
            );
        }
        let old = a.old_object.as_deref().filter(|_| a.operation == Operation::Update);
        if a.operation == Operation::Update && old.is_none() {
            return Err(
                a.forbidden("unable to get previous usage since prior version of object was not found")
            );
        }
        let grown = old.map(|o| growth(&usage, &evaluator.usage(o)));
        let nonzero = |m: &Amounts| m.values().any(|v| !v.is_zero());
        let delta = |quota: &Value| match (&grown, old) {
            (Some(grown), Some(old)) if self.matches(quota, old) => grown.clone(),
            _ => usage.clone(),
        };
        let charged: Vec<(usize, Amounts)> =
            interesting.iter().map(|i| (*i, delta(&quotas[*i]))).filter(|(_, d)| nonzero(d)).collect();
        let nothing_asked = if interesting.is_empty() {
            !nonzero(grown.as_ref().unwrap_or(&usage))
        } else {
            charged.is_empty()
        };
        if nothing_asked {
            return Ok(Vec::new());
        }
        self.check_covered(object, &usage, &covered, quotas)?;
        charged.into_iter().map(|(i, d)| Ok((i, self.charge(&quotas[i], d)?))).collect()
    }

    /// The names that the quota restricts; an error if it cannot be judged yet.
    fn fit_for_use(&self, quota: &Value, object: &Value) -> Result<BTreeSet<String>> {
        let restricted = self.evaluator.names(amounts(at(quota, &["status", "hard"])).keys());
        if let Some(why) = self.evaluator.constraint(&restricted, object) {
            return Err(self.a.forbidden(format!("failed quota: {}: {why}", name(quota))));
        }
        let used = at(quota, &["status", "used"]);
        if !restricted.iter().all(|r| used.get(r).is_some()) {
            let shown = joined(&restricted);
            return Err(self
                .a
                .forbidden(format!("status unknown for quota: {}, resources: {shown}", name(quota))));
        }
        Ok(restricted)
    }

    fn check_covered(
        &self,
        object: &Value,
        usage: &Amounts,
        covered: &BTreeSet<String>,
        quotas: &[Arc<Value>],
    ) -> Result<()> {
        let (group, resource) = (&self.a.resource.group, &self.a.resource.resource);
        let mine = || self.limited.iter().filter(|l| l.group == *group && l.resource == *resource);
        let uncovered: BTreeSet<String> = mine()
            .flat_map(|l| &l.match_contains)
            .flat_map(|part| usage.iter().filter(move |(k, v)| v.sign() > 0 && k.contains(part.as_str())))
            .map(|(k, _)| k.clone())
            .filter(|k| !covered.contains(k))
            .collect();
        if !uncovered.is_empty() {
            return Err(self.a.forbidden(format!("insufficient quota to consume: {}", joined(&uncovered))));
        }
        let in_scope = |s: &&Scope| self.evaluator.in_scope(s, object);
        let matched: Vec<Scope> =
            quotas.iter().flat_map(|q| Scope::of_quota(q)).filter(|s| in_scope(&s)).collect();
        let limits = self.limited.iter().flat_map(|l| &l.match_scopes).filter(in_scope);
        let bare: Vec<String> = limits
            .filter(|s| !matched.iter().any(|m| m.name == s.name))
            .map(|s| format!("{{{} {} [{}]}}", s.name, s.operator, s.values.join(" ")))
            .collect();
        if bare.is_empty() {
            return Ok(());
        }
        Err(Status::internal(format!("insufficient quota to match these scopes: [{}]", bare.join(" "))))
    }

    fn charge(&self, quota: &Value, delta: Amounts) -> Result<Amounts> {
        let hard = amounts(at(quota, &["status", "hard"]));
        let used = amounts(at(quota, &["status", "used"]));
        let requested = masked(&delta, |k| hard.contains_key(k));
        let mut new_used = used.clone();
        for (k, v) in &requested {
            let before = used.get(k).copied().unwrap_or(Quantity::ZERO);
            new_used.insert(k.clone(), plus(before, *v));
        }
        let over = |k: &str| {
            requested.contains_key(k) && new_used.get(k).zip(hard.get(k)).is_some_and(|(n, h)| n > h)
        };
        let exceeded: BTreeSet<String> = hard.keys().filter(|k| over(k)).cloned().collect();
        if exceeded.is_empty() || self.a.subresource == "status" {
            return Ok(new_used);
        }
        let only = |m: &Amounts| pretty(&masked(m, |k| exceeded.contains(k)));
        Err(self.a.forbidden(format!(
            "exceeded quota: {}, requested: {}, used: {}, limited: {}",
            name(quota),
            only(&requested),
            only(&used),
            only(&hard)
        )))
    }
}

#[async_trait::async_trait]
impl Plugin for ResourceQuota {
    fn name(&self) -> &'static str {
        "ResourceQuota"
    }
    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }
    async fn validate(&self, a: &mut Attributes) -> Result<()> {
        let resource = (a.resource.group.as_str(), a.resource.resource.as_str());
        if a.namespace.is_empty() || resource == ("", "namespaces") || IGNORED.contains(&resource) {
            return Ok(());
        }
        let evaluator = Evaluator::of(resource.0, resource.1);
        if !evaluator.handles(a) {
            return Ok(());
        }
        self.evaluate(a, &evaluator).await
    }
}
