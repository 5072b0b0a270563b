//! Certificate signing requests, trust bundles and pods' certificate requests.

mod validate;

use crate::metadata::{Checks, Names};
use crate::prepare::{Plan, keep_all_but};
use crate::table::{NONE, age, human_duration, labels, name, or_none};
use crate::value::{Get, Put};
use crate::{Context, Kind, Operation, PLAIN, names};
use api::field::{Error, ErrorList, Path};
use api::{Value, json};

pub static CSR: Kind = Kind {
    names: Names::Any,
    prepare,
    validate: validate::request,
    row: Some(row),
    metadata_checks: Checks::BOTH,
    status_metadata_checks: Checks::BOTH,
    ..PLAIN
};
pub static TRUST_BUNDLE: Kind = Kind {
    names: Names::Any,
    validate: validate::trust_bundle,
    row: Some(|o| vec![name(o), or_none(o.at("spec").text("signerName"))]),
    unconditional_update: false,
    metadata_checks: Checks::BOTH,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Room;

    /// Signed with an Ed25519 key by the `openssl` tool, for `/O=system:nodes/CN=system:node:a`.
    const REQUEST: &str = "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0KTUlHdU1HSUNBUUF3THpFVk1CTUdBMVVFQ2d3TWMzbHpkR1Z0T201dlpHVnpNUll3RkFZRFZRUUREQTF6ZVhOMApaVzA2Ym05a1pUcGhNQ293QlFZREsyVndBeUVBZjVMT1VCdnJTalAwNEtRbTBCMTlRMEpJRCt0VWtJWnR6ZlFhCjgyY1RuRmVnQURBRkJnTXJaWEFEUVFBbFRkT2FTOXlUWGkrc2M2M2tHbklYaEIvSld5OEFIMTQ3Wm5pVFlQdHEKcmd2SC9PNzVsd3pxQzdzQVRRanpodm4veVlqczR6aE5IL1ZXZndiczF3MFAKLS0tLS1FTkQgQ0VSVElGSUNBVEUgUkVRVUVTVC0tLS0tCg==";

    fn request(key: &str, value: Value) -> Value {
        let mut spec = json!({
            "request": REQUEST, "usages": ["client auth"], "signerName": "kubernetes.io/kube-apiserver-client",
        });
        spec.set(key, value);
        json!({"spec": spec})
    }

    #[test]
    fn requests() {
        for (key, value, want) in [
            ("expirationSeconds", json!(600), ""),
            (
                "request",
                json!("eA=="),
                "spec.request: Invalid value: \"eA==\": PEM block type must be CERTIFICATE REQUEST",
            ),
            ("usages", json!([]), "spec.usages: Required value"),
            ("usages", json!(["x"]), "spec.usages[0]: Unsupported value: \"x\": supported values: \"any\""),
            ("usages", json!(["any", "any"]), "spec.usages[1]: Duplicate value: \"any\""),
            ("signerName", json!("x"), "spec.signerName: Invalid value: \"x\": must be a fully qualified"),
            (
                "signerName",
                json!("kubernetes.io/legacy-unknown"),
                "spec.signerName: Invalid value: \"kubernetes.io/legacy-unknown\": the legacy signerName",
            ),
            ("expirationSeconds", json!(599), "spec.expirationSeconds: Invalid value: 599: may not specify"),
        ] {
            let got = CSR.validate(&Context::default(), &request(key, value), None);
            let first = got.first().map(ToString::to_string).unwrap_or_default();
            assert!(first.starts_with(want) && first.is_empty() == want.is_empty(), "{first}");
        }
    }

    #[test]
    fn decisions() {
        let with = |conditions: Value, certificate: &str| {
            let mut o = request("x", Value::Null);
            o.set("status", json!({"conditions": conditions, "certificate": certificate}));
            o
        };
        let yes = |kind: &str| json!({"type": kind, "status": "True"});
        let none = with(json!([]), "");
        for (subresource, new, old, want) in [
            ("approval", with(json!([yes("Approved")]), ""), none.clone(), ""),
            (
                "",
                with(json!([yes("Approved")]), ""),
                none.clone(),
                "status.conditions: Forbidden: updates may not add a condition of type \"Approved\"",
            ),
            (
                "approval",
                none.clone(),
                with(json!([yes("Denied")]), ""),
                "status.conditions: Forbidden: updates may not remove a condition of type \"Denied\"",
            ),
            (
                "approval",
                with(json!([yes("Denied"), yes("Approved")]), ""),
                none.clone(),
                "status.conditions: Invalid value: \"Approved\": Approved and Denied conditions are mutually",
            ),
            (
                "status",
                with(json!([]), "eA=="),
                none,
                "status.certificate: Invalid value: \"<certificate data>\": must contain at least one",
            ),
        ] {
            let cx = Context { subresource, ..Context::default() };
            let got = CSR.validate(&cx, &new, Some(&old));
            let first = got.first().map(ToString::to_string).unwrap_or_default();
            assert!(first.starts_with(want) && first.is_empty() == want.is_empty(), "{first}");
        }
    }
}
