use super::*;
use serde_json::json;

fn set(replicas: i32, extra: serde_json::Value) -> StatefulSet {
    let mut s = json!({"metadata": {"name": "s", "namespace": "n"}, "spec": {"replicas": replicas, "selector": {},
        "serviceName": "s", "template": {}, "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}}}});
    s["spec"].as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    serde_json::from_value(s).unwrap()
}

/// `name:revision` followed by `r` ready, `p` pending, `f` failed, and `d` deleting.
fn pods(list: &[&str]) -> Vec<Arc<Pod>> {
    let pod = |text: &&str| {
        let (name, rest) = text.split_once(':').unwrap();
        let (revision, state) = rest.split_at(1);
        let phase = if state.contains('p') {
            "Pending"
        } else if state.contains('f') {
            "Failed"
        } else {
            "Running"
        };
        let ready = if state.contains('r') { "True" } else { "False" };
        let mut pod = json!({"metadata": {"name": name, "namespace": "n", "uid": name,
            "labels": {"statefulset.kubernetes.io/pod-name": name, HASH_LABEL: revision}},
            "spec": {"containers": []},
            "status": {"phase": phase, "conditions": [{"type": "Ready", "status": ready}]}});
        if state.contains('d') {
            pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        Arc::new(serde_json::from_value(pod).unwrap())
    };
    list.iter().map(pod).collect()
}

fn steps(set: &StatefulSet, list: &[&str], many: bool) -> Vec<String> {
    let revisions = Revisions { current: "a", update: "b" };
    let all = actions(set, &pods(list), revisions, many, "2026-01-01T00:00:00Z".parse().unwrap());
    let text = |a: Action| match a {
        Action::Create { ordinal, update } => format!("create {ordinal}{}", if update { "b" } else { "a" }),
        Action::Claims(p) => format!("claims {}", p.name()),
        Action::Repair(p) => format!("repair {}", p.name()),
        Action::Retain(p) => format!("retain {}", p.name()),
        Action::Delete(p) => format!("delete {}", p.name()),
    };
    all.into_iter().map(text).collect()
}

#[test]
fn ordered_sets_take_one_step_at_a_time() {
    let s = set(3, json!({}));
    let cases: &[(&[&str], &[&str])] = &[
        (&[], &["create 0b"]),
        (&["s-0:bp"], &["claims s-0"]),
        (&["s-0:br"], &["create 1b"]),
        (&["s-0:br", "s-1:b", "s-2:br"], &[]),
        (&["s-0:br", "s-1:bf", "s-2:br"], &["delete s-1"]),
        (&["s-0:br", "s-1:brd", "s-2:br"], &[]),
        (&["s-0:br", "s-1:br", "s-2:br", "s-3:br", "s-4:br"], &["retain s-4", "retain s-3", "delete s-4"]),
        (&["s-0:br", "s-1:br", "s-2:br", "s-3:b", "s-4:br"], &["retain s-4", "retain s-3", "delete s-4"]),
        (&["s-0:br", "s-1:br", "s-2:br", "s-3:br", "s-4:brd"], &["retain s-4", "retain s-3"]),
        // Rolling update: from the top, one at a time.
        (&["s-0:ar", "s-1:ar", "s-2:ar"], &["delete s-2"]),
        (&["s-0:ar", "s-1:ar", "s-2:br"], &["delete s-1"]),
        (&["s-0:ar", "s-1:ar", "s-2:b"], &[]),
        (&["s-0:br", "s-1:br", "s-2:br"], &[]),
    ];
    for (pods, want) in cases {
        assert_eq!(steps(&s, pods, false), *want, "{pods:?}");
    }
}

#[test]
fn parallel_sets_take_all_steps() {
    let s = set(3, json!({"podManagementPolicy": "Parallel"}));
    assert_eq!(steps(&s, &[], false), ["create 0b", "create 1b", "create 2b"]);
    assert_eq!(
        steps(&s, &["s-0:b", "s-1:br", "s-2:br", "s-3:br", "s-4:b"], false),
        ["retain s-4", "retain s-3", "delete s-4", "delete s-3"]
    );
}

#[test]
fn partition_start_and_max_unavailable() {
    let partition =
        |p: i32| json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": p}}});
    assert_eq!(steps(&set(3, partition(2)), &["s-0:ar", "s-1:ar", "s-2:br"], false), Vec::<String>::new());
    assert_eq!(steps(&set(3, partition(2)), &["s-0:ar", "s-2:br"], false), ["create 1a"]);
    assert_eq!(steps(&set(2, json!({"ordinals": {"start": 5}})), &["s-5:br"], false), ["create 6b"]);
    let two = json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0, "maxUnavailable": 2}}});
    assert_eq!(steps(&set(3, two), &["s-0:ar", "s-1:ar", "s-2:ar"], true), ["delete s-2", "delete s-1"]);
    assert!(
        steps(
            &set(3, json!({"updateStrategy": {"type": "OnDelete"}})),
            &["s-0:ar", "s-1:ar", "s-2:ar"],
            false
        )
        .is_empty()
    );
}

#[test]
fn a_finished_update_becomes_current() {
    let revisions = Revisions { current: "a", update: "b" };
    let now = "2026-01-01T00:00:00Z".parse().unwrap();
    let s = set(2, json!({}));
    let mid = status(&s, &pods(&["s-0:ar", "s-1:br"]), revisions, 0, now);
    assert_eq!(
        (mid.current_replicas, mid.updated_replicas, mid.current_revision.as_deref()),
        (Some(1), Some(1), Some("a"))
    );
    let done = status(&s, &pods(&["s-0:br", "s-1:br"]), revisions, 0, now);
    assert_eq!((done.current_replicas, done.current_revision.as_deref()), (Some(2), Some("b")));
}
