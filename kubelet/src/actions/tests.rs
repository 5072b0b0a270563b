use super::*;
use crate::allocation::PodResources;
use crate::labels::Marks;
use crate::model;
use serde_json::json;
use std::collections::HashMap;

#[derive(Default)]
struct Probed(HashMap<&'static str, (Option<Verdict>, Option<Verdict>)>);

impl Verdicts for Probed {
    fn liveness(&self, id: &str) -> Option<Verdict> {
        self.0.get(id)?.0
    }
    fn startup(&self, id: &str) -> Option<Verdict> {
        self.0.get(id)?.1
    }
}

fn decide(pod: &Pod, state: &PodState, verdicts: &dyn Verdicts) -> Actions {
    compute(pod, state, &super::Known { verdicts, actuated: &PodResources::default(), restart_all: false })
}

fn pod(policy: &str, init: serde_json::Value) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"},
        "spec": {"restartPolicy": policy, "initContainers": init,
                 "containers": [{"name": "a", "image": "i"}, {"name": "b", "image": "i"}]}}))
    .unwrap()
}

fn container(name: &str, state: State, exit_code: i32) -> model::Container {
    model::Container {
        id: format!("id-{name}"),
        name: name.into(),
        sandbox_id: "s".into(),
        state,
        created_at: 1,
        started_at: 1,
        finished_at: 2,
        exit_code,
        reason: String::new(),
        message: String::new(),
        image: "i".into(),
        image_ref: String::new(),
        log_path: String::new(),
        marks: Marks::default(),
        resources: None,
        user: None,
        stop_signal: 0,
    }
}

fn state(containers: Vec<model::Container>) -> PodState {
    let sandbox = model::Sandbox {
        id: "s".into(),
        ready: true,
        attempt: 0,
        created_at: 0,
        host_network: false,
        ips: vec!["1.2.3.4".into()],
    };
    PodState { sandboxes: vec![sandbox], containers }
}

#[test]
fn main_containers() {
    use State::*;
    for (policy, a, b, start, kill) in [
        ("Always", None, None, vec![0, 1], false),
        ("Always", Some((Running, 0)), Some((Running, 0)), vec![], false),
        ("Always", Some((Exited, 0)), Some((Running, 0)), vec![0], false),
        ("OnFailure", Some((Exited, 0)), Some((Exited, 1)), vec![1], false),
        ("OnFailure", Some((Exited, 0)), Some((Exited, 0)), vec![], true),
        ("Never", Some((Exited, 1)), Some((Running, 0)), vec![], false),
        ("Never", Some((Exited, 1)), Some((Exited, 0)), vec![], true),
        ("Never", Some((Created, 0)), Some((Running, 0)), vec![0], false),
    ] {
        let present = [("a", a), ("b", b)];
        let list =
            present.into_iter().filter_map(|(n, s)| s.map(|(s, code)| container(n, s, code))).collect();
        let actions = decide(&pod(policy, json!([])), &state(list), &Probed::default());
        assert_eq!(actions.main, start, "{policy} {a:?} {b:?}");
        assert_eq!(actions.kill_pod, kill, "{policy} {a:?} {b:?}");
    }
}

#[test]
fn a_sandbox_that_died_is_replaced_unless_the_pod_is_done() {
    for (policy, containers, create) in [
        ("Always", vec![container("a", State::Exited, 0)], true),
        ("Never", vec![container("a", State::Exited, 0)], false),
        ("Never", vec![], true),
        ("OnFailure", vec![container("a", State::Exited, 0), container("b", State::Exited, 0)], false),
    ] {
        let mut state = state(containers);
        state.sandboxes[0].ready = false;
        let actions = decide(&pod(policy, json!([])), &state, &Probed::default());
        assert_eq!((actions.kill_pod, actions.create_sandbox), (true, create), "{policy}");
        assert_eq!(actions.attempt, 1);
    }
}

#[test]
fn init_containers_run_in_order() {
    use State::*;
    let init = json!([{"name": "x", "image": "i"}, {"name": "y", "image": "i"}]);
    for (policy, present, start, kill, initialized) in [
        ("Always", vec![], vec![0], false, false),
        ("Always", vec![("x", Running, 0)], vec![], false, false),
        ("Always", vec![("x", Exited, 0)], vec![1], false, false),
        ("Always", vec![("x", Exited, 1)], vec![0], false, false),
        ("Never", vec![("x", Exited, 1)], vec![], true, false),
        ("Always", vec![("y", Exited, 0)], vec![], false, true),
        ("Always", vec![("a", Running, 0), ("b", Running, 0)], vec![], false, true),
    ] {
        let list = present.iter().map(|(n, s, code)| container(n, *s, *code)).collect();
        let actions = decide(&pod(policy, init.clone()), &state(list), &Probed::default());
        assert_eq!((actions.init, actions.kill_pod), (start, kill), "{policy} {present:?}");
        let main_touched = !actions.main.is_empty() || present.iter().any(|(n, ..)| *n == "a");
        assert_eq!(main_touched, initialized, "{policy} {present:?}");
    }
}

#[test]
fn sidecars_gate_by_their_startup_probe_and_are_restarted() {
    let init = json!([{"name": "s", "image": "i", "restartPolicy": "Always",
        "startupProbe": {"exec": {"command": ["x"]}}}, {"name": "y", "image": "i"}]);
    let p = pod("Always", init);
    let running = state(vec![container("s", State::Running, 0)]);
    assert_eq!(decide(&p, &running, &Probed::default()).init, Vec::<usize>::new());
    let started = Probed(HashMap::from([("id-s", (None, Some(Verdict::Success)))]));
    assert_eq!(decide(&p, &running, &started).init, [1]);
    let failed = Probed(HashMap::from([("id-s", (None, Some(Verdict::Failure)))]));
    let actions = decide(&p, &running, &failed);
    assert_eq!(actions.init, [0]);
    assert_eq!(actions.kill[0].message, "Init container s failed startup probe");
    let ended = state(vec![
        container("s", State::Exited, 0),
        container("a", State::Running, 0),
        container("b", State::Running, 0),
    ]);
    assert_eq!(decide(&p, &ended, &started).init, [0]);
}

#[test]
fn unhealthy_and_changed_containers_are_killed() {
    let mut changed = container("b", State::Running, 0);
    changed.marks.hash = Some(1);
    let present = state(vec![container("a", State::Running, 0), changed]);
    let sick = Probed(HashMap::from([("id-a", (Some(Verdict::Failure), None))]));
    let actions = decide(&pod("Always", json!([])), &present, &sick);
    let messages: Vec<&str> = actions.kill.iter().map(|k| k.message.as_str()).collect();
    assert_eq!(
        messages,
        [
            "Container a failed liveness probe, will be restarted",
            "Container b definition changed, will be restarted"
        ]
    );
    assert_eq!(actions.main, [0, 1]);
    let actions = decide(&pod("Never", json!([])), &present, &sick);
    assert_eq!(actions.kill[0].message, "Container a failed liveness probe");
    assert_eq!(actions.main, [1]);
}
