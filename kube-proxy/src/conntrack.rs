//! Connection tracking: limits and timeouts at start, and forgetting UDP flows that lead to endpoints which are gone.
//!
//! A UDP client that goes on sending keeps its flow alive, and with it the translation that was made when it began; such
//! flows have to be deleted when their endpoint goes, or when a Service that had none gets one.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::config::Conntrack;
use crate::metrics::METRICS;
use crate::model::{Endpoint, Family, Protocol, ServicePort};
use crate::nft::Nft;

/// Where the UDP ports of changed Services may lead.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct UdpTargets {
    by_address: HashMap<(IpAddr, u16), HashSet<(IpAddr, u16)>>,
    by_node_port: HashMap<u16, HashSet<(IpAddr, u16)>>,
}

impl UdpTargets {
    /// Adds a port of a Service that has changed.
    pub fn add(&mut self, port: &ServicePort, endpoints: &[Endpoint]) {
        if port.protocol != Protocol::Udp {
            return;
        }
        let good: HashSet<_> = endpoints.iter().filter(|e| e.serving).map(|e| (e.ip, e.port)).collect();
        // Without endpoints there is nowhere better to send the flow.
        if good.is_empty() {
            return;
        }
        for ip in port.external_ips.iter().chain(&port.balancer_ips).chain([&port.cluster_ip]) {
            self.by_address.insert((*ip, port.port), good.clone());
        }
        if let Some(number) = port.node_port {
            self.by_node_port.insert(number, good);
        }
    }

    /// Whether there is anything to look for.
    pub fn is_empty(&self) -> bool {
        self.by_address.is_empty() && self.by_node_port.is_empty()
    }

    fn is_stale(&self, flow: &Flow) -> bool {
        let key = (flow.destination, flow.port);
        let good = self.by_address.get(&key).or_else(|| self.by_node_port.get(&flow.port));
        good.is_some_and(|g| !g.contains(&(flow.answers_from, flow.answers_from_port)))
    }
}

/// A tracked flow: where the client sends to, and who answers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Flow {
    destination: IpAddr,
    port: u16,
    answers_from: IpAddr,
    answers_from_port: u16,
}

/// Deletes the flows of changed Services whose endpoint is gone.
pub async fn clean(nft: &Nft, family: Family, targets: &UdpTargets) {
    if targets.is_empty() {
        return;
    }
    let begin = Instant::now();
    let deleted = match delete_stale(nft, family, targets).await {
        Ok(n) => n,
        Err(error) => {
            tracing::error!(
                family = family.name(),
                error = format!("{error:#}"),
                "Failed to clean conntrack entries"
            );
            return;
        }
    };
    METRICS.conntrack_sync.with(&[family.name()]).observe(begin.elapsed().as_secs_f64());
    METRICS.conntrack_deleted.with(&[family.name()]).inc_by(deleted);
}

async fn delete_stale(nft: &Nft, family: Family, targets: &UdpTargets) -> anyhow::Result<u64> {
    let f = if family == Family::V4 { "ipv4" } else { "ipv6" };
    let listing = conntrack(nft, &["-L", "-f", f, "-p", "udp"]).await?;
    let stale: HashSet<Flow> =
        listing.lines().filter_map(parse).filter(|flow| targets.is_stale(flow)).collect();
    for flow in &stale {
        let (to, port, from) =
            (flow.destination.to_string(), flow.port.to_string(), flow.answers_from.to_string());
        let args =
            ["-D", "-f", f, "-p", "udp", "--orig-dst", &to, "--orig-port-dst", &port, "--reply-src", &from];
        conntrack(nft, &args).await?;
    }
    Ok(stale.len() as u64)
}

async fn conntrack(nft: &Nft, args: &[&str]) -> anyhow::Result<String> {
    let run = nft.tool("conntrack").args(args).stdin(Stdio::null()).kill_on_drop(true).output();
    let output =
        tokio::time::timeout(Duration::from_secs(30), run).await.context("conntrack did not end in time")?;
    let output = output.context("cannot run conntrack")?;
    let errors = String::from_utf8_lossy(&output.stderr);
    // That a flow has ended by itself meanwhile is no failure.
    if !output.status.success() && !errors.contains("0 flow entries") {
        bail!("conntrack: {}", errors.lines().next().unwrap_or_default());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A line of `conntrack -L`: the original tuple, then the reply's.
fn parse(line: &str) -> Option<Flow> {
    let mut values: HashMap<&str, Vec<&str>> = HashMap::new();
    for (name, value) in line.split_whitespace().filter_map(|w| w.split_once('=')) {
        values.entry(name).or_default().push(value);
    }
    let nth = |name: &str, n: usize| values.get(name)?.get(n).copied();
    Some(Flow {
        destination: nth("dst", 0)?.parse().ok()?,
        port: nth("dport", 0)?.parse().ok()?,
        answers_from: nth("src", 1)?.parse().ok()?,
        answers_from_port: nth("sport", 1)?.parse().ok()?,
    })
}

/// Sets the kernel's limits and timeouts. Where they are read-only (inside a network namespace) that is logged.
pub fn configure(config: &Conntrack) {
    let cores = std::thread::available_parallelism().map_or(1, |n| i64::try_from(n.get()).unwrap_or(1));
    let wanted = i64::from(config.max_per_core.unwrap_or(0)) * cores;
    let max = if wanted > 0 { wanted.max(i64::from(config.min.unwrap_or(0))) } else { 0 };
    if max > 0 && read("net/netfilter/nf_conntrack_max").is_none_or(|now| now < max) {
        write("net/netfilter/nf_conntrack_max", max);
    }
    let seconds = |d: Option<Duration>| d.and_then(|d| i64::try_from(d.as_secs()).ok()).filter(|s| *s > 0);
    for (name, value) in [
        ("nf_conntrack_tcp_timeout_established", config.tcp_established_timeout),
        ("nf_conntrack_tcp_timeout_close_wait", config.tcp_close_wait_timeout),
        ("nf_conntrack_udp_timeout", Some(config.udp_timeout)),
        ("nf_conntrack_udp_timeout_stream", Some(config.udp_stream_timeout)),
    ] {
        if let Some(seconds) = seconds(value) {
            write(&format!("net/netfilter/{name}"), seconds);
        }
    }
    if config.tcp_be_liberal {
        write("net/netfilter/nf_conntrack_tcp_be_liberal", 1);
    }
}

fn read(name: &str) -> Option<i64> {
    std::fs::read_to_string(format!("/proc/sys/{name}")).ok()?.trim().parse().ok()
}

fn write(name: &str, value: i64) {
    if read(name) == Some(value) {
        return;
    }
    match std::fs::write(format!("/proc/sys/{name}"), value.to_string()) {
        Ok(()) => tracing::info!(sysctl = name, value, "Set sysctl"),
        Err(error) => tracing::warn!(sysctl = name, value, %error, "Cannot set sysctl, leaving it as it is"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flows_to_endpoints_that_are_gone_are_stale() {
        let line = "udp      17 29 src=10.0.0.5 dst=10.96.0.10 sport=40000 dport=53 src=10.244.0.3 dst=10.0.0.5 sport=5353 dport=40000 [ASSURED] mark=0 use=1";
        let flow = parse(line).unwrap();
        let targets = |ip: &str, node_port: Option<u16>| {
            let port = ServicePort {
                service: "ns/dns".into(),
                name: String::new(),
                protocol: Protocol::Udp,
                cluster_ip: if node_port.is_some() { "10.96.0.99" } else { "10.96.0.10" }.parse().unwrap(),
                port: 53,
                node_port,
                external_ips: vec![],
                balancer_ips: vec![],
                source_ranges: vec![],
                affinity: None,
                external_local: false,
                internal_local: false,
            };
            let endpoint = Endpoint {
                ip: ip.parse().unwrap(),
                port: 5353,
                local: false,
                ready: true,
                serving: true,
                terminating: false,
                zones: vec![],
                nodes: vec![],
            };
            let mut targets = UdpTargets::default();
            targets.add(&port, &[endpoint]);
            targets
        };
        assert!(!targets("10.244.0.3", None).is_stale(&flow));
        assert!(targets("10.244.0.4", None).is_stale(&flow));
        assert!(!targets("10.244.0.4", Some(30053)).is_stale(&flow), "another address");
        assert!(parse("conntrack v1.4.7: 1 flow entries have been shown.").is_none());
    }
}
