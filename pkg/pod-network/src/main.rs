//! A pod network of plain routes: for clusters whose nodes share a link.
//!
//! Runs on every node. It follows the Node objects and keeps three things true on its own node: a CNI configuration
//! for the node's pod CIDR (bridge, host-local, portmap), a route to every other node's pod CIDR by that node's
//! address, and one masquerading rule for traffic from pods to outside of pods and nodes.

mod desired;
mod host;

use anyhow::{Context, Result};
use clap::Parser;
use desired::{Desired, Peer};
use futures::TryStreamExt;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use kube::runtime::{WatchStreamExt, reflector, watcher};
use kube::{Api, Client, Config};
use std::path::PathBuf;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// Gives the pods of this node addresses, and routes to the pods of all other nodes.
#[derive(Parser, Clone)]
#[command(version, about)]
struct Cli {
    /// Kubeconfig for the apiserver; in-cluster configuration when empty.
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
    /// Name of this node's Node object.
    #[arg(long, env = "NODE_NAME")]
    node_name: String,
    /// Addresses of all pods of the cluster; traffic to them is never masqueraded.
    #[arg(long, default_value = "10.244.0.0/16")]
    cluster_cidr: IpNet,
    /// Folder for the CNI configuration.
    #[arg(long, default_value = "/etc/cni/net.d")]
    cni_conf_dir: PathBuf,
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).init();
    if let Err(e) = run(Cli::parse()).await {
        eprintln!("error: {e:#}");
        std::process::exit(1);
    }
}

async fn run(cli: Cli) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let client = connect(&cli).await?;
    tokio::select! {
        result = follow(&cli, client) => result,
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    }
}

async fn connect(cli: &Cli) -> Result<Client> {
    let config = match &cli.kubeconfig {
        None => Config::infer().await.context("no kubeconfig given, and not inside a pod")?,
        Some(path) => {
            let file = kube::config::Kubeconfig::read_from(path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            Config::from_custom_kubeconfig(file, &Default::default()).await?
        }
    };
    Ok(Client::try_from(config)?)
}

/// Applies the desired state whenever a node changes; errors are retried with the next change or after a pause.
async fn follow(cli: &Cli, client: Client) -> Result<()> {
    let (store, writer) = reflector::store();
    let events = watcher(Api::<Node>::all(client), watcher::Config::default())
        .default_backoff()
        .modify(trim)
        .reflect(writer);
    let mut events = std::pin::pin!(events);
    let mut applied: Option<Desired> = None;
    loop {
        let retry = applied.is_none();
        tokio::select! {
            event = events.try_next() => match event {
                Ok(Some(_)) => {}
                Ok(None) => return Ok(()),
                Err(e) => { tracing::warn!("watching nodes: {e}"); continue; }
            },
            () = tokio::time::sleep(Duration::from_secs(2)), if retry => {}
        }
        let peers: Vec<Peer> = store.state().iter().filter_map(|n| Peer::of(n)).collect();
        let Some(wanted) = desired::desired(&cli.node_name, cli.cluster_cidr, peers) else { continue };
        if applied.as_ref() == Some(&wanted) {
            continue;
        }
        applied = match host::apply(&wanted, applied.as_ref(), &cli.cni_conf_dir).await {
            Ok(()) => {
                tracing::info!(pod_cidr = %wanted.own_cidr, routes = wanted.routes.len(), "pod network is up to date");
                Some(wanted)
            }
            Err(e) => {
                tracing::error!("{e:#}");
                None
            }
        };
    }
}

/// Only names, addresses and CIDRs are read: the rest need not be kept.
fn trim(node: &mut Node) {
    node.metadata.managed_fields = None;
    node.metadata.annotations = None;
    node.metadata.labels = None;
    if let Some(status) = &mut node.status {
        status.images = None;
        status.conditions = None;
    }
}
