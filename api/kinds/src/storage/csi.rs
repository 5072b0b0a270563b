//! CSI drivers, their nodes and capacities.

use crate::checks;
use crate::metadata::{Checks, SelectorOptions, immutable, label_selector, unchanged};
use crate::pod::validate::csi_driver_name;
use crate::prepare::bump_generation;
use crate::table::{age, name, or_none};
use crate::value::amount_value;
use crate::value::{Get, Put, identical, same};
use crate::warnings::{node_expressions, node_label};
use crate::{Context, Kind, Operation, PLAIN};
use api::field::{Error, ErrorList, Path};
use api::{Value, json};

pub static DRIVER: Kind = Kind {
    defaults,
    prepare,
    validate,
    warnings,
    row: Some(driver_row),
    unconditional_update: false,
    ..PLAIN
};
pub static NODE: Kind = Kind {
    validate: validate_node,
    row: Some(|o| vec![name(o), o.at("spec").len("drivers").into(), age(o)]),
    unconditional_update: false,
    metadata_checks: Checks::OBJECT,
    ..PLAIN
};
pub static CAPACITY: Kind = Kind {
    validate: validate_capacity,
    warnings: capacity_warnings,
    unconditional_update: false,
    metadata_checks: Checks::BOTH,
    ..PLAIN
};

fn defaults(o: &mut Value) {
    let spec = o.ensure("spec");
    spec.fill("attachRequired", true);
    spec.fill("podInfoOnMount", false);
    spec.fill("storageCapacity", false);
    spec.fill("fsGroupPolicy", "ReadWriteOnceWithFSType");
    spec.fill_zero("volumeLifecycleModes", json!(["Persistent"]));
    spec.fill("requiresRepublish", false);
    spec.fill("seLinuxMount", false);
    if crate::gates::enabled("VolumeLimitScaling") {
        spec.fill("preventPodSchedulingIfMissing", false);
    }
}

fn warnings(_: &Context<'_>, new: &Value, old: Option<&Value>) -> Vec<String> {
    let spec = new.at("spec");
    let kept = old.is_some_and(|o| same(o.at("spec").at("tokenRequests"), spec.at("tokenRequests")));
    if kept || spec.len("tokenRequests") == 0 || spec.has("serviceAccountTokenInSecrets") {
        return Vec::new();
    }
    vec!["spec.serviceAccountTokenInSecrets is unset; if supported by this CSI driver, set to true to prevent possible logging of tokens in volume attributes".into()]
}

/// Generations are counted from the first change on, not from creation.
fn prepare(op: Operation, _: &Context<'_>, new: &mut Value, old: Option<&Value>) {
    if op == Operation::Update
        && let Some(old) = old
        && !identical(new.at("spec"), old.at("spec"))
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

fn validate(_: &Context<'_>, new: &Value, old: Option<&Value>, e: &mut ErrorList) {
    let (spec, at) = (new.at("spec"), Path::new("spec"));
    let policies = ["File", "None", "ReadWriteOnceWithFSType"];
    checks::opt_one_of(spec, "fsGroupPolicy", &policies, &at, e);
    token_requests(spec.list("tokenRequests"), &at.child("tokenRequests"), e);
    for mode in spec.texts("volumeLifecycleModes") {
        checks::listed(mode, &["Persistent", "Ephemeral"], &at.child("volumeLifecycleModes"), e);
    }
    if let Some(n) = spec.opt_int("nodeAllocatableUpdatePeriodSeconds").filter(|n| *n < 10) {
        let text = "must be greater than or equal to 10 seconds";
        e.push(Error::invalid(&at.child("nodeAllocatableUpdatePeriodSeconds"), n, text));
    }
    if spec.has("serviceAccountTokenInSecrets") && spec.len("tokenRequests") == 0 {
        let text = "serviceAccountTokenInSecrets is set but no tokenRequests are specified";
        let value = spec.at("serviceAccountTokenInSecrets").clone();
        e.push(Error::invalid(&at.child("serviceAccountTokenInSecrets"), value, text));
    }
    if let Some(old) = old {
        let was = old.at("spec");
        immutable(spec.at("attachRequired"), was.at("attachRequired"), &at.child("attachedRequired"), e);
        let at = at.child("volumeLifecycleModes");
        immutable(spec.at("volumeLifecycleModes"), was.at("volumeLifecycleModes"), &at, e);
    }
}

fn token_requests(list: &[Value], at: &Path, e: &mut ErrorList) {
    for (i, request) in list.iter().enumerate() {
        let at = at.index(i);
        let audience = request.text("audience");
        if list[..i].iter().any(|o| o.text("audience") == audience) {
            e.push(Error::duplicate(&at.child("audience"), audience));
            continue;
        }
        let at = at.child("expirationSeconds");
        match request.opt_int("expirationSeconds") {
            Some(n) if n < 600 => {
                e.push(Error::invalid(&at, n, "may not specify a duration less than 10 minutes"));
            }
            Some(n) if n > 1 << 32 => {
                e.push(Error::invalid(&at, n, "may not specify a duration larger than 2^32 seconds"));
            }
            _ => {}
        }
    }
}

fn validate_node(_: &Context<'_>, new: &Value, old: Option<&Value>, e: &mut ErrorList) {
    let list = new.at("spec").list("drivers");
    for (i, driver) in list.iter().enumerate() {
        let at = Path::new("spec").child("drivers").index(i);
        let name = driver.text("name");
        csi_driver_name(name, &at.child("name"), e);
        if checks::required(driver, "nodeID", &at, e) && driver.len("nodeID") > 256 {
            let text = "must be 256 characters or less";
            e.push(Error::invalid(&at.child("nodeID"), driver.text("nodeID"), text));
        }
        checks::non_negative(driver.at("allocatable"), "count", &at.child("allocatable"), e);
        if list[..i].iter().any(|o| o.text("name") == name) {
            e.push(Error::duplicate(&at.child("name"), name));
        }
        let keys: Vec<&str> = driver.texts("topologyKeys").collect();
        for (j, key) in keys.iter().enumerate() {
            if key.is_empty() {
                e.push(Error::required(&at, ""));
            }
            if keys[..j].contains(key) {
                e.push(Error::duplicate(&at, *key));
            }
            checks::qualified(key, &at, e);
        }
        let bare = |d: &Value| {
            let mut d = d.clone();
            d.unset("allocatable");
            d
        };
        let stored = old.and_then(|o| o.at("spec").list("drivers").iter().find(|d| d.text("name") == name));
        if let Some(stored) = stored {
            immutable(&bare(driver), &bare(stored), &Path::new("spec").child("drivers"), e);
        }
    }
}

fn capacity_warnings(_: &Context<'_>, new: &Value, _: Option<&Value>) -> Vec<String> {
    let (mut out, topology) = (Vec::new(), new.at("nodeTopology"));
    node_expressions(topology, "nodeTopology", &mut out);
    for (label, _) in topology.entries("matchLabels") {
        if let Some(why) = node_label(label) {
            out.push(format!("nodeTopology.matchLabels.{label}: {why}"));
        }
    }
    out
}

fn validate_capacity(_: &Context<'_>, new: &Value, old: Option<&Value>, e: &mut ErrorList) {
    if let Some(old) = old {
        unchanged(new.at("nodeTopology"), old.at("nodeTopology"), &Path::new("nodeTopology"), e);
        let at = Path::new("storageClassName");
        immutable(new.at("storageClassName"), old.at("storageClassName"), &at, e);
    }
    label_selector(new.at("nodeTopology"), SelectorOptions::default(), &Path::new("nodeTopology"), e);
    checks::subdomain(new.text("storageClassName"), &Path::new("storageClassName"), e);
    if amount_value(new.at("capacity")).is_some_and(|n| n < 0) {
        e.push(Error::invalid(&Path::new("capacity"), new.at("capacity").clone(), checks::NOT_NEGATIVE));
    }
}
