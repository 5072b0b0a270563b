//! Volumes of a CSI driver: the way from its registration to the last unmount, through a restart of the kubelet.

use crate::common::NODE;
use anyhow::{Context, Result, ensure};
use e2e::wait::{SOON, when};
use e2e::{Bed, eventually};
use std::time::Duration;

const DRIVER: &str = "test.csi.binnacle.dev";
/// Below the kubelet's folder, so that it goes with the node.
const DATA: &str = "/var/lib/kubelet/csi-test";

const CLAIM: &str = r#"
apiVersion: v1
kind: PersistentVolume
metadata: {name: csi-volume}
spec:
  capacity: {storage: 1Gi}
  accessModes: [ReadWriteOnce]
  storageClassName: ""
  persistentVolumeReclaimPolicy: Retain
  claimRef: {namespace: default, name: csi-claim}
  csi: {driver: test.csi.binnacle.dev, volumeHandle: one}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: csi-claim}
spec:
  accessModes: [ReadWriteOnce]
  storageClassName: ""
  volumeName: csi-volume
  resources: {requests: {storage: 1Gi}}
---
apiVersion: v1
kind: Pod
metadata: {name: csi-user}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: localhost/busybox:local
    imagePullPolicy: Never
    command: [sh, -c, "echo kept >/data/file; sleep 3600"]
    volumeMounts:
    - {name: claim, mountPath: /data}
    - {name: claim, mountPath: /part, subPath: part}
    - {name: own, mountPath: /own}
  volumes:
  - {name: claim, persistentVolumeClaim: {claimName: csi-claim}}
  - {name: own, csi: {driver: test.csi.binnacle.dev, volumeAttributes: {hello: world}}}
"#;

const OBJECT: &str = r#"
apiVersion: storage.k8s.io/v1
kind: CSIDriver
metadata: {name: test.csi.binnacle.dev}
spec: {attachRequired: true, podInfoOnMount: true, volumeLifecycleModes: [Persistent, Ephemeral]}
"#;

/// A driver that starts on a node shows up in its CSINode, with its limit and its place.
pub fn driver(bed: &Bed) -> Result<()> {
    let program = e2e::bed::program("csi-driver")?;
    bed.kubectl("apply -f -").input(OBJECT).text()?;
    let start = format!(
        "nohup {} --data {DATA} --kubeconfig /etc/kubernetes/admin.conf --max-volumes 7 --topology {DRIVER}/zone=here >/dev/null 2>&1 &",
        program.display()
    );
    bed.on_node(NODE, "sh -c").arg(&start).text()?;
    let what = "-o jsonpath={.spec.drivers[*].name}:{.spec.drivers[*].allocatable.count}";
    let line = format!("get csinode {NODE} {what}");
    eventually("the driver to be in the CSINode", SOON, || {
        when(bed.kubectl(&line).text()? == format!("{DRIVER}:7"))
    })?;
    bed.kubectl(&format!("get node {NODE} --show-labels")).shows(&[&format!("{DRIVER}/zone=here")])?;
    Ok(())
}

/// A volume is attached, staged, published and part of it mounted; the pod's own volume shows what it was given.
pub fn volume(bed: &Bed) -> Result<()> {
    bed.kubectl("apply -f -").input(CLAIM).text()?;
    bed.kubectl("wait --for=condition=Ready pod/csi-user --timeout=60s").text()?;
    bed.kubectl("exec csi-user -- cat /data/file /own/hello").shows(&["kept", "world"])?;
    bed.kubectl("get events").shows(&["AttachVolume.Attach succeeded for volume \"csi-volume\""])?;
    let unique = format!("kubernetes.io/csi/{DRIVER}^one");
    let line = format!("get node {NODE} -o jsonpath={{.status.volumesInUse}}{{.status.volumesAttached}}");
    let shown = bed.kubectl(&line).text()?;
    ensure!(shown.matches(&unique).count() == 2, "{unique} is not both in use and attached: {shown}");
    Ok(())
}

/// A volume that the cluster has grown is grown on the node, too.
pub fn growth(bed: &Bed) -> Result<()> {
    let patch = r#"-p={"spec":{"capacity":{"storage":"2Gi"}}}"#;
    bed.kubectl("patch pv csi-volume --type=merge").arg(patch).text()?;
    // The kubelet looks at each of its pods about once a minute.
    let line = "wait pvc/csi-claim --for=jsonpath={.status.capacity.storage}=2Gi --timeout=150s";
    bed.kubectl(line).limit(Duration::from_secs(160)).text()?;
    calls(bed)?
        .lines()
        .find(|l| l.starts_with("expand one"))
        .context("the driver was not asked to expand")?;
    Ok(())
}

/// A kubelet that was killed finds the volume again, and takes it down with the pod.
pub fn restart(bed: &Bed) -> Result<()> {
    bed.component(NODE, "kill", "kubelet")?;
    bed.kubectl("delete pod csi-user --wait=false").text()?;
    bed.component(NODE, "restart", "kubelet")?;
    bed.kubectl("wait --for=delete pod/csi-user --timeout=90s").limit(Duration::from_secs(100)).text()?;
    eventually("the volume to be unstaged", SOON, || when(calls(bed)?.lines().any(|l| l == "unstage one")))?;
    eventually("the volume to be detached", SOON, || {
        when(bed.kubectl("get volumeattachments -o name").text()?.is_empty())
    })?;
    let left =
        bed.on_node(NODE, "sh -c").arg("grep -c kubernetes.io~csi /proc/self/mountinfo || true").text()?;
    ensure!(left.trim() == "0", "mounts are left: {left}");
    bed.on_node(NODE, "sh -c").arg(&format!("cat {DATA}/volumes/one/file")).shows(&["kept"])?;
    bed.kubectl("delete pvc csi-claim").text()?;
    bed.kubectl("delete pv csi-volume").text()?;
    let stop = "kill $(cat /proc/[0-9]*/stat 2>/dev/null | awk '$2==\"(csi-driver)\"{print $1}')";
    bed.on_node(NODE, "sh -c").arg(stop).text()?;
    Ok(())
}

fn calls(bed: &Bed) -> Result<String> {
    bed.on_node(NODE, "sh -c").arg(&format!("cat {DATA}/calls")).text()
}
