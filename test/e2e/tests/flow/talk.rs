//! Talking to containers: logs, exec, attach, cp, port-forward.

use crate::common::{field, field_becomes, k, pod_from_sample, web_pods};
use anyhow::{Context, Result, ensure};
use e2e::command::Program;
use e2e::{Bed, eventually, wait::SOON, wait::when};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

fn one_web_pod(bed: &Bed) -> Result<String> {
    web_pods(bed)?.into_iter().next().context("no web pod")
}

pub fn configuration(bed: &Bed) -> Result<()> {
    let pod = one_web_pod(bed)?;
    let shell = |script: &str| k(bed, &format!("exec {pod} -- sh -c")).arg(script);
    shell("cat /etc/web/greeting; echo; cat /etc/web-secret/password").shows(&["ahoy\nstarboard"])?;
    shell("echo $GREETING $PASSWORD $POD_NAME").shows(&[&format!("ahoy starboard {pod}")])?;
    shell("stat -Lc %a /etc/web-secret/password").shows(&["400"])?;
    shell("ls /var/run/secrets/kubernetes.io/serviceaccount").shows(&["ca.crt", "namespace", "token"])?;
    shell("echo $KUBERNETES_SERVICE_HOST; cat /etc/resolv.conf")
        .shows(&["10.96.0.1\n", "e2e.svc.cluster.local"])?;
    // The kubelet takes a changed map into running pods, in a minute or so: seen to later.
    k(bed, "patch configmap web -p").arg(r#"{"data":{"greeting":"moin"}}"#).text()?;
    Ok(())
}

/// The map changed by [`configuration`] is in the files of pods that ran then.
pub fn changed_configuration(bed: &Bed) -> Result<()> {
    let pod = one_web_pod(bed)?;
    eventually("the changed file", Duration::from_secs(120), || {
        when(k(bed, &format!("exec {pod} -- cat /etc/web/greeting")).text()? == "moin")
    })
}

pub fn logs(bed: &Bed) -> Result<()> {
    let pod = one_web_pod(bed)?;
    k(bed, &format!("logs {pod}")).shows(&[&format!("ahoy from {pod}")])?;
    k(bed, &format!("logs --timestamps --tail=1 {pod}")).shows(&["T", "Z "])?;
    k(bed, "logs -l app=web --prefix").shows(&["[pod/web-"])?;
    k(bed, "logs deployment/web").shows(&["ahoy from"])?;
    let mut follow = k(bed, &format!("logs -f --tail=0 {pod}")).lines()?;
    eventually("the followed log to show a new line", SOON, || {
        k(bed, &format!("exec {pod} -- sh -c")).arg("echo said later > /proc/1/fd/1").text()?;
        when(follow.until("said later", Duration::from_millis(500)).is_ok())
    })?;
    k(bed, &format!("logs --previous {pod}")).fails("previous terminated container \"web\" in pod")?;
    k(bed, &format!("apply -f {}", bed.sample("restarts.yaml"))).text()?;
    eventually("the first restart", SOON, || {
        let count = field(bed, "pod/restarts", ".status.containerStatuses[0].restartCount")?;
        when(count.parse::<u32>().is_ok_and(|n| n >= 1))
    })?;
    k(bed, "logs --previous restarts").shows(&["this run will fail"])?;
    field_becomes(bed, "pod/restarts", ".status.containerStatuses[0].lastState.terminated.exitCode", "3")?;
    k(bed, "delete pod restarts").text()?;
    Ok(())
}

pub fn exec(bed: &Bed) -> Result<()> {
    pod_from_sample(bed, "shell")?;
    k(bed, "exec shell -- echo hello").shows(&["hello\n"])?;
    let o = k(bed, "exec shell -- sh -c").arg("echo out; echo err >&2; exit 7").outcome()?;
    ensure!(o.code == Some(7) && o.stdout == "out\n" && o.stderr.starts_with("err\n"), "{o:?}");
    let big = "a line of input\n".repeat(20_000);
    let out = k(bed, "exec -i shell -- cat").input(&big).text()?;
    ensure!(out == big, "cat returned {} of {} bytes", out.len(), big.len());
    k(bed, "exec shell -- no-such-program").fails("no-such-program")?;
    k(bed, "exec shell -c nothing -- true").fails("container nothing")?;
    // kubectl tells the size once the program runs; until then there is none, which stty calls a success.
    let inner = "stty rows 33 cols 99; kubectl --namespace=e2e exec -it shell -- sh -c 'tty; until stty size 2>/dev/null | grep .; do sleep 0.1; done'";
    let mut script = Command::new("script");
    script.args(["-qec", inner, "/dev/null"]).env("KUBECONFIG", bed.kubeconfig());
    Program::new(script).shows(&["/dev/pts/", "33 99"])?;
    Ok(())
}

pub fn attach(bed: &Bed) -> Result<()> {
    let mut attached = k(bed, "attach -i shell").lines()?;
    attached.send("something typed")?;
    attached.until("read something typed", SOON)?;
    drop(attached);
    k(bed, "logs shell").shows(&["read something typed"])?;
    k(bed, "run once --image=localhost/busybox:local --restart=Never --rm -i --quiet --command -- sh -c")
        .arg("read word; echo got $word")
        .input("treasure\n")
        .shows(&["got treasure"])?;
    Ok(())
}

pub fn copy(bed: &Bed) -> Result<()> {
    let data: String = (0..50_000).map(|n| format!("line {n}\n")).collect();
    let there = bed.file("there", &data)?;
    k(bed, &format!("cp {there} shell:/tmp/copied")).text()?;
    let back = format!("{there}.back");
    k(bed, &format!("cp shell:/tmp/copied {back}")).text()?;
    ensure!(std::fs::read_to_string(back)? == data, "the file came back changed");
    Ok(())
}

pub fn port_forward(bed: &Bed) -> Result<()> {
    let pod = one_web_pod(bed)?;
    for target in [format!("pod/{pod} :8080"), "service/web :80".to_owned()] {
        let mut forward = k(bed, &format!("port-forward {target}")).lines()?;
        let line = forward.until("Forwarding from 127.0.0.1:", SOON)?;
        let address = line.trim_start_matches("Forwarding from ").split(' ').next().unwrap_or_default();
        for _ in 0..3 {
            let answer = http_get(address)?;
            ensure!(answer.contains("200 OK") && answer.contains("web-"), "{target}: {answer}");
        }
    }
    Ok(())
}

fn http_get(address: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
