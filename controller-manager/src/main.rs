//! `kube-controller-manager`: the controllers of a cluster in one process.
//!
//! [`options`] reads the flags, [`controllers`] is the table of what there is to run, [`manager`] runs it while
//! this process holds the lease.

mod controllers;
mod credentials;
mod manager;
mod options;

use std::sync::Arc;

use anyhow::Context as _;
use client::leader;
use component::Flags;
use component::delegated::AuthOptions;
use component::health::Checks;
use component::serve::Server;
use controller_kit::informer::Informers;
use controller_kit::{Context, Settings};
use tokio_util::sync::CancellationToken;

use controllers::Selection;
use credentials::{Budget, Credentials};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    let flags = options::command().parse();
    component::main(&flags.clone(), |shutdown| run(flags, shutdown))
}

async fn run(flags: Flags, shutdown: CancellationToken) -> anyhow::Result<()> {
    let selection = Selection::parse(&flags.list("controllers")).map_err(anyhow::Error::msg)?;
    let settings = Arc::new(options::settings(&flags)?);
    let client = connect(&flags, "kubeconfig", "kube-controller-manager").await?;
    let credentials = credentials_of(&flags, &client).await?;
    let server = serve(&flags, shutdown.clone()).await?;
    let work = |token: CancellationToken| control(client.clone(), credentials, settings, selection, token);
    let result = if flags.bool("leader-elect") {
        let election = connect(&flags, "kubeconfig", "leader-election").await?;
        leader::run(election_config(&flags, &client)?, election, shutdown.clone(), work).await
    } else {
        work(shutdown.clone()).await
    };
    shutdown.cancel();
    if let Some(server) = server {
        server.await??;
    }
    result
}

async fn control(
    client: kube::Client,
    credentials: Credentials,
    settings: Arc<Settings>,
    selection: Selection,
    token: CancellationToken,
) -> anyhow::Result<()> {
    let informers = Arc::new(Informers::new(client.clone(), token.clone()));
    let ctx = Context { client, informers, settings, shutdown: token };
    manager::run(ctx, &credentials, &selection).await;
    Ok(())
}

async fn credentials_of(flags: &Flags, client: &kube::Client) -> anyhow::Result<Credentials> {
    let burst = u32::try_from(flags.int("kube-api-burst")).unwrap_or(30);
    let budget = Budget { qps: flags.float("kube-api-qps"), burst };
    if !flags.bool("use-service-account-credentials") {
        return Ok(Credentials::of_kubeconfig(client.clone(), budget));
    }
    let agent = format!("kube-controller-manager/{}", component::version::GIT_VERSION);
    let anonymous = client::connect_anonymous(flags.opt("kubeconfig"), flags.opt("master"), &agent).await?;
    Ok(Credentials::of_service_accounts(client.clone(), anonymous, budget))
}

async fn connect(flags: &Flags, kubeconfig: &str, part: &str) -> anyhow::Result<kube::Client> {
    let agent = format!("kube-controller-manager/{} ({part})", component::version::GIT_VERSION);
    // Without limit: it carries the shared informers, and the controllers' own clients keep their budgets.
    let client = client::connect(flags.opt(kubeconfig), flags.opt("master"), &agent, 0.0, 0);
    client.await.context("cannot connect to the API server")
}

fn election_config(flags: &Flags, client: &kube::Client) -> anyhow::Result<leader::Config> {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").context("cannot read the host's name")?;
    let mut config = leader::Config::from_flags(flags, host.trim())?;
    config.release_on_cancel = true;
    config.recorder = Some(client::Recorder::new(client.clone(), "kube-controller-manager", host.trim()));
    Ok(config)
}

/// The secure port: health, metrics, configuration.
async fn serve(
    flags: &Flags,
    shutdown: CancellationToken,
) -> anyhow::Result<Option<tokio::task::JoinHandle<anyhow::Result<()>>>> {
    let Some(server) = Server::from_flags(flags, "kube-controller-manager")? else { return Ok(None) };
    let reviewer = match flags.opt("authentication-kubeconfig").or(flags.opt("authorization-kubeconfig")) {
        None => None,
        Some(path) => Some(client::connect(Some(path), None, "kube-controller-manager/auth", 0.0, 0).await?),
    };
    let gates = component::gates::Gates::from_flags(flags)?;
    component::metrics::registry().feature_gates(&gates);
    let server = server
        .health(&Checks::new())
        .metrics()
        .debug()
        .zpages(flags, &gates, &["/flagz", "/healthz", "/livez", "/metrics", "/readyz", "/statusz"])
        .auth(AuthOptions::from_flags(flags, reviewer));
    let bound = server.bind().await?;
    Ok(Some(tokio::spawn(bound.run(shutdown))))
}
