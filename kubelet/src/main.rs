//! The kubelet: runs the pods that are bound to its node, through a CRI runtime.
//!
//! [`sources`] say which pods there should be, [`pods`] gives each a [`worker`], which brings it into its state
//! ([`actions`] says how) and gives its [`status`] out. [`relist`] wakes workers when the runtime changes, [`prober`]
//! when a container's health does. [`node`] keeps the Node object true.

use std::path::PathBuf;
use std::process::ExitCode;

use component::Command;

mod actions;
mod admission;
mod allocation;
mod backoff;
mod bootstrap;
mod certificates;
mod cgroups;
mod claims;
mod config;
mod container;
mod dns;
mod env;
mod events;
mod eviction;
mod firewall;
mod gc;
mod hooks;
mod images;
mod kill;
mod kubelet;
mod labels;
mod limiter;
mod listing;
mod lock;
mod machine;
mod managers;
mod metrics;
mod mirror;
mod model;
mod node;
mod objects;
mod plugins;
mod pod;
mod pods;
mod prober;
mod pull_secrets;
mod relist;
mod resources;
mod runtime_info;
mod sandbox;
mod security;
mod server;
mod services;
mod shutdown;
mod sources;
mod start;
mod status;
mod storage;
mod termination;
mod tokens;
mod userns;
mod web;
mod worker;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The flags that have an effect, beside those that stand for a field of the configuration.
const FLAGS: &[(&str, &str)] = &[
    ("config", "Path of a KubeletConfiguration file. Flags override what it says."),
    (
        "config-dir",
        "Folder of drop-in files (*.conf), merged onto the file of --config in the order of their names.",
    ),
    ("kubeconfig", "Path of a kubeconfig for the apiserver. Without it the kubelet runs static pods only."),
    (
        "bootstrap-kubeconfig",
        "Kubeconfig to ask for a client certificate with, when --kubeconfig does not exist yet.",
    ),
    ("runtime-cgroups", "Cgroup in which the container runtime runs, for /stats/summary."),
    ("hostname-override", "Name of the node instead of the machine's."),
    ("node-ip", "Address of the node, or two separated by a comma, one a family."),
    ("node-labels", "Labels to register the node with, as key=value, separated by commas."),
    ("register-with-taints", "Taints to register the node with, as key=value:effect, separated by commas."),
    ("cloud-provider", "'external' leaves the node's addresses to a cloud controller manager."),
    ("provider-id", "Identifier of the machine for a cloud provider."),
    ("root-dir", "Folder of the kubelet's files."),
    ("cert-dir", "Folder of the kubelet's own certificates."),
    (
        "image-credential-provider-config",
        "Configuration of programs that know credentials of registries: a file, or a folder of them.",
    ),
    ("image-credential-provider-bin-dir", "Folder of those programs."),
    (
        "maximum-dead-containers",
        "How many dead containers the node keeps. Less than 0 for as many as there are. Deprecated: use --eviction-hard or --eviction-soft.",
    ),
    (
        "maximum-dead-containers-per-container",
        "How many dead instances of a container are kept. Deprecated: use --eviction-hard or --eviction-soft.",
    ),
    (
        "minimum-container-ttl-duration",
        "How long a dead container is kept at least. Deprecated: use --eviction-hard or --eviction-soft.",
    ),
    ("lock-file", "File to hold a lock on while the kubelet runs; it waits until it has it."),
    ("exit-on-lock-contention", "End when somebody else opens the lock file."),
    (
        "experimental-allocatable-ignore-eviction",
        "Do not count the reserve of hard eviction thresholds when telling what pods may have.",
    ),
];

fn main() -> ExitCode {
    let mut implemented = FLAGS.to_vec();
    implemented.extend(config::flags());
    let command =
        Command::new("kubelet", "Runs the pods that are bound to this node.", include_str!("../flags.json"));
    let flags = command.implements(&implemented).parse();
    component::main(&flags, |shutdown| async {
        let config = config::KubeletConfiguration::load(&flags)?;
        node::labels::check(&flags.map("node-labels"))?;
        for field in config.without_effect() {
            tracing::warn!(field, "Configuration field has no effect");
        }
        for gate in config.idle_gates() {
            tracing::warn!(gate, "Feature gate has no effect on this kubelet");
        }
        let options = start::Options {
            kubeconfig: flags.opt("kubeconfig").map(str::to_string),
            bootstrap_kubeconfig: flags.opt("bootstrap-kubeconfig").map(str::to_string),
            flags: flags.clone(),
            node_name: machine::node_name(flags.opt("hostname-override"))?,
            node_ip: flags.opt("node-ip").map(str::to_string),
            root: PathBuf::from(flags.str("root-dir")),
            cert_dir: PathBuf::from(flags.str("cert-dir")),
            credential_providers: flags
                .opt("image-credential-provider-config")
                .zip(flags.opt("image-credential-provider-bin-dir"))
                .map(|(file, dir)| (file.into(), dir.into())),
            registration: node::Registration {
                labels: flags.map("node-labels"),
                taints: config.register_with_taints.clone(),
                external_cloud_provider: flags.str("cloud-provider") == "external",
                node_ip: flags
                    .opt("node-ip")
                    .filter(|ip| !matches!(*ip, "" | "0.0.0.0" | "::"))
                    .map(str::to_string),
                provider_id: flags
                    .opt("provider-id")
                    .map_or_else(|| config.provider_id.clone(), str::to_string),
            },
        };
        start::run(config, options, shutdown).await
    })
}
