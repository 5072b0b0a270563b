//! What one Service needs in the kernel: a pure function of the Service, its endpoints and the node.
//!
//! The table has fixed maps from addresses and ports to chains; a plan is a Service's chains and its elements in those
//! maps. Policy chains choose an endpoint and translate; the external chain marks or short-circuits before it goes to
//! one; with session affinity each endpoint has a chain and a set of the clients that stay with it.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::IpAddr;

use sha2::{Digest, Sha256};

use crate::model::{Endpoint, Family, ServicePort};
use crate::node::LocalDetector;
use crate::topology::{Choice, choose};

/// The fixed sets and maps of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Container {
    /// Every address of a Service.
    ClusterIps,
    /// Address, protocol and port to the chain that serves it.
    ServiceIps,
    /// Protocol and port on the node to the chain that serves it.
    ServiceNodePorts,
    /// Addresses and ports whose packets are refused.
    NoEndpointServices,
    /// Ports on the node whose packets are refused.
    NoEndpointNodePorts,
    /// Addresses and ports that only some clients may use.
    FirewallIps,
    /// Connections of an endpoint to itself through a Service.
    Hairpin,
}

impl Container {
    /// Its name in the table.
    pub fn name(self) -> &'static str {
        match self {
            Container::ClusterIps => "cluster-ips",
            Container::ServiceIps => "service-ips",
            Container::ServiceNodePorts => "service-nodeports",
            Container::NoEndpointServices => "no-endpoint-services",
            Container::NoEndpointNodePorts => "no-endpoint-nodeports",
            Container::FirewallIps => "firewall-ips",
            Container::Hairpin => "hairpin-connections",
        }
    }
}

/// What the plan of every Service depends on besides the Service.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// This node's name.
    pub name: String,
    /// Its zone, or empty.
    pub zone: String,
    /// Its own address in the family.
    pub ip: Option<IpAddr>,
    /// How traffic of this node's pods is told from other.
    pub local: LocalDetector,
    /// The bit that marks packets to masquerade.
    pub mark: u32,
}

/// What one Service needs in one family's table.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// Chains and their rules.
    pub chains: BTreeMap<String, Vec<String>>,
    /// Elements, with the value they map to (empty in sets).
    pub elements: BTreeMap<(Container, String), String>,
    /// Affinity sets and their timeouts in seconds.
    pub affinity: BTreeMap<String, u32>,
    /// Ports whose internal traffic finds no endpoint on this node, though there are some elsewhere.
    pub no_local_internal: usize,
    /// The same of external traffic.
    pub no_local_external: usize,
}

/// The plan of a Service's ports, each with its endpoints.
pub fn plan(ports: &[(ServicePort, Vec<Endpoint>)], family: Family, node: &Node) -> Plan {
    let mut plan = Plan::default();
    for (port, endpoints) in ports {
        let choice = choose(port, endpoints, &node.name, &node.zone);
        PortPlan { port, family, node, choice, names: Names::new(port), plan: &mut plan }.add();
    }
    plan
}

/// The names of a port's chains.
struct Names {
    cluster: String,
    local: String,
    external: String,
    firewall: String,
}

impl Names {
    fn new(port: &ServicePort) -> Names {
        let base = hashed(&format!("{}/{}/{}", port.service, port.protocol.nft(), port.name));
        Names {
            cluster: format!("service-{base}"),
            local: format!("local-{base}"),
            external: format!("external-{base}"),
            firewall: format!("firewall-{base}"),
        }
    }
}

/// Makes a name unique after it has been cut to what nft takes.
fn hashed(name: &str) -> String {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let digest = Sha256::digest(name.as_bytes());
    let hash: String = digest[..8].iter().map(|b| ALPHABET[usize::from(b & 31)] as char).collect();
    // The API server lets only such names in; what is not one must not become part of a command.
    let good = |c: &char| c.is_ascii_alphanumeric() || "/-_.".contains(*c);
    let readable: String = name.chars().filter(good).take(200).collect();
    format!("{hash}-{readable}")
}

struct PortPlan<'a> {
    port: &'a ServicePort,
    family: Family,
    node: &'a Node,
    choice: Choice<'a>,
    names: Names,
    plan: &'a mut Plan,
}

impl PortPlan<'_> {
    fn add(mut self) {
        let port = self.port;
        let has_internal = self.choice.any && !(port.internal_local && self.choice.local.is_empty());
        let has_external = self.choice.any && !(port.external_local && self.choice.local.is_empty());
        if self.choice.any {
            self.plan.no_local_internal += usize::from(!has_internal);
            self.plan.no_local_external += usize::from(!has_external && port.externally_accessible());
        }
        self.element(Container::ClusterIps, port.cluster_ip.to_string(), String::new());
        self.policy_chains();
        self.hairpins();
        if self.choice.any && port.externally_accessible() {
            self.external_chain(has_external);
        }
        self.internal(has_internal);
        self.external(has_external);
    }

    fn element(&mut self, container: Container, key: String, value: String) {
        self.plan.elements.insert((container, key), value);
    }

    fn address_key(&self, ip: IpAddr) -> String {
        format!("{ip} . {} . {}", self.port.protocol.nft(), self.port.port)
    }

    /// Nobody there: reject. Somebody, but not on this node: drop, so that clients try elsewhere.
    fn refusal(&self) -> String {
        if self.choice.any { "drop".to_owned() } else { "goto reject-chain".to_owned() }
    }

    fn internal(&mut self, has_endpoints: bool) {
        let key = self.address_key(self.port.cluster_ip);
        if has_endpoints {
            let chain = if self.port.internal_local { &self.names.local } else { &self.names.cluster };
            let verdict = format!("goto {chain}");
            self.element(Container::ServiceIps, key, verdict);
        } else {
            let verdict = self.refusal();
            self.element(Container::NoEndpointServices, key, verdict);
        }
    }

    fn external(&mut self, has_endpoints: bool) {
        let (port, verdict, refusal) = (self.port, format!("goto {}", self.names.external), self.refusal());
        for ip in port.external_ips.iter().chain(&port.balancer_ips) {
            let key = self.address_key(*ip);
            // Even without local endpoints, traffic from this node's own pods is served.
            if self.choice.any {
                self.element(Container::ServiceIps, key.clone(), verdict.clone());
            }
            if !has_endpoints {
                self.element(Container::NoEndpointServices, key, refusal.clone());
            }
        }
        if let Some(number) = port.node_port {
            let key = format!("{} . {number}", port.protocol.nft());
            if self.choice.any {
                self.element(Container::ServiceNodePorts, key.clone(), verdict);
            }
            if !has_endpoints {
                self.element(Container::NoEndpointNodePorts, key, refusal);
            }
        }
        self.firewall();
    }

    fn firewall(&mut self) {
        let port = self.port;
        if port.source_ranges.is_empty() || port.balancer_ips.is_empty() {
            return;
        }
        let mut sources: Vec<String> = port.source_ranges.iter().map(ToString::to_string).collect();
        // A node's packet to the balancer's address comes back to it with that address as its source.
        if self.node.ip.is_some_and(|ip| port.source_ranges.iter().any(|r| r.contains(&ip))) {
            sources.extend(port.balancer_ips.iter().map(ToString::to_string));
        }
        let rule = format!("{} saddr != {{ {} }} drop", self.family.nft(), sources.join(", "));
        let verdict = format!("goto {}", self.names.firewall);
        self.plan.chains.insert(self.names.firewall.clone(), vec![rule]);
        for ip in &port.balancer_ips {
            let key = self.address_key(*ip);
            self.element(Container::FirewallIps, key, verdict.clone());
        }
    }

    fn external_chain(&mut self, has_external: bool) {
        let mut rules = Vec::new();
        let (mark, cluster) = (format!("mark set mark or {:#010x}", self.node.mark), &self.names.cluster);
        if self.port.external_local {
            if let Some(from_pods) = self.node.local.if_local(self.family) {
                rules.push(format!("{from_pods} goto {cluster}"));
            }
            rules.push(format!("fib saddr type local {mark}"));
            rules.push(format!("fib saddr type local goto {cluster}"));
        } else {
            rules.push(mark);
        }
        if has_external {
            let policy = if self.port.external_local { &self.names.local } else { cluster };
            rules.push(format!("goto {policy}"));
        }
        // The cluster chain is jumped to even when only leaving or unhinted endpoints are left in it.
        self.plan.chains.entry(self.names.cluster.clone()).or_default();
        self.plan.chains.insert(self.names.external.clone(), rules);
    }

    fn policy_chains(&mut self) {
        let lists = [
            (self.names.cluster.clone(), self.choice.cluster.clone(), self.port.uses_cluster_endpoints()),
            (self.names.local.clone(), self.choice.local.clone(), self.port.uses_local_endpoints()),
        ];
        for (chain, endpoints, used) in lists {
            if !used || endpoints.is_empty() {
                continue;
            }
            let rules = match self.port.affinity {
                None => vec![self.translate(&endpoints)],
                Some(_) => self.sticky(&endpoints),
            };
            self.plan.chains.insert(chain, rules);
        }
        if let Some(timeout) = self.port.affinity {
            for endpoint in self.choice.reachable.clone() {
                self.endpoint_chain(endpoint, timeout);
            }
        }
    }

    /// One rule: a random endpoint, address and port.
    fn translate(&self, endpoints: &[&Endpoint]) -> String {
        let (protocol, family) = (self.port.protocol.nft(), self.family.nft());
        let mut map = String::new();
        for (i, e) in endpoints.iter().enumerate() {
            let comma = if i == 0 { "" } else { ", " };
            let _ = write!(map, "{comma}{i} : {} . {}", e.ip, e.port);
        }
        let count = endpoints.len();
        format!(
            "meta l4proto {protocol} dnat {family} addr . port to numgen random mod {count} map {{ {map} }}"
        )
    }

    /// The endpoint whose set the client is in, else a random one's chain.
    fn sticky(&self, endpoints: &[&Endpoint]) -> Vec<String> {
        let timeout = self.port.affinity.unwrap_or_default();
        let family = self.family.nft();
        let known = |e: &&Endpoint| {
            format!("{family} saddr @{} goto {}", self.affinity_name(e, timeout), self.endpoint_name(e))
        };
        let mut rules: Vec<String> = endpoints.iter().map(known).collect();
        let jumps: Vec<String> = endpoints
            .iter()
            .enumerate()
            .map(|(i, e)| format!("{i} : goto {}", self.endpoint_name(e)))
            .collect();
        rules.push(format!("numgen random mod {} vmap {{ {} }}", endpoints.len(), jumps.join(", ")));
        rules
    }

    fn endpoint_base(&self, e: &Endpoint) -> String {
        let (port, ip) = (self.port, e.ip.to_string().replace(':', "."));
        format!("{}/{}/{}__{ip}/{}", port.service, port.protocol.nft(), port.name, e.port)
    }

    fn endpoint_name(&self, e: &Endpoint) -> String {
        format!("endpoint-{}", hashed(&self.endpoint_base(e)))
    }

    /// The timeout is part of the name, because a set's timeout cannot be changed.
    fn affinity_name(&self, e: &Endpoint, timeout: u32) -> String {
        format!("affinity-{}", hashed(&format!("{}/{timeout}", self.endpoint_base(e))))
    }

    fn endpoint_chain(&mut self, e: &Endpoint, timeout: u32) {
        let set = self.affinity_name(e, timeout);
        let to = match e.ip {
            IpAddr::V4(ip) => format!("{ip}:{}", e.port),
            IpAddr::V6(ip) => format!("[{ip}]:{}", e.port),
        };
        let rules = vec![
            format!("update @{set} {{ {} saddr }}", self.family.nft()),
            format!("meta l4proto {} dnat to {to}", self.port.protocol.nft()),
        ];
        self.plan.chains.insert(self.endpoint_name(e), rules);
        self.plan.affinity.insert(set, timeout);
    }

    /// An endpoint that reaches itself through its Service must see another source than itself.
    fn hairpins(&mut self) {
        for e in self.choice.reachable.clone().into_iter().filter(|e| e.local) {
            let key = format!("{} . {} . {} . {}", e.ip, e.ip, self.port.protocol.nft(), e.port);
            self.element(Container::Hairpin, key, String::new());
        }
    }
}

#[cfg(test)]
mod tests;
