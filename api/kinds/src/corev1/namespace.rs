//! Namespaces.

use crate::metadata::Names;
use crate::prepare::Plan;
use crate::table::{age, name};
use crate::value::{Get, Put};
use crate::{Context, Kind, Operation, PLAIN};
use api::{Value, json};

/// The label that every namespace carries with its own name.
pub const NAME_LABEL: &str = "kubernetes.io/metadata.name";

pub static ROOM: Kind = Kind {
    names: Names::Label,
    defaults,
    plan: Plan::STATUS,
    prepare,
    canonicalize: name_label,
    row: Some(row),
    ..PLAIN
};

fn defaults(o: &mut Value) {
    name_label(o);
    o.ensure("status").fill_zero("phase", "Active");
}

fn name_label(o: &mut Value) {
    let name = o.at("metadata").text("name").to_owned();
    if !name.is_empty() {
        o.ensure("metadata").ensure("labels").set(NAME_LABEL, name);
    }
}

fn prepare(op: Operation, cx: &Context<'_>, new: &mut Value, old: Option<&Value>) {
    match (op, old) {
        (Operation::Create, _) => {
            new.set("status", json!({"phase": "Active"}));
            let mut finalizers = new.at("spec").list("finalizers").to_vec();
            if !finalizers.iter().any(|f| f == "kubernetes") {
                finalizers.push("kubernetes".into());
            }
            new.ensure("spec").set("finalizers", finalizers);
        }
        (_, Some(old)) if cx.subresource.is_empty() => {
            new.ensure("spec").copy_from(old.at("spec"), "finalizers");
        }
        (_, Some(old)) if cx.subresource == "finalize" => new.copy_from(old, "status"),
        _ => {}
    }
}

fn row(o: &Value) -> Vec<Value> {
    vec![name(o), o.at("status").text("phase").into(), age(o)]
}
