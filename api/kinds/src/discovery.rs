//! Endpoint slices.

use crate::checks::{self, one_of_required, qualified};
use crate::corev1::endpoints::endpoint_ip;
use crate::metadata::{Checks, immutable, labels};
use crate::names;
use crate::prepare::bump_generation;
use crate::table::{UNSET, age, first_three, name};
use crate::value::{Get, Put, same};
use crate::{Context, Kind, Operation, PLAIN};
use api::Value;
use api::field::{Error, ErrorList, Path};

pub static ENDPOINT_SLICE: Kind =
    Kind { defaults, prepare, validate, warnings, row: Some(row), metadata_checks: Checks::OBJECT, ..PLAIN };

fn warnings(_: &Context<'_>, new: &Value, _: Option<&Value>) -> Vec<String> {
    if new.text("addressType") == "FQDN" {
        vec!["spec.addressType: FQDN endpoints are deprecated".into()]
    } else {
        Vec::new()
    }
}

fn defaults(o: &mut Value) {
    for port in o.items("ports") {
        port.fill("name", "");
        port.fill("protocol", "TCP");
    }
}

fn prepare(op: Operation, cx: &Context<'_>, new: &mut Value, old: Option<&Value>) {
    if op == Operation::Create && cx.api_version == "discovery.k8s.io/v1" {
        new.items("endpoints").for_each(|endpoint| drop(endpoint.unset("deprecatedTopology")));
    }
    let Some(old) = old.filter(|_| op == Operation::Update) else {
        return new.ensure("metadata").set("generation", 1);
    };
    // The topology map of earlier versions is not kept; an unchanged endpoint list stays as it is.
    if !same(new.at("endpoints"), old.at("endpoints")) {
        for endpoint in new.items("endpoints") {
            endpoint.unset("deprecatedTopology");
        }
    }
    let changed = ["endpoints", "ports", "addressType"].iter().any(|f| !same(new.at(f), old.at(f)))
        || !same(new.at("metadata").at("labels"), old.at("metadata").at("labels"));
    if changed {
        bump_generation(new, old);
    }
}

fn row(o: &Value) -> Vec<Value> {
    let ports: Vec<String> = o
        .list("ports")
        .iter()
        .map(|p| match p.opt_int("port") {
            Some(n) => n.to_string(),
            None => p.opt_text("name").unwrap_or("*").to_owned(),
        })
        .collect();
    let addresses: Vec<String> =
        o.list("endpoints").iter().flat_map(|e| e.texts("addresses")).map(str::to_owned).collect();
    vec![
        name(o),
        o.text("addressType").into(),
        first_three(&ports, UNSET).into(),
        first_three(&addresses, UNSET).into(),
        age(o),
    ]
}

fn validate(_: &Context<'_>, new: &Value, old: Option<&Value>, e: &mut ErrorList) {
    let kind = new.text("addressType");
    one_of_required(kind, &["FQDN", "IPv4", "IPv6"], &Path::new("addressType"), e);
    validate_ports(new.list("ports"), &Path::new("ports"), e);
    if !old.is_some_and(|o| same(o.at("endpoints"), new.at("endpoints"))) {
        validate_endpoints(new.list("endpoints"), kind, &Path::new("endpoints"), e);
    }
    if let Some(old) = old {
        immutable(new.at("addressType"), old.at("addressType"), &Path::new("addressType"), e);
    }
}

fn validate_ports(list: &[Value], at: &Path, e: &mut ErrorList) {
    if list.len() > 20_000 {
        e.push(Error::too_many(at, list.len(), 20_000));
    }
    for (i, port) in list.iter().enumerate() {
        let (at, name) = (at.index(i), port.text("name"));
        if !name.is_empty() {
            checks::label(name, &at.child("name"), e);
        }
        if list[..i].iter().any(|o| o.text("name") == name) {
            e.push(Error::duplicate(&at.child("name"), name));
        }
        checks::one_of_pointed(port, "protocol", &["SCTP", "TCP", "UDP"], &at, e);
        if let Some(protocol) = port.opt_text("appProtocol") {
            qualified(protocol, &at.child("appProtocol"), e);
        }
    }
}

fn validate_endpoints(list: &[Value], kind: &str, at: &Path, e: &mut ErrorList) {
    if list.len() > 1000 {
        e.push(Error::too_many(at, list.len(), 1000));
    }
    for (i, endpoint) in list.iter().enumerate() {
        let at = at.index(i);
        let at_addresses = at.child("addresses");
        match endpoint.len("addresses") {
            0 => e.push(Error::required(&at_addresses, "must contain at least 1 address")),
            n if n > 100 => e.push(Error::too_many(&at_addresses, n, 100)),
            _ => {}
        }
        for (j, address) in endpoint.texts("addresses").enumerate() {
            validate_address(address, kind, &at_addresses, j, e);
        }
        if let Some(node) = endpoint.opt_text("nodeName") {
            checks::subdomain(node, &at.child("nodeName"), e);
        }
        if endpoint.has("deprecatedTopology") {
            let at = at.child("deprecatedTopology");
            if endpoint.len("deprecatedTopology") > 16 {
                e.push(Error::too_many(&at, endpoint.len("deprecatedTopology"), 16));
            }
            labels(endpoint.at("deprecatedTopology"), &at, e);
        }
        if let Some(host) = endpoint.opt_text("hostname") {
            checks::label(host, &at.child("hostname"), e);
        }
        validate_hints(endpoint.at("hints"), &at.child("hints"), e);
    }
}

fn validate_address(address: &str, kind: &str, list: &Path, i: usize, e: &mut ErrorList) {
    let at = list.index(i);
    match kind {
        "IPv4" | "IPv6" => {
            let before = e.len();
            let check = if kind == "IPv4" { checks::ip } else { checks::canonical_ip };
            let Some(ip) = check(address, &at, e).filter(|_| e.len() == before) else { return };
            if ip.is_ipv4() != (kind == "IPv4") {
                e.push(Error::invalid(list, address, format!("must be an {kind} address")));
            }
            endpoint_ip(address, &at, e);
        }
        "FQDN" => {
            let name = address.strip_suffix('.').unwrap_or(address);
            let messages = names::dns_subdomain(name);
            if address.is_empty() {
                e.push(Error::required(&at, ""));
            } else if !messages.is_empty() {
                e.push(Error::invalid(&at, name, messages.join(",")));
            } else if !name.contains('.') {
                let text = "should be a domain with at least two segments separated by dots";
                e.push(Error::invalid(&at, name, text));
            }
        }
        _ => {}
    }
}

fn validate_hints(hints: &Value, at: &Path, e: &mut ErrorList) {
    for field in ["forZones", "forNodes"] {
        let check = if field == "forZones" { names::label_value } else { names::dns_subdomain };
        let (list, at) = (hints.list(field), at.child(field));
        if list.len() > 8 {
            e.push(Error::too_many(&at, list.len(), 8));
            continue;
        }
        for (i, hint) in list.iter().enumerate() {
            let (at, name) = (at.index(i).child("name"), hint.text("name"));
            if list[..i].iter().any(|o| o.text("name") == name) {
                e.push(Error::duplicate(&at, name));
            }
            checks::texts(name, check(name), &at, e);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Room;
    use api::json;

    #[test]
    fn checked() {
        for (slice, want) in [
            (
                json!({"addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"]}], "ports": [{"port": 80}]}),
                "",
            ),
            (
                json!({"addressType": "IPv4", "endpoints": [{"addresses": []}]}),
                "endpoints[0].addresses: Required value: must contain at least 1 address",
            ),
            (
                json!({"addressType": "IPv4", "endpoints": [{"addresses": ["::2"]}]}),
                "endpoints[0].addresses: Invalid value: \"::2\": must be an IPv4 address",
            ),
            (json!({"addressType": "IPv9"}), "addressType: Unsupported value: \"IPv9\""),
            (
                json!({"addressType": "FQDN", "endpoints": [{"addresses": ["a"]}]}),
                "endpoints[0].addresses[0]: Invalid value: \"a\": should be a domain",
            ),
            (json!({"addressType": "IPv4", "ports": [{}, {}]}), "ports[1].name: Duplicate value: \"\""),
        ] {
            let mut o = slice;
            defaults(&mut o);
            let got = ENDPOINT_SLICE.validate(&Context::default(), &o, None);
            let first = got.first().map(ToString::to_string).unwrap_or_default();
            assert!(first.starts_with(want) && first.is_empty() == want.is_empty(), "{first}");
        }
    }
}
