//! Endpoint slices.

use crate::prepare::bump_generation;
use crate::table::{UNSET, age, first_three, name};
use crate::value::{Get, Put, same};
use crate::{Context, Kind, Operation, PLAIN};
use api::Value;

pub static ENDPOINT_SLICE: Kind = Kind { defaults, prepare, row: Some(row), ..PLAIN };

fn defaults(o: &mut Value) {
    for port in o.items("ports") {
        port.fill("name", "");
        port.fill("protocol", "TCP");
    }
}

fn prepare(op: Operation, _: &Context<'_>, new: &mut Value, old: Option<&Value>) {
    let Some(old) = old.filter(|_| op == Operation::Update) else {
        return new.ensure("metadata").set("generation", 1);
    };
    // The topology map of earlier versions is not kept; an unchanged endpoint list stays as it is.
    if !same(new.at("endpoints"), old.at("endpoints")) {
        for endpoint in new.items("endpoints") {
            endpoint.unset("deprecatedTopology");
        }
    }
    let changed = ["endpoints", "ports", "addressType"].iter().any(|f| !same(new.at(f), old.at(f)))
        || !same(new.at("metadata").at("labels"), old.at("metadata").at("labels"));
    if changed {
        bump_generation(new, old);
    }
}

fn row(o: &Value) -> Vec<Value> {
    let ports: Vec<String> = o
        .list("ports")
        .iter()
        .map(|p| match p.opt_int("port") {
            Some(n) => n.to_string(),
            None => p.opt_text("name").unwrap_or("*").to_owned(),
        })
        .collect();
    let addresses: Vec<String> =
        o.list("endpoints").iter().flat_map(|e| e.texts("addresses")).map(str::to_owned).collect();
    vec![
        name(o),
        o.text("addressType").into(),
        first_three(&ports, UNSET).into(),
        first_three(&addresses, UNSET).into(),
        age(o),
    ]
}
