//! From one version of a kind to another. Most kinds that are served twice look the same in both;
//! autoscalers, events and claims on devices do not.

pub mod crd;
mod dra;

use crate::value::{Get, Put};
use api::{GroupVersionKind, Map, Value, json};

/// Rewrites the object from one version into another.
pub fn convert(value: &mut Value, from: &GroupVersionKind, to: &GroupVersionKind) {
    if from == to {
        return;
    }
    match (to.kind.as_str(), from.group.as_str(), to.group.as_str()) {
        ("HorizontalPodAutoscaler", "autoscaling", "autoscaling") => {
            match (from.version.as_str(), to.version.as_str()) {
                ("v1", "v2") => hpa_v1_to_v2(value),
                ("v2", "v1") => hpa_v2_to_v1(value),
                _ => {}
            }
        }
        ("CustomResourceDefinition", ..) => match (from.version.as_str(), to.version.as_str()) {
            ("v1", "v1beta1") => crd::to_stored(value),
            ("v1beta1", "v1") => crd::to_served(value),
            _ => {}
        },
        (_, "resource.k8s.io", "resource.k8s.io") => dra::convert(value, from, to),
        ("Event", "", "events.k8s.io") => rename(value, EVENT_FIELDS.iter().copied()),
        ("Event", "events.k8s.io", "") => rename(value, EVENT_FIELDS.iter().map(|(a, b)| (*b, *a))),
        _ => {}
    }
    value.set("apiVersion", to.api_version());
    value.set("kind", to.kind.as_str());
}

/// Names in the core group and in `events.k8s.io`.
const EVENT_FIELDS: [(&str, &str); 7] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

fn rename<'a>(value: &mut Value, names: impl Iterator<Item = (&'a str, &'a str)>) {
    for (from, to) in names {
        if let Some(v) = value.unset(from) {
            value.set(to, v);
        }
    }
}

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT_METRICS: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";
/// What v1 has no field for is carried in annotations.
const CARRIERS: [&str; 4] = [METRICS, CURRENT_METRICS, CONDITIONS, BEHAVIOR];

fn is_cpu_utilization(metric: &Value, part: &str) -> bool {
    let resource = metric.at("resource");
    metric.text("type") == "Resource"
        && resource.text("name") == "cpu"
        && resource.at(part).has("averageUtilization")
}

fn hpa_v2_to_v1(o: &mut Value) {
    let mut carried = Vec::new();
    let spec = o.ensure("spec");
    let metrics = spec.unset("metrics").unwrap_or_default();
    let metrics = metrics.as_array().map(Vec::as_slice).unwrap_or_default();
    if let Some(cpu) = metrics.iter().find(|m| is_cpu_utilization(m, "target")) {
        let percent = cpu.at("resource").at("target").int("averageUtilization");
        spec.set("targetCPUUtilizationPercentage", percent);
    }
    let others: Vec<Value> = metrics
        .iter()
        .filter(|m| !is_cpu_utilization(m, "target"))
        .map(|m| metric_to_v1(m, Part::Target))
        .collect();
    if !others.is_empty() {
        carried.push((METRICS, v1("MetricSpec", &Value::Array(others))));
    }
    if let Some(behavior) = spec.unset("behavior").filter(|b| !b.is_null()) {
        // This one was always written in the internal form.
        let message = "k8s.io.api.autoscaling.v2.HorizontalPodAutoscalerBehavior";
        carried.push((BEHAVIOR, crate::shown::internal(message, &behavior)));
    }
    if let Some(status) = o.sub("status") {
        let current = status.unset("currentMetrics").unwrap_or_default();
        let current = current.as_array().map(Vec::as_slice).unwrap_or_default();
        if let Some(cpu) = current.iter().rfind(|m| is_cpu_utilization(m, "current")) {
            let percent = cpu.at("resource").at("current").int("averageUtilization");
            status.set("currentCPUUtilizationPercentage", percent);
        }
        if !current.is_empty() {
            let list = current.iter().map(|m| metric_to_v1(m, Part::Current)).collect();
            carried.push((CURRENT_METRICS, v1("MetricStatus", &Value::Array(list))));
        }
        if let Some(conditions) =
            status.unset("conditions").filter(|c| c.as_array().is_some_and(|a| !a.is_empty()))
        {
            carried.push((CONDITIONS, v1("HorizontalPodAutoscalerCondition", &conditions)));
        }
    }
    drop_carriers(o);
    for (name, content) in carried {
        o.ensure("metadata").ensure("annotations").set(name, content);
    }
}

/// JSON of the first version, in the order of its fields.
fn v1(kind: &str, v: &Value) -> String {
    crate::shown::external(&format!("k8s.io.api.autoscaling.v1.{kind}"), v)
}

fn hpa_v1_to_v2(o: &mut Value) {
    let annotations = o.at("metadata").at("annotations").clone();
    let carried = |name: &str| serde_json::from_str::<Value>(annotations.text(name)).ok();
    let spec = o.ensure("spec");
    let mut metrics: Vec<Value> = carried(METRICS)
        .and_then(|v| v.as_array().map(|a| a.iter().map(|m| metric_to_v2(m, Part::Target)).collect()))
        .unwrap_or_default();
    if let Some(percent) = spec.unset("targetCPUUtilizationPercentage").filter(|p| !p.is_null()) {
        metrics.push(cpu_metric(percent));
    }
    if metrics.is_empty() {
        metrics.push(cpu_metric(80.into()));
    }
    spec.set("metrics", metrics);
    if let Some(behavior) =
        carried(BEHAVIOR).filter(|b| b.as_object().is_some_and(|m| m.values().any(|v| !v.is_null())))
    {
        spec.set("behavior", recase(&behavior, |c| c.to_ascii_lowercase()));
    }
    if let Some(status) = o.sub("status") {
        let percent = status.unset("currentCPUUtilizationPercentage").filter(|p| !p.is_null());
        if let Some(list) = carried(CURRENT_METRICS).as_ref().and_then(Value::as_array) {
            let list: Vec<Value> = list.iter().map(|m| metric_to_v2(m, Part::Current)).collect();
            status.set("currentMetrics", list);
        } else if let Some(percent) = percent {
            status.set(
                "currentMetrics",
                json!([{"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": percent}}}]),
            );
        }
        if let Some(conditions) = carried(CONDITIONS).filter(Value::is_array) {
            status.set("conditions", conditions);
        }
    }
    drop_carriers(o);
}

fn cpu_metric(percent: Value) -> Value {
    json!({"type": "Resource", "resource": {"name": "cpu",
        "target": {"type": "Utilization", "averageUtilization": percent}}})
}

fn drop_carriers(o: &mut Value) {
    let Some(annotations) = o.sub("metadata").and_then(|m| m.sub("annotations")) else { return };
    for name in CARRIERS {
        annotations.unset(name);
    }
    if annotations.as_object().is_some_and(Map::is_empty) {
        o.ensure("metadata").unset("annotations");
    }
}

/// The behavior annotation has field names with another first letter.
fn recase(v: &Value, first: fn(char) -> char) -> Value {
    match v {
        Value::Object(m) => m
            .iter()
            .filter(|(_, v)| !v.is_null())
            .map(|(k, v)| {
                let mut chars = k.chars();
                let key: String = chars.next().map(first).into_iter().chain(chars).collect();
                (key, recase(v, first))
            })
            .collect(),
        Value::Array(a) => a.iter().map(|v| recase(v, first)).collect(),
        v => v.clone(),
    }
}

/// A metric's wish, or what was measured.
#[derive(Clone, Copy, PartialEq)]
enum Part {
    Target,
    Current,
}

impl Part {
    fn field(self) -> &'static str {
        if self == Part::Target { "target" } else { "current" }
    }
    /// `targetAverageValue`, `currentAverageValue`, …
    fn named(self, what: &str) -> String {
        format!("{}{what}", self.field())
    }
}

/// Sources by their field; pods' and objects' selectors have another name than external ones'.
const SOURCES: [&str; 5] = ["resource", "containerResource", "pods", "object", "external"];

fn metric_to_v1(metric: &Value, part: Part) -> Value {
    let mut out = json!({"type": metric.text("type")});
    for source in SOURCES {
        let s = metric.at(source);
        if s.is_null() {
            continue;
        }
        let amounts = s.at(part.field());
        let mut flat = json!({});
        let mut put = |name: String, v: &Value| {
            if !v.is_null() {
                flat.set(&name, v.clone());
            }
        };
        put("name".into(), s.at("name"));
        put("container".into(), s.at("container"));
        put("metricName".into(), s.at("metric").at("name"));
        let selector = if source == "external" { "metricSelector" } else { "selector" };
        put(selector.into(), s.at("metric").at("selector"));
        put(part.named("AverageUtilization"), amounts.at("averageUtilization"));
        if source == "object" {
            put("target".into(), s.at("describedObject"));
            put("averageValue".into(), amounts.at("averageValue"));
        } else {
            put(part.named("AverageValue"), amounts.at("averageValue"));
        }
        put(part.named("Value"), amounts.at("value"));
        out.set(source, flat);
    }
    out
}

fn metric_to_v2(metric: &Value, part: Part) -> Value {
    let mut out = json!({"type": metric.text("type")});
    for source in SOURCES {
        let s = metric.at(source);
        if s.is_null() {
            continue;
        }
        let mut amounts = json!({});
        let average = if source == "object" { "averageValue".to_owned() } else { part.named("AverageValue") };
        for (name, field) in [
            ("averageUtilization", part.named("AverageUtilization")),
            ("averageValue", average),
            ("value", part.named("Value")),
        ] {
            if s.has(&field) {
                amounts.set(name, s.at(&field).clone());
            }
        }
        if part == Part::Target {
            let kind = match source {
                "resource" | "containerResource" if amounts.has("averageUtilization") => "Utilization",
                "external" if amounts.has("value") => "Value",
                "object" if !amounts.has("averageValue") => "Value",
                _ => "AverageValue",
            };
            amounts.set("type", kind);
        }
        let mut nested = json!({});
        nested.set(part.field(), amounts);
        for field in ["name", "container"] {
            if s.has(field) {
                nested.set(field, s.at(field).clone());
            }
        }
        if s.has("metricName") {
            let mut id = json!({"name": s.text("metricName")});
            let selector = if source == "external" { "metricSelector" } else { "selector" };
            if s.has(selector) {
                id.set("selector", s.at(selector).clone());
            }
            nested.set("metric", id);
        }
        if source == "object" {
            nested.set("describedObject", s.at("target").clone());
        }
        out.set(source, nested);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gvk(group: &str, version: &str, kind: &str) -> GroupVersionKind {
        GroupVersionKind::new(group, version, kind)
    }

    #[test]
    fn autoscalers_survive_the_round() {
        let v2 = json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "h"},
            "spec": {"maxReplicas": 3, "behavior": {"scaleUp": {"policies": [{"type": "Pods", "value": 4, "periodSeconds": 15}]}},
                "metrics": [
                    {"type": "Pods", "pods": {"metric": {"name": "m"}, "target": {"type": "AverageValue", "averageValue": "5"}}},
                    {"type": "Object", "object": {"metric": {"name": "o", "selector": {}}, "describedObject": {"kind": "Service", "name": "s"},
                        "target": {"type": "Value", "value": "7"}}},
                    {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 70}}}]},
            "status": {"currentReplicas": 1, "conditions": [{"type": "ScalingActive", "status": "True"}],
                "currentMetrics": [{"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": 30, "averageValue": "3m"}}}]}});
        let (one, two) = (
            gvk("autoscaling", "v1", "HorizontalPodAutoscaler"),
            gvk("autoscaling", "v2", "HorizontalPodAutoscaler"),
        );
        let mut v = v2.clone();
        convert(&mut v, &two, &one);
        assert_eq!(v["spec"]["targetCPUUtilizationPercentage"], json!(70));
        assert_eq!(v["status"]["currentCPUUtilizationPercentage"], json!(30));
        assert!(v["metadata"]["annotations"][BEHAVIOR].as_str().unwrap().contains("\"ScaleUp\""));
        assert!(v["spec"].get("metrics").is_none());
        convert(&mut v, &one, &two);
        assert_eq!(v, v2);
    }

    #[test]
    fn events_rename_their_fields() {
        let mut v = json!({"involvedObject": {"name": "p"}, "message": "m", "count": 2, "reason": "r"});
        convert(&mut v, &gvk("", "v1", "Event"), &gvk("events.k8s.io", "v1", "Event"));
        assert_eq!(
            v,
            json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "regarding": {"name": "p"}, "note": "m",
                "deprecatedCount": 2, "reason": "r"})
        );
    }
}
