//! Replica sets.

use crate::prepare::Plan;
use crate::table::{age, containers, name, selector};
use crate::value::{Get, Put};
use crate::{Kind, PLAIN};
use api::Value;

pub static ROOM: Kind = Kind { defaults, plan: Plan::FULL, row: Some(row), ..PLAIN };

fn defaults(o: &mut Value) {
    let spec = o.ensure("spec");
    if let Some(t) = spec.sub("template") {
        crate::pod::template(t);
    }
    spec.fill("replicas", 1);
}

fn row(o: &Value) -> Vec<Value> {
    let (spec, status) = (o.at("spec"), o.at("status"));
    let [names, images] = containers(spec.at("template").at("spec"));
    vec![
        name(o),
        spec.int("replicas").into(),
        status.int("replicas").into(),
        status.int("readyReplicas").into(),
        age(o),
        names,
        images,
        selector(spec.at("selector")),
    ]
}
