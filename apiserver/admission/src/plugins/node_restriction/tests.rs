use super::*;
use crate::testing::{create, create_pod, deps, request, update};
use api::json;
use auth::UserInfo;
use auth::testing::FakeRegistry;

fn fixture() -> Arc<FakeRegistry> {
    let pod = |name: &str, node: &str| {
        json!({"metadata": {"name": name, "namespace": "ns", "uid": format!("{name}-uid")}, "spec": {"nodeName": node,
            "volumes": [{"name": "t", "projected": {"sources": [{"serviceAccountToken": {"audience": "vault"}}]}}]}})
    };
    FakeRegistry::with([
        (("", "nodes"), json!({"metadata": {"name": "n1", "uid": "n1-uid"}})),
        (("", "pods"), pod("mine", "n1")),
        (("", "pods"), pod("other", "n2")),
    ])
}

async fn ask(mut a: Attributes) -> Result<()> {
    a.user = Arc::new(UserInfo::new("system:node:n1", &[NODES]));
    NodeRestriction::new(&deps(&fixture())).admit(&mut a).await
}

fn sub(mut a: Attributes, subresource: &str) -> Attributes {
    a.subresource = subresource.into();
    a
}

fn mirror(change: impl FnOnce(&mut Value)) -> Attributes {
    let mut pod = json!({"metadata": {"name": "m", "annotations": {MIRROR: "x"}, "ownerReferences": [
        {"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "n1-uid", "controller": true}]},
        "spec": {"nodeName": "n1", "containers": []}});
    change(&mut pod);
    create_pod(pod)
}

#[tokio::test]
async fn only_harmless_mirror_pods_are_made() {
    assert_eq!(ask(mirror(|_| {})).await, Ok(()));
    type Change = fn(&mut Value);
    let changes: [(Change, &str); 12] = [
        (|p| p["metadata"]["annotations"] = json!({}), "can only create mirror pods"),
        (|p| p["spec"]["nodeName"] = "n2".into(), "spec.nodeName set to itself"),
        (|p| p["metadata"]["ownerReferences"] = json!([]), "owner reference set to itself"),
        (|p| p["metadata"]["ownerReferences"][0]["name"] = "n2".into(), "owner reference set to itself"),
        (|p| p["metadata"]["ownerReferences"][0]["uid"] = "x".into(), "UID mismatch"),
        (|p| p["metadata"]["ownerReferences"][0]["controller"] = false.into(), "controller owner reference"),
        (
            |p| p["metadata"]["ownerReferences"][0]["blockOwnerDeletion"] = true.into(),
            "must not set blockOwnerDeletion",
        ),
        (|p| p["spec"]["serviceAccountName"] = "sa".into(), "reference serviceaccounts"),
        (
            |p| p["spec"]["volumes"] = json!([{"name": "v", "secret": {"secretName": "s"}}]),
            "reference secrets",
        ),
        (
            |p| p["spec"]["initContainers"] = json!([{"envFrom": [{"configMapRef": {"name": "c"}}]}]),
            "reference configmaps",
        ),
        (|p| p["spec"]["resourceClaims"] = json!([{"name": "r"}]), "reference resourceclaims"),
        (
            |p| {
                p["spec"]["volumes"] =
                    json!([{"name": "v", "projected": {"sources": [{"clusterTrustBundle": {}}]}}])
            },
            "reference clustertrustbundles",
        ),
    ];
    for (change, part) in changes {
        let error = ask(mirror(change)).await.unwrap_err().message;
        assert!(error.contains(part), "{error}");
    }
}

#[tokio::test]
async fn pods_of_other_nodes_are_out_of_reach() {
    let pod =
        |node: &str| json!({"metadata": {"name": "p", "labels": {"a": "b"}}, "spec": {"nodeName": node}});
    let relabelled = json!({"metadata": {"name": "p", "labels": {"a": "c"}}, "spec": {"nodeName": "n1"}});
    let mut claimed = pod("n1");
    claimed["status"]["resourceClaimStatuses"] = json!([{"name": "x", "resourceClaimName": "y"}]);
    let delete =
        |name: &str| request(Operation::Delete, ("", "pods"), "Pod", json!({"metadata": {"name": name}}));
    let evict = |name: &str| sub(create_pod(json!({"metadata": {"name": name}})), "eviction");
    let status = |old: Value, new: Value| sub(update(("", "pods"), "Pod", old, new), "status");
    for (a, allowed) in [
        (delete("mine"), true),
        (delete("other"), false),
        (evict("mine"), true),
        (evict("other"), false),
        (status(pod("n1"), pod("n1")), true),
        (status(pod("n2"), pod("n2")), false),
        (status(pod("n1"), relabelled), false),
        (status(pod("n1"), claimed), false),
        (update(("", "pods"), "Pod", pod("n1"), pod("n1")), false),
        (sub(create_pod(pod("n1")), "exec"), false),
    ] {
        let shown = format!("{a:?}");
        assert_eq!(ask(a).await.is_ok(), allowed, "{shown}");
    }
}

#[tokio::test]
async fn a_node_cannot_mark_itself() {
    let node = |name: &str, labels: Value| json!({"metadata": {"name": name, "labels": labels}, "spec": {}});
    let gr = ("", "nodes");
    let labelled = |labels: Value| create(gr, "Node", node("n1", labels));
    let tainted = json!({"metadata": {"name": "n1"}, "spec": {"taints": [{"key": "k"}]}});
    let owned = json!({"metadata": {"name": "n1", "ownerReferences": [{"uid": "u"}]}, "spec": {}});
    let plain = || node("n1", json!({}));
    for (a, allowed) in [
        (
            labelled(json!({"kubernetes.io/os": "linux", "node.kubernetes.io/x": "y", "example.com/a": "b"})),
            true,
        ),
        (labelled(json!({"node-restriction.kubernetes.io/x": "y"})), false),
        (labelled(json!({"a.node-restriction.kubernetes.io/x": "y"})), false),
        (labelled(json!({"node-role.kubernetes.io/control-plane": ""})), false),
        (labelled(json!({"x.k8s.io/y": ""})), false),
        (create(gr, "Node", node("n2", json!({}))), false),
        (update(gr, "Node", plain(), node("n1", json!({"kubernetes.io/role": "x"}))), false),
        (update(gr, "Node", plain(), node("n1", json!({"topology.kubernetes.io/zone": "x"}))), true),
        (update(gr, "Node", plain(), tainted), false),
        (update(gr, "Node", plain(), owned), false),
    ] {
        let shown = format!("{a:?}");
        assert_eq!(ask(a).await.is_ok(), allowed, "{shown}");
    }
}

#[tokio::test]
async fn tokens_are_for_own_pods_and_their_audiences() {
    let token = |reference: Value, audiences: Value| {
        let object = json!({"metadata": {"name": "sa"}, "spec": {"boundObjectRef": reference, "audiences": audiences}});
        sub(create(("", "serviceaccounts"), "TokenRequest", object), "token")
    };
    let bound = |pod: &str, uid: &str| json!({"kind": "Pod", "apiVersion": "v1", "name": pod, "uid": uid});
    for (a, allowed) in [
        (token(bound("mine", "mine-uid"), json!(["vault"])), true),
        (token(bound("mine", "mine-uid"), json!(["else"])), false),
        (token(bound("mine", "mine-uid"), json!(["vault", "x"])), false),
        (token(bound("mine", "wrong"), json!(["vault"])), false),
        (token(bound("mine", ""), json!(["vault"])), false),
        (token(bound("other", "other-uid"), json!(["vault"])), false),
        (token(Value::Null, json!(["vault"])), false),
    ] {
        let shown = format!("{:?}", a.object);
        assert_eq!(ask(a).await.is_ok(), allowed, "{shown}");
    }
}

#[tokio::test]
async fn leases_claims_slices_and_others() {
    let named = |n: &str| json!({"metadata": {"name": n}});
    let lease = |n: &str, ns: &str| {
        let mut a = create(("coordination.k8s.io", "leases"), "Lease", named(n));
        a.namespace = ns.into();
        a
    };
    let claim = |labels: Value, capacity: &str| json!({"metadata": {"name": "c", "labels": labels}, "status": {"capacity": {"storage": capacity}}});
    let pvc = |new| {
        sub(
            update(("", "persistentvolumeclaims"), "PersistentVolumeClaim", claim(json!({}), "1Gi"), new),
            "status",
        )
    };
    let slice = |node: &str| {
        let object = json!({"metadata": {"name": "s"}, "spec": {"nodeName": node}});
        create(("resource.k8s.io", "resourceslices"), "ResourceSlice", object)
    };
    for (a, allowed) in [
        (lease("n1", LEASE_NAMESPACE), true),
        (lease("n2", LEASE_NAMESPACE), false),
        (lease("n1", "ns"), false),
        (create(("storage.k8s.io", "csinodes"), "CSINode", named("n1")), true),
        (create(("storage.k8s.io", "csinodes"), "CSINode", named("n2")), false),
        (pvc(claim(json!({}), "2Gi")), true),
        (pvc(claim(json!({"a": "b"}), "2Gi")), false),
        (slice("n1"), true),
        (slice("n2"), false),
        (create(("", "events"), "Event", named("e")), true),
    ] {
        let shown = format!("{a:?}");
        assert_eq!(ask(a).await.is_ok(), allowed, "{shown}");
    }
    let mut a = create(("", "configmaps"), "ConfigMap", named("c"));
    a.user = Arc::new(UserInfo::new("alice", &[]));
    assert!(NodeRestriction::new(&deps(&fixture())).admit(&mut a).await.is_ok());
}

#[tokio::test]
async fn certificate_requests_are_for_the_node_itself() {
    use base64::Engine;
    for (cn, allowed) in [("system:node:n1", true), ("system:node:n2", false), ("admin", false)] {
        let (csr, _) = pki::create_csr(cn, &[NODES.to_owned()], &[], &[]).unwrap();
        let request = base64::engine::general_purpose::STANDARD.encode(csr);
        let object =
            json!({"metadata": {"name": "r"}, "spec": {"signerName": NODE_SIGNERS[1], "request": request}});
        let a = create(
            ("certificates.k8s.io", "certificatesigningrequests"),
            "CertificateSigningRequest",
            object,
        );
        let strict = {
            let mut deps = deps(&fixture());
            deps.gate = Arc::new(|gate: &str| gate != "AllowInsecureKubeletCertificateSigningRequests");
            NodeRestriction::new(&deps)
        };
        let mut a = a;
        a.user = Arc::new(UserInfo::new("system:node:n1", &[NODES]));
        assert_eq!(strict.admit(&mut a).await.is_ok(), allowed, "{cn}");
    }
}
