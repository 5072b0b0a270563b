//! Runs the controllers that the provider and `--controllers` allow, after leader election.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use client::{Informer, Recorder};
use component::Flags;
use component::delegated::AuthOptions;
use component::gates::Gates;
use component::health::Checks;
use component::serve::Server;
use k8s_openapi::api::core::v1::{Node, Service};
use kube::Api;
use kube::runtime::watcher;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::provider::{self, Provider};
use crate::{lifecycle, node, route, service};

const NAME: &str = "cloud-controller-manager";

/// What every controller gets.
#[derive(Clone)]
pub struct Context {
    /// The API server.
    pub client: kube::Client,
    /// The cloud.
    pub provider: Arc<dyn Provider>,
    /// `--cluster-name`.
    pub cluster: String,
    /// All nodes.
    pub nodes: Informer<Node>,
    /// All services.
    pub services: Informer<Service>,
    /// End.
    pub shutdown: CancellationToken,
}

impl Context {
    /// A context whose informers do not run yet.
    pub fn new(
        client: kube::Client,
        provider: Arc<dyn Provider>,
        cluster: &str,
        shutdown: CancellationToken,
    ) -> Context {
        let nodes = Informer::new(Api::all(client.clone()), watcher::Config::default());
        let services = Informer::new(Api::all(client.clone()), watcher::Config::default());
        Context { client, provider, cluster: cluster.to_owned(), nodes, services, shutdown }
    }

    /// A recorder of a controller's events.
    pub fn recorder(&self, controller: &str) -> Recorder {
        Recorder::new(self.client.clone(), controller, "")
    }
}

/// The whole daemon.
pub async fn run(flags: Flags, shutdown: CancellationToken) -> anyhow::Result<()> {
    let provider = provider::open(flags.str("cloud-provider"), flags.opt("cloud-config"))?;
    if !provider.has_cluster_id() {
        if !flags.bool("allow-untagged-cloud") {
            bail!(
                "no ClusterID found. A ClusterID is required for the cloud provider to function properly. This check can be bypassed by setting the allow-untagged-cloud option"
            );
        }
        tracing::warn!(
            "detected a cluster without a ClusterID. A ClusterID will be required in the future. Please tag your cluster to avoid any future issues"
        );
    }
    tracing::info!(provider = provider.name(), "Cloud provider initialized");
    let controllers = selected(&flags.list("controllers"))?;
    let client = connect(&flags, flags.opt("kubeconfig")).await?;
    let server = serve(&flags, &shutdown).await?;
    let ctx = |token| Context::new(client.clone(), provider.clone(), flags.str("cluster-name"), token);
    let result = if flags.bool("leader-elect") {
        let election = election(&flags, &client)?;
        client::leader::run(election, client.clone(), shutdown.clone(), |token| {
            controllers_until_done(ctx(token), &flags, &controllers)
        })
        .await
    } else {
        controllers_until_done(ctx(shutdown.clone()), &flags, &controllers).await
    };
    shutdown.cancel();
    server.await.context("server task")??;
    result
}

async fn connect(flags: &Flags, kubeconfig: Option<&str>) -> anyhow::Result<kube::Client> {
    let agent = component::version::user_agent(NAME);
    let burst = u32::try_from(flags.int("kube-api-burst")).unwrap_or(30);
    Ok(client::connect(kubeconfig, flags.opt("master"), &agent, flags.float("kube-api-qps"), burst).await?)
}

async fn serve(
    flags: &Flags,
    shutdown: &CancellationToken,
) -> anyhow::Result<tokio::task::JoinHandle<anyhow::Result<()>>> {
    let Some(server) = Server::from_flags(flags, NAME)? else {
        return Ok(tokio::spawn(async { Ok(()) }));
    };
    let delegated = match flags.opt("authentication-kubeconfig").or(flags.opt("authorization-kubeconfig")) {
        Some(path) => Some(connect(flags, Some(path)).await?),
        None => None,
    };
    let gates = Gates::from_flags(flags)?;
    component::metrics::registry().feature_gates(&gates);
    let server = server
        .zpages(flags, &gates, &["/configz", "/flagz", "/healthz", "/metrics", "/statusz"])
        .health(&Checks::new())
        .metrics()
        .debug()
        .configz("cloudcontrollermanager.config.k8s.io", serde_json::json!(flags.all()))
        .auth(AuthOptions::from_flags(flags, delegated));
    Ok(tokio::spawn(server.bind().await?.run(shutdown.clone())))
}

fn election(flags: &Flags, client: &kube::Client) -> anyhow::Result<client::leader::Config> {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").context("cannot read the host's name")?;
    let mut config = client::leader::Config::from_flags(flags, host.trim())?;
    config.recorder = Some(Recorder::new(client.clone(), NAME, ""));
    Ok(config)
}

/// Controllers' names and aliases.
const CONTROLLERS: [(&str, &str); 4] = [
    ("cloud-node-controller", "cloud-node"),
    ("cloud-node-lifecycle-controller", "cloud-node-lifecycle"),
    ("service-lb-controller", "service"),
    ("node-route-controller", "route"),
];

/// The names that `--controllers` turns on: `*`, `name`, `-name`; aliases count.
pub fn selected(list: &[String]) -> anyhow::Result<Vec<&'static str>> {
    for item in list {
        let bare = item.strip_prefix('-').unwrap_or(item);
        if bare != "*" && !CONTROLLERS.iter().any(|(n, a)| *n == bare || *a == bare) {
            bail!("{bare:?} is not in the list of known controllers");
        }
    }
    let named = |prefix: &str, (name, alias): (&str, &str)| {
        list.iter().any(|i| i.strip_prefix(prefix).is_some_and(|b| b == name || b == alias))
    };
    let star = list.is_empty() || list.iter().any(|i| i == "*");
    let on = |c: &&(&'static str, &'static str)| named("", **c) || (star && !named("-", **c));
    Ok(CONTROLLERS.iter().filter(on).map(|(n, _)| *n).collect())
}

async fn controllers_until_done(ctx: Context, flags: &Flags, names: &[&'static str]) -> anyhow::Result<()> {
    let mut tasks = JoinSet::new();
    let workers = |flag: &str| usize::try_from(flags.int(flag)).unwrap_or(1).max(1);
    let period = |flag: &str| flags.duration(flag).max(Duration::from_millis(100));
    for name in names {
        let ctx = ctx.clone();
        match *name {
            "cloud-node-controller" if ctx.provider.instances().is_some() => {
                tasks.spawn(node::run(
                    ctx,
                    workers("concurrent-node-syncs"),
                    period("node-status-update-frequency"),
                ));
            }
            "cloud-node-lifecycle-controller" if ctx.provider.instances().is_some() => {
                tasks.spawn(lifecycle::run(ctx, period("node-monitor-period")));
            }
            "service-lb-controller" if ctx.provider.load_balancers().is_some() => {
                tasks.spawn(service::run(ctx, workers("concurrent-service-syncs")));
            }
            "node-route-controller" if ctx.provider.routes().is_some() && routes_wanted(flags) => {
                let cidrs = route::parse_cidrs(flags.str("cluster-cidr"))?;
                tasks.spawn(route::run(ctx, cidrs, period("route-reconciliation-period")));
            }
            skipped => {
                tracing::warn!(
                    controller = skipped,
                    "Skipping controller: not supported by the provider or not configured"
                );
                continue;
            }
        }
        tracing::info!(controller = name, "Started controller");
    }
    tasks.spawn(ctx.nodes.clone().run(ctx.shutdown.clone()));
    tasks.spawn(ctx.services.clone().run(ctx.shutdown.clone()));
    while let Some(joined) = tasks.join_next().await {
        joined.context("a controller ended abnormally")?;
    }
    Ok(())
}

fn routes_wanted(flags: &Flags) -> bool {
    flags.bool("allocate-node-cidrs") && flags.bool("configure-cloud-routes")
}
