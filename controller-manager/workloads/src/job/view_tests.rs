use super::*;
use serde_json::{Value, json};

fn job(spec: Value, status: Value) -> Job {
    let mut all = json!({"parallelism": 2, "completions": 3, "backoffLimit": 1, "template": {"spec": {"containers": [], "restartPolicy": "Never"}}});
    all.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    serde_json::from_value(
        json!({"metadata": {"name": "j", "namespace": "n"}, "spec": all, "status": status}),
    )
    .unwrap()
}

fn pod(name: &str, phase: &str, index: Option<i32>, extra: Value) -> Arc<Pod> {
    let mut meta =
        json!({"name": name, "namespace": "n", "uid": name, "finalizers": [FINALIZER], "annotations": {}});
    if let Some(i) = index {
        meta["annotations"][INDEX] = json!(i.to_string());
    }
    for (k, v) in extra.as_object().unwrap() {
        if k == "failures" { meta["annotations"][FAILURES] = v.clone() } else { meta[k] = v.clone() }
    }
    Arc::new(serde_json::from_value(json!({"metadata": meta, "status": {"phase": phase}})).unwrap())
}

fn now() -> Time {
    Time("2026-01-01T00:00:00Z".parse().unwrap())
}

fn seen(job: &Job, pods: &[Arc<Pod>]) -> View {
    look(job, pods.to_vec(), &HashSet::new(), &now())
}

fn why(view: &View) -> String {
    view.verdict
        .as_ref()
        .map(|c| format!("{} {}", c.type_, c.reason.as_deref().unwrap_or_default()))
        .unwrap_or_default()
}

#[test]
fn plain_jobs_fill_up_to_parallelism_and_completions() {
    let j = job(json!({}), json!({}));
    let none = json!({});
    assert_eq!(manage(&j, &seen(&j, &[]), now().0), Manage::Create(2));
    let one_done = [pod("a", "Succeeded", None, none.clone()), pod("b", "Running", None, none.clone())];
    assert_eq!(manage(&j, &seen(&j, &one_done), now().0), Manage::Create(1));
    let two_done = [
        pod("a", "Succeeded", None, none.clone()),
        pod("b", "Succeeded", None, none.clone()),
        pod("c", "Running", None, none.clone()),
    ];
    assert_eq!(manage(&j, &seen(&j, &two_done), now().0), Manage::Nothing);
    let s = job(json!({"suspend": true}), json!({}));
    assert!(matches!(manage(&s, &seen(&s, &two_done), now().0), Manage::Delete(p) if p.len() == 1));
    // A pod on its way out is replaced at once, unless the policy says to wait.
    let going = [pod("a", "Running", None, json!({"deletionTimestamp": "2026-01-01T00:00:00Z"}))];
    assert_eq!(manage(&j, &seen(&j, &going), now().0), Manage::Create(2));
    let patient = job(json!({"podReplacementPolicy": "Failed"}), json!({}));
    assert_eq!(manage(&patient, &seen(&patient, &going), now().0), Manage::Create(1));
}

#[test]
fn jobs_fail_by_limit_deadline_and_policy() {
    let failed = [pod("a", "Failed", None, json!({})), pod("b", "Failed", None, json!({}))];
    let j = job(json!({}), json!({}));
    assert_eq!(why(&seen(&j, &failed[..1])), "");
    assert_eq!(why(&seen(&j, &failed)), "FailureTarget BackoffLimitExceeded");
    let counted = job(json!({}), json!({"failed": 1}));
    assert_eq!(why(&seen(&counted, &failed[..1])), "FailureTarget BackoffLimitExceeded");
    let late = job(json!({"activeDeadlineSeconds": 10}), json!({"startTime": "2025-12-31T23:59:50Z"}));
    assert_eq!(why(&seen(&late, &[])), "FailureTarget DeadlineExceeded");
    let early = job(json!({"activeDeadlineSeconds": 10}), json!({"startTime": "2025-12-31T23:59:51Z"}));
    assert_eq!(deadline_left(&early, &now()), Some(1));
}

#[test]
fn ended_pods_are_written_down_before_their_finalizer_goes() {
    let j = job(json!({}), json!({"uncountedTerminatedPods": {"succeeded": ["a"]}}));
    let pods = [
        pod("a", "Succeeded", None, json!({})),
        pod("b", "Failed", None, json!({})),
        pod("c", "Running", None, json!({})),
    ];
    let view = seen(&j, &pods);
    assert_eq!((view.succeeded, view.failed), (1, 1));
    let tracked = track(&j, &view, &HashSet::new());
    assert_eq!(tracked.uncounted.succeeded, Some(vec!["a".to_owned()]));
    assert_eq!(tracked.uncounted.failed, Some(vec!["b".to_owned()]));
    assert_eq!(tracked.release.len(), 2);
    let again = look(&j, pods.to_vec(), &HashSet::from(["b".to_owned()]), &now());
    assert!(again.newly_failed.is_empty());
}

#[test]
fn indexed_jobs_take_the_lowest_open_indexes() {
    let j = job(
        json!({"completionMode": "Indexed", "completions": 5, "parallelism": 3}),
        json!({"completedIndexes": "0"}),
    );
    let pods = [pod("a", "Succeeded", Some(2), json!({})), pod("b", "Running", Some(1), json!({}))];
    let view = seen(&j, &pods);
    assert_eq!(view.succeeded, 2);
    assert_eq!(manage(&j, &view, now().0), Manage::CreateIndexes(vec![3, 4]));
    assert_eq!(track(&j, &view, &HashSet::new()).succeeded_indexes.text(), "0,2");
    let doubled = [
        pod("a", "Running", Some(1), json!({})),
        pod("b", "Running", Some(1), json!({})),
        pod("c", "Running", Some(9), json!({})),
    ];
    assert!(matches!(manage(&j, &seen(&j, &doubled), now().0), Manage::Delete(p) if p.len() == 2));
}

#[test]
fn indexes_fail_by_their_own_limit() {
    let j = job(
        json!({"completionMode": "Indexed", "completions": 2, "backoffLimit": 100, "backoffLimitPerIndex": 1}),
        json!({}),
    );
    let first = [pod("a", "Failed", Some(0), json!({}))];
    let view = seen(&j, &first);
    assert_eq!(view.kept.len(), 1);
    // The failed pod stays until its successor knows the count.
    assert!(track(&j, &view, &HashSet::new()).release.is_empty());
    assert_eq!(manage(&j, &view, now().0), Manage::CreateIndexes(vec![0, 1]));
    let second =
        [pod("a", "Failed", Some(0), json!({"failures": "1"})), pod("b", "Succeeded", Some(1), json!({}))];
    let view = seen(&j, &second);
    assert_eq!(view.failed_indexes.as_ref().map(Indexes::text).as_deref(), Some("0"));
    assert_eq!(why(&view), "FailureTarget FailedIndexes");
}
