//! Nodes.

use crate::checks::{self, legacy_cidr, resource_quantity};
use crate::metadata::{Checks, label_key};
use crate::names;
use crate::pod::resource_list;
use crate::pod::validate::taint_effect;
use crate::prepare::Plan;
use crate::table::{NONE, age, condition, name, or, or_none};
use crate::value::{Get, Put};
use crate::{Context, Kind, Operation, PLAIN};
use api::field::{Error, ErrorList, Path};
use api::{Value, json};
use std::collections::BTreeSet;

pub static ROOM: Kind = Kind {
    defaults,
    plan: Plan::NONE,
    prepare,
    validate,
    warnings,
    row: Some(row),
    metadata_checks: Checks::BOTH,
    ..PLAIN
};

fn warnings(_: &Context<'_>, new: &Value, _: Option<&Value>) -> Vec<String> {
    let mut out = Vec::new();
    let spec = new.at("spec");
    if spec.has("configSource") {
        out.push("spec.configSource: the feature is removed".to_owned());
    }
    if !spec.text("externalID").is_empty() {
        let text = "spec.externalID: this field is deprecated, and is unused by Kubernetes";
        out.push(text.to_owned());
    }
    out
}

fn defaults(o: &mut Value) {
    if let Some(spec) = o.sub("spec") {
        let (one, first) =
            (spec.text("podCIDR").to_owned(), spec.texts("podCIDRs").next().map(str::to_owned));
        match first {
            None if !one.is_empty() => spec.set("podCIDRs", json!([one])),
            Some(first) if one.is_empty() => spec.set("podCIDR", first),
            // The older field wins: who writes it alone knows no other.
            Some(first) if first != one => spec.set("podCIDRs", json!([one])),
            _ => {}
        }
    }
    let Some(status) = o.sub("status") else { return };
    for list in ["capacity", "allocatable"] {
        if let Some(map) = status.sub(list) {
            resource_list(map);
        }
    }
    if status.has("capacity") {
        let capacity = status.at("capacity").clone();
        status.fill("allocatable", capacity);
    }
}

/// Unlike most, a new node keeps the status that its kubelet sends along.
fn prepare(op: Operation, cx: &Context<'_>, new: &mut Value, old: Option<&Value>) {
    let plan = if op == Operation::Update { Plan::STATUS } else { Plan::NONE };
    plan.apply(op, cx, new, old);
    if let Some(spec) = new.sub("spec") {
        spec.unset("configSource");
    }
    if let Some(status) = new.sub("status") {
        status.unset("config");
    }
}

fn row(o: &Value) -> Vec<Value> {
    let (spec, status) = (o.at("spec"), o.at("status"));
    let mut state = match condition(status, "Ready").map(|c| c.text("status")) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }
    .to_owned();
    if spec.flag("unschedulable") {
        state.push_str(",SchedulingDisabled");
    }
    let info = status.at("nodeInfo");
    let mut kernel = or(info.text("kernelVersion"), "<unknown>").as_str().unwrap_or_default().to_owned();
    if !info.text("architecture").is_empty() {
        kernel = format!("{kernel} ({})", info.text("architecture"));
    }
    vec![
        name(o),
        state.into(),
        or_none(&roles(o)),
        age(o),
        info.text("kubeletVersion").into(),
        address(status, "InternalIP"),
        address(status, "ExternalIP"),
        or(info.text("osImage"), "<unknown>"),
        kernel.into(),
        or(info.text("containerRuntimeVersion"), "<unknown>"),
    ]
}

fn roles(o: &Value) -> String {
    let mut roles = BTreeSet::new();
    for (key, value) in o.at("metadata").entries("labels") {
        let value = value.as_str().unwrap_or_default();
        let role = match key.strip_prefix("node-role.kubernetes.io/") {
            Some(role) => role,
            None if key == "kubernetes.io/role" => value,
            None => "",
        };
        if !role.is_empty() {
            roles.insert(role);
        }
    }
    roles.into_iter().collect::<Vec<_>>().join(",")
}

fn address(status: &Value, kind: &str) -> Value {
    let found = status.list("addresses").iter().find(|a| a.text("type") == kind);
    found.map_or(NONE, |a| a.text("address")).into()
}

fn validate(cx: &Context<'_>, new: &Value, old: Option<&Value>, e: &mut ErrorList) {
    // An update of the whole is looked at as a new node first.
    if cx.subresource != "status" {
        object(new, e);
    }
    if let Some(old) = old {
        updated(new, old.at("spec"), e);
    }
}

fn object(new: &Value, e: &mut ErrorList) {
    let (spec, at) = (new.at("spec"), Path::new("spec"));
    taints(spec.list("taints"), &Path::new("metadata").child("taints"), e);
    amounts_and_features(new.at("status"), e);
    pod_cidrs(spec, &at.child("podCIDRs"), e);
}

fn amounts_and_features(status: &Value, e: &mut ErrorList) {
    for list in ["capacity", "allocatable"] {
        for (name, v) in status.entries(list) {
            resource_quantity(name, v, &Path::new("status").child(list).child(name), e);
        }
    }
    declared_features(status, &Path::new("status").child("declaredFeatures"), e);
}

/// Names of features in order, none twice.
fn declared_features(status: &Value, at: &Path, e: &mut ErrorList) {
    let mut before: Option<&str> = None;
    for (i, feature) in status.texts("declaredFeatures").enumerate() {
        match before {
            Some(before) if before == feature => e.push(Error::duplicate(&at.index(i), feature)),
            Some(before) if before > feature => {
                e.push(Error::invalid(&at.index(i), feature, "list must be sorted alphabetically"));
            }
            _ => {}
        }
        if let Some(why) = no_feature(feature) {
            e.push(Error::invalid(&at.index(i), feature, format!("invalid feature name {feature:?}: {why}")));
        }
        before = Some(feature);
    }
}

fn no_feature(name: &str) -> Option<&'static str> {
    let word = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphabetic()) && part.chars().all(|c| c.is_ascii_alphanumeric())
    };
    if name.len() > 253 {
        Some("must be no more than 253 characters")
    } else if !name.starts_with(|c: char| c.is_ascii_uppercase()) || !name.split('/').all(word) {
        Some(
            "must start with an UpperCamelCase segment, with subsequent segments separated by '/' (e.g., MyFeature or MyFeature/mySubFeature), and contain only alphanumeric characters and slashes",
        )
    } else {
        None
    }
}

fn pod_cidrs(spec: &Value, at: &Path, e: &mut ErrorList) {
    let nets: Vec<_> = spec
        .texts("podCIDRs")
        .enumerate()
        .filter_map(|(i, cidr)| legacy_cidr(cidr, &[], &at.index(i), e))
        .collect();
    let broken = |(_, cidr): &(usize, &str)| cidr.parse::<ipnet::IpNet>().is_err();
    let first_broken = spec.texts("podCIDRs").enumerate().find(broken);
    if let Some((i, cidr)) = first_broken.filter(|_| spec.len("podCIDRs") > 1) {
        let text = format!(
            "invalid PodCIDRs. failed to check with dual stack with error:invalid CIDR[{i}]: <nil> (invalid CIDR address: {cidr})"
        );
        e.push(Error::internal(at, text));
    }
    let both = nets.iter().any(|n| n.addr().is_ipv4()) && nets.iter().any(|n| n.addr().is_ipv6());
    if spec.len("podCIDRs") > 1 && (nets.len() > 2 || !both) {
        let text = "may specify no more than one CIDR for each IP family";
        e.push(Error::invalid(at, spec.at("podCIDRs").clone(), text));
    }
}

fn updated(new: &Value, was: &Value, e: &mut ErrorList) {
    let (spec, status, at) = (new.at("spec"), new.at("status"), &Path::new("spec"));
    amounts_and_features(status, e);
    let list = status.list("addresses");
    for (i, address) in list.iter().enumerate() {
        if list[..i].contains(address) {
            e.push(Error::duplicate(&Path::new("status").child("addresses").index(i), address.clone()));
        }
    }
    let (now, before) = (spec.list("podCIDRs"), was.list("podCIDRs"));
    let changes = match (before.len(), now.len()) {
        (0, _) => 0,
        (a, b) if a == b => before.iter().zip(now).filter(|(a, b)| a != b).count(),
        _ => 1,
    };
    for _ in 0..changes {
        let text = "node updates may not change podCIDR except from \"\" to valid";
        e.push(Error::forbidden(&at.child("podCIDRs"), text));
    }
    let provider = was.text("providerID");
    if !provider.is_empty() && spec.text("providerID") != provider {
        let text = "node updates may not change providerID except from \"\" to valid";
        e.push(Error::forbidden(&at.child("providerID"), text));
    }
    taints(spec.list("taints"), &Path::new("metadata").child("taints"), e);
    if spec.text("externalID") != was.text("externalID") {
        e.push(Error::forbidden(&at.child("externalID"), "may not be updated"));
    }
}

fn taints(list: &[Value], at: &Path, e: &mut ErrorList) {
    for (i, taint) in list.iter().enumerate() {
        let (at, effect) = (at.index(i), taint.text("effect"));
        label_key(taint.text("key"), &at.child("key"), e);
        let messages = names::label_value(taint.text("value"));
        if !messages.is_empty() {
            e.push(Error::invalid(&at.child("value"), taint.text("value"), messages.join(";")));
        }
        if checks::required(taint, "effect", &at, e) {
            taint_effect(effect, &at.child("effect"), e);
        }
        let again = |o: &Value| o.text("key") == taint.text("key") && o.text("effect") == effect;
        if list[..i].iter().any(again) {
            let mut error = Error::duplicate(&at, taint.clone());
            error.printed = Some(crate::shown::internal("k8s.io.api.core.v1.Taint", taint));
            error.detail = "taints must be unique by key and effect pair".to_owned();
            e.push(error);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells() {
        let node = json!({"metadata": {"name": "n", "labels": {"node-role.kubernetes.io/worker": "", "node-role.kubernetes.io/a": ""}},
            "spec": {"unschedulable": true},
            "status": {"conditions": [{"type": "Ready", "status": "Unknown"}], "nodeInfo": {"kernelVersion": "6", "architecture": "amd64"},
                "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}]}});
        let row = row(&node);
        assert_eq!(row[1], json!("NotReady,SchedulingDisabled"));
        assert_eq!(row[2], json!("a,worker"));
        assert_eq!(
            row[5..],
            [json!("10.0.0.1"), json!("<none>"), json!("<unknown>"), json!("6 (amd64)"), json!("<unknown>")]
        );
    }

    #[test]
    fn checked() {
        let old = json!({"spec": {"podCIDRs": ["10.0.0.0/24"], "providerID": "p"}});
        for (spec, old, want) in [
            (
                json!({"podCIDRs": ["10.0.0.0/24"], "providerID": "p", "taints": [{"key": "a", "effect": "NoSchedule"}]}),
                Some(&old),
                None,
            ),
            (
                json!({"providerID": "p"}),
                Some(&old),
                Some("spec.podCIDRs: Forbidden: node updates may not change podCIDR"),
            ),
            (
                json!({"taints": [{"key": "a", "effect": "Never"}]}),
                None,
                Some("metadata.taints[0].effect: Unsupported value: \"Never\""),
            ),
            (
                json!({"podCIDRs": ["10.0.0.0/24", "10.0.1.0/24"]}),
                None,
                Some("spec.podCIDRs: Invalid value: "),
            ),
        ] {
            let got = crate::Room::validate(&ROOM, &Context::default(), &json!({"spec": spec}), old);
            let first = got.first().map(ToString::to_string);
            assert_eq!(first.is_some(), want.is_some(), "{first:?}");
            assert!(first.unwrap_or_default().starts_with(want.unwrap_or_default()));
        }
    }
}
