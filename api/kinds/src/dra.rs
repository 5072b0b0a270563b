//! The `resource.k8s.io` group: claims on devices, their templates, classes and slices.

use crate::prepare::{Plan, StatusMeta};
use crate::table::{NONE, age, name, since};
use crate::value::{Get, Put};
use crate::{Kind, PLAIN};
use api::Value;

pub static CLAIM: Kind = Kind {
    defaults: |o| claim(o.ensure("spec")),
    plan: Plan { status_meta: StatusMeta::Keep, ..Plan::STATUS },
    row: Some(|o| vec![name(o), state(o).into(), age(o)]),
    ..PLAIN
};
pub static TEMPLATE: Kind = Kind {
    defaults: |o| {
        if let Some(spec) = o.sub("spec").and_then(|s| s.sub("spec")) {
            claim(spec);
        }
    },
    row: Some(|o| vec![name(o), age(o)]),
    ..PLAIN
};
pub static CLASS: Kind = Kind { plan: Plan::GENERATION, row: Some(|o| vec![name(o), age(o)]), ..PLAIN };
pub static SLICE: Kind = Kind { defaults: slice, plan: Plan::GENERATION, row: Some(slice_row), ..PLAIN };
pub static TAINT_RULE: Kind = Kind {
    defaults: |o| {
        if let Some(t) = o.sub("spec").and_then(|s| s.sub("taint")) {
            taint(t);
        }
    },
    plan: Plan { status_meta: StatusMeta::Keep, ..Plan::FULL },
    row: Some(taint_row),
    ..PLAIN
};
pub static POOL_STATUS_REQUEST: Kind = Kind {
    defaults: |o| o.ensure("spec").fill("limit", 100),
    plan: Plan { status_meta: StatusMeta::Keep, ..Plan::STATUS },
    row: Some(pool_row),
    unconditional_update: false,
    ..PLAIN
};

fn claim(spec: &mut Value) {
    let Some(devices) = spec.sub("devices") else { return };
    for request in devices.items("requests") {
        // The first beta has the exact request inline.
        if request.has("deviceClassName") {
            exact(request);
        }
        if let Some(e) = request.sub("exactly") {
            exact(e);
        }
        request.items("firstAvailable").for_each(exact);
    }
}

fn exact(request: &mut Value) {
    request.fill_zero("allocationMode", "ExactCount");
    if request.text("allocationMode") == "ExactCount" {
        request.fill_zero("count", 1);
    }
    for toleration in request.items("tolerations") {
        toleration.fill_zero("operator", "Equal");
    }
}

fn taint(t: &mut Value) {
    t.fill("timeAdded", jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
}

fn slice(o: &mut Value) {
    let Some(spec) = o.sub("spec") else { return };
    for device in spec.items("devices") {
        device.items("taints").for_each(taint);
        if let Some(basic) = device.sub("basic") {
            basic.items("taints").for_each(taint);
        }
    }
}

fn state(o: &Value) -> String {
    let deleted = o.at("metadata").has("deletionTimestamp");
    let status = o.at("status");
    let mut words = Vec::new();
    if deleted {
        words.push("deleted");
    }
    if status.has("allocation") {
        words.push("allocated");
        if status.len("reservedFor") > 0 {
            words.push("reserved");
        }
    } else if !deleted {
        words.push("pending");
    }
    words.join(",")
}

fn slice_row(o: &Value) -> Vec<Value> {
    let spec = o.at("spec");
    vec![
        name(o),
        spec.text("nodeName").into(),
        spec.text("driver").into(),
        spec.at("pool").text("name").into(),
        age(o),
    ]
}

fn taint_row(o: &Value) -> Vec<Value> {
    let taint = o.at("spec").at("taint");
    let added = taint.opt_text("timeAdded").map(since).unwrap_or_default();
    vec![
        name(o),
        taint.text("key").into(),
        taint.text("value").into(),
        taint.text("effect").into(),
        added.into(),
        age(o),
    ]
}

fn pool_row(o: &Value) -> Vec<Value> {
    let status = o.at("status");
    let pools = status.list("pools");
    let ended = |kind: &str| {
        status.list("conditions").iter().find(|c| c.text("type") == kind && c.text("status") == "True")
    };
    let (complete, failed) = (ended("Complete"), ended("Failed").is_some());
    let count = status.int("poolCount");
    let word = match (complete.is_some(), failed) {
        (true, _) if count > pools.len() as i64 => format!("Complete ({}/{count} pools)", pools.len()),
        (true, _) => "Complete".to_owned(),
        (_, true) => "Failed".to_owned(),
        _ => "Pending".to_owned(),
    };
    let sum = |field: &str| -> Value {
        if status.is_null() || (failed && complete.is_none()) {
            return "-".into();
        }
        pools.iter().map(|p| p.int(field)).sum::<i64>().to_string().into()
    };
    let errors: Value = match sum("") {
        Value::String(s) if s == "-" => "-".into(),
        _ => pools.iter().filter(|p| p.has("validationError")).count().to_string().into(),
    };
    vec![
        name(o),
        o.at("spec").text("driver").into(),
        sum("totalDevices"),
        sum("availableDevices"),
        sum("allocatedDevices"),
        sum("unavailableDevices"),
        errors,
        count.into(),
        word.into(),
        complete.map_or(NONE.to_owned(), |c| since(c.text("lastTransitionTime"))).into(),
    ]
}
