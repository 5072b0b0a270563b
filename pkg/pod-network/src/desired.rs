//! What this node's network should look like, as a pure function of the Node objects.

use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// A node as far as the network is concerned.
#[derive(Clone, Debug, PartialEq)]
pub struct Peer {
    pub name: String,
    pub address: IpAddr,
    pub pod_cidr: Option<IpNet>,
}

impl Peer {
    /// `None` while the node has no internal address.
    pub fn of(node: &Node) -> Option<Peer> {
        let addresses = node.status.as_ref()?.addresses.as_ref()?;
        let address = addresses.iter().find(|a| a.type_ == "InternalIP")?.address.parse().ok()?;
        let pod_cidr = node.spec.as_ref().and_then(|s| s.pod_cidr.as_deref()).and_then(|c| c.parse().ok());
        Some(Peer { name: node.metadata.name.clone()?, address, pod_cidr })
    }
}

/// Everything that is configured on this node.
#[derive(Clone, Debug, PartialEq)]
pub struct Desired {
    pub own_cidr: IpNet,
    pub cluster_cidr: IpNet,
    /// Pod CIDR of another node → that node's address.
    pub routes: BTreeMap<IpNet, IpAddr>,
    pub node_addresses: BTreeSet<IpAddr>,
}

/// `None` until this node has a pod CIDR.
pub fn desired(own: &str, cluster_cidr: IpNet, peers: Vec<Peer>) -> Option<Desired> {
    let own_cidr = peers.iter().find(|p| p.name == own)?.pod_cidr?;
    let node_addresses = peers.iter().map(|p| p.address).collect();
    let routes =
        peers.into_iter().filter(|p| p.name != own).filter_map(|p| Some((p.pod_cidr?, p.address))).collect();
    Some(Desired { own_cidr, cluster_cidr, routes, node_addresses })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(name: &str, address: &str, cidr: Option<&str>) -> Peer {
        Peer {
            name: name.into(),
            address: address.parse().expect("address"),
            pod_cidr: cidr.map(|c| c.parse().expect("cidr")),
        }
    }

    #[test]
    fn routes_lead_to_others_and_wait_for_the_own_cidr() {
        let all: IpNet = "10.244.0.0/16".parse().expect("cidr");
        let peers = |own: Option<&str>| {
            vec![
                peer("a", "192.0.2.1", own),
                peer("b", "192.0.2.2", Some("10.244.2.0/24")),
                peer("c", "192.0.2.3", None),
            ]
        };
        assert_eq!(desired("a", all, peers(None)), None);
        let d = desired("a", all, peers(Some("10.244.1.0/24"))).expect("has a CIDR");
        assert_eq!(d.routes.len(), 1);
        assert_eq!(d.routes[&"10.244.2.0/24".parse::<IpNet>().expect("cidr")].to_string(), "192.0.2.2");
        assert_eq!(d.node_addresses.len(), 3);
    }
}
