//! Services and EndpointSlices as the proxy sees them: for one address family, without what it has no use for.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;

/// An address family; each has a table of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4
    V4,
    /// IPv6
    V6,
}

impl Family {
    /// The name in the API and in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        }
    }

    /// The name of the protocol, and of the table's family, in nft.
    pub fn nft(self) -> &'static str {
        match self {
            Family::V4 => "ip",
            Family::V6 => "ip6",
        }
    }

    /// The type of an address in nft.
    pub fn address_type(self) -> &'static str {
        match self {
            Family::V4 => "ipv4_addr",
            Family::V6 => "ipv6_addr",
        }
    }

    /// Whether an address is of this family.
    pub fn has(self, ip: IpAddr) -> bool {
        ip.is_ipv4() == (self == Family::V4)
    }

    /// Whether a network is of this family.
    pub fn has_net(self, net: &IpNet) -> bool {
        self.has(net.addr())
    }
}

/// A transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP
    Tcp,
    /// UDP
    Udp,
    /// SCTP
    Sctp,
}

impl Protocol {
    fn parse(name: Option<&str>) -> Option<Protocol> {
        match name.unwrap_or("TCP") {
            "TCP" => Some(Protocol::Tcp),
            "UDP" => Some(Protocol::Udp),
            "SCTP" => Some(Protocol::Sctp),
            _ => None,
        }
    }

    /// The name in nft.
    pub fn nft(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        }
    }
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// `namespace/name` of the Service.
    pub service: String,
    /// Name of the port, often empty.
    pub name: String,
    /// Its protocol.
    pub protocol: Protocol,
    /// The Service's address.
    pub cluster_ip: IpAddr,
    /// The port.
    pub port: u16,
    /// The port on every node, if there is one.
    pub node_port: Option<u16>,
    /// `spec.externalIPs`.
    pub external_ips: Vec<IpAddr>,
    /// Addresses of the load balancer that we serve ourselves.
    pub balancer_ips: Vec<IpAddr>,
    /// Who may use the load balancer; everybody if empty.
    pub source_ranges: Vec<IpNet>,
    /// Seconds that a client stays with its endpoint, if it does.
    pub affinity: Option<u32>,
    /// `externalTrafficPolicy: Local`
    pub external_local: bool,
    /// `internalTrafficPolicy: Local`
    pub internal_local: bool,
}

impl ServicePort {
    /// Whether there is any way in from outside.
    pub fn externally_accessible(&self) -> bool {
        self.node_port.is_some() || !self.external_ips.is_empty() || !self.balancer_ips.is_empty()
    }

    /// Whether any traffic goes to endpoints wherever they are. External traffic under policy Local counts: what of it
    /// comes from this node or its pods is sent anywhere.
    pub fn uses_cluster_endpoints(&self) -> bool {
        !self.internal_local || self.externally_accessible()
    }

    /// Whether any traffic goes to endpoints on this node only.
    pub fn uses_local_endpoints(&self) -> bool {
        self.internal_local || (self.external_local && self.externally_accessible())
    }
}

/// The ports of a Service in a family; none for Services that are not proxied.
pub fn service_ports(service: &Service, family: Family) -> Vec<ServicePort> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let of_family = |list: Option<&Vec<String>>| -> Vec<IpAddr> {
        list.into_iter().flatten().filter_map(|i| i.parse().ok()).filter(|i| family.has(*i)).collect()
    };
    let cluster_ips = spec.cluster_ips.clone().or_else(|| spec.cluster_ip.clone().map(|i| vec![i]));
    let Some(cluster_ip) = of_family(cluster_ips.as_ref()).first().copied() else { return Vec::new() };
    let kind = spec.type_.as_deref().unwrap_or("ClusterIP");
    if kind == "ExternalName" {
        return Vec::new();
    }
    let affinity = (spec.session_affinity.as_deref() == Some("ClientIP")).then(|| {
        let config = spec.session_affinity_config.as_ref().and_then(|c| c.client_ip.as_ref());
        config.and_then(|c| c.timeout_seconds).and_then(|s| u32::try_from(s).ok()).unwrap_or(10_800)
    });
    let balanced = kind == "LoadBalancer";
    let ranges = spec.load_balancer_source_ranges.as_ref().filter(|_| balanced);
    let template = |protocol, port, name, node_port| ServicePort {
        service: key(service),
        name,
        protocol,
        cluster_ip,
        port,
        node_port,
        external_ips: of_family(spec.external_ips.as_ref()),
        balancer_ips: if balanced { balancer_ips(service, family) } else { Vec::new() },
        source_ranges: ranges
            .into_iter()
            .flatten()
            .filter_map(|r| parse_net(r.trim()))
            .filter(|n| family.has_net(n))
            .collect(),
        affinity,
        external_local: spec.external_traffic_policy.as_deref() == Some("Local"),
        internal_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
    };
    let ports = spec.ports.iter().flatten().filter_map(|p| {
        let node_port = p.node_port.and_then(|n| u16::try_from(n).ok()).filter(|n| *n != 0);
        let port = u16::try_from(p.port).ok()?;
        Some(template(
            Protocol::parse(p.protocol.as_deref())?,
            port,
            p.name.clone().unwrap_or_default(),
            node_port,
        ))
    });
    ports.collect()
}

/// `namespace/name`.
pub fn key(service: &Service) -> String {
    let meta = &service.metadata;
    format!("{}/{}", meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default())
}

/// Addresses whose packets come to us with the balancer's address still on them.
fn balancer_ips(service: &Service, family: Family) -> Vec<IpAddr> {
    let ingress =
        service.status.iter().flat_map(|s| &s.load_balancer).flat_map(|b| b.ingress.iter().flatten());
    let ours = ingress.filter(|i| i.ip_mode.as_deref() != Some("Proxy"));
    ours.filter_map(|i| i.ip.as_ref()?.parse().ok()).filter(|i| family.has(*i)).collect()
}

/// A network, or a single address as one.
pub fn parse_net(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from)).map(|n: IpNet| n.trunc())
}

/// The port on which a Service wants its local endpoints to be asked for.
pub fn health_check_port(service: &Service) -> Option<u16> {
    let spec = service.spec.as_ref()?;
    let wanted = spec.type_.as_deref() == Some("LoadBalancer")
        && spec.external_traffic_policy.as_deref() == Some("Local");
    let port = spec.health_check_node_port.filter(|p| wanted && *p != 0)?;
    u16::try_from(port).ok()
}

/// Where a Service's traffic may go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Its address.
    pub ip: IpAddr,
    /// Its port.
    pub port: u16,
    /// On this node.
    pub local: bool,
    /// Takes new traffic.
    pub ready: bool,
    /// Still answers.
    pub serving: bool,
    /// On its way out.
    pub terminating: bool,
    /// Zones it should serve.
    pub zones: Vec<String>,
    /// Nodes it should serve.
    pub nodes: Vec<String>,
}

/// The endpoints of a Service's port, sorted and each once.
pub fn endpoints<'a>(
    slices: impl IntoIterator<Item = &'a EndpointSlice>,
    port: &ServicePort,
    family: Family,
    node: &str,
) -> Vec<Endpoint> {
    let mut found: BTreeMap<(IpAddr, u16), Endpoint> = BTreeMap::new();
    for slice in slices.into_iter().filter(|s| s.address_type == family.name()) {
        let target = slice.ports.iter().flatten().find(|p| {
            p.name.as_deref().unwrap_or_default() == port.name
                && Protocol::parse(p.protocol.as_deref()) == Some(port.protocol)
        });
        let Some(number) = target.and_then(|p| p.port).and_then(|p| u16::try_from(p).ok()) else { continue };
        for endpoint in slice.endpoints.iter().flatten() {
            let Some(ip) = endpoint.addresses.first().and_then(|a| a.parse().ok()) else { continue };
            if !family.has(ip) || forbidden(ip) {
                continue;
            }
            let seen = read(endpoint, ip, number, node);
            // An endpoint that moves between slices is in both for a moment; the better news wins.
            match found.get(&(ip, number)) {
                Some(known) if known.ready || !seen.ready => {}
                _ => drop(found.insert((ip, number), seen)),
            }
        }
    }
    found.into_values().collect()
}

/// Traffic that is sent here would reach this node's own services or nobody.
fn forbidden(ip: IpAddr) -> bool {
    ip.is_loopback() || ip.is_multicast() || ip.is_unspecified()
}

fn read(endpoint: &k8s_openapi::api::discovery::v1::Endpoint, ip: IpAddr, port: u16, node: &str) -> Endpoint {
    let conditions = endpoint.conditions.as_ref();
    let hints = endpoint.hints.as_ref();
    Endpoint {
        ip,
        port,
        local: endpoint.node_name.as_deref() == Some(node),
        ready: conditions.and_then(|c| c.ready).unwrap_or(true),
        serving: conditions.and_then(|c| c.serving).unwrap_or(true),
        terminating: conditions.and_then(|c| c.terminating).unwrap_or(false),
        zones: hints
            .and_then(|h| h.for_zones.as_ref())
            .into_iter()
            .flatten()
            .map(|z| z.name.clone())
            .collect(),
        nodes: hints
            .and_then(|h| h.for_nodes.as_ref())
            .into_iter()
            .flatten()
            .map(|n| n.name.clone())
            .collect(),
    }
}
