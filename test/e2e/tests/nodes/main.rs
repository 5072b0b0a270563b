//! Two nodes: pods spread over them and reach each other and Services across.

use anyhow::{Context, Result, ensure};
use e2e::{Bed, eventually, wait::SOON, wait::when};
use std::process::ExitCode;

/// `timeout`, as -T makes some builds of this wget crash.
const ASK: &str = "timeout 5 wget -q -O -";

fn main() -> ExitCode {
    e2e::run::run(
        "nodes",
        &["--control-planes", "1", "--workers", "1"],
        &[
            ("both nodes are Ready, one is tainted", ready),
            ("pods of both nodes reach each other and their Service", across),
            ("a DaemonSet runs once on each node", daemon_set),
            ("a drained node is empty", drain),
            ("a node that is cut off is noticed and comes back", cut_off),
        ],
    )
}

fn ready(bed: &Bed) -> Result<()> {
    bed.kubectl("get nodes").shows(&["control-plane-1", "worker-1"])?;
    bed.kubectl("get node control-plane-1 -o jsonpath={.spec.taints[*].key}")
        .shows(&["node-role.kubernetes.io/control-plane"])?;
    let ranges = bed.kubectl("get nodes -o jsonpath={.items[*].spec.podCIDR}").text()?;
    let mut ranges: Vec<&str> = ranges.split(' ').collect();
    ranges.dedup();
    ensure!(ranges.len() == 2, "each node has its own range: {ranges:?}");
    Ok(())
}

const DAEMONS: &str = "
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: each}
spec:
  selector: {matchLabels: {app: each}}
  template:
    metadata: {labels: {app: each}}
    spec:
      terminationGracePeriodSeconds: 1
      tolerations: [{operator: Exists}]
      containers:
      - name: main
        image: localhost/busybox:local
        command: [sh, -c, 'hostname > /tmp/index.html; exec httpd -f -p 8080 -h /tmp']
---
apiVersion: v1
kind: Service
metadata: {name: each}
spec:
  type: NodePort
  selector: {app: each}
  ports: [{port: 80, targetPort: 8080}]
";

/// Name, address and node of each of the DaemonSet's pods.
fn pods(bed: &Bed) -> Result<Vec<[String; 3]>> {
    let path = "-o=jsonpath={range .items[*]}{.metadata.name} {.status.podIP} {.spec.nodeName}{\"\\n\"}{end}";
    let out = bed.kubectl("get pods -l app=each").arg(path).text()?;
    let pod = |line: &str| {
        let mut words = line.split(' ').map(str::to_owned);
        Some([words.next()?, words.next()?, words.next()?])
    };
    Ok(out.lines().filter_map(pod).collect())
}

fn across(bed: &Bed) -> Result<()> {
    let file = bed.file("each.yaml", DAEMONS)?;
    bed.kubectl("apply -f").arg(&file).text()?;
    bed.kubectl("rollout status daemonset/each --timeout=60s").text()?;
    let pods = pods(bed)?;
    for [from, _, _] in &pods {
        for [to, address, _] in &pods {
            bed.kubectl(&format!("exec {from} -- {ASK} http://{address}:8080/")).shows(&[to])?;
        }
    }
    let ip = bed.kubectl("get service each -o jsonpath={.spec.clusterIP}").text()?;
    let port = bed.kubectl("get service each -o jsonpath={.spec.ports[0].nodePort}").text()?;
    for [from, _, _] in &pods {
        for address in [ip.clone(), format!("192.168.90.11:{port}"), format!("192.168.90.12:{port}")] {
            eventually(&format!("both pods to answer {from} at {address}"), SOON, || {
                let script =
                    format!("for i in 1 2 3 4 5 6 7 8 9 10; do {ASK} http://{address}/ || exit 1; done");
                let out = bed.kubectl(&format!("exec {from} -- sh -c")).arg(&script).text()?;
                when(pods.iter().all(|[name, _, _]| out.contains(name)))
            })?;
        }
    }
    Ok(())
}

fn daemon_set(bed: &Bed) -> Result<()> {
    let mut on: Vec<String> = pods(bed)?.into_iter().map(|[_, _, node]| node).collect();
    on.sort();
    ensure!(on == ["control-plane-1", "worker-1"], "{on:?}");
    bed.kubectl("get daemonset each").shows(&["DESIRED", "NODE SELECTOR"])?;
    Ok(())
}

fn drain(bed: &Bed) -> Result<()> {
    bed.kubectl("create deployment drained --image=localhost/pause:local --replicas=2").text()?;
    bed.kubectl("rollout status deployment/drained --timeout=60s").text()?;
    bed.kubectl("drain worker-1 --ignore-daemonsets --timeout=60s").shows(&["evicting pod", "drained"])?;
    bed.kubectl("get node worker-1").shows(&["Ready,SchedulingDisabled"])?;
    bed.kubectl("get pods -l app=drained").shows(&["Pending"])?;
    eventually("why they wait", SOON, || {
        let events = bed.kubectl("get events --field-selector=reason=FailedScheduling").text()?;
        when(events.contains("0/2 nodes are available"))
    })?;
    bed.kubectl("uncordon worker-1").text()?;
    bed.kubectl("rollout status deployment/drained --timeout=60s").text()?;
    bed.kubectl("delete deployment drained").text()?;
    Ok(())
}

fn ready_condition(bed: &Bed) -> Result<String> {
    bed.kubectl("get node worker-1")
        .arg("-o=jsonpath={.status.conditions[?(@.type==\"Ready\")].status}")
        .text()
}

fn cut_off(bed: &Bed) -> Result<()> {
    let limit = SOON * 2;
    bed.link("worker-1", "down")?;
    let noticed = eventually("the node to be Unknown", limit, || when(ready_condition(bed)? == "Unknown"));
    bed.link("worker-1", "up")?;
    noticed?;
    bed.kubectl("get node worker-1 -o jsonpath={.spec.taints[*].key}")
        .shows(&["node.kubernetes.io/unreachable"])
        .context("its taint")?;
    eventually("the node to be Ready again", limit, || when(ready_condition(bed)? == "True"))?;
    eventually("its taint to go", limit, || {
        let taints = bed.kubectl("get node worker-1 -o jsonpath={.spec.taints[*].key}").text()?;
        when(!taints.contains("unreachable"))
    })
}
