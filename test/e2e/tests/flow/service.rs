//! The Service: reachable, spread, and only to ready pods.

use crate::common::{NODE, field, k, web_has, web_pods};
use anyhow::{Result, ensure};
use e2e::{Bed, eventually, wait::SOON, wait::when};
use std::collections::BTreeSet;

/// `timeout`, as -T makes some builds of this wget crash.
const ASK: &str = "timeout 5 wget -q -O -";

fn cluster_ip(bed: &Bed) -> Result<String> {
    field(bed, "service/web", ".spec.clusterIP")
}

/// Who answered `count` requests from the node.
fn answers_of(bed: &Bed, address: &str, count: usize) -> Result<BTreeSet<String>> {
    Ok(bed.ask_from_node(NODE, address, "/", count)?.into_iter().collect())
}

pub fn answers(bed: &Bed) -> Result<()> {
    web_has(bed, 3)?;
    let ip = cluster_ip(bed)?;
    let port = field(bed, "service/web", ".spec.ports[0].nodePort")?;
    let addresses = [ip.clone(), format!("192.168.90.11:{port}")];
    for address in &addresses {
        eventually(&format!("an answer at {address} from the node"), SOON, || {
            Ok(Some(answers_of(bed, address, 1)?).filter(|a| !a.is_empty()))
        })?;
        k(bed, &format!("exec shell -- {ASK} http://{address}/")).shows(&["web-"])?;
    }
    // A pod reaches itself through the Service too.
    for pod in web_pods(bed)? {
        k(bed, &format!("exec {pod} -- sh -c"))
            .arg(&format!("for i in 1 2 3 4 5 6; do {ASK} http://{ip}/ || exit 1; done"))
            .text()?;
    }
    k(bed, "create service clusterip nobody --tcp=80:80").text()?;
    let nobody = field(bed, "service/nobody", ".spec.clusterIP")?;
    eventually("a refused connection without endpoints", SOON, || {
        let o = k(bed, &format!("exec shell -- {ASK} http://{nobody}/")).outcome()?;
        when(o.stderr.contains("refused"))
    })?;
    k(bed, "delete service nobody").text()?;
    Ok(())
}

/// Only where the cluster has the addon; a build without it has no such image.
pub fn names(bed: &Bed) -> Result<()> {
    let dns =
        bed.kubectl("get service kube-dns --namespace=kube-system --ignore-not-found -o name").text()?;
    if dns.is_empty() {
        println!("       no cluster DNS in this cluster");
        return Ok(());
    }
    for name in ["web", "web.e2e", "web.e2e.svc.cluster.local"] {
        k(bed, &format!("exec shell -- {ASK} http://{name}/")).shows(&["web-"])?;
    }
    k(bed, "exec shell -- nslookup kubernetes.default.svc.cluster.local").shows(&["10.96.0.1"])?;
    Ok(())
}

pub fn spreads(bed: &Bed) -> Result<()> {
    let pods: BTreeSet<String> = web_pods(bed)?.into_iter().collect();
    let seen = answers_of(bed, &cluster_ip(bed)?, 60)?;
    ensure!(seen == pods, "answered: {seen:?}, there are: {pods:?}");
    Ok(())
}

pub fn leaves_out_unready(bed: &Bed) -> Result<()> {
    let ip = cluster_ip(bed)?;
    let pods = web_pods(bed)?;
    let out = &pods[0];
    k(bed, &format!("exec {out} -- rm /www/ready")).text()?;
    eventually("the unready pod to get no more requests", SOON, || {
        when(web_pods(bed)?.len() == 2 && !answers_of(bed, &ip, 20)?.contains(out))
    })?;
    ensure!(!answers_of(bed, &ip, 40)?.contains(out), "it still gets requests");
    k(bed, &format!("get pod {out}")).shows(&["0/1", "Running"])?;
    k(bed, &format!("exec {out} -- touch /www/ready")).text()?;
    eventually("the pod to get requests again", SOON, || when(answers_of(bed, &ip, 20)?.contains(out)))
}
