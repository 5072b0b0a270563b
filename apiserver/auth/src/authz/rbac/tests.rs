use super::*;
use crate::authz::{AlwaysDeny, Decision, bootstrap};
use crate::testing::FakeRegistry;
use api::json;

fn rule(groups: &[&str], resources: &[&str], verbs: &[&str]) -> Value {
    json!({"apiGroups": groups, "resources": resources, "verbs": verbs})
}

fn role(ns: &str, role: &str, rules: Value) -> Value {
    json!({"metadata": {"name": role, "namespace": ns}, "rules": rules})
}

fn binding(ns: &str, role_kind: &str, role: &str, subjects: Value) -> Value {
    json!({"metadata": {"name": format!("b-{role}"), "namespace": ns},
        "roleRef": {"apiGroup": GROUP, "kind": role_kind, "name": role}, "subjects": subjects})
}

fn fixture() -> Arc<FakeRegistry> {
    let user = |n: &str| json!([{"kind": "User", "name": n}]);
    let mut named = rule(&[""], &["configmaps"], &["get"]);
    named["resourceNames"] = json!(["only"]);
    let cluster = json!([
        rule(&[""], &["nodes", "pods/*", "*/scale"], &["get"]),
        named,
        {"nonResourceURLs": ["/healthz", "/metrics/*"], "verbs": ["get"]},
    ]);
    FakeRegistry::with([
        (CLUSTER_ROLES, role("", "cluster", cluster)),
        (CLUSTER_ROLE_BINDINGS, binding("", "ClusterRole", "cluster", user("carl"))),
        (CLUSTER_ROLE_BINDINGS, binding("", "ClusterRole", "absent", user("lost"))),
        (ROLES, role("ns", "reader", json!([rule(&["apps"], &["deployments"], &["*"])]))),
        (
            ROLE_BINDINGS,
            binding(
                "ns",
                "Role",
                "reader",
                json!([{"kind": "Group", "name": "dev"}, {"kind": "ServiceAccount", "name": "bot"}]),
            ),
        ),
        (ROLE_BINDINGS, binding("other", "ClusterRole", "cluster", user("rita"))),
    ])
}

#[tokio::test]
async fn scopes_subjects_and_patterns() {
    let rbac = Rbac::new(fixture());
    let carl = UserInfo::new("carl", &[]);
    let dev = UserInfo::new("dora", &["dev"]);
    let bot = UserInfo::service_account("ns", "bot", "");
    let rita = UserInfo::new("rita", &[]);
    let ask =
        |user, verb, group, resource, ns| Attributes::resource(user, verb, group, resource).namespace(ns);
    for (attributes, allowed) in [
        (ask(&carl, "get", "", "nodes", ""), true),
        (ask(&carl, "list", "", "nodes", ""), false),
        (ask(&carl, "get", "", "pods", "x"), false),
        (ask(&carl, "get", "", "things", "x").subresource("scale"), true),
        (ask(&carl, "get", "", "nodes", "").subresource("proxy"), false),
        (ask(&carl, "get", "", "configmaps", "x").name("only"), true),
        (ask(&carl, "get", "", "configmaps", "x").name("else"), false),
        (Attributes::path(&carl, "get", "/healthz"), true),
        (Attributes::path(&carl, "get", "/healthz/etcd"), false),
        (Attributes::path(&carl, "get", "/metrics/slis"), true),
        (ask(&dev, "delete", "apps", "deployments", "ns"), true),
        (ask(&dev, "delete", "apps", "deployments", "other"), false),
        (ask(&dev, "delete", "apps", "deployments", ""), false),
        (ask(&bot, "get", "apps", "deployments", "ns"), true),
        (ask(&rita, "get", "", "nodes", ""), false),
        (ask(&rita, "get", "", "nodes", "other"), true),
        (Attributes::path(&rita, "get", "/healthz"), false),
    ] {
        assert_eq!(rbac.authorize(&attributes).await.allowed(), allowed, "{attributes:?}");
    }
    let verdict = rbac.authorize(&ask(&bot, "get", "apps", "deployments", "ns")).await;
    let reason = r#"RBAC: allowed by RoleBinding "b-reader/ns" of Role "reader" to ServiceAccount "bot/ns""#;
    assert_eq!(verdict.reason, reason);
    let lost = UserInfo::new("lost", &[]);
    let question = ask(&lost, "get", "", "pods", "y").name("p");
    let verdict = rbac.authorize(&question).await;
    assert_eq!(verdict.decision, Decision::NoOpinion);
    assert_eq!(
        question.forbidden(&verdict.reason).message,
        r#"pods "p" is forbidden: User "lost" cannot get resource "pods" in API group "" in the namespace "y": RBAC: clusterrole.rbac.authorization.k8s.io "absent" not found"#
    );
}

#[tokio::test]
async fn changes_count_at_once() {
    let registry = fixture();
    let rbac = Rbac::new(registry.clone());
    let carl = UserInfo::new("carl", &[]);
    let ask = Attributes::resource(&carl, "get", "", "nodes");
    assert!(rbac.authorize(&ask).await.allowed());
    registry.remove(CLUSTER_ROLE_BINDINGS, "", "b-cluster");
    assert!(!rbac.authorize(&ask).await.allowed());
}

#[tokio::test]
async fn nobody_grants_what_they_do_not_have() {
    let rbac = Rbac::new(fixture());
    let dora = UserInfo::new("dora", &["dev"]);
    let check = async |resource, namespace, object: Value| {
        let write = Write { user: &dora, resource, namespace, object: &object, old: None };
        rbac.escalation_check(&write, &AlwaysDeny).await
    };
    let own = role("ns", "own", json!([rule(&["apps"], &["deployments"], &["get", "delete"])]));
    assert_eq!(check("roles", "ns", own.clone()).await, Ok(()));
    let error = check("roles", "other", own).await.unwrap_err();
    assert_eq!(
        error.message,
        "roles.rbac.authorization.k8s.io \"own\" is forbidden: user \"dora\" (groups=[\"dev\"]) is attempting to grant RBAC permissions not currently held:\n{APIGroups:[\"apps\"], Resources:[\"deployments\"], Verbs:[\"get\" \"delete\"]}"
    );
    let bind = |role| binding("ns", "Role", role, json!([]));
    assert_eq!(check("rolebindings", "ns", bind("reader")).await, Ok(()));
    assert_eq!(check("rolebindings", "ns", bind("absent")).await.unwrap_err().code, 404);
    let cluster = binding("ns", "ClusterRole", "cluster", json!([]));
    assert_eq!(check("rolebindings", "ns", cluster.clone()).await.unwrap_err().code, 403);
    let write = Write { user: &dora, resource: "rolebindings", namespace: "ns", object: &cluster, old: None };
    assert_eq!(rbac.escalation_check(&write, &crate::authz::AlwaysAllow).await, Ok(()), "bind verb");
    let collected = Write { old: Some(&cluster), ..write };
    assert_eq!(rbac.escalation_check(&collected, &AlwaysDeny).await, Ok(()));
}

#[tokio::test]
async fn the_bootstrap_policy_works_and_keeps_what_operators_added() {
    let registry = FakeRegistry::new();
    let off = |_: &str| false;
    bootstrap::reconcile(&*registry, &off).await.unwrap();
    let rbac = Rbac::new(registry.clone());
    let scheduler = UserInfo::new("system:kube-scheduler", &["system:authenticated"]);
    let bind = Attributes::resource(&scheduler, "create", "", "pods").subresource("binding").namespace("x");
    assert!(rbac.authorize(&bind).await.allowed());
    assert!(rbac.authorize(&Attributes::path(&scheduler, "get", "/version")).await.allowed());

    let edit = |change: &dyn Fn(&mut Value)| {
        let mut found = Value::clone(&registry.get(CLUSTER_ROLES, "", "system:kube-scheduler").unwrap());
        change(&mut found);
        registry.put(CLUSTER_ROLES, found);
    };
    let count =
        || items(&registry.get(CLUSTER_ROLES, "", "system:kube-scheduler").unwrap(), &["rules"]).len();
    let whole = count();
    edit(&|role| role["rules"] = json!([rule(&["x"], &["y"], &["z"])]));
    bootstrap::reconcile(&*registry, &off).await.unwrap();
    assert!(rbac.authorize(&bind).await.allowed());
    let found = registry.get(CLUSTER_ROLES, "", "system:kube-scheduler").unwrap();
    assert_eq!(found["rules"][0], rule(&["x"], &["y"], &["z"]));
    assert!(count() > whole, "atoms and the operator's own rule");
    edit(&|role| {
        role["rules"] = json!([]);
        role["metadata"]["annotations"]["rbac.authorization.kubernetes.io/autoupdate"] = "false".into();
    });
    bootstrap::reconcile(&*registry, &off).await.unwrap();
    assert_eq!(count(), 0);
    let before = registry.revision(CLUSTER_ROLES);
    bootstrap::reconcile(&*registry, &off).await.unwrap();
    assert_eq!(registry.revision(CLUSTER_ROLES), before, "nothing to do, nothing written");
}
