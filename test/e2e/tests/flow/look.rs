//! Coming up, applying, and all ways to look at objects.

use crate::common::{NAMESPACE, NODE, field, items, json, k, web_has};
use anyhow::{Result, ensure};
use e2e::{Bed, wait::SOON};

pub fn node_ready(bed: &Bed) -> Result<()> {
    bed.kubectl("get nodes").shows(&[
        "NAME",
        "STATUS",
        "ROLES",
        "AGE",
        "VERSION",
        NODE,
        "Ready",
        "control-plane",
    ])?;
    bed.kubectl("get nodes -o wide").shows(&[
        "INTERNAL-IP",
        "CONTAINER-RUNTIME",
        "containerd://",
        "192.168.90.11",
    ])?;
    bed.kubectl("describe node control-plane-1").shows(&[
        "Capacity:",
        "Allocatable:",
        "MemoryPressure",
        "KubeletReady",
    ])?;
    let pods = json(bed, "get pods -A")?;
    let running = |p: &serde_json::Value| p["status"]["phase"] == "Running";
    ensure!(items(&pods).iter().all(running), "not all system pods run: {pods}");
    bed.kubectl("get --raw=/readyz?verbose").shows(&["[+]etcd ok", "readyz check passed"])?;
    bed.kubectl("version").shows(&["Server Version: v1.36"])?;
    Ok(())
}

pub fn apply(bed: &Bed) -> Result<()> {
    bed.kubectl("create namespace").arg(NAMESPACE).shows(&["namespace/e2e created"])?;
    bed.kubectl("create namespace").arg(NAMESPACE).fails("AlreadyExists")?;
    let file = bed.sample("web.yaml");
    k(bed, &format!("apply -f {file}")).shows(&[
        "configmap/web created",
        "secret/web created",
        "deployment.apps/web created",
        "service/web created",
        "job.batch/visit created",
    ])?;
    k(bed, "rollout status deployment/web --timeout=90s").shows(&["successfully rolled out"])?;
    k(bed, "wait --for=condition=complete job/visit --timeout=60s").shows(&["condition met"])?;
    k(bed, &format!("apply -f {file}")).shows(&["deployment.apps/web unchanged", "service/web unchanged"])?;
    web_has(bed, 3)
}

pub fn get(bed: &Bed) -> Result<()> {
    let line = |out: &str, n: usize| {
        out.lines().nth(n).unwrap_or("").split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    let out = k(bed, "get deployment web").text()?;
    ensure!(line(&out, 0) == ["NAME", "READY", "UP-TO-DATE", "AVAILABLE", "AGE"], "{out}");
    ensure!(line(&out, 1)[..4] == ["web", "3/3", "3", "3"], "{out}");
    let out = k(bed, "get jobs").text()?;
    ensure!(line(&out, 1)[..3] == ["visit", "Complete", "2/2"], "{out}");
    let out = k(bed, "get pods -l app=web").text()?;
    ensure!(line(&out, 0) == ["NAME", "READY", "STATUS", "RESTARTS", "AGE"], "{out}");
    ensure!(line(&out, 1)[1..4] == ["1/1", "Running", "0"], "{out}");
    k(bed, "get pods -o wide").shows(&[
        "IP",
        "NODE",
        "NOMINATED NODE",
        "READINESS GATES",
        NODE,
        "10.244.",
    ])?;
    k(bed, "get all").shows(&[
        "pod/web-",
        "service/web",
        "deployment.apps/web",
        "replicaset.apps/web-",
        "job.batch/visit",
    ])?;
    k(bed, "get service web").shows(&["NodePort", "10.", "<none>", "80:"])?;
    k(bed, "get endpointslices -l kubernetes.io/service-name=web").shows(&["IPv4", "8080", "10.244."])?;
    k(bed, "get configmap web -o yaml").shows(&[
        "apiVersion: v1",
        "greeting: ahoy",
        "kind: ConfigMap",
        "uid:",
    ])?;
    ensure!(field(bed, "secret/web", ".data.password")? == "c3RhcmJvYXJk", "the secret's value");
    k(bed, "get pods --field-selector=status.phase=Succeeded -o name").shows(&["pod/visit-"])?;
    k(bed, "get pods -l app=web --sort-by=.metadata.name --no-headers -o custom-columns=N:.metadata.name")
        .shows(&["web-"])?;
    k(bed, "get pod nothing").fails("pods \"nothing\" not found")?;
    k(bed, "get events").shows(&[
        "Scheduled",
        "Created",
        "Started",
        "ScalingReplicaSet",
        "SuccessfulCreate",
    ])?;
    Ok(())
}

pub fn watch(bed: &Bed) -> Result<()> {
    k(bed, "create configmap watched --from-literal=a=1").text()?;
    let mut lines = k(bed, "get configmaps --watch").lines()?;
    lines.until("watched", SOON)?;
    k(bed, "patch configmap watched -p").arg(r#"{"data":{"b":"2"}}"#).text()?;
    let line = lines.until("watched", SOON)?;
    ensure!(line.split_whitespace().nth(1) == Some("2"), "{line}");
    let mut events = k(bed, "get configmaps --watch-only --output-watch-events").lines()?;
    // Nothing says when the second watch began; so things happen until it has seen one.
    let mut n = 0;
    e2e::eventually("the watch to show a change", SOON, || {
        n += 1;
        k(bed, "annotate --overwrite configmap watched").arg(&format!("n={n}")).text()?;
        e2e::wait::when(events.until("MODIFIED", std::time::Duration::from_millis(500)).is_ok())
    })?;
    k(bed, "delete configmap watched").text()?;
    events.until("DELETED", SOON)?;
    Ok(())
}

pub fn describe(bed: &Bed) -> Result<()> {
    k(bed, "describe deployment web").shows(&[
        "Replicas:               3 desired | 3 updated | 3 total | 3 available | 0 unavailable",
        "RollingUpdateStrategy:  25% max unavailable, 25% max surge",
        "MinimumReplicasAvailable",
        "ScalingReplicaSet",
    ])?;
    k(bed, "describe pods -l app=web").shows(&[
        "Node:             control-plane-1/192.168.90.11",
        "Status:           Running",
        "QoS Class:                   Burstable",
        "Successfully assigned e2e/web-",
        "Container image \"localhost/busybox:local\" already present on machine",
        "ReplicaSet/web-",
        "PodScheduled",
        "kube-api-access-",
    ])?;
    k(bed, "describe service web").shows(&["NodePort:", "Endpoints:", "10.244.", "Session Affinity:"])?;
    k(bed, "describe job visit").shows(&["2 Succeeded", "Job completed", "SuccessfulCreate"])?;
    k(bed, "describe secret web").shows(&["password:  9 bytes"])?;
    bed.kubectl("describe namespace").arg(NAMESPACE).shows(&["Active"])?;
    Ok(())
}

pub fn discovery(bed: &Bed) -> Result<()> {
    bed.kubectl("explain deployment.spec.replicas")
        .shows(&["GROUP:      apps", "FIELD: replicas <integer>"])?;
    bed.kubectl("explain pod.spec.containers --recursive").shows(&["livenessProbe", "<[]Container>"])?;
    bed.kubectl("api-resources").shows(&[
        "deployments",
        "deploy",
        "apps/v1",
        "customresourcedefinitions",
        "networkpolicies",
    ])?;
    bed.kubectl("api-resources --namespaced=false --verbs=list -o name")
        .shows(&["nodes", "clusterroles.rbac"])?;
    bed.kubectl("api-versions").shows(&[
        "batch/v1",
        "discovery.k8s.io/v1",
        "flowcontrol.apiserver.k8s.io/v1",
    ])?;
    bed.kubectl("cluster-info").shows(&["control plane"])?;
    Ok(())
}

pub fn can_i(bed: &Bed) -> Result<()> {
    k(bed, "auth can-i create deployments").shows(&["yes"])?;
    k(bed, "auth can-i list secrets --as=system:serviceaccount:e2e:default").fails("no")?;
    k(bed, "auth can-i --list").shows(&["*.*"])?;
    k(bed, "auth whoami").shows(&["kubernetes-admin", "system:masters"])?;
    k(bed, "create role reader --verb=get,list --resource=secrets").text()?;
    k(bed, "create rolebinding reader --role=reader --serviceaccount=e2e:default").text()?;
    k(bed, "auth can-i list secrets --as=system:serviceaccount:e2e:default").shows(&["yes"])?;
    let token = k(bed, "create token default").text()?;
    let get =
        |what: &str| k(bed, &format!("--token={} --kubeconfig=/dev/null", token.trim())).arg("get").arg(what);
    // Without the administrator's certificate: server and CA come from flags.
    let server = bed.kubectl("config view --raw -o jsonpath={.clusters[0].cluster.server}").text()?;
    let with = |what: &str| get(what).arg(&format!("--server={server}")).arg("--insecure-skip-tls-verify");
    with("secrets").shows(&["web"])?;
    with("pods").fails("cannot list resource \"pods\"")?;
    Ok(())
}
