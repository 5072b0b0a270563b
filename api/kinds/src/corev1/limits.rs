//! Limit ranges and resource quotas.

use crate::checks::{
    self, is_extended_resource, is_native_resource, is_overcommit_allowed, is_standard_quota_resource,
    resource_name, resource_quantity,
};
use crate::pod::resource_list;
use crate::prepare::Plan;
use crate::table::{age, name, quantity};
use crate::value::{Get, Put};
use crate::value::{ONE, amount_value};
use crate::{Context, Kind, PLAIN};
use api::Value;
use api::field::{Error, ErrorList, Path};

pub static LIMIT_RANGE: Kind = Kind {
    defaults: limit_range,
    validate: validate_limits,
    create_on_update: true,
    names_the_nameless: true,
    ..PLAIN
};
pub static RESOURCE_QUOTA: Kind =
    Kind { defaults: quota, plan: Plan::STATUS, validate: validate_quota, row: Some(quota_row), ..PLAIN };

fn limit_range(o: &mut Value) {
    let Some(spec) = o.sub("spec") else { return };
    for item in spec.items("limits") {
        for field in ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"] {
            if let Some(list) = item.sub(field) {
                resource_list(list);
            }
        }
        if item.text("type") == "Container" {
            fill_from(item, "default", "max");
            fill_from(item, "defaultRequest", "default");
            fill_from(item, "defaultRequest", "min");
        }
    }
}

fn fill_from(item: &mut Value, into: &str, from: &str) {
    let source = item.at(from).clone();
    for (name, quantity) in source.as_object().into_iter().flatten() {
        item.ensure(into).fill(name, quantity.clone());
    }
}

fn quota(o: &mut Value) {
    for (part, lists) in [("spec", &["hard"][..]), ("status", &["hard", "used"])] {
        for list in lists {
            if let Some(map) = o.sub(part).and_then(|p| p.sub(list)) {
                resource_list(map);
            }
        }
    }
}

fn quota_row(o: &Value) -> Vec<Value> {
    let (mut requests, mut limits) = (Vec::new(), Vec::new());
    for (resource, hard) in o.at("status").entries("hard") {
        let used = quantity(o.at("status").at("used").at(resource));
        let text = format!("{resource}: {used}/{}", quantity(hard));
        if resource.starts_with("limits.") { limits.push(text) } else { requests.push(text) }
    }
    vec![name(o), requests.join(", ").into(), limits.join(", ").into(), age(o)]
}

fn quota_resource_name(name: &str, at: &Path, e: &mut ErrorList) {
    resource_name(name, at, e);
    if !name.contains('/') && !is_standard_quota_resource(name) {
        e.push(Error::invalid(at, name, "must be a standard resource for quota"));
    }
}

fn quota_amounts(part: &Value, list: &str, at: &Path, e: &mut ErrorList) {
    for (name, v) in part.entries(list) {
        let at = at.child(list).key(name);
        quota_resource_name(name, &at, e);
        resource_quantity(name, v, &at, e);
    }
}

fn validate_quota(cx: &Context<'_>, new: &Value, old: Option<&Value>, e: &mut ErrorList) {
    let at_status = Path::new("status");
    if cx.subresource == "status" || old.is_none() {
        quota_amounts(new.at("status"), "hard", &at_status, e);
        quota_amounts(new.at("status"), "used", &at_status, e);
    }
    if cx.subresource == "status" {
        return;
    }
    let (spec, at) = (new.at("spec"), Path::new("spec"));
    quota_amounts(spec, "hard", &at, e);
    let scopes: Vec<&str> = spec.texts("scopes").collect();
    validate_scopes(spec, &scopes, spec.at("scopes"), &at.child("scopes"), e);
    let selector = spec.at("scopeSelector");
    let selected: Vec<&str> = selector.list("matchExpressions").iter().map(|m| m.text("scopeName")).collect();
    let at_terms = at.child("scopeSelector").child("matchExpressions");
    selector_scopes(spec, &selected, selector, &at_terms, e);
    for term in selector.list("matchExpressions") {
        validate_scope_term(term, &at_terms, e);
    }
    if let Some(old) = old {
        let sorted = |o: &Value| {
            let mut all: Vec<String> = o.at("spec").texts("scopes").map(str::to_owned).collect();
            all.sort();
            all.dedup();
            all
        };
        if sorted(old) != sorted(new) {
            e.push(Error::invalid(
                &at.child("scopes"),
                spec.at("scopes").clone(),
                crate::metadata::IMMUTABLE,
            ));
        }
    }
}

const SCOPES: [&str; 7] = [
    "Terminating",
    "NotTerminating",
    "BestEffort",
    "NotBestEffort",
    "PriorityClass",
    "CrossNamespacePodAffinity",
    "VolumeAttributesClass",
];

/// Whether counting a resource within a scope makes sense.
fn scope_fits(scope: &str, resource: &str) -> bool {
    let storage = matches!(resource, "persistentvolumeclaims" | "requests.storage");
    let compute = ["cpu", "memory", "ephemeral-storage", "requests.", "limits."]
        .iter()
        .any(|p| resource.starts_with(p))
        && !storage
        && !resource.contains("ephemeral-storage");
    match scope {
        "BestEffort" => resource == "pods",
        "VolumeAttributesClass" => storage,
        _ => resource == "pods" || compute,
    }
}

fn validate_scopes(spec: &Value, scopes: &[&str], shown: &Value, at: &Path, e: &mut ErrorList) {
    for scope in scopes {
        if !SCOPES.contains(scope) {
            e.push(Error::invalid(at, shown.clone(), "unsupported scope"));
        }
        for (resource, _) in spec.entries("hard") {
            if is_standard_quota_resource(resource) && !scope_fits(scope, resource) {
                e.push(Error::invalid(at, shown.clone(), "unsupported scope applied to resource"));
            }
        }
    }
    for (a, b) in [("BestEffort", "NotBestEffort"), ("Terminating", "NotTerminating")] {
        if scopes.contains(&a) && scopes.contains(&b) {
            e.push(Error::invalid(at, shown.clone(), "conflicting scopes"));
        }
    }
}

/// As the plain list of scopes, with the errors of a selector.
fn selector_scopes(spec: &Value, scopes: &[&str], selector: &Value, at: &Path, e: &mut ErrorList) {
    let shown = || crate::shown::internal("k8s.io.api.core.v1.ScopeSelector", selector);
    for scope in scopes {
        if !SCOPES.contains(scope) {
            e.push(Error::invalid(&at.child("scopeName"), *scope, "unsupported scope"));
        }
        for (resource, _) in spec.entries("hard") {
            if is_standard_quota_resource(resource) && !scope_fits(scope, resource) {
                e.push(Error::invalid_printed(at, shown(), "unsupported scope applied to resource"));
            }
        }
    }
    for (a, b) in [("BestEffort", "NotBestEffort"), ("Terminating", "NotTerminating")] {
        if scopes.contains(&a) && scopes.contains(&b) {
            e.push(Error::invalid(at, spec.at("scopes").clone(), "conflicting scopes"));
        }
    }
}

fn validate_scope_term(term: &Value, at: &Path, e: &mut ErrorList) {
    let operator = term.text("operator");
    let only_exists = !matches!(term.text("scopeName"), "PriorityClass" | "VolumeAttributesClass");
    if only_exists && SCOPES.contains(&term.text("scopeName")) && operator != "Exists" {
        let text = "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity";
        e.push(Error::invalid(&at.child("operator"), operator, text));
    }
    match operator {
        "In" | "NotIn" if term.len("values") == 0 => {
            let text = "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector";
            e.push(Error::required(&at.child("values"), text));
        }
        "Exists" | "DoesNotExist" if term.len("values") > 0 => {
            let text = "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector";
            e.push(Error::invalid(&at.child("values"), term.at("values").clone(), text));
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
        other => e.push(Error::invalid(&at.child("operator"), other, "not a valid selector operator")),
    }
}

fn limit_resource_name(kind: &str, name: &str, at: &Path, e: &mut ErrorList) {
    resource_name(name, at, e);
    if !matches!(kind, "Pod" | "Container") {
        return;
    }
    let standard = matches!(name, "cpu" | "memory" | "ephemeral-storage") || checks::is_hugepages(name);
    if !name.contains('/') && !standard {
        e.push(Error::invalid(at, name, "must be a standard resource for containers"));
    } else if !is_native_resource(name) && !is_extended_resource(name) {
        e.push(Error::invalid(at, name, "doesn't follow extended resource name standard"));
    }
}

fn validate_limits(_: &Context<'_>, new: &Value, _: Option<&Value>, e: &mut ErrorList) {
    let list = new.at("spec").list("limits");
    for (i, limit) in list.iter().enumerate() {
        let at = Path::new("spec").child("limits").index(i);
        let kind = limit.text("type");
        let before = e.len();
        checks::qualified(kind, &at.child("type"), e);
        if e.len() == before
            && !kind.contains('/')
            && !matches!(kind, "Pod" | "Container" | "PersistentVolumeClaim")
        {
            e.push(Error::invalid(
                &at.child("type"),
                kind,
                "must be a standard limit type or fully qualified",
            ));
        }
        if list[..i].iter().any(|o| o.text("type") == kind) {
            e.push(Error::duplicate(&at.child("type"), kind));
        }
        for field in ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"] {
            if kind == "Pod" && field.starts_with("default") {
                if limit.len(field) > 0 {
                    e.push(Error::forbidden(&at.child(field), "may not be specified when `type` is 'Pod'"));
                }
                continue;
            }
            for (name, _) in limit.entries(field) {
                limit_resource_name(kind, name, &at.child(field).key(name), e);
            }
        }
        if kind == "PersistentVolumeClaim"
            && !limit.at("min").has("storage")
            && !limit.at("max").has("storage")
        {
            let text = "either minimum or maximum storage value is required, but neither was provided";
            e.push(Error::required(&at.child("limits"), text));
        }
        compare_limits(limit, &at, e);
    }
}

/// Smaller field and its words, larger field and its words, the field that is reported.
const ORDER: [(&str, &str, &str, &str, &str, &str); 6] = [
    ("min", "min value", "max", "max value", "min", "min"),
    ("min", "min value", "defaultRequest", "default request value", "defaultRequest", "defaultRequest"),
    ("defaultRequest", "default request value", "max", "max value", "defaultRequest", "defaultRequest"),
    (
        "defaultRequest",
        "default request value",
        "default",
        "default limit value",
        "defaultRequest",
        "defaultRequest",
    ),
    ("min", "min value", "default", "default value", "default", "min"),
    ("default", "default value", "max", "max value", "default", "max"),
];

fn compare_limits(limit: &Value, at: &Path, e: &mut ErrorList) {
    let kind = limit.text("type");
    let mut names: Vec<&str> = Vec::new();
    for field in ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"] {
        names.extend(limit.entries(field).map(|(k, _)| k));
    }
    names.sort_unstable();
    names.dedup();
    for name in names {
        let get = |field: &str| amount_value(limit.at(field).at(name));
        let shown = |field: &str| quantity(limit.at(field).at(name));
        let ordered =
            ORDER.iter().filter(|o| kind != "Pod" || [o.0, o.2].iter().all(|f| !f.starts_with("default")));
        for &(small, small_words, large, large_words, reported, value) in ordered {
            if let (Some(a), Some(b)) = (get(small), get(large))
                && a > b
            {
                let text =
                    format!("{small_words} {} is greater than {large_words} {}", shown(small), shown(large));
                e.push(Error::invalid(&at.child(reported).key(name), shown(value), text));
            }
        }
        let at_ratio = at.child("maxLimitRequestRatio").key(name);
        if let Some(ratio) = get("maxLimitRequestRatio") {
            if ratio < ONE {
                let text = format!("ratio {} is less than 1", shown("maxLimitRequestRatio"));
                e.push(Error::invalid(&at_ratio, shown("maxLimitRequestRatio"), text));
            }
            if let (Some(min), Some(max)) = (get("min").filter(|m| *m != 0), get("max")) {
                let (bound, ratio) = (max as f64 / min as f64, ratio as f64 / ONE as f64);
                if ratio > bound {
                    let text = format!(
                        "ratio {} is greater than max/min = {bound:.6}",
                        shown("maxLimitRequestRatio")
                    );
                    e.push(Error::invalid(&at_ratio, shown("maxLimitRequestRatio"), text));
                }
            }
        }
        if kind != "Pod"
            && !is_overcommit_allowed(name)
            && let (Some(a), Some(b)) = (get("default"), get("defaultRequest"))
            && a != b
        {
            let text = format!(
                "default value {} must equal to defaultRequest value {} in {name}",
                shown("default"),
                shown("defaultRequest")
            );
            e.push(Error::invalid(&at.child("defaultRequest").key(name), shown("defaultRequest"), text));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Room;
    use api::json;

    #[test]
    fn limit_ranges() {
        let range = |item: Value| {
            let mut o = json!({"spec": {"limits": [item]}});
            limit_range(&mut o);
            o
        };
        assert_eq!(
            range(json!({"type": "Container", "max": {"cpu": "2"}, "min": {"cpu": "1", "memory": "1Gi"}}))["spec"]
                ["limits"][0],
            json!({"type": "Container", "max": {"cpu": "2"}, "min": {"cpu": "1", "memory": "1Gi"},
                "default": {"cpu": "2"}, "defaultRequest": {"cpu": "2", "memory": "1Gi"}})
        );
        for (item, want) in [
            (json!({"type": "Container", "max": {"cpu": "2"}}), None),
            (
                json!({"type": "Node"}),
                Some(
                    "spec.limits[0].type: Invalid value: \"Node\": must be a standard limit type or fully qualified",
                ),
            ),
            (
                json!({"type": "Pod", "max": {"cpu": "1"}, "min": {"cpu": "2"}}),
                Some(
                    "spec.limits[0].min[cpu]: Invalid value: \"2\": min value 2 is greater than max value 1",
                ),
            ),
            (
                json!({"type": "Pod", "default": {"cpu": "1"}}),
                Some("spec.limits[0].default: Forbidden: may not be specified when `type` is 'Pod'"),
            ),
        ] {
            let got = LIMIT_RANGE.validate(&Context::default(), &range(item), None);
            assert_eq!(got.first().map(ToString::to_string).as_deref(), want);
        }
    }

    #[test]
    fn quotas() {
        for (spec, want) in [
            (
                json!({"hard": {"pods": "10", "count/deployments.apps": "3", "requests.nvidia.com/gpu": "1"}}),
                None,
            ),
            (
                json!({"hard": {"foo": "1"}}),
                Some(
                    "spec.hard[foo]: Invalid value: \"foo\": must be a standard resource type or fully qualified",
                ),
            ),
            (
                json!({"hard": {"pods": "1.5"}}),
                Some("spec.hard[pods]: Invalid value: \"1.5\": must be an integer"),
            ),
            (
                json!({"hard": {"cpu": "1"}, "scopes": ["BestEffort"]}),
                Some("spec.scopes: Invalid value: [\"BestEffort\"]: unsupported scope applied to resource"),
            ),
            (
                json!({"hard": {"pods": "1"}, "scopeSelector": {"matchExpressions": [{"scopeName": "PriorityClass", "operator": "In"}]}}),
                Some(
                    "spec.scopeSelector.matchExpressions.values: Required value: must be at least one value",
                ),
            ),
        ] {
            let got = RESOURCE_QUOTA.validate(&Context::default(), &json!({"spec": spec}), None);
            let first = got.first().map(ToString::to_string);
            assert!(
                first.as_deref().unwrap_or("").starts_with(want.unwrap_or(""))
                    && first.is_some() == want.is_some(),
                "{first:?}"
            );
        }
    }
}
