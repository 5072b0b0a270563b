//! Replication controllers and pod templates.

use crate::prepare::Plan;
use crate::table::{age, containers, labels, name};
use crate::value::{Get, Put};
use crate::{Kind, PLAIN};
use api::Value;

pub static ROOM: Kind = Kind { defaults, plan: Plan::FULL, row: Some(row), ..PLAIN };
pub static POD_TEMPLATE: Kind = Kind {
    defaults: |o| {
        if let Some(t) = o.sub("template") {
            crate::pod::template(t);
        }
    },
    plan: Plan { generation: &["template"], ..Plan::NONE },
    row: Some(template_row),
    ..PLAIN
};

fn defaults(o: &mut Value) {
    let own = o.at("spec").at("template").at("metadata").at("labels").clone();
    if own.as_object().is_some_and(|m| !m.is_empty()) {
        o.ensure("metadata").fill_zero("labels", own.clone());
        o.ensure("spec").fill_zero("selector", own);
    }
    let spec = o.ensure("spec");
    spec.fill("replicas", 1);
    if let Some(t) = spec.sub("template") {
        crate::pod::template(t);
    }
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
        labels(spec.at("selector")).into(),
    ]
}

fn template_row(o: &Value) -> Vec<Value> {
    let [names, images] = containers(o.at("template").at("spec"));
    vec![name(o), names, images, labels(o.at("template").at("metadata").at("labels")).into()]
}
