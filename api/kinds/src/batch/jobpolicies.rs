//! When a job fails or succeeds before its count: failure and success policies.

use super::job::invalid_as_a_whole;
use crate::checks;
use crate::value::Get;
use api::Value;
use api::field::{Error, ErrorList, Path};

pub fn failure_policy_rules(spec: &Value, at: &Path, e: &mut ErrorList) {
    let rules = spec.at("podFailurePolicy").list("rules");
    if rules.len() > 20 {
        e.push(Error::too_many(at, rules.len(), 20));
    }
    let pod = spec.at("template").at("spec");
    let names: Vec<&str> =
        pod.list("containers").iter().chain(pod.list("initContainers")).map(|c| c.text("name")).collect();
    for (i, rule) in rules.iter().enumerate() {
        let at = at.index(i);
        match rule.text("action") {
            "" => {
                let text = "valid values: [\"Count\" \"FailIndex\" \"FailJob\" \"Ignore\"]";
                e.push(Error::required(&at.child("action"), text));
            }
            "FailIndex" if !spec.has("backoffLimitPerIndex") => {
                let text = "requires the backoffLimitPerIndex to be set";
                e.push(Error::invalid(&at.child("action"), "FailIndex", text));
            }
            action => {
                checks::one_of(action, &["Count", "FailIndex", "FailJob", "Ignore"], &at.child("action"), e);
            }
        }
        let (codes, conditions) = (rule.at("onExitCodes"), rule.list("onPodConditions"));
        if !codes.is_null() {
            exit_codes(codes, &names, &at.child("onExitCodes"), e);
        }
        if conditions.len() > 20 {
            e.push(Error::too_many(&at.child("onPodConditions"), conditions.len(), 20));
        }
        for (j, pattern) in conditions.iter().enumerate() {
            let at = at.child("onPodConditions").index(j);
            checks::qualified(pattern.text("type"), &at.child("type"), e);
            checks::one_of(pattern.text("status"), &["False", "True", "Unknown"], &at.child("status"), e);
        }
        let text = match (codes.is_null(), conditions.is_empty()) {
            (false, false) => "specifying both OnExitCodes and OnPodConditions is not supported",
            (true, true) => "specifying one of OnExitCodes and OnPodConditions is required",
            _ => continue,
        };
        e.push(invalid_as_a_whole(&at, text));
    }
}

fn exit_codes(codes: &Value, names: &[&str], at: &Path, e: &mut ErrorList) {
    let operator = codes.text("operator");
    if operator.is_empty() {
        e.push(Error::required(&at.child("operator"), "valid values: [\"In\" \"NotIn\"]"));
    } else {
        checks::one_of(operator, &["In", "NotIn"], &at.child("operator"), e);
    }
    if let Some(name) = codes.opt_text("containerName").filter(|n| !names.contains(n)) {
        let text = "must be one of the container or initContainer names in the pod template";
        e.push(Error::invalid(&at.child("containerName"), name, text));
    }
    let at = at.child("values");
    let values: Vec<i64> = codes.list("values").iter().filter_map(Value::as_i64).collect();
    let list = codes.at("values").clone();
    if values.is_empty() {
        e.push(Error::invalid(&at, Value::Null, "at least one value is required"));
        return;
    }
    if values.len() > 255 {
        e.push(Error::too_many(&at, values.len(), 255));
    }
    for (i, code) in values.iter().enumerate() {
        if operator == "In" && *code == 0 {
            e.push(Error::invalid(&at.index(i), 0, "must not be 0 for the In operator"));
        }
        if values[..i].contains(code) {
            e.push(Error::duplicate(&at.index(i), *code));
        }
    }
    if !values.is_sorted() {
        e.push(Error::invalid(&at, list, "must be ordered"));
    }
}

pub fn success_policy(spec: &Value, at: &Path, e: &mut ErrorList) {
    let policy = spec.at("successPolicy");
    if policy.is_null() {
        return;
    }
    if spec.text("completionMode") != "Indexed" {
        let shown = crate::shown::internal("k8s.io.api.batch.v1.SuccessPolicy", policy);
        e.push(Error::invalid_printed(at, shown, "requires indexed completion mode"));
        return;
    }
    let (rules, at) = (policy.list("rules"), at.child("rules"));
    if rules.is_empty() {
        let text = "at least one rules must be specified when the successPolicy is specified";
        e.push(Error::required(&at, text));
    }
    if rules.len() > 20 {
        e.push(Error::too_many(&at, rules.len(), 20));
    }
    let completions = spec.int("completions");
    for (i, rule) in rules.iter().enumerate() {
        let at = at.index(i);
        let (count, indexes) = (rule.opt_int("succeededCount"), rule.opt_text("succeededIndexes"));
        if count.is_none() && indexes.is_none() {
            let text = "at least one of succeededCount or succeededIndexes must be specified";
            e.push(Error::required(&at, text));
        }
        let mut total = 0;
        if let Some(text) = indexes {
            match super::jobstatus::count_indexes(text, completions) {
                Ok(n) => total = n,
                Err(why) => {
                    let why = format!("error parsing succeededIndexes: {why}");
                    e.push(Error::invalid(&at.child("succeededIndexes"), text, why));
                }
            }
        }
        let Some(n) = count else { continue };
        checks::non_negative(rule, "succeededCount", &at, e);
        let at = at.child("succeededCount");
        if n > completions {
            let text =
                format!("must be less than or equal to {completions} (the number of specified completions)");
            e.push(Error::invalid(&at, n, text));
        }
        if indexes.is_some() && n > total {
            let text = format!(
                "must be less than or equal to {total} (the number of indexes in the specified succeededIndexes field)"
            );
            e.push(Error::invalid(&at, n, text));
        }
    }
}
