//! Sums of resources: what a pod requests and what a node offers.

use api::quantity::Quantity as Exact;
use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use std::collections::BTreeMap;

pub type ResourceList = BTreeMap<String, Quantity>;

/// What a container without a request is counted as when nodes are scored (never when they are filtered).
pub const DEFAULT_MILLI_CPU: i64 = 100;
pub const DEFAULT_MEMORY: i64 = 200 * 1024 * 1024;

/// An amount of every resource: CPU in thousandths, everything else in units or bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    pub milli_cpu: i64,
    pub memory: i64,
    pub ephemeral_storage: i64,
    pub scalar: BTreeMap<String, i64>,
}

/// The value in the resource's counting unit; unreadable quantities count as nothing.
pub fn amount(name: &str, quantity: &Quantity) -> i64 {
    let exact = Exact::parse(&quantity.0).unwrap_or_else(|_| Exact::of(None));
    if name == "cpu" { exact.milli_value() } else { exact.value() }
}

impl Resources {
    pub fn of(list: &ResourceList) -> Resources {
        let mut r = Resources::default();
        r.add_list(list);
        r
    }

    pub fn get(&self, name: &str) -> i64 {
        match name {
            "cpu" => self.milli_cpu,
            "memory" => self.memory,
            "ephemeral-storage" => self.ephemeral_storage,
            other => self.scalar.get(other).copied().unwrap_or(0),
        }
    }

    fn slot(&mut self, name: &str) -> &mut i64 {
        match name {
            "cpu" => &mut self.milli_cpu,
            "memory" => &mut self.memory,
            "ephemeral-storage" => &mut self.ephemeral_storage,
            other => self.scalar.entry(other.to_owned()).or_insert(0),
        }
    }

    pub fn set(&mut self, name: &str, value: i64) {
        *self.slot(name) = value;
    }

    pub fn add_list(&mut self, list: &ResourceList) {
        for (name, quantity) in list {
            let slot = self.slot(name);
            *slot = slot.saturating_add(amount(name, quantity));
        }
    }

    pub fn add(&mut self, other: &Resources) {
        self.combine(other, i64::saturating_add);
    }

    pub fn sub(&mut self, other: &Resources) {
        self.combine(other, i64::saturating_sub);
    }

    /// The larger of both, resource by resource.
    pub fn max(&mut self, other: &Resources) {
        self.combine(other, i64::max);
    }

    fn combine(&mut self, other: &Resources, f: impl Fn(i64, i64) -> i64) {
        self.milli_cpu = f(self.milli_cpu, other.milli_cpu);
        self.memory = f(self.memory, other.memory);
        self.ephemeral_storage = f(self.ephemeral_storage, other.ephemeral_storage);
        for (name, value) in &other.scalar {
            let slot = self.scalar.entry(name.clone()).or_insert(0);
            *slot = f(*slot, *value);
        }
    }

    pub fn is_zero(&self) -> bool {
        self.milli_cpu == 0
            && self.memory == 0
            && self.ephemeral_storage == 0
            && self.scalar.values().all(|v| *v == 0)
    }
}

/// Runs beside the containers for the pod's whole life.
pub fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// What the pod requests, as it is counted against a node.
pub fn pod_requests(pod: &Pod) -> Resources {
    requests_with(pod, |_, r| r)
}

/// As [`pod_requests`], with a minimum for containers that request no CPU or memory.
pub fn pod_requests_non_zero(pod: &Pod) -> Resources {
    requests_with(pod, |explicit, mut r| {
        if !explicit.contains_key("cpu") {
            r.milli_cpu = DEFAULT_MILLI_CPU;
        }
        if !explicit.contains_key("memory") {
            r.memory = DEFAULT_MEMORY;
        }
        r
    })
}

fn requests_with(pod: &Pod, adjust: impl Fn(&ResourceList, Resources) -> Resources) -> Resources {
    let Some(spec) = &pod.spec else { return Resources::default() };
    let statuses = pod.status.as_ref();
    let of = |c: &Container, reported: Option<&Vec<ContainerStatus>>| {
        let empty = ResourceList::new();
        let explicit = c.resources.as_ref().and_then(|r| r.requests.as_ref()).unwrap_or(&empty);
        let mut r = Resources::of(explicit);
        // During an in-place resize the larger of the wanted and the still allocated amount is taken.
        let status = reported.and_then(|s| s.iter().find(|s| s.name == c.name));
        if let Some(allocated) = status.and_then(|s| s.allocated_resources.as_ref()) {
            r.max(&Resources::of(allocated));
        }
        adjust(explicit, r)
    };
    let mut running = Resources::default();
    for c in &spec.containers {
        running.add(&of(c, statuses.and_then(|s| s.container_statuses.as_ref())));
    }
    let mut sidecars = Resources::default();
    let mut starting = Resources::default();
    for c in spec.init_containers.iter().flatten() {
        let mut own = of(c, statuses.and_then(|s| s.init_container_statuses.as_ref()));
        if is_sidecar(c) {
            running.add(&own);
            sidecars.add(&own);
            starting.max(&sidecars);
        } else {
            own.add(&sidecars);
            starting.max(&own);
        }
    }
    running.max(&starting);
    pod_level(spec.resources.as_ref(), &mut running);
    if let Some(overhead) = &spec.overhead {
        running.add_list(overhead);
    }
    running
}

/// Requests of the pod as a whole replace the sums of its containers.
fn pod_level(resources: Option<&ResourceRequirements>, sum: &mut Resources) {
    for (name, quantity) in resources.and_then(|r| r.requests.as_ref()).into_iter().flatten() {
        if name == "cpu" || name == "memory" || name.starts_with("hugepages-") {
            sum.set(name, amount(name, quantity));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::PodSpec;

    fn container(name: &str, cpu: &str, always: bool) -> Container {
        let requests = (!cpu.is_empty()).then(|| [("cpu".to_owned(), Quantity(cpu.to_owned()))].into());
        Container {
            name: name.into(),
            restart_policy: always.then(|| "Always".to_owned()),
            resources: Some(ResourceRequirements { requests, ..Default::default() }),
            ..Default::default()
        }
    }

    fn cpu(containers: Vec<Container>, init: Vec<Container>) -> i64 {
        let spec = PodSpec { containers, init_containers: Some(init), ..Default::default() };
        pod_requests(&Pod { spec: Some(spec), ..Default::default() }).milli_cpu
    }

    #[test]
    fn init_containers_count_by_their_peak() {
        assert_eq!(cpu(vec![container("a", "100m", false), container("b", "1", false)], vec![]), 1100);
        assert_eq!(cpu(vec![container("a", "100m", false)], vec![container("i", "2", false)]), 2000);
        let sidecar_first = vec![container("s", "500m", true), container("i", "2", false)];
        assert_eq!(cpu(vec![container("a", "100m", false)], sidecar_first), 2500);
        let sidecar_last = vec![container("i", "2", false), container("s", "500m", true)];
        assert_eq!(cpu(vec![container("a", "1600m", false)], sidecar_last), 2100);
    }

    #[test]
    fn pod_level_requests_and_overhead() {
        let mut pod = Pod {
            spec: Some(PodSpec { containers: vec![container("a", "100m", false)], ..Default::default() }),
            ..Default::default()
        };
        if let Some(spec) = pod.spec.as_mut() {
            spec.overhead = Some([("cpu".to_owned(), Quantity("50m".into()))].into());
            spec.resources = Some(ResourceRequirements {
                requests: Some([("cpu".to_owned(), Quantity("1".into()))].into()),
                ..Default::default()
            });
        }
        assert_eq!(pod_requests(&pod).milli_cpu, 1050);
        assert_eq!(pod_requests_non_zero(&pod).memory, DEFAULT_MEMORY);
    }
}
