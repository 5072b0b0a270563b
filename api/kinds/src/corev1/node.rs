//! Nodes.

use crate::pod::resource_list;
use crate::prepare::Plan;
use crate::table::{NONE, age, condition, name, or, or_none};
use crate::value::{Get, Put};
use crate::{Context, Kind, Operation, PLAIN};
use api::{Value, json};
use std::collections::BTreeSet;

pub static ROOM: Kind = Kind { defaults, plan: Plan::NONE, prepare, row: Some(row), ..PLAIN };

fn defaults(o: &mut Value) {
    if let Some(spec) = o.sub("spec") {
        let (one, first) =
            (spec.text("podCIDR").to_owned(), spec.texts("podCIDRs").next().map(str::to_owned));
        match first {
            None if !one.is_empty() => spec.set("podCIDRs", json!([one])),
            Some(first) if first != one => spec.set("podCIDR", first),
            _ => {}
        }
    }
    let Some(status) = o.sub("status") else { return };
    for list in ["capacity", "allocatable"] {
        if let Some(map) = status.sub(list) {
            resource_list(map);
        }
    }
    if status.has("capacity") {
        let capacity = status.at("capacity").clone();
        status.fill("allocatable", capacity);
    }
}

/// Unlike most, a new node keeps the status that its kubelet sends along.
fn prepare(op: Operation, cx: &Context<'_>, new: &mut Value, old: Option<&Value>) {
    let plan = if op == Operation::Update { Plan::STATUS } else { Plan::NONE };
    plan.apply(op, cx, new, old);
    if let Some(spec) = new.sub("spec") {
        spec.unset("configSource");
    }
    if let Some(status) = new.sub("status") {
        status.unset("config");
    }
}

fn row(o: &Value) -> Vec<Value> {
    let (spec, status) = (o.at("spec"), o.at("status"));
    let mut state = match condition(status, "Ready").map(|c| c.text("status")) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }
    .to_owned();
    if spec.flag("unschedulable") {
        state.push_str(",SchedulingDisabled");
    }
    let info = status.at("nodeInfo");
    let mut kernel = or(info.text("kernelVersion"), "<unknown>").as_str().unwrap_or_default().to_owned();
    if !info.text("architecture").is_empty() {
        kernel = format!("{kernel} ({})", info.text("architecture"));
    }
    vec![
        name(o),
        state.into(),
        or_none(&roles(o)),
        age(o),
        info.text("kubeletVersion").into(),
        address(status, "InternalIP"),
        address(status, "ExternalIP"),
        or(info.text("osImage"), "<unknown>"),
        kernel.into(),
        or(info.text("containerRuntimeVersion"), "<unknown>"),
    ]
}

fn roles(o: &Value) -> String {
    let mut roles = BTreeSet::new();
    for (key, value) in o.at("metadata").entries("labels") {
        let value = value.as_str().unwrap_or_default();
        let role = match key.strip_prefix("node-role.kubernetes.io/") {
            Some(role) => role,
            None if key == "kubernetes.io/role" => value,
            None => "",
        };
        if !role.is_empty() {
            roles.insert(role);
        }
    }
    roles.into_iter().collect::<Vec<_>>().join(",")
}

fn address(status: &Value, kind: &str) -> Value {
    let found = status.list("addresses").iter().find(|a| a.text("type") == kind);
    found.map_or(NONE, |a| a.text("address")).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells() {
        let node = json!({"metadata": {"name": "n", "labels": {"node-role.kubernetes.io/worker": "", "node-role.kubernetes.io/a": ""}},
            "spec": {"unschedulable": true},
            "status": {"conditions": [{"type": "Ready", "status": "Unknown"}], "nodeInfo": {"kernelVersion": "6", "architecture": "amd64"},
                "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}]}});
        let row = row(&node);
        assert_eq!(row[1], json!("NotReady,SchedulingDisabled"));
        assert_eq!(row[2], json!("a,worker"));
        assert_eq!(
            row[5..],
            [json!("10.0.0.1"), json!("<none>"), json!("<unknown>"), json!("6 (amd64)"), json!("<unknown>")]
        );
    }
}
