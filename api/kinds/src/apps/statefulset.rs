//! Stateful sets.

use crate::prepare::Plan;
use crate::table::{age, containers, name};
use crate::value::{Get, Put};
use crate::{Kind, PLAIN};
use api::Value;

pub static ROOM: Kind = Kind { defaults, plan: Plan::FULL, row: Some(row), ..PLAIN };

fn defaults(o: &mut Value) {
    let spec = o.ensure("spec");
    if let Some(t) = spec.sub("template") {
        crate::pod::template(t);
    }
    for claim in spec.items("volumeClaimTemplates") {
        claim.fill_zero("kind", "PersistentVolumeClaim");
        claim.fill_zero("apiVersion", "v1");
        crate::corev1::pvc::defaults(claim);
    }
    spec.fill_zero("podManagementPolicy", "OrderedReady");
    let strategy = spec.ensure("updateStrategy");
    if strategy.text("type").is_empty() {
        strategy.set("type", "RollingUpdate");
        strategy.ensure("rollingUpdate");
    }
    if strategy.text("type") == "RollingUpdate"
        && let Some(rolling) = strategy.sub("rollingUpdate")
    {
        rolling.fill("partition", 0);
    }
    let retention = spec.ensure("persistentVolumeClaimRetentionPolicy");
    retention.fill_zero("whenDeleted", "Retain");
    retention.fill_zero("whenScaled", "Retain");
    spec.fill("replicas", 1);
    spec.fill("revisionHistoryLimit", 10);
}

fn row(o: &Value) -> Vec<Value> {
    let (spec, status) = (o.at("spec"), o.at("status"));
    let [names, images] = containers(spec.at("template").at("spec"));
    vec![
        name(o),
        format!("{}/{}", status.int("readyReplicas"), spec.int("replicas")).into(),
        age(o),
        names,
        images,
    ]
}
