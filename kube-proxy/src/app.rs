//! Putting the proxy together: configuration, API server, node, servers, proxier.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use client::{Informer, Recorder};
use component::Flags;
use component::gates::Gates;
use component::health::Checks;
use component::serve::Server;
use k8s_openapi::api::core::v1::{Node, ObjectReference, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use kube::Api;
use kube::runtime::watcher;
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::health::Health;
use crate::model::Family;
use crate::nft::Nft;
use crate::node::{LocalDetector, node_ips, pod_cidrs};
use crate::proxier::{BY_SERVICE, Changes, NodeFacts, Proxier, Settings, service_of};
use crate::{cleanup, conntrack, model, reload};

/// Services and slices that somebody else proxies, and those that have no address to proxy.
const OURS: &str = "!service.kubernetes.io/service-proxy-name,!service.kubernetes.io/headless";
const TO_BE_DELETED: &str = "ToBeDeletedByClusterAutoscaler";
/// How long to wait for a node that has not registered yet.
const NODE_WAIT: Duration = Duration::from_secs(30);

/// The whole daemon.
pub async fn run(flags: Flags, shutdown: CancellationToken) -> anyhow::Result<()> {
    let config = Config::from_flags(&flags)?;
    if let Some(path) = flags.opt("write-config-to") {
        let text = serde_json::to_string_pretty(&config.document())?;
        return std::fs::write(path, text + "\n").with_context(|| format!("cannot write {path}"));
    }
    let nft = Nft::default();
    if flags.bool("cleanup") {
        cleanup::nftables(&nft).await?;
        cleanup::iptables().await;
        return Ok(());
    }
    nft.check().await?;
    conntrack::configure(&config.conntrack);
    if flags.bool("init-only") {
        tracing::info!("System initialized and --init-only specified");
        return Ok(());
    }
    if config.mode != "nftables" {
        tracing::warn!(
            mode = config.mode,
            "Proxy mode is served by the nftables back end, whose rules have the same effect"
        );
        ignored_settings(&config);
    }
    if cleanup::iptables().await {
        tracing::info!("Cleaned up rules of a proxy that ran in another mode");
    }
    set_oom_score(config.oom_score_adj.unwrap_or(0));
    Proxy::new(config, &flags).await?.run(nft, shutdown).await
}

/// Says which settings of the mode that was asked for have no counterpart.
fn ignored_settings(config: &Config) {
    if config.mode == "iptables" && config.iptables.localhost_node_ports == Some(true) {
        tracing::info!(
            "NodePorts are not reachable through localhost (iptables.localhostNodePorts has no effect)"
        );
    }
    if config.mode == "ipvs" && !config.ipvs.scheduler.is_empty() {
        tracing::warn!(
            scheduler = config.ipvs.scheduler,
            "ipvs.scheduler has no effect: endpoints are chosen at random"
        );
    }
}

fn set_oom_score(score: i32) {
    if let Err(error) = std::fs::write("/proc/self/oom_score_adj", score.to_string()) {
        tracing::warn!(score, %error, "Failed to set OOM score");
    }
}

struct Proxy {
    config: Config,
    client: kube::Client,
    node_name: String,
    flags: Flags,
    gates: Gates,
    nodes: Informer<Node>,
    changes: Changes,
    facts: Arc<Mutex<NodeFacts>>,
    health: Health,
}

impl Proxy {
    async fn new(config: Config, flags: &Flags) -> anyhow::Result<Proxy> {
        let node_name = match config.hostname_override.as_str() {
            "" => std::fs::read_to_string("/proc/sys/kernel/hostname")
                .context("cannot read the host's name")?
                .trim()
                .to_lowercase(),
            name => name.to_owned(),
        };
        let connection = &config.client_connection;
        let agent = component::version::user_agent("kube-proxy");
        let burst = u32::try_from(connection.burst).unwrap_or(10);
        let kubeconfig = Some(connection.kubeconfig.as_str()).filter(|k| !k.is_empty());
        let client = client::connect(kubeconfig, flags.opt("master"), &agent, connection.qps, burst).await?;
        let only_ours = watcher::Config::default().fields(&format!("metadata.name={node_name}"));
        let nodes = Informer::new(Api::all(client.clone()), only_ours).transform(shrink_node);
        let health = Health::new(config.sync().sync_period * 2);
        let gates = Gates::default().with(&config.feature_gates)?;
        component::metrics::registry().feature_gates(&gates);
        Ok(Proxy {
            flags: flags.clone(),
            gates,
            config,
            client,
            node_name,
            nodes,
            changes: Changes::default(),
            facts: Arc::default(),
            health,
        })
    }

    async fn run(self, nft: Nft, shutdown: CancellationToken) -> anyhow::Result<()> {
        let mut tasks: JoinSet<anyhow::Result<()>> = JoinSet::new();
        self.serve(&mut tasks, &shutdown).await?;
        spawn(&mut tasks, self.nodes.clone().run(shutdown.clone()));
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            () = self.wait_for_node() => {}
        }
        self.follow_node();
        let (services, slices) = self.informers();
        self.changes.listen(&services, &slices);
        spawn(&mut tasks, services.clone().run(shutdown.clone()));
        spawn(&mut tasks, slices.clone().run(shutdown.clone()));
        self.follow_service_cidrs(&mut tasks, &shutdown);
        self.announce();
        let proxier = self.proxier(nft, services.store(), slices.store());
        let stop = shutdown.clone();
        tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = async { services.synced().await; slices.synced().await } => {}
            }
            proxier.run(stop).await;
            Ok(())
        });
        if let Some(path) = self.flags.opt("config") {
            tasks.spawn(reload::watch(path.to_owned(), shutdown.clone()));
        }
        while let Some(joined) = tasks.join_next().await {
            joined.context("a task ended abnormally")??;
        }
        Ok(())
    }

    fn informers(&self) -> (Informer<Service>, Informer<EndpointSlice>) {
        let select = || watcher::Config::default().labels(OURS);
        let services = Informer::new(Api::all(self.client.clone()), select());
        let slices = Informer::new(Api::all(self.client.clone()), select())
            .transform(shrink_slice)
            .index(BY_SERVICE, |s: &EndpointSlice| service_of(s).into_iter().collect());
        (services, slices)
    }

    fn proxier(
        &self,
        nft: Nft,
        services: client::Store<Service>,
        slices: client::Store<EndpointSlice>,
    ) -> Proxier {
        let mut families = vec![Family::V4];
        if std::path::Path::new("/proc/net/if_inet6").exists() {
            families.push(Family::V6);
        }
        let names: Vec<&str> = families.iter().map(|f| f.name()).collect();
        tracing::info!(families = names.join(","), node = self.node_name, "kube-proxy starts");
        let settings = Settings {
            node_name: self.node_name.clone(),
            families,
            sync: self.config.sync(),
            node_port_addresses: self.config.node_port_addresses.clone().unwrap_or_default(),
        };
        let (changes, facts, health) = (self.changes.clone(), self.facts.clone(), self.health.clone());
        Proxier::new(settings, nft, services, slices, changes, facts, health)
    }

    /// Waits until the node is there with an address (and its pods' network, if that matters), but not for ever.
    async fn wait_for_node(&self) {
        let needs_cidr = self.config.detect_local_mode == "NodeCIDR";
        let mut events = self.nodes.subscribe();
        let found = async {
            while let Some(event) = events.recv().await {
                let node = event.object();
                if !node_ips(node).is_empty() && (!needs_cidr || !pod_cidrs(node).is_empty()) {
                    return;
                }
            }
        };
        if tokio::time::timeout(NODE_WAIT, found).await.is_err() {
            tracing::error!(node = self.node_name, "Failed to retrieve node info, going on without it");
        }
    }

    /// Keeps the facts of the node up to date.
    fn follow_node(&self) {
        self.learn(None);
        let (facts, changes, health) = (self.facts.clone(), self.changes.clone(), self.health.clone());
        let config = self.config.clone();
        self.nodes.on_event(move |event| {
            let node = Some(&**event.object()).filter(|_| !matches!(event, client::Event::Deleted(_)));
            health.set_eligible(node.is_some_and(eligible));
            if node.is_some() && update_facts(&facts, &config, node) {
                changes.everything();
            }
        });
    }

    fn learn(&self, node: Option<&Node>) {
        update_facts(&self.facts, &self.config, node);
    }

    fn follow_service_cidrs(&self, tasks: &mut JoinSet<anyhow::Result<()>>, shutdown: &CancellationToken) {
        let informer: Informer<ServiceCIDR> =
            Informer::new(Api::all(self.client.clone()), watcher::Config::default());
        let (store, facts, changes) = (informer.store(), self.facts.clone(), self.changes.clone());
        informer.on_event(move |_| {
            let mut cidrs: Vec<String> = store
                .list()
                .iter()
                .flat_map(|c| {
                    c.spec.iter().flat_map(|s| s.cidrs.iter().flatten()).cloned().collect::<Vec<_>>()
                })
                .collect();
            cidrs.sort();
            cidrs.dedup();
            let mut facts = facts.lock();
            if facts.service_cidrs != cidrs {
                facts.service_cidrs = cidrs;
                changes.everything();
            }
        });
        spawn(tasks, informer.run(shutdown.clone()));
    }

    fn announce(&self) {
        let recorder = Recorder::series(self.client.clone(), "kube-proxy", &self.node_name);
        let about = ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Node".into()),
            name: Some(self.node_name.clone()),
            ..ObjectReference::default()
        };
        recorder.event_with(&about, None, "Normal", "Starting", "StartKubeProxy", "");
    }

    async fn serve(
        &self,
        tasks: &mut JoinSet<anyhow::Result<()>>,
        shutdown: &CancellationToken,
    ) -> anyhow::Result<()> {
        let mode = self.config.mode.clone();
        let metrics = |server: Server| {
            let routes = axum::Router::new()
                .route("/proxyMode", axum::routing::get(move || std::future::ready(mode.clone())));
            server
                .routes(Checks::new().routes("healthz"))
                .metrics()
                .debug()
                .zpages(
                    &self.flags,
                    &self.gates,
                    &["/configz", "/flagz", "/healthz", "/metrics", "/proxyMode", "/statusz"],
                )
                .configz("kubeproxy.config.k8s.io", self.config.document())
                .routes(routes)
        };
        let health = |server: Server| server.routes(self.health.routes());
        self.serve_one(&self.config.healthz_bind_address, "healthz", health, tasks, shutdown).await?;
        self.serve_one(&self.config.metrics_bind_address, "metrics", metrics, tasks, shutdown).await
    }

    async fn serve_one(
        &self,
        address: &str,
        what: &'static str,
        build: impl FnOnce(Server) -> Server,
        tasks: &mut JoinSet<anyhow::Result<()>>,
        shutdown: &CancellationToken,
    ) -> anyhow::Result<()> {
        if address.is_empty() {
            return Ok(());
        }
        let socket: SocketAddr =
            address.parse().with_context(|| format!("invalid {what} address {address:?}"))?;
        let server = build(Server::new(&socket.ip().to_string(), socket.port()));
        match server.bind().await {
            Ok(bound) => drop(tasks.spawn(bound.run(shutdown.clone()))),
            Err(error) if self.config.bind_address_hard_fail => return Err(error),
            // As upstream, a taken port does not keep the proxy from its work.
            Err(error) => tracing::error!(server = what, error = format!("{error:#}"), "Cannot serve"),
        }
        Ok(())
    }
}

fn spawn(tasks: &mut JoinSet<anyhow::Result<()>>, task: impl Future<Output = ()> + Send + 'static) {
    tasks.spawn(async move {
        task.await;
        Ok(())
    });
}

/// Whether the facts have changed.
fn update_facts(facts: &Mutex<NodeFacts>, config: &Config, node: Option<&Node>) -> bool {
    let mut facts = facts.lock();
    let labels = node.and_then(|n| n.metadata.labels.as_ref());
    let fresh = NodeFacts {
        zone: labels.and_then(|l| l.get("topology.kubernetes.io/zone")).cloned().unwrap_or_default(),
        ips: primary_ips(node, &config.bind_address),
        local: local_detector(config, node),
        service_cidrs: facts.service_cidrs.clone(),
    };
    let changed = *facts != fresh;
    *facts = fresh;
    changed
}

/// The node's addresses; `--bind-address` overrides that of its family, loopback stands for what is unknown.
fn primary_ips(node: Option<&Node>, bind_address: &str) -> Vec<IpAddr> {
    let mut ips = node.map(node_ips).unwrap_or_default();
    if let Ok(bind) = bind_address.parse::<IpAddr>()
        && !bind.is_unspecified()
    {
        ips.retain(|ip| ip.is_ipv4() != bind.is_ipv4());
        ips.insert(0, bind);
    }
    ips
}

fn local_detector(config: &Config, node: Option<&Node>) -> LocalDetector {
    match config.detect_local_mode.as_str() {
        "NodeCIDR" => LocalDetector::Cidrs(node.map(pod_cidrs).unwrap_or_default()),
        "BridgeInterface" => LocalDetector::Bridge(config.detect_local.bridge_interface.clone()),
        "InterfaceNamePrefix" => {
            LocalDetector::InterfacePrefix(config.detect_local.interface_name_prefix.clone())
        }
        _ => {
            let cidrs: Vec<_> =
                config.cluster_cidr.split(',').filter_map(|c| model::parse_net(c.trim())).collect();
            if cidrs.is_empty() { LocalDetector::None } else { LocalDetector::Cidrs(cidrs) }
        }
    }
}

fn eligible(node: &Node) -> bool {
    let taints = node.spec.iter().flat_map(|s| s.taints.iter().flatten());
    node.metadata.deletion_timestamp.is_none() && !taints.into_iter().any(|t| t.key == TO_BE_DELETED)
}

/// A Node's status is large and changes often; little of it matters here.
fn shrink_node(node: &mut Node) {
    if let Some(status) = &mut node.status {
        *status = k8s_openapi::api::core::v1::NodeStatus {
            addresses: status.addresses.take(),
            ..Default::default()
        };
    }
    node.metadata.annotations = None;
}

/// There may be very many endpoints; what is not proxied by is dropped.
fn shrink_slice(slice: &mut EndpointSlice) {
    for endpoint in slice.endpoints.iter_mut().flatten() {
        endpoint.target_ref = None;
        endpoint.deprecated_topology = None;
        endpoint.zone = None;
        endpoint.hostname = None;
    }
    slice.metadata.owner_references = None;
}
