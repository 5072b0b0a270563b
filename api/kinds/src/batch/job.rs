//! Jobs.

use crate::prepare::Plan;
use crate::table::{
    age, condition_true, containers, human_duration, name, seconds_between, selector, since, time,
};
use crate::value::{Get, Put};
use crate::{Context, Kind, Operation, PLAIN};
use api::Value;

pub static ROOM: Kind = Kind { defaults, plan: Plan::FULL, prepare, row: Some(row), ..PLAIN };

/// Labels that a job puts on its pods: the value's field in metadata, and the two names of the label.
pub const POD_LABELS: [(&str, [&str; 2]); 2] = [
    ("name", ["job-name", "batch.kubernetes.io/job-name"]),
    ("uid", ["controller-uid", "batch.kubernetes.io/controller-uid"]),
];

pub fn defaults(o: &mut Value) {
    let labels = o.at("spec").at("template").at("metadata").at("labels").clone();
    if labels.as_object().is_some_and(|m| !m.is_empty()) {
        o.ensure("metadata").fill_zero("labels", labels);
    }
    spec_defaults(o.ensure("spec"));
}

/// Only of jobs: templates of jobs in cron jobs get no more than their pod template's defaults.
fn spec_defaults(spec: &mut Value) {
    if let Some(t) = spec.sub("template") {
        crate::pod::template(t);
    }
    failure_policy(spec);
    if !spec.has("completions") && !spec.has("parallelism") {
        spec.set("completions", 1);
    }
    spec.fill("parallelism", 1);
    let limit = if spec.has("backoffLimitPerIndex") { i64::from(i32::MAX) } else { 6 };
    spec.fill("backoffLimit", limit);
    spec.fill("completionMode", "NonIndexed");
    spec.fill("suspend", false);
    let policy = if spec.has("podFailurePolicy") { "Failed" } else { "TerminatingOrFailed" };
    spec.fill("podReplacementPolicy", policy);
    spec.fill("manualSelector", false);
}

pub fn failure_policy(spec: &mut Value) {
    let Some(policy) = spec.sub("podFailurePolicy") else { return };
    for rule in policy.items("rules") {
        for pattern in rule.items("onPodConditions") {
            pattern.fill_zero("status", "True");
        }
    }
}

fn prepare(op: Operation, _: &Context<'_>, new: &mut Value, _: Option<&Value>) {
    if op == Operation::Create && !new.at("spec").flag("manualSelector") {
        generate_selector(new);
    }
}

/// The job selects the pods that carry its uid.
fn generate_selector(job: &mut Value) {
    let meta = job.at("metadata").clone();
    let spec = job.ensure("spec");
    let labels = spec.ensure("template").ensure("metadata").ensure("labels");
    for (field, names) in POD_LABELS {
        for label in names {
            labels.fill(label, meta.text(field));
        }
    }
    spec.ensure("selector").ensure("matchLabels").fill(POD_LABELS[1].1[1], meta.text("uid"));
}

fn row(o: &Value) -> Vec<Value> {
    let (spec, status) = (o.at("spec"), o.at("status"));
    let succeeded = status.int("succeeded");
    let completions = match (spec.opt_int("completions"), spec.int("parallelism")) {
        (Some(n), _) => format!("{succeeded}/{n}"),
        (None, p) if p > 1 => format!("{succeeded}/1 of {p}"),
        _ => format!("{succeeded}/1"),
    };
    let [names, images] = containers(spec.at("template").at("spec"));
    vec![
        name(o),
        state(o).into(),
        completions.into(),
        duration(status).into(),
        age(o),
        names,
        images,
        selector(spec.at("selector")),
    ]
}

fn duration(status: &Value) -> String {
    let Some(start) = time(status.text("startTime")) else { return String::new() };
    match time(status.text("completionTime")) {
        Some(end) => human_duration(seconds_between(start, end)),
        None => since(status.text("startTime")),
    }
}

fn state(o: &Value) -> &'static str {
    let is = |kind| condition_true(o.at("status"), kind);
    if is("Complete") {
        "Complete"
    } else if is("Failed") {
        "Failed"
    } else if o.at("metadata").has("deletionTimestamp") {
        "Terminating"
    } else if is("Suspended") {
        "Suspended"
    } else if is("FailureTarget") {
        "FailureTarget"
    } else if is("SuccessCriteriaMet") {
        "SuccessCriteriaMet"
    } else {
        "Running"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::json;

    #[test]
    fn a_job_selects_its_own_pods() {
        let mut job = json!({"metadata": {"name": "j", "uid": "u"}, "spec": {"template": {"spec": {}}}});
        defaults(&mut job);
        crate::Room::prepare(&ROOM, Operation::Create, &Context::default(), &mut job, None);
        assert_eq!(
            job["spec"]["selector"],
            json!({"matchLabels": {"batch.kubernetes.io/controller-uid": "u"}})
        );
        assert_eq!(
            job["spec"]["template"]["metadata"]["labels"],
            json!({"job-name": "j", "batch.kubernetes.io/job-name": "j", "controller-uid": "u",
                "batch.kubernetes.io/controller-uid": "u"})
        );
        let spec = &job["spec"];
        assert_eq!(
            (&spec["completions"], &spec["backoffLimit"], &spec["podReplacementPolicy"]),
            (&json!(1), &json!(6), &json!("TerminatingOrFailed"))
        );
    }
}
