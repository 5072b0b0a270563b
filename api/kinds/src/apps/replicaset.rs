//! Replica sets.

use super::common::{counts, immutable_selector, selector as check_selector, strict_template};
use crate::Context;
use crate::corev1::rc::validate_replica_counts;
use crate::prepare::Plan;
use crate::table::{age, containers, name, selector};
use crate::value::{Get, Put};
use crate::{Kind, PLAIN};
use api::Value;
use api::field::{ErrorList, Path};

pub static ROOM: Kind = Kind {
    defaults,
    plan: Plan::FULL,
    validate,
    warnings: crate::warnings::named_workload,
    row: Some(row),
    ..PLAIN
};

fn defaults(o: &mut Value) {
    let spec = o.ensure("spec");
    if let Some(t) = spec.sub("template") {
        crate::pod::template(t);
    }
    spec.fill("replicas", 1);
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
        selector(spec.at("selector")),
    ]
}

fn validate(cx: &Context<'_>, new: &Value, old: Option<&Value>, e: &mut ErrorList) {
    if cx.subresource == "status" {
        let status = new.at("status");
        counts(status, &["terminatingReplicas"], &Path::new("status"), e);
        return validate_replica_counts(
            status,
            &["fullyLabeledReplicas", "readyReplicas", "availableReplicas"],
            e,
        );
    }
    let (spec, at) = (new.at("spec"), Path::new("spec"));
    counts(spec, &["replicas", "minReadySeconds"], &at, e);
    check_selector(spec, "deployment", &at, e);
    strict_template(spec, &at, e);
    if let Some(old) = old {
        immutable_selector(spec, old.at("spec"), &at, e);
    }
}
