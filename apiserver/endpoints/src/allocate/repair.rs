//! Services and what is allocated to them, brought into agreement again.
//!
//! A crash between an allocation and the write that it was for, an older server, or somebody's hand may
//! leave an address or port that no Service has, or a Service whose address or port is not allocated. A pass
//! looks at all Services in memory; it is the owner of the objects that it changes no more than any other
//! server, so every write is compared or made again in the next pass.

use super::{Pools, addresses, ports};
use crate::server::Server;
use api::status::Result;
use api::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

const SERVICES: (&str, &str) = ("", "services");
/// An address may be taken this long before its Service appears.
const GRACE: Duration = Duration::from_secs(60);
/// A write that took an address and failed gives it back within this.
const UNDONE: Duration = Duration::from_secs(5);
/// Passes that have to find a port without a Service before it is freed.
const LEAK: u8 = 3;

/// What passes remember of each other.
#[derive(Default)]
pub struct Repair {
    /// Ports without a Service: passes until they are freed.
    leaks: BTreeMap<u16, u8>,
    /// Events of the last pass, which are not told again while nothing changes.
    told: BTreeSet<String>,
    telling: BTreeSet<String>,
}

/// Who an event is about, and what it says.
struct Finding<'a> {
    about: &'a Value,
    kind: (&'static str, &'static str),
    controller: &'static str,
    action: &'static str,
    reason: &'static str,
    note: String,
}

fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

fn namespace(object: &Value) -> &str {
    object["metadata"]["namespace"].as_str().unwrap_or_default()
}

fn age(object: &Value) -> Duration {
    let made =
        object["metadata"]["creationTimestamp"].as_str().and_then(|t| t.parse::<jiff::Timestamp>().ok());
    let age = made.map(|t| jiff::Timestamp::now().duration_since(t));
    age.and_then(|d| Duration::try_from(d).ok()).unwrap_or_default()
}

impl Repair {
    /// One pass over the addresses. Answers after how long to look again although nothing changes.
    pub async fn addresses(&mut self, server: &Server) -> Result<Option<Duration>> {
        let Some(pools) = &server.special.pools else { return Ok(None) };
        let services = server.registry.list(SERVICES, None);
        for service in &services {
            for ip in addresses::of(service) {
                self.address_of_service(server, pools, service, &ip).await?;
            }
        }
        let mut again: Option<Duration> = None;
        for object in server.registry.list(addresses::IPS, None) {
            let wait = self.address(server, &object).await?;
            again = [again, wait].into_iter().flatten().min();
        }
        self.told = std::mem::take(&mut self.telling);
        Ok(again)
    }

    /// The Service must have the address, and the address the Service.
    async fn address_of_service(
        &mut self,
        server: &Server,
        pools: &Pools,
        service: &Arc<Value>,
        ip: &str,
    ) -> Result<()> {
        let (ns, svc) = (namespace(service), name(service));
        let found = |reason, note| Finding {
            about: service,
            kind: ("v1", "Service"),
            controller: "ipallocator-repair-controller",
            action: "ClusterIPAllocation",
            reason,
            note,
        };
        let Ok(parsed) = ip.parse::<IpAddr>() else { return Ok(()) };
        let family = addresses::family(&parsed);
        if !addresses::ranges(server, pools, family).iter().any(|r| r.contains(&parsed)) {
            let note = format!(
                "Cluster IP [{family}]: {ip} is not within any configured Service CIDR; please recreate service"
            );
            self.tell(server, found("ClusterIPOutOfRange", note)).await;
            return Ok(());
        }
        let canonical = parsed.to_string();
        let Some(object) = server.registry.get(addresses::IPS, "", &canonical) else {
            let note = format!("Cluster IP [{family}]: {ip} is not allocated; repairing");
            self.tell(server, found("ClusterIPNotAllocated", note)).await;
            return create(server, &canonical, family, ns, svc).await;
        };
        let parent = &object["spec"]["parentRef"];
        let (to_ns, to) =
            (parent["namespace"].as_str().unwrap_or_default(), parent["name"].as_str().unwrap_or_default());
        if !refers_to_service(&object) || (to_ns, to) != (ns, svc) {
            let other =
                if refers_to_service(&object) { server.registry.get(SERVICES, to_ns, to) } else { None };
            let Some(other) = other else {
                let note = format!(
                    "the ClusterIP [{family}]: {ip} for Service {ns}/{svc} has a wrong reference; repairing"
                );
                self.tell(server, found("ClusterIPNotAllocated", note)).await;
                return recreate(server, &object, family, ns, svc).await;
            };
            if addresses::of(&other).contains(&canonical) {
                let note = format!(
                    "Cluster IP [{family}]:{ip} was assigned to multiple services; please recreate service"
                );
                self.tell(server, found("ClusterIPAlreadyAllocated", note)).await;
            }
            return Ok(());
        }
        if labelled(&object, family) { Ok(()) } else { recreate(server, &object, family, ns, svc).await }
    }

    /// An address that the allocator made must belong to a Service that has it.
    async fn address(&mut self, server: &Server, object: &Arc<Value>) -> Result<Option<Duration>> {
        if object["metadata"]["labels"][addresses::MANAGED_BY] != addresses::MANAGER {
            return Ok(None);
        }
        let parent = &object["spec"]["parentRef"];
        let (ns, svc) =
            (parent["namespace"].as_str().unwrap_or_default(), parent["name"].as_str().unwrap_or_default());
        let (ip, age) = (name(object).to_owned(), age(object));
        let (reason, note) = if !refers_to_service(object) {
            let note = format!(
                "IPAddress {ip} appears to have been modified, not referencing a Service {parent}: cleaning up"
            );
            ("IPAddressNotAllocated", note)
        } else {
            match server.registry.get(SERVICES, ns, svc) {
                None if age <= GRACE => return Ok(Some(GRACE - age + Duration::from_secs(1))),
                None => {
                    let note =
                        format!("IPAddress: {ip} for Service {ns}/{svc} appears to have leaked: cleaning up");
                    ("IPAddressNotAllocated", note)
                }
                Some(service) => {
                    if addresses::of(&service).contains(&ip) {
                        return Ok(None);
                    }
                    // A write under way may not have come to the Service yet, or not have been undone yet.
                    let grace = if service["spec"]["type"] == "ExternalName" { GRACE } else { UNDONE };
                    if age < grace {
                        return Ok(Some(grace - age + Duration::from_secs(1)));
                    }
                    let note =
                        format!("IPAddress: {ip} for Service {ns}/{svc} has a wrong reference; cleaning up");
                    ("IPAddressWrongReference", note)
                }
            }
        };
        tracing::warn!(note, "repairing the addresses of Services");
        let (kind, action) = (("networking.k8s.io/v1", "IPAddress"), "IPAddressAllocation");
        let controller = "ipallocator-repair-controller";
        self.tell(server, Finding { about: object, kind, controller, action, reason, note }).await;
        gone(server.registry.delete(addresses::IPS, "", &ip).await)?;
        Ok(None)
    }

    /// One pass over the node ports.
    pub async fn ports(&mut self, server: &Server) -> Result<()> {
        let Some(pools) = &server.special.pools else { return Ok(()) };
        let stored = ports::allocated(pools).await?;
        // Read after the bitmap: whoever took a port before that and has it is seen here.
        let services = live_services(server).await?;
        let (base, count) = pools.node_ports;
        let range = format!("{base}-{}", base + (count - 1));
        let mut used = BTreeSet::new();
        for service in &services {
            for port in ports::of(service) {
                let (reason, note) = if !(port >= base && port - base < count) {
                    let note =
                        format!("Port {port} is not within the port range {range}; please recreate service");
                    ("PortOutOfRange", note)
                } else if !used.insert(port) {
                    (
                        "PortAlreadyAllocated",
                        format!("Port {port} was assigned to multiple services; please recreate service"),
                    )
                } else if !stored.contains(&port) {
                    ("PortNotAllocated", format!("Port {port} is not allocated; repairing"))
                } else {
                    continue;
                };
                let (kind, action) = (("v1", "Service"), "PortAllocation");
                let controller = "portallocator-repair-controller";
                self.tell(server, Finding { about: service, kind, controller, action, reason, note }).await;
            }
        }
        let missing: Vec<u16> = used.difference(&stored).copied().collect();
        let mut freed = Vec::new();
        self.leaks.retain(|port, _| stored.contains(port) && !used.contains(port));
        for port in stored.difference(&used) {
            let left = self.leaks.entry(*port).or_insert(LEAK);
            *left -= 1;
            if *left == 0 {
                tracing::warn!(port, "the node port appears to have leaked: cleaning up");
                freed.push(*port);
            }
        }
        self.leaks.retain(|port, _| !freed.contains(port));
        ports::correct(pools, &missing, &freed).await
    }

    /// An Event, unless the last pass has told it already.
    async fn tell(&mut self, server: &Server, f: Finding<'_>) {
        let key = format!("{}/{}/{}/{}", namespace(f.about), name(f.about), f.reason, f.note);
        let known = self.told.contains(&key);
        self.telling.insert(key);
        if known {
            return;
        }
        tracing::warn!(reason = f.reason, note = f.note, "Services and their allocations disagree");
        let (ns, meta) = (namespace(f.about), &f.about["metadata"]);
        let in_ns = if ns.is_empty() { "default" } else { ns };
        let now = jiff::Timestamp::now();
        let event = json!({
            "metadata": {"name": format!("{}.{:x}", name(f.about), now.as_nanosecond()), "namespace": in_ns},
            "involvedObject": {
                "apiVersion": f.kind.0, "kind": f.kind.1, "namespace": ns, "name": name(f.about),
                "uid": meta["uid"], "resourceVersion": meta["resourceVersion"],
            },
            "type": "Warning", "reason": f.reason, "action": f.action, "message": f.note,
            "eventTime": now.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string(),
            "reportingComponent": f.controller, "reportingInstance": f.controller,
        });
        if let Err(error) = server.registry.create(("", "events"), in_ns, event).await {
            tracing::debug!(%error, "an event about a repair could not be written");
        }
    }
}

/// All Services, not older than this call.
async fn live_services(server: &Server) -> Result<Vec<Value>> {
    let row = server.routes.load().storage(SERVICES.0, SERVICES.1).cloned();
    let Some(row) = row else { return Ok(Vec::new()) };
    let resource = &row.stored()?.resource;
    let list = resource.list(resource.prefix(), storage::ListOptions::default()).await;
    let list = list.map_err(|e| crate::errors::storage(e, SERVICES.0, SERVICES.1, ""))?;
    list.items.iter().map(|o| row.value(o)).collect()
}

fn refers_to_service(object: &Value) -> bool {
    let parent = &object["spec"]["parentRef"];
    parent["group"].as_str().unwrap_or_default().is_empty() && parent["resource"] == "services"
}

fn labelled(object: &Value, family: &str) -> bool {
    let labels = &object["metadata"]["labels"];
    labels[addresses::FAMILY] == family && labels[addresses::MANAGED_BY] == addresses::MANAGER
}

async fn create(server: &Server, ip: &str, family: &str, ns: &str, service: &str) -> Result<()> {
    let object = addresses::object(ip, family, ns, service);
    match server.registry.create(addresses::IPS, "", object).await {
        Err(e) if e.reason == "AlreadyExists" => Ok(()),
        other => other.map(drop),
    }
}

async fn recreate(server: &Server, object: &Value, family: &str, ns: &str, service: &str) -> Result<()> {
    gone(server.registry.delete(addresses::IPS, "", name(object)).await)?;
    create(server, name(object), family, ns, service).await
}

fn gone(done: Result<()>) -> Result<()> {
    match done {
        Err(e) if e.code == 404 => Ok(()),
        other => other,
    }
}
