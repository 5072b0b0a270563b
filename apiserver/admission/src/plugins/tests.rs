//! Each plugin's promises, through the plugin itself.

use super::*;
use crate::attributes::{Attributes, Operation};
use crate::testing::{create, create_pod, deps, deps_with, request, update};
use api::json;
use api::registry::{Reader, Registry};
use auth::testing::FakeRegistry;
use auth::{Authorizer, UserInfo, Verdict};
use std::collections::BTreeSet;

fn pod(spec: Value) -> Value {
    let mut spec = spec;
    if spec["containers"].is_null() {
        spec["containers"] = json!([{"name": "c", "image": "i"}]);
    }
    json!({"metadata": {"name": "p", "namespace": "ns"}, "spec": spec})
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
async fn limit_ranges_default_and_bound() {
    let range = json!({"metadata": {"name": "r", "namespace": "ns"}, "spec": {"limits": [
        {"type": "Container", "default": {"cpu": "500m"}, "defaultRequest": {"cpu": "100m"},
         "min": {"cpu": "50m"}, "max": {"cpu": "1"}, "maxLimitRequestRatio": {"cpu": "6"}},
        {"type": "Pod", "max": {"cpu": "1500m"}},
        {"type": "PersistentVolumeClaim", "max": {"storage": "10Gi"}},
    ]}});
    let registry = FakeRegistry::with([(("", "limitranges"), range)]);
    let plugin = limit_ranger::LimitRanger::new(&deps(&registry));
    let check = async |containers: Value| {
        let mut a = create_pod(pod(json!({"containers": containers})));
        plugin.admit(&mut a).await.unwrap();
        (message(plugin.validate(&mut a).await), a)
    };
    let (ok, a) = check(json!([{"name": "c"}])).await;
    assert_eq!(ok, "");
    let object = a.object.unwrap();
    assert_eq!(
        object["spec"]["containers"][0]["resources"],
        json!({"limits": {"cpu": "500m"}, "requests": {"cpu": "100m"}})
    );
    assert_eq!(
        object["metadata"]["annotations"]["kubernetes.io/limit-ranger"],
        "LimitRanger plugin set: cpu request for container c; cpu limit for container c"
    );
    let sized =
        |r: &str, l: &str| json!({"name": "c", "resources": {"requests": {"cpu": r}, "limits": {"cpu": l}}});
    for (containers, part) in [
        (json!([sized("10m", "50m")]), "minimum cpu usage per Container is 50m, but request is 10m"),
        (json!([sized("1", "2")]), "maximum cpu usage per Container is 1, but limit is 2"),
        (
            json!([sized("100m", "900m")]),
            "cpu max limit to request ratio per Container is 6, but provided ratio is 9.000000",
        ),
        (json!([sized("1", "1"), sized("1", "1")]), "maximum cpu usage per Pod is 1500m, but limit is 2"),
    ] {
        let (text, _) = check(containers).await;
        assert!(text.contains(part), "{text}");
    }
    let claim = json!({"metadata": {"name": "c"}, "spec": {"resources": {"requests": {"storage": "11Gi"}}}});
    let mut claim = create(("", "persistentvolumeclaims"), "PersistentVolumeClaim", claim);
    assert!(
        message(plugin.validate(&mut claim).await)
            .contains("maximum storage usage per PersistentVolumeClaim is 10Gi, but request is 11Gi")
    );
}

fn quota(name: &str, spec: Value, used: Value) -> ((&'static str, &'static str), Value) {
    let object = json!({"metadata": {"name": name, "namespace": "ns"}, "spec": spec,
        "status": {"hard": spec["hard"], "used": used}});
    (("", "resourcequotas"), object)
}

fn sized_pod(cpu: &str) -> Value {
    pod(json!({"containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": cpu}}}]}))
}

#[tokio::test]
async fn quotas_are_charged_and_kept() {
    let registry = FakeRegistry::with([quota(
        "q",
        json!({"hard": {"requests.cpu": "1", "pods": "5"}}),
        json!({"requests.cpu": "500m", "pods": "1"}),
    )]);
    let plugin = resource_quota::ResourceQuota::new(&deps(&registry), None);
    let used = || registry.get(("", "resourcequotas"), "ns", "q").unwrap()["status"]["used"].clone();
    plugin.validate(&mut create_pod(sized_pod("300m"))).await.unwrap();
    assert_eq!(used(), json!({"requests.cpu": "800m", "pods": "2"}));
    assert_eq!(
        message(plugin.validate(&mut create_pod(sized_pod("300m"))).await),
        "pods \"p\" is forbidden: exceeded quota: q, requested: requests.cpu=300m, used: requests.cpu=800m, limited: requests.cpu=1"
    );
    assert_eq!(
        message(plugin.validate(&mut create_pod(pod(json!({})))).await),
        "pods \"p\" is forbidden: failed quota: q: must specify requests.cpu for: c"
    );
    let mut dry = create_pod(sized_pod("100m"));
    dry.dry_run = true;
    plugin.validate(&mut dry).await.unwrap();
    assert_eq!(used()["requests.cpu"], "800m");
    let mut resize = update(("", "pods"), "Pod", sized_pod("300m"), sized_pod("500m"));
    resize.subresource = "resize".into();
    plugin.validate(&mut resize).await.unwrap();
    assert_eq!(used(), json!({"requests.cpu": "1", "pods": "2"}));
}

#[tokio::test]
async fn a_quota_that_changed_meanwhile_is_read_again() {
    let registry = FakeRegistry::with([quota("q", json!({"hard": {"pods": "2"}}), json!({"pods": "0"}))]);
    let plugin = Arc::new(resource_quota::ResourceQuota::new(&deps(&registry), None));
    let tasks: Vec<_> = (0..6)
        .map(|_| {
            let plugin = plugin.clone();
            tokio::spawn(async move { plugin.validate(&mut create_pod(pod(json!({})))).await.is_ok() })
        })
        .collect();
    let mut admitted = 0;
    for task in tasks {
        admitted += usize::from(task.await.unwrap());
    }
    assert_eq!(admitted, 2);
}

#[tokio::test]
async fn quotas_look_only_at_their_scopes_and_count_objects() {
    let scoped = json!({"hard": {"pods": "0"}, "scopeSelector": {"matchExpressions": [
        {"scopeName": "PriorityClass", "operator": "In", "values": ["high"]}]}});
    let registry = FakeRegistry::with([
        quota("scoped", scoped, json!({"pods": "0"})),
        quota("besteffort", json!({"hard": {"pods": "0"}, "scopes": ["BestEffort"]}), json!({"pods": "0"})),
        quota(
            "objects",
            json!({"hard": {"count/deployments.apps": "0", "secrets": "1", "services.nodeports": "1"}}),
            json!({"count/deployments.apps": "0", "secrets": "0", "services.nodeports": "0"}),
        ),
    ]);
    let plugin = resource_quota::ResourceQuota::new(&deps(&registry), None);
    let check = async |mut a: Attributes| message(plugin.validate(&mut a).await);
    assert_eq!(check(create_pod(sized_pod("1"))).await, "");
    let mut high = sized_pod("1");
    high["spec"]["priorityClassName"] = "high".into();
    assert!(check(create_pod(high)).await.contains("exceeded quota: scoped"));
    assert!(check(create_pod(pod(json!({})))).await.contains("exceeded quota: besteffort"));
    assert!(
        check(create(("apps", "deployments"), "Deployment", named("d")))
            .await
            .contains("exceeded quota: objects")
    );
    assert_eq!(check(create(("", "secrets"), "Secret", named("s"))).await, "");
    assert!(
        check(create(("", "secrets"), "Secret", named("t")))
            .await
            .contains("requested: secrets=1, used: secrets=1, limited: secrets=1")
    );
    let service = json!({"metadata": {"name": "s"}, "spec": {"type": "NodePort", "ports": [{}, {}]}});
    assert!(check(create(("", "services"), "Service", service)).await.contains("services.nodeports=2"));
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

/// Allows one verb on one name.
struct Only(&'static str, &'static str);

#[async_trait::async_trait]
impl Authorizer for Only {
    async fn authorize(&self, a: &auth::Attributes<'_>) -> Verdict {
        if (a.verb, a.name) == (self.0, self.1) { Verdict::allow("") } else { Verdict::no_opinion("") }
    }
}

#[tokio::test]
async fn signers_are_for_those_who_may() {
    let gr = ("certificates.k8s.io", "certificatesigningrequests");
    let csr = |certificate: &str| json!({"metadata": {"name": "r"}, "spec": {"signerName": "a.com/s"}, "status": {"certificate": certificate}});
    let ask = async |rule: Only, subresource: &str, new: &str| {
        let deps = deps_with(&FakeRegistry::new(), Arc::new(rule));
        let mut a = update(gr, "CertificateSigningRequest", csr(""), csr(new));
        a.subresource = subresource.into();
        let both = [certificates::Signers::approval(&deps), certificates::Signers::signing(&deps)];
        let mut outcome = Ok(());
        for plugin in both {
            outcome = outcome.and(plugin.validate(&mut a).await);
        }
        outcome.is_ok()
    };
    assert!(ask(Only("approve", "a.com/s"), "approval", "").await);
    assert!(ask(Only("approve", "a.com/*"), "approval", "").await);
    assert!(!ask(Only("sign", "a.com/s"), "approval", "").await);
    assert!(ask(Only("sign", "a.com/*"), "status", "x").await);
    assert!(!ask(Only("approve", "a.com/*"), "status", "x").await);
    assert!(ask(Only("", ""), "status", "").await, "nothing signed");
}

#[tokio::test]
async fn subjects_with_the_masters_group_are_refused() {
    use base64::Engine;
    let ask = async |org: &str, signer: &str| {
        let (csr, _) = pki::create_csr("u", &[org.to_owned()], &[], &[]).unwrap();
        let request = base64::engine::general_purpose::STANDARD.encode(csr);
        let object = json!({"metadata": {"name": "r"}, "spec": {"signerName": signer, "request": request}});
        let mut a = create(
            ("certificates.k8s.io", "certificatesigningrequests"),
            "CertificateSigningRequest",
            object,
        );
        certificates::Subject.validate(&mut a).await.is_ok()
    };
    assert!(!ask("system:masters", certificates::CLIENT_SIGNER).await);
    assert!(ask("dev", certificates::CLIENT_SIGNER).await);
    assert!(ask("system:masters", "a.com/s").await);
}

#[tokio::test]
async fn owners_can_be_named_by_those_who_could_delete() {
    let owned = |block: bool| {
        let mut o = named("c");
        o["metadata"]["ownerReferences"] = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "rs", "uid": "u", "blockOwnerDeletion": block}]);
        o
    };
    let ask = async |rule: Only, block| {
        let deps = deps_with(&FakeRegistry::new(), Arc::new(rule));
        let mut a = update(("", "configmaps"), "ConfigMap", named("c"), owned(block));
        owner_references::OwnerReferences::new(&deps).validate(&mut a).await.is_ok()
    };
    assert!(ask(Only("delete", "c"), false).await);
    assert!(!ask(Only("", ""), false).await);
    assert!(!ask(Only("delete", "c"), true).await);
    let deps = deps_with(&FakeRegistry::new(), Arc::new(Only("update", "rs")));
    let mut created = create(("", "configmaps"), "ConfigMap", owned(true));
    assert!(owner_references::OwnerReferences::new(&deps).validate(&mut created).await.is_ok());
}

#[tokio::test]
async fn external_addresses_and_wide_anti_affinity_are_refused() {
    let service = |ips: Value| json!({"metadata": {"name": "s"}, "spec": {"externalIPs": ips}});
    let gr = ("", "services");
    let mut new = create(gr, "Service", service(json!(["1.2.3.4"])));
    assert!(simple::DenyExternalIps.validate(&mut new).await.is_err());
    let mut kept = update(gr, "Service", service(json!(["1.2.3.4", "5.6.7.8"])), service(json!(["5.6.7.8"])));
    assert!(simple::DenyExternalIps.validate(&mut kept).await.is_ok());
    let term = |key: &str| {
        pod(
            json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": key}]}}}),
        )
    };
    assert!(simple::AntiAffinity.validate(&mut create_pod(term("zone"))).await.is_err());
    assert!(simple::AntiAffinity.validate(&mut create_pod(term("kubernetes.io/hostname"))).await.is_ok());
}

#[tokio::test]
async fn resizes_fit_the_node_and_bindings_learn_its_place() {
    let node = json!({"metadata": {"name": "n", "labels": {"topology.kubernetes.io/zone": "z", "other": "x"}},
        "status": {"allocatable": {"cpu": "1", "memory": "1Gi"}}});
    let registry = FakeRegistry::with([(("", "nodes"), node)]);
    let deps = deps(&registry);
    let on_node = |cpu: &str| {
        let mut p = sized_pod(cpu);
        p["spec"]["nodeName"] = "n".into();
        p
    };
    let mut a = update(("", "pods"), "Pod", on_node("1"), on_node("2"));
    a.subresource = "resize".into();
    let error = simple::PodResize::new(&deps).validate(&mut a).await.unwrap_err();
    assert!(error.message.contains("cpu, requested: 2000, allocatable: 1000"), "{}", error.message);
    let mut binding = create_pod(json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n"}}));
    binding.subresource = "binding".into();
    simple::TopologyLabels::new(&deps).admit(&mut binding).await.unwrap();
    assert_eq!(binding.object.unwrap()["metadata"]["labels"], json!({"topology.kubernetes.io/zone": "z"}));
}

#[tokio::test]
async fn namespaces_choose_nodes_and_tolerations() {
    let namespace = json!({"metadata": {"name": "ns", "annotations": {
        "scheduler.alpha.kubernetes.io/node-selector": "env=prod",
        "scheduler.alpha.kubernetes.io/defaultTolerations": "[{\"key\":\"k\",\"operator\":\"Exists\"}]",
        "scheduler.alpha.kubernetes.io/tolerationsWhitelist": "[{\"key\":\"k\",\"operator\":\"Exists\"}]"}}});
    let registry = FakeRegistry::with([(("", "namespaces"), namespace)]);
    let deps = deps(&registry);
    let selector = node_selector::PodNodeSelector::new(&deps, None);
    let restriction = tolerations::Restriction::new(&deps, None);
    let mut a = create_pod(pod(json!({})));
    selector.admit(&mut a).await.unwrap();
    restriction.admit(&mut a).await.unwrap();
    let spec = &a.object.unwrap()["spec"];
    assert_eq!(
        (&spec["nodeSelector"], &spec["tolerations"][0]["key"]),
        (&json!({"env": "prod"}), &json!("k"))
    );
    let mut other = create_pod(pod(json!({"nodeSelector": {"env": "dev"}})));
    assert!(selector.admit(&mut other).await.is_err());
    let mut other = create_pod(pod(json!({"tolerations": [{"key": "x", "operator": "Exists"}]})));
    assert!(restriction.admit(&mut other).await.is_err());
}

#[tokio::test]
async fn missing_namespaces_can_be_made() {
    let registry = FakeRegistry::new();
    let deps = deps(&registry);
    let mut a = create_pod(pod(json!({})));
    a.user = Arc::new(UserInfo::new("bob", &[]));
    assert_eq!(lifecycle::Exists::new(&deps).validate(&mut a).await.unwrap_err().code, 404);
    lifecycle::AutoProvision::new(&deps).admit(&mut a).await.unwrap();
    lifecycle::Exists::new(&deps).validate(&mut a).await.unwrap();
    assert!(registry.get_live(("", "namespaces"), "", "ns").await.is_ok());
}
