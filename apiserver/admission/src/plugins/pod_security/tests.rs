use super::*;
use crate::testing::{create, create_pod, deps, update};
use api::json;
use auth::testing::FakeRegistry;
use policy::Version;

/// Pods that each version of each level must let pass or refuse.
#[test]
fn published_fixtures() {
    let data: Value = serde_json::from_str(include_str!("../../testdata/pod-security.json")).unwrap();
    let mut count = 0;
    for (level, versions) in data["cases"].as_object().unwrap() {
        for (version, outcomes) in versions.as_object().unwrap() {
            let policy = LevelVersion {
                level: Level::parse(level).unwrap(),
                version: Version::parse(version).unwrap(),
            };
            for (outcome, indices) in outcomes.as_object().unwrap() {
                for index in indices.as_array().unwrap() {
                    let pod = &data["pods"][index.as_u64().unwrap() as usize];
                    let found = evaluate(policy, &Pod { metadata: &pod["metadata"], spec: &pod["spec"] });
                    assert_eq!(found.is_empty(), outcome == "pass", "{policy} {outcome} {pod} {found:?}");
                    count += 1;
                }
            }
        }
    }
    assert!(count > 3000, "{count} cases");
}

fn namespace(labels: Value) -> Value {
    json!({"metadata": {"name": "ns", "labels": labels}})
}

fn plugin(ns: Value, config: Value) -> PodSecurity {
    let registry = FakeRegistry::with([(("", "namespaces"), ns)]);
    PodSecurity::new(&deps(&registry), Some(&config)).unwrap()
}

fn privileged_pod() -> Value {
    json!({"metadata": {"name": "p"}, "spec": {"containers": [
        {"name": "c", "image": "i", "securityContext": {"privileged": true}}]}})
}

#[tokio::test]
async fn pods_are_refused_and_workloads_warned_of() {
    let plugin = plugin(namespace(json!({"pod-security.kubernetes.io/enforce": "baseline"})), Value::Null);
    let mut pod = create_pod(privileged_pod());
    let error = plugin.validate(&mut pod).await.unwrap_err();
    assert_eq!(
        error.message,
        "pods \"p\" is forbidden: violates PodSecurity \"baseline:latest\": privileged (container \"c\" must not set securityContext.privileged=true)"
    );
    assert!(
        pod.annotations
            .contains(&("pod-security.kubernetes.io/enforce-policy".into(), "baseline:latest".into()))
    );
    let deployment = json!({"metadata": {"name": "d"}, "spec": {"template": privileged_pod()}});
    let mut deployment = create(("apps", "deployments"), "Deployment", deployment);
    plugin.validate(&mut deployment).await.unwrap();
    assert_eq!(deployment.warnings.len(), 1);
    assert!(deployment.warnings[0].starts_with("would violate PodSecurity \"baseline:latest\": privileged"));
}

#[tokio::test]
async fn ephemeral_containers_obey_too() {
    let plugin = plugin(namespace(json!({"pod-security.kubernetes.io/enforce": "baseline"})), Value::Null);
    let old = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let mut new = old.clone();
    new["spec"]["ephemeralContainers"] =
        json!([{"name": "debug", "image": "x", "securityContext": {"privileged": true}}]);
    let mut a = update(("", "pods"), "Pod", old, new);
    a.subresource = "ephemeralcontainers".into();
    assert_eq!(plugin.validate(&mut a).await.unwrap_err().code, 403);
}

#[tokio::test]
async fn exemptions_and_defaults_come_from_the_configuration() {
    let config = json!({"defaults": {"enforce": "restricted"}, "exemptions": {"usernames": ["alice"]}});
    let exempt = plugin(namespace(json!({})), config);
    exempt.validate(&mut create_pod(privileged_pod())).await.unwrap();
    let strict = plugin(namespace(json!({})), json!({"defaults": {"enforce": "restricted"}}));
    assert!(strict.validate(&mut create_pod(privileged_pod())).await.is_err());
    let class = json!({"defaults": {"enforce": "restricted"}, "exemptions": {"runtimeClasses": ["vm"]}});
    let mut pod = privileged_pod();
    pod["spec"]["runtimeClassName"] = "vm".into();
    plugin(namespace(json!({})), class).validate(&mut create_pod(pod)).await.unwrap();
}

#[tokio::test]
async fn a_stricter_namespace_hears_of_its_pods_and_bad_labels_are_refused() {
    let old = namespace(json!({}));
    let mut pod = privileged_pod();
    pod["metadata"]["namespace"] = "ns".into();
    let registry = FakeRegistry::with([(("", "namespaces"), old.clone()), (("", "pods"), pod)]);
    let plugin = PodSecurity::new(&deps(&registry), None).unwrap();
    let change = |label: &str| {
        let new = namespace(json!({"pod-security.kubernetes.io/enforce": label}));
        update(("", "namespaces"), "Namespace", old.clone(), new)
    };
    let mut a = change("baseline");
    plugin.validate(&mut a).await.unwrap();
    assert_eq!(
        a.warnings,
        [
            "existing pods in namespace \"ns\" violate the new PodSecurity enforce level \"baseline:latest\"",
            "p: privileged"
        ]
    );
    let error = plugin.validate(&mut change("strict")).await.unwrap_err();
    assert_eq!(error.code, 422);
    assert!(error.message.contains(
        "metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: \"strict\": must be one of privileged, baseline, restricted"
    ), "{}", error.message);
}
