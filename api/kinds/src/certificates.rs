//! Certificate signing requests, trust bundles and pods' certificate requests.

use crate::metadata::Names;
use crate::prepare::{Plan, keep_all_but};
use crate::table::{NONE, age, human_duration, labels, name, or_none};
use crate::value::{Get, Put};
use crate::{Context, Kind, Operation, PLAIN, names};
use api::field::{Error, ErrorList, Path};
use api::{Value, json};

pub static CSR: Kind = Kind { names: Names::Any, prepare, row: Some(row), ..PLAIN };
pub static TRUST_BUNDLE: Kind = Kind {
    names: Names::Any,
    row: Some(|o| vec![name(o), or_none(o.at("spec").text("signerName"))]),
    unconditional_update: false,
    ..PLAIN
};
pub static POD_REQUEST: Kind = Kind {
    defaults: |o| o.ensure("spec").fill("maxExpirationSeconds", 86400),
    plan: Plan::STATUS,
    row: Some(pod_request_row),
    unconditional_update: false,
    ..PLAIN
};

fn prepare(op: Operation, cx: &Context<'_>, new: &mut Value, old: Option<&Value>) {
    match (op, cx.subresource, old) {
        (Operation::Create, ..) => requestor(cx, new),
        (_, "status", Some(old)) => {
            keep_all_but(new, old, &["status", "metadata"]);
            for kind in ["Approved", "Denied"] {
                keep_conditions(new, old, kind);
            }
            stamp_conditions(new, old);
        }
        (_, "approval", Some(old)) => {
            stamp_conditions(new, old);
            let conditions = new.at("status").at("conditions").clone();
            keep_all_but(new, old, &["metadata"]);
            if conditions.is_null() {
                new.ensure("status").unset("conditions");
            } else {
                new.ensure("status").set("conditions", conditions);
            }
        }
        (_, _, Some(old)) => {
            new.copy_from(old, "spec");
            new.copy_from(old, "status");
        }
        _ => {}
    }
}

/// Who asks is what authentication says, never what the request says.
fn requestor(cx: &Context<'_>, new: &mut Value) {
    new.unset("status");
    let spec = new.ensure("spec");
    for field in ["username", "uid", "groups", "extra"] {
        spec.unset(field);
    }
    if !cx.user.is_empty() {
        spec.set("username", cx.user);
    }
    if !cx.uid.is_empty() {
        spec.set("uid", cx.uid);
    }
    if !cx.groups.is_empty() {
        spec.set("groups", cx.groups);
    }
    if let Some(extra) = cx.extra.filter(|e| !e.is_empty()) {
        spec.set("extra", json!(extra));
    }
}

/// Conditions of that type as stored, if there are as many as before.
fn keep_conditions(new: &mut Value, old: &Value, kind: &str) {
    let stored: Vec<&Value> =
        old.at("status").list("conditions").iter().filter(|c| c.text("type") == kind).collect();
    let Some(status) = new.sub("status") else { return };
    let mut ours: Vec<&mut Value> = status.items("conditions").filter(|c| c.text("type") == kind).collect();
    if ours.len() == stored.len() {
        for (ours, stored) in ours.iter_mut().zip(stored) {
            **ours = stored.clone();
        }
    }
}

fn stamp_conditions(new: &mut Value, old: &Value) {
    let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let Some(status) = new.sub("status") else { return };
    for c in status.items("conditions") {
        c.fill_zero("lastUpdateTime", now.as_str());
        if !c.has("lastTransitionTime") {
            let before =
                old.at("status").list("conditions").iter().find(|o| o.text("type") == c.text("type"));
            match before.filter(|o| o.text("status") == c.text("status") && o.has("lastTransitionTime")) {
                Some(before) => c.copy_from(before, "lastTransitionTime"),
                None => c.set("lastTransitionTime", now.as_str()),
            }
        }
    }
}

fn row(o: &Value) -> Vec<Value> {
    let spec = o.at("spec");
    let asked = spec.opt_int("expirationSeconds").map_or(NONE.to_owned(), human_duration);
    vec![
        name(o),
        age(o),
        or_none(spec.text("signerName")),
        spec.text("username").into(),
        asked.into(),
        state(o.at("status")).into(),
    ]
}

fn state(status: &Value) -> String {
    let has = |kind| status.list("conditions").iter().any(|c| c.text("type") == kind);
    let mut word = if has("Denied") {
        "Denied"
    } else if has("Approved") {
        "Approved"
    } else {
        "Pending"
    }
    .to_owned();
    if has("Failed") {
        word.push_str(",Failed");
    }
    if status.len("certificate") > 0 {
        word.push_str(",Issued");
    }
    word
}

fn pod_request_row(o: &Value) -> Vec<Value> {
    let spec = o.at("spec");
    let word = o
        .at("status")
        .list("conditions")
        .iter()
        .rfind(|c| matches!(c.text("type"), "Issued" | "Denied" | "Failed"))
        .map_or("Pending", |c| c.text("type"));
    vec![
        name(o),
        spec.text("podName").into(),
        spec.text("serviceAccountName").into(),
        spec.text("nodeName").into(),
        spec.text("signerName").into(),
        word.into(),
        labels(spec.at("unverifiedUserAnnotations")).into(),
    ]
}

/// `example.com/path`: who signs.
pub fn signer_name(name: &str, at: &Path, e: &mut ErrorList) {
    if name.is_empty() {
        e.push(Error::required(at, ""));
        return;
    }
    let Some((domain, path)) = name.split_once('/').filter(|(_, p)| !p.contains('/')) else {
        let text = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
        e.push(Error::invalid(at, name, text));
        return;
    };
    if domain.len() > 253 {
        e.push(Error::too_long(at, 253));
    }
    let mut first_bad = |whole: &str, check: fn(&str) -> Vec<String>| {
        let bad = whole.split('.').map(|l| (l, check(l))).find(|(_, m)| !m.is_empty());
        if let Some((label, messages)) = bad {
            for m in messages {
                e.push(Error::invalid(at, whole, format!("validating label {label:?}: {m}")));
            }
        }
    };
    first_bad(domain, names::dns_label);
    first_bad(path, names::dns_subdomain);
    if !domain.contains('.') {
        let text = "should be a domain with at least two segments separated by dots";
        e.push(Error::invalid(at, domain, text));
    }
    if name.len() > 571 {
        e.push(Error::too_long(at, 571));
    }
}
