//! Deployments.

use crate::prepare::{Plan, StatusMeta, bump_generation};
use crate::table::{age, containers, name, selector_text};
use crate::value::{Get, Put, same};
use crate::{Context, Kind, Operation, PLAIN};
use api::Value;

pub static ROOM: Kind = Kind {
    defaults,
    plan: Plan { status_meta: StatusMeta::KeepLabels, ..Plan::FULL },
    prepare,
    row: Some(row),
    ..PLAIN
};

fn defaults(o: &mut Value) {
    let spec = o.ensure("spec");
    if let Some(t) = spec.sub("template") {
        crate::pod::template(t);
    }
    spec.fill("replicas", 1);
    let strategy = spec.ensure("strategy");
    strategy.fill_zero("type", "RollingUpdate");
    if strategy.text("type") == "RollingUpdate" {
        let rolling = strategy.ensure("rollingUpdate");
        rolling.fill("maxUnavailable", "25%");
        rolling.fill("maxSurge", "25%");
    }
    spec.fill("revisionHistoryLimit", 10);
    spec.fill("progressDeadlineSeconds", 600);
}

/// Changed annotations count as a new generation too: they are copied to replica sets.
fn prepare(op: Operation, cx: &Context<'_>, new: &mut Value, old: Option<&Value>) {
    if op == Operation::Update
        && cx.subresource.is_empty()
        && let Some(old) = old
        && !same(new.at("metadata").at("annotations"), old.at("metadata").at("annotations"))
    {
        bump_generation(new, old);
    }
}

fn row(o: &Value) -> Vec<Value> {
    let (spec, status) = (o.at("spec"), o.at("status"));
    let [names, images] = containers(spec.at("template").at("spec"));
    vec![
        name(o),
        format!("{}/{}", status.int("readyReplicas"), spec.int("replicas")).into(),
        status.int("updatedReplicas").into(),
        status.int("availableReplicas").into(),
        age(o),
        names,
        images,
        selector_text(spec.at("selector")).into(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::json;

    #[test]
    fn what_counts_as_a_generation() {
        let mut stored = json!({"metadata": {"name": "d"}, "spec": {"selector": {}}, "status": {"x": 1}});
        defaults(&mut stored);
        crate::Room::prepare(&ROOM, Operation::Create, &Context::default(), &mut stored, None);
        assert_eq!(stored["metadata"]["generation"], json!(1));
        assert!(stored.get("status").is_none());
        for (path, subresource, want) in [
            ("/metadata/labels", "", 1),
            ("/metadata/annotations", "", 2),
            ("/spec/replicas", "", 2),
            ("/status/replicas", "", 1),
            ("/spec/replicas", "status", 1),
        ] {
            let mut new = stored.clone();
            let mut parts = path.split('/').skip(1);
            let (top, field) = (parts.next().unwrap(), parts.next().unwrap());
            new.ensure(top).set(field, json!({"a": "b"}));
            let cx = Context { subresource, ..Context::default() };
            crate::Room::prepare(&ROOM, Operation::Update, &cx, &mut new, Some(&stored));
            assert_eq!(new["metadata"]["generation"], json!(want), "{path} {subresource}");
        }
    }
}
