//! Daemon sets.

use super::common::{counts, immutable_selector, selector as check_selector, template};
use crate::checks;
use crate::prepare::Plan;
use crate::table::{age, containers, labels, name, selector};
use crate::value::{Get, Put, identical};
use crate::{Context, Kind, Operation, PLAIN};
use api::Value;
use api::field::{Error, ErrorList, Path};

/// How often the template has changed: a field once, an annotation now.
pub const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

pub static ROOM: Kind = Kind {
    defaults,
    plan: Plan::FULL,
    prepare,
    validate,
    warnings: crate::warnings::workload,
    row: Some(row),
    ..PLAIN
};

fn defaults(o: &mut Value) {
    // Written by the server into every object, and so owned by whoever sends one without it.
    o.ensure("metadata").ensure("annotations").fill(TEMPLATE_GENERATION, "0");
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
    if let Some(rolling) = strategy.sub("rollingUpdate") {
        // Upstream's own form of it has no room for an absent number.
        rolling.fill("maxUnavailable", 0);
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
            let changed = !identical(new.at("spec").at("template"), old.at("spec").at("template"));
            counted(old) + i64::from(changed)
        }
        (_, Some(old)) => counted(old),
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

fn validate(cx: &Context<'_>, new: &Value, old: Option<&Value>, e: &mut ErrorList) {
    if cx.subresource == "status" {
        let fields = [
            "currentNumberScheduled",
            "numberMisscheduled",
            "desiredNumberScheduled",
            "numberReady",
            "observedGeneration",
            "updatedNumberScheduled",
            "numberAvailable",
            "numberUnavailable",
        ];
        counts(new.at("status"), &fields, &Path::new("status"), e);
        return counts(new.at("status"), &["collisionCount"], &Path::new("status"), e);
    }
    let (spec, at) = (new.at("spec"), Path::new("spec"));
    if let Some(old) = old {
        immutable_selector(spec, old.at("spec"), &at, e);
    }
    if spec.has("selector") {
        check_selector(spec, "daemonset", &at, e);
    }
    template(spec, "DaemonSet", &at, e);
    counts(spec, &["minReadySeconds", "revisionHistoryLimit"], &at, e);
    let (strategy, at) = (spec.at("updateStrategy"), at.child("updateStrategy"));
    match strategy.text("type") {
        "OnDelete" => {}
        "RollingUpdate" => rolling_update(strategy.at("rollingUpdate"), &at.child("rollingUpdate"), e),
        _ => {
            let known = ["RollingUpdate", "OnDelete"];
            let mut error = Error::not_supported_in_order(&at, strategy.clone(), &known);
            let message = "k8s.io.api.apps.v1.DaemonSetUpdateStrategy";
            error.printed = Some(crate::shown::internal(message, strategy));
            e.push(error);
        }
    }
}

fn rolling_update(rolling: &Value, at: &Path, e: &mut ErrorList) {
    if rolling.is_null() {
        e.push(Error::required(at, ""));
        return;
    }
    for field in ["maxUnavailable", "maxSurge"] {
        super::common::int_or_percent(rolling.at(field), &at.child(field), e);
        checks::not_more_than_100_percent(rolling.at(field), &at.child(field), e);
    }
    let number = |field: &str| checks::int_or_percent_number(rolling.at(field));
    match (number("maxUnavailable"), number("maxSurge")) {
        (0, 0) => {
            e.push(Error::required(&at.child("maxUnavailable"), "cannot be 0 when maxSurge is 0"));
        }
        (0, _) | (_, 0) => {}
        _ => {
            let text = "may not be set when maxUnavailable is non-zero";
            e.push(Error::invalid(&at.child("maxSurge"), rolling.at("maxSurge").clone(), text));
        }
    }
}
