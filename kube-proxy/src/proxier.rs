//! The proxier: hears of changes, waits as long as it must, and brings the kernel's tables up to date.
//!
//! A change marks its Service; a sync plans the marked Services again and writes the difference. Everything is written
//! anew at start, after a failure, once an hour, and when something changes that all plans depend on (the node).

mod saved;

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use client::{Event, Informer, Key, Store};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::config::Sync;
use crate::conntrack::{self, UdpTargets};
use crate::health::Health;
use crate::healthcheck::HealthChecks;
use crate::metrics::{METRICS, now};
use crate::model::{self, Family};
use crate::nft::Nft;
use crate::node::{LocalDetector, NodePorts};
use crate::plan::{Node, Plan, plan};
use crate::rules::{self, Base};
use crate::table::{Table, Transaction};

const FULL_SYNC: Duration = Duration::from_secs(3600);
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// The index of slices by their Service.
pub const BY_SERVICE: &str = "service";

/// What has changed since the last sync.
#[derive(Default)]
struct Dirty {
    services: HashSet<String>,
    everything: bool,
    /// When the endpoints that caused the sync changed, as their slices say.
    triggers: Vec<jiff::Timestamp>,
}

/// Where changes are put and waited for; clones share it.
#[derive(Clone, Default)]
pub struct Changes {
    dirty: Arc<Mutex<Dirty>>,
    notify: Arc<Notify>,
}

impl Changes {
    fn service(&self, key: String) {
        self.dirty.lock().services.insert(key);
        self.notify.notify_one();
    }

    /// Something that all plans depend on has changed.
    pub fn everything(&self) {
        self.dirty.lock().everything = true;
        self.notify.notify_one();
    }

    fn take(&self) -> Dirty {
        std::mem::take(&mut self.dirty.lock())
    }

    /// Listens to Services and EndpointSlices.
    pub fn listen(&self, services: &Informer<Service>, slices: &Informer<EndpointSlice>) {
        let changes = self.clone();
        services.on_event(move |event| {
            METRICS.service_changes.inc();
            changes.service(event.key().to_string());
        });
        let changes = self.clone();
        slices.on_event(move |event| {
            METRICS.endpoint_changes.inc();
            let slice = event.object();
            if !matches!(event, Event::Deleted(_)) {
                changes.dirty.lock().triggers.extend(trigger(slice));
            }
            // The label says whose a slice is; should it change, both Services are concerned.
            if let Event::Updated { old, .. } = event {
                service_of(old).into_iter().for_each(|s| changes.service(s));
            }
            service_of(slice).into_iter().for_each(|s| changes.service(s));
        });
    }
}

/// The Service that a slice belongs to.
pub fn service_of(slice: &EndpointSlice) -> Option<String> {
    let name = slice.metadata.labels.as_ref()?.get(SERVICE_NAME)?;
    Some(format!("{}/{name}", slice.metadata.namespace.as_deref().unwrap_or_default()))
}

fn trigger(slice: &EndpointSlice) -> Option<jiff::Timestamp> {
    let annotations = slice.metadata.annotations.as_ref()?;
    annotations.get("endpoints.kubernetes.io/last-change-trigger-time")?.parse().ok()
}

/// What the proxier knows of its node; whoever watches the node changes it and calls [`Changes::everything`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeFacts {
    /// The node's zone.
    pub zone: String,
    /// The node's addresses, at most one a family.
    pub ips: Vec<IpAddr>,
    /// How pods' traffic is told apart.
    pub local: LocalDetector,
    /// Networks of cluster addresses.
    pub service_cidrs: Vec<String>,
}

/// The settings that do not change while the proxy runs.
pub struct Settings {
    /// This node's name.
    pub node_name: String,
    /// Families to serve.
    pub families: Vec<Family>,
    /// Periods and masquerading.
    pub sync: Sync,
    /// `nodePortAddresses`
    pub node_port_addresses: Vec<String>,
}

/// See the module.
pub struct Proxier {
    settings: Settings,
    nft: Nft,
    services: Store<Service>,
    slices: Store<EndpointSlice>,
    changes: Changes,
    facts: Arc<Mutex<NodeFacts>>,
    health: Health,
    checks: HealthChecks,
    /// Services with a health check port: port and local ready endpoints.
    checked: BTreeMap<String, (u16, usize)>,
    tables: Vec<Lane>,
    next_full: Instant,
    retry: Duration,
}

/// One family's table and whether the kernel's is known to be as it says.
struct Lane {
    family: Family,
    table: Table,
    base: Option<Base>,
}

impl Proxier {
    /// A proxier over stores whose informers somebody else runs.
    pub fn new(
        settings: Settings,
        nft: Nft,
        services: Store<Service>,
        slices: Store<EndpointSlice>,
        changes: Changes,
        facts: Arc<Mutex<NodeFacts>>,
        health: Health,
    ) -> Proxier {
        let lane = |f: &Family| Lane { family: *f, table: Table::new(*f), base: None };
        let tables = settings.families.iter().map(lane).collect();
        let checks = HealthChecks::new(health.clone());
        let (next_full, retry) = (Instant::now(), Duration::from_secs(1));
        let checked = BTreeMap::new();
        Proxier {
            settings,
            nft,
            services,
            slices,
            changes,
            facts,
            health,
            checks,
            checked,
            tables,
            next_full,
            retry,
        }
    }

    /// Syncs until shutdown; the stores must be complete.
    pub async fn run(mut self, shutdown: CancellationToken) {
        self.changes.everything();
        loop {
            let begin = Instant::now();
            let again = self.sync().await;
            // Changes that come in quick succession are written together.
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = sleep_until(begin + self.settings.sync.min_sync_period) => {}
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.changes.notify.notified() => {}
                () = sleep_until(again) => {}
            }
            for lane in &self.tables {
                self.health.queued(lane.family);
                METRICS.last_queued.with(&[lane.family.name()]).set(now());
            }
        }
    }

    /// One sync; answers when the next is due if nothing changes.
    pub async fn sync(&mut self) -> Instant {
        let dirty = self.changes.take();
        let everything = dirty.everything || Instant::now() >= self.next_full;
        let facts = self.facts.lock().clone();
        let mut good = true;
        for i in 0..self.tables.len() {
            good &= self.sync_lane(i, &facts, &dirty, everything).await;
        }
        self.sync_checks(&facts, &dirty, everything).await;
        if !good {
            // Nothing of what was taken is lost: a failed family is written anew.
            self.retry = (self.retry * 2).min(self.settings.sync.sync_period);
            return Instant::now() + self.retry;
        }
        self.retry = Duration::from_secs(1);
        if everything {
            self.next_full = Instant::now() + FULL_SYNC.mul_f64(1.0 + rand::random::<f64>() / 10.0);
        }
        let stale = self.tables.iter().filter_map(|l| l.table.next_stale()).min();
        stale.map_or(self.next_full, |s| s.min(self.next_full))
    }

    async fn sync_lane(&mut self, i: usize, facts: &NodeFacts, dirty: &Dirty, everything: bool) -> bool {
        let begin = Instant::now();
        let family = self.tables[i].family;
        let base = self.base(family, facts);
        // After a failure nothing is known of the kernel's table.
        let anew = everything || self.tables[i].base.as_ref() != Some(&base);
        self.collect_stale(i, anew).await;
        let (names, mut script, kept) = match anew {
            true => {
                // Clients keep the endpoints that they have an affinity to.
                let kept = saved::affinities(&self.nft, family).await;
                self.tables[i].table.clear();
                (self.all_services(), rules::create(&base), kept)
            }
            false => (dirty.services.clone(), String::new(), saved::Affinities::default()),
        };
        let node = self.node(family, facts);
        let (mut tx, mut udp) = (Transaction::default(), UdpTargets::default());
        for name in &names {
            let plan = self.plan(name, family, &node, &mut udp);
            self.tables[i].table.update(name, plan, &mut tx);
        }
        script += &tx.render(family);
        script += &kept.restore(tx.new_sets());
        if !script.is_empty()
            && let Err(error) = self.nft.run(&script).await
        {
            tracing::error!(family = family.name(), error = format!("{error:#}"), "nftables sync failed");
            METRICS.sync_failures.with(&[family.name()]).inc();
            self.tables[i].base = None;
            return false;
        }
        self.tables[i].base = Some(base);
        self.health.updated(family);
        self.observe(i, begin, anew, dirty);
        conntrack::clean(&self.nft, family, &udp).await;
        true
    }

    fn base(&self, family: Family, facts: &NodeFacts) -> Base {
        let primary = facts.ips.iter().copied().find(|ip| family.has(*ip));
        let nets = facts.service_cidrs.iter().filter_map(|c| model::parse_net(c));
        Base {
            family,
            mark: 1 << self.settings.sync.masquerade_bit,
            masquerade_all: self.settings.sync.masquerade_all,
            local: facts.local.clone(),
            node_ports: crate::node::node_ports(&self.settings.node_port_addresses, family, primary),
            service_cidrs: nets.filter(|n| family.has_net(n)).map(|n| n.to_string()).collect(),
        }
    }

    fn node(&self, family: Family, facts: &NodeFacts) -> Node {
        Node {
            name: self.settings.node_name.clone(),
            zone: facts.zone.clone(),
            ip: facts.ips.iter().copied().find(|ip| family.has(*ip)),
            local: facts.local.clone(),
            mark: 1 << self.settings.sync.masquerade_bit,
        }
    }

    fn all_services(&self) -> HashSet<String> {
        self.services.list().iter().map(|s| model::key(s)).collect()
    }

    fn plan(&self, name: &str, family: Family, node: &Node, udp: &mut UdpTargets) -> Plan {
        let Some(service) = self.services.get(&Key::from(name)) else { return Plan::default() };
        let slices = self.slices.by_index(BY_SERVICE, name);
        let ports: Vec<_> = model::service_ports(&service, family)
            .into_iter()
            .map(|port| {
                let endpoints = model::endpoints(slices.iter().map(|s| &**s), &port, family, &node.name);
                udp.add(&port, &endpoints);
                (port, endpoints)
            })
            .collect();
        plan(&ports, family, node)
    }

    async fn collect_stale(&mut self, i: usize, anew: bool) {
        let lane = &mut self.tables[i];
        let Some(script) = lane.table.collect_stale().filter(|_| !anew) else { return };
        if let Err(error) = self.nft.run(&script).await {
            tracing::error!(
                family = lane.family.name(),
                error = format!("{error:#}"),
                "Unable to delete stale chains; will retry later"
            );
            METRICS.cleanup_failures.with(&[lane.family.name()]).inc();
            self.next_full = Instant::now();
        }
    }

    fn observe(&self, i: usize, begin: Instant, anew: bool, dirty: &Dirty) {
        let family = &[self.tables[i].family.name()];
        let seconds = begin.elapsed().as_secs_f64();
        METRICS.sync.with(family).observe(seconds);
        if anew { &METRICS.full_sync } else { &METRICS.partial_sync }.with(family).observe(seconds);
        METRICS.last_sync.with(family).set(now());
        let (internal, external) = self.tables[i].table.no_local();
        METRICS.no_local.with(&[family[0], "internal"]).set(internal as f64);
        METRICS.no_local.with(&[family[0], "external"]).set(external as f64);
        let programming = METRICS.programming.with(family);
        for at in &dirty.triggers {
            programming.observe(now() - at.as_microsecond() as f64 / 1e6);
        }
        tracing::debug!(family = family[0], elapsed = seconds, full = anew, "SyncProxyRules complete");
    }

    async fn sync_checks(&mut self, facts: &NodeFacts, dirty: &Dirty, everything: bool) {
        let names = if everything { self.all_services() } else { dirty.services.clone() };
        if everything {
            self.checked.clear();
        }
        for name in names {
            let service = self.services.get(&Key::from(name.as_str()));
            let port = service.as_ref().and_then(|s| model::health_check_port(s));
            match (service, port) {
                (Some(service), Some(port)) => {
                    let count = self.local_ready(&service, &name);
                    self.checked.insert(name, (port, count));
                }
                _ => drop(self.checked.remove(&name)),
            }
        }
        let addresses: Vec<NodePorts> =
            self.settings.families.iter().map(|f| self.base(*f, facts).node_ports).collect();
        self.checks.sync(&self.checked, &addresses).await;
    }

    /// Local ready endpoints, counted once however many ports and families they have.
    fn local_ready(&self, service: &Service, name: &str) -> usize {
        let slices = self.slices.by_index(BY_SERVICE, name);
        let mut ips = HashSet::new();
        for family in &self.settings.families {
            for port in model::service_ports(service, *family) {
                let all =
                    model::endpoints(slices.iter().map(|s| &**s), &port, *family, &self.settings.node_name);
                ips.extend(all.into_iter().filter(|e| e.local && e.ready).map(|e| e.ip));
            }
        }
        ips.len()
    }
}

#[cfg(test)]
mod tests;
