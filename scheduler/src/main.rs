//! The kube-scheduler process: flags, connection, leader election, watches, the loop.

use anyhow::{Context, Result};
use component::delegated::AuthOptions;
use component::gates::Gates;
use component::serve::Server;
use component::{Flags, health::Checks};
use kube_scheduler::config::{Configuration, duration};
use kube_scheduler::queue::ClusterEvent;
use kube_scheduler::scheduler::Scheduler;
use kube_scheduler::{build, watch::Informers};
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use tokio_util::sync::CancellationToken;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const NAME: &str = "kube-scheduler";

fn main() -> ExitCode {
    let flags = component::Command::new(
        NAME,
        "Assigns pods to nodes: filters the nodes that can run a pod, scores them, and binds the pod to the best.",
        include_str!("../flags.json"),
    )
    .implements(component::serve::FLAGS)
    .implements(component::delegated::FLAGS)
    .implements(component::delegated::FRONT_PROXY_FLAGS)
    .implements(client::leader::FLAGS)
    .implements(&[
        ("config", "Path of a KubeSchedulerConfiguration file (kubescheduler.config.k8s.io/v1)."),
        ("kubeconfig", "Kubeconfig with the apiserver's address and credentials."),
        ("master", "Address of the apiserver; overrides the kubeconfig's."),
        ("kube-api-qps", "Requests a second to the apiserver (without --config)."),
        ("kube-api-burst", "Requests to the apiserver in one burst (without --config)."),
        ("feature-gates", "Turns features on or off: Name=true,…"),
        ("v", "Verbosity of the log."),
        ("logging-format", "text or json."),
    ])
    .parse();
    component::main(&flags, |shutdown| run(flags.clone(), shutdown))
}

async fn run(flags: Flags, shutdown: CancellationToken) -> Result<()> {
    Gates::from_flags(&flags)?;
    let config = Configuration::load(&flags)?;
    let connection = &config.client_connection;
    let client = client::connect(
        Some(&connection.kubeconfig),
        flags.opt("master"),
        NAME,
        connection.qps,
        connection.burst,
    )
    .await?;
    let checks = Checks::new();
    let leading = checks.add_switch("leaderElection-ready");
    leading.set(true);
    let server = serve(&flags, &client, &checks, shutdown.clone()).await?;
    let work = |stop: CancellationToken| schedule(config.clone(), client.clone(), stop);
    let result = if config.leader_election.leader_elect {
        client::leader::run(election(&config, &client)?, client.clone(), shutdown.clone(), work).await
    } else {
        work(shutdown.clone()).await
    };
    shutdown.cancel();
    server.await.context("the HTTPS server ended abnormally")??;
    result
}

async fn serve(
    flags: &Flags,
    client: &kube::Client,
    checks: &Checks,
    shutdown: CancellationToken,
) -> Result<tokio::task::JoinHandle<Result<()>>> {
    let Some(server) = Server::from_flags(flags, NAME)? else { return Ok(tokio::spawn(async { Ok(()) })) };
    let gates = Gates::from_flags(flags)?;
    component::metrics::registry().feature_gates(&gates);
    let auth = AuthOptions::from_flags(flags, Some(client.clone()));
    let server = server
        .health(checks)
        .metrics()
        .debug()
        .zpages(flags, &gates, &["/flagz", "/healthz", "/livez", "/metrics", "/readyz", "/statusz"])
        .auth(auth);
    // The port is opened here, so that one that is taken ends the process at once.
    Ok(tokio::spawn(server.bind().await?.run(shutdown)))
}

fn election(config: &Configuration, client: &kube::Client) -> Result<client::leader::Config> {
    let e = &config.leader_election;
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").context("cannot read the host's name")?;
    let identity = client::leader::identity(host.trim());
    let mut c = client::leader::Config::new(&e.resource_name, &e.resource_namespace, identity);
    c.lease_duration = duration(&e.lease_duration)?;
    c.renew_deadline = duration(&e.renew_deadline)?;
    c.retry_period = duration(&e.retry_period)?;
    // As upstream's scheduler: another one starts at once when this one is told to end.
    c.release_on_cancel = true;
    c.recorder = Some(client::Recorder::new(client.clone(), "default-scheduler", host.trim()));
    Ok(c)
}

/// Watches and schedules until told to stop.
async fn schedule(config: Configuration, client: kube::Client, stop: CancellationToken) -> Result<()> {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let instance = format!("{NAME}-{}", host.trim());
    let recorder = client::Recorder::series(client.clone(), "default-scheduler", &instance);
    let mut informers = Informers::new(client.clone(), stop.clone());
    // The volume watches start before the scheduler that they notify exists.
    let late: Arc<OnceLock<Arc<Scheduler>>> = Arc::default();
    let mut views = informers.views();
    let notified = late.clone();
    informers.volume_views(&mut views, move |event: ClusterEvent| {
        if let Some(scheduler) = notified.get() {
            scheduler.event(event);
        }
    });
    let profiles = build::profiles(&config, &client, &views, &recorder)?;
    let queue = build::queue(&config, &profiles);
    let percentage = config.percentage_of_nodes_to_score.unwrap_or(0);
    let scheduler = Scheduler::new(queue, profiles, percentage, client, recorder);
    late.get_or_init(|| scheduler.clone());
    informers.drive(&scheduler);
    tokio::select! {
        () = informers.synced() => {}
        () = stop.cancelled() => return Ok(()),
    }
    tracing::info!("Scheduling");
    scheduler.run(stop).await;
    informers.join().await;
    Ok(())
}
