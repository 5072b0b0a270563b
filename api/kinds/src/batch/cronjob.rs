//! Cron jobs.

use crate::prepare::Plan;
use crate::table::{NONE, age, containers, name, selector, since};
use crate::value::{Get, Put};
use crate::{Kind, PLAIN};
use api::Value;

pub static ROOM: Kind = Kind { defaults, plan: Plan::FULL, row: Some(row), ..PLAIN };

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
