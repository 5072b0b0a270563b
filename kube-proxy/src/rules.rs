//! The fixed part of the table: base chains, sets and maps, and the rules that look addresses up in them.

use crate::model::Family;
use crate::node::{LocalDetector, NodePorts};
use crate::plan::Container;

/// The table's name, in both families.
pub const TABLE: &str = "kube-proxy";

/// What the fixed part depends on.
#[derive(Clone, Debug, PartialEq)]
pub struct Base {
    /// The family.
    pub family: Family,
    /// The bit that marks packets to masquerade.
    pub mark: u32,
    /// Masquerade everything that goes to a cluster address.
    pub masquerade_all: bool,
    /// How pods' traffic is told apart.
    pub local: LocalDetector,
    /// Where node ports are open.
    pub node_ports: NodePorts,
    /// Networks that cluster addresses come from: packets to unused ones are dropped.
    pub service_cidrs: Vec<String>,
}

/// Name, type, hook and priority of the chains that the kernel calls.
const BASE_CHAINS: [(&str, &str, &str, &str); 8] = [
    // Before translation, to see the address that the client used.
    ("filter-prerouting-pre-dnat", "filter", "prerouting", "-110"),
    ("filter-output-pre-dnat", "filter", "output", "-110"),
    ("filter-input", "filter", "input", "0"),
    ("filter-forward", "filter", "forward", "0"),
    ("filter-output", "filter", "output", "0"),
    ("nat-prerouting", "nat", "prerouting", "-100"),
    ("nat-output", "nat", "output", "-100"),
    ("nat-postrouting", "nat", "postrouting", "100"),
];

const CHAINS: [&str; 7] = [
    "services",
    "service-endpoints-check",
    "nodeport-endpoints-check",
    "firewall-check",
    "cluster-ips-check",
    "masquerading",
    "reject-chain",
];

const JUMPS: [(&str, &str); 11] = [
    ("filter-input", "ct state new jump nodeport-endpoints-check"),
    ("filter-input", "ct state new jump service-endpoints-check"),
    ("filter-forward", "ct state new jump service-endpoints-check"),
    ("filter-output", "ct state new jump service-endpoints-check"),
    ("filter-prerouting-pre-dnat", "ct state new jump firewall-check"),
    ("filter-output-pre-dnat", "ct state new jump firewall-check"),
    ("nat-output", "jump services"),
    ("nat-prerouting", "jump services"),
    ("nat-postrouting", "jump masquerading"),
    ("filter-forward", "ct state new jump cluster-ips-check"),
    ("filter-output", "ct state new jump cluster-ips-check"),
];

/// The commands that make the table anew, empty of Services.
pub fn create(base: &Base) -> String {
    let family = base.family.nft();
    let mut out = format!("add table {family} {TABLE}\ndelete table {family} {TABLE}\n");
    out += &format!("add table {family} {TABLE} {{ comment \"rules for kube-proxy\" ; }}\n");
    for (name, kind, hook, priority) in BASE_CHAINS {
        out += &format!(
            "add chain {family} {TABLE} {name} {{ type {kind} hook {hook} priority {priority} ; }}\n"
        );
    }
    for name in CHAINS {
        out += &format!("add chain {family} {TABLE} {name}\n");
    }
    for (name, definition) in containers(base.family) {
        out += &format!("add {} {family} {TABLE} {name} {{ {} ; }}\n", definition.0, definition.1);
    }
    if let NodePorts::Addresses(ips) = &base.node_ports {
        let list: Vec<String> = ips.iter().map(ToString::to_string).collect();
        out +=
            &format!("add set {family} {TABLE} nodeport-ips {{ type {} ; }}\n", base.family.address_type());
        if !list.is_empty() {
            out += &format!("add element {family} {TABLE} nodeport-ips {{ {} }}\n", list.join(", "));
        }
    }
    for (chain, rule) in rules(base) {
        out += &format!("add rule {family} {TABLE} {chain} {rule}\n");
    }
    out
}

/// Name and definition of the sets and maps that Services' elements go to.
fn containers(family: Family) -> Vec<(&'static str, (&'static str, String))> {
    let address = family.address_type();
    let by_address = format!("type {address} . inet_proto . inet_service : verdict");
    let by_port = "type inet_proto . inet_service : verdict".to_owned();
    let hairpin = format!("type {address} . {address} . inet_proto . inet_service");
    vec![
        (Container::ClusterIps.name(), ("set", format!("type {address}"))),
        (Container::Hairpin.name(), ("set", hairpin)),
        (Container::ServiceIps.name(), ("map", by_address.clone())),
        (Container::NoEndpointServices.name(), ("map", by_address.clone())),
        (Container::FirewallIps.name(), ("map", by_address)),
        (Container::ServiceNodePorts.name(), ("map", by_port.clone())),
        (Container::NoEndpointNodePorts.name(), ("map", by_port)),
    ]
}

fn rules(base: &Base) -> Vec<(&'static str, String)> {
    let (ip, mark) = (base.family.nft(), format!("{:#010x}", base.mark));
    let mut out: Vec<(&str, String)> = JUMPS.iter().map(|(c, r)| (*c, (*r).to_owned())).collect();
    let by_address = format!("{ip} daddr . meta l4proto . th dport vmap @");
    let at_node_port = node_port_match(base);
    out.push((
        "masquerading",
        format!("mark and {mark} != 0 mark set mark xor {mark} masquerade fully-random"),
    ));
    let hairpin =
        format!("ct status dnat {ip} saddr . {ip} daddr . meta l4proto . th dport @hairpin-connections");
    out.push(("masquerading", format!("{hairpin} masquerade fully-random")));
    out.push(("reject-chain", "reject".to_owned()));
    out.push(("service-endpoints-check", format!("{by_address}no-endpoint-services")));
    let refused = format!("{at_node_port} meta l4proto . th dport vmap @no-endpoint-nodeports");
    out.push(("nodeport-endpoints-check", refused));
    out.push(("firewall-check", format!("{by_address}firewall-ips")));
    out.extend(cluster_ips_check(base).into_iter().map(|r| ("cluster-ips-check", r)));
    if base.masquerade_all {
        out.push(("services", format!("{ip} daddr @cluster-ips mark set mark or {mark}")));
    } else if let Some(from_outside) = base.local.if_not_local(base.family) {
        out.push(("services", format!("{ip} daddr @cluster-ips {from_outside} mark set mark or {mark}")));
    }
    out.push(("services", format!("{by_address}service-ips")));
    let local = matches!(base.node_ports, NodePorts::Everywhere)
        .then_some("fib daddr type local ")
        .unwrap_or_default();
    out.push(("services", format!("{local}{at_node_port} meta l4proto . th dport vmap @service-nodeports")));
    out
}

fn node_port_match(base: &Base) -> &'static str {
    match (&base.node_ports, base.family) {
        (NodePorts::Everywhere, Family::V4) => "ip daddr != 127.0.0.0/8",
        (NodePorts::Everywhere, Family::V6) => "ip6 daddr != ::1",
        (NodePorts::Addresses(_), Family::V4) => "ip daddr @nodeport-ips",
        (NodePorts::Addresses(_), Family::V6) => "ip6 daddr @nodeport-ips",
    }
}

/// A used address on a wrong port is rejected; an unused address is dropped.
fn cluster_ips_check(base: &Base) -> Vec<String> {
    let ip = base.family.nft();
    let mut out = vec![format!("{ip} daddr @cluster-ips reject")];
    if !base.service_cidrs.is_empty() {
        out.push(format!("{ip} daddr {{ {} }} drop", base.service_cidrs.join(", ")));
    }
    out
}
