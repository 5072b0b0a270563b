//! What a pod may not do with its volumes: hold more than their limit, lead a subPath out of them.

use crate::common::NODE;
use anyhow::{Result, ensure};
use e2e::wait::{SOON, when};
use e2e::{Bed, eventually};

const GREEDY: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: greedy}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: localhost/busybox:local
    imagePullPolicy: Never
    command: [sh, -c, "dd if=/dev/zero of=/own/x bs=1M count=12; sleep 3600"]
    volumeMounts: [{name: own, mountPath: /own}]
  volumes: [{name: own, emptyDir: {sizeLimit: 4Mi}}]
"#;

const SLY: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: sly}
spec:
  terminationGracePeriodSeconds: 1
  initContainers:
  - name: link
    image: localhost/busybox:local
    imagePullPolicy: Never
    command: [ln, -s, /etc, /own/out]
    volumeMounts: [{name: own, mountPath: /own}]
  containers:
  - name: c
    image: localhost/busybox:local
    imagePullPolicy: Never
    command: [sleep, "3600"]
    volumeMounts: [{name: own, mountPath: /stolen, subPath: out}]
  volumes: [{name: own, emptyDir: {}}, {name: unused, configMap: {name: nowhere}}]
"#;

/// A pod whose volume holds more than its limit is evicted, and its files go with it.
pub fn size(bed: &Bed) -> Result<()> {
    bed.kubectl("apply -f -").input(GREEDY).text()?;
    let shown = "get pod greedy -o jsonpath={.status.phase}:{.status.reason}:{.status.message}";
    let expected = "Failed:Evicted:Usage of EmptyDir volume \"own\" exceeds the limit \"4Mi\". ";
    eventually("the pod to be evicted", SOON, || {
        when(bed.kubectl(shown).text()?.trim_end() == expected.trim_end())
    })?;
    let uid = bed.kubectl("get pod greedy -o jsonpath={.metadata.uid}").text()?;
    let file = format!("/var/lib/kubelet/pods/{uid}/volumes/kubernetes.io~empty-dir/own/x");
    eventually("its files to go", SOON, || {
        when(bed.on_node(NODE, "sh -c").arg(&format!("ls {file} 2>/dev/null || true")).text()?.is_empty())
    })?;
    bed.kubectl("delete pod greedy").text()?;
    Ok(())
}

/// A link out of a volume is no subPath, and a volume that no container uses hinders nobody.
pub fn sub_path(bed: &Bed) -> Result<()> {
    bed.kubectl("apply -f -").input(SLY).text()?;
    let shown = "get pod sly -o jsonpath={.status.containerStatuses[0].state.waiting}";
    eventually("the container to be refused", SOON, || {
        when(bed.kubectl(shown).text()?.contains("CreateContainerConfigError"))
    })?;
    let shown = bed.kubectl(shown).text()?;
    ensure!(shown.contains("failed to prepare subPath for volumeMount"), "{shown}");
    bed.kubectl("delete pod sly").text()?;
    Ok(())
}
