//! Priority classes, pod groups and workloads.

use crate::checks::listed;
use crate::metadata::{conditions, immutable};
use crate::prepare::{Plan, StatusMeta};
use crate::table::{NONE, age, condition, name};
use crate::value::{Get, Put};
use crate::{Context, Kind, Operation, PLAIN};
use api::Value;
use api::field::{Error, ErrorList, Path};

pub static PRIORITY_CLASS: Kind = Kind {
    defaults: |o| o.fill("preemptionPolicy", "PreemptLowerPriority"),
    prepare,
    validate,
    row: Some(row),
    ..PLAIN
};
pub static POD_GROUP: Kind = Kind {
    defaults: |o| {
        if crate::gates::enabled("WorkloadAwarePreemption") {
            o.ensure("spec").fill_zero("disruptionMode", "Pod");
        }
    },
    plan: Plan { status_meta: StatusMeta::Keep, ..Plan::STATUS },
    validate: |cx, new, _, e| {
        if cx.subresource == "status" {
            let list = new.at("status").list("conditions");
            conditions(list, &Path::new("status").child("conditions"), e);
        }
    },
    row: Some(group_row),
    ..PLAIN
};
pub static WORKLOAD: Kind = Kind { row: Some(|o| vec![name(o), age(o)]), ..PLAIN };

fn prepare(op: Operation, _: &Context<'_>, new: &mut Value, _: Option<&Value>) {
    if op == Operation::Create {
        new.ensure("metadata").set("generation", 1);
    }
}

fn row(o: &Value) -> Vec<Value> {
    vec![
        name(o),
        o.int("value").into(),
        o.flag("globalDefault").into(),
        age(o),
        o.text("preemptionPolicy").into(),
    ]
}

fn group_row(o: &Value) -> Vec<Value> {
    let (spec, status) = (o.at("spec"), o.at("status"));
    let mut word = match condition(status, "PodGroupScheduled").map(|c| c.text("status")) {
        None => "Pending",
        Some("True") => "Scheduled",
        Some(_) => "Unschedulable",
    };
    if let Some(c) = condition(status, "DisruptionTarget") {
        word = c.text("reason");
    }
    let policy = if spec.at("schedulingPolicy").has("gang") { "Gang" } else { "Basic" };
    let workload = match spec.at("podGroupTemplateRef") {
        Value::Null => NONE,
        r => r.at("workload").text("workloadName"),
    };
    vec![name(o), policy.into(), workload.into(), word.into(), age(o)]
}

/// The classes that only the system defines, and their values.
pub const SYSTEM_CLASSES: [(&str, i64); 2] =
    [("system-node-critical", 2_000_001_000), ("system-cluster-critical", 2_000_000_000)];
const HIGHEST_OF_USERS: i64 = 1_000_000_000;

fn validate(_: &Context<'_>, new: &Value, old: Option<&Value>, e: &mut ErrorList) {
    let at = Path::new("preemptionPolicy");
    let (name, value) = (new.at("metadata").text("name"), new.int("value"));
    if let Some(old) = old {
        if value != old.int("value") {
            e.push(Error::forbidden(&Path::new("value"), "may not be changed in an update."));
        }
        return immutable(new.at("preemptionPolicy"), old.at("preemptionPolicy"), &at, e);
    }
    if name.starts_with("system-") {
        if let Some(why) = not_the_system_class(name, value, new.flag("globalDefault")) {
            let text = format!(
                "priority class names with 'system-' prefix are reserved for system use only. error: {why}"
            );
            e.push(Error::forbidden(&Path::new("metadata").child("name"), text));
        }
    } else if value > HIGHEST_OF_USERS {
        let text = format!("maximum allowed value of a user defined priority is {HIGHEST_OF_USERS}");
        e.push(Error::forbidden(&Path::new("value"), text));
    }
    if let Some(policy) = new.opt_text("preemptionPolicy") {
        match policy {
            "" => e.push(Error::required(&at, "")),
            _ => listed(policy, &["PreemptLowerPriority", "Never"], &at, e),
        }
    }
}

fn not_the_system_class(name: &str, value: i64, global: bool) -> Option<String> {
    match SYSTEM_CLASSES.iter().find(|(n, _)| *n == name) {
        None => Some(format!("{name} is not a known system priority class")),
        Some((_, want)) if *want != value => Some(format!("value of {name} PriorityClass must be {want}")),
        Some(_) if global => Some(format!("globalDefault of {name} PriorityClass must be false")),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Room;
    use api::json;

    #[test]
    fn checked() {
        for (name, value, want) in [
            ("a", 10, ""),
            (
                "a",
                2_000_000_000,
                "value: Forbidden: maximum allowed value of a user defined priority is 1000000000",
            ),
            ("system-node-critical", 2_000_001_000, ""),
            (
                "system-x",
                1,
                "metadata.name: Forbidden: priority class names with 'system-' prefix are reserved for system use only. error: system-x is not a known",
            ),
        ] {
            let o = json!({"metadata": {"name": name}, "value": value});
            let got = PRIORITY_CLASS.validate(&Context::default(), &o, None);
            let first = got.first().map(ToString::to_string).unwrap_or_default();
            assert!(first.starts_with(want) && first.is_empty() == want.is_empty(), "{first}");
        }
    }
}
