//! Daemon sets.

use crate::prepare::Plan;
use crate::table::{age, containers, labels, name, selector};
use crate::value::{Get, Put, same};
use crate::{Context, Kind, Operation, PLAIN};
use api::Value;

/// How often the template has changed: a field once, an annotation now.
pub const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

pub static ROOM: Kind = Kind { defaults, plan: Plan::FULL, prepare, row: Some(row), ..PLAIN };

fn defaults(o: &mut Value) {
    let spec = o.ensure("spec");
    if let Some(t) = spec.sub("template") {
        crate::pod::template(t);
    }
    let strategy = spec.ensure("updateStrategy");
    strategy.fill_zero("type", "RollingUpdate");
    if strategy.text("type") == "RollingUpdate" {
        let rolling = strategy.ensure("rollingUpdate");
        rolling.fill("maxUnavailable", 1);
        rolling.fill("maxSurge", 0);
    }
    spec.fill("revisionHistoryLimit", 10);
}

fn prepare(op: Operation, cx: &Context<'_>, new: &mut Value, old: Option<&Value>) {
    let counted = |o: &Value| {
        o.at("metadata").at("annotations").text(TEMPLATE_GENERATION).parse::<i64>().unwrap_or_default()
    };
    let generation = match (op, old) {
        (Operation::Create, _) => counted(new).max(1),
        (_, Some(old)) if cx.subresource.is_empty() => {
            let changed = !same(new.at("spec").at("template"), old.at("spec").at("template"));
            counted(old) + i64::from(changed)
        }
        _ => return,
    };
    new.ensure("metadata").ensure("annotations").set(TEMPLATE_GENERATION, generation.to_string());
}

fn row(o: &Value) -> Vec<Value> {
    let (spec, status) = (o.at("spec"), o.at("status"));
    let template = spec.at("template").at("spec");
    let [names, images] = containers(template);
    let mut row = vec![name(o)];
    for field in [
        "desiredNumberScheduled",
        "currentNumberScheduled",
        "numberReady",
        "updatedNumberScheduled",
        "numberAvailable",
    ] {
        row.push(status.int(field).into());
    }
    row.extend([
        labels(template.at("nodeSelector")).into(),
        age(o),
        names,
        images,
        selector(spec.at("selector")),
    ]);
    row
}
