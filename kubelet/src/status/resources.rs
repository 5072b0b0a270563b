//! The resources that a status shows: granted and in fact.

use std::collections::BTreeMap;

use api::quantity::{Format, Quantity as Number};
use k8s_openapi::api::core::v1::{Container, PodStatus, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::Inputs;
use crate::allocation::with_resources;
use crate::model::{self, State};
use crate::pod::{self, PodExt};

type List = BTreeMap<String, Quantity>;

/// Requests below this many CPU shares, and limits below this many thousandths, are lost in rounding.
const MIN_SHARES: i64 = 2;
const MIN_MILLI_LIMIT: i64 = 10;

/// What a container has: as the runtime says, or as it was given.
pub fn of_container(
    inputs: &Inputs<'_>,
    spec: &Container,
    container: &model::Container,
) -> ResourceRequirements {
    let mut shown = spec.resources.clone().unwrap_or_default();
    if container.state != State::Running {
        return shown;
    }
    let given = inputs.actuated.containers.get(&spec.name);
    let told = container.resources.as_ref();
    if let Some(limits) = &mut shown.limits {
        let given = given.and_then(|g| g.limits.as_ref());
        let quota = told.filter(|t| t.cpu_period > 0 && t.cpu_quota > 0);
        let quota = quota.map(|t| t.cpu_quota * 1000 / t.cpu_period);
        put_cpu(limits, quota, given, MIN_MILLI_LIMIT);
        let bytes = told.map(|t| t.memory_limit_in_bytes).filter(|bytes| *bytes > 0);
        put_memory(limits, bytes, given);
    }
    if let Some(requests) = &mut shown.requests {
        let given = given.and_then(|g| g.requests.as_ref());
        let shares = told.map(|t| t.cpu_shares).filter(|shares| *shares > 0);
        put_cpu(requests, shares.map(|s| (s * 1000 + 1023) / 1024), given, MIN_SHARES);
        put_memory(requests, None, given);
    }
    shown
}

fn put_cpu(list: &mut List, told: Option<i64>, given: Option<&List>, least: i64) {
    let milli = |list: &List| volumes::quantity::get_milli(Some(list), "cpu");
    let Some(value) = told.or_else(|| given.and_then(milli)) else { return };
    if value > least || milli(list).is_some_and(|asked| asked > least) {
        put(list, "cpu", value, cpu(value));
    }
}

fn put_memory(list: &mut List, told: Option<i64>, given: Option<&List>) {
    let bytes = |list: &List| volumes::quantity::get(Some(list), "memory");
    if let Some(value) = told.or_else(|| given.and_then(bytes)) {
        put(list, "memory", value, memory(value));
    }
}

/// A quantity that means the same keeps its form.
fn put(list: &mut List, name: &str, value: i64, text: Quantity) {
    let now = match name {
        "cpu" => volumes::quantity::get_milli(Some(list), name),
        _ => volumes::quantity::get(Some(list), name),
    };
    if now != Some(value) {
        list.insert(name.into(), text);
    }
}

fn cpu(milli: i64) -> Quantity {
    Quantity(Number::from_milli(milli, Format::DecimalSI).to_string())
}

fn memory(bytes: i64) -> Quantity {
    Quantity(Number::new(bytes, Format::BinarySI).to_string())
}

/// What the pod as a whole was granted, and has.
pub fn of_pod(inputs: &Inputs<'_>, status: &mut PodStatus) {
    let mut allocated = List::new();
    let containers = inputs.pod.spec().containers.iter().chain(inputs.pod.init_containers());
    let mut names: Vec<&String> = containers
        .filter_map(|c| c.resources.as_ref()?.requests.as_ref())
        .chain(inputs.pod.spec().resources.iter().filter_map(|r| r.requests.as_ref()))
        .chain(inputs.pod.spec().overhead.iter())
        .flat_map(|list| list.keys())
        .collect();
    names.sort();
    names.dedup();
    for name in names {
        let milli = pod::request_milli(inputs.pod, name);
        allocated.insert(name.clone(), if name == "cpu" { cpu(milli) } else { whole(name, milli) });
    }
    let running = status.phase.as_deref() == Some("Running");
    let has = if running { with_resources(inputs.pod, inputs.actuated) } else { inputs.pod.clone() };
    let mut shown = ResourceRequirements {
        claims: has.spec().resources.as_ref().and_then(|r| r.claims.clone()),
        limits: has.spec().resources.as_ref().and_then(|r| r.limits.clone()),
        requests: has.spec().resources.as_ref().and_then(|r| r.requests.clone()),
    };
    let mut fill = |list: fn(&mut ResourceRequirements) -> &mut Option<List>, name: &str, milli: i64| {
        if milli > 0 {
            let quantity = if name == "cpu" { cpu(milli) } else { whole(name, milli) };
            let list = list(&mut shown).get_or_insert_default();
            let old = volumes::quantity::get_milli(Some(list), name);
            if old != Some(milli) {
                list.insert(name.into(), quantity);
            }
        }
    };
    for name in ["cpu", "memory"] {
        fill(|r| &mut r.requests, name, pod::request_milli(&has, name));
        fill(|r| &mut r.limits, name, pod::limit_milli(&has, name).unwrap_or(0));
    }
    status.resources = Some(shown);
    status.allocated_resources = (!allocated.is_empty()).then_some(allocated);
}

fn whole(name: &str, milli: i64) -> Quantity {
    let binary = name == "memory" || name == "ephemeral-storage" || name.starts_with("hugepages-");
    let format = if binary { Format::BinarySI } else { Format::DecimalSI };
    Quantity(Number::new(milli / 1000, format).to_string())
}
