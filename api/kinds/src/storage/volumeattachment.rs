//! Volume attachments.

use crate::prepare::{Plan, StatusMeta};
use crate::table::{age, name};
use crate::value::Get;
use crate::{Kind, PLAIN};
use api::Value;

pub static ROOM: Kind = Kind {
    plan: Plan { status_meta: StatusMeta::Keep, ..Plan::STATUS },
    row: Some(row),
    unconditional_update: false,
    ..PLAIN
};

fn row(o: &Value) -> Vec<Value> {
    let spec = o.at("spec");
    vec![
        name(o),
        spec.text("attacher").into(),
        spec.at("source").text("persistentVolumeName").into(),
        spec.text("nodeName").into(),
        o.at("status").flag("attached").into(),
        age(o),
    ]
}
