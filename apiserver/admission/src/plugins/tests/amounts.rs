//! How much: limit ranges and quotas.

use super::*;

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
