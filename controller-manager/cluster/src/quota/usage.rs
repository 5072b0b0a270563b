//! What objects cost their namespace's quotas. Pure functions.

use std::collections::BTreeMap;

use api::quantity::{Format, Quantity};
use controller_kit::meta::MetaExt;
use controller_kit::{now, pod};
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, Pod, ResourceQuotaSpec, ScopedResourceSelectorRequirement, Service,
};

/// Amounts by quota resource name.
pub(super) type Amounts = BTreeMap<String, Quantity>;

fn one() -> Quantity {
    Quantity::new(1, Format::DecimalSI)
}

pub(super) fn add(sum: &mut Amounts, more: Amounts) {
    for (name, amount) in more {
        let slot = sum.entry(name).or_insert(Quantity::ZERO);
        *slot = slot.add(amount);
    }
}

/// A pod costs nothing once it has ended, or is overdue after its grace period.
pub(super) fn pod_counts(p: &Pod) -> bool {
    if pod::finished(p) {
        return false;
    }
    let Some(deleted) = &p.metadata.deletion_timestamp else { return true };
    // The deletion timestamp already includes the grace period.
    now() <= deleted.0
}

pub(super) fn of_pod(p: &Pod) -> Amounts {
    let mut sum = Amounts::from([("count/pods".into(), one())]);
    if !pod_counts(p) {
        return sum;
    }
    sum.insert("pods".into(), one());
    let text = |amount: i128, name: &str| {
        let binary = name == "memory" || name == "ephemeral-storage" || name.starts_with("hugepages-");
        Quantity::parse(&kinds::pods::quantity_text(amount, binary)).unwrap_or(Quantity::ZERO)
    };
    for (name, amount) in kinds::pods::requests(p) {
        let amount = text(amount, &name);
        sum.insert(format!("requests.{name}"), amount);
        if name == "cpu" || name == "memory" || name == "ephemeral-storage" || name.starts_with("hugepages-")
        {
            sum.insert(name.to_string(), amount);
        }
    }
    for (name, amount) in kinds::pods::limits(p) {
        sum.insert(format!("limits.{name}"), text(amount, &name));
    }
    sum
}

pub(super) fn of_service(service: &Service) -> Amounts {
    let mut sum = Amounts::from([("services".into(), one()), ("count/services".into(), one())]);
    let Some(spec) = &service.spec else { return sum };
    let ports = spec.ports.as_deref().unwrap_or_default();
    let count = |n: usize| Quantity::new(i64::try_from(n).unwrap_or(i64::MAX), Format::DecimalSI);
    match spec.type_.as_deref() {
        Some("NodePort") => {
            sum.insert("services.nodeports".into(), count(ports.len()));
        }
        Some("LoadBalancer") => {
            sum.insert("services.loadbalancers".into(), one());
            let allocated = if spec.allocate_load_balancer_node_ports == Some(false) {
                ports.iter().filter(|p| p.node_port.is_some_and(|n| n != 0)).count()
            } else {
                ports.len()
            };
            sum.insert("services.nodeports".into(), count(allocated));
        }
        _ => {}
    }
    sum
}

pub(super) fn of_claim(claim: &PersistentVolumeClaim) -> Amounts {
    let mut sum = Amounts::from([
        ("persistentvolumeclaims".into(), one()),
        ("count/persistentvolumeclaims".into(), one()),
    ]);
    let spec = claim.spec.as_ref();
    let beta = claim.annotation("volume.beta.kubernetes.io/storage-class").map(str::to_owned);
    let class = beta.or(spec.and_then(|s| s.storage_class_name.clone())).filter(|c| !c.is_empty());
    let asked = spec.and_then(|s| s.resources.as_ref()?.requests.as_ref()?.get("storage"));
    let asked = asked.and_then(|q| Quantity::parse(&q.0).ok());
    // A volume that grew before counts as what was promised for it.
    let granted = claim.status.as_ref().and_then(|s| s.allocated_resources.as_ref()?.get("storage"));
    let granted = granted.and_then(|q| Quantity::parse(&q.0).ok());
    if let Some(storage) = asked.map(|a| granted.map_or(a, |g| a.max(g))) {
        sum.insert("requests.storage".into(), storage);
        if let Some(class) = &class {
            sum.insert(format!("{class}.storageclass.storage.k8s.io/requests.storage"), storage);
        }
    }
    if let Some(class) = class {
        sum.insert(format!("{class}.storageclass.storage.k8s.io/persistentvolumeclaims"), one());
    }
    sum
}

/// Whether a quota's scopes include a pod.
pub(super) fn includes(spec: &ResourceQuotaSpec, p: &Pod) -> bool {
    let plain = spec.scopes.iter().flatten().map(|scope| ScopedResourceSelectorRequirement {
        scope_name: scope.clone(),
        operator: "Exists".into(),
        values: None,
    });
    let selected = spec.scope_selector.iter().flat_map(|s| s.match_expressions.iter().flatten().cloned());
    plain.chain(selected).all(|r| in_scope(&r, p))
}

/// Whether the quota is about certain pods only: nothing else counts against it then.
pub(super) fn scoped(spec: &ResourceQuotaSpec) -> bool {
    spec.scopes.as_ref().is_some_and(|s| !s.is_empty())
        || spec
            .scope_selector
            .as_ref()
            .is_some_and(|s| s.match_expressions.as_ref().is_some_and(|m| !m.is_empty()))
}

/// Whether all scopes are about claims.
pub(super) fn claim_scoped(spec: &ResourceQuotaSpec, claim: &PersistentVolumeClaim) -> bool {
    let selected: Vec<_> =
        spec.scope_selector.iter().flat_map(|s| s.match_expressions.iter().flatten()).collect();
    let class = claim.spec.as_ref().and_then(|s| s.volume_attributes_class_name.as_deref());
    let current = claim.status.as_ref().and_then(|s| s.current_volume_attributes_class_name.as_deref());
    spec.scopes.as_ref().is_none_or(Vec::is_empty)
        && selected.iter().all(|r| {
            r.scope_name == "VolumeAttributesClass"
                && (by_values(r, class) || (r.operator == "In" && by_values(r, current)))
        })
}

fn by_values(r: &ScopedResourceSelectorRequirement, value: Option<&str>) -> bool {
    let values = r.values.as_deref().unwrap_or_default();
    let listed = value.is_some_and(|v| values.iter().any(|x| x == v));
    match r.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        "DoesNotExist" => value.is_none_or(str::is_empty),
        _ => value.is_some_and(|v| !v.is_empty()),
    }
}

fn in_scope(r: &ScopedResourceSelectorRequirement, p: &Pod) -> bool {
    let spec = p.spec.as_ref();
    let best_effort = kinds::pods::qos_class(p) == "BestEffort";
    match r.scope_name.as_str() {
        "Terminating" => spec.is_some_and(|s| s.active_deadline_seconds.is_some()),
        "NotTerminating" => spec.is_some_and(|s| s.active_deadline_seconds.is_none()),
        "BestEffort" => best_effort,
        "NotBestEffort" => !best_effort,
        "PriorityClass" => by_values(r, spec.and_then(|s| s.priority_class_name.as_deref())),
        "CrossNamespacePodAffinity" => spec.is_some_and(cross_namespace),
        _ => false,
    }
}

fn cross_namespace(spec: &k8s_openapi::api::core::v1::PodSpec) -> bool {
    use k8s_openapi::api::core::v1::PodAffinityTerm;
    let Some(affinity) = &spec.affinity else { return false };
    let crosses = |t: &PodAffinityTerm| {
        t.namespaces.as_ref().is_some_and(|n| !n.is_empty()) || t.namespace_selector.is_some()
    };
    let near = affinity.pod_affinity.as_ref();
    let apart = affinity.pod_anti_affinity.as_ref();
    let required = near
        .and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref())
        .into_iter()
        .chain(apart.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref()))
        .flatten();
    let preferred = near
        .and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref())
        .into_iter()
        .chain(apart.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref()))
        .flatten()
        .map(|w| &w.pod_affinity_term);
    required.chain(preferred).any(crosses)
}

/// The counted resource behind a quota name: plural and group, for those that are only counted.
pub(super) fn counted(name: &str) -> Option<(String, String)> {
    if let Some(rest) = name.strip_prefix("count/") {
        let (plural, group) = rest.split_once('.').unwrap_or((rest, ""));
        return Some((plural.to_owned(), group.to_owned()));
    }
    let plain = ["configmaps", "secrets", "replicationcontrollers", "resourcequotas"];
    plain.contains(&name).then(|| (name.to_owned(), String::new()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn pods_cost_requests_limits_and_one() {
        let p: Pod = serde_json::from_value(json!({"spec": {"containers": [
            {"name": "a", "resources": {"requests": {"cpu": "250m", "memory": "64Mi"}, "limits": {"cpu": "1"}}},
            {"name": "b", "resources": {"requests": {"cpu": "250m"}, "limits": {"cpu": "1"}}}]}, "status": {"phase": "Running"}}))
        .unwrap();
        let sum = of_pod(&p);
        let text = |n: &str| sum.get(n).map(ToString::to_string);
        assert_eq!(text("pods").as_deref(), Some("1"));
        assert_eq!(text("requests.cpu").as_deref(), Some("500m"));
        assert_eq!(text("cpu").as_deref(), Some("500m"));
        assert_eq!(text("limits.cpu").as_deref(), Some("2"));
        assert_eq!(text("memory").as_deref(), Some("64Mi"));
        let over: Pod = serde_json::from_value(json!({"status": {"phase": "Succeeded"}})).unwrap();
        assert!(!of_pod(&over).contains_key("pods"));
    }

    #[test]
    fn scopes_and_counts() {
        let spec = |v: serde_json::Value| -> ResourceQuotaSpec { serde_json::from_value(v).unwrap() };
        let p: Pod = serde_json::from_value(json!({"spec": {"containers": [{"name": "c"}], "activeDeadlineSeconds": 5, "priorityClassName": "high"}})).unwrap();
        for (scope, want) in
            [("Terminating", true), ("NotTerminating", false), ("BestEffort", true), ("NotBestEffort", false)]
        {
            assert_eq!(includes(&spec(json!({"scopes": [scope]})), &p), want, "{scope}");
        }
        let class = |values: serde_json::Value| {
            spec(json!({"scopeSelector": {"matchExpressions": [
            {"scopeName": "PriorityClass", "operator": "In", "values": values}]}}))
        };
        assert!(includes(&class(json!(["high"])), &p));
        assert!(!includes(&class(json!(["low"])), &p));
        assert_eq!(counted("count/deployments.apps"), Some(("deployments".into(), "apps".into())));
        assert_eq!(counted("secrets"), Some(("secrets".into(), String::new())));
        assert_eq!(counted("pods"), None);
        let service: Service = serde_json::from_value(
            json!({"spec": {"type": "LoadBalancer", "ports": [{"port": 1}, {"port": 2}]}}),
        )
        .unwrap();
        assert_eq!(of_service(&service)["services.nodeports"].value(), 2);
    }
}
