//! CSI drivers, their nodes and capacities.

use crate::prepare::bump_generation;
use crate::table::{age, name, or_none};
use crate::value::{Get, Put, same};
use crate::{Context, Kind, Operation, PLAIN};
use api::{Value, json};

pub static DRIVER: Kind =
    Kind { defaults, prepare, row: Some(driver_row), unconditional_update: false, ..PLAIN };
pub static NODE: Kind = Kind {
    row: Some(|o| vec![name(o), o.at("spec").len("drivers").into(), age(o)]),
    unconditional_update: false,
    ..PLAIN
};
pub static CAPACITY: Kind = Kind { unconditional_update: false, ..PLAIN };

fn defaults(o: &mut Value) {
    let spec = o.ensure("spec");
    spec.fill("attachRequired", true);
    spec.fill("podInfoOnMount", false);
    spec.fill("storageCapacity", false);
    spec.fill("fsGroupPolicy", "ReadWriteOnceWithFSType");
    spec.fill_zero("volumeLifecycleModes", json!(["Persistent"]));
    spec.fill("requiresRepublish", false);
    spec.fill("seLinuxMount", false);
}

/// Generations are counted from the first change on, not from creation.
fn prepare(op: Operation, _: &Context<'_>, new: &mut Value, old: Option<&Value>) {
    if op == Operation::Update
        && let Some(old) = old
        && !same(new.at("spec"), old.at("spec"))
    {
        bump_generation(new, old);
    }
}

fn driver_row(o: &Value) -> Vec<Value> {
    let spec = o.at("spec");
    let tokens = if spec.has("tokenRequests") {
        spec.list("tokenRequests").iter().map(|t| t.text("audience")).collect::<Vec<_>>().join(",")
    } else {
        "<unset>".to_owned()
    };
    vec![
        name(o),
        spec.opt_flag("attachRequired").unwrap_or(true).into(),
        spec.flag("podInfoOnMount").into(),
        spec.flag("storageCapacity").into(),
        tokens.into(),
        spec.flag("requiresRepublish").into(),
        or_none(&spec.texts("volumeLifecycleModes").collect::<Vec<_>>().join(",")),
        age(o),
    ]
}
