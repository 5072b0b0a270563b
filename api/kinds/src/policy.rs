//! Pod disruption budgets, and evictions.

use crate::Context;
use crate::apps::common::{counts, int_or_percent};
use crate::checks;
use crate::metadata::{Checks, Names, SelectorOptions, conditions, label_selector};
use crate::prepare::Plan;
use crate::table::{age, int_or_string, name};
use crate::value::Get;
use crate::{Kind, PLAIN};
use api::Value;
use api::field::{Error, ErrorList, Path};

pub static PDB: Kind = Kind {
    // Upstream checks no more of a budget's metadata than what a path needs.
    names: Names::PathSegment,
    any_finalizer: true,
    plan: Plan::FULL,
    validate,
    row: Some(row),
    unconditional_update: false,
    metadata_checks: Checks::NONE,
    status_metadata_checks: Checks::NONE,
    ..PLAIN
};
pub static EVICTION: Kind = PLAIN;

fn row(o: &Value) -> Vec<Value> {
    let spec = o.at("spec");
    vec![
        name(o),
        int_or_string(spec.at("minAvailable"), "N/A").into(),
        int_or_string(spec.at("maxUnavailable"), "N/A").into(),
        o.at("status").int("disruptionsAllowed").into(),
        age(o),
    ]
}

fn validate(cx: &Context<'_>, new: &Value, _: Option<&Value>, e: &mut ErrorList) {
    if cx.subresource == "status" {
        let (status, at) = (new.at("status"), Path::new("status"));
        conditions(status.list("conditions"), &at.child("conditions"), e);
        let fields = ["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"];
        return counts(status, &fields, &at, e);
    }
    let (spec, at) = (new.at("spec"), Path::new("spec"));
    if spec.has("minAvailable") && spec.has("maxUnavailable") {
        let text = "minAvailable and maxUnavailable cannot be both set";
        let shown = crate::shown::internal("k8s.io.api.policy.v1.PodDisruptionBudgetSpec", spec);
        e.push(Error::invalid_printed(&at, shown, text));
    }
    for field in ["minAvailable", "maxUnavailable"] {
        if spec.has(field) {
            int_or_percent(spec.at(field), &at.child(field), e);
            checks::not_more_than_100_percent(spec.at(field), &at.child(field), e);
        }
    }
    label_selector(spec.at("selector"), SelectorOptions::default(), &at.child("selector"), e);
    checks::opt_one_of(spec, "unhealthyPodEvictionPolicy", &["AlwaysAllow", "IfHealthyBudget"], &at, e);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Room;
    use api::json;

    #[test]
    fn checked() {
        for (spec, want) in [
            (json!({"minAvailable": 1, "selector": {}}), ""),
            (
                json!({"minAvailable": 1, "maxUnavailable": 1}),
                "spec: Invalid value: {\"MinAvailable\":1,\"Selector\":null,\"MaxUnavailable\":1,\"UnhealthyPodEvictionPolicy\":null}: minAvailable and maxUnavailable cannot be both set",
            ),
            (
                json!({"minAvailable": "120%"}),
                "spec.minAvailable: Invalid value: \"120%\": must not be greater than 100%",
            ),
            (json!({"minAvailable": "x"}), "spec.minAvailable: Invalid value: \"x\": a valid percent string"),
        ] {
            let got = PDB.validate(&Context::default(), &json!({"spec": spec}), None);
            let first = got.first().map(ToString::to_string).unwrap_or_default();
            assert!(first.starts_with(want) && first.is_empty() == want.is_empty(), "{first}");
        }
    }
}
