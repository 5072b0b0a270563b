//! Replication controllers and pod templates.

use crate::checks::{self, NOT_NEGATIVE};
use crate::metadata::Names;
use crate::pod::validate::template;
use crate::prepare::Plan;
use crate::table::{age, containers, labels, name};
use crate::value::{Get, Put};
use crate::{Context, Kind, PLAIN};
use api::Value;
use api::field::{Error, ErrorList, Path};

pub static ROOM: Kind = Kind {
    names: Names::WholeSubdomain,
    defaults,
    plan: Plan::FULL,
    validate,
    warnings: crate::warnings::named_workload,
    row: Some(row),
    ..PLAIN
};
pub static POD_TEMPLATE: Kind = Kind {
    defaults: |o| {
        if let Some(t) = o.sub("template") {
            crate::pod::template(t);
        }
    },
    plan: Plan { generation: &["template"], ..Plan::NONE },
    validate: |_, new, _, e| template(new.at("template"), &Path::new("template"), e),
    row: Some(template_row),
    ..PLAIN
};

fn defaults(o: &mut Value) {
    let own = o.at("spec").at("template").at("metadata").at("labels").clone();
    if own.as_object().is_some_and(|m| !m.is_empty()) {
        o.ensure("metadata").fill_zero("labels", own.clone());
        o.ensure("spec").fill_zero("selector", own);
    }
    let spec = o.ensure("spec");
    spec.fill("replicas", 1);
    if let Some(t) = spec.sub("template") {
        crate::pod::template(t);
    }
}

fn row(o: &Value) -> Vec<Value> {
    let (spec, status) = (o.at("spec"), o.at("status"));
    let [names, images] = containers(spec.at("template").at("spec"));
    vec![
        name(o),
        spec.int("replicas").into(),
        status.int("replicas").into(),
        status.int("readyReplicas").into(),
        age(o),
        names,
        images,
        labels(spec.at("selector")).into(),
    ]
}

fn template_row(o: &Value) -> Vec<Value> {
    let [names, images] = containers(o.at("template").at("spec"));
    vec![name(o), names, images, labels(o.at("template").at("metadata").at("labels")).into()]
}

/// Counts in the status of what keeps replicas.
pub fn validate_replica_counts(status: &Value, fields: &[&str], e: &mut ErrorList) {
    let at = Path::new("status");
    for field in fields.iter().chain(&["replicas", "observedGeneration"]) {
        checks::non_negative(status, field, &at, e);
    }
    for field in fields {
        let n = status.int(field);
        if n > status.int("replicas") {
            e.push(Error::invalid(&at.child(field), n, "cannot be greater than status.replicas"));
        }
    }
    let available = status.int("availableReplicas");
    if available > status.int("readyReplicas") {
        e.push(Error::invalid(
            &at.child("availableReplicas"),
            available,
            "cannot be greater than readyReplicas",
        ));
    }
}

fn validate(cx: &Context<'_>, new: &Value, _: Option<&Value>, e: &mut ErrorList) {
    if cx.subresource == "status" {
        let counts = ["fullyLabeledReplicas", "readyReplicas", "availableReplicas"];
        return validate_replica_counts(new.at("status"), &counts, e);
    }
    let (spec, at) = (new.at("spec"), Path::new("spec"));
    checks::non_negative(spec, "minReadySeconds", &at, e);
    if spec.len("selector") == 0 {
        e.push(Error::required(&at.child("selector"), ""));
    }
    if let Some(n) = spec.opt_int("replicas").filter(|n| *n < 0) {
        e.push(Error::invalid(&at.child("replicas"), n, NOT_NEGATIVE));
    }
    let (pod, at) = (spec.at("template"), at.child("template"));
    if pod.is_null() {
        e.push(Error::required(&at, ""));
        return;
    }
    let labels = pod.at("metadata").at("labels");
    if spec.entries("selector").any(|(k, v)| labels.at(k) != v) {
        let text = "`selector` does not match template `labels`";
        e.push(Error::invalid(&at.child("metadata").child("labels"), labels.clone(), text));
    }
    template(pod, &at, e);
    always_running(pod, "ReplicationController", &at, e);
}

/// Pods that a controller keeps running restart always and have no deadline.
pub fn always_running(pod: &Value, kind: &str, at: &Path, e: &mut ErrorList) {
    let (spec, at) = (pod.at("spec"), at.child("spec"));
    checks::one_of(spec.text("restartPolicy"), &["Always"], &at.child("restartPolicy"), e);
    if spec.has("activeDeadlineSeconds") {
        let text = format!("activeDeadlineSeconds in {kind} is not Supported");
        e.push(Error::forbidden(&at.child("activeDeadlineSeconds"), text));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Room;
    use api::json;

    #[test]
    fn checked() {
        let rc = |spec: Value| {
            let mut o = json!({"metadata": {}, "spec": spec});
            defaults(&mut o);
            ROOM.validate(&Context::default(), &o, None).first().map(ToString::to_string).unwrap_or_default()
        };
        let pod = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
        assert_eq!(rc(json!({"template": pod})), "");
        assert_eq!(rc(json!({"selector": {"a": "b"}})), "spec.template: Required value");
        assert!(rc(json!({"template": pod, "selector": {"a": "x"}})).starts_with(
            "spec.template.metadata.labels: Invalid value: {\"a\":\"b\"}: `selector` does not match"
        ));
        assert!(
            rc(json!({"template": pod, "replicas": -1}))
                .starts_with("spec.replicas: Invalid value: -1: must be greater")
        );
    }
}
