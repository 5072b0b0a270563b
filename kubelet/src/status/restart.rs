//! A pod of which all containers begin anew, and the count of restarts.

use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus, Pod,
    PodStatus,
};

use crate::model::{self, PodState, State};
use crate::pod::{PodExt, RESTART_ALL, restart_rule};

/// The reason of containers that others' end takes along.
pub const REASON: &str = "RestartingAllContainers";
/// The condition of a pod whose containers are being removed to begin anew.
pub const CONDITION: &str = "AllContainersRestarting";

/// Whether a container's end asks for all to begin anew, or that is under way.
pub fn is_due(pod: &Pod, state: &PodState, old: &PodStatus) -> bool {
    if is_under_way(old) {
        return true;
    }
    let mut containers = pod.spec().containers.iter().chain(pod.init_containers());
    containers.any(|spec| {
        // What the runtime does not know any more has been removed for that already.
        let ended = state.find(&spec.name).filter(|c| c.state == State::Exited);
        ended.is_some_and(|c| restart_rule(spec, c.exit_code) == Some(RESTART_ALL))
    })
}

/// Whether a status says that all begin anew.
pub fn is_under_way(status: &PodStatus) -> bool {
    status.conditions.iter().flatten().any(|c| c.type_ == CONDITION && c.status == "True")
}

/// Whether nothing is left of the containers before.
pub fn is_cleared(pod: &Pod, state: &PodState) -> bool {
    let mut containers = pod.spec().containers.iter().chain(pod.init_containers());
    containers.all(|c| state.find(&c.name).is_none())
}

/// Whether the container has been more than a plan.
pub fn was_seen(old: &ContainerStatus) -> bool {
    old.state.as_ref().is_some_and(|s| s.waiting.is_none())
}

/// The status of a container that was removed so that all begin anew.
pub fn without_container(spec: &Container, old: &ContainerStatus) -> ContainerStatus {
    let message = "The container is removed because RestartAllContainers in place";
    ContainerStatus {
        name: spec.name.clone(),
        image: spec.image.clone().unwrap_or_default(),
        restart_count: old.restart_count + 1,
        state: Some(ContainerState {
            waiting: Some(ContainerStateWaiting {
                reason: Some(REASON.into()),
                message: Some(message.into()),
            }),
            ..Default::default()
        }),
        last_state: Some(ContainerState {
            terminated: Some(ContainerStateTerminated {
                reason: Some(REASON.into()),
                message: Some(message.into()),
                exit_code: 137,
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// How often a container was restarted: what its marks say, and never less than was said before.
pub fn count(container: &model::Container, old: Option<&ContainerStatus>) -> i32 {
    let marked = i32::try_from(container.marks.restart_count).unwrap_or(i32::MAX);
    let Some(old) = old else { return marked };
    let ended = old.state.as_ref().is_some_and(|s| s.terminated.is_some());
    match container.state {
        // The run before was removed before this one was made.
        State::Running if ended && old.restart_count >= marked => old.restart_count + 1,
        State::Unknown if old.state.as_ref().is_some_and(|s| s.running.is_some()) => old.restart_count + 1,
        _ => marked.max(old.restart_count),
    }
}

/// How the run before the one with `id` ended, as far as was said before.
pub fn last_state(id: &str, old: Option<&ContainerStatus>) -> ContainerState {
    let Some(old) = old else { return ContainerState::default() };
    let ended = old.state.as_ref().and_then(|s| s.terminated.clone());
    let other = old.container_id.as_deref() != Some(id);
    let before = old.last_state.as_ref().and_then(|s| s.terminated.clone());
    ContainerState { terminated: ended.filter(|_| other).or(before), ..Default::default() }
}
