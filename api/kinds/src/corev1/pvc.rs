//! Persistent volume claims.

use super::pv::{class, phase};
use crate::checks::{self, one_of};
use crate::metadata::{Checks, SelectorOptions, immutable, label_selector};
use crate::prepare::Plan;
use crate::shown::difference;
use crate::table::{access_modes, age, name, opt_text, quantity};
use crate::value::amount_value;
use crate::value::{Get, Put};
use crate::warnings::{Warnings, annotations, claim_spec};
use crate::{Context, Kind, Operation, PLAIN};
use api::Value;
use api::field::{Error, ErrorList, Path};

const SPEC: &str = "k8s.io.api.core.v1.PersistentVolumeClaimSpec";

/// What a claim's volume is filled from.
const SOURCES: [&str; 2] = ["dataSource", "dataSourceRef"];

pub static ROOM: Kind = Kind {
    defaults,
    plan: Plan::STATUS,
    prepare,
    validate,
    warnings,
    row: Some(row),
    metadata_checks: Checks::BOTH,
    ..PLAIN
};

fn warnings(cx: &Context<'_>, new: &Value, _: Option<&Value>) -> Warnings {
    let mut out = Warnings::new();
    if cx.subresource.is_empty() {
        let class = "deprecated since v1.8; use \"storageClassName\" attribute instead";
        annotations(new, &[("volume.beta.kubernetes.io/storage-class", class)], &mut out);
        claim_spec(new.at("spec"), || "spec".to_owned(), &mut out);
    }
    out
}

pub fn defaults(o: &mut Value) {
    o.ensure("status").fill_zero("phase", "Pending");
    if let Some(spec) = o.sub("spec") {
        crate::pod::claim_spec(spec);
    }
    for list in ["capacity", "allocatedResources"] {
        if let Some(amounts) = o.sub("status").and_then(|s| s.sub(list)) {
            crate::pod::resource_list(amounts);
        }
    }
}

fn prepare(op: Operation, cx: &Context<'_>, new: &mut Value, old: Option<&Value>) {
    if op == Operation::Create {
        new.ensure("status").set("phase", "Pending");
    }
    if cx.subresource.is_empty()
        && let Some(spec) = new.sub("spec")
    {
        data_sources(spec, old.map(|o| o.at("spec")));
    }
}

/// `dataSource` and `dataSourceRef` follow each other, unless the source is in another namespace.
fn data_sources(spec: &mut Value, old: Option<&Value>) {
    let in_use = |field: &str| old.is_some_and(|o| o.has(field));
    let other_namespace = |spec: &Value| !spec.at("dataSourceRef").text("namespace").is_empty();
    if other_namespace(spec)
        && !in_use("dataSourceRef")
        && !crate::gates::enabled("CrossNamespaceVolumeDataSource")
    {
        spec.unset("dataSourceRef");
    }
    // Anything but claims and snapshots was never accepted by the older field, only dropped.
    let source = spec.at("dataSource");
    let known = matches!(
        (source.text("apiGroup"), source.text("kind")),
        ("", "PersistentVolumeClaim") | ("snapshot.storage.k8s.io", "VolumeSnapshot")
    );
    if !known && !in_use("dataSource") && !spec.has("dataSourceRef") {
        spec.unset("dataSource");
    }
    match (spec.has("dataSource"), spec.has("dataSourceRef")) {
        (true, false) => {
            let source = spec.at("dataSource").clone();
            spec.set("dataSourceRef", source);
        }
        (false, true) if !other_namespace(spec) => {
            let mut source = spec.at("dataSourceRef").clone();
            source.unset("namespace");
            spec.set("dataSource", source);
        }
        _ => {}
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

pub const ACCESS_MODES: [&str; 4] = ["ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod"];

/// Access modes of a claim or a volume: known ones, and the exclusive one alone.
pub fn validate_access_modes(spec: &Value, at: &Path, e: &mut ErrorList) {
    for mode in spec.texts("accessModes") {
        one_of(mode, &ACCESS_MODES, at, e);
    }
    let has = |f: fn(&str) -> bool| spec.texts("accessModes").any(f);
    if has(|m| m == "ReadWriteOncePod") && has(|m| m != "ReadWriteOncePod" && ACCESS_MODES.contains(&m)) {
        e.push(Error::forbidden(at, "may not use ReadWriteOncePod with other access modes"));
    }
}

/// The spec of a claim, also of one in a template.
pub fn validate_spec(spec: &Value, at: &Path, e: &mut ErrorList) {
    let at_modes = at.child("accessModes");
    if spec.len("accessModes") == 0 {
        e.push(Error::required(&at_modes, "at least 1 access mode is required"));
    }
    label_selector(spec.at("selector"), SelectorOptions::default(), &at.child("selector"), e);
    validate_access_modes(spec, &at_modes, e);
    let (storage, at_storage) =
        (spec.at("resources").at("requests").at("storage"), at.child("resources").key("storage"));
    match amount_value(storage) {
        None => e.push(Error::required(&at_storage, "")),
        Some(n) if n <= 0 => e.push(Error::invalid(&at_storage, quantity(storage), checks::POSITIVE)),
        Some(_) => {}
    }
    for field in ["storageClassName", "volumeAttributesClassName"] {
        if !spec.text(field).is_empty() {
            checks::subdomain(spec.text(field), &at.child(field), e);
        }
    }
    checks::opt_one_of(spec, "volumeMode", &["Block", "Filesystem"], at, e);
    for field in SOURCES {
        if spec.has(field) {
            validate_source(spec.at(field), &at.child(field), e);
        }
    }
    let (source, reference) = (spec.at("dataSource"), spec.at("dataSourceRef"));
    if source.is_null() || reference.is_null() {
        return;
    }
    if !reference.text("namespace").is_empty() {
        let text = "may not be specified when dataSourceRef.namespace is specified";
        e.push(Error::invalid_printed(at, "{}", text));
    } else if ["apiGroup", "kind", "name"].iter().any(|f| source.text(f) != reference.text(f)) {
        e.push(Error::invalid_printed(at, "{}", "must match dataSourceRef"));
    }
}

fn validate_source(source: &Value, at: &Path, e: &mut ErrorList) {
    checks::required(source, "name", at, e);
    checks::required(source, "kind", at, e);
    let group = source.text("apiGroup");
    if !group.is_empty() {
        checks::subdomain(group, &at.child("apiGroup"), e);
    } else if source.text("kind") != "PersistentVolumeClaim" {
        let text = "must be 'PersistentVolumeClaim' when referencing the default apiGroup";
        e.push(Error::invalid(at, source.text("kind"), text));
    }
    if !source.text("namespace").is_empty() {
        checks::label(source.text("namespace"), &at.child("namespace"), e);
    }
}

fn validate(cx: &Context<'_>, new: &Value, old: Option<&Value>, e: &mut ErrorList) {
    if cx.subresource == "status" {
        return validate_status(new, e);
    }
    validate_spec(new.at("spec"), &Path::new("spec"), e);
    // A group that was taken once is not looked at again.
    let grouped = |o: &Value| SOURCES.iter().any(|f| o.at("spec").at(f).has("apiGroup"));
    if old.is_some_and(grouped) {
        e.retain(|e| !SOURCES.iter().any(|f| e.field == format!("spec.{f}.apiGroup")));
    }
    if let Some(old) = old {
        validate_update(new, old, e);
    }
}

fn validate_update(new: &Value, old: &Value, e: &mut ErrorList) {
    const CLASS: &str = "volume.beta.kubernetes.io/storage-class";
    let (spec, was, at) = (new.at("spec"), old.at("spec"), Path::new("spec"));
    let (mut now, mut before) = (spec.clone(), was.clone());
    if was.text("volumeName").is_empty() {
        before.copy_from(spec, "volumeName");
    }
    let class = |o: &Value| o.at("metadata").at("annotations").opt_text(CLASS).map(str::to_owned);
    let (beta, named, unnamed) =
        (class(old), spec.opt_text("storageClassName"), !was.has("storageClassName"));
    // A class may be named where none was, if it is the one that the annotation named.
    let upgrade = unnamed && named.is_some() && beta.as_deref().is_none_or(|b| Some(b) == named);
    if upgrade {
        now.copy_from(was, "storageClassName");
    } else if class(new) != beta {
        let value = class(new).unwrap_or_default();
        let at = Path::new("metadata").child("annotations").key(CLASS);
        e.push(Error::invalid(&at, value, crate::metadata::IMMUTABLE));
    }
    if new.at("status").text("phase") == "Bound" {
        if now.at("resources").has("requests") {
            let requests = now.ensure("resources").ensure("requests");
            requests.copy_from(was.at("resources").at("requests"), "storage");
        }
        now.copy_from(was, "volumeAttributesClassName");
    }
    if !crate::semantic::equal(SPEC, &now, &before) {
        let text = format!(
            "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims\n{}",
            difference(SPEC, &before, &now)
        );
        e.push(Error::forbidden(&at, text));
    }
    let storage = |o: &Value| amount_value(o.at("storage")).unwrap_or_default();
    let (size, old_size) =
        (storage(spec.at("resources").at("requests")), storage(was.at("resources").at("requests")));
    if size < old_size && size <= storage(old.at("status").at("capacity")) {
        let at = at.child("resources").child("requests").child("storage");
        e.push(Error::forbidden(&at, "field can not be less than status.capacity"));
    }
    immutable(spec.at("volumeMode"), was.at("volumeMode"), &Path::new("volumeMode"), e);
    if old.at("status").has("currentVolumeAttributesClassName") {
        let at = at.child("volumeAttributesClassName");
        let tail = "is forbidden when status.currentVolumeAttributesClassName is not nil";
        match (spec.opt_text("volumeAttributesClassName"), was.opt_text("volumeAttributesClassName")) {
            (None, Some(_)) => e.push(Error::forbidden(&at, format!("update to nil {tail}"))),
            (Some(""), Some(b)) if !b.is_empty() => {
                e.push(Error::forbidden(&at, format!("update to empty string {tail}")));
            }
            _ => {}
        }
    }
}

/// In the order in which errors list them.
const RESIZE_STATES: [&str; 5] = [
    "ControllerResizeInProgress",
    "ControllerResizeInfeasible",
    "NodeResizeInProgress",
    "NodeResizeInfeasible",
    "NodeResizePending",
];

fn validate_status(new: &Value, e: &mut ErrorList) {
    let (status, at) = (new.at("status"), Path::new("status"));
    for (name, v) in status.entries("capacity") {
        basic_amount(v, &at.child("capacity").key(name), e);
    }
    let at_states = at.child("allocatedResourceStatuses");
    for (name, state) in status.entries("allocatedResourceStatuses") {
        resource_key(name, &at_states, e);
        if !RESIZE_STATES.contains(&state.as_str().unwrap_or_default()) {
            e.push(Error::not_supported_in_order(&at_states, name, &RESIZE_STATES));
        }
    }
    let at_allocated = at.child("allocatedResources");
    for (name, v) in status.entries("allocatedResources") {
        if resource_key(name, &at_allocated, e) {
            let at = at_allocated.key(name);
            basic_amount(v, &at, e);
        }
    }
}

/// `storage`, or a name with a domain of its own.
fn resource_key(name: &str, at: &Path, e: &mut ErrorList) -> bool {
    let before = e.len();
    checks::qualified(name, at, e);
    let known = name == "storage" || checks::is_extended_resource(name);
    if e.len() == before && !known {
        e.push(Error::not_supported(at, name, &["storage"]));
    }
    e.len() == before
}

/// An amount that is not negative, with the words of volumes and claims.
pub fn basic_amount(v: &Value, at: &Path, e: &mut ErrorList) {
    if let Some(n) = amount_value(v).filter(|n| *n < 0) {
        let whole = i64::try_from(n.div_euclid(crate::value::ONE)).unwrap_or(i64::MIN);
        e.push(Error::invalid(at, whole, "must be a valid resource quantity"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Room;
    use api::json;

    fn claim(changes: Value) -> Value {
        let mut spec =
            json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
        for (k, v) in changes.as_object().unwrap() {
            spec.set(k, v.clone());
        }
        let mut o = json!({"spec": spec, "status": {"phase": "Bound", "capacity": {"storage": "1Gi"}}});
        defaults(&mut o);
        o
    }

    #[test]
    fn sources_follow_each_other() {
        let own = json!({"apiGroup": "x.example.com", "kind": "Y", "name": "n"});
        let snapshot = json!({"apiGroup": "snapshot.storage.k8s.io", "kind": "VolumeSnapshot", "name": "n"});
        for (spec, want) in [
            (json!({"dataSource": own}), json!({})),
            (json!({"dataSourceRef": own}), json!({"dataSource": own, "dataSourceRef": own})),
            (json!({"dataSource": snapshot}), json!({"dataSource": snapshot, "dataSourceRef": snapshot})),
            (json!({"dataSourceRef": {"kind": "Y", "name": "n", "namespace": "other"}}), json!({})),
        ] {
            let mut got = spec.clone();
            data_sources(&mut got, None);
            assert_eq!(got, want, "{spec}");
        }
    }

    #[test]
    fn statuses() {
        for (status, want) in [
            (json!({"capacity": {"storage": "1Gi"}, "allocatedResources": {"storage": "2Gi"}}), ""),
            (
                json!({"capacity": {"storage": "-1"}}),
                "status.capacity[storage]: Invalid value: -1: must be a valid resource quantity",
            ),
            (
                json!({"allocatedResources": {"cpu": "1"}}),
                "status.allocatedResources: Unsupported value: \"cpu\": supported values: \"storage\"",
            ),
            (
                json!({"allocatedResourceStatuses": {"storage": "x"}}),
                "status.allocatedResourceStatuses: Unsupported value: \"storage\": supported values: \"Contr",
            ),
        ] {
            let cx = Context { subresource: "status", ..Context::default() };
            let got = ROOM.validate(&cx, &json!({"status": status}), None);
            let first = got.first().map(ToString::to_string).unwrap_or_default();
            assert!(first.starts_with(want) && first.is_empty() == want.is_empty(), "{status}: {first}");
        }
    }

    #[test]
    fn checked() {
        let old = claim(json!({}));
        for (new, old, want) in [
            (claim(json!({})), None, None),
            (
                claim(json!({"accessModes": []})),
                None,
                Some("spec.accessModes: Required value: at least 1 access mode"),
            ),
            (
                claim(json!({"accessModes": ["RWX"]})),
                None,
                Some("spec.accessModes: Unsupported value: \"RWX\""),
            ),
            (claim(json!({"resources": {}})), None, Some("spec.resources[storage]: Required value")),
            (claim(json!({"resources": {"requests": {"storage": "2Gi"}}})), Some(&old), None),
            (claim(json!({"storageClassName": "x"})), Some(&old), None),
            (claim(json!({"volumeName": "v"})), Some(&old), None),
            (
                claim(json!({"resources": {"requests": {"storage": "1Mi"}}})),
                Some(&old),
                Some(
                    "spec.resources.requests.storage: Forbidden: field can not be less than status.capacity",
                ),
            ),
            (
                claim(json!({"accessModes": ["ReadWriteMany"]})),
                Some(&old),
                Some(
                    "spec: Forbidden: spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims\n",
                ),
            ),
        ] {
            let got = ROOM.validate(&Context::default(), &new, old);
            let first = got.first().map(ToString::to_string);
            assert_eq!(first.is_some(), want.is_some(), "{first:?} {new}");
            assert!(first.clone().unwrap_or_default().starts_with(want.unwrap_or_default()), "{first:?}");
        }
    }
}
