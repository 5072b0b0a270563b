//! The status of a pod: a pure function of its spec, its containers, what probes say and what was said before.

use std::collections::{BTreeMap, HashSet};

use cri::v1::Signal;
use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
    ContainerStatus, ContainerUser, HostIP, LinuxContainerUser, Pod, PodCondition, PodIP, PodStatus,
    VolumeMountStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::actions::needs_restart;
use crate::allocation::PodResources;
use crate::images::Waiting;
use crate::model::{self, PodState, State};
use crate::pod::{self, Kind, PodExt, is_sidecar};

mod conditions;
pub mod manager;
mod phase;
mod resources;
pub mod restart;

pub use phase::phase;

/// What probes say of a container that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Health {
    /// Its startup probe has succeeded, or it has none.
    pub started: bool,
    /// Its readiness probe succeeds, or it has none.
    pub ready: bool,
}

/// What the status is computed from.
pub struct Inputs<'a> {
    pub pod: &'a Pod,
    pub state: &'a PodState,
    /// The status given out last, or the apiserver's.
    pub old: &'a PodStatus,
    /// Why containers could not be started.
    pub waiting: &'a BTreeMap<String, Waiting>,
    /// The health of a running container, by its spec and id.
    pub health: &'a dyn Fn(&Container, &str) -> Health,
    /// The runtime's name, the scheme of container ids.
    pub runtime: &'a str,
    /// Addresses of the node.
    pub host_ips: &'a [String],
    /// The pod will never run again.
    pub terminal: bool,
    /// A phase, reason and message that override all else (eviction, deadline).
    pub verdict: Option<&'a Verdict>,
    /// Conditions to add, such as `DisruptionTarget`.
    pub extra_conditions: &'a [PodCondition],
    /// How a resize stands.
    pub resize_conditions: &'a [PodCondition],
    /// The resources that the containers have in fact.
    pub actuated: &'a PodResources,
    /// The runtime's class mounts read-only recursively.
    pub recursive_read_only: bool,
}

/// The end of a pod by decree.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    pub reason: String,
    pub message: String,
}

/// Computes the status.
pub fn generate(inputs: &Inputs<'_>) -> PodStatus {
    let pod = inputs.pod;
    let init = inputs.pod.init_containers().to_vec();
    let ephemeral: Vec<Container> =
        pod.spec().ephemeral_containers.iter().flatten().map(pod::ephemeral).collect();
    let mut main_statuses =
        statuses(inputs, &pod.spec().containers, inputs.old.container_statuses.as_deref(), Kind::Main);
    let mut init_statuses =
        statuses(inputs, &init, inputs.old.init_container_statuses.as_deref(), Kind::Init);
    let mut ephemeral_statuses =
        statuses(inputs, &ephemeral, inputs.old.ephemeral_container_statuses.as_deref(), Kind::Ephemeral);
    apply_health(inputs, &mut main_statuses, &mut init_statuses);
    let unsettled = (main_statuses.clone(), init_statuses.clone());
    if inputs.terminal {
        settle(pod, &mut main_statuses, &mut init_statuses);
    }
    main_statuses.sort_by(|a, b| a.name.cmp(&b.name));
    ephemeral_statuses.sort_by(|a, b| a.name.cmp(&b.name));
    let mut status = PodStatus {
        qos_class: Some(pod::qos(pod).into()),
        observed_generation: pod.metadata.generation,
        start_time: inputs.old.start_time.clone().or_else(|| Some(now())),
        ..Default::default()
    };
    status.phase = Some(decide_phase(inputs, &mut status, &unsettled.0, &unsettled.1));
    conditions::set(inputs, &mut status, &main_statuses, &init_statuses);
    addresses(inputs, &mut status);
    resources::of_pod(inputs, &mut status);
    let some = |list: Vec<ContainerStatus>| (!list.is_empty()).then_some(list);
    status.container_statuses = some(main_statuses);
    status.init_container_statuses = some(init_statuses);
    status.ephemeral_container_statuses = some(ephemeral_statuses);
    // What others write is left as it is.
    status.nominated_node_name = inputs.old.nominated_node_name.clone();
    status.resource_claim_statuses = inputs.old.resource_claim_statuses.clone();
    status
}

/// Nothing of a pod runs any more: containers of which no end is known have ended somehow. Those that had never had
/// their turn go on waiting.
fn settle(pod: &Pod, main: &mut [ContainerStatus], init: &mut [ContainerStatus]) {
    fn waits(status: &ContainerStatus) -> bool {
        let state = status.state.as_ref();
        state.is_none_or(|s| s.running.is_none() && s.terminated.is_none())
    }
    fn end(status: &mut ContainerStatus) {
        if status.state.as_ref().is_none_or(|s| s.terminated.is_none()) {
            let message = "The container could not be located when the pod was terminated";
            status.state = Some(terminated("ContainerStatusUnknown", message, 137));
        }
    }
    let began = |status: &ContainerStatus| {
        !waits(status) || status.last_state.as_ref().is_some_and(|s| s.terminated.is_some())
    };
    let ended_well = |status: &ContainerStatus| {
        let states = [status.state.as_ref(), status.last_state.as_ref()];
        states.into_iter().flatten().any(|s| s.terminated.as_ref().is_some_and(|t| t.exit_code == 0))
    };
    let last = pod.init_containers().last();
    let initialized = last.is_none_or(|spec| {
        let status = init.iter().find(|s| s.name == spec.name);
        let done = |s: &ContainerStatus| match pod::is_sidecar(spec) {
            true => s.started == Some(true),
            false => ended_well(s),
        };
        status.is_some_and(done)
    });
    if initialized || main.iter().any(began) {
        main.iter_mut().for_each(end);
    }
    let turns = init.iter().rposition(|s| !waits(s)).map_or(1, |last| last + 1);
    init.iter_mut().take(turns).for_each(end);
}

/// The status of a pod that was not let in.
pub fn rejected(pod: &Pod, verdict: &Verdict) -> PodStatus {
    PodStatus {
        phase: Some("Failed".into()),
        reason: Some(verdict.reason.clone()),
        message: Some(format!("Pod was rejected: {}", verdict.message)),
        qos_class: Some(pod::qos(pod).into()),
        observed_generation: pod.metadata.generation,
        start_time: pod.status.as_ref().and_then(|s| s.start_time.clone()).or_else(|| Some(now())),
        ..Default::default()
    }
}

/// The present time, to the second as the API has it.
pub fn now() -> Time {
    let now = jiff::Timestamp::now();
    Time(jiff::Timestamp::from_second(now.as_second()).unwrap_or(now))
}

fn nanos(nanos: i64) -> Option<Time> {
    jiff::Timestamp::from_second(nanos.div_euclid(1_000_000_000)).ok().map(Time)
}

fn decide_phase(
    inputs: &Inputs<'_>,
    status: &mut PodStatus,
    main: &[ContainerStatus],
    init: &[ContainerStatus],
) -> String {
    let is_end = |phase: &str| matches!(phase, "Succeeded" | "Failed");
    let mut phase = phase(inputs, main, init).to_string();
    // As long as anything may run the pod has not failed yet: whoever waits for its end counts on what it held.
    if let Some(verdict) = inputs.verdict.filter(|_| inputs.terminal || inputs.pod.is_terminal()) {
        let exceeded = verdict.reason == "DeadlineExceeded";
        if inputs.terminal && phase == "Succeeded" && !exceeded && !inputs.pod.is_terminal() {
            // It was told to end, and ended well.
            return phase;
        }
        status.reason = Some(verdict.reason.clone());
        status.message = Some(verdict.message.clone());
        if inputs.pod.is_terminal() {
            return inputs.pod.phase().into();
        }
        return "Failed".into();
    }
    let old = inputs.old.phase.as_deref().unwrap_or_default();
    let known = inputs.pod.phase();
    if !is_end(&phase) {
        // An end is the end.
        if let Some(end) = [old, known].into_iter().find(|p| is_end(p)) {
            phase = end.to_string();
        }
    }
    if is_end(known) {
        phase = known.to_string();
    }
    if inputs.terminal && !inputs.pod.is_static() && !is_end(&phase) {
        // Nothing of it runs any more, and nothing of it will.
        phase = "Failed".into();
    }
    if phase == old {
        status.reason = inputs.old.reason.clone();
        status.message = inputs.old.message.clone();
    }
    phase
}

fn addresses(inputs: &Inputs<'_>, status: &mut PodStatus) {
    let host = inputs.host_ips;
    status.host_ip = host.first().cloned();
    let host_list: Vec<HostIP> = host.iter().map(|ip| HostIP { ip: ip.clone() }).collect();
    status.host_ips = (!host_list.is_empty()).then_some(host_list);
    let mut ips = inputs.state.ips().to_vec();
    if ips.is_empty() && !inputs.state.sandboxes.iter().any(|s| s.ready) {
        // A pod that ended keeps the address it had.
        ips = inputs.old.pod_ips.iter().flatten().map(|ip| ip.ip.clone()).collect();
    }
    if inputs.pod.host_network() {
        ips = host.to_vec();
    }
    if ips.is_empty() {
        return;
    }
    status.pod_ip = ips.first().cloned();
    status.pod_ips = Some(ips.into_iter().map(|ip| PodIP { ip }).collect());
}

/// The statuses of containers of one kind, in the order of the spec.
fn statuses(
    inputs: &Inputs<'_>,
    specs: &[Container],
    old: Option<&[ContainerStatus]>,
    kind: Kind,
) -> Vec<ContainerStatus> {
    let old: BTreeMap<&str, &ContainerStatus> =
        old.unwrap_or_default().iter().map(|s| (s.name.as_str(), s)).collect();
    let restarting = restart::is_due(inputs.pod, inputs.state, inputs.old);
    let one =
        |spec: &Container| one_status(inputs, spec, old.get(spec.name.as_str()).copied(), kind, restarting);
    specs.iter().map(one).collect()
}

fn one_status(
    inputs: &Inputs<'_>,
    spec: &Container,
    old: Option<&ContainerStatus>,
    kind: Kind,
    restarting: bool,
) -> ContainerStatus {
    let runs: Vec<&model::Container> =
        inputs.state.containers.iter().filter(|c| c.name == spec.name).take(2).collect();
    let mut status = match runs.first() {
        Some(newest) => from_runtime(inputs, spec, newest, old),
        None => match old.filter(|old| restarting && restart::was_seen(old)) {
            Some(old) => restart::without_container(spec, old),
            None => without_container(inputs, spec, old),
        },
    };
    if let Some(before) = runs.get(1) {
        status.last_state = Some(state_of(inputs, before, None));
    }
    status.volume_mounts = mounts(inputs, spec);
    if kind == Kind::Init && !is_sidecar(spec) {
        let done = runs.first().is_some_and(|c| c.state == State::Exited && c.exit_code == 0);
        if done {
            return status;
        }
        let main_seen = inputs.pod.spec().containers.iter().any(|c| inputs.state.find(&c.name).is_some());
        if runs.is_empty() && main_seen && status.state.as_ref().is_some_and(|s| s.waiting.is_some()) {
            let message = "Unable to get init container status from container runtime and pod has been initialized, treat it as exited normally";
            status.state = Some(terminated("Completed", message, 0));
            return status;
        }
    }
    if let Some(waiting) = inputs.waiting.get(&spec.name)
        && needs_restart(spec, inputs.pod, inputs.state)
    {
        if status.state.as_ref().is_some_and(|s| s.terminated.is_some()) {
            status.last_state = status.state.take();
        }
        status.state = Some(waits(waiting.reason, &waiting.message));
    }
    status
}

fn waits(reason: &str, message: &str) -> ContainerState {
    let text = |t: &str| (!t.is_empty()).then(|| t.to_string());
    ContainerState {
        waiting: Some(ContainerStateWaiting { reason: text(reason), message: text(message) }),
        ..Default::default()
    }
}

fn terminated(reason: &str, message: &str, exit_code: i32) -> ContainerState {
    ContainerState {
        terminated: Some(ContainerStateTerminated {
            reason: Some(reason.into()),
            message: Some(message.into()),
            exit_code,
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// The status of a container of which the runtime knows nothing.
fn without_container(
    inputs: &Inputs<'_>,
    spec: &Container,
    old: Option<&ContainerStatus>,
) -> ContainerStatus {
    let reason =
        if inputs.pod.init_containers().is_empty() { "ContainerCreating" } else { "PodInitializing" };
    let mut status = ContainerStatus {
        name: spec.name.clone(),
        image: spec.image.clone().unwrap_or_default(),
        state: Some(waits(reason, "")),
        last_state: Some(ContainerState::default()),
        ..Default::default()
    };
    let Some(old) = old else { return status };
    let old_state = old.state.clone().unwrap_or_default();
    if old_state.terminated.is_some() {
        return old.clone();
    }
    status.restart_count = old.restart_count;
    status.last_state = old.last_state.clone();
    let has_last = old.last_state.as_ref().is_some_and(|s| s.terminated.is_some());
    if old_state.running.is_some() && !has_last {
        // It ran, and somebody removed it: all we know is that it does not run any more.
        let message =
            "The container could not be located when the pod was deleted.  The container used to be Running";
        status.last_state = Some(terminated("ContainerStatusUnknown", message, 137));
        if !inputs.pod.is_deleting() {
            status.restart_count += 1;
        }
    }
    status
}

fn from_runtime(
    inputs: &Inputs<'_>,
    spec: &Container,
    container: &model::Container,
    old: Option<&ContainerStatus>,
) -> ContainerStatus {
    let state = state_of(inputs, container, old);
    let id = format!("{}://{}", inputs.runtime, container.id);
    ContainerStatus {
        name: spec.name.clone(),
        restart_count: restart::count(container, old),
        image: container.image.clone(),
        image_id: container.image_ref.clone(),
        state: Some(state),
        last_state: Some(restart::last_state(&id, old)),
        container_id: Some(id),
        allocated_resources: spec.resources.as_ref().and_then(|r| r.requests.clone()),
        resources: Some(resources::of_container(inputs, spec, container)),
        user: container.user.as_ref().map(|user| ContainerUser {
            linux: Some(LinuxContainerUser {
                uid: user.uid,
                gid: user.gid,
                supplemental_groups: (!user.supplemental_groups.is_empty())
                    .then(|| user.supplemental_groups.clone()),
            }),
        }),
        stop_signal: Signal::try_from(container.stop_signal)
            .ok()
            .filter(|s| *s != Signal::RuntimeDefault)
            .map(|s| s.as_str_name().to_string()),
        ..Default::default()
    }
}

fn state_of(
    inputs: &Inputs<'_>,
    container: &model::Container,
    old: Option<&ContainerStatus>,
) -> ContainerState {
    let text = |t: &str| (!t.is_empty()).then(|| t.to_string());
    match container.state {
        State::Created => {
            ContainerState { waiting: Some(ContainerStateWaiting::default()), ..Default::default() }
        }
        State::Running => ContainerState {
            running: Some(ContainerStateRunning { started_at: nanos(container.started_at) }),
            ..Default::default()
        },
        State::Exited => ContainerState {
            terminated: Some(ContainerStateTerminated {
                exit_code: container.exit_code,
                reason: text(&container.reason),
                message: text(&container.message),
                started_at: nanos(container.started_at),
                finished_at: nanos(container.finished_at),
                container_id: Some(format!("{}://{}", inputs.runtime, container.id)),
                signal: None,
            }),
            ..Default::default()
        },
        State::Unknown if old.and_then(|o| o.state.as_ref()).is_some_and(|s| s.running.is_some()) => {
            terminated(
                "ContainerStatusUnknown",
                "The container could not be located when the pod was terminated",
                137,
            )
        }
        State::Unknown => {
            ContainerState { waiting: Some(ContainerStateWaiting::default()), ..Default::default() }
        }
    }
}

fn mounts(inputs: &Inputs<'_>, spec: &Container) -> Option<Vec<VolumeMountStatus>> {
    let list = spec.volume_mounts.as_ref().filter(|list| !list.is_empty())?;
    let status = list.iter().map(|mount| {
        let read_only = mount.read_only.unwrap_or(false);
        let recursive = match mount.recursive_read_only.as_deref() {
            Some("Enabled") => true,
            Some("IfPossible") => inputs.recursive_read_only,
            _ => false,
        };
        VolumeMountStatus {
            name: mount.name.clone(),
            mount_path: mount.mount_path.clone(),
            read_only: read_only.then_some(true),
            recursive_read_only: read_only
                .then(|| if recursive { "Enabled".into() } else { "Disabled".into() }),
            ..Default::default()
        }
    });
    Some(status.collect())
}

/// Fills in `started` and `ready`.
fn apply_health(inputs: &Inputs<'_>, main: &mut [ContainerStatus], init: &mut [ContainerStatus]) {
    let specs = inputs.pod.spec().containers.iter().chain(inputs.pod.init_containers());
    let specs: BTreeMap<&str, &Container> = specs.map(|c| (c.name.as_str(), c)).collect();
    let sidecars: HashSet<&str> =
        inputs.pod.init_containers().iter().filter(|c| is_sidecar(c)).map(|c| c.name.as_str()).collect();
    let count = main.len();
    for (index, status) in main.iter_mut().chain(init).enumerate() {
        let Some(spec) = specs.get(status.name.as_str()) else { continue };
        let state = status.state.clone().unwrap_or_default();
        let id = status
            .container_id
            .as_deref()
            .and_then(|id| id.rsplit("://").next())
            .unwrap_or_default()
            .to_string();
        let running = state.running.is_some();
        let health = (inputs.health)(spec, &id);
        if index < count || sidecars.contains(status.name.as_str()) {
            status.started = Some(running && health.started);
            status.ready = running && health.started && health.ready;
        } else {
            status.started = Some(running);
            status.ready = state.terminated.is_some_and(|t| t.exit_code == 0);
        }
    }
}

#[cfg(test)]
mod tests;
