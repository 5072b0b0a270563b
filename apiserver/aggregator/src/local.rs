//! APIServices of groups and versions that this server answers for: which ought to be there, and what to do about
//! each. Those of built-in groups are brought in line once a start, those of custom resources always; one that
//! somebody has made their own by taking the label off is left alone.

use api::resources::Table;
use api::{Value, json};
use std::collections::BTreeMap;

/// The label of APIServices that are kept by the server.
pub const MANAGED: &str = "kube-aggregator.kubernetes.io/automanaged";
const ON_START: &str = "onstart";
const ALWAYS: &str = "true";

/// An APIService that ought to be there.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted {
    pub always: bool,
    pub spec: Value,
}

impl Wanted {
    fn new(group: &str, version: &str, priorities: (i32, i32), always: bool) -> Wanted {
        let mut spec = json!({
            "version": version, "groupPriorityMinimum": priorities.0, "versionPriority": priorities.1,
        });
        if !group.is_empty() {
            spec["group"] = group.into();
        }
        Wanted { always, spec }
    }

    /// The object to make.
    pub fn object(&self, name: &str) -> Value {
        let label = if self.always { ALWAYS } else { ON_START };
        json!({"metadata": {"name": name, "labels": {MANAGED: label}}, "spec": self.spec})
    }
}

/// By name: the built-in groups with a place in discovery, and the served versions of definitions.
pub fn wanted<'a>(builtin: &Table, crds: impl Iterator<Item = &'a Value>) -> BTreeMap<String, Wanted> {
    let mut out = BTreeMap::new();
    for crd in crds {
        let group = crd["spec"]["group"].as_str().unwrap_or_default();
        for v in crd["spec"]["versions"].as_array().into_iter().flatten().filter(|v| v["served"] == true) {
            let version = v["name"].as_str().unwrap_or_default();
            out.insert(format!("{version}.{group}"), Wanted::new(group, version, (1000, 100), true));
        }
    }
    for gv in builtin.group_versions().iter().filter(|gv| gv.group != crate::API_SERVICES.0) {
        let Some(priority) = gv.group_priority_minimum else { continue };
        let priorities = (priority, gv.version_priority.unwrap_or(15));
        let name = format!("{}.{}", gv.version, gv.group);
        out.insert(name, Wanted::new(&gv.group, &gv.version, priorities, false));
    }
    out
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Nothing,
    Create,
    Update,
    Delete,
}

/// `done` tells that this was gone through since the start, `at_start` that the object was there then.
pub fn step(wanted: Option<&Wanted>, present: Option<&Value>, done: bool, at_start: bool) -> Step {
    if done && wanted.is_some_and(|w| !w.always) {
        return Step::Nothing;
    }
    let Some(present) = present else {
        return if wanted.is_some() { Step::Create } else { Step::Nothing };
    };
    match present["metadata"]["labels"][MANAGED].as_str() {
        Some(ALWAYS) => {}
        Some(ON_START) if at_start && !done => {}
        _ => return Step::Nothing,
    }
    match wanted {
        None => Step::Delete,
        Some(w) if w.spec == present["spec"] => Step::Nothing,
        Some(_) => Step::Update,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cell_of_the_table() {
        let wanted = |always| Wanted::new("g", "v1", (1000, 100), always);
        let (start, always) = (wanted(false), wanted(true));
        let present = |label: Value, version: &str| {
            let spec = json!({"group": "g", "version": version, "groupPriorityMinimum": 1000, "versionPriority": 100});
            json!({"metadata": {"labels": {MANAGED: label}}, "spec": spec})
        };
        let (own, on_start, kept) =
            (present(Value::Null, "x"), present(ON_START.into(), "x"), present(ALWAYS.into(), "x"));
        let good = present(ALWAYS.into(), "v1");
        for (wanted, present, done, at_start, want) in [
            (None, None, false, false, Step::Nothing),
            (Some(&start), None, false, false, Step::Create),
            (Some(&start), None, true, false, Step::Nothing),
            (Some(&always), None, true, false, Step::Create),
            (None, Some(&own), false, true, Step::Nothing),
            (Some(&always), Some(&own), false, true, Step::Nothing),
            (None, Some(&on_start), false, false, Step::Nothing),
            (Some(&always), Some(&on_start), false, false, Step::Nothing),
            (None, Some(&on_start), false, true, Step::Delete),
            (None, Some(&on_start), true, true, Step::Nothing),
            (Some(&start), Some(&on_start), false, true, Step::Update),
            (Some(&start), Some(&on_start), true, true, Step::Nothing),
            (None, Some(&kept), true, false, Step::Delete),
            (Some(&start), Some(&kept), false, false, Step::Update),
            (Some(&always), Some(&kept), true, false, Step::Update),
            (Some(&always), Some(&good), true, false, Step::Nothing),
        ] {
            assert_eq!(
                step(wanted, present, done, at_start),
                want,
                "{wanted:?} {present:?} {done} {at_start}"
            );
        }
    }
}
