//! Room for a critical pod: which others have to go, as few and as unimportant ones as will do.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use super::Shortage;
use crate::pod::{self, PodExt};

/// What still has to be freed.
type Needs = Vec<(String, i64)>;

/// The pods that must end for `pod` to fit.
pub fn victims(pod: &Pod, active: &[Arc<Pod>], short: &[Shortage]) -> Result<Vec<Arc<Pod>>, String> {
    let needs: Needs = short.iter().map(|s| (s.resource.clone(), s.missing())).collect();
    if needs.is_empty() {
        return Ok(Vec::new());
    }
    let class = |name: &str| -> Vec<Arc<Pod>> {
        let may = |p: &&Arc<Pod>| is_preemptable(pod, p) && pod::qos(p) == name;
        active.iter().filter(may).cloned().collect()
    };
    let (best_effort, burstable, guaranteed) = (class("BestEffort"), class("Burstable"), class("Guaranteed"));
    let all = [best_effort.clone(), burstable.clone(), guaranteed.clone()].concat();
    let unmet = without(&needs, &all);
    if !unmet.is_empty() {
        let told = nothing_found(&unmet);
        return Err(format!("preemption: error finding a set of pods to preempt: {told}"));
    }
    // The better classes give only what the lesser ones together cannot.
    let top = choose(guaranteed, without(&needs, &[best_effort.clone(), burstable.clone()].concat()))?;
    let middle = choose(burstable, without(&needs, &[best_effort.clone(), top.clone()].concat()))?;
    let low = choose(best_effort, without(&needs, &[middle.clone(), top.clone()].concat()))?;
    Ok([low, middle, top].concat())
}

fn is_preemptable(by: &Pod, pod: &Pod) -> bool {
    if by.is_critical() && !pod.is_critical() {
        return true;
    }
    let priority = |p: &Pod| p.spec().priority;
    !pod.is_static() && matches!((priority(by), priority(pod)), (Some(a), Some(b)) if a > b)
}

fn nothing_found(needs: &Needs) -> String {
    let list: String = needs.iter().map(|(name, n)| format!("(res: {name}, q: {n}), ")).collect();
    format!("no set of running pods found to reclaim resources: [{list}]")
}

fn request(pod: &Pod, resource: &str) -> i64 {
    match resource {
        "pods" => 1,
        "cpu" => pod::request_milli(pod, resource),
        _ => pod::request_milli(pod, resource) / 1000,
    }
}

/// What is left to free when these pods are gone.
fn without(needs: &Needs, pods: &[Arc<Pod>]) -> Needs {
    let left = |(name, n): &(String, i64)| {
        let freed: i64 = pods.iter().map(|p| request(p, name)).sum();
        (*n > freed).then(|| (name.clone(), n - freed))
    };
    needs.iter().filter_map(left).collect()
}

/// Takes the pod that comes closest to what is needed, until nothing is.
fn choose(mut from: Vec<Arc<Pod>>, mut needs: Needs) -> Result<Vec<Arc<Pod>>, String> {
    let mut chosen = Vec::new();
    while !needs.is_empty() {
        let distance = |p: &Pod| -> f64 {
            let of = |(name, n): &(String, i64)| {
                let rest = (*n - request(p, name)).max(0) as f64 / *n as f64;
                rest * rest
            };
            needs.iter().map(of).sum()
        };
        let size = |p: &Pod| (request(p, "memory"), request(p, "cpu"));
        let best = (0..from.len()).min_by(|a, b| {
            distance(&from[*a])
                .total_cmp(&distance(&from[*b]))
                .then_with(|| size(&from[*a]).cmp(&size(&from[*b])))
        });
        let Some(best) = best else { return Err(nothing_found(&needs)) };
        let pod = from.swap_remove(best);
        needs = without(&needs, std::slice::from_ref(&pod));
        chosen.push(pod);
    }
    Ok(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(name: &str, priority: i32, cpu: &str) -> Arc<Pod> {
        let requests = if cpu.is_empty() { json!({}) } else { json!({"requests": {"cpu": cpu}}) };
        Arc::new(
            serde_json::from_value(json!({"metadata": {"name": name, "uid": name},
                "spec": {"priority": priority, "containers": [{"name": "c", "resources": requests}]}}))
            .unwrap(),
        )
    }

    #[test]
    fn as_few_as_will_do() {
        let critical = pod("critical", 2_000_001_000, "1");
        let all = [pod("small", 0, "200m"), pod("fits", 0, "600m"), pod("large", 0, "2"), pod("none", 0, "")];
        let short = |cpu, pods| {
            let shortage = |resource: &str, missing| Shortage {
                resource: resource.into(),
                requested: missing,
                used: 0,
                capacity: 0,
            };
            let both = [shortage("cpu", cpu), shortage("pods", pods)];
            both.into_iter().filter(|s| s.missing() > 0).collect::<Vec<_>>()
        };
        for (cpu, pods, expected) in [
            (500, 0, Some(vec!["fits"])),
            (0, 1, Some(vec!["none"])),
            (2700, 0, Some(vec!["large", "fits", "small"])),
            (0, 0, Some(vec![])),
            (9000, 0, None),
        ] {
            let got = victims(&critical, &all, &short(cpu, pods)).ok();
            let names = got.map(|list| list.iter().map(|p| p.name().to_string()).collect::<Vec<_>>());
            assert_eq!(names, expected.map(|l| l.into_iter().map(String::from).collect()), "{cpu} {pods}");
        }
    }
}
