use super::*;
use crate::managed::OneVersion;
use api::{decode, schema};

const NOW: &str = "2024-01-01T00:00:00Z";

fn gvk() -> GroupVersionKind {
    GroupVersionKind::new("apps", "v1", "Deployment")
}

fn run(live: Option<&Value>, applied: &Value, who: &str, force: bool) -> Result<Value, Status> {
    let message = schema::for_kind(&gvk()).unwrap();
    let versions = OneVersion(Type::of(message));
    let filter = Filter::builtin("apps", "deployments", "", true);
    let manager = Manager::apply(who, "apps/v1", "");
    let mut out = apply(&versions, &gvk(), live, applied, &manager, force, &filter, NOW)?;
    decode::conform(message, &mut out).unwrap();
    Ok(out)
}

fn config(spec: Value) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": spec})
}

fn fields<'a>(object: &'a Value, who: &str) -> &'a Value {
    let entries = object["metadata"]["managedFields"].as_array().unwrap();
    &entries.iter().find(|e| e["manager"] == who).unwrap_or(&Value::Null)["fieldsV1"]
}

#[test]
fn applying_creates_updates_and_prunes() {
    let first = config(json!({"replicas": 2, "paused": true, "template": {"spec": {"containers": [
        {"name": "a", "image": "1", "ports": [{"containerPort": 80}]}, {"name": "b", "image": "1"}]}}}));
    let live = run(None, &first, "me", false).unwrap();
    assert_eq!(
        *fields(&live, "me"),
        json!({"f:spec": {"f:paused": {}, "f:replicas": {}, "f:template": {"f:spec": {"f:containers": {
            "k:{\"name\":\"a\"}": {".": {}, "f:image": {}, "f:name": {}, "f:ports": {"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}}},
            "k:{\"name\":\"b\"}": {".": {}, "f:image": {}, "f:name": {}}}}}}})
    );
    let second =
        config(json!({"replicas": 3, "template": {"spec": {"containers": [{"name": "a", "image": "2"}]}}}));
    let live = run(Some(&live), &second, "me", false).unwrap();
    assert_eq!(live["spec"]["replicas"], 3);
    assert!(live["spec"].get("paused").is_none());
    assert_eq!(
        live["spec"]["template"]["spec"]["containers"],
        json!([{"name": "a", "image": "2", "resources": {}}])
    );

    // Applying the same again changes nothing, not even a time.
    assert_eq!(run(Some(&live), &second, "me", false).unwrap(), live);
}

#[test]
fn another_owner_is_a_conflict_unless_forced_or_agreed_with() {
    let live = run(None, &config(json!({"replicas": 1, "paused": true})), "one", false).unwrap();
    let e = run(Some(&live), &config(json!({"replicas": 2})), "two", false).unwrap_err();
    assert_eq!(e.message, "Apply failed with 1 conflict: conflict with \"one\": .spec.replicas");
    assert_eq!((e.code, e.reason), (409, "Conflict"));
    let details = e.details.unwrap();
    assert_eq!(details.causes[0].reason, "FieldManagerConflict");
    assert_eq!(details.causes[0].field, ".spec.replicas");

    let e = run(Some(&live), &config(json!({"replicas": 2, "paused": false})), "two", false).unwrap_err();
    assert_eq!(
        e.message,
        "Apply failed with 2 conflicts: conflicts with \"one\":\n- .spec.paused\n- .spec.replicas"
    );

    let forced = run(Some(&live), &config(json!({"replicas": 2})), "two", true).unwrap();
    assert_eq!(*fields(&forced, "one"), json!({"f:spec": {"f:paused": {}}}));
    assert_eq!(*fields(&forced, "two"), json!({"f:spec": {"f:replicas": {}}}));

    // Shared ownership: what one stops applying stays while the other still does.
    let shared = run(Some(&live), &config(json!({"replicas": 1})), "two", false).unwrap();
    let left = run(Some(&shared), &config(json!({"paused": true})), "one", false).unwrap();
    assert_eq!(left["spec"]["replicas"], 1);
    assert_eq!(*fields(&left, "one"), json!({"f:spec": {"f:paused": {}}}));
}

#[test]
fn what_was_there_before_belongs_to_no_applier() {
    let mut live = config(json!({"replicas": 5}));
    decode::conform(schema::for_kind(&gvk()).unwrap(), &mut live).unwrap();
    live["metadata"]["uid"] = "u".into();
    let e = run(Some(&live), &config(json!({"replicas": 6})), "me", false).unwrap_err();
    assert_eq!(
        e.message,
        "Apply failed with 1 conflict: conflict with \"before-first-apply\" using apps/v1: .spec.replicas"
    );
    let out = run(Some(&live), &config(json!({"paused": true})), "me", false).unwrap();
    assert_eq!((&out["spec"]["replicas"], &out["spec"]["paused"]), (&json!(5), &json!(true)));
}

#[test]
fn kubectl_may_override_its_own_client_side_past() {
    let last = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": {"replicas": 5}});
    let mut live = config(json!({"replicas": 5}));
    live["metadata"]["annotations"] = json!({LAST_APPLIED: last.to_string()});
    live["metadata"]["uid"] = "u".into();
    decode::conform(schema::for_kind(&gvk()).unwrap(), &mut live).unwrap();
    let out = run(Some(&live), &config(json!({"replicas": 6})), "kubectl", false).unwrap();
    assert_eq!(out["spec"]["replicas"], 6);
    let annotation = out["metadata"]["annotations"][LAST_APPLIED].as_str().unwrap();
    assert!(annotation.contains("\"replicas\":6") && annotation.ends_with('\n'));
}

#[test]
fn bad_configurations_are_refused() {
    let e = run(None, &config(json!({"foo": 1})), "me", false).unwrap_err();
    assert_eq!(
        e.message,
        "failed to create typed patch object (/d; apps/v1, Kind=Deployment): .spec.foo: field not declared in schema"
    );
    let mut with_entries = config(json!({}));
    with_entries["metadata"]["managedFields"] = json!([{"manager": "x"}]);
    assert_eq!(
        run(None, &with_entries, "me", false).unwrap_err().message,
        "metadata.managedFields must be nil"
    );
    assert_eq!(run(None, &json!({"apiVersion": "v1", "kind": "Pod"}), "me", false).unwrap_err().code, 400);
}
