//! What the proxy needs to know of its own node: addresses, which traffic is its pods', where node ports are open.

use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node as ApiNode;

use crate::model::{Family, parse_net};

/// How traffic of this node's pods is told from other traffic.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum LocalDetector {
    /// It is not told apart.
    #[default]
    None,
    /// By its source address.
    Cidrs(Vec<IpNet>),
    /// By the bridge it comes in on.
    Bridge(String),
    /// By the beginning of the interface's name it comes in on.
    InterfacePrefix(String),
}

impl LocalDetector {
    /// An nft expression that holds for pods' traffic.
    pub fn if_local(&self, family: Family) -> Option<String> {
        self.expression(family, "")
    }

    /// An nft expression that holds for other traffic.
    pub fn if_not_local(&self, family: Family) -> Option<String> {
        self.expression(family, "!= ")
    }

    fn expression(&self, family: Family, not: &str) -> Option<String> {
        match self {
            LocalDetector::None => None,
            LocalDetector::Cidrs(all) => {
                let ours: Vec<String> =
                    all.iter().filter(|n| family.has_net(n)).map(ToString::to_string).collect();
                let list = (!ours.is_empty()).then(|| ours.join(", "))?;
                Some(format!("{} saddr {not}{{ {list} }}", family.nft()))
            }
            LocalDetector::Bridge(name) => Some(format!("iifname {not}{name:?}")),
            LocalDetector::InterfacePrefix(prefix) => Some(format!("iifname {not}\"{prefix}*\"")),
        }
    }
}

/// Where node ports are open.
#[derive(Clone, Debug, PartialEq)]
pub enum NodePorts {
    /// On every address of the node but loopback.
    Everywhere,
    /// On these addresses.
    Addresses(Vec<IpAddr>),
}

/// The node's addresses, internal ones first, at most one a family.
pub fn node_ips(node: &ApiNode) -> Vec<IpAddr> {
    let all: Vec<(&str, IpAddr)> = node
        .status
        .iter()
        .flat_map(|s| s.addresses.iter().flatten())
        .filter_map(|a| Some((a.type_.as_str(), a.address.parse().ok()?)))
        .collect();
    let of = |kind: &'static str| all.iter().filter(move |(k, _)| *k == kind).map(|(_, ip)| *ip);
    let mut out: Vec<IpAddr> = Vec::new();
    for ip in of("InternalIP").chain(of("ExternalIP")) {
        if !out.iter().any(|o| o.is_ipv4() == ip.is_ipv4()) {
            out.push(ip);
        }
    }
    out
}

/// Where node ports are open, given `nodePortAddresses` and the node's own address in the family.
pub fn node_ports(wanted: &[String], family: Family, primary: Option<IpAddr>) -> NodePorts {
    if wanted == ["primary"] {
        return match primary.filter(|ip| !ip.is_loopback()) {
            Some(ip) => NodePorts::Addresses(vec![ip]),
            None => NodePorts::Everywhere,
        };
    }
    let nets: Vec<IpNet> = wanted.iter().filter_map(|w| parse_net(w)).filter(|n| family.has_net(n)).collect();
    if nets.is_empty() || nets.iter().any(|n| n.prefix_len() == 0) {
        return NodePorts::Everywhere;
    }
    let mut found: Vec<IpAddr> = Vec::new();
    for ip in interface_addresses() {
        if nets.iter().any(|n| n.contains(&ip)) && !found.contains(&ip) {
            found.push(ip);
        }
    }
    if found.iter().any(IpAddr::is_loopback) {
        tracing::error!("--nodeport-addresses includes localhost but localhost NodePorts are not supported");
        found.retain(|ip| !ip.is_loopback());
    }
    NodePorts::Addresses(found)
}

fn interface_addresses() -> Vec<IpAddr> {
    let list = match nix::ifaddrs::getifaddrs() {
        Ok(list) => list,
        Err(error) => {
            tracing::error!(%error, "Failed to get node ip address matching nodeport cidrs, services with nodeport may not work as intended");
            return Vec::new();
        }
    };
    let ip = |address: nix::sys::socket::SockaddrStorage| {
        address
            .as_sockaddr_in()
            .map(|a| IpAddr::from(a.ip()))
            .or_else(|| address.as_sockaddr_in6().map(|a| IpAddr::from(a.ip())))
    };
    list.filter_map(|i| ip(i.address?)).collect()
}

/// The node's pod networks.
pub fn pod_cidrs(node: &ApiNode) -> Vec<IpNet> {
    let spec = node.spec.as_ref();
    let list = spec.and_then(|s| s.pod_cidrs.clone().or_else(|| s.pod_cidr.clone().map(|c| vec![c])));
    list.into_iter().flatten().filter_map(|c| parse_net(&c)).collect()
}
