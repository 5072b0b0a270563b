//! What a container's resources have to become, and whether it can run on meanwhile.

use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use volumes::quantity::{get, get_milli};

use super::{Cause, Kill};
use crate::allocation::PodResources;
use crate::model::{self, State};
use crate::pod::PodExt;

/// CPU in thousandths and memory in bytes; zero is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Numbers {
    pub cpu_request: i64,
    pub cpu_limit: i64,
    pub memory_request: i64,
    pub memory_limit: i64,
}

impl Numbers {
    /// Those of a container; where it has no limit that of its pod holds.
    pub fn of(own: Option<&ResourceRequirements>, pod: Option<&ResourceRequirements>) -> Self {
        let requests = own.and_then(|r| r.requests.as_ref());
        let limits = own.and_then(|r| r.limits.as_ref());
        let above = pod.and_then(|r| r.limits.as_ref());
        Self {
            cpu_request: get_milli(requests, "cpu").unwrap_or(0),
            cpu_limit: get_milli(limits, "cpu").or_else(|| get_milli(above, "cpu")).unwrap_or(0),
            memory_request: get(requests, "memory").unwrap_or(0),
            memory_limit: get(limits, "memory").or_else(|| get(above, "memory")).unwrap_or(0),
        }
    }
}

/// A container that runs on with other resources.
#[derive(Debug, Clone, PartialEq)]
pub struct Resize {
    pub id: String,
    pub name: String,
    pub now: Numbers,
    pub wanted: Numbers,
}

/// How a container gets other resources.
pub enum Change {
    InPlace(Resize),
    /// Its policy is to end and start again.
    Restart(Kill),
}

impl Change {
    /// The resize of a container that runs on.
    pub fn in_place(self) -> Option<Resize> {
        match self {
            Self::InPlace(resize) => Some(resize),
            Self::Restart(_) => None,
        }
    }
}

/// What is to be done for a running container to have what it was granted; `None` if it has.
pub fn change(
    pod: &Pod,
    container: &Container,
    status: &model::Container,
    actuated: &PodResources,
) -> Option<Change> {
    if status.state != State::Running {
        return None;
    }
    // One of which nobody noted what it got was made with what its spec says.
    let has = actuated.containers.get(&container.name)?;
    let now = Numbers::of(Some(has), actuated.pod.as_ref());
    let wanted = Numbers::of(container.resources.as_ref(), pod.spec().resources.as_ref());
    if now == wanted {
        return None;
    }
    let restarts = |resource: &str| {
        let mut policies = container.resize_policy.iter().flatten();
        policies.any(|p| p.resource_name == resource && p.restart_policy == "RestartContainer")
    };
    let cpu = now.cpu_request != wanted.cpu_request || now.cpu_limit != wanted.cpu_limit;
    let memory = now.memory_request != wanted.memory_request || now.memory_limit != wanted.memory_limit;
    let (id, name) = (status.id.clone(), container.name.clone());
    if (cpu && restarts("cpu")) || (memory && restarts("memory")) {
        let message = format!("Container {name} resize requires restart");
        return Some(Change::Restart(Kill { id, name, message, cause: Cause::Other }));
    }
    Some(Change::InPlace(Resize { id, name, now, wanted }))
}
