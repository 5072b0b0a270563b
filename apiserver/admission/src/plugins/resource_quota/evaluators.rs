//! What one object counts for in a quota, and which quotas look at it.

use crate::attributes::{Attributes, Operation};
use crate::objects::{annotation, at, items, strings, text};
use crate::resources::{Amounts, amounts, of_pod};
use api::Value;
use api::quantity::{Format, Quantity};
use std::collections::{BTreeMap, BTreeSet};

const CLASS_INFIX: &str = ".storageclass.storage.k8s.io/";
const POD_NAMES: [&str; 11] = [
    "count/pods",
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
];
/// What a quota makes every container state.
const MUST_STATE: [&str; 6] =
    ["cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory"];

/// One requirement of `scopes` or `scopeSelector`.
#[derive(Clone, Debug, PartialEq)]
pub struct Scope {
    pub name: String,
    pub operator: String,
    pub values: Vec<String>,
}

impl Scope {
    pub fn from_requirement(v: &Value) -> Self {
        Scope {
            name: text(v, &["scopeName"]).to_owned(),
            operator: text(v, &["operator"]).to_owned(),
            values: strings(v, &["values"]),
        }
    }

    /// All scopes of a quota's spec.
    pub fn of_quota(quota: &Value) -> Vec<Self> {
        let plain = strings(quota, &["spec", "scopes"]).into_iter().map(|name| Scope {
            name,
            operator: "Exists".into(),
            values: Vec::new(),
        });
        let selected = items(quota, &["spec", "scopeSelector", "matchExpressions"]).iter();
        plain.chain(selected.map(Scope::from_requirement)).collect()
    }

    fn matches_value(&self, value: &str) -> bool {
        let listed = self.values.iter().any(|v| v == value);
        match self.operator.as_str() {
            "Exists" => !value.is_empty(),
            "DoesNotExist" => value.is_empty(),
            "In" => !value.is_empty() && listed,
            "NotIn" => value.is_empty() || !listed,
            _ => false,
        }
    }
}

/// How a resource is counted.
#[derive(Clone, Debug)]
pub enum Evaluator {
    Pods,
    Services,
    Claims,
    /// `count/…` and, for a few old ones, a bare name.
    Count(Vec<String>),
}

fn one() -> Quantity {
    Quantity::new(1, Format::DecimalSI)
}

fn count(n: usize) -> Quantity {
    Quantity::new(i64::try_from(n).unwrap_or(i64::MAX), Format::DecimalSI)
}

impl Evaluator {
    pub fn of(group: &str, resource: &str) -> Self {
        match (group, resource) {
            ("", "pods") => Evaluator::Pods,
            ("", "services") => Evaluator::Services,
            ("", "persistentvolumeclaims") => Evaluator::Claims,
            ("", _) => {
                let mut names = vec![format!("count/{resource}")];
                let aliases = ["configmaps", "resourcequotas", "replicationcontrollers", "secrets"];
                names.extend(aliases.contains(&resource).then(|| resource.to_owned()));
                Evaluator::Count(names)
            }
            _ => Evaluator::Count(vec![format!("count/{resource}.{group}")]),
        }
    }

    pub fn handles(&self, a: &Attributes) -> bool {
        let (create, update) = (a.operation == Operation::Create, a.operation == Operation::Update);
        match (self, a.subresource.as_str()) {
            (Evaluator::Pods, "") => create || update && deadline_changed(a),
            (Evaluator::Pods, "resize") => update,
            (Evaluator::Services, "") | (Evaluator::Claims, "") => create || update,
            (Evaluator::Claims, "status") => update && allocation_changed(a),
            (Evaluator::Count(_), "") => create,
            _ => false,
        }
    }

    /// Which of a quota's names this resource counts for.
    pub fn names<'a>(&self, hard: impl Iterator<Item = &'a String>) -> BTreeSet<String> {
        hard.filter(|name| self.counts_for(name)).cloned().collect()
    }

    fn counts_for(&self, name: &str) -> bool {
        match self {
            Evaluator::Pods => {
                POD_NAMES.contains(&name)
                    || name.starts_with("hugepages-")
                    || name.starts_with("requests.hugepages-")
                    || is_extended_request(name)
            }
            Evaluator::Services => {
                matches!(
                    name,
                    "count/services" | "services" | "services.nodeports" | "services.loadbalancers"
                )
            }
            Evaluator::Claims => {
                let plain = ["persistentvolumeclaims", "requests.storage"];
                name == "count/persistentvolumeclaims"
                    || plain.contains(&name)
                    || plain.iter().any(|p| name.ends_with(&format!("{CLASS_INFIX}{p}")))
            }
            Evaluator::Count(names) => names.iter().any(|n| n == name),
        }
    }

    pub fn in_scope(&self, scope: &Scope, object: &Value) -> bool {
        match self {
            Evaluator::Pods => pod_in_scope(scope, object),
            Evaluator::Claims if scope.name == "VolumeAttributesClass" => {
                attribute_classes(object).iter().any(|class| scope.matches_value(class))
            }
            _ => false,
        }
    }

    pub fn usage(&self, object: &Value) -> Amounts {
        match self {
            Evaluator::Pods => pod_usage(object, jiff::Timestamp::now()),
            Evaluator::Services => service_usage(object),
            Evaluator::Claims => claim_usage(object),
            Evaluator::Count(names) => names.iter().map(|n| (n.clone(), one())).collect(),
        }
    }

    /// What is missing of what a quota on `required` demands to be stated.
    pub fn constraint(&self, required: &BTreeSet<String>, object: &Value) -> Option<String> {
        if !matches!(self, Evaluator::Pods) || at(object, &["spec", "resources"]).is_object() {
            return None;
        }
        let required: Vec<&String> = required.iter().filter(|r| MUST_STATE.contains(&r.as_str())).collect();
        let mut missing: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for container in ["containers", "initContainers"].iter().flat_map(|f| items(object, &["spec", f])) {
            let of = |which| amounts(at(container, &["resources", which]));
            let stated = compute_usage(&of("requests"), &of("limits"));
            for name in required.iter().filter(|r| !stated.contains_key(r.as_str())) {
                missing.entry(name).or_default().insert(text(container, &["name"]));
            }
        }
        let texts: Vec<String> = missing
            .into_iter()
            .map(|(r, c)| format!("{r} for: {}", c.into_iter().collect::<Vec<_>>().join(",")))
            .collect();
        (!texts.is_empty()).then(|| format!("must specify {}", texts.join("; ")))
    }
}

fn is_extended_request(name: &str) -> bool {
    let Some(resource) = name.strip_prefix("requests.") else { return false };
    resource.starts_with("deviceclass.resource.kubernetes.io/")
        || resource.contains('/') && !resource.contains("kubernetes.io/")
}

fn has_deadline(pod: &Value) -> bool {
    at(pod, &["spec", "activeDeadlineSeconds"]).as_i64().is_some_and(|s| s >= 0)
}

fn deadline_changed(a: &Attributes) -> bool {
    match (&a.object, a.old_object.as_deref()) {
        (Some(new), Some(old)) => has_deadline(new) != has_deadline(old),
        _ => false,
    }
}

fn allocation_changed(a: &Attributes) -> bool {
    let of = |v: &Value| at(v, &["status", "allocatedResources", "storage"]).clone();
    match (&a.object, a.old_object.as_deref()) {
        (Some(new), Some(old)) => of(new) != of(old),
        _ => false,
    }
}

fn pod_in_scope(scope: &Scope, pod: &Value) -> bool {
    let best_effort = || kinds::pods::qos_of_spec(&pod["spec"]) == "BestEffort";
    match scope.name.as_str() {
        "Terminating" => has_deadline(pod),
        "NotTerminating" => !has_deadline(pod),
        "BestEffort" => best_effort(),
        "NotBestEffort" => !best_effort(),
        "PriorityClass" => scope.matches_value(text(pod, &["spec", "priorityClassName"])),
        "CrossNamespacePodAffinity" => crosses_namespaces(pod),
        _ => false,
    }
}

fn crosses_namespaces(pod: &Value) -> bool {
    let crosses = |term: &Value| {
        !items(term, &["namespaces"]).is_empty() || at(term, &["namespaceSelector"]).is_object()
    };
    ["podAffinity", "podAntiAffinity"].iter().any(|sort| {
        let affinity = at(pod, &["spec", "affinity", sort]);
        items(affinity, &["requiredDuringSchedulingIgnoredDuringExecution"]).iter().any(crosses)
            || items(affinity, &["preferredDuringSchedulingIgnoredDuringExecution"])
                .iter()
                .any(|w| crosses(at(w, &["podAffinityTerm"])))
    })
}

fn attribute_classes(claim: &Value) -> Vec<&str> {
    let found = [
        text(claim, &["spec", "volumeAttributesClassName"]),
        text(claim, &["status", "currentVolumeAttributesClassName"]),
        text(claim, &["status", "modifyVolumeStatus", "targetVolumeAttributesClassName"]),
    ];
    let named: Vec<&str> = found.into_iter().filter(|c| !c.is_empty()).collect();
    if named.is_empty() { vec![""] } else { named }
}

fn compute_usage(requests: &Amounts, limits: &Amounts) -> Amounts {
    let mut out = Amounts::from([("pods".to_owned(), one())]);
    for name in ["cpu", "memory", "ephemeral-storage"] {
        if let Some(amount) = requests.get(name) {
            out.insert(name.to_owned(), *amount);
            out.insert(format!("requests.{name}"), *amount);
        }
        if let Some(amount) = limits.get(name) {
            out.insert(format!("limits.{name}"), *amount);
        }
    }
    for (name, amount) in requests {
        if name.starts_with("hugepages-") {
            out.insert(name.clone(), *amount);
            out.insert(format!("requests.{name}"), *amount);
        } else if is_extended_request(&format!("requests.{name}")) {
            out.insert(format!("requests.{name}"), *amount);
        }
    }
    out
}

/// Finished pods, and deleted ones past their grace, count as objects only.
fn pod_usage(pod: &Value, now: jiff::Timestamp) -> Amounts {
    let mut out = Amounts::from([("count/pods".to_owned(), one())]);
    let finished = matches!(text(pod, &["status", "phase"]), "Failed" | "Succeeded");
    let overdue = || {
        let deleted = text(pod, &["metadata", "deletionTimestamp"]).parse::<jiff::Timestamp>().ok()?;
        let grace = at(pod, &["metadata", "deletionGracePeriodSeconds"]).as_i64()?;
        Some(now.as_second() > deleted.as_second().saturating_add(grace))
    };
    if !finished && !overdue().unwrap_or(false) {
        out.extend(compute_usage(&of_pod(pod, "requests", true), &of_pod(pod, "limits", true)));
    }
    out
}

fn service_usage(service: &Value) -> Amounts {
    let ports = items(service, &["spec", "ports"]);
    let mut out = Amounts::from([("count/services".to_owned(), one()), ("services".to_owned(), one())]);
    let (node_ports, balancers) = match text(service, &["spec", "type"]) {
        "NodePort" => (ports.len(), 0),
        "LoadBalancer" => {
            let declined = at(service, &["spec", "allocateLoadBalancerNodePorts"]) == &Value::Bool(false);
            let stated = ports.iter().filter(|p| at(p, &["nodePort"]).as_i64().unwrap_or(0) != 0).count();
            (if declined { stated } else { ports.len() }, 1)
        }
        _ => (0, 0),
    };
    out.insert("services.nodeports".into(), count(node_ports));
    out.insert("services.loadbalancers".into(), count(balancers));
    out
}

fn claim_usage(claim: &Value) -> Amounts {
    let class = annotation(claim, "volume.beta.kubernetes.io/storage-class")
        .unwrap_or_else(|| text(claim, &["spec", "storageClassName"]));
    let mut out = Amounts::new();
    let mut put = |name: &str, amount: Quantity| {
        out.insert(name.to_owned(), amount);
        if !class.is_empty() && name != "count/persistentvolumeclaims" {
            out.insert(format!("{class}{CLASS_INFIX}{name}"), amount);
        }
    };
    put("count/persistentvolumeclaims", one());
    put("persistentvolumeclaims", one());
    let requested = at(claim, &["spec", "resources", "requests", "storage"]);
    if let Ok(mut amount) = Quantity::from_value(requested)
        && !requested.is_null()
    {
        amount = amount.max(Quantity::of(Some(at(claim, &["status", "allocatedResources", "storage"]))));
        if !amount.is_integer() {
            amount = Quantity::new(amount.value(), amount.format());
        }
        put("requests.storage", amount);
    }
    out
}
