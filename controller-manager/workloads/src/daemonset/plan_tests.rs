use super::*;
use serde_json::json;

fn set(update: serde_json::Value) -> DaemonSet {
    serde_json::from_value(json!({"metadata": {"name": "d", "namespace": "n"}, "spec": {"selector": {},
        "template": {"spec": {"containers": [], "nodeSelector": {"os": "linux"}}}, "updateStrategy": update}}))
    .unwrap()
}

fn node(name: &str, taints: serde_json::Value) -> Arc<Node> {
    Arc::new(
        serde_json::from_value(
            json!({"metadata": {"name": name, "labels": {"os": "linux"}}, "spec": {"taints": taints}}),
        )
        .unwrap(),
    )
}

fn pod(name: &str, node: &str, hash: &str, state: &str) -> Arc<Pod> {
    let phase = if state.contains('f') { "Failed" } else { "Running" };
    let ready = if state.contains('r') { "True" } else { "False" };
    let mut p = json!({"metadata": {"name": name, "uid": name, "labels": {HASH_LABEL: hash}}, "spec": {"nodeName": node, "containers": []},
        "status": {"phase": phase, "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
    if state.contains('d') {
        p["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    }
    Arc::new(serde_json::from_value(p).unwrap())
}

fn by_node(pods: &[Arc<Pod>]) -> ByNode {
    let mut map = ByNode::new();
    for pod in pods {
        map.entry(target(pod).unwrap()).or_default().push(pod.clone());
    }
    map
}

fn names(pods: &[Arc<Pod>]) -> Vec<String> {
    pods.iter().map(|p| p.name().to_owned()).collect()
}

fn now() -> jiff::Timestamp {
    "2026-01-02T00:00:00Z".parse().unwrap()
}

#[test]
fn nodes_by_selector_and_taints() {
    let s = set(json!({"type": "RollingUpdate"}));
    for (taints, want) in [
        (json!([]), (true, true)),
        (json!([{"key": "node.kubernetes.io/not-ready", "effect": "NoExecute"}]), (true, true)),
        (json!([{"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}]), (true, true)),
        (json!([{"key": "x", "effect": "NoSchedule"}]), (false, true)),
        (json!([{"key": "x", "effect": "NoExecute"}]), (false, false)),
        (json!([{"key": "x", "effect": "PreferNoSchedule"}]), (true, true)),
    ] {
        assert_eq!(should_run(&s, &node("a", taints.clone())), want, "{taints}");
    }
    let bare: Node = serde_json::from_value(json!({"metadata": {"name": "b"}})).unwrap();
    assert_eq!(should_run(&s, &bare), (false, false));
}

#[test]
fn each_node_gets_one_pod() {
    let s = set(json!({"type": "RollingUpdate"}));
    let nodes =
        [node("a", json!([])), node("b", json!([])), node("c", json!([{"key": "x", "effect": "NoExecute"}]))];
    let pods = by_node(&[
        pod("b1", "b", "h", "r"),
        pod("b2", "b", "h", "r"),
        pod("b3", "b", "h", "f"),
        pod("c1", "c", "h", "r"),
    ]);
    let plan = manage(&s, &nodes, &pods, "h", now());
    assert_eq!(plan.create, ["a"]);
    assert_eq!(names(&plan.delete), ["b2", "c1"]);
    assert_eq!(names(&plan.failed), ["b3"]);
    let status = status(&s, &nodes, &pods, "h", None, now());
    assert_eq!(
        (status.desired_number_scheduled, status.current_number_scheduled, status.number_misscheduled),
        (2, 1, 1)
    );
    assert_eq!((status.number_ready, status.number_unavailable), (1, Some(1)));
}

#[test]
fn rolling_update_respects_max_unavailable() {
    let s = set(json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 2}}));
    let nodes = [node("a", json!([])), node("b", json!([])), node("c", json!([]))];
    let all_old = by_node(&[pod("a", "a", "o", "r"), pod("b", "b", "o", "r"), pod("c", "c", "o", "r")]);
    assert_eq!(names(&roll(&s, &nodes, &all_old, "h", now()).delete), ["a", "b"]);
    let one_down = by_node(&[pod("a", "a", "h", ""), pod("b", "b", "o", "r"), pod("c", "c", "o", "r")]);
    assert_eq!(names(&roll(&s, &nodes, &one_down, "h", now()).delete), ["b"]);
    let broken = by_node(&[pod("a", "a", "o", ""), pod("b", "b", "o", ""), pod("c", "c", "o", "")]);
    assert_eq!(names(&roll(&s, &nodes, &broken, "h", now()).delete), ["a", "b", "c"]);
    let on_delete = set(json!({"type": "OnDelete"}));
    assert_eq!(roll(&on_delete, &nodes, &all_old, "h", now()), Plan::default());
}

#[test]
fn surging_makes_the_new_pod_first() {
    let s = set(json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}));
    let nodes = [node("a", json!([])), node("b", json!([]))];
    let old = by_node(&[pod("a", "a", "o", "r"), pod("b", "b", "o", "r")]);
    assert_eq!(roll(&s, &nodes, &old, "h", now()).create, ["a"]);
    let half = by_node(&[pod("a", "a", "o", "r"), pod("a2", "a", "h", ""), pod("b", "b", "o", "r")]);
    assert_eq!(roll(&s, &nodes, &half, "h", now()), Plan::default());
    let ready = by_node(&[pod("a", "a", "o", "r"), pod("a2", "a", "h", "r"), pod("b", "b", "o", "r")]);
    let plan = roll(&s, &nodes, &ready, "h", now());
    assert_eq!((names(&plan.delete), plan.create), (vec!["a".to_owned()], vec!["b".to_owned()]));
}

#[test]
fn pods_are_pinned_by_node_name() {
    let pod = new_pod(&set(json!({})), "n1", "h");
    assert_eq!(target(&pod).as_deref(), Some("n1"));
    assert_eq!(pod.spec.unwrap().tolerations.unwrap().len(), 6);
}
