//! Horizontal pod autoscalers, and the scale that other kinds have as a subresource.

use crate::prepare::Plan;
use crate::table::{NONE, age, name, quantity};
use crate::value::{Get, Put};
use crate::{Kind, PLAIN};
use api::{GroupVersionKind, Value, json};

pub static HPA_V2: Kind = Kind { defaults, plan: Plan::STATUS, row: Some(row), ..PLAIN };
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
const HPA_V2_LIKE: Kind = Kind { plan: Plan::STATUS, ..PLAIN };

pub static SCALE: Kind = Kind {
    defaults: |o| {
        if let Some(spec) = o.sub("spec") {
            spec.fill("replicas", 0);
        }
    },
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
