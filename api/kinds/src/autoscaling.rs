//! Horizontal pod autoscalers, and the scale that other kinds have as a subresource.

use crate::Context;
use crate::apps::common::counts;
use crate::checks::{self, texts};
use crate::names;
use crate::prepare::Plan;
use crate::table::{NONE, age, name, quantity};
use crate::value::amount_value;
use crate::value::{Get, Put};
use crate::{Kind, PLAIN};
use api::field::{Error, ErrorList, Path};
use api::{GroupVersionKind, Value, json};

pub static HPA_V2: Kind = Kind { defaults, plan: Plan::STATUS, validate, row: Some(row), ..PLAIN };
pub static HPA_V1: Kind = Kind {
    defaults: |o| o.ensure("spec").fill("minReplicas", 1),
    row: Some(|o| {
        let version = |v| GroupVersionKind::new("autoscaling", v, "HorizontalPodAutoscaler");
        let mut v2 = o.clone();
        crate::convert(&mut v2, &version("v1"), &version("v2"));
        row(&v2)
    }),
    ..HPA_V2_LIKE
};
const HPA_V2_LIKE: Kind = Kind { plan: Plan::STATUS, validate, ..PLAIN };

pub static SCALE: Kind = Kind {
    defaults: |o| {
        if let Some(spec) = o.sub("spec") {
            spec.fill("replicas", 0);
        }
    },
    validate: |_, new, _, e| checks::non_negative(new.at("spec"), "replicas", &Path::new("spec"), e),
    row: Some(|o| {
        vec![name(o), o.at("spec").int("replicas").into(), o.at("status").int("replicas").into(), age(o)]
    }),
    ..PLAIN
};

fn defaults(o: &mut Value) {
    let spec = o.ensure("spec");
    spec.fill("minReplicas", 1);
    if spec.len("metrics") == 0 {
        spec.set(
            "metrics",
            json!([{"type": "Resource", "resource": {"name": "cpu",
                "target": {"type": "Utilization", "averageUtilization": 80}}}]),
        );
    }
    let Some(behavior) = spec.sub("behavior") else { return };
    let percent = json!({"type": "Percent", "value": 100, "periodSeconds": 15});
    let up = behavior.ensure("scaleUp");
    up.fill("stabilizationWindowSeconds", 0);
    up.fill("policies", json!([{"type": "Pods", "value": 4, "periodSeconds": 15}, percent.clone()]));
    up.fill("selectPolicy", "Max");
    let down = behavior.ensure("scaleDown");
    down.fill("policies", json!([percent]));
    down.fill("selectPolicy", "Max");
}

fn row(o: &Value) -> Vec<Value> {
    let (spec, status) = (o.at("spec"), o.at("status"));
    let target = spec.at("scaleTargetRef");
    let min = spec.opt_int("minReplicas").map_or("<unset>".to_owned(), |n| n.to_string());
    vec![
        name(o),
        format!("{}/{}", target.text("kind"), target.text("name")).into(),
        metrics(spec.list("metrics"), status.list("currentMetrics")).into(),
        min.into(),
        spec.int("maxReplicas").into(),
        status.int("currentReplicas").into(),
        age(o),
    ]
}

fn metrics(specs: &[Value], statuses: &[Value]) -> String {
    if specs.is_empty() {
        return NONE.to_owned();
    }
    let empty = Value::Null;
    let texts: Vec<String> = specs
        .iter()
        .enumerate()
        .take(2)
        .map(|(i, spec)| metric(spec, statuses.get(i).unwrap_or(&empty)))
        .collect();
    match specs.len() {
        n if n > 2 => format!("{} + {} more...", texts.join(", "), n - 2),
        _ => texts.join(", "),
    }
}

fn metric(spec: &Value, status: &Value) -> String {
    let (source, average_suffix) = match spec.text("type") {
        "External" => ("external", " (avg)"),
        "Object" => ("object", " (avg)"),
        "Pods" => ("pods", ""),
        "Resource" => ("resource", ""),
        "ContainerResource" => ("containerResource", ""),
        _ => return "<unknown type>".to_owned(),
    };
    let (target, current) = (spec.at(source).at("target"), status.at(source).at("current"));
    let shown = |v: &Value| if v.is_null() { "<unknown>".to_owned() } else { quantity(v) };
    if target.has("averageValue") || source == "pods" {
        let text = format!(
            "{}/{}{average_suffix}",
            shown(current.at("averageValue")),
            quantity(target.at("averageValue"))
        );
        return match spec.at(source).text("name") {
            "" => text,
            name => format!("{name}: {text}"),
        };
    }
    if matches!(source, "external" | "object") {
        return format!("{}/{}", shown(current.at("value")), quantity(target.at("value")));
    }
    let percent = |v: Option<i64>, none: &str| v.map_or(none.to_owned(), |n| format!("{n}%"));
    format!(
        "{}: {}/{}",
        spec.at(source).text("name"),
        percent(current.opt_int("averageUtilization"), "<unknown>"),
        percent(target.opt_int("averageUtilization"), "<auto>")
    )
}

/// Autoscalers are checked in their stored form, v2.
fn validate(cx: &Context<'_>, new: &Value, old: Option<&Value>, e: &mut ErrorList) {
    if cx.subresource == "status" {
        return counts(new.at("status"), &["currentReplicas", "desiredReplicas"], &Path::new("status"), e);
    }
    let (spec, at) = (new.at("spec"), Path::new("spec"));
    let (min, max, at_max) = (spec.opt_int("minReplicas"), spec.int("maxReplicas"), at.child("maxReplicas"));
    if let Some(n) = min.filter(|n| *n < 1) {
        e.push(Error::invalid(&at.child("minReplicas"), n, "must be greater than or equal to 1"));
    }
    match max {
        0 => e.push(Error::required(&at_max, "must be set and greater than 0")),
        n if n < 0 => e.push(Error::invalid(&at_max, n, "must be greater than or equal to 1")),
        _ => {}
    }
    if min.is_some_and(|min| max < min) {
        e.push(Error::invalid(&at_max, max, "must be greater than or equal to `minReplicas`"));
    }
    let target = spec.at("scaleTargetRef");
    validate_reference(target, &at.child("scaleTargetRef"), e);
    let version = target.text("apiVersion");
    // What is stored already without a group, from older releases, can still be written.
    let was_so = old.is_some_and(|o| !o.at("spec").at("scaleTargetRef").text("apiVersion").contains('/'));
    if !version.contains('/') && !was_so {
        let at = at.child("scaleTargetRef").child("apiVersion");
        e.push(Error::invalid(&at, version, "apiVersion must specify API group"));
    }
    let from_outside = |m: &Value| matches!(m.text("type"), "Object" | "External");
    if min == Some(0) && !spec.list("metrics").iter().any(from_outside) {
        let text = "must specify at least one Object or External metric to support scaling to zero replicas";
        e.push(Error::forbidden(&at.child("metrics"), text));
    }
    for (i, metric) in spec.list("metrics").iter().enumerate() {
        validate_metric(metric, &at.child("metrics").index(i), e);
    }
    for direction in ["scaleUp", "scaleDown"] {
        if spec.at("behavior").has(direction) {
            let at = at.child("behavior").child(direction);
            validate_rules(spec.at("behavior").at(direction), &at, e);
        }
    }
}

fn validate_reference(reference: &Value, at: &Path, e: &mut ErrorList) {
    for field in ["kind", "name"] {
        if checks::required(reference, field, at, e) {
            let text = reference.text(field);
            texts(text, names::path_segment(text, false), &at.child(field), e);
        }
    }
    let version = reference.text("apiVersion");
    if version.matches('/').count() > 1 {
        let text = format!("unexpected GroupVersion string: {version}");
        e.push(Error::invalid(&at.child("apiVersion"), version, text));
    }
}

fn validate_rules(rules: &Value, at: &Path, e: &mut ErrorList) {
    let at_window = at.child("stabilizationWindowSeconds");
    match rules.opt_int("stabilizationWindowSeconds") {
        Some(n) if n < 0 => e.push(Error::invalid(&at_window, n, "must be greater than or equal to zero")),
        Some(n) if n > 3600 => e.push(Error::invalid(&at_window, n, "must be less than or equal to 3600")),
        _ => {}
    }
    checks::opt_one_of(rules, "selectPolicy", &["Disabled", "Max", "Min"], at, e);
    let at_policies = at.child("policies");
    if rules.len("policies") == 0 {
        e.push(Error::required(&at_policies, "must specify at least one Policy"));
    }
    for (i, policy) in rules.list("policies").iter().enumerate() {
        let at = at_policies.index(i);
        checks::one_of(policy.text("type"), &["Percent", "Pods"], &at.child("type"), e);
        checks::positive(policy.int("value"), &at.child("value"), e);
        checks::positive(policy.int("periodSeconds"), &at.child("periodSeconds"), e);
        if policy.int("periodSeconds") > 1800 {
            let text = "must be less than or equal to 1800";
            e.push(Error::invalid(&at.child("periodSeconds"), policy.int("periodSeconds"), text));
        }
    }
    if amount_value(rules.at("tolerance")).is_some_and(|n| n < 0) {
        e.push(Error::invalid(&at.child("tolerance"), rules.at("tolerance").clone(), checks::NOT_NEGATIVE));
    }
}

const SOURCES: [(&str, &str); 5] = [
    ("Object", "object"),
    ("External", "external"),
    ("Pods", "pods"),
    ("Resource", "resource"),
    ("ContainerResource", "containerResource"),
];

fn validate_metric(metric: &Value, at: &Path, e: &mut ErrorList) {
    let kind = metric.text("type");
    if kind.is_empty() {
        e.push(Error::required(&at.child("type"), "must specify a metric source type"));
    }
    let expected = SOURCES.iter().find(|(k, _)| *k == kind).map(|(_, field)| *field);
    let unknown = || Error::not_supported(&at.child("type"), kind, &SOURCES.map(|(k, _)| k));
    if expected.is_none() {
        e.push(unknown());
    }
    let mut found = 0;
    for (_, field) in SOURCES.iter().filter(|(_, f)| metric.has(f)) {
        found += 1;
        if found == 1 {
            validate_source(field, metric.at(field), &at.child(field), e);
        }
    }
    match expected {
        None => e.push(unknown()),
        Some(field) if !metric.has(field) => {
            let text = "must populate information for the given metric source";
            e.push(Error::required(&at.child(field), text));
        }
        Some(_) => {}
    }
    if found != 1 {
        for (_, field) in SOURCES.iter().filter(|(_, f)| metric.has(f) && Some(*f) != expected) {
            e.push(Error::forbidden(&at.child(field), "must populate the given metric source only"));
        }
    }
}

fn validate_source(kind: &str, source: &Value, at: &Path, e: &mut ErrorList) {
    if kind == "object" {
        validate_reference(source.at("describedObject"), &at.child("describedObject"), e);
    }
    if matches!(kind, "object" | "external" | "pods") {
        let (name, at) = (source.at("metric").text("name"), at.child("metric").child("name"));
        if name.is_empty() {
            e.push(Error::required(&at, "must specify a metric name"));
        } else {
            texts(name, names::path_segment(name, false), &at, e);
        }
    } else if source.text("name").is_empty() {
        e.push(Error::required(&at.child("name"), "must specify a resource name"));
    } else if kind == "containerResource" {
        crate::pod::validate::container_resource_name(source.text("name"), &at.child("name"), e);
    }
    if kind == "containerResource" {
        if source.text("container").is_empty() {
            e.push(Error::required(&at.child("container"), "must specify a container"));
        } else {
            checks::label(source.text("container"), &at.child("container"), e);
        }
    }
    validate_target(source.at("target"), &at.child("target"), e);
    target_fits(kind, source.at("target"), &at.child("target"), e);
}

/// Each source takes its own kind of target, and only one.
fn target_fits(kind: &str, target: &Value, at: &Path, e: &mut ErrorList) {
    let has = |field: &str| target.has(field);
    let (field, text) = match kind {
        "object" if !has("value") && !has("averageValue") => {
            ("averageValue", "must set either a target value or averageValue")
        }
        "external" if !has("value") && !has("averageValue") => {
            ("averageValue", "must set either a target value for metric or a per-pod target")
        }
        "pods" if !has("averageValue") => ("averageValue", "must specify a positive target averageValue"),
        "resource" | "containerResource" if !has("averageUtilization") && !has("averageValue") => {
            ("averageUtilization", "must set either a target raw value or a target utilization")
        }
        _ => ("", ""),
    };
    if !field.is_empty() {
        e.push(Error::required(&at.child(field), text));
    }
    match kind {
        "external" if has("value") && has("averageValue") => {
            let text = "may not set both a target value for metric and a per-pod target";
            e.push(Error::forbidden(&at.child("value"), text));
        }
        "resource" | "containerResource" if has("averageUtilization") && has("averageValue") => {
            let text = "may not set both a target raw value and a target utilization";
            e.push(Error::forbidden(&at.child("averageValue"), text));
        }
        _ => {}
    }
}

fn validate_target(target: &Value, at: &Path, e: &mut ErrorList) {
    let kind = target.text("type");
    if kind.is_empty() {
        e.push(Error::required(&at.child("type"), "must specify a metric target type"));
    }
    if !matches!(kind, "Utilization" | "Value" | "AverageValue") {
        let text = "must be either Utilization, Value, or AverageValue";
        e.push(Error::invalid(&at.child("type"), kind, text));
    }
    for field in ["value", "averageValue"] {
        if target.has(field) && amount_value(target.at(field)).is_none_or(|n| n <= 0) {
            e.push(Error::invalid(&at.child(field), target.at(field).clone(), "must be positive"));
        }
    }
    if let Some(n) = target.opt_int("averageUtilization").filter(|n| *n < 1) {
        e.push(Error::invalid(&at.child("averageUtilization"), n, "must be greater than 0"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Room;

    #[test]
    fn cells_and_checks() {
        let hpa = |changes: Value| {
            let target = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"});
            let mut spec = json!({"maxReplicas": 3, "scaleTargetRef": target});
            for (k, v) in changes.as_object().unwrap() {
                spec.set(k, v.clone());
            }
            let mut o = json!({ "spec": spec });
            defaults(&mut o);
            o
        };
        let shown = row(&hpa(json!({})));
        assert_eq!(shown[1..4], [json!("Deployment/d"), json!("cpu: <unknown>/80%"), json!("1")]);
        for (changes, want) in [
            (json!({}), ""),
            (json!({"maxReplicas": 0}), "spec.maxReplicas: Required value: must be set and greater than 0"),
            (
                json!({"minReplicas": 5}),
                "spec.maxReplicas: Invalid value: 3: must be greater than or equal to `minReplicas`",
            ),
            (
                json!({"metrics": [{"type": "Pods"}]}),
                "spec.metrics[0].pods: Required value: must populate information",
            ),
            (
                json!({"behavior": {"scaleUp": {"policies": [{"type": "x", "value": 1, "periodSeconds": 1}]}}}),
                "spec.behavior.scaleUp.policies[0].type: Unsupported value: \"x\"",
            ),
        ] {
            let got = HPA_V2.validate(&Context::default(), &hpa(changes), None);
            let first = got.first().map(ToString::to_string).unwrap_or_default();
            assert!(first.starts_with(want) && first.is_empty() == want.is_empty(), "{first}");
        }
    }
}
