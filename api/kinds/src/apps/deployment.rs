//! Deployments.

use super::common::{collision_count, counts, immutable_selector, int_or_percent, selector, strict_template};
use crate::checks;
use crate::corev1::rc::validate_replica_counts;
use crate::prepare::{Plan, StatusMeta, bump_generation};
use crate::table::{age, containers, name, selector_text};
use crate::value::{Get, Put, same};
use crate::{Context, Kind, Operation, PLAIN};
use api::Value;
use api::field::{Error, ErrorList, Path};

pub static ROOM: Kind = Kind {
    defaults,
    plan: Plan { status_meta: StatusMeta::KeepLabels, ..Plan::FULL },
    prepare,
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

fn validate(cx: &Context<'_>, new: &Value, old: Option<&Value>, e: &mut ErrorList) {
    if cx.subresource == "status" {
        let status = new.at("status");
        counts(status, &["unavailableReplicas", "terminatingReplicas"], &Path::new("status"), e);
        validate_replica_counts(status, &["updatedReplicas", "readyReplicas", "availableReplicas"], e);
        return collision_count(new, old, e);
    }
    let (spec, at) = (new.at("spec"), Path::new("spec"));
    counts(spec, &["replicas", "minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds"], &at, e);
    selector(spec, "deployment", &at, e);
    strict_template(spec, &at, e);
    strategy(spec.at("strategy"), &at.child("strategy"), e);
    if let Some(seconds) = spec.opt_int("progressDeadlineSeconds")
        && seconds <= spec.int("minReadySeconds")
    {
        let at = at.child("progressDeadlineSeconds");
        e.push(Error::invalid(&at, seconds, "must be greater than minReadySeconds"));
    }
    if let Some(old) = old {
        immutable_selector(spec, old.at("spec"), &at, e);
    }
}

fn strategy(strategy: &Value, at: &Path, e: &mut ErrorList) {
    let (rolling, at_rolling) = (strategy.at("rollingUpdate"), at.child("rollingUpdate"));
    match strategy.text("type") {
        "Recreate" => {
            if !rolling.is_null() {
                let text = "may not be specified when strategy `type` is 'Recreate'";
                e.push(Error::forbidden(&at_rolling, text));
            }
            return;
        }
        "RollingUpdate" => {}
        _ => {
            let mut error = Error::not_supported(at, strategy.clone(), &["Recreate", "RollingUpdate"]);
            error.printed = Some(crate::shown::internal("k8s.io.api.apps.v1.DeploymentStrategy", strategy));
            e.push(error);
            return;
        }
    }
    if rolling.is_null() {
        e.push(Error::required(&at_rolling, "this should be defaulted and never be nil"));
        return;
    }
    for field in ["maxUnavailable", "maxSurge"] {
        int_or_percent(rolling.at(field), &at_rolling.child(field), e);
    }
    let (unavailable, at) = (rolling.at("maxUnavailable"), at_rolling.child("maxUnavailable"));
    let number = checks::int_or_percent_number;
    if number(unavailable) == 0 && number(rolling.at("maxSurge")) == 0 {
        e.push(Error::invalid(&at, unavailable.clone(), "may not be 0 when `maxSurge` is 0"));
    }
    checks::not_more_than_100_percent(unavailable, &at, e);
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

    #[test]
    fn checked() {
        let deployment = |changes: Value| {
            let mut spec = json!({"selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}},
                "spec": {"containers": [{"name": "c", "image": "i"}]}}});
            for (k, v) in changes.as_object().unwrap() {
                spec.set(k, v.clone());
            }
            let mut o = json!({"spec": spec});
            defaults(&mut o);
            o
        };
        let old = deployment(json!({}));
        for (changes, old, want) in [
            (json!({}), None, ""),
            (
                json!({"replicas": -1}),
                None,
                "spec.replicas: Invalid value: -1: must be greater than or equal to 0",
            ),
            (json!({"selector": null}), None, "spec.selector: Required value"),
            (
                json!({"selector": {}}),
                None,
                "spec.selector: Invalid value: {}: empty selector is invalid for deployment",
            ),
            (
                json!({"selector": {"matchLabels": {"x": "y"}}}),
                None,
                "spec.template.metadata.labels: Invalid value: {\"a\":\"b\"}: `selector` does not match",
            ),
            (
                json!({"strategy": {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 0}}}),
                None,
                "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: 0: may not be 0 when `maxSurge` is 0",
            ),
            (
                json!({"strategy": {"rollingUpdate": {"maxUnavailable": "101%"}}}),
                None,
                "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: \"101%\": must not be greater than 100%",
            ),
            (
                json!({"strategy": {"type": "Recreate", "rollingUpdate": {}}}),
                None,
                "spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'",
            ),
            (
                json!({"selector": {"matchExpressions": [{"key": "a", "operator": "In"}]}}),
                None,
                "spec.selector.matchExpressions[0].values: Required value: must be specified when `operator` is",
            ),
            (
                json!({"strategy": {"type": "Swap"}}),
                None,
                "spec.strategy: Unsupported value: {\"Type\":\"Swap\",\"RollingUpdate\":null}: supported values: \"Recreate\", \"RollingUpdate\"",
            ),
            (
                json!({"minReadySeconds": 600}),
                None,
                "spec.progressDeadlineSeconds: Invalid value: 600: must be greater than minReadySeconds",
            ),
            (
                json!({"selector": {"matchExpressions": [{"key": "a", "operator": "Exists"}]}}),
                Some(&old),
                "spec.selector: Invalid value: {\"matchExpressions\":[{\"key\":\"a\",\"operator\":\"Exists\"}]}: field is immutable",
            ),
        ] {
            let got = crate::Room::validate(&ROOM, &Context::default(), &deployment(changes.clone()), old);
            let first = got.first().map(ToString::to_string).unwrap_or_default();
            assert!(first.starts_with(want) && first.is_empty() == want.is_empty(), "{changes}: {first}");
        }
    }
}
