//! Cron jobs.

use crate::Context;
use crate::checks;
use crate::metadata::Checks;
use crate::prepare::Plan;
use crate::table::{NONE, age, containers, name, selector, since};
use crate::value::{Get, Put, same};
use crate::warnings::{Warnings, job_spec, name_in_pods};
use crate::{Kind, PLAIN};
use api::Value;
use api::field::{Error, ErrorList, Path};

pub static ROOM: Kind = Kind {
    defaults,
    plan: Plan::FULL,
    validate,
    warnings,
    row: Some(row),
    status_metadata_checks: Checks::NONE,
    ..PLAIN
};

fn defaults(o: &mut Value) {
    let spec = o.ensure("spec");
    if let Some(job) = spec.sub("jobTemplate").and_then(|t| t.sub("spec")) {
        if let Some(t) = job.sub("template") {
            crate::pod::template(t);
        }
        super::job::failure_policy(job);
    }
    spec.fill_zero("concurrencyPolicy", "Allow");
    spec.fill("suspend", false);
    spec.fill("successfulJobsHistoryLimit", 3);
    spec.fill("failedJobsHistoryLimit", 1);
}

fn warnings(cx: &Context<'_>, new: &Value, old: Option<&Value>) -> Warnings {
    let mut out = if old.is_none() { name_in_pods(new) } else { Warnings::new() };
    if !cx.subresource.is_empty() {
        return out;
    }
    let spec = new.at("spec");
    if old.is_none_or(|o| !same(o.at("spec"), spec)) {
        job_spec(spec.at("jobTemplate").at("spec"), "spec.jobTemplate.spec", &mut out);
    }
    if old.is_some() && spec.text("schedule").contains("TZ") {
        out.push("cannot use TZ or CRON_TZ in spec.spec.schedule, use timeZone instead, see https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details".to_owned());
    }
    out
}

fn row(o: &Value) -> Vec<Value> {
    let (spec, status) = (o.at("spec"), o.at("status"));
    let job = spec.at("jobTemplate").at("spec");
    let [names, images] = containers(job.at("template").at("spec"));
    let last = status.opt_text("lastScheduleTime").map_or(NONE.to_owned(), since);
    let suspend = match spec.opt_flag("suspend") {
        Some(true) => "True",
        Some(false) => "False",
        None => "<unset>",
    };
    vec![
        name(o),
        spec.text("schedule").into(),
        spec.opt_text("timeZone").unwrap_or(NONE).into(),
        suspend.into(),
        status.len("active").into(),
        last.into(),
        age(o),
        names,
        images,
        selector(job.at("selector")),
    ]
}

fn validate(cx: &Context<'_>, new: &Value, old: Option<&Value>, e: &mut ErrorList) {
    if cx.subresource == "status" {
        return;
    }
    let (spec, at) = (new.at("spec"), Path::new("spec"));
    let empty = Value::Null;
    let was = old.map_or(&empty, |o| o.at("spec"));
    schedule(spec, was, &at.child("schedule"), e);
    if old.is_none() || spec.at("timeZone") != was.at("timeZone") {
        time_zone(spec, &at.child("timeZone"), e);
    }
    let policies = ["Allow", "Forbid", "Replace"];
    checks::one_of_required(spec.text("concurrencyPolicy"), &policies, &at.child("concurrencyPolicy"), e);
    let numbers = ["startingDeadlineSeconds", "successfulJobsHistoryLimit", "failedJobsHistoryLimit"];
    crate::apps::common::counts(spec, &numbers, &at, e);
    let (job, at) = (spec.at("jobTemplate").at("spec"), at.child("jobTemplate").child("spec"));
    super::job::validate_spec(job, &at, e);
    if job.has("selector") {
        let text = "`selector` will be auto-generated";
        e.push(Error::invalid(&at.child("selector"), job.at("selector").clone(), text));
    }
    if job.flag("manualSelector") {
        e.push(Error::not_supported_in_order(&at.child("manualSelector"), true, &["nil", "false"]));
    }
    let name = new.at("metadata").text("name");
    // Jobs get eleven more characters in their names.
    if old.is_none() && name.len() > 52 {
        let text = "must be no more than 52 characters";
        e.push(Error::invalid(&Path::new("metadata").child("name"), name, text));
    }
}

fn schedule(spec: &Value, was: &Value, at: &Path, e: &mut ErrorList) {
    let text = spec.text("schedule");
    if text.is_empty() {
        e.push(Error::required(at, ""));
        return;
    }
    if let Err(why) = super::schedule::check(text) {
        e.push(Error::invalid(at, text, why));
    }
    if text.contains("TZ") {
        if !was.text("schedule").contains("TZ") {
            let why = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead";
            e.push(Error::invalid(at, text, why));
        } else if spec.has("timeZone") {
            let why = "cannot use both timeZone field and TZ or CRON_TZ in schedule";
            e.push(Error::invalid(at, text, why));
        }
    }
}

fn time_zone(spec: &Value, at: &Path, e: &mut ErrorList) {
    let Some(zone) = spec.opt_text("timeZone") else { return };
    if zone.is_empty() {
        e.push(Error::invalid(at, zone, "timeZone must be nil or non-empty string"));
        return;
    }
    let odd = |part: &str| {
        let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '+');
        matches!(part, "." | "..")
            || part.starts_with('-')
            || !(1..=14).contains(&part.len())
            || !part.chars().all(known)
    };
    if zone.split('/').any(odd) || jiff::tz::TimeZone::get(zone).is_err() {
        e.push(Error::invalid(at, zone, format!("unknown time zone {zone}")));
    }
    if zone.eq_ignore_ascii_case("local") {
        let text = "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones";
        e.push(Error::invalid(at, zone, text));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Room;
    use api::json;

    #[test]
    fn checked() {
        let cron = |changes: Value| {
            let mut spec = json!({"schedule": "* * * * *", "jobTemplate": {"spec": {"template": {"spec":
                {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}}});
            for (k, v) in changes.as_object().unwrap() {
                spec.set(k, v.clone());
            }
            let mut o = json!({"metadata": {"name": "c"}, "spec": spec});
            defaults(&mut o);
            ROOM.validate(&Context::default(), &o, None).first().map(ToString::to_string).unwrap_or_default()
        };
        for (changes, want) in [
            (json!({}), ""),
            (json!({"timeZone": "Etc/UTC"}), ""),
            (
                json!({"schedule": "x"}),
                "spec.schedule: Invalid value: \"x\": expected exactly 5 fields, found 1: [x]",
            ),
            (
                json!({"schedule": "TZ=UTC * * * * *"}),
                "spec.schedule: Invalid value: \"TZ=UTC * * * * *\": cannot use TZ or CRON_TZ in schedule",
            ),
            (
                json!({"timeZone": "Nowhere"}),
                "spec.timeZone: Invalid value: \"Nowhere\": unknown time zone Nowhere",
            ),
            (json!({"concurrencyPolicy": "x"}), "spec.concurrencyPolicy: Unsupported value: \"x\""),
        ] {
            let got = cron(changes);
            assert!(got.starts_with(want) && got.is_empty() == want.is_empty(), "{got}");
        }
    }
}
