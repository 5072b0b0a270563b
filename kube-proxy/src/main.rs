//! kube-proxy: Services on a node, by nftables.

mod app;
mod cleanup;
mod config;
mod conntrack;
mod health;
mod healthcheck;
mod metrics;
mod model;
mod nft;
mod node;
mod plan;
mod proxier;
mod reload;
mod rules;
mod table;
mod topology;

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const IMPLEMENTED: &[(&str, &str)] = &[
    ("bind-address", "The node's own address, where it should not be taken from the Node."),
    ("bind-address-hard-fail", "End when a server's port is taken."),
    ("cleanup", "Remove the proxy's rules and end."),
    ("cluster-cidr", "Addresses of the cluster's pods."),
    ("config", "Path of a KubeProxyConfiguration file; most flags have no effect then."),
    ("conntrack-max-per-core", "Connections to track, a core."),
    ("conntrack-min", "Connections to track, at least."),
    ("conntrack-tcp-be-liberal", "Track TCP packets outside of the window."),
    ("conntrack-tcp-timeout-close-wait", "How long half-closed connections are tracked."),
    ("conntrack-tcp-timeout-established", "How long idle connections are tracked."),
    ("conntrack-udp-timeout", "How long UDP flows are tracked."),
    ("conntrack-udp-timeout-stream", "How long answered UDP flows are tracked."),
    (
        "detect-local-mode",
        "How pods' traffic is told apart: ClusterCIDR, NodeCIDR, BridgeInterface, InterfaceNamePrefix.",
    ),
    ("healthz-bind-address", "Address of /healthz and /livez."),
    ("healthz-port", "Port of /healthz."),
    ("hostname-override", "The node's name."),
    ("init-only", "Set the system up as root and end."),
    ("iptables-masquerade-bit", "Bit that marks packets to masquerade."),
    ("iptables-min-sync-period", "Least time between two syncs."),
    ("iptables-sync-period", "Longest time between two tries."),
    ("ipvs-min-sync-period", "Least time between two syncs in IPVS mode."),
    ("ipvs-sync-period", "Longest time between two tries in IPVS mode."),
    ("kube-api-burst", "Requests to the API server at once."),
    ("kube-api-qps", "Requests to the API server a second."),
    ("kubeconfig", "Kubeconfig of the API server."),
    ("masquerade-all", "Masquerade all traffic to cluster addresses."),
    ("master", "URL of the API server; overrides the kubeconfig's."),
    ("metrics-bind-address", "Address of /metrics."),
    ("metrics-port", "Port of /metrics."),
    ("nodeport-addresses", "Where node ports are open: networks, or 'primary'."),
    ("oom-score-adj", "The process's oom_score_adj."),
    ("pod-bridge-interface", "The bridge that pods are at."),
    ("pod-interface-name-prefix", "How pods' interfaces' names begin."),
    ("proxy-mode", "nftables; iptables and ipvs are served by the same rules."),
    ("write-config-to", "Write the configuration to a file and end."),
];

fn main() -> ExitCode {
    let about =
        "The Kubernetes network proxy runs on each node and forwards traffic of Services to their endpoints.";
    let flags = component::Command::new("kube-proxy", about, include_str!("../flags.json"))
        .implements(IMPLEMENTED)
        .parse();
    component::main(&flags, |shutdown| app::run(flags.clone(), shutdown))
}
