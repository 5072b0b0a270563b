//! Endpoints.

use crate::checks::{self, one_of_required, texts};
use crate::metadata::Checks;
use crate::table::{NONE, age, name};
use crate::value::{Get, Put};
use crate::warnings::{Warnings, address};
use crate::{Context, Kind, PLAIN, names};
use api::Value;
use api::field::{Error, ErrorList, Path};
use std::net::IpAddr;

pub static ROOM: Kind = Kind {
    defaults,
    validate,
    warnings,
    row: Some(row),
    create_on_update: true,
    metadata_checks: Checks::BOTH,
    ..PLAIN
};

fn warnings(_: &Context<'_>, new: &Value, _: Option<&Value>) -> Warnings {
    let mut out = Warnings::new();
    // Who makes them writes addresses well.
    if new.at("metadata").at("labels").text("endpoints.kubernetes.io/managed-by") == "endpoint-controller" {
        return out;
    }
    for (i, subset) in new.list("subsets").iter().enumerate() {
        for list in ["addresses", "notReadyAddresses"] {
            for (j, a) in subset.list(list).iter().enumerate() {
                address(a.text("ip"), || format!("subsets[{i}].{list}[{j}].ip"), &mut out);
            }
        }
    }
    out
}

fn defaults(o: &mut Value) {
    for subset in o.items("subsets") {
        for port in subset.items("ports") {
            port.fill_zero("protocol", "TCP");
        }
    }
}

fn row(o: &Value) -> Vec<Value> {
    vec![name(o), addresses(o).into(), age(o)]
}

fn addresses(o: &Value) -> String {
    if o.len("subsets") == 0 {
        return NONE.to_owned();
    }
    let mut all = Vec::new();
    for subset in o.list("subsets") {
        let ips = || subset.list("addresses").iter().map(|a| a.text("ip"));
        if subset.len("ports") == 0 {
            all.extend(ips().map(str::to_owned));
        }
        for port in subset.list("ports") {
            all.extend(ips().map(|ip| join_host_port(ip, port.int("port"))));
        }
    }
    crate::table::first_three(&all, "")
}

/// `host:port`, with brackets around an IPv6 address.
pub fn join_host_port(host: &str, port: i64) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

fn validate(_: &Context<'_>, new: &Value, old: Option<&Value>, e: &mut ErrorList) {
    if old.is_some_and(|o| crate::value::same(o.at("subsets"), new.at("subsets"))) {
        return;
    }
    for (i, subset) in new.list("subsets").iter().enumerate() {
        let at = Path::new("subsets").index(i);
        if subset.len("addresses") == 0 && subset.len("notReadyAddresses") == 0 {
            e.push(Error::required(&at, "must specify `addresses` or `notReadyAddresses`"));
        }
        for list in ["addresses", "notReadyAddresses"] {
            for (j, address) in subset.list(list).iter().enumerate() {
                validate_address(address, &at.child(list).index(j), e);
            }
        }
        for (j, port) in subset.list("ports").iter().enumerate() {
            validate_port(port, subset.len("ports") > 1, &at.child("ports").index(j), e);
        }
    }
}

fn validate_address(address: &Value, at: &Path, e: &mut ErrorList) {
    checks::ip(address.text("ip"), &at.child("ip"), e);
    endpoint_ip(address.text("ip"), &at.child("ip"), e);
    if !address.text("hostname").is_empty() {
        checks::label(address.text("hostname"), &at.child("hostname"), e);
    }
    if let Some(node) = address.opt_text("nodeName") {
        checks::subdomain(node, &at.child("nodeName"), e);
    }
}

/// An address that traffic may be sent to: not the node itself, not its link.
pub fn endpoint_ip(text: &str, at: &Path, e: &mut ErrorList) {
    let Ok(ip) = text.parse::<IpAddr>() else {
        e.push(Error::invalid(at, text, "must be a valid IP address"));
        return;
    };
    let (link, multicast) = match ip {
        IpAddr::V4(v4) => (v4.is_link_local(), v4.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(v6) => (v6.segments()[0] & 0xffc0 == 0xfe80, v6.segments()[0] & 0xff0f == 0xff02),
    };
    let why = if ip.is_unspecified() {
        format!("may not be unspecified ({text})")
    } else if ip.is_loopback() {
        "may not be in the loopback range (127.0.0.0/8, ::1/128)".to_owned()
    } else if link {
        "may not be in the link-local range (169.254.0.0/16, fe80::/10)".to_owned()
    } else if multicast {
        "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)".to_owned()
    } else {
        return;
    };
    e.push(Error::invalid(at, text, why));
}

fn validate_port(port: &Value, named: bool, at: &Path, e: &mut ErrorList) {
    let name = port.text("name");
    if !name.is_empty() {
        checks::label(name, &at.child("name"), e);
    } else if named {
        e.push(Error::required(&at.child("name"), ""));
    }
    let n = port.int("port");
    texts(n, names::port_number(n), &at.child("port"), e);
    one_of_required(port.text("protocol"), &["TCP", "UDP", "SCTP"], &at.child("protocol"), e);
    if let Some(protocol) = port.opt_text("appProtocol") {
        checks::qualified(protocol, &at.child("appProtocol"), e);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Room;
    use api::json;

    #[test]
    fn checked() {
        for (subset, want) in [
            (json!({"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 80, "protocol": "TCP"}]}), None),
            (json!({}), Some("subsets[0]: Required value: must specify `addresses` or `notReadyAddresses`")),
            (
                json!({"addresses": [{"ip": "127.0.0.1"}]}),
                Some(
                    "subsets[0].addresses[0].ip: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)",
                ),
            ),
            (
                json!({"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 1, "protocol": "TCP", "name": "a"}, {"port": 2, "protocol": "TCP"}]}),
                Some("subsets[0].ports[1].name: Required value"),
            ),
        ] {
            let o = json!({"subsets": [subset]});
            let got = ROOM.validate(&Context::default(), &o, None);
            assert_eq!(got.first().map(ToString::to_string).as_deref(), want);
        }
    }
}
