//! What a pod asks for: sums of its containers' requests and limits.

use crate::objects::{at, items, text};
use api::Value;
use api::quantity::Quantity;
use std::collections::BTreeMap;

/// Amounts by resource name.
pub type Amounts = BTreeMap<String, Quantity>;

/// A map of quantities as it stands in an object; malformed ones were refused by validation.
pub fn amounts(v: &Value) -> Amounts {
    let parse = |(k, v): (&String, &Value)| Some((k.clone(), Quantity::from_value(v).ok()?));
    v.as_object().into_iter().flatten().filter_map(parse).collect()
}

pub fn add(sum: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        let entry = sum.entry(name.clone()).or_insert(Quantity::ZERO);
        *entry = plus(*entry, *amount);
    }
}

pub fn plus(a: Quantity, b: Quantity) -> Quantity {
    a.add(b)
}

fn raise(sum: &mut Amounts, other: &Amounts) {
    for (name, amount) in other {
        let entry = sum.entry(name.clone()).or_insert(*amount);
        *entry = Quantity::max(*entry, *amount);
    }
}

/// The sum of `requests` or `limits` over a pod's containers: init containers run one after the
/// other, those that restart (sidecars) beside everything that comes later. `overhead` is added for
/// requests, and for limits where there are any.
pub fn of_pod(pod: &Value, which: &str, overhead: bool) -> Amounts {
    let of = |c: &Value| amounts(at(c, &["resources", which]));
    let mut sum = Amounts::new();
    for container in items(pod, &["spec", "containers"]) {
        add(&mut sum, &of(container));
    }
    let (mut sidecars, mut peak) = (Amounts::new(), Amounts::new());
    for container in items(pod, &["spec", "initContainers"]) {
        let mut own = of(container);
        if text(container, &["restartPolicy"]) == "Always" {
            add(&mut sum, &own);
            add(&mut sidecars, &own);
            own = sidecars.clone();
        } else {
            add(&mut own, &sidecars);
        }
        raise(&mut peak, &own);
    }
    raise(&mut sum, &peak);
    for (name, amount) in amounts(at(pod, &["spec", "resources", which])) {
        if name == "cpu" || name == "memory" || name.starts_with("hugepages-") {
            sum.insert(name, amount);
        }
    }
    if overhead {
        for (name, amount) in amounts(at(pod, &["spec", "overhead"])) {
            let present = sum.get(&name).copied();
            if which == "requests" || present.is_some_and(|p| !p.is_zero()) {
                sum.insert(name, plus(present.unwrap_or(Quantity::ZERO), amount));
            }
        }
    }
    sum
}
