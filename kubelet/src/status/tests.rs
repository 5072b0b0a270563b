use super::*;
use crate::labels::Marks;
use serde_json::json;

fn container(name: &str, state: State, exit_code: i32, restarts: u32) -> model::Container {
    model::Container {
        id: format!("id-{name}-{restarts}"),
        name: name.into(),
        sandbox_id: "s".into(),
        state,
        created_at: i64::from(restarts) + 1,
        started_at: 1_000_000_000,
        finished_at: 2_000_000_000,
        exit_code,
        reason: if state == State::Exited { "Error".into() } else { String::new() },
        message: String::new(),
        image: "i".into(),
        image_ref: "sha".into(),
        log_path: String::new(),
        marks: Marks { restart_count: restarts, ..Default::default() },
        resources: None,
        user: None,
        stop_signal: 0,
    }
}

fn compute(
    pod: serde_json::Value,
    containers: Vec<model::Container>,
    waiting: &[(&str, Waiting)],
    ready: bool,
) -> PodStatus {
    compute_at(pod, containers, waiting, ready, false)
}

fn compute_at(
    pod: serde_json::Value,
    containers: Vec<model::Container>,
    waiting: &[(&str, Waiting)],
    ready: bool,
    terminal: bool,
) -> PodStatus {
    let pod: Pod = serde_json::from_value(pod).unwrap();
    let sandbox = model::Sandbox {
        id: "s".into(),
        ready: true,
        attempt: 0,
        created_at: 0,
        host_network: false,
        ips: vec!["1.2.3.4".into()],
    };
    let state = PodState { sandboxes: vec![sandbox], containers };
    let old = pod.status.clone().unwrap_or_default();
    generate(&Inputs {
        pod: &pod,
        state: &state,
        old: &old,
        waiting: &waiting.iter().map(|(n, w)| (n.to_string(), w.clone())).collect(),
        health: &|_, _| Health { started: true, ready },
        runtime: "containerd",
        host_ips: &["10.0.0.1".into()],
        terminal,
        verdict: None,
        extra_conditions: &[],
        resize_conditions: &[],
        actuated: &Default::default(),
        recursive_read_only: false,
    })
}

fn pod(policy: &str) -> serde_json::Value {
    json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"},
        "spec": {"restartPolicy": policy, "containers": [{"name": "a", "image": "i"}]}})
}

fn condition(status: &PodStatus, kind: &str) -> (String, String) {
    let found = status.conditions.iter().flatten().find(|c| c.type_ == kind).unwrap();
    (found.status.clone(), found.reason.clone().unwrap_or_default())
}

#[test]
fn phases() {
    use State::*;
    for (policy, containers, phase) in [
        ("Always", vec![], "Pending"),
        ("Always", vec![container("a", Running, 0, 0)], "Running"),
        ("Always", vec![container("a", Exited, 0, 0)], "Running"),
        ("OnFailure", vec![container("a", Exited, 0, 0)], "Succeeded"),
        ("OnFailure", vec![container("a", Exited, 1, 0)], "Running"),
        ("Never", vec![container("a", Exited, 1, 0)], "Failed"),
        ("Never", vec![container("a", Created, 0, 0)], "Pending"),
    ] {
        let status = compute(pod(policy), containers.clone(), &[], true);
        assert_eq!(status.phase.as_deref(), Some(phase), "{policy} {containers:?}");
    }
}

#[test]
fn a_running_pod() {
    let status = compute(pod("Always"), vec![container("a", State::Running, 0, 0)], &[], true);
    assert_eq!(status.pod_ip.as_deref(), Some("1.2.3.4"));
    for kind in ["PodScheduled", "Initialized", "ContainersReady", "Ready", "PodReadyToStartContainers"] {
        assert_eq!(condition(&status, kind).0, "True", "{kind}");
    }
    let c = &status.container_statuses.unwrap()[0];
    assert_eq!(
        (c.ready, c.started, c.container_id.as_deref()),
        (true, Some(true), Some("containerd://id-a-0"))
    );
    let status = compute(pod("Always"), vec![container("a", State::Running, 0, 0)], &[], false);
    assert_eq!(condition(&status, "Ready"), ("False".into(), "ContainersNotReady".into()));
}

#[test]
fn a_container_in_back_off_shows_how_it_ended() {
    let waiting = Waiting::new("CrashLoopBackOff", "back-off 10s restarting failed container");
    let containers = vec![container("a", State::Exited, 1, 1), container("a", State::Exited, 2, 0)];
    let status = compute(pod("Always"), containers, &[("a", waiting)], true);
    assert_eq!(status.phase.as_deref(), Some("Running"));
    let c = &status.container_statuses.unwrap()[0];
    assert_eq!(
        c.state.as_ref().unwrap().waiting.as_ref().unwrap().reason.as_deref(),
        Some("CrashLoopBackOff")
    );
    assert_eq!(c.last_state.as_ref().unwrap().terminated.as_ref().unwrap().exit_code, 1);
    assert_eq!(c.restart_count, 1);
}

#[test]
fn an_end_is_the_end() {
    let mut value = pod("Never");
    value["status"] = json!({"phase": "Failed", "reason": "Evicted", "message": "m"});
    let status = compute(value, vec![], &[], true);
    assert_eq!(status.phase.as_deref(), Some("Failed"));
    assert_eq!(status.reason.as_deref(), Some("Evicted"));
}

#[test]
fn nothing_is_left_open_when_nothing_of_a_pod_runs() {
    let end = |status: &ContainerStatus| status.state.clone().unwrap().terminated.map(|t| t.exit_code);
    let status = compute_at(pod("Always"), vec![], &[], true, true);
    assert_eq!(status.phase.as_deref(), Some("Failed"), "it never began");
    assert_eq!(end(&status.container_statuses.unwrap()[0]), Some(137));
    let done = vec![container("a", State::Exited, 0, 0)];
    let status = compute_at(pod("Always"), done, &[], true, true);
    assert_eq!(status.phase.as_deref(), Some("Succeeded"));
    let mut value = pod("Always");
    value["spec"]["initContainers"] = json!([{"name": "i", "image": "i"}, {"name": "j", "image": "j"}]);
    let status = compute_at(value, vec![container("i", State::Exited, 0, 0)], &[], true, true);
    assert_eq!(end(&status.container_statuses.unwrap()[0]), None, "it never had its turn");
    let init = status.init_container_statuses.unwrap();
    assert_eq!((end(&init[0]), end(&init[1])), (Some(0), None));
    assert_eq!(status.phase.as_deref(), Some("Failed"));
}

#[test]
fn a_decree_is_told_when_nothing_runs_any_more() {
    let verdict = Verdict { reason: "Evicted".into(), message: "m".into() };
    let told = |state, exit_code, terminal| {
        let pod: Pod = serde_json::from_value(pod("Always")).unwrap();
        let extra = PodCondition { type_: "DisruptionTarget".into(), ..Default::default() };
        let state = PodState { sandboxes: vec![], containers: vec![container("a", state, exit_code, 0)] };
        let status = generate(&Inputs {
            pod: &pod,
            state: &state,
            old: &PodStatus::default(),
            waiting: &Default::default(),
            health: &|_, _| Health { started: true, ready: true },
            runtime: "containerd",
            host_ips: &[],
            terminal,
            verdict: Some(&verdict),
            extra_conditions: &[extra],
            resize_conditions: &[],
            actuated: &Default::default(),
            recursive_read_only: false,
        });
        let shown = status.conditions.iter().flatten().any(|c| c.type_ == "DisruptionTarget");
        (status.phase.unwrap(), status.reason, shown)
    };
    let reason = || Some("Evicted".to_string());
    assert_eq!(told(State::Running, 0, false), ("Running".into(), None, false));
    assert_eq!(told(State::Exited, 137, true), ("Failed".into(), reason(), true));
    assert_eq!(told(State::Exited, 0, true), ("Succeeded".into(), None, true), "it ended well all the same");
}

#[test]
fn init_containers_come_first() {
    let mut value = pod("Always");
    value["spec"]["initContainers"] = json!([{"name": "i", "image": "i"}]);
    let status = compute(value.clone(), vec![container("i", State::Running, 0, 0)], &[], true);
    assert_eq!(status.phase.as_deref(), Some("Pending"));
    assert_eq!(condition(&status, "Initialized"), ("False".into(), "ContainersNotInitialized".into()));
    let c = &status.container_statuses.unwrap()[0];
    assert_eq!(
        c.state.as_ref().unwrap().waiting.as_ref().unwrap().reason.as_deref(),
        Some("PodInitializing")
    );
    let done = vec![container("a", State::Running, 0, 0), container("i", State::Exited, 0, 0)];
    let status = compute(value, done, &[], true);
    assert_eq!(condition(&status, "Initialized").0, "True");
    assert!(status.init_container_statuses.unwrap()[0].ready);
}
