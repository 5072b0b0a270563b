use super::*;
use api::schema;

const NOW: &str = "2024-01-01T00:00:00Z";

fn versions() -> OneVersion<'static> {
    OneVersion(Type::of(schema::for_kind_parts("apps", "v1", "Deployment").unwrap()))
}

fn canonical(mut v: Value) -> Value {
    decode::conform(schema::for_kind_parts("apps", "v1", "Deployment").unwrap(), &mut v).unwrap();
    v
}

fn deployment() -> Value {
    canonical(
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "labels": {"app": "d"}, "uid": "u", "creationTimestamp": NOW},
        "spec": {"replicas": 1, "selector": {"matchLabels": {"app": "d"}}, "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%"}},
            "template": {"metadata": {"labels": {"app": "d"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}}),
    )
}

fn main_filter() -> Filter {
    Filter::builtin("apps", "deployments", "", true)
}

/// What a real server records for the same object.
#[test]
fn a_create_is_put_down_to_its_manager() {
    let mut new = deployment();
    let m = Manager::update("kubectl-create", "apps/v1", "");
    update(&versions(), None, &mut new, &m, &main_filter(), NOW);
    assert_eq!(
        new["metadata"]["managedFields"],
        json!([{"manager": "kubectl-create", "operation": "Update", "apiVersion": "apps/v1", "time": NOW, "fieldsType": "FieldsV1",
            "fieldsV1": {"f:metadata": {"f:labels": {".": {}, "f:app": {}}}, "f:spec": {"f:replicas": {}, "f:selector": {},
                "f:strategy": {"f:rollingUpdate": {".": {}, "f:maxSurge": {}}, "f:type": {}},
                "f:template": {"f:metadata": {"f:labels": {".": {}, "f:app": {}}},
                    "f:spec": {"f:containers": {"k:{\"name\":\"c\"}": {".": {}, "f:image": {}, "f:name": {}, "f:resources": {}}}}}}}}])
    );
}

#[test]
fn later_writers_take_fields_over() {
    let v = versions();
    let mut live = deployment();
    update(&v, None, &mut live, &Manager::update("a", "apps/v1", ""), &main_filter(), NOW);

    let mut new = live.clone();
    new["spec"]["replicas"] = 2.into();
    new["spec"]["template"]["spec"]["containers"] = json!([{"name": "c2", "resources": {}}]);
    update(
        &v,
        Some(&live),
        &mut new,
        &Manager::update("b", "apps/v1", ""),
        &main_filter(),
        "2024-01-02T00:00:00Z",
    );
    let entries = new["metadata"]["managedFields"].as_array().unwrap();
    assert_eq!(entries.len(), 2);
    assert_eq!(entries[0]["manager"], "a");
    assert!(entries[0]["fieldsV1"]["f:spec"].get("f:replicas").is_none());
    assert!(entries[0].pointer("/fieldsV1/f:spec/f:template/f:spec").is_none(), "its container is gone");
    assert_eq!(
        entries[1]["fieldsV1"],
        json!({"f:spec": {"f:replicas": {}, "f:template": {"f:spec": {"f:containers": {
            "k:{\"name\":\"c2\"}": {".": {}, "f:name": {}, "f:resources": {}}}}}}})
    );

    // The same manager again: one entry, later time. A write that changes nothing: no change at all.
    let mut again = new.clone();
    again["metadata"]["labels"]["x"] = "y".into();
    update(
        &v,
        Some(&new),
        &mut again,
        &Manager::update("b", "apps/v1", ""),
        &main_filter(),
        "2024-01-03T00:00:00Z",
    );
    assert_eq!(again["metadata"]["managedFields"].as_array().unwrap().len(), 2);
    assert_eq!(again["metadata"]["managedFields"][1]["time"], "2024-01-03T00:00:00Z");
    let mut same = again.clone();
    strip(&mut same);
    update(
        &v,
        Some(&again),
        &mut same,
        &Manager::update("b", "apps/v1", ""),
        &main_filter(),
        "2024-01-04T00:00:00Z",
    );
    assert_eq!(same, again);
}

#[test]
fn status_writes_are_their_own_entry() {
    let v = versions();
    let mut live = deployment();
    update(&v, None, &mut live, &Manager::update("a", "apps/v1", ""), &main_filter(), NOW);
    let mut new = live.clone();
    new["status"] = json!({"replicas": 1, "conditions": [{"type": "Available", "status": "True"}]});
    new["metadata"]["managedFields"] = json!([]);
    let filter = Filter::builtin("apps", "deployments", "status", true);
    update(&v, Some(&live), &mut new, &Manager::update("kcm", "apps/v1", "status"), &filter, NOW);
    let entries = new["metadata"]["managedFields"].as_array().unwrap();
    assert_eq!(entries[1]["subresource"], "status");
    assert_eq!(
        entries[1]["fieldsV1"],
        json!({"f:status": {"f:conditions": {".": {}, "k:{\"type\":\"Available\"}": {".": {}, "f:lastTransitionTime": {}, "f:lastUpdateTime": {}, "f:status": {}, "f:type": {}}}, "f:replicas": {}}})
    );
}

#[test]
fn tracking_can_be_reset_and_is_capped() {
    let v = versions();
    let mut live = deployment();
    for i in 0..14 {
        let before = live.clone();
        live["metadata"]["labels"][format!("l{i}")] = "x".into();
        let at = format!("2024-01-01T00:00:{i:02}Z");
        let m = Manager::update(&format!("m{i}"), "apps/v1", "");
        update(&v, (i > 0).then_some(&before), &mut live, &m, &main_filter(), &at);
    }
    let entries = live["metadata"]["managedFields"].as_array().unwrap();
    assert_eq!(entries.len(), MAX_UPDATE_MANAGERS);
    assert!(entries.iter().any(|e| e["manager"] == "ancient-changes"));

    let mut new = live.clone();
    new["metadata"]["managedFields"] = json!([{}]);
    update(&v, Some(&live), &mut new, &Manager::update("b", "apps/v1", ""), &main_filter(), NOW);
    assert!(new["metadata"].get("managedFields").is_none());
}

#[test]
fn names_come_from_the_user_agent() {
    assert_eq!(manager_name("", "kubectl/v1.36.0 (linux/amd64)"), "kubectl");
    assert_eq!(manager_name("mine", "kubectl/v1"), "mine");
    assert_eq!(manager_name("", &"x".repeat(300)).len(), 128);
}
