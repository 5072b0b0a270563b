//! Pods as kubelet, scheduler and controllers look at them: quality of service, sums of resources,
//! readiness, phases. Amounts are in billionths of a unit (see [`crate::value::amount`]).

use crate::value::{Get, ONE, amount, amount_value};
use api::Value;
use k8s_openapi::api::core::v1::{Container, Pod, PodCondition, PodSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use std::collections::BTreeMap;

/// Amounts by resource name, in billionths.
pub type Resources = BTreeMap<String, i128>;

pub const GUARANTEED: &str = "Guaranteed";
pub const BURSTABLE: &str = "Burstable";
pub const BEST_EFFORT: &str = "BestEffort";

/// Whole units, rounded up.
pub fn units(amount: i128) -> i64 {
    i64::try_from((amount + ONE - 1).div_euclid(ONE)).unwrap_or(i64::MAX)
}

/// Thousandths, rounded up (CPU).
pub fn milli(amount: i128) -> i64 {
    let step = ONE / 1000;
    i64::try_from((amount + step - 1).div_euclid(step)).unwrap_or(i64::MAX)
}

/// What one container adds to its pod's sums.
struct Unit {
    init: bool,
    /// An init container that keeps running beside the main ones.
    sidecar: bool,
    amounts: Resources,
}

/// What containers need together at the worst moment of the pod's life.
fn aggregate_units(units: impl Iterator<Item = Unit>) -> Resources {
    let (mut total, mut peak, mut sidecars) = (Resources::new(), Resources::new(), Resources::new());
    let add = |into: &mut Resources, from: &Resources| {
        for (name, n) in from {
            *into.entry(name.clone()).or_default() += n;
        }
    };
    let raise = |into: &mut Resources, from: &Resources| {
        for (name, n) in from {
            let slot = into.entry(name.clone()).or_default();
            *slot = (*slot).max(*n);
        }
    };
    for unit in units {
        if !unit.init {
            add(&mut total, &unit.amounts);
            continue;
        }
        if unit.sidecar {
            add(&mut total, &unit.amounts);
            add(&mut sidecars, &unit.amounts);
            raise(&mut peak, &sidecars);
        } else {
            // An init container runs beside the sidecars that were started before it.
            let mut now = unit.amounts;
            add(&mut now, &sidecars);
            raise(&mut peak, &now);
        }
    }
    raise(&mut total, &peak);
    total
}

/// The sum of the containers of a pod spec in its dynamic form, as text again.
pub(crate) fn aggregate(spec: &Value, field: &str) -> BTreeMap<String, String> {
    let mut binary = BTreeMap::new();
    let unit = |init: bool, c: &Value| Unit {
        init,
        sidecar: c.text("restartPolicy") == "Always",
        amounts: c
            .at("resources")
            .entries(field)
            .filter_map(|(k, v)| Some((k.to_owned(), amount_value(v)?)))
            .collect(),
    };
    for list in ["containers", "initContainers"] {
        for c in spec.list(list) {
            for (k, v) in c.at("resources").entries(field) {
                *binary.entry(k.to_owned()).or_insert(false) |= v.as_str().is_some_and(|t| t.ends_with('i'));
            }
        }
    }
    let mains = spec.list("containers").iter().map(|c| unit(false, c));
    let inits = spec.list("initContainers").iter().map(|c| unit(true, c));
    aggregate_units(mains.chain(inits))
        .into_iter()
        .map(|(name, n)| {
            let text = quantity_text(n, binary.get(&name).copied().unwrap_or_default());
            (name, text)
        })
        .collect()
}

/// An amount in its canonical text form: the largest unit without a fraction.
pub fn quantity_text(amount: i128, binary: bool) -> String {
    if amount == 0 {
        return "0".to_owned();
    }
    if binary && amount % ONE == 0 {
        let whole = amount / ONE;
        for (shift, suffix) in [(60, "Ei"), (50, "Pi"), (40, "Ti"), (30, "Gi"), (20, "Mi"), (10, "Ki")] {
            if whole.trailing_zeros() >= shift && whole.unsigned_abs() >> shift > 0 {
                return format!("{}{suffix}", whole >> shift);
            }
        }
        return whole.to_string();
    }
    for (power, suffix) in [
        (27, "E"),
        (24, "P"),
        (21, "T"),
        (18, "G"),
        (15, "M"),
        (12, "k"),
        (9, ""),
        (6, "m"),
        (3, "u"),
        (0, "n"),
    ] {
        let unit = 10i128.pow(power);
        if amount % unit == 0 {
            return format!("{}{suffix}", amount / unit);
        }
    }
    amount.to_string()
}

fn amounts(map: Option<&BTreeMap<String, Quantity>>) -> Resources {
    map.into_iter().flatten().filter_map(|(k, q)| Some((k.clone(), amount(&q.0)?))).collect()
}

fn container_units(spec: &PodSpec, limits: bool) -> impl Iterator<Item = Unit> {
    let unit = move |init: bool, c: &Container| Unit {
        init,
        sidecar: c.restart_policy.as_deref() == Some("Always"),
        amounts: amounts(
            c.resources.as_ref().and_then(|r| if limits { r.limits.as_ref() } else { r.requests.as_ref() }),
        ),
    };
    let mains = spec.containers.iter().map(move |c| unit(false, c));
    mains.chain(spec.init_containers.iter().flatten().map(move |c| unit(true, c)))
}

/// What the pod asks for: its containers at their peak, or what the pod as a whole says, plus overhead.
pub fn requests(pod: &Pod) -> Resources {
    pod.spec.as_ref().map(|s| pod_sum(s, false)).unwrap_or_default()
}

/// What the pod may use at most; a resource is missing if some container has no limit of it.
pub fn limits(pod: &Pod) -> Resources {
    pod.spec.as_ref().map(|s| pod_sum(s, true)).unwrap_or_default()
}

fn pod_sum(spec: &PodSpec, limits: bool) -> Resources {
    let mut sum = aggregate_units(container_units(spec, limits));
    let whole = spec.resources.as_ref();
    let whole = whole.and_then(|r| if limits { r.limits.as_ref() } else { r.requests.as_ref() });
    for (name, n) in amounts(whole) {
        if is_pod_level(&name) {
            sum.insert(name, n);
        }
    }
    for (name, n) in amounts(spec.overhead.as_ref()) {
        // Overhead raises a limit that is there; it does not set one.
        if !limits {
            *sum.entry(name).or_default() += n;
        } else if let Some(slot) = sum.get_mut(&name) {
            *slot += n;
        }
    }
    sum
}

/// Resources that a pod as a whole may ask for.
pub fn is_pod_level(name: &str) -> bool {
    matches!(name, "cpu" | "memory") || name.starts_with("hugepages-")
}

/// Requests and limits of CPU and memory of one container (or of the whole pod).
type Compute = [Option<i128>; 4];

fn qos(units: impl Iterator<Item = Compute>) -> &'static str {
    let mut sums = [None::<i128>; 4];
    let (mut guaranteed, mut any) = (true, false);
    for unit in units {
        any = true;
        for (sum, n) in sums.iter_mut().zip(unit) {
            if let Some(n) = n.filter(|n| *n > 0) {
                *sum = Some(sum.unwrap_or(0) + n);
            }
        }
        guaranteed &= unit[2..].iter().all(|n| n.is_some_and(|n| n > 0));
    }
    match sums {
        [None, None, None, None] => BEST_EFFORT,
        [rc, rm, lc, lm] if any && guaranteed && rc == lc && rm == lm => GUARANTEED,
        _ => BURSTABLE,
    }
}

/// The class of a pod spec in its dynamic form.
pub fn qos_of_spec(spec: &Value) -> &'static str {
    let compute = |r: &Value| -> Compute {
        [("requests", "cpu"), ("requests", "memory"), ("limits", "cpu"), ("limits", "memory")]
            .map(|(list, name)| amount_value(r.at(list).at(name)))
    };
    let whole = spec.at("resources");
    if !whole.is_null() {
        return qos(std::iter::once(compute(whole)));
    }
    let all = spec.list("containers").iter().chain(spec.list("initContainers"));
    qos(all.map(|c| compute(c.at("resources"))))
}

/// The pod's class: as the API server noted it, else worked out.
pub fn qos_class(pod: &Pod) -> &'static str {
    match pod.status.as_ref().and_then(|s| s.qos_class.as_deref()) {
        Some("Guaranteed") => return GUARANTEED,
        Some("Burstable") => return BURSTABLE,
        Some("BestEffort") => return BEST_EFFORT,
        _ => {}
    }
    let Some(spec) = &pod.spec else { return BEST_EFFORT };
    let compute = |r: Option<&k8s_openapi::api::core::v1::ResourceRequirements>| -> Compute {
        let of = |map: Option<&BTreeMap<String, Quantity>>, name| {
            map.and_then(|m| m.get(name)).and_then(|q| amount(&q.0))
        };
        let (requests, limits) = (r.and_then(|r| r.requests.as_ref()), r.and_then(|r| r.limits.as_ref()));
        [of(requests, "cpu"), of(requests, "memory"), of(limits, "cpu"), of(limits, "memory")]
    };
    if let Some(whole) = &spec.resources
        && (whole.requests.as_ref().is_some_and(|m| !m.is_empty())
            || whole.limits.as_ref().is_some_and(|m| !m.is_empty()))
    {
        return qos(std::iter::once(compute(Some(whole))));
    }
    let all = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    qos(all.map(|c| compute(c.resources.as_ref())))
}

/// The pod's phase; empty before it has one.
pub fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or_default()
}

/// Succeeded or failed: it will never run again.
pub fn is_terminal(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// Neither finished nor being deleted.
pub fn is_active(pod: &Pod) -> bool {
    !is_terminal(pod) && pod.metadata.deletion_timestamp.is_none()
}

pub fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.as_ref()?.iter().find(|c| c.type_ == kind)
}

pub fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|c| c.status == "True")
}

/// Ready for at least that many seconds.
pub fn is_available(pod: &Pod, min_ready_seconds: i32, now: jiff::Timestamp) -> bool {
    let Some(ready) = condition(pod, "Ready").filter(|c| c.status == "True") else { return false };
    if min_ready_seconds <= 0 {
        return true;
    }
    let since = ready.last_transition_time.as_ref().map(|t| t.0);
    since.is_some_and(|t| now.as_second() - t.as_second() >= i64::from(min_ready_seconds))
}

/// Keeps running beside the main containers.
pub fn is_sidecar(init_container: &Container) -> bool {
    init_container.restart_policy.as_deref() == Some("Always")
}

/// A pod that a file on the node made, not the API server.
pub fn is_mirror(pod: &Pod) -> bool {
    pod.metadata.annotations.as_ref().is_some_and(|a| a.contains_key("kubernetes.io/config.mirror"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::json;

    fn pod(spec: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {}, "spec": spec})).unwrap()
    }

    #[test]
    fn classes() {
        let both =
            json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m", "memory": "1Gi"}});
        for (resources, want) in [
            (json!({}), BEST_EFFORT),
            (both.clone(), GUARANTEED),
            (json!({"requests": {"cpu": "1"}}), BURSTABLE),
            (json!({"requests": {"nvidia.com/gpu": "1"}}), BEST_EFFORT),
            (
                json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1", "memory": "1Mi"}}),
                BURSTABLE,
            ),
        ] {
            let spec = json!({"containers": [{"name": "a", "resources": resources}]});
            assert_eq!(qos_of_spec(&spec), want, "{spec}");
            assert_eq!(qos_class(&pod(spec)), want);
        }
        let mixed = json!({"containers": [{"name": "a", "resources": both}, {"name": "b"}]});
        assert_eq!(qos_of_spec(&mixed), BURSTABLE);
    }

    #[test]
    fn sums() {
        let p = pod(json!({
            "containers": [{"name": "a", "resources": {"requests": {"cpu": "100m"}}}],
            "initContainers": [
                {"name": "i", "resources": {"requests": {"cpu": "250m"}}},
                {"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": "50m"}}},
                {"name": "j", "resources": {"requests": {"cpu": "300m"}}},
            ],
            "overhead": {"cpu": "10m"},
        }));
        assert_eq!(milli(requests(&p)["cpu"]), 360);
    }

    #[test]
    fn texts() {
        for (amount, binary, want) in [
            (ONE * 1024, true, "1Ki"),
            (ONE / 10, false, "100m"),
            (ONE * 1500, false, "1500"),
            (ONE * 2000, false, "2k"),
        ] {
            assert_eq!(quantity_text(amount, binary), want);
        }
    }
}
