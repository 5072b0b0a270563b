//! Pod disruption budgets, and evictions.

use crate::prepare::Plan;
use crate::table::{age, int_or_string, name};
use crate::value::Get;
use crate::{Kind, PLAIN};
use api::Value;

pub static PDB: Kind = Kind { plan: Plan::FULL, row: Some(row), unconditional_update: false, ..PLAIN };
pub static EVICTION: Kind = PLAIN;

fn row(o: &Value) -> Vec<Value> {
    let spec = o.at("spec");
    vec![
        name(o),
        int_or_string(spec.at("minAvailable"), "N/A").into(),
        int_or_string(spec.at("maxUnavailable"), "N/A").into(),
        o.at("status").int("disruptionsAllowed").into(),
        age(o),
    ]
}
