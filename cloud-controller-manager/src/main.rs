//! cloud-controller-manager: what of a cluster depends on the cloud it runs in — nodes' machines, load balancers, routes.

mod lifecycle;
mod manager;
mod node;
mod provider;
mod route;
mod service;
#[cfg(test)]
mod tests;

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const IMPLEMENTED: &[(&str, &str)] = &[
    ("allocate-node-cidrs", "Nodes get pod CIDRs, for which routes may be needed."),
    ("allow-untagged-cloud", "Run although the cloud does not know the cluster's id."),
    ("cloud-config", "The provider's own configuration file."),
    ("cloud-provider", "The provider's name."),
    ("cluster-cidr", "Addresses of the cluster's pods."),
    ("cluster-name", "The cluster's name in the cloud."),
    ("concurrent-node-syncs", "Nodes that are initialized at a time."),
    ("concurrent-service-syncs", "Services that are synced at a time."),
    ("configure-cloud-routes", "Create routes for nodes' pod CIDRs."),
    ("controllers", "Controllers to run: '*' all, 'name' on, '-name' off."),
    ("kube-api-burst", "Requests to the API server at once."),
    ("kube-api-qps", "Requests to the API server a second."),
    ("kubeconfig", "Kubeconfig of the API server."),
    ("master", "URL of the API server; overrides the kubeconfig's."),
    ("node-monitor-period", "How often machines of nodes that are not ready are looked at."),
    ("node-status-update-frequency", "How often nodes' addresses are read from the cloud."),
    ("route-reconciliation-period", "How often routes are compared."),
];

fn main() -> ExitCode {
    let about = "The cloud controller manager embeds the control loops that depend on the cloud.";
    let flags = component::Command::new("cloud-controller-manager", about, include_str!("../flags.json"))
        .implements(component::serve::FLAGS)
        .implements(component::delegated::FLAGS)
        .implements(component::delegated::FRONT_PROXY_FLAGS)
        .implements(client::leader::FLAGS)
        .implements(IMPLEMENTED)
        .parse();
    component::main(&flags, |shutdown| manager::run(flags.clone(), shutdown))
}
