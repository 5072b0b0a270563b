use super::*;
use serde_json::json;

fn deployment(replicas: i32, surge: serde_json::Value, unavailable: serde_json::Value) -> Deployment {
    serde_json::from_value(json!({"metadata": {"name": "d"}, "spec": {"replicas": replicas, "selector": {},
        "template": {}, "strategy": {"type": "RollingUpdate",
        "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}}}}))
    .unwrap()
}

fn set(name: &str, replicas: i32, available: i32, max: i32) -> Arc<ReplicaSet> {
    Arc::new(
        serde_json::from_value(json!({"metadata": {"name": name, "uid": name,
            "creationTimestamp": format!("2026-01-01T00:00:0{}Z", name.len()),
            "annotations": {MAX: max.to_string(), DESIRED: replicas.to_string()}},
            "spec": {"replicas": replicas, "selector": {}}, "status": {"replicas": replicas, "availableReplicas": available}}))
        .unwrap(),
    )
}

#[test]
fn percentages_round_surge_up_and_unavailable_down() {
    for (replicas, surge, unavailable, want) in [
        (10, json!("25%"), json!("25%"), (3, 2)),
        (1, json!("25%"), json!("25%"), (1, 0)),
        (10, json!(0), json!("1%"), (0, 1)),
        (4, json!(2), json!(1), (2, 1)),
    ] {
        let d = deployment(replicas, surge, unavailable);
        assert_eq!((max_surge(&d), max_unavailable(&d)), want);
    }
}

#[test]
fn a_new_set_grows_into_the_surge() {
    let d = deployment(10, json!(3), json!(2));
    for (total, current, want) in [(10, 0, 3), (13, 3, 3), (11, 3, 5), (8, 5, 10), (0, 0, 10)] {
        assert_eq!(new_size(&d, total, current), want, "{total} {current}");
    }
}

#[test]
fn old_sets_shrink_only_as_far_as_pods_are_available() {
    let d = deployment(10, json!(3), json!(2));
    let resize = |name: &str, to| Resize { name: name.into(), to };
    let cases: Vec<(Arc<ReplicaSet>, Sets, Vec<Resize>)> = vec![
        (set("new", 0, 0, 13), vec![set("a", 10, 10, 13)], vec![resize("a", 8)]),
        (set("new", 5, 0, 13), vec![set("a", 8, 8, 13)], vec![]),
        (set("new", 5, 5, 13), vec![set("a", 8, 8, 13)], vec![resize("a", 3)]),
        // Unhealthy pods of the oldest go first and cost no availability.
        (set("new", 0, 0, 13), vec![set("a", 8, 8, 13), set("bb", 5, 0, 13)], vec![resize("bb", 0)]),
        (set("new", 10, 10, 13), vec![set("a", 0, 0, 13)], vec![]),
    ];
    for (new, old, want) in cases {
        assert_eq!(shrink_old(&d, &new, &old), want);
    }
}

#[test]
fn scaling_during_a_rollout_is_proportional() {
    let mut d = deployment(20, json!(3), json!(2));
    let old: Sets = vec![set("a", 8, 8, 13)];
    let new = set("bb", 5, 5, 13);
    let Scale::Forced(sizes) = scale(&d, Some(&new), &old) else { panic!("not proportional") };
    assert_eq!(sizes.iter().map(|r| (r.name.as_str(), r.to)).collect::<Vec<_>>(), [("a", 14), ("bb", 9)]);
    d.spec.as_mut().unwrap().replicas = Some(0);
    let Scale::Forced(sizes) = scale(&d, Some(&new), &old) else { panic!("not proportional") };
    assert!(sizes.iter().all(|r| r.to == 0));
    // One active set takes all of it.
    let d = deployment(7, json!(1), json!(0));
    assert_eq!(scale(&d, Some(&new), &vec![]), Scale::Lazy(vec![Resize { name: "bb".into(), to: 7 }]));
}

#[test]
fn the_hash_label_does_not_make_a_template_new() {
    let t = |labels: serde_json::Value| -> PodTemplateSpec {
        serde_json::from_value(json!({"metadata": {"labels": labels}, "spec": {"containers": []}})).unwrap()
    };
    assert!(same_template(&t(json!({"a": "b", HASH: "x"})), &t(json!({"a": "b"}))));
    assert!(!same_template(&t(json!({"a": "c"})), &t(json!({"a": "b"}))));
}

#[test]
fn history_keeps_the_newest_idle_sets() {
    let mut d = deployment(1, json!(1), json!(0));
    d.spec.as_mut().unwrap().revision_history_limit = Some(1);
    let with_revision = |name: &str, replicas, revision: &str| {
        let mut s = (*set(name, replicas, 0, 1)).clone();
        s.metadata.annotations.get_or_insert_default().insert(REVISION.into(), revision.into());
        Arc::new(s)
    };
    let old = vec![with_revision("c", 0, "3"), with_revision("a", 0, "1"), with_revision("b", 1, "2")];
    let names: Vec<_> = surplus_history(&d, &old).iter().map(|s| s.name().to_owned()).collect();
    assert_eq!(names, ["a"]);
}
