//! Priority classes, pod groups and workloads.

use crate::prepare::{Plan, StatusMeta};
use crate::table::{NONE, age, condition, name};
use crate::value::{Get, Put};
use crate::{Context, Kind, Operation, PLAIN};
use api::Value;

pub static PRIORITY_CLASS: Kind = Kind {
    defaults: |o| o.fill("preemptionPolicy", "PreemptLowerPriority"),
    prepare,
    row: Some(row),
    ..PLAIN
};
pub static POD_GROUP: Kind =
    Kind { plan: Plan { status_meta: StatusMeta::Keep, ..Plan::STATUS }, row: Some(group_row), ..PLAIN };
pub static WORKLOAD: Kind = Kind { row: Some(|o| vec![name(o), age(o)]), ..PLAIN };

fn prepare(op: Operation, _: &Context<'_>, new: &mut Value, _: Option<&Value>) {
    if op == Operation::Create {
        new.ensure("metadata").set("generation", 1);
    }
}

fn row(o: &Value) -> Vec<Value> {
    vec![
        name(o),
        o.int("value").into(),
        o.flag("globalDefault").into(),
        age(o),
        o.text("preemptionPolicy").into(),
    ]
}

fn group_row(o: &Value) -> Vec<Value> {
    let (spec, status) = (o.at("spec"), o.at("status"));
    let mut word = match condition(status, "PodGroupScheduled").map(|c| c.text("status")) {
        None => "Pending",
        Some("True") => "Scheduled",
        Some(_) => "Unschedulable",
    };
    if let Some(c) = condition(status, "DisruptionTarget") {
        word = c.text("reason");
    }
    let policy = if spec.at("schedulingPolicy").has("gang") { "Gang" } else { "Basic" };
    let workload = match spec.at("podGroupTemplateRef") {
        Value::Null => NONE,
        r => r.at("workload").text("workloadName"),
    };
    vec![name(o), policy.into(), workload.into(), word.into(), age(o)]
}
