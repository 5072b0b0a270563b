//! Persistent volume claims.

use super::pv::{class, phase};
use crate::prepare::Plan;
use crate::table::{access_modes, age, name, opt_text, quantity};
use crate::value::{Get, Put, is_zero};
use crate::{Context, Kind, Operation, PLAIN};
use api::Value;

pub static ROOM: Kind = Kind { defaults, plan: Plan::STATUS, prepare, row: Some(row), ..PLAIN };

pub fn defaults(o: &mut Value) {
    o.ensure("status").fill_zero("phase", "Pending");
    if let Some(spec) = o.sub("spec") {
        crate::pod::claim_spec(spec);
    }
    if let Some(capacity) = o.sub("status").and_then(|s| s.sub("capacity")) {
        crate::pod::resource_list(capacity);
    }
}

fn prepare(op: Operation, cx: &Context<'_>, new: &mut Value, old: Option<&Value>) {
    if op == Operation::Create {
        new.ensure("status").set("phase", "Pending");
    }
    if cx.subresource.is_empty()
        && let Some(spec) = new.sub("spec")
    {
        let untouched = old.is_some_and(|o| {
            let was = o.at("spec");
            was.at("dataSource") == spec.at("dataSource")
                && was.at("dataSourceRef") == spec.at("dataSourceRef")
        });
        if !untouched {
            data_sources(spec);
        }
    }
}

/// `dataSource` and `dataSourceRef` follow each other, unless the source is in another namespace.
fn data_sources(spec: &mut Value) {
    let known = |s: &Value| match (s.text("apiGroup"), s.text("kind")) {
        ("", "PersistentVolumeClaim") | ("snapshot.storage.k8s.io", "VolumeSnapshot") => true,
        _ => is_zero(s),
    };
    // Anything but claims and snapshots was never accepted here, only dropped.
    if !known(spec.at("dataSource")) {
        spec.unset("dataSource");
    }
    let other_namespace = !spec.at("dataSourceRef").text("namespace").is_empty();
    if spec.has("dataSource") && !spec.has("dataSourceRef") {
        let source = spec.at("dataSource").clone();
        spec.set("dataSourceRef", source);
    } else if spec.has("dataSourceRef") && !spec.has("dataSource") && !other_namespace {
        if known(spec.at("dataSourceRef")) {
            let source = spec.at("dataSourceRef").clone();
            spec.set("dataSource", source);
        }
    }
}

fn row(o: &Value) -> Vec<Value> {
    let (spec, status) = (o.at("spec"), o.at("status"));
    let bound = !spec.text("volumeName").is_empty();
    let capacity = if bound { quantity(status.at("capacity").at("storage")) } else { String::new() };
    let modes = if bound { access_modes(status) } else { String::new() };
    vec![
        name(o),
        phase(o),
        spec.text("volumeName").into(),
        capacity.into(),
        modes.into(),
        class(o).into(),
        opt_text(spec.opt_text("volumeAttributesClassName")),
        age(o),
        opt_text(spec.opt_text("volumeMode")),
    ]
}
