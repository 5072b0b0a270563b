//! Leases.

use crate::table::{age, name};
use crate::value::Get;
use crate::{Kind, PLAIN};
use api::Value;

pub static LEASE: Kind =
    Kind { row: Some(row), create_on_update: true, unconditional_update: false, ..PLAIN };
pub static CANDIDATE: Kind =
    Kind { row: Some(candidate_row), create_on_update: true, unconditional_update: false, ..PLAIN };

fn row(o: &Value) -> Vec<Value> {
    vec![name(o), o.at("spec").text("holderIdentity").into(), age(o)]
}

fn candidate_row(o: &Value) -> Vec<Value> {
    let spec = o.at("spec");
    vec![
        name(o),
        spec.text("leaseName").into(),
        spec.text("binaryVersion").into(),
        spec.text("emulationVersion").into(),
        age(o),
    ]
}
