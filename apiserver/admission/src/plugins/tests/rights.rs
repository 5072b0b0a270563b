//! Who may: signers, owners, addresses, bindings, namespaces.

use super::*;

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
