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
    ("authentication-kubeconfig", "Kubeconfig for TokenReviews."),
    ("authentication-skip-lookup", "Do not read the authorities that the API server publishes."),
    ("authentication-token-webhook-cache-ttl", "How long a token's user is remembered."),
    ("authorization-always-allow-paths", "Paths that need no authorization."),
    ("authorization-kubeconfig", "Kubeconfig for SubjectAccessReviews."),
    ("authorization-webhook-cache-authorized-ttl", "How long a yes is remembered."),
    ("authorization-webhook-cache-unauthorized-ttl", "How long a no is remembered."),
    ("bind-address", "Address of the secure port."),
    ("cert-dir", "Where a self-signed serving certificate is kept."),
    ("client-ca-file", "Authorities of client certificates."),
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
    ("leader-elect", "Stand for election before doing anything."),
    ("leader-elect-lease-duration", "How long others wait for a silent leader."),
    ("leader-elect-renew-deadline", "How long a leader tries to renew."),
    ("leader-elect-resource-lock", "What holds the lease; only leases."),
    ("leader-elect-resource-name", "The lease's name."),
    ("leader-elect-resource-namespace", "The lease's namespace."),
    ("leader-elect-retry-period", "Time between two tries."),
    ("master", "URL of the API server; overrides the kubeconfig's."),
    ("node-monitor-period", "How often machines of nodes that are not ready are looked at."),
    ("node-status-update-frequency", "How often nodes' addresses are read from the cloud."),
    ("route-reconciliation-period", "How often routes are compared."),
    ("secure-port", "The secure port; 0 is none."),
    ("tls-cert-file", "Serving certificate."),
    ("tls-cipher-suites", "Cipher suites of TLS 1.2."),
    ("tls-min-version", "VersionTLS12 or VersionTLS13."),
    ("tls-private-key-file", "Serving certificate's key."),
    ("tls-sni-cert-key", "Further certificates by server name."),
];

fn main() -> ExitCode {
    let about = "The cloud controller manager embeds the control loops that depend on the cloud.";
    let flags = component::Command::new("cloud-controller-manager", about, include_str!("../flags.json"))
        .implements(IMPLEMENTED)
        .parse();
    component::main(&flags, |shutdown| manager::run(flags.clone(), shutdown))
}
