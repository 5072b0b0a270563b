//! The `resource.k8s.io` group: claims on devices, their templates, classes and slices.

mod claim;
mod pool;
mod slice;

use crate::metadata::{Checks, Names, label_key};
use crate::prepare::{Plan, StatusMeta};
use crate::table::{NONE, age, name, since};
use crate::value::{Get, Put};
use crate::{Context, Kind, PLAIN, checks, names};
use api::Value;
use api::field::{Error, ErrorList, Path};
use std::collections::HashSet;

pub static CLAIM: Kind = Kind {
    defaults: |o| claim_defaults(o.ensure("spec")),
    validate: claim::claim,
    plan: Plan { status_meta: StatusMeta::Keep, ..Plan::STATUS },
    metadata_checks: Checks::BOTH,
    row: Some(|o| vec![name(o), state(o).into(), age(o)]),
    ..PLAIN
};
pub static TEMPLATE: Kind = Kind {
    validate: claim::template,
    defaults: |o| {
        if let Some(spec) = o.sub("spec").and_then(|s| s.sub("spec")) {
            claim_defaults(spec);
        }
    },
    row: Some(|o| vec![name(o), age(o)]),
    metadata_checks: Checks::BOTH,
    ..PLAIN
};
pub static CLASS: Kind = Kind {
    validate: claim::class,
    plan: Plan::GENERATION,
    row: Some(|o| vec![name(o), age(o)]),
    metadata_checks: Checks::BOTH,
    names: Names::WholeSubdomain,
    ..PLAIN
};
pub static SLICE: Kind = Kind {
    defaults: slice_defaults,
    validate: slice::slice,
    warnings: slice_warnings,
    plan: Plan::GENERATION,
    row: Some(slice_row),
    ..PLAIN
};
pub static TAINT_RULE: Kind = Kind {
    validate: slice::taint_rule,
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
    validate: pool::request,
    plan: Plan { status_meta: StatusMeta::Keep, ..Plan::STATUS },
    row: Some(pool_row),
    unconditional_update: false,
    ..PLAIN
};

fn slice_warnings(_: &Context<'_>, new: &Value, _: Option<&Value>) -> Vec<String> {
    let driver = new.at("spec").text("driver");
    if !driver.contains(char::is_uppercase) {
        return Vec::new();
    }
    vec![format!("spec.driver: driver names should be lowercase; {driver:?} contains uppercase characters")]
}

fn claim_defaults(spec: &mut Value) {
    let Some(devices) = spec.sub("devices") else { return };
    for request in devices.items("requests") {
        // The first beta has the exact request inline.
        if !request.text("deviceClassName").is_empty() {
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

fn slice_defaults(o: &mut Value) {
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

/// Drivers are named as those of CSI are.
const DRIVER: fn(&str, &Path, &mut ErrorList) = crate::pod::validate::csi_driver_name;

/// A list that is not too long, its items good, and their keys, if they have some, all different.
fn set(
    list: &[Value],
    most: usize,
    key: impl Fn(&Value) -> Option<String>,
    at: &Path,
    e: &mut ErrorList,
    check: impl Fn(&Value, &Path, &mut ErrorList),
) {
    if list.len() > most {
        return e.push(Error::too_many(at, list.len(), most));
    }
    for (i, item) in list.iter().enumerate() {
        check(item, &at.index(i), e);
    }
    let mut seen = HashSet::new();
    for (i, key) in list.iter().enumerate().filter_map(|(i, v)| Some((i, key(v)?))) {
        if seen.contains(&key) {
            e.push(Error::duplicate(&at.index(i), key));
        } else {
            seen.insert(key);
        }
    }
}

fn pool_name(name: &str, at: &Path, e: &mut ErrorList) {
    const LONGEST: usize = 253;
    if name.is_empty() {
        return e.push(Error::required(at, ""));
    }
    if name.len() > LONGEST {
        e.push(Error::too_long(at, LONGEST));
    }
    name.split('/').for_each(|part| checks::subdomain(part, at, e));
}

/// An identifier, perhaps with a domain before it.
fn qualified(name: &str, at: &Path, e: &mut ErrorList) {
    const LONGEST: usize = 32;
    let identifier = |text: &str, e: &mut ErrorList| {
        if text.len() > LONGEST {
            e.push(Error::too_long(at, LONGEST));
        }
        checks::texts(text, names::c_identifier(text), at, e);
    };
    match name.split('/').collect::<Vec<_>>()[..] {
        [plain] => identifier(plain, e),
        [domain, rest] => {
            if domain.is_empty() {
                e.push(Error::invalid(at, "", "the domain must not be empty"));
            } else {
                DRIVER(domain, at, e);
            }
            if rest.is_empty() {
                e.push(Error::invalid(at, "", "the name must not be empty"));
            } else {
                identifier(rest, e);
            }
        }
        _ => {}
    }
}

fn fully_qualified(name: &str, at: &Path, e: &mut ErrorList) {
    qualified(name, at, e);
    if !name.contains('/') {
        let text = "a fully qualified name must be a domain and a name separated by a slash";
        e.push(Error::invalid(at, name, text));
    }
}

/// Conditions that a device waits for, and those that say it will not come.
fn bindings(v: &Value, at: &Path, e: &mut ErrorList) {
    const MOST: usize = 4;
    const FIELDS: [&str; 2] = ["bindingConditions", "bindingFailureConditions"];
    let text = |v: &Value| v.as_str().map(str::to_owned);
    for field in FIELDS {
        set(v.list(field), MOST, text, &at.child(field), e, |name, at, e| {
            label_key(name.as_str().unwrap_or_default(), at, e);
        });
    }
    for (i, name) in v.texts(FIELDS[1]).enumerate() {
        if v.texts(FIELDS[0]).any(|n| n == name) {
            let text = "bindingFailureConditions must not overlap with bindingConditions";
            e.push(Error::invalid(&at.child(FIELDS[1]).index(i), name, text));
        }
    }
    for (field, other) in [(FIELDS[0], FIELDS[1]), (FIELDS[1], FIELDS[0])] {
        if v.len(field) == 0 && v.len(other) > 0 {
            let text = format!("{field} are required to use {other}");
            e.push(Error::invalid(&at.child(field), v.at(field).clone(), text));
        }
    }
}

fn taint_effect(t: &Value, at: &Path, e: &mut ErrorList) {
    let known = ["NoExecute", "NoSchedule", "None"];
    checks::one_of_required(t.text("effect"), &known, &at.child("effect"), e);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Context, Room};
    use api::json;

    #[track_caller]
    fn check(kind: &Kind, cx: &Context<'_>, mut o: Value, old: Option<&Value>, want: &str) {
        kind.defaults(&mut o);
        let got = kind.validate(cx, &o, old);
        let first = got.first().map(ToString::to_string).unwrap_or_default();
        assert!(first.starts_with(want) && first.is_empty() == want.is_empty(), "{first}");
    }

    #[test]
    fn claims() {
        let cx = Context::default();
        let of = |request: Value| json!({"spec": {"devices": {"requests": [request]}}});
        for (o, want) in [
            (of(json!({"name": "a", "exactly": {"deviceClassName": "c"}})), ""),
            (of(json!({"name": "a"})), "spec.devices.requests[0]: Required value: exactly one of `exactly`"),
            (
                of(json!({"name": "a", "exactly": {"deviceClassName": "c", "count": -1}})),
                "spec.devices.requests[0].exactly.count: Invalid value: -1: must be greater than zero",
            ),
            (
                of(
                    json!({"name": "a", "exactly": {"deviceClassName": "c", "allocationMode": "All", "count": 1}}),
                ),
                "spec.devices.requests[0].exactly.count: Invalid value: 1: must not be specified when",
            ),
            (
                of(json!({"name": "a", "firstAvailable": [{"name": "b"}]})),
                "spec.devices.requests[0].firstAvailable[0].deviceClassName: Required value",
            ),
            (
                json!({"spec": {"devices": {"constraints": [{"requests": ["x"], "matchAttribute": "a.b/c"}]}}}),
                "spec.devices.constraints[0].requests[0]: Invalid value: \"x\": must be the name of a request",
            ),
        ] {
            check(&CLAIM, &cx, o, None, want);
        }
        let old = of(json!({"name": "a", "exactly": {"deviceClassName": "c"}}));
        let changed = of(json!({"name": "b", "exactly": {"deviceClassName": "c"}}));
        let got = CLAIM.validate(&cx, &changed, Some(&old));
        assert!(got[0].to_string().ends_with("field is immutable"), "{}", got[0]);
        let cx = Context { subresource: "status", ..Context::default() };
        let mut new = old.clone();
        new.set("status", json!({"reservedFor": [{"resource": "pods", "name": "p", "uid": "u"}]}));
        check(&CLAIM, &cx, new, Some(&old), "status.reservedFor: Forbidden: may not be specified when");
    }

    #[test]
    fn slices() {
        let cx = Context::default();
        let of = |key: &str, value: Value| {
            let mut spec = json!({
                "driver": "d.io", "nodeName": "n", "pool": {"name": "p", "resourceSliceCount": 1},
                "devices": [{"name": "a", "attributes": {"v": {"version": "1.2.3"}}}],
            });
            spec.set(key, value);
            json!({"spec": spec})
        };
        for (o, want) in [
            (of("x", Value::Null), ""),
            (of("nodeName", Value::Null), "spec: Required value: exactly one of `nodeName`"),
            (of("allNodes", json!(true)), "spec: Invalid value: \"{`nodeName`, `allNodes`}\": exactly one"),
            (of("devices", json!([{"name": "a"}, {"name": "a"}])), "spec.devices[1]: Duplicate value: \"a\""),
            (
                of("devices", json!([{"name": "a", "attributes": {"v": {"version": "x"}}}])),
                "spec.devices[0].attributes[v].version: Invalid value: \"x\": must be a string compatible",
            ),
            (
                of("devices", json!([{"name": "a", "attributes": {"v": {}}}])),
                "spec.devices[0].attributes[v]: Invalid value: \"\": exactly one value must be specified",
            ),
        ] {
            check(&SLICE, &cx, o, None, want);
        }
    }
}
