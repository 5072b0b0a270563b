//! Persistent volumes.

use crate::pod::resource_list;
use crate::prepare::Plan;
use crate::table::{access_modes, age, name, opt_text, quantity};
use crate::value::{Get, Put};
use crate::{Context, Kind, Operation, PLAIN};
use api::{Value, json};

pub static ROOM: Kind = Kind { defaults, plan: Plan::STATUS, prepare, row: Some(row), ..PLAIN };

fn defaults(o: &mut Value) {
    o.ensure("status").fill_zero("phase", "Pending");
    let Some(spec) = o.sub("spec") else { return };
    spec.fill_zero("persistentVolumeReclaimPolicy", "Retain");
    spec.fill("volumeMode", "Filesystem");
    if let Some(capacity) = spec.sub("capacity") {
        resource_list(capacity);
    }
    crate::pod::volume_source(spec);
}

fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn prepare(op: Operation, cx: &Context<'_>, new: &mut Value, old: Option<&Value>) {
    let Some(old) = old.filter(|_| op == Operation::Update) else {
        return new.set("status", json!({"phase": "Pending", "lastPhaseTransitionTime": now()}));
    };
    if cx.subresource != "status" {
        return;
    }
    let was = old.at("status");
    let status = new.ensure("status");
    let (at, before) = (status.text("lastPhaseTransitionTime"), was.text("lastPhaseTransitionTime"));
    if status.text("phase") != was.text("phase") {
        if at.is_empty() || at == before {
            status.set("lastPhaseTransitionTime", now());
        }
    } else if at.is_empty() {
        status.copy_from(was, "lastPhaseTransitionTime");
    }
}

fn row(o: &Value) -> Vec<Value> {
    let (spec, status) = (o.at("spec"), o.at("status"));
    let claim = match spec.at("claimRef") {
        Value::Null => String::new(),
        c => format!("{}/{}", c.text("namespace"), c.text("name")),
    };
    vec![
        name(o),
        quantity(spec.at("capacity").at("storage")).into(),
        access_modes(spec).into(),
        spec.text("persistentVolumeReclaimPolicy").into(),
        phase(o),
        claim.into(),
        class(o).into(),
        opt_text(spec.opt_text("volumeAttributesClassName")),
        status.text("reason").into(),
        age(o),
        opt_text(spec.opt_text("volumeMode")),
    ]
}

/// The phase, or that it is on its way out.
pub fn phase(o: &Value) -> Value {
    if o.at("metadata").has("deletionTimestamp") {
        "Terminating".into()
    } else {
        o.at("status").text("phase").into()
    }
}

/// The storage class of a volume or a claim; the old annotation wins.
pub fn class(o: &Value) -> &str {
    let beta = o.at("metadata").at("annotations").opt_text("volume.beta.kubernetes.io/storage-class");
    beta.unwrap_or_else(|| o.at("spec").text("storageClassName"))
}
