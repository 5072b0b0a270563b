//! Updates of a job's status: ends are not taken back, and counts fit together.

use crate::apps::common::counts;
use crate::metadata::immutable;
use crate::table::{condition_true, time};
use crate::value::{Get, same};
use api::Value;
use api::field::{Error, ErrorList, ErrorType, Path};

fn conditions(text: impl Into<String>) -> Error {
    Error {
        kind: ErrorType::Invalid,
        field: "status.conditions".into(),
        bad_value: None,
        printed: None,
        detail: text.into(),
    }
}

pub fn validate(new: &Value, old: Option<&Value>, e: &mut ErrorList) {
    let (spec, status, at) = (new.at("spec"), new.at("status"), Path::new("status"));
    counts(status, &["active", "succeeded", "failed", "ready", "terminating"], &at, e);
    uncounted(status.at("uncountedTerminatedPods"), &at.child("uncountedTerminatedPods"), e);
    let empty = Value::Null;
    let was = old.map_or(&empty, |o| o.at("status"));
    // What was accepted before is not refused because of rules that it already broke.
    if !same(status.at("conditions"), was.at("conditions")) {
        ends(spec, status, e);
    }
    finished(status, &at, e);
    indexes(spec, status, &at, e);
    if old.is_some() {
        kept(spec, status, was, &at, e);
    }
}

fn uncounted(pods: &Value, at: &Path, e: &mut ErrorList) {
    let mut seen: Vec<&str> = Vec::new();
    for list in ["succeeded", "failed"] {
        for (i, uid) in pods.texts(list).enumerate() {
            let at = at.child(list).index(i);
            if uid.is_empty() {
                e.push(Error::invalid(&at, "", "must not be empty"));
            } else if seen.contains(&uid) {
                e.push(Error::duplicate(&at, uid));
            } else {
                seen.push(uid);
            }
        }
    }
}

fn ends(spec: &Value, status: &Value, e: &mut ErrorList) {
    let is = |kind| condition_true(status, kind);
    let (complete, failed) = (is("Complete"), is("Failed"));
    let (target, criteria) = (is("FailureTarget"), is("SuccessCriteriaMet"));
    for (wrong, text) in [
        (complete && failed, "cannot set Complete=True and Failed=true conditions"),
        (complete && target, "cannot set Complete=True and FailureTarget=true conditions"),
        (failed && !target, "cannot set Failed=True condition without the FailureTarget=true condition"),
        (
            complete && !criteria,
            "cannot set Complete=True condition without the SuccessCriteriaMet=true condition",
        ),
        (criteria && failed, "cannot set SuccessCriteriaMet=True and Failed=true conditions"),
        (criteria && target, "cannot set SuccessCriteriaMet=True and FailureTarget=true conditions"),
        (
            spec.has("successPolicy") && complete && !criteria,
            "cannot set Complete=True for Job with SuccessPolicy unless SuccessCriteriaMet=True",
        ),
    ] {
        if wrong {
            e.push(conditions(text));
        }
    }
}

fn finished(status: &Value, at: &Path, e: &mut ErrorList) {
    let complete = condition_true(status, "Complete");
    let at_completion = at.child("completionTime");
    match (status.opt_text("completionTime"), complete) {
        (Some(t), false) => {
            let text = "cannot set completionTime when there is no Complete=True condition";
            e.push(Error::invalid(&at_completion, t, text));
        }
        (None, true) => {
            e.push(Error::required(&at_completion, "completionTime is required for Complete jobs"));
        }
        _ => {}
    }
    if let (Some(start), Some(end)) = (time(status.text("startTime")), time(status.text("completionTime")))
        && end < start
    {
        let text = "must be equal to or after `startTime`";
        e.push(Error::invalid(&at_completion, status.text("completionTime"), text));
    }
    if status.int("ready") > status.int("active") {
        let text = "cannot set more ready pods than active";
        e.push(Error::invalid(&at.child("ready"), status.int("ready"), text));
    }
    if !complete && !condition_true(status, "Failed") {
        return;
    }
    for field in ["active", "terminating"] {
        if status.int(field) > 0 {
            let text = format!("{field}>0 is invalid for finished job");
            e.push(Error::invalid(&at.child(field), status.int(field), text));
        }
    }
    if !status.has("startTime") {
        e.push(Error::required(&at.child("startTime"), "startTime is required for finished job"));
    }
    let pods = status.at("uncountedTerminatedPods");
    if pods.len("failed") + pods.len("succeeded") > 0 {
        let text = "must be empty for finished job";
        e.push(Error::invalid(&at.child("uncountedTerminatedPods"), pods.clone(), text));
    }
}

fn indexes(spec: &Value, status: &Value, at: &Path, e: &mut ErrorList) {
    let (done, failed) = (status.text("completedIndexes"), status.opt_text("failedIndexes"));
    if !done.is_empty() && spec.text("completionMode") != "Indexed" {
        let text = "cannot set non-empty completedIndexes when non-indexed completion mode";
        e.push(Error::invalid(&at.child("completedIndexes"), done, text));
    }
    if let Some(failed) = failed.filter(|_| !spec.has("backoffLimitPerIndex")) {
        let text = "cannot set non-null failedIndexes when backoffLimitPerIndex is null";
        e.push(Error::invalid(&at.child("failedIndexes"), failed, text));
    }
    let Some(completions) = spec.opt_int("completions") else { return };
    let failed = failed.filter(|_| spec.has("backoffLimitPerIndex")).unwrap_or_default();
    for (field, text) in [("completedIndexes", done), ("failedIndexes", failed)] {
        if let Err(why) = count_indexes(text, completions) {
            let why = format!("error parsing {field}: {why}");
            e.push(Error::invalid(&at.child(field), text, why));
        }
    }
}

fn kept(spec: &Value, status: &Value, was: &Value, at: &Path, e: &mut ErrorList) {
    for kind in ["Failed", "Complete", "FailureTarget"] {
        if condition_true(was, kind) && !condition_true(status, kind) {
            e.push(conditions(format!("cannot disable the terminal {kind}=True condition")));
        }
    }
    for field in ["failed", "succeeded"] {
        if status.int(field) < was.int(field) {
            let text = format!("cannot decrease the {field} counter");
            e.push(Error::invalid(&at.child(field), status.int(field), text));
        }
    }
    if was.has("completionTime") && status.has("completionTime") {
        immutable(status.at("completionTime"), was.at("completionTime"), &at.child("completionTime"), e);
    }
    let started = was.has("startTime") && !same(was.at("startTime"), status.at("startTime"));
    if started && !spec.flag("suspend") {
        let text = "field is immutable for unsuspended job once set";
        e.push(Error::invalid(&at.child("startTime"), status.at("startTime").clone(), text));
    }
    let criteria = |s: &Value| condition_true(s, "SuccessCriteriaMet");
    if criteria(was) && !criteria(status) {
        e.push(conditions("cannot disable the SuccessCriteriaMet=True condition"));
    }
    if condition_true(was, "Complete") && !criteria(was) && criteria(status) {
        e.push(conditions("cannot set SuccessCriteriaMet=True for Job already has Complete=true conditions"));
    }
}

/// How many indexes a list like `1,3-5` names, all below `completions` and in order.
pub fn count_indexes(text: &str, completions: i64) -> Result<i64, String> {
    if text.is_empty() {
        return Ok(0);
    }
    let number = |s: &str| -> Result<i64, String> {
        let n: i64 = s.parse().map_err(|_| format!("cannot convert string to integer for index: {s:?}"))?;
        if n >= completions { Err(format!("too large index: {s:?}")) } else { Ok(n) }
    };
    let (mut total, mut last) = (0, None::<i64>);
    for interval in text.split(',') {
        let parts: Vec<&str> = interval.split('-').collect();
        let (from, to) = match parts.as_slice() {
            [one] => (number(one)?, number(one)?),
            [from, to] => {
                let (from, to) = (number(from)?, number(to)?);
                if from >= to {
                    return Err(format!("non-increasing order, previous: {from}, current: {to}"));
                }
                (from, to)
            }
            _ => {
                return Err(format!(
                    "the fragment {interval:?} violates the requirement that an index interval can have at most two parts separated by '-'"
                ));
            }
        };
        if let Some(last) = last.filter(|l| *l >= from) {
            return Err(format!("non-increasing order, previous: {last}, current: {from}"));
        }
        total += to - from + 1;
        last = Some(to);
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::json;

    #[test]
    fn index_lists() {
        assert_eq!(count_indexes("0,2-4", 5), Ok(4));
        for bad in ["5", "1-1", "2,1", "a", "1-2-3"] {
            assert!(count_indexes(bad, 5).is_err(), "{bad}");
        }
    }

    #[test]
    fn ends_are_final() {
        let ended = |kinds: &[&str]| {
            let list: Vec<Value> = kinds.iter().map(|k| json!({"type": k, "status": "True"})).collect();
            json!({"spec": {}, "status": {"startTime": "2020-01-01T00:00:00Z", "conditions": list, "failed": 1}})
        };
        let failed = ended(&["FailureTarget", "Failed"]);
        let check = |new: &Value, old: &Value| {
            let mut e = ErrorList::new();
            validate(new, Some(old), &mut e);
            e.first().map(ToString::to_string).unwrap_or_default()
        };
        assert_eq!(check(&failed, &ended(&[])), "");
        assert_eq!(
            check(&ended(&["Failed"]), &ended(&[])),
            "status.conditions: Invalid value: cannot set Failed=True condition without the FailureTarget=true condition"
        );
        assert_eq!(
            check(&ended(&[]), &failed),
            "status.conditions: Invalid value: cannot disable the terminal Failed=True condition"
        );
    }
}
