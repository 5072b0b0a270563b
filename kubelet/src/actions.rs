//! What has to be done to a pod's containers: a pure function of what is wanted and what is there.

use k8s_openapi::api::core::v1::{Container, Pod};

use crate::allocation::PodResources;
use crate::labels;
use crate::model::{PodState, State};
use crate::pod::{PodExt, RESTART_ALL, is_sidecar, restart_rule, should_restart};

pub mod resize;

use resize::{Change, Resize};

/// The verdict of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Success,
    Failure,
    Unknown,
}

/// What probes have found out about containers, by container id.
pub trait Verdicts {
    /// The liveness of a container, if it was ever probed.
    fn liveness(&self, id: &str) -> Option<Verdict>;
    /// Whether it has started, if that was ever probed.
    fn startup(&self, id: &str) -> Option<Verdict>;
}

/// Why a container is killed; decides which grace period counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// Its definition changed, or nobody knows what it is up to.
    Other,
    Liveness,
    Startup,
}

/// A container to kill.
#[derive(Debug, Clone, PartialEq)]
pub struct Kill {
    pub id: String,
    pub name: String,
    pub message: String,
    pub cause: Cause,
}

/// What to do, in this order: kill, make a sandbox, start ephemeral, init and main containers.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Actions {
    /// Kill everything that runs, and stop the sandbox.
    pub kill_pod: bool,
    /// Make a new sandbox.
    pub create_sandbox: bool,
    /// The present sandbox, if one is there.
    pub sandbox_id: Option<String>,
    /// The number of the sandbox to make.
    pub attempt: u32,
    /// Single containers to kill.
    pub kill: Vec<Kill>,
    /// Indices of ephemeral containers to start.
    pub ephemeral: Vec<usize>,
    /// Indices of init containers to start, in order.
    pub init: Vec<usize>,
    /// Indices of main containers to start.
    pub main: Vec<usize>,
    /// Containers that run on with other resources.
    pub resize: Vec<Resize>,
    /// Containers to remove, stopping them first if they run, so that all of the pod begins anew.
    pub reset: Vec<(String, bool)>,
}

/// What is known of a pod beside its containers.
pub struct Known<'a> {
    /// What probes say.
    pub verdicts: &'a dyn Verdicts,
    /// The resources that its containers have.
    pub actuated: &'a PodResources,
    /// All of it begins anew.
    pub restart_all: bool,
}

/// Whether the pod needs another sandbox: (needed, its number, the present one's id).
pub fn sandbox_changed(pod: &Pod, state: &PodState) -> (bool, u32, Option<String>) {
    let Some(newest) = state.sandboxes.first() else { return (true, 0, None) };
    let id = Some(newest.id.clone());
    let ready = state.sandboxes.iter().filter(|s| s.ready).count();
    if ready > 1 || !newest.ready {
        return (true, newest.attempt + 1, id);
    }
    if newest.host_network != pod.host_network() {
        return (true, newest.attempt + 1, None);
    }
    if !newest.host_network && newest.ips.is_empty() {
        return (true, newest.attempt + 1, id);
    }
    (false, newest.attempt, id)
}

/// Computes what to do.
pub fn compute(pod: &Pod, state: &PodState, known: &Known<'_>) -> Actions {
    let (create, attempt, sandbox_id) = sandbox_changed(pod, state);
    let actions =
        Actions { kill_pod: create, create_sandbox: create, sandbox_id, attempt, ..Default::default() };
    if known.restart_all {
        return Actions { kill_pod: false, create_sandbox: false, reset: all_runs(pod, state), ..actions };
    }
    if create { for_new_sandbox(pod, state, actions) } else { for_sandbox(pod, state, known, actions) }
}

/// All runs of all containers, those last whose end asked for it: should the kubelet stop in between, it finds them.
fn all_runs(pod: &Pod, state: &PodState) -> Vec<(String, bool)> {
    let (mut others, mut sources) = (Vec::new(), Vec::new());
    for spec in pod.spec().containers.iter().chain(pod.init_containers()) {
        for run in state.containers.iter().filter(|c| c.name == spec.name) {
            match run.state {
                State::Exited if restart_rule(spec, run.exit_code) == Some(RESTART_ALL) => {
                    sources.push((run.id.clone(), false));
                }
                state => others.push((run.id.clone(), state != State::Exited)),
            }
        }
    }
    others.into_iter().chain(sources).collect()
}

fn for_new_sandbox(pod: &Pod, state: &PodState, mut actions: Actions) -> Actions {
    if !pod.restarts_on_failure() && actions.attempt != 0 && !state.containers.is_empty() {
        // It ran and will not run again.
        actions.create_sandbox = false;
        return actions;
    }
    let succeeded =
        |c: &Container| state.find(&c.name).is_some_and(|s| s.state == State::Exited && s.exit_code == 0);
    let run_once = |c: &Container| {
        let policy = c.restart_policy.as_deref().or(pod.spec().restart_policy.as_deref());
        policy == Some("OnFailure")
    };
    let containers = pod.spec().containers.iter().enumerate();
    let main: Vec<usize> =
        containers.filter(|(_, c)| !(run_once(c) && succeeded(c))).map(|(i, _)| i).collect();
    if main.is_empty() && pod.spec().containers.iter().any(|c| state.find(&c.name).is_some()) {
        actions.create_sandbox = false;
        return actions;
    }
    if pod.init_containers().is_empty() {
        actions.main = main;
    } else {
        actions.init = vec![0];
    }
    actions
}

fn for_sandbox(pod: &Pod, state: &PodState, known: &Known<'_>, mut actions: Actions) -> Actions {
    let ephemeral = pod.spec().ephemeral_containers.iter().flatten().enumerate();
    actions.ephemeral = ephemeral.filter(|(_, c)| state.find(&c.name).is_none()).map(|(i, _)| i).collect();
    let initialized = init_containers(pod, state, known, &mut actions);
    if actions.kill_pod || !initialized {
        return actions;
    }
    let mut kept = 0;
    for (index, container) in pod.spec().containers.iter().enumerate() {
        let Some(status) = state.find(&container.name) else {
            actions.main.push(index);
            continue;
        };
        if status.state != State::Running {
            if needs_restart(container, pod, state) {
                actions.main.push(index);
                if status.state == State::Unknown {
                    actions.kill.push(kill_unknown(status.id.clone(), container, ""));
                }
            }
            continue;
        }
        match reason_to_kill(container, status, known.verdicts, "Container") {
            None => match resize::change(pod, container, status, known.actuated) {
                Some(Change::Restart(order)) => {
                    actions.kill.push(order);
                    actions.main.push(index);
                }
                change => {
                    actions.resize.extend(change.and_then(Change::in_place));
                    kept += 1;
                }
            },
            Some((mut message, cause)) => {
                let own = container.restart_policy.as_deref().map(|policy| policy != "Never");
                let restart = cause == Cause::Other || own.unwrap_or(pod.restarts_on_failure());
                if restart {
                    message.push_str(", will be restarted");
                    actions.main.push(index);
                }
                actions.kill.push(Kill {
                    id: status.id.clone(),
                    name: container.name.clone(),
                    message,
                    cause,
                });
            }
        }
    }
    if kept == 0 && actions.main.is_empty() {
        actions.kill_pod = true;
        // Sidecars must not keep a pod alive whose work is done.
        actions.init.clear();
    }
    actions
}

/// Whether a container that does not run should.
pub fn needs_restart(container: &Container, pod: &Pod, state: &PodState) -> bool {
    if pod.is_deleting() {
        return false;
    }
    match state.find(&container.name) {
        None => true,
        Some(status) => match status.state {
            State::Running => false,
            State::Unknown | State::Created => true,
            State::Exited => should_restart(container, pod, status.exit_code),
        },
    }
}

fn reason_to_kill(
    container: &Container,
    status: &crate::model::Container,
    verdicts: &dyn Verdicts,
    what: &str,
) -> Option<(String, Cause)> {
    let name = &container.name;
    if status.marks.hash.is_some_and(|hash| hash != labels::hash(container)) {
        return Some((format!("{what} {name} definition changed"), Cause::Other));
    }
    if verdicts.liveness(&status.id) == Some(Verdict::Failure) {
        return Some((format!("{what} {name} failed liveness probe"), Cause::Liveness));
    }
    if verdicts.startup(&status.id) == Some(Verdict::Failure) {
        return Some((format!("{what} {name} failed startup probe"), Cause::Startup));
    }
    None
}

fn kill_unknown(id: String, container: &Container, prefix: &str) -> Kill {
    let what = if prefix.is_empty() { "Container" } else { prefix };
    Kill {
        id,
        name: container.name.clone(),
        message: format!("{what} is in \"unknown\" state, try killing it before restart"),
        cause: Cause::Other,
    }
}

/// Walks the init containers from the last to the first, since completed ones may have been removed. Returns whether
/// the pod is initialized.
fn init_containers(pod: &Pod, state: &PodState, known: &Known<'_>, actions: &mut Actions) -> bool {
    let verdicts = known.verdicts;
    let containers = pod.init_containers();
    if containers.is_empty() {
        return true;
    }
    let main_started = |c: &Container| {
        state.find(&c.name).is_some_and(|s| matches!(s.state, State::Created | State::Running))
    };
    let mut initialized = pod.spec().containers.iter().any(main_started);
    let mut later_seen = initialized;
    let last = containers.len() - 1;
    for (index, container) in containers.iter().enumerate().rev() {
        let sidecar = is_sidecar(container);
        let Some(status) = state.find(&container.name) else {
            if later_seen && sidecar {
                actions.init.push(index);
            }
            continue;
        };
        if later_seen && !sidecar {
            // Past initialization only sidecars are kept running.
            continue;
        }
        let mut advance = |actions: &mut Actions| {
            if index == last {
                initialized = true;
            } else if !later_seen {
                actions.init.push(index + 1);
            }
        };
        match status.state {
            State::Created => actions.init.push(index),
            State::Running if !sidecar => resize_init(pod, index, status, known, actions),
            State::Running => {
                let started = match &container.startup_probe {
                    None => Some(Verdict::Success),
                    Some(_) => verdicts.startup(&status.id),
                };
                if started == Some(Verdict::Success) {
                    advance(actions);
                }
                let judged = started == Some(Verdict::Success) || started == Some(Verdict::Failure);
                let reason = reason_to_kill(container, status, verdicts, "Init container").filter(|_| judged);
                match reason {
                    Some((message, cause)) => {
                        actions.kill.push(Kill {
                            id: status.id.clone(),
                            name: container.name.clone(),
                            message,
                            cause,
                        });
                        actions.init.push(index);
                    }
                    None => resize_init(pod, index, status, known, actions),
                }
            }
            State::Exited if sidecar => actions.init.push(index),
            State::Exited if status.exit_code == 0 => {
                if index == last {
                    initialized = true;
                } else {
                    actions.init.push(index + 1);
                }
            }
            State::Exited | State::Unknown => {
                let restart = sidecar
                    || match status.state {
                        State::Exited => should_restart(container, pod, status.exit_code),
                        _ => container
                            .restart_policy
                            .as_deref()
                            .map_or(pod.restarts_on_failure(), |policy| policy != "Never"),
                    };
                if !restart {
                    actions.kill_pod = true;
                    actions.init.clear();
                    return false;
                }
                if status.state == State::Unknown {
                    actions.kill.push(kill_unknown(status.id.clone(), container, "Init container"));
                }
                actions.init.push(index);
            }
        }
        later_seen = true;
    }
    if !later_seen {
        actions.init.push(0);
    }
    actions.init.reverse();
    initialized
}

fn resize_init(
    pod: &Pod,
    index: usize,
    status: &crate::model::Container,
    known: &Known<'_>,
    actions: &mut Actions,
) {
    match resize::change(pod, &pod.init_containers()[index], status, known.actuated) {
        Some(Change::Restart(order)) => {
            actions.kill.push(order);
            actions.init.push(index);
        }
        change => actions.resize.extend(change.and_then(Change::in_place)),
    }
}

#[cfg(test)]
mod tests;
