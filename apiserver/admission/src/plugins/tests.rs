//! Each plugin's promises, through the plugin itself.

use super::*;
use crate::attributes::{Attributes, Operation};
use crate::testing::{create, create_pod, deps, deps_with, request, update};
use api::json;
use api::registry::{Reader, Registry};
use auth::testing::FakeRegistry;
use auth::{Authorizer, UserInfo, Verdict};
use std::collections::BTreeSet;

mod amounts;
mod rights;

fn pod(spec: Value) -> Value {
    let mut spec = spec;
    if spec["containers"].is_null() {
        spec["containers"] = json!([{"name": "c", "image": "i"}]);
    }
    json!({"metadata": {"name": "p", "namespace": "ns"}, "spec": spec})
}

fn sized_pod(cpu: &str) -> Value {
    pod(json!({"containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": cpu}}}]}))
}

fn named(name: &str) -> Value {
    json!({"metadata": {"name": name, "namespace": "ns", "uid": format!("{name}-uid")}})
}

fn message(outcome: api::status::Result<()>) -> String {
    outcome.map_or_else(|e| e.message, |()| String::new())
}

#[test]
fn the_table_has_every_plugin_once_in_order() {
    let names: Vec<&str> = TABLE.iter().map(|r| r.name).collect();
    assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
    assert_eq!((names.len(), names[0], names[names.len() - 1]), (41, "AlwaysAdmit", "AlwaysDeny"));
}

#[test]
fn unknown_and_contradictory_flags_are_errors() {
    let deps = deps(&FakeRegistry::new());
    let build = |enable: &[&str], disable: &[&str]| {
        let list = |l: &[&str]| l.iter().map(|s| (*s).to_owned()).collect();
        let options = crate::Options { enable: list(enable), disable: list(disable), config_file: None };
        crate::Chain::new(&options, &deps).map(|c| c.names())
    };
    assert!(build(&["Nope"], &[]).is_err());
    assert!(build(&["NodeRestriction"], &["NodeRestriction"]).is_err());
    let names = build(&["NodeRestriction"], &["LimitRanger"]).unwrap();
    assert!(names.contains(&"NodeRestriction") && names.contains(&"ResourceQuota"));
    assert!(!names.contains(&"LimitRanger") && !names.contains(&"AlwaysDeny"));
}

#[tokio::test]
async fn namespaces_that_are_missing_or_going_away_take_nothing_new() {
    let gr = ("", "namespaces");
    let ns = |name: &str, phase: &str| json!({"metadata": {"name": name}, "status": {"phase": phase}});
    let registry = FakeRegistry::with([(gr, ns("ns", "Active")), (gr, ns("going", "Terminating"))]);
    registry.put_unseen(gr, ns("new", "Active"));
    let plugin = lifecycle::Lifecycle::new(&deps(&registry));
    let ask = async |operation, namespace: &str| {
        let mut a = request(operation, ("", "pods"), "Pod", named("p"));
        a.namespace = namespace.into();
        plugin.admit(&mut a).await
    };
    assert_eq!(ask(Operation::Create, "ns").await, Ok(()));
    assert_eq!(ask(Operation::Create, "new").await, Ok(()));
    assert_eq!(ask(Operation::Create, "gone").await.unwrap_err().code, 404);
    assert_eq!(ask(Operation::Update, "going").await, Ok(()));
    let error = ask(Operation::Create, "going").await.unwrap_err();
    assert_eq!(
        error.message,
        "pods \"p\" is forbidden: unable to create new content in namespace going because it is being terminated"
    );
    assert_eq!(error.details.unwrap().causes[0].reason, "NamespaceTerminating");
    for (name, refused) in [("default", true), ("kube-system", true), ("kube-public", true), ("ns", false)] {
        let mut a = request(Operation::Delete, gr, "Namespace", json!({"metadata": {"name": name}}));
        assert_eq!(plugin.admit(&mut a).await.is_err(), refused, "{name}");
    }
    // Memory says active, but it was just deleted here: etcd is asked.
    assert_eq!(ask(Operation::Create, "ns").await, Ok(()));
}

fn with_account(account: Value) -> Arc<FakeRegistry> {
    FakeRegistry::with([(("", "serviceaccounts"), account)])
}

#[tokio::test]
async fn pods_get_their_account_and_token() {
    let mut account = named("default");
    account["imagePullSecrets"] = json!([{"name": "pull"}]);
    let plugin = service_account::ServiceAccount::new(&deps(&with_account(account)));
    let mut a = create_pod(pod(json!({"initContainers": [{"name": "i"}]})));
    plugin.admit(&mut a).await.unwrap();
    let spec = &a.object.as_ref().unwrap()["spec"];
    assert_eq!(
        (&spec["serviceAccountName"], &spec["imagePullSecrets"]),
        (&json!("default"), &json!([{"name": "pull"}]))
    );
    let volume = spec["volumes"][0]["name"].as_str().unwrap();
    assert!(volume.starts_with("kube-api-access-") && volume.len() == 21, "{volume}");
    let sources = spec["volumes"][0]["projected"]["sources"].as_array().unwrap();
    assert_eq!(sources[0]["serviceAccountToken"], json!({"path": "token", "expirationSeconds": 3607}));
    let mount = json!({"name": volume, "readOnly": true, "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"});
    assert_eq!(spec["containers"][0]["volumeMounts"], json!([mount]));
    assert_eq!(spec["initContainers"][0]["volumeMounts"], json!([mount]));

    let mut declined = create_pod(pod(json!({"automountServiceAccountToken": false})));
    plugin.admit(&mut declined).await.unwrap();
    assert!(declined.object.unwrap()["spec"]["volumes"].is_null());
    let mut unknown = create_pod(pod(json!({"serviceAccountName": "ghost"})));
    assert_eq!(
        message(plugin.admit(&mut unknown).await),
        "pods \"p\" is forbidden: error looking up service account ns/ghost: serviceaccount \"ghost\" not found"
    );
}

#[tokio::test]
async fn accounts_can_restrict_secrets_for_all_sorts_of_containers() {
    let mut account = named("default");
    account["metadata"]["annotations"] = json!({"kubernetes.io/enforce-mountable-secrets": "true"});
    account["secrets"] = json!([{"name": "own"}]);
    let plugin = service_account::ServiceAccount::new(&deps(&with_account(account)));
    let env_from = |s: &str| json!([{"name": "c", "envFrom": [{"secretRef": {"name": s}}]}]);
    for (spec, allowed) in [
        (json!({"containers": env_from("own")}), true),
        (json!({"containers": env_from("other")}), false),
        (json!({"initContainers": env_from("other")}), false),
        (json!({"volumes": [{"name": "v", "secret": {"secretName": "other"}}]}), false),
        (json!({"imagePullSecrets": [{"name": "other"}]}), false),
    ] {
        let mut a = create_pod(pod(spec.clone()));
        assert_eq!(plugin.admit(&mut a).await.is_ok(), allowed, "{spec}");
    }
    let old = pod(json!({"serviceAccountName": "default"}));
    let mut new = old.clone();
    new["spec"]["ephemeralContainers"] = env_from("other");
    let mut a = update(("", "pods"), "Pod", old, new);
    a.subresource = "ephemeralcontainers".into();
    assert!(
        message(plugin.validate(&mut a).await).contains("ephemeral container c with envFrom referencing")
    );
}

#[tokio::test]
async fn priority_comes_from_the_class() {
    let class = |name: &str, value: i64, default: bool| {
        (
            ("scheduling.k8s.io", "priorityclasses"),
            json!({"metadata": {"name": name}, "value": value, "globalDefault": default, "preemptionPolicy": "Never"}),
        )
    };
    let registry = FakeRegistry::with([class("high", 100, false), class("std", 7, true)]);
    let plugin = priority::Priority::new(&deps(&registry));
    for (spec, class, value) in [
        (json!({"priorityClassName": "high"}), "high", 100),
        (json!({}), "std", 7),
        (json!({"priority": 7}), "std", 7),
    ] {
        let mut a = create_pod(pod(spec));
        plugin.admit(&mut a).await.unwrap();
        let spec = &a.object.unwrap()["spec"];
        assert_eq!((&spec["priorityClassName"], &spec["priority"]), (&json!(class), &json!(value)));
        assert_eq!(spec["preemptionPolicy"], "Never");
    }
    let mut unknown = create_pod(pod(json!({"priorityClassName": "x"})));
    assert_eq!(
        message(plugin.admit(&mut unknown).await),
        "pods \"p\" is forbidden: no PriorityClass with name x was found"
    );
    let mut wrong = create_pod(pod(json!({"priority": 5})));
    assert!(
        message(plugin.admit(&mut wrong).await)
            .contains("the integer value of priority (5) must not be provided")
    );
    let second = json!({"metadata": {"name": "second"}, "globalDefault": true});
    let mut second = create(("scheduling.k8s.io", "priorityclasses"), "PriorityClass", second);
    assert!(
        message(plugin.validate(&mut second).await)
            .contains("PriorityClass std is already marked as default")
    );
}

#[tokio::test]
async fn small_defaults() {
    let class = |name: &str, created: &str| {
        (
            ("storage.k8s.io", "storageclasses"),
            json!({"metadata": {"name": name, "creationTimestamp": created,
            "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}}, "allowVolumeExpansion": true}),
        )
    };
    let registry =
        FakeRegistry::with([class("old", "2020-01-01T00:00:00Z"), class("new", "2024-01-01T00:00:00Z")]);
    let deps = deps(&registry);
    let claim = |spec: Value| {
        create(
            ("", "persistentvolumeclaims"),
            "PersistentVolumeClaim",
            json!({"metadata": {"name": "c"}, "spec": spec}),
        )
    };
    let mut a = claim(json!({}));
    storage::DefaultClass::new(&deps).admit(&mut a).await.unwrap();
    storage::InUseProtection.admit(&mut a).await.unwrap();
    let object = a.object.unwrap();
    assert_eq!(object["spec"]["storageClassName"], "new");
    assert_eq!(object["metadata"]["finalizers"], json!(["kubernetes.io/pvc-protection"]));
    let mut none = claim(json!({"storageClassName": ""}));
    storage::DefaultClass::new(&deps).admit(&mut none).await.unwrap();
    assert_eq!(none.object.unwrap()["spec"]["storageClassName"], "");

    let mut node = create(("", "nodes"), "Node", json!({"metadata": {"name": "n"}}));
    tolerations::TaintNodes.admit(&mut node).await.unwrap();
    assert_eq!(
        node.object.unwrap()["spec"]["taints"],
        json!([{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}])
    );

    let mut a = create_pod(pod(
        json!({"tolerations": [{"key": "node.kubernetes.io/not-ready", "operator": "Exists"}]}),
    ));
    tolerations::DefaultSeconds::new(300, 60).admit(&mut a).await.unwrap();
    let added = &a.object.unwrap()["spec"]["tolerations"];
    assert_eq!(added.as_array().unwrap().len(), 2);
    assert_eq!(
        added[1],
        json!({"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 60})
    );

    let mut a = create_pod(pod(json!({"volumes": [{"name": "v", "image": {"reference": "r"}}]})));
    simple::AlwaysPullImages.admit(&mut a).await.unwrap();
    let spec = &a.object.unwrap()["spec"];
    assert_eq!(
        (&spec["containers"][0]["imagePullPolicy"], &spec["volumes"][0]["image"]["pullPolicy"]),
        (&json!("Always"), &json!("Always"))
    );
}

#[tokio::test]
async fn claims_grow_only_where_the_class_allows() {
    let gr = ("storage.k8s.io", "storageclasses");
    let registry = FakeRegistry::with([
        (gr, json!({"metadata": {"name": "grows"}, "allowVolumeExpansion": true})),
        (gr, json!({"metadata": {"name": "fixed"}})),
    ]);
    let plugin = storage::Resize::new(&deps(&registry));
    let claim = |class: &str, size: &str, phase: &str| {
        json!({"metadata": {"name": "c"}, "status": {"phase": phase},
            "spec": {"storageClassName": class, "resources": {"requests": {"storage": size}}}})
    };
    for (class, size, phase, allowed) in [
        ("grows", "2Gi", "Bound", true),
        ("grows", "2Gi", "Pending", false),
        ("fixed", "2Gi", "Bound", false),
        ("fixed", "1024Mi", "Bound", true),
    ] {
        let (old, new) = (claim(class, "1Gi", phase), claim(class, size, phase));
        let mut a = update(("", "persistentvolumeclaims"), "PersistentVolumeClaim", old, new);
        assert_eq!(plugin.validate(&mut a).await.is_ok(), allowed, "{class} {size} {phase}");
    }
}

#[tokio::test]
async fn runtime_classes_bring_overhead_and_scheduling() {
    let class = json!({"metadata": {"name": "vm"}, "overhead": {"podFixed": {"cpu": "100m"}},
        "scheduling": {"nodeSelector": {"kvm": "yes"}, "tolerations": [{"key": "kvm", "operator": "Exists"}]}});
    let registry = FakeRegistry::with([(("node.k8s.io", "runtimeclasses"), class)]);
    let plugin = runtime_class::RuntimeClass::new(&deps(&registry));
    let check = async |spec: Value| {
        let mut a = create_pod(pod(spec));
        let outcome = plugin.admit(&mut a).await;
        (message(outcome.and(plugin.validate(&mut a).await)), a.object.unwrap())
    };
    let (ok, object) = check(json!({"runtimeClassName": "vm"})).await;
    assert_eq!(ok, "");
    assert_eq!(object["spec"]["overhead"], json!({"cpu": "100m"}));
    assert_eq!(object["spec"]["nodeSelector"], json!({"kvm": "yes"}));
    for (spec, part) in [
        (json!({"runtimeClassName": "x"}), "RuntimeClass \"x\" not found"),
        (
            json!({"runtimeClassName": "vm", "overhead": {"cpu": "1"}}),
            "doesn't match RuntimeClass's defined Overhead",
        ),
        (json!({"overhead": {"cpu": "1"}}), "Overhead set without corresponding RuntimeClass"),
        (
            json!({"runtimeClassName": "vm", "nodeSelector": {"kvm": "no"}}),
            "conflict: runtimeClass.scheduling.nodeSelector[kvm] = yes",
        ),
    ] {
        let (text, _) = check(spec).await;
        assert!(text.contains(part), "{text}");
    }
}
