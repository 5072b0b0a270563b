//! Ingresses and their classes.

use crate::prepare::Plan;
use crate::table::{NONE, age, load_balancer, name};
use crate::value::{Get, Put};
use crate::{Kind, PLAIN};
use api::Value;

pub static ROOM: Kind = Kind { plan: Plan::FULL, row: Some(row), ..PLAIN };
pub static CLASS: Kind = Kind {
    defaults: |o| {
        if let Some(p) = o.sub("spec").and_then(|s| s.sub("parameters")) {
            p.fill("scope", "Cluster");
        }
    },
    plan: Plan::GENERATION,
    row: Some(class_row),
    ..PLAIN
};

fn row(o: &Value) -> Vec<Value> {
    let spec = o.at("spec");
    vec![
        name(o),
        spec.opt_text("ingressClassName").unwrap_or(NONE).into(),
        hosts(spec.list("rules")).into(),
        load_balancer(o.at("status")).into(),
        if spec.len("tls") > 0 { "80, 443" } else { "80" }.into(),
        age(o),
    ]
}

fn hosts(rules: &[Value]) -> String {
    let mut shown: Vec<&str> = Vec::new();
    let mut more = false;
    for rule in rules {
        more |= shown.len() == 3;
        if !more && !rule.text("host").is_empty() {
            shown.push(rule.text("host"));
        }
    }
    match (shown.is_empty(), more) {
        (true, _) => "*".to_owned(),
        (_, true) => format!("{} + {} more...", shown.join(","), rules.len() - 3),
        _ => shown.join(","),
    }
}

fn class_row(o: &Value) -> Vec<Value> {
    let p = o.at("spec").at("parameters");
    let parameters = match (p.is_null(), p.opt_text("apiGroup")) {
        (true, _) => NONE.to_owned(),
        (_, Some(group)) => format!("{}.{group}/{}", p.text("kind"), p.text("name")),
        _ => format!("{}/{}", p.text("kind"), p.text("name")),
    };
    let annotations = o.at("metadata").at("annotations");
    let default = annotations.text("ingressclass.kubernetes.io/is-default-class") == "true";
    let name = o.at("metadata").text("name");
    let shown = if default { format!("{name} (default)") } else { name.to_owned() };
    vec![shown.into(), o.at("spec").text("controller").into(), parameters.into(), age(o)]
}
