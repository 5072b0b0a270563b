//! The conditions of a pod that the kubelet answers for.

use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod, PodCondition, PodStatus};

use super::{Inputs, restart};
use crate::actions::sandbox_changed;
use crate::pod::{self, PodExt, is_sidecar};

/// The conditions that nobody but the kubelet sets.
pub const OWNED: [&str; 8] = [
    "PodScheduled",
    "Ready",
    "Initialized",
    "ContainersReady",
    "PodReadyToStartContainers",
    "PodResizePending",
    "PodResizeInProgress",
    "AllContainersRestarting",
];

struct Value {
    status: bool,
    reason: &'static str,
    message: String,
}

impl Value {
    fn yes() -> Self {
        Self { status: true, reason: "", message: String::new() }
    }
    fn no(reason: &'static str, message: impl Into<String>) -> Self {
        Self { status: false, reason, message: message.into() }
    }
}

/// Sets the conditions: others' are kept, ours computed; a transition time changes only with the status.
pub fn set(inputs: &Inputs<'_>, status: &mut PodStatus, main: &[ContainerStatus], init: &[ContainerStatus]) {
    let pod = inputs.pod;
    let listed = pod.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    let mut conditions: Vec<PodCondition> =
        listed.iter().filter(|c| !OWNED.contains(&c.type_.as_str())).cloned().collect();
    conditions.extend(inputs.resize_conditions.iter().cloned());
    let phase = status.phase.as_deref().unwrap_or_default().to_string();
    let ended = matches!(phase.as_str(), "Succeeded" | "Failed");
    let disruption = inputs.old.conditions.iter().flatten().filter(|c| c.type_ == "DisruptionTarget");
    // Why it was ended is told together with its end.
    for extra in disruption.chain(inputs.extra_conditions.iter().filter(|_| ended)) {
        conditions.retain(|c| c.type_ != extra.type_);
        conditions.push(extra.clone());
    }
    let containers_ready = containers_ready(pod, main, init, &phase);
    let ready = match containers_ready.status {
        true => readiness_gates(pod, &conditions),
        false => Value {
            status: false,
            reason: containers_ready.reason,
            message: containers_ready.message.clone(),
        },
    };
    let initialized = initialized(inputs, main, init, &phase);
    let started = Value { status: !sandbox_changed(pod, inputs.state).0, reason: "", message: String::new() };
    for (kind, value) in [
        ("PodReadyToStartContainers", started),
        ("Initialized", initialized),
        ("Ready", ready),
        ("ContainersReady", containers_ready),
        ("PodScheduled", Value::yes()),
    ] {
        conditions.push(condition(inputs, kind, value));
    }
    if pod::may_restart_all(pod) {
        let value = restarting(inputs, &phase);
        // Of this one the generation is not told.
        conditions
            .push(PodCondition { observed_generation: None, ..condition(inputs, restart::CONDITION, value) });
    }
    status.conditions = Some(conditions);
}

/// Whether the containers are being removed so that all begin anew.
fn restarting(inputs: &Inputs<'_>, phase: &str) -> Value {
    match phase {
        "Succeeded" => Value::no("PodCompleted", ""),
        "Failed" => Value::no("PodFailed", ""),
        _ if !restart::is_due(inputs.pod, inputs.state, inputs.old) => Value::no("", ""),
        _ if restart::is_cleared(inputs.pod, inputs.state) => Value::no("", ""),
        _ => Value {
            status: true,
            reason: "RestartAllContainersStarted",
            message: "container exited with restart policy rule".into(),
        },
    }
}

fn condition(inputs: &Inputs<'_>, kind: &str, value: Value) -> PodCondition {
    let status = if value.status { "True" } else { "False" };
    let text = |t: &str| (!t.is_empty()).then(|| t.to_string());
    let old = inputs.old.conditions.iter().flatten().find(|c| c.type_ == kind);
    let since = old.filter(|c| c.status == status).and_then(|c| c.last_transition_time.clone());
    PodCondition {
        type_: kind.into(),
        status: status.into(),
        reason: text(value.reason),
        message: text(&value.message),
        last_transition_time: since.or_else(|| Some(super::now())),
        last_probe_time: None,
        observed_generation: inputs.pod.metadata.generation,
    }
}

/// Containers without a status and those that fail a test, by name.
fn sort<'a>(
    specs: impl Iterator<Item = &'a Container>,
    statuses: &[ContainerStatus],
    good: impl Fn(&Container, &ContainerStatus) -> bool,
) -> (Vec<&'a str>, Vec<&'a str>) {
    let (mut unknown, mut bad) = (Vec::new(), Vec::new());
    for spec in specs {
        match statuses.iter().find(|s| s.name == spec.name) {
            None => unknown.push(spec.name.as_str()),
            Some(status) if !good(spec, status) => bad.push(spec.name.as_str()),
            Some(_) => {}
        }
    }
    (unknown, bad)
}

fn message(unknown: &[&str], bad: &[&str], what: &str) -> String {
    let mut parts = Vec::new();
    if !unknown.is_empty() {
        parts.push(format!("containers with unknown status: [{}]", unknown.join(" ")));
    }
    if !bad.is_empty() {
        parts.push(format!("containers with {what} status: [{}]", bad.join(" ")));
    }
    parts.join(", ")
}

fn containers_ready(pod: &Pod, main: &[ContainerStatus], init: &[ContainerStatus], phase: &str) -> Value {
    let statuses = [main, init].concat();
    let sidecars = pod.init_containers().iter().filter(|c| is_sidecar(c));
    let (unknown, bad) = sort(sidecars.chain(&pod.spec().containers), &statuses, |_, s| s.ready);
    match phase {
        "Succeeded" if unknown.is_empty() => return Value::no("PodCompleted", ""),
        "Failed" => return Value::no("PodFailed", ""),
        _ => {}
    }
    match message(&unknown, &bad, "unready") {
        text if text.is_empty() => Value::yes(),
        text => Value::no("ContainersNotReady", text),
    }
}

fn readiness_gates(pod: &Pod, conditions: &[PodCondition]) -> Value {
    let gates = pod.spec().readiness_gates.iter().flatten();
    let missing: Vec<String> = gates
        .filter_map(|gate| {
            let kind = &gate.condition_type;
            match conditions.iter().find(|c| c.type_ == *kind) {
                None => {
                    Some(format!("corresponding condition of pod readiness gate {kind:?} does not exist."))
                }
                Some(c) if c.status != "True" => Some(format!(
                    "the status of pod readiness gate {kind:?} is not \"True\", but {}",
                    c.status
                )),
                Some(_) => None,
            }
        })
        .collect();
    if missing.is_empty() { Value::yes() } else { Value::no("ReadinessGatesNotReady", missing.join(", ")) }
}

fn initialized(
    inputs: &Inputs<'_>,
    main: &[ContainerStatus],
    init: &[ContainerStatus],
    phase: &str,
) -> Value {
    let done = |spec: &Container, status: &ContainerStatus| match is_sidecar(spec) {
        true => status.started.unwrap_or(false),
        false => status.ready,
    };
    let (unknown, bad) = sort(inputs.pod.init_containers().iter(), init, done);
    if phase == "Succeeded" && unknown.is_empty() {
        return Value { status: true, reason: "PodCompleted", message: String::new() };
    }
    let main_started = main.iter().any(|status| {
        let state = status.state.clone().unwrap_or_default();
        let last = status.last_state.as_ref().is_some_and(|s| s.terminated.is_some());
        state.running.is_some() || state.terminated.is_some() || last
    });
    // What is initialized stays so, though its init containers may run again.
    let mut conditions = inputs.old.conditions.iter().flatten();
    let was_initialized = conditions.any(|c| c.type_ == "Initialized" && c.status == "True");
    match message(&unknown, &bad, "incomplete") {
        text if text.is_empty() || main_started || was_initialized => Value::yes(),
        text => Value::no("ContainersNotInitialized", text),
    }
}
