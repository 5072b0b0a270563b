//! Stateful sets.

use super::common::{collision_count, counts, finds, is_evaluable, selector, shown_selector};
use crate::checks;
use crate::metadata::Names;
use crate::prepare::Plan;
use crate::table::{age, containers, name};
use crate::value::{Get, Put};
use crate::warnings::{Warnings, claim_spec, workload};
use crate::{Context, Kind, PLAIN};
use api::Value;
use api::field::{Error, ErrorList, Path};
use api::json;

pub static ROOM: Kind =
    Kind { names: Names::Label, defaults, plan: Plan::FULL, validate, warnings, row: Some(row), ..PLAIN };

fn warnings(cx: &Context<'_>, new: &Value, old: Option<&Value>) -> Warnings {
    let mut out = workload(cx, new, old);
    let spec = new.at("spec");
    for (i, claim) in spec.list("volumeClaimTemplates").iter().enumerate() {
        claim_spec(claim.at("spec"), || format!("spec.volumeClaimTemplates[{i}]"), &mut out);
    }
    if spec.int("revisionHistoryLimit") < 0 {
        out.push("spec.revisionHistoryLimit: a negative value retains all historical revisions; a value >= 0 is recommended".to_owned());
    }
    out
}

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
        if crate::gates::enabled("MaxUnavailableStatefulSet") {
            rolling.fill("maxUnavailable", 1);
        }
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

fn validate(cx: &Context<'_>, new: &Value, old: Option<&Value>, e: &mut ErrorList) {
    if cx.subresource == "status" {
        let fields = ["readyReplicas", "currentReplicas", "updatedReplicas", "availableReplicas"];
        crate::corev1::rc::validate_replica_counts(new.at("status"), &fields, e);
        for error in e.iter_mut().filter(|e| e.detail == "cannot be greater than readyReplicas") {
            "cannot be greater than status.readyReplicas".clone_into(&mut error.detail);
        }
        return collision_count(new, old, e);
    }
    let (spec, at) = (new.at("spec"), Path::new("spec"));
    strategies(spec, &at, e);
    if old.is_none() {
        for (i, claim) in spec.list("volumeClaimTemplates").iter().enumerate() {
            let at = at.child("volumeClaimTemplates").index(i).child("spec");
            crate::corev1::pvc::validate_spec(claim.at("spec"), &at, e);
        }
        if !spec.text("serviceName").is_empty() {
            checks::label(spec.text("serviceName"), &at.child("serviceName"), e);
        }
    }
    counts(spec, &["replicas", "minReadySeconds"], &at, e);
    if spec.at("ordinals").int("start") < 0 {
        let n = spec.at("ordinals").int("start");
        e.push(Error::invalid(&at.child("ordinals.start"), n, checks::NOT_NEGATIVE));
    }
    selector(spec, "statefulset", &at, e);
    template(spec, &at, e);
    if let Some(old) = old {
        only_these_change(spec, old.at("spec"), &at, e);
    }
}

fn strategies(spec: &Value, at: &Path, e: &mut ErrorList) {
    let (policy, at_policy) = (spec.text("podManagementPolicy"), at.child("podManagementPolicy"));
    match policy {
        "" => e.push(Error::required(&at_policy, "")),
        "OrderedReady" | "Parallel" => {}
        other => e.push(Error::invalid(&at_policy, other, "must be 'OrderedReady' or 'Parallel'")),
    }
    let (strategy, at_strategy) = (spec.at("updateStrategy"), at.child("updateStrategy"));
    let (rolling, at_rolling) = (strategy.at("rollingUpdate"), at_strategy.child("rollingUpdate"));
    match strategy.text("type") {
        "" => e.push(Error::required(&at_strategy, "")),
        "OnDelete" if !rolling.is_null() => {
            let text = "only allowed for updateStrategy 'RollingUpdate'";
            e.push(Error::invalid(&at_rolling, rolling.clone(), text));
        }
        "OnDelete" => {}
        "RollingUpdate" => {
            checks::non_negative(rolling, "partition", &at_rolling, e);
            let (max, at) = (rolling.at("maxUnavailable"), at_rolling.child("maxUnavailable"));
            if !max.is_null() {
                super::common::int_or_percent(max, &at, e);
                if checks::int_or_percent_number(max) == 0 {
                    e.push(Error::invalid(&at, max.clone(), "cannot be 0"));
                }
                checks::not_more_than_100_percent(max, &at, e);
            }
        }
        _ => {
            e.push(Error::invalid(&at_strategy, strategy.clone(), "must be 'RollingUpdate' or 'OnDelete'"));
        }
    }
    let retention = spec.at("persistentVolumeClaimRetentionPolicy");
    if !retention.is_null() {
        let at = at.child("persistentVolumeClaimRetentionPolicy");
        for field in ["whenDeleted", "whenScaled"] {
            let known = ["Retain", "Delete"];
            if !known.contains(&retention.text(field)) {
                e.push(Error::not_supported_in_order(&at.child(field), retention.text(field), &known));
            }
        }
    }
}

/// The template with the volumes that the claims will be, without the names that the set gives.
fn template(spec: &Value, at: &Path, e: &mut ErrorList) {
    let selector = spec.at("selector");
    if !is_evaluable(selector) {
        e.push(Error::invalid_printed(&at.child("selector"), shown_selector(selector), ""));
        return crate::corev1::rc::always_running(
            spec.at("template"),
            "StatefulSet",
            &at.child("template"),
            e,
        );
    }
    let at = at.child("template");
    let mut pod = spec.at("template").clone();
    let labels = pod.at("metadata").at("labels").clone();
    crate::metadata::labels(&labels, &at.child("labels"), e);
    crate::metadata::annotations(pod.at("metadata").at("annotations"), &at.child("annotations"), e);
    if !finds(selector, &labels) {
        let text = "`selector` does not match template `labels`";
        e.push(Error::invalid(&at.child("metadata").child("labels"), labels, text));
    }
    if let Some(pod) = pod.sub("spec") {
        pod.unset("subdomain");
        pod.unset("hostname");
        let claims: Vec<&str> =
            spec.list("volumeClaimTemplates").iter().map(|c| c.at("metadata").text("name")).collect();
        let mut seen = std::collections::HashSet::new();
        let claims: Vec<&str> = claims.into_iter().filter(|c| seen.insert(*c)).collect();
        if !claims.is_empty() {
            let mut volumes: Vec<Value> = claims
                .iter()
                .map(|name| json!({"name": name, "persistentVolumeClaim": {"claimName": name}}))
                .collect();
            volumes.extend(pod.list("volumes").iter().filter(|v| !claims.contains(&v.text("name"))).cloned());
            pod.set("volumes", volumes);
        }
    }
    crate::pod::validate::template(&pod, &at, e);
    crate::corev1::rc::always_running(&pod, "StatefulSet", &at, e);
}

fn only_these_change(spec: &Value, was: &Value, at: &Path, e: &mut ErrorList) {
    let mut rest = spec.clone();
    for field in [
        "replicas",
        "template",
        "updateStrategy",
        "minReadySeconds",
        "ordinals",
        "revisionHistoryLimit",
        "persistentVolumeClaimRetentionPolicy",
    ] {
        rest.copy_from(was, field);
    }
    if !crate::semantic::equal("k8s.io.api.apps.v1.StatefulSetSpec", &rest, was) {
        let text = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden";
        e.push(Error::forbidden(at, text));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Room;

    #[test]
    fn checked() {
        let set = |changes: Value| {
            let mut spec = json!({"serviceName": "s", "selector": {"matchLabels": {"a": "b"}},
                "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"],
                    "resources": {"requests": {"storage": "1Gi"}}}}],
                "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i",
                    "volumeMounts": [{"name": "data", "mountPath": "/d"}]}]}}});
            for (k, v) in changes.as_object().unwrap() {
                spec.set(k, v.clone());
            }
            let mut o = json!({"spec": spec});
            defaults(&mut o);
            o
        };
        let old = set(json!({}));
        for (changes, old, want) in [
            (json!({}), None, ""),
            (
                json!({"podManagementPolicy": "x"}),
                None,
                "spec.podManagementPolicy: Invalid value: \"x\": must be 'OrderedReady' or 'Parallel'",
            ),
            (json!({"serviceName": "A"}), None, "spec.serviceName: Invalid value: \"A\""),
            (json!({"replicas": 3, "minReadySeconds": 1}), Some(&old), ""),
            (
                json!({"serviceName": "t"}),
                Some(&old),
                "spec: Forbidden: updates to statefulset spec for fields other than",
            ),
        ] {
            let got = ROOM.validate(&Context::default(), &set(changes.clone()), old);
            let first = got.first().map(ToString::to_string).unwrap_or_default();
            assert!(first.starts_with(want) && first.is_empty() == want.is_empty(), "{changes}: {first}");
        }
    }
}
