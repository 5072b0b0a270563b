//! Devices of a device plugin, and claims of a driver of dynamic resources: from registration to the kubelet's restart.

use crate::common::NODE;
use anyhow::{Context, Result, ensure};
use e2e::wait::{SOON, when};
use e2e::{Bed, eventually};
use serde_json::Value;

/// Below the kubelet's folder, so that it goes with the node.
const DATA: &str = "/var/lib/kubelet/device-test";
const RESOURCE: &str = "binnacle.dev/thing";

const POD: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: device-user}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: localhost/busybox:local
    imagePullPolicy: Never
    command: [sh, -c, "echo has $THINGS; ls /things /dev/thing; sleep 3600"]
    resources: {limits: {binnacle.dev/thing: 2}}
"#;

/// A claim that is allocated by hand: what matters here is the node.
const CLAIM: &str = r#"
apiVersion: resource.k8s.io/v1
kind: ResourceClaim
metadata: {name: thing}
spec: {devices: {requests: [{name: r, exactly: {deviceClassName: things}}]}}
---
apiVersion: v1
kind: Pod
metadata: {name: claim-user}
spec:
  nodeName: control-plane-1
  terminationGracePeriodSeconds: 1
  resourceClaims: [{name: mine, resourceClaimName: thing}]
  containers:
  - name: c
    image: localhost/busybox:local
    imagePullPolicy: Never
    command: [sh, -c, "sleep 3600"]
    resources: {claims: [{name: mine}]}
"#;

fn start(bed: &Bed, mode: &str) -> Result<()> {
    let program = e2e::bed::program("device-plugin")?;
    let devices = format!("{DATA}/devices");
    let make = format!("mkdir -p {devices}; for d in a b c; do echo Healthy >{devices}/$d; done");
    let line = format!("{make}; nohup {} {mode} --data {DATA} >/dev/null 2>&1 &", program.display());
    bed.on_node(NODE, "sh -c").arg(&line).text().map(drop)
}

/// How many devices the node has, and how many can be used.
fn counted(bed: &Bed, expected: &str) -> Result<()> {
    let field = |list: &str| format!("{{.status.{list}.binnacle\\.dev/thing}}");
    let line = format!("get node {NODE} -o jsonpath={}:{}", field("capacity"), field("allocatable"));
    eventually(&format!("{expected} devices"), SOON, || when(bed.kubectl(&line).text()? == expected))
}

fn status(bed: &Bed, pod: &str) -> Result<String> {
    bed.kubectl(&format!(
        "get pod {pod} -o jsonpath={{.status.containerStatuses[0].allocatedResourcesStatus}}"
    ))
    .text()
}

fn calls(bed: &Bed) -> Result<String> {
    bed.on_node(NODE, "sh -c").arg(&format!("cat {DATA}/calls")).text()
}

/// What the pod resources API says of the only container of a pod.
fn resources(bed: &Bed, pod: &str) -> Result<Value> {
    let program = e2e::bed::program("device-plugin")?;
    let text = bed.on_node(NODE, &format!("{} resources", program.display())).text()?;
    let all: Value = serde_json::from_str(&text).context("pod resources")?;
    Ok(all["pods"][format!("default/{pod}")][0].clone())
}

/// A plugin registers, and a pod gets devices, as the plugin prefers, with all that goes with them.
pub fn plugin(bed: &Bed) -> Result<()> {
    start(bed, "devices --pre-start")?;
    counted(bed, "3:3")?;
    bed.kubectl("apply -f -").input(POD).text()?;
    bed.kubectl("wait --for=condition=Ready pod/device-user --timeout=60s").text()?;
    bed.kubectl("logs device-user").shows(&["has b,c", "/dev/thing", "a\nb\nc"])?;
    ensure!(calls(bed)?.contains("allocate b,c\nstart b,c\n"), "{}", calls(bed)?);
    let shown = resources(bed, "device-user")?.to_string();
    ensure!(shown.contains(r#"["b"]"#) && shown.contains(r#"["c"]"#), "{shown}");
    Ok(())
}

/// A device that fails is no longer given, and the pod that has it says so.
pub fn health(bed: &Bed) -> Result<()> {
    bed.on_node(NODE, "sh -c").arg(&format!("echo Unhealthy >{DATA}/devices/b")).text()?;
    counted(bed, "3:2")?;
    let unwell = r#"{"health":"Unhealthy","resourceID":"b"}"#;
    eventually("the pod to tell", SOON, || when(status(bed, "device-user")?.contains(unwell)))
}

/// A kubelet that was killed remembers who has what, and the plugin comes back.
pub fn restart(bed: &Bed) -> Result<()> {
    bed.component(NODE, "kill", "kubelet")?;
    bed.component(NODE, "restart", "kubelet")?;
    let again = "kubelet started\nregistered";
    eventually("the plugin to register again", SOON, || when(calls(bed)?.contains(again)))?;
    counted(bed, "3:2")?;
    let shown = resources(bed, "device-user")?.to_string();
    ensure!(shown.contains(r#"["b"]"#) && shown.contains(RESOURCE), "{shown}");
    ensure!(calls(bed)?.matches("allocate").count() == 1, "allocated again: {}", calls(bed)?);
    bed.kubectl("get pod device-user -o jsonpath={.status.containerStatuses[0].restartCount}")
        .shows(&["0"])?;
    bed.kubectl("delete pod device-user").text()?;
    Ok(())
}

/// A claim is prepared before its pod runs, shown, and taken back after a restart, too.
pub fn claims(bed: &Bed) -> Result<()> {
    start(bed, "claims")?;
    eventually("the driver to register", SOON, || when(calls(bed)?.contains("registered true")))?;
    bed.kubectl("apply -f -").input(CLAIM).text()?;
    let uid = bed.kubectl("get pod claim-user -o jsonpath={.metadata.uid}").text()?;
    let result = r#"{"request":"r","driver":"dra.binnacle.dev","pool":"pool","device":"one"}"#;
    let consumer = format!(r#"{{"resource":"pods","name":"claim-user","uid":"{uid}"}}"#);
    let patch = format!(
        r#"-p={{"status":{{"allocation":{{"devices":{{"results":[{result}]}}}},"reservedFor":[{consumer}]}}}}"#
    );
    bed.kubectl("patch resourceclaim thing --subresource=status --type=merge").arg(&patch).text()?;
    bed.kubectl("wait --for=condition=Ready pod/claim-user --timeout=60s").text()?;
    ensure!(calls(bed)?.contains("prepare thing"), "{}", calls(bed)?);
    let shown = resources(bed, "claim-user")?.to_string();
    ensure!(shown.contains("dra.binnacle.dev/thing=one"), "{shown}");
    eventually("the pod to tell how the device is", SOON, || {
        when(status(bed, "claim-user")?.contains(r#""message":"it hums""#))
    })?;
    bed.component(NODE, "restart", "kubelet")?;
    bed.kubectl("delete pod claim-user").text()?;
    eventually("the claim to be taken back", SOON, || when(calls(bed)?.contains("unprepare thing")))?;
    bed.kubectl("delete resourceclaim thing --wait=false").text()?;
    let stop = "kill $(cat /proc/[0-9]*/stat 2>/dev/null | awk '$2==\"(device-plugin)\"{print $1}')";
    bed.on_node(NODE, "sh -c").arg(stop).text().map(drop)
}
