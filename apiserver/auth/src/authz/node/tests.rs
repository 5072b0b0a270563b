use super::*;
use crate::testing::FakeRegistry;
use api::json;

fn fixture() -> Arc<FakeRegistry> {
    let pod = |name: &str, node: &str, mirror: bool| {
        let annotations = if mirror { json!({"kubernetes.io/config.mirror": "x"}) } else { json!({}) };
        json!({"metadata": {"name": name, "namespace": "ns", "annotations": annotations}, "spec": {
            "nodeName": node, "serviceAccountName": format!("sa-{name}"),
            "containers": [{"envFrom": [{"secretRef": {"name": format!("env-{name}")}}],
                "env": [{"valueFrom": {"configMapKeyRef": {"name": format!("cm-{name}")}}}]}],
            "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": format!("pvc-{name}")}},
                {"name": "e", "ephemeral": {}},
                {"name": "p", "projected": {"sources": [{"secret": {"name": format!("proj-{name}")}}]}}],
        }})
    };
    FakeRegistry::with([
        (("", "pods"), pod("a", "n1", false)),
        (("", "pods"), pod("b", "n2", false)),
        (("", "pods"), pod("m", "n1", true)),
        (
            ("", "persistentvolumeclaims"),
            json!({"metadata": {"name": "pvc-a", "namespace": "ns"}, "spec": {"volumeName": "pv"}}),
        ),
        (
            ("", "persistentvolumes"),
            json!({"metadata": {"name": "pv"}, "spec": {
            "claimRef": {"namespace": "ns", "name": "pvc-a"},
            "csi": {"nodeStageSecretRef": {"namespace": "sys", "name": "stage"},
                "controllerPublishSecretRef": {"namespace": "sys", "name": "controller"}}}}),
        ),
        (
            ("resource.k8s.io", "resourceslices"),
            json!({"metadata": {"name": "s1"}, "spec": {"nodeName": "n1"}}),
        ),
    ])
}

#[tokio::test]
async fn a_node_reaches_only_what_its_pods_mount() {
    let authorizer = NodeAuthorizer::new(fixture(), &|_| false);
    let node = UserInfo::new("system:node:n1", &[NODES]);
    let ask = |verb, group, resource, ns, name| {
        Attributes::resource(&node, verb, group, resource).namespace(ns).name(name)
    };
    let with_field = |mut a: Attributes<'static>, value: &'static str| {
        a.field_selector = vec![("spec.nodeName", value)];
        a
    };
    let fixed: &'static UserInfo = Box::leak(Box::new(node.clone()));
    let pods = || Attributes::resource(fixed, "list", "", "pods");
    for (attributes, allowed) in [
        (ask("get", "", "secrets", "ns", "env-a"), true),
        (ask("watch", "", "secrets", "ns", "proj-a"), true),
        (ask("get", "", "secrets", "ns", "env-b"), false),
        (ask("get", "", "secrets", "ns", "env-m"), false),
        (ask("get", "", "secrets", "other", "env-a"), false),
        (ask("list", "", "secrets", "ns", ""), false),
        (ask("update", "", "secrets", "ns", "env-a"), false),
        (ask("get", "", "secrets", "sys", "stage"), true),
        (ask("get", "", "secrets", "sys", "controller"), false),
        (ask("get", "", "configmaps", "ns", "cm-a"), true),
        (ask("get", "", "configmaps", "ns", "cm-b"), false),
        (ask("get", "", "persistentvolumeclaims", "ns", "pvc-a"), true),
        (ask("get", "", "persistentvolumeclaims", "ns", "a-e"), true),
        (ask("patch", "", "persistentvolumeclaims", "ns", "pvc-a").subresource("status"), true),
        (ask("get", "", "persistentvolumes", "", "pv"), true),
        (ask("create", "", "serviceaccounts", "ns", "sa-a").subresource("token"), true),
        (ask("create", "", "serviceaccounts", "ns", "sa-b").subresource("token"), false),
        (ask("get", "", "pods", "ns", "a"), true),
        (ask("get", "", "pods", "ns", "b"), false),
        (pods(), false),
        (with_field(pods(), "n1"), true),
        (with_field(pods(), "n2"), false),
        (ask("get", "", "nodes", "", "n1"), true),
        (ask("get", "", "nodes", "", "n2"), false),
        (ask("list", "", "nodes", "", ""), false),
        (ask("delete", "", "nodes", "", "n1"), false),
        (ask("update", "coordination.k8s.io", "leases", "kube-node-lease", "n1"), true),
        (ask("update", "coordination.k8s.io", "leases", "kube-node-lease", "n2"), false),
        (ask("update", "coordination.k8s.io", "leases", "ns", "n1"), false),
        (ask("get", "storage.k8s.io", "csinodes", "", "n2"), false),
        (ask("delete", "resource.k8s.io", "resourceslices", "", "s1"), true),
        (ask("delete", "resource.k8s.io", "resourceslices", "", "s2"), false),
        (ask("list", "", "services", "", ""), true),
        (ask("create", "certificates.k8s.io", "certificatesigningrequests", "", ""), true),
        (ask("list", "", "endpoints", "", ""), false),
    ] {
        let verdict = authorizer.authorize(&attributes).await;
        assert_eq!(verdict.allowed(), allowed, "{attributes:?} {verdict:?}");
    }
    let imposter = UserInfo::new("system:node:n1", &[]);
    let get = Attributes::resource(&imposter, "get", "", "nodes").name("n1");
    assert!(!authorizer.authorize(&get).await.allowed());
}
