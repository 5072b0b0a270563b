//! Gives running containers the resources that their pod was granted.
//!
//! A pod's cgroup must never be narrower than its containers: it is widened before them and narrowed after them, and
//! those that get less come before those that get more.

use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::Worker;
use crate::actions::resize::{Numbers, Resize};
use crate::allocation::{self, resize};
use crate::cgroups::resize::Resource;
use crate::model::State;
use crate::pod::PodExt;

impl Worker {
    /// Says how a resize stands: under way as long as a running container lacks what it was granted.
    pub(super) fn note_resize(&self, pod: &Pod) {
        let allocations = &self.kubelet.allocations;
        if allocations.differs(pod) {
            // More was granted since this look at the pod began: the next one sees it.
            return;
        }
        let actuated = allocations.actuated(&self.uid);
        let lacks = |c: &Container| {
            let running = self.state.find(&c.name).is_some_and(|s| s.state == State::Running);
            let has = actuated.containers.get(&c.name);
            running
                && has.is_some_and(|has| {
                    Numbers::of(Some(has), None) != Numbers::of(c.resources.as_ref(), None)
                })
        };
        let mut containers = pod.spec().containers.iter().chain(pod.init_containers());
        let empty = ResourceRequirements::default();
        let own = pod.spec().resources.as_ref().unwrap_or(&empty);
        let pod_lacks = actuated.pod.as_ref().is_some_and(|has| !allocation::same(has, own));
        if containers.any(lacks) || pod_lacks {
            allocations.set_in_progress(pod, None);
        } else if let Some(generation) = allocations.clear_in_progress(&self.uid) {
            let told = resize::summary(pod, generation, None);
            self.kubelet.events.pod(
                pod,
                "Normal",
                "ResizeCompleted",
                &format!("Pod resize completed: {told}"),
            );
            resize::retry(&self.kubelet, "pod_resized");
        }
    }

    /// Resizes containers in place. What failed is told, and tried again later.
    pub(super) async fn resize(&mut self, pod: &Pod, plan: &[Resize]) -> bool {
        let began = std::time::Instant::now();
        let done = self.try_resize(pod, plan).await;
        crate::metrics::resizes::actuated(done.is_ok(), began);
        for resize in plan {
            // What the runtime said of it before is out of date.
            self.state.containers.retain(|c| c.id != resize.id);
        }
        let Err(message) = done else { return true };
        tracing::warn!(pod = pod.formatted(), message, "Pod resize failed");
        if let Some(generation) = self.kubelet.allocations.set_in_progress(pod, Some(&message)) {
            let told = resize::summary(pod, generation, Some(&message));
            self.kubelet.events.pod(pod, "Warning", "ResizeError", &format!("Pod resize error: {told}"));
        }
        false
    }

    async fn try_resize(&self, pod: &Pod, plan: &[Resize]) -> Result<(), String> {
        self.check_usage(plan).await?;
        let mut reached: Vec<Numbers> = plan.iter().map(|r| r.now).collect();
        for resource in [Resource::Memory, Resource::Cpu] {
            self.kubelet.cgroups.widen(pod, resource)?;
            let mut order: Vec<usize> = (0..plan.len()).collect();
            order.sort_by_key(|i| growth(&plan[*i], resource));
            for index in order {
                let resize = &plan[index];
                let next = step(reached[index], resize.wanted, resource);
                if next != reached[index] {
                    self.give(pod, resize, next).await?;
                    reached[index] = next;
                }
            }
            self.kubelet.cgroups.narrow(pod, resource)?;
        }
        self.kubelet.allocations.set_pod_actuated(pod);
        Ok(())
    }

    async fn give(&self, pod: &Pod, resize: &Resize, numbers: Numbers) -> Result<(), String> {
        let Some((_, mut container)) = pod.find_container(&resize.name) else { return Ok(()) };
        let own = container.resources.clone().unwrap_or_default();
        let complete = numbers == resize.wanted;
        container.resources = Some(requirements(numbers));
        let settings = crate::resources::of_container(pod, &container, &self.kubelet.node_resources);
        let updated = self.kubelet.runtime.update_container_resources(&resize.id, settings).await;
        updated.map_err(|error| error.to_string())?;
        let given = if complete { own } else { requirements(numbers) };
        self.kubelet.allocations.set_actuated(&self.uid, &resize.name, &given);
        Ok(())
    }

    /// A memory limit below what is used would only make the kernel kill.
    async fn check_usage(&self, plan: &[Resize]) -> Result<(), String> {
        let mut errors = Vec::new();
        let shrinks = |r: &&Resize| {
            r.wanted.memory_limit > 0
                && (r.now.memory_limit == 0 || r.wanted.memory_limit < r.now.memory_limit)
        };
        for resize in plan.iter().filter(shrinks) {
            let (name, limit) = (&resize.name, resize.wanted.memory_limit);
            let stats = self.kubelet.runtime.container_stats(&resize.id).await.map_err(|e| e.to_string())?;
            let memory = stats.and_then(|s| s.memory);
            let usage = memory.and_then(|m| m.usage_bytes.or(m.working_set_bytes));
            match usage.map(|u| u.value) {
                None => errors.push(format!("missing container {name:?} memory usage")),
                Some(used) if i128::from(used) >= i128::from(limit) => errors.push(format!(
                    "attempting to set container {name:?} memory limit ({limit}) below current usage ({used})"
                )),
                Some(_) => {}
            }
        }
        match errors.len() {
            0 => Ok(()),
            1 => Err(errors.remove(0)),
            _ => Err(format!("[{}]", errors.join(", "))),
        }
    }
}

/// The numbers with one resource's wanted ones.
fn step(now: Numbers, wanted: Numbers, resource: Resource) -> Numbers {
    match resource {
        Resource::Memory => {
            Numbers { memory_request: wanted.memory_request, memory_limit: wanted.memory_limit, ..now }
        }
        Resource::Cpu => Numbers { cpu_request: wanted.cpu_request, cpu_limit: wanted.cpu_limit, ..now },
    }
}

/// How much a container's limit grows; none is more than any.
fn growth(resize: &Resize, resource: Resource) -> i64 {
    let of = |n: Numbers| match resource {
        Resource::Memory => n.memory_limit,
        Resource::Cpu => n.cpu_limit,
    };
    let or_max = |limit: i64| if limit == 0 { i64::MAX } else { limit };
    or_max(of(resize.wanted)).saturating_sub(or_max(of(resize.now)))
}

fn requirements(numbers: Numbers) -> ResourceRequirements {
    let list = |cpu: i64, memory: i64| {
        let cpu = (cpu > 0).then(|| ("cpu".to_string(), Quantity(format!("{cpu}m"))));
        let memory = (memory > 0).then(|| ("memory".to_string(), Quantity(memory.to_string())));
        Some(cpu.into_iter().chain(memory).collect())
    };
    ResourceRequirements {
        requests: list(numbers.cpu_request, numbers.memory_request),
        limits: list(numbers.cpu_limit, numbers.memory_limit),
        claims: None,
    }
}
