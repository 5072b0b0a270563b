//! The phase of a pod, from the states of its containers.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, ContainerStateTerminated, ContainerStatus};

use super::{Inputs, restart};
use crate::model::State;
use crate::pod::{PodExt, is_sidecar, should_restart};

/// How a container stands.
enum Standing {
    Missing,
    Running {
        started: bool,
    },
    Stopped {
        exit_code: i32,
        /// It ended because all of the pod begins anew.
        again: bool,
    },
    /// Waits to run again.
    Again {
        exit_code: i32,
        again: bool,
    },
    Waiting,
}

fn standing(status: Option<&&ContainerStatus>) -> Standing {
    let Some(status) = status else { return Standing::Missing };
    let state = status.state.clone().unwrap_or_default();
    if state.running.is_some() {
        return Standing::Running { started: status.started.unwrap_or(false) };
    }
    let again = |ended: &ContainerStateTerminated| ended.reason.as_deref() == Some(restart::REASON);
    if let Some(ended) = state.terminated {
        return Standing::Stopped { exit_code: ended.exit_code, again: again(&ended) };
    }
    match status.last_state.as_ref().and_then(|s| s.terminated.as_ref()) {
        Some(last) => Standing::Again { exit_code: last.exit_code, again: again(last) },
        None => Standing::Waiting,
    }
}

/// The phase.
pub fn phase(inputs: &Inputs<'_>, main: &[ContainerStatus], init: &[ContainerStatus]) -> &'static str {
    let pod = inputs.pod;
    let by_name: BTreeMap<&str, &ContainerStatus> =
        main.iter().chain(init).map(|s| (s.name.as_str(), s)).collect();
    let of = |c: &Container| standing(by_name.get(c.name.as_str()));
    let restartable = |c: &Container, code: i32, again: bool| again || should_restart(c, pod, code);
    let (mut pending_init, mut pending_sidecars, mut hopeless) = (0, 0, 0);
    let (mut unknown, mut running, mut waiting) = (0, 0, 0);
    let (mut stopped, mut final_stops, mut succeeded) = (0, 0, 0);
    for container in pod.init_containers() {
        match (is_sidecar(container), of(container)) {
            (false, Standing::Stopped { exit_code, again } | Standing::Again { exit_code, again }) => {
                if exit_code != 0 && !restartable(container, exit_code, again) {
                    hopeless += 1;
                }
            }
            (false, _) => pending_init += 1,
            (true, Standing::Missing) => unknown += 1,
            (true, Standing::Running { started }) => {
                running += 1;
                pending_sidecars += usize::from(!started);
            }
            (true, Standing::Waiting) => {
                pending_sidecars += 1;
                waiting += 1;
            }
            (true, Standing::Stopped { .. } | Standing::Again { .. }) => {}
        }
    }
    for container in &pod.spec().containers {
        match of(container) {
            Standing::Missing => unknown += 1,
            Standing::Running { .. } => running += 1,
            Standing::Waiting => waiting += 1,
            Standing::Stopped { exit_code, again } => {
                stopped += 1;
                final_stops += usize::from(!restartable(container, exit_code, again));
                succeeded += usize::from(exit_code == 0);
            }
            Standing::Again { exit_code, again } => {
                stopped += 1;
                final_stops += usize::from(!restartable(container, exit_code, again));
            }
        }
    }
    let main_active = pod.spec().containers.iter().any(|c| {
        inputs.state.find(&c.name).is_some_and(|s| matches!(s.state, State::Running | State::Exited))
    });
    let end = || if stopped == succeeded { "Succeeded" } else { "Failed" };
    if hopeless > 0 {
        return "Failed";
    }
    if pending_init > 0 || (pending_sidecars > 0 && !main_active) || waiting > 0 {
        return "Pending";
    }
    if running > 0 && unknown == 0 {
        return "Running";
    }
    if running == 0 && stopped > 0 && unknown == 0 {
        if inputs.terminal && !pod.is_static() {
            return end();
        }
        return if stopped == final_stops { end() } else { "Running" };
    }
    "Pending"
}
