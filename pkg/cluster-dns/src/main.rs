//! cluster-dns: the cluster's DNS server.
//!
//! Answers for the cluster's domain what the DNS-based service discovery specification says, out of memory that
//! informers keep up to date, and forwards everything else.

mod cache;
mod follow;
mod forward;
mod handler;
mod message;
mod metrics;
mod query;
mod records;
mod server;
mod upstreams;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use clap::Parser;
use component::serve::Server;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use follow::{Shared, follow};
use forward::Forwarder;
use handler::Handler;
use metrics::Metrics;
use query::Zone;
use server::Sockets;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Serves the cluster's DNS names and forwards all others.
#[derive(Parser)]
#[command(version, about)]
struct Cli {
    /// Kubeconfig of the API server; the pod's service account if empty.
    #[arg(long, default_value = "")]
    kubeconfig: String,
    /// Domain of the cluster's names.
    #[arg(long, default_value = "cluster.local")]
    cluster_domain: String,
    /// Addresses to serve DNS on, by UDP and TCP; every address of the pod, port 53, if none are given.
    #[arg(long, value_delimiter = ',')]
    listen: Vec<SocketAddr>,
    /// How long, in seconds, clients may keep an answer about the cluster.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(0..=3600))]
    ttl: u32,
    /// Resolvers for all other names: addresses, or files like /etc/resolv.conf.
    #[arg(long, value_delimiter = ',', default_value = "/etc/resolv.conf")]
    forward: Vec<String>,
    /// Namespace and name of the Service that clients reach this server by.
    #[arg(long, default_value = "kube-system/kube-dns")]
    service: String,
    /// How long, in seconds, to go on answering after SIGTERM, until no client is sent here any more.
    #[arg(long, default_value_t = 5)]
    lameduck: u64,
    /// Verbosity of the log.
    #[arg(short, default_value_t = 0)]
    v: u32,
}

/// Ports of health, readiness and metrics: those that probes and scrapers of a cluster's DNS expect.
const HEALTH: u16 = 8080;
const READY: u16 = 8181;
const METRICS: u16 = 9153;

fn main() -> ExitCode {
    let cli = Cli::parse();
    component::logging::start(cli.v, component::logging::Format::Text);
    component::serve::tls::install_provider();
    // Huge pages would double the memory of many small records; where the kernel refuses, it stays as it is.
    let _ = nix::sys::prctl::set_thp_disable(true);
    // One thread answers far more questions than a cluster of this design asks, and takes the least memory.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = runtime.context("cannot start").and_then(|r| r.block_on(run(cli)));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("Error: {e:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli) -> Result<()> {
    let mut signals = Signals::new()?;
    let any = any_address();
    let listen = match cli.listen.as_slice() {
        [] => vec![SocketAddr::new(any, 53)],
        given => given.to_vec(),
    };
    let own = cli.service.split_once('/').context("--service must be NAMESPACE/NAME")?;
    let metrics = Metrics::register();
    let upstreams = upstreams::of_flags(&cli.forward, &listen)?;
    tracing::info!(?listen, domain = cli.cluster_domain, ?upstreams, "Starting");
    let shared = Arc::new(Shared::default());
    let handler = Arc::new(Handler {
        shared: shared.clone(),
        zone: Zone::new(&cli.cluster_domain, cli.ttl, own)?,
        forwarder: Forwarder::new(upstreams, metrics.clone()),
        metrics,
    });
    let agent = concat!("cluster-dns/v", env!("CARGO_PKG_VERSION"));
    let client = client::connect(Some(&cli.kubeconfig), None, agent, 0.0, 0).await?;
    let mut sockets = Vec::new();
    for address in listen {
        sockets.push(Sockets::bind(address).await?);
    }
    let (leaving, shutdown) = (CancellationToken::new(), CancellationToken::new());
    let http = serve_http(any, shared.clone(), leaving.clone(), shutdown.clone());
    let dns =
        futures::future::join_all(sockets.into_iter().map(|s| s.serve(handler.clone(), shutdown.clone())));
    let end = async {
        signals.next().await;
        leaving.cancel();
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(cli.lameduck)) => {}
            () = signals.next() => {}
        }
        shutdown.cancel();
        Ok(())
    };
    let watch = follow(client, shared, shutdown.clone());
    tokio::try_join!(
        http,
        end,
        async {
            dns.await;
            Ok(())
        },
        async {
            watch.await;
            Ok(())
        }
    )?;
    Ok(())
}

struct Signals {
    term: Signal,
    int: Signal,
}

impl Signals {
    fn new() -> Result<Signals> {
        let of = |kind| signal(kind).context("cannot watch for signals");
        Ok(Signals { term: of(SignalKind::terminate())?, int: of(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.int.recv() => {}
        }
        tracing::info!("Shutting down");
    }
}

/// Every address of both families, or of IPv4 where the kernel has no IPv6.
fn any_address() -> IpAddr {
    match std::net::UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)) {
        Ok(_) => Ipv6Addr::UNSPECIFIED.into(),
        Err(_) => Ipv4Addr::UNSPECIFIED.into(),
    }
}

async fn serve_http(
    address: IpAddr,
    shared: Arc<Shared>,
    leaving: CancellationToken,
    shutdown: CancellationToken,
) -> Result<()> {
    let address = address.to_string();
    let ready = move || {
        let ready = shared.synced() && !leaving.is_cancelled();
        std::future::ready(match ready {
            true => (StatusCode::OK, "OK"),
            false => (StatusCode::SERVICE_UNAVAILABLE, "records are not complete, or the end is near"),
        })
    };
    let health = Router::new().route("/health", get(async || "OK"));
    let ready = Router::new().route("/ready", get(ready));
    tokio::try_join!(
        Server::new(&address, HEALTH).routes(health).run(shutdown.clone()),
        Server::new(&address, READY).routes(ready).run(shutdown.clone()),
        Server::new(&address, METRICS).metrics().run(shutdown),
    )?;
    Ok(())
}
