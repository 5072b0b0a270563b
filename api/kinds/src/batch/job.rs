//! Jobs.

use super::jobpolicies::{failure_policy_rules, success_policy};
use crate::apps::common::{counts, finds, immutable_selector, is_evaluable, selects};
use crate::checks;
use crate::metadata::{Checks, IMMUTABLE, SelectorOptions, immutable, label_selector};
use crate::prepare::Plan;
use crate::semantic;
use crate::table::{
    age, condition_true, containers, human_duration, name, seconds_between, selector, since, time,
};
use crate::value::same;
use crate::value::{Get, Put};
use crate::warnings::{Warnings, job_spec, name_in_pods};
use crate::{Context, Kind, Operation, PLAIN};
use api::Value;
use api::field::{Error, ErrorList, ErrorType, Path};

pub static ROOM: Kind = Kind {
    defaults,
    plan: Plan::FULL,
    prepare,
    validate,
    warnings,
    row: Some(row),
    metadata_checks: Checks::BOTH,
    ..PLAIN
};

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
fn warnings(cx: &Context<'_>, new: &Value, old: Option<&Value>) -> Warnings {
    let mut out = if old.is_none() { name_in_pods(new) } else { Warnings::new() };
    if cx.subresource.is_empty() && old.is_none_or(|o| !same(o.at("spec"), new.at("spec"))) {
        job_spec(new.at("spec"), "spec", &mut out);
    }
    out
}

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
        let template_labels = |o: &Value| o.at("spec").at("template").at("metadata").at("labels").clone();
        // Labels that the job took over from its template are the same labels for good.
        let meta = new.at("metadata");
        let copied = is_generated(meta);
        let shared = !copied && same(meta.at("labels"), &template_labels(new));
        generate_selector(new);
        if shared {
            let labels = template_labels(new);
            new.ensure("metadata").set("labels", labels);
        }
    }
}

/// Whether the name was made from a prefix: such an object is copied first, and shares nothing.
fn is_generated(meta: &Value) -> bool {
    let prefix = meta.text("generateName");
    !prefix.is_empty() && meta.text("name").len() <= prefix.len() + 5
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

/// An error that shows no value.
pub fn invalid_as_a_whole(at: &Path, detail: impl Into<String>) -> Error {
    Error {
        kind: ErrorType::Invalid,
        field: at.to_string(),
        bad_value: None,
        detail: detail.into(),
        printed: None,
    }
}

fn validate(cx: &Context<'_>, new: &Value, old: Option<&Value>, e: &mut ErrorList) {
    if cx.subresource == "status" {
        return super::jobstatus::validate(new, old, e);
    }
    let (spec, at) = (new.at("spec"), Path::new("spec"));
    generated_selector(new, e);
    whole_spec(spec, &at, e);
    last_pod_name(new, e);
    if let Some(old) = old {
        // An update is looked at as a new job first.
        whole_spec(spec, &at, e);
        validate_update(spec, old.at("spec"), suspended_before_start(old), &at, e);
    }
}

/// The spec of a job that is no part of a cron job: it has a selector.
fn whole_spec(spec: &Value, at: &Path, e: &mut ErrorList) {
    validate_spec(spec, at, e);
    let selector = spec.at("selector");
    if selector.is_null() {
        e.push(Error::required(&at.child("selector"), ""));
    } else {
        label_selector(selector, SelectorOptions::default(), &at.child("selector"), e);
    }
    if is_evaluable(selector) {
        let labels = spec.at("template").at("metadata").at("labels");
        if !finds(selector, labels) {
            let at = at.child("template").child("metadata").child("labels");
            let text = "`selector` does not match template `labels`";
            e.push(Error::invalid(&at, labels.clone(), text));
        }
    }
}

/// The highest index must still fit in a host name.
fn last_pod_name(job: &Value, e: &mut ErrorList) {
    let (name, completions) = (job.at("metadata").text("name"), job.at("spec").int("completions"));
    if job.at("spec").text("completionMode") == "Indexed" && completions > 0 {
        let host = format!("{name}-{}", completions - 1);
        if !crate::names::dns_label(&host).is_empty() {
            let text = format!("will not able to create pod with invalid DNS label: {host}");
            e.push(Error::invalid(&Path::new("metadata").child("name"), name, text));
        }
    }
}

/// Labels that the job has put on its template are what they should be.
fn generated_selector(job: &Value, e: &mut ErrorList) {
    let (spec, meta) = (job.at("spec"), job.at("metadata"));
    if spec.flag("manualSelector") || !spec.has("selector") {
        return;
    }
    let labels = spec.at("template").at("metadata").at("labels");
    let at = Path::new("spec").child("template").child("metadata").child("labels");
    let mut expected = api::json!({});
    for (field, names) in POD_LABELS {
        for label in names {
            let want = meta.text(field);
            expected.set(label, want);
            match labels.opt_text(label) {
                None => e.push(Error::required(&at.key(label), format!("must be '{want}'"))),
                Some(is) if is != want => {
                    e.push(Error::invalid(&at.key(label), labels.clone(), format!("must be '{want}'")));
                }
                Some(_) => {}
            }
        }
    }
    if !selects(spec.at("selector"), &expected) {
        let text = "`selector` not auto-generated";
        let shown = crate::apps::common::shown_selector(spec.at("selector"));
        e.push(Error::invalid_printed(&Path::new("spec").child("selector"), shown, text));
    }
}

/// The spec of a job, also in a cron job's template.
pub fn validate_spec(spec: &Value, at: &Path, e: &mut ErrorList) {
    let numbers = [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ];
    counts(spec, &numbers, at, e);
    if spec.has("maxFailedIndexes") && !spec.has("backoffLimitPerIndex") {
        e.push(Error::required(&at.child("backoffLimitPerIndex"), "when maxFailedIndexes is specified"));
    }
    if let Some(manager) = spec.opt_text("managedBy") {
        let at = at.child("managedBy");
        checks::domain_prefixed_path(manager, &at, e);
        if manager.len() > 63 {
            e.push(Error::too_long(&at, 63));
        }
    }
    completion_mode(spec, at, e);
    failure_policy_rules(spec, &at.child("podFailurePolicy").child("rules"), e);
    success_policy(spec, &at.child("successPolicy"), e);
    if let Some(policy) = spec.opt_text("podReplacementPolicy") {
        let known: &[&str] =
            if spec.has("podFailurePolicy") { &["Failed"] } else { &["Failed", "TerminatingOrFailed"] };
        checks::one_of(policy, known, &at.child("podReplacementPolicy"), e);
    }
    let at = at.child("template");
    crate::pod::validate::template(spec.at("template"), &at, e);
    let (policy, at) =
        (spec.at("template").at("spec").text("restartPolicy"), at.child("spec").child("restartPolicy"));
    match policy {
        "" | "Always" => e.push(Error::required(&at, "valid values: \"OnFailure\", \"Never\"")),
        "OnFailure" if spec.has("podFailurePolicy") => {
            let text = "only \"Never\" is supported when podFailurePolicy is specified";
            e.push(Error::invalid(&at, policy, text));
        }
        "OnFailure" | "Never" => {}
        other => e.push(Error::not_supported(&at, other, &["OnFailure", "Never"])),
    }
}

fn completion_mode(spec: &Value, at: &Path, e: &mut ErrorList) {
    let (mode, known) = (spec.opt_text("completionMode"), ["NonIndexed", "Indexed"]);
    if let Some(mode) = mode.filter(|m| !known.contains(m)) {
        e.push(Error::not_supported_in_order(&at.child("completionMode"), mode, &known));
        return;
    }
    let number = |field: &str| spec.opt_int(field);
    if spec.text("completionMode") != "Indexed" {
        for field in ["backoffLimitPerIndex", "maxFailedIndexes"] {
            if let Some(n) = number(field) {
                e.push(Error::invalid(&at.child(field), n, "requires indexed completion mode"));
            }
        }
        return;
    }
    let (completions, failed, parallel) =
        (number("completions"), number("maxFailedIndexes"), number("parallelism"));
    if completions.is_none() {
        e.push(Error::required(&at.child("completions"), "when completion mode is Indexed"));
    }
    let mut bad = |field: &str, n: i64, text: String| e.push(Error::invalid(&at.child(field), n, text));
    if let Some(n) = parallel.filter(|n| *n > 100_000) {
        bad("parallelism", n, "must be less than or equal to 100000 when completion mode is Indexed".into());
    }
    if let (Some(n), Some(all)) = (failed, completions)
        && n > all
    {
        bad("maxFailedIndexes", n, "must be less than or equal to completions".into());
    }
    if let Some(n) = failed.filter(|n| *n > 100_000) {
        bad("maxFailedIndexes", n, "must be less than or equal to 100000".into());
    }
    if completions.is_none_or(|n| n <= 100_000) || !spec.has("backoffLimitPerIndex") {
        return;
    }
    let text = "must be less than or equal to 10000 when completions are above 100000 and used with backoff limit per index";
    for (field, n) in [("parallelism", parallel), ("maxFailedIndexes", failed)] {
        if let Some(n) = n.filter(|n| *n > 10_000) {
            bad(field, n, text.into());
        }
    }
    if failed.is_none() {
        let text = "must be specified when completions is above 100000";
        e.push(Error::required(&at.child("maxFailedIndexes"), text));
    }
}

/// Suspended, and none of its pods has run: where its pods may go can still change.
fn suspended_before_start(job: &Value) -> bool {
    job.at("spec").flag("suspend") && !job.at("status").has("startTime")
}

fn validate_update(spec: &Value, was: &Value, waiting: bool, at: &Path, e: &mut ErrorList) {
    let at_completions = at.child("completions");
    if spec.text("completionMode") != "Indexed" {
        immutable(spec.at("completions"), was.at("completions"), &at_completions, e);
    } else if !same(spec.at("completions"), was.at("completions"))
        && spec.at("completions") != spec.at("parallelism")
    {
        let text = "can only be modified in tandem with spec.parallelism";
        e.push(Error::invalid(&at_completions, spec.at("completions").clone(), text));
    }
    immutable_selector(spec, was, at, e);
    template_update(spec, was, waiting, at, e);
    for field in ["completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy", "successPolicy"]
    {
        if !semantic::equal_in(JOB, field, spec, was) {
            e.push(Error::invalid(&at.child(field), spec.at(field).clone(), IMMUTABLE));
        }
    }
}

const JOB: &str = "k8s.io.api.batch.v1.JobSpec";
const POD: &str = "k8s.io.api.core.v1.PodSpec";
const TEMPLATE: &str = "k8s.io.api.core.v1.PodTemplateSpec";

fn template_update(spec: &Value, was: &Value, waiting: bool, at: &Path, e: &mut ErrorList) {
    let template = spec.at("template");
    let mut allowed = was.at("template").clone();
    if waiting {
        for field in ["annotations", "labels"] {
            allowed.ensure("metadata").copy_from(template.at("metadata"), field);
        }
        let pod = allowed.ensure("spec");
        for field in ["nodeSelector", "tolerations", "schedulingGates"] {
            pod.copy_from(template.at("spec"), field);
        }
        let affinity = template.at("spec").at("affinity");
        if pod.has("affinity") || !affinity.is_null() {
            pod.ensure("affinity").copy_from(affinity, "nodeAffinity");
        }
    }
    if was.flag("suspend") {
        let pod = allowed.ensure("spec");
        for list in ["containers", "initContainers"] {
            for (old, new) in pod.items(list).zip(template.at("spec").list(list)) {
                if old.text("name") == new.text("name") {
                    old.copy_from(new, "resources");
                }
            }
        }
        let (now, before) = (template.at("spec"), allowed.at("spec"));
        if !semantic::equal(POD, now, before) {
            e.push(Error::invalid(&at.child("template").child("spec"), now.clone(), IMMUTABLE));
        }
    } else if !semantic::equal(TEMPLATE, template, &allowed) {
        e.push(Error::invalid(&at.child("template"), template.clone(), IMMUTABLE));
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

    #[test]
    fn labels_taken_over_from_the_template_stay_the_same() {
        for (labels, shared) in [(json!(null), true), (json!({"own": "x"}), false)] {
            let mut job = json!({"metadata": {"name": "j", "uid": "u", "labels": labels},
                "spec": {"template": {"metadata": {"labels": {"app": "x"}}, "spec": {}}}});
            defaults(&mut job);
            crate::Room::prepare(&ROOM, Operation::Create, &Context::default(), &mut job, None);
            let of_template = &job["spec"]["template"]["metadata"]["labels"];
            assert_eq!(job["metadata"]["labels"] == *of_template, shared, "{job}");
        }
    }

    #[test]
    fn checked() {
        let job = |changes: Value| {
            let mut spec = json!({"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}});
            for (k, v) in changes.as_object().unwrap() {
                spec.set(k, v.clone());
            }
            let mut o = json!({"metadata": {"name": "j", "uid": "u"}, "spec": spec});
            defaults(&mut o);
            crate::Room::prepare(&ROOM, Operation::Create, &Context::default(), &mut o, None);
            o
        };
        let old = job(json!({}));
        let always = json!({"spec": {"containers": [{"name": "c", "image": "i"}]}});
        for (changes, old, want) in [
            (json!({}), None, ""),
            (
                json!({"template": always}),
                None,
                "spec.template.spec.restartPolicy: Required value: valid values: \"OnFailure\", \"Never\"",
            ),
            (json!({"parallelism": -1}), None, "spec.parallelism: Invalid value: -1: must be greater"),
            (json!({"completionMode": "Indexed"}), None, ""),
            (
                json!({"backoffLimitPerIndex": 1}),
                None,
                "spec.backoffLimitPerIndex: Invalid value: 1: requires indexed completion mode",
            ),
            (
                json!({"podFailurePolicy": {"rules": [{"action": "Ignore", "onExitCodes": {"operator": "In", "values": [0]}}]}}),
                None,
                "spec.podFailurePolicy.rules[0].onExitCodes.values[0]: Invalid value: 0: must not be 0 for the In operator",
            ),
            (
                json!({"podFailurePolicy": {"rules": [{"action": "Ignore"}]}}),
                None,
                "spec.podFailurePolicy.rules[0]: Invalid value: specifying one of OnExitCodes and OnPodConditions is required",
            ),
            (json!({"parallelism": 5, "completions": 1}), Some(&old), ""),
            (json!({"completions": 3}), Some(&old), "spec.completions: Invalid value: 3: field is immutable"),
            (
                json!({"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "other"}]}}}),
                Some(&old),
                "spec.template: Invalid value: ",
            ),
        ] {
            let got = crate::Room::validate(&ROOM, &Context::default(), &job(changes.clone()), old);
            let first = got.first().map(ToString::to_string).unwrap_or_default();
            assert!(first.starts_with(want) && first.is_empty() == want.is_empty(), "{changes}: {first}");
        }
    }
}
