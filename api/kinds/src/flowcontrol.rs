//! Flow schemas and priority levels.

use crate::metadata::Names;
use crate::prepare::{Plan, StatusMeta};
use crate::table::{NONE, age, condition, name};
use crate::value::{Get, Put};
use crate::{Kind, PLAIN};
use api::Value;

const LIKE: Kind =
    Kind { names: Names::PathSegment, plan: Plan { status_meta: StatusMeta::Keep, ..Plan::FULL }, ..PLAIN };
pub static FLOW_SCHEMA: Kind = Kind {
    names: Names::Subdomain,
    defaults: |o| o.ensure("spec").fill_zero("matchingPrecedence", 1000),
    row: Some(schema_row),
    ..LIKE
};
pub static PRIORITY_LEVEL: Kind =
    Kind { names: Names::Subdomain, defaults: level, row: Some(level_row), ..LIKE };

fn level(o: &mut Value) {
    let spec = o.ensure("spec");
    if let Some(exempt) = spec.sub("exempt") {
        exempt.fill("nominalConcurrencyShares", 0);
        exempt.fill("lendablePercent", 0);
    }
    let Some(limited) = spec.sub("limited") else { return };
    limited.fill("nominalConcurrencyShares", 30);
    limited.fill("lendablePercent", 0);
    if let Some(queuing) = limited.sub("limitResponse").and_then(|l| l.sub("queuing")) {
        queuing.fill_zero("handSize", 8);
        queuing.fill_zero("queues", 64);
        queuing.fill_zero("queueLengthLimit", 50);
    }
}

fn schema_row(o: &Value) -> Vec<Value> {
    let spec = o.at("spec");
    let method = match spec.at("distinguisherMethod") {
        Value::Null => NONE,
        m => m.text("type"),
    };
    vec![
        name(o),
        spec.at("priorityLevelConfiguration").text("name").into(),
        spec.int("matchingPrecedence").into(),
        method.into(),
        age(o),
        condition(o.at("status"), "Dangling").map_or("?", |c| c.text("status")).into(),
    ]
}

fn level_row(o: &Value) -> Vec<Value> {
    let spec = o.at("spec");
    let limited = spec.at("limited");
    let number = |v: &Value| if v.is_null() { NONE.into() } else { v.clone() };
    let queuing = limited.at("limitResponse").at("queuing");
    vec![
        name(o),
        spec.text("type").into(),
        number(limited.at("nominalConcurrencyShares")),
        number(queuing.at("queues")),
        number(queuing.at("handSize")),
        number(queuing.at("queueLengthLimit")),
        age(o),
    ]
}
