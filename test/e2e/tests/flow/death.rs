//! What happens when things die: containers come back, daemons are not missed.

use crate::common::{NODE, field, items, json, k, pod_from_sample, web_has};
use anyhow::{Context, Result, ensure};
use e2e::{Bed, eventually, wait::SOON, wait::when};
use serde_json::Value;
use std::collections::BTreeMap;

/// Kills the container's first process from the node, as `kill -9` would; ids by the runtime's own list.
fn kill_container(bed: &Bed, pod: &str) -> Result<()> {
    let id = field(bed, &format!("pod/{pod}"), ".status.containerStatuses[0].containerID")?;
    let id = id.strip_prefix("containerd://").context("no container id")?.to_owned();
    let tasks = bed.on_node(NODE, "ctr -n k8s.io tasks ls").text()?;
    let task = tasks.lines().find(|l| l.starts_with(&id)).context("the container has no task")?;
    let pid = task.split_whitespace().nth(1).context("the task has no process")?;
    bed.on_node(NODE, &format!("kill -9 {pid}")).text()?;
    Ok(())
}

fn restarts(bed: &Bed, pod: &str) -> Result<u32> {
    let count = field(bed, &format!("pod/{pod}"), ".status.containerStatuses[0].restartCount")?;
    Ok(count.parse()?)
}

pub fn container(bed: &Bed) -> Result<()> {
    pod_from_sample(bed, "shell")?;
    let before = restarts(bed, "shell")?;
    kill_container(bed, "shell")?;
    eventually("the first restart", SOON, || when(restarts(bed, "shell")? == before + 1))?;
    ensure!(
        field(bed, "pod/shell", ".status.containerStatuses[0].lastState.terminated.exitCode")? == "137",
        "the exit code of a killed process"
    );
    // The first waits are short: it is killed again until a wait is seen.
    eventually("the back-off", SOON * 2, || {
        if field(bed, "pod/shell", ".status.containerStatuses[0].state.waiting.reason")? == "CrashLoopBackOff"
        {
            return Ok(Some(()));
        }
        // Between two runs there is nothing to kill.
        let _ = kill_container(bed, "shell");
        Ok(None)
    })?;
    let seen = restarts(bed, "shell")?;
    eventually("one more restart", SOON, || when(restarts(bed, "shell")? > seen))?;
    k(bed, "wait --for=condition=Ready pod/shell --timeout=60s").text()?;
    k(bed, "get events").shows(&["BackOff"])?;
    Ok(())
}

/// Each container with its id and restart count.
fn containers(bed: &Bed) -> Result<BTreeMap<String, String>> {
    let pods = json(bed, "get pods -A")?;
    let mut all = BTreeMap::new();
    for pod in items(&pods) {
        let statuses = pod["status"]["containerStatuses"].as_array().map_or(&[] as &[Value], Vec::as_slice);
        for c in statuses.iter().filter(|c| !c["state"]["running"].is_null()) {
            let name = format!("{}/{}", pod["metadata"]["name"], c["name"]);
            all.insert(name, format!("{} {}", c["containerID"], c["restartCount"]));
        }
    }
    Ok(all)
}

pub fn daemons(bed: &Bed) -> Result<()> {
    web_has(bed, 3)?;
    let before = containers(bed)?;
    let objects = k(bed, "get all,configmaps,secrets -o name").text()?;
    let ip = field(bed, "service/web", ".spec.clusterIP")?;
    for (n, daemon) in [
        "kubelet",
        "kube-proxy",
        "kube-scheduler",
        "kube-controller-manager",
        "containerd",
        "etcd",
        "kube-apiserver",
    ]
    .into_iter()
    .enumerate()
    {
        println!("       kill -9 {daemon}");
        bed.component(NODE, "kill", daemon)?;
        // Traffic does not depend on any of them.
        let answer = bed.ask_from_node(NODE, &ip, "/", 1)?;
        ensure!(answer.iter().any(|a| a.starts_with("web-")), "{daemon}: {answer:?}");
        works_again(bed, &format!("after-{n}")).with_context(|| format!("after the end of {daemon}"))?;
        let now = containers(bed)?;
        ensure!(now == before, "{daemon} disturbed containers: {before:?} became {now:?}");
    }
    let after = k(bed, "get all,configmaps,secrets -o name").text()?;
    ensure!(after == objects, "objects were {objects}, are {after}");
    Ok(())
}

/// Every daemon does its part: a new Deployment gets a pod, that runs and is reached through a Service.
fn works_again(bed: &Bed, name: &str) -> Result<()> {
    let create =
        format!("create deployment {name} --image=localhost/busybox:local -- httpd -f -p 8080 -h /etc");
    eventually("a new Deployment", SOON, || {
        let o = k(bed, &create).outcome()?;
        ensure!(o.code == Some(0) || o.stderr.contains("AlreadyExists"), "{}", o.stderr);
        Ok(Some(()))
    })?;
    eventually("its pod to run", SOON, || {
        when(field(bed, &format!("deployment/{name}"), ".status.readyReplicas")? == "1")
    })?;
    k(bed, &format!("expose deployment {name} --port=80 --target-port=8080")).text()?;
    let ip = field(bed, &format!("service/{name}"), ".spec.clusterIP")?;
    eventually("an answer of its Service", SOON, || {
        when(bed.ask_from_node(NODE, &ip, "/hostname", 1)?.iter().any(|a| a.starts_with(name)))
    })?;
    k(bed, &format!("delete deployment,service {name} --wait=false")).text()?;
    k(bed, &format!("delete pods -l app={name} --grace-period=1")).text()?;
    eventually("it to be gone", SOON, || {
        when(k(bed, &format!("get pods,rs -l app={name} -o name")).text()?.trim().is_empty())
    })
}

pub fn deleted_meanwhile(bed: &Bed) -> Result<()> {
    k(bed, "run gone --image=localhost/busybox:local --command -- sleep 1000000").text()?;
    k(bed, "wait --for=condition=Ready pod/gone --timeout=60s").text()?;
    bed.component(NODE, "stop", "kubelet")?;
    k(bed, "delete pod gone --grace-period=0 --force").text()?;
    bed.component(NODE, "start", "kubelet")?;
    eventually("its container to be gone", SOON, || {
        let ps = bed.on_node(NODE, "ps ax -o args").text()?;
        when(!ps.contains("sleep 1000000") || !ps.lines().any(|l| l == "sleep 1000000"))
    })
}
