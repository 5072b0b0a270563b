//! Network policies.

use crate::Context;
use crate::checks::{self, legacy_cidr, texts};
use crate::metadata::{SelectorOptions, label_selector};
use crate::names;
use crate::prepare::Plan;
use crate::table::{age, name, selector};
use crate::value::{Get, Put};
use crate::{Kind, PLAIN};
use api::field::{Error, ErrorList, Path};
use api::{Value, json};

pub static ROOM: Kind = Kind {
    defaults,
    plan: Plan::GENERATION,
    validate,
    row: Some(|o| vec![name(o), selector(o.at("spec").at("podSelector")), age(o)]),
    ..PLAIN
};

fn defaults(o: &mut Value) {
    let spec = o.ensure("spec");
    for direction in ["ingress", "egress"] {
        for rule in spec.items(direction) {
            for port in rule.items("ports") {
                port.fill("protocol", "TCP");
            }
        }
    }
    if spec.len("policyTypes") == 0 {
        let egress = spec.len("egress") > 0;
        spec.set("policyTypes", if egress { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) });
    }
}

fn peers(o: &Value) -> impl Iterator<Item = &Value> {
    [("ingress", "from"), ("egress", "to")].into_iter().flat_map(move |(direction, side)| {
        o.at("spec").list(direction).iter().flat_map(move |rule| rule.list(side))
    })
}

fn validate(_: &Context<'_>, new: &Value, old: Option<&Value>, e: &mut ErrorList) {
    let mut stored: Vec<&str> = Vec::new();
    for peer in old.into_iter().flat_map(peers) {
        stored.push(peer.at("ipBlock").text("cidr"));
        stored.extend(peer.at("ipBlock").texts("except"));
    }
    stored.retain(|cidr| !cidr.is_empty());
    let (spec, at) = (new.at("spec"), Path::new("spec"));
    label_selector(spec.at("podSelector"), SelectorOptions::default(), &at.child("podSelector"), e);
    for (direction, side) in [("ingress", "from"), ("egress", "to")] {
        for (i, rule) in spec.list(direction).iter().enumerate() {
            let at = at.child(direction).index(i);
            for (j, port) in rule.list("ports").iter().enumerate() {
                validate_port(port, &at.child("ports").index(j), e);
            }
            for (j, peer) in rule.list(side).iter().enumerate() {
                validate_peer(peer, &stored, &at.child(side).index(j), e);
            }
        }
    }
    let at = at.child("policyTypes");
    if spec.len("policyTypes") > 2 {
        let text = "may not specify more than two policyTypes";
        return e.push(Error::invalid(&at, spec.at("policyTypes").clone(), text));
    }
    for (i, kind) in spec.texts("policyTypes").enumerate() {
        checks::listed(kind, &["Ingress", "Egress"], &at.index(i), e);
    }
}

fn validate_port(port: &Value, at: &Path, e: &mut ErrorList) {
    if let Some(protocol) = port.opt_text("protocol") {
        checks::listed(protocol, &["TCP", "UDP", "SCTP"], &at.child("protocol"), e);
    }
    let end = port.opt_int("endPort");
    let at_end = at.child("endPort");
    match port.at("port") {
        Value::Null => {
            if let Some(n) = end {
                e.push(Error::invalid(&at_end, n, "may not be specified when `port` is not specified"));
            }
        }
        Value::String(name) => {
            if let Some(n) = end {
                e.push(Error::invalid(&at_end, n, "may not be specified when `port` is non-numeric"));
            }
            texts(name.as_str(), names::port_name(name), &at.child("port"), e);
        }
        number => {
            let n = number.as_i64().unwrap_or_default();
            texts(n, names::port_number(n), &at.child("port"), e);
            if let Some(last) = end {
                if last < n {
                    e.push(Error::invalid(&at_end, n, "must be greater than or equal to `port`"));
                }
                texts(last, names::port_number(last), &at_end, e);
            }
        }
    }
}

fn validate_peer(peer: &Value, stored: &[&str], at: &Path, e: &mut ErrorList) {
    let mut found = 0;
    for field in ["podSelector", "namespaceSelector"] {
        if peer.has(field) {
            found += 1;
            label_selector(peer.at(field), SelectorOptions::default(), &at.child(field), e);
        }
    }
    let block = peer.at("ipBlock");
    if !block.is_null() {
        validate_block(block, stored, &at.child("ipBlock"), e);
        if found > 0 {
            e.push(Error::forbidden(at, "may not specify both ipBlock and another peer"));
        }
    } else if found == 0 {
        e.push(Error::required(at, "must specify a peer"));
    }
}

fn validate_block(block: &Value, stored: &[&str], at: &Path, e: &mut ErrorList) {
    if !checks::required(block, "cidr", at, e) {
        return;
    }
    let Some(whole) = legacy_cidr(block.text("cidr"), stored, &at.child("cidr"), e) else { return };
    for (i, text) in block.texts("except").enumerate() {
        let at = at.child("except").index(i);
        let Some(part) = legacy_cidr(text, stored, &at, e) else { continue };
        if !whole.contains(&part.addr()) || whole.prefix_len() >= part.prefix_len() {
            e.push(Error::invalid(&at, text, "must be a strict subset of `cidr`"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Room;

    #[test]
    fn checked() {
        let peer = |peer: Value| json!({"ingress": [{"from": [peer]}]});
        for (spec, want) in [
            (peer(json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}})), ""),
            (peer(json!({})), "spec.ingress[0].from[0]: Required value: must specify a peer"),
            (
                peer(json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16"]}})),
                "spec.ingress[0].from[0].ipBlock.except[0]: Invalid value: \"11.0.0.0/16\": must be a strict subset of `cidr`",
            ),
            (
                peer(json!({"podSelector": {}, "ipBlock": {"cidr": "10.0.0.0/8"}})),
                "spec.ingress[0].from[0]: Forbidden: may not specify both ipBlock and another peer",
            ),
            (json!({"policyTypes": ["Both"]}), "spec.policyTypes[0]: Unsupported value: \"Both\""),
            (
                json!({"egress": [{"ports": [{"port": 80, "endPort": 79}]}]}),
                "spec.egress[0].ports[0].endPort: Invalid value: 80: must be greater than or equal to `port`",
            ),
        ] {
            let mut o = json!({"spec": spec});
            defaults(&mut o);
            let got = ROOM.validate(&Context::default(), &o, None);
            let first = got.first().map(ToString::to_string).unwrap_or_default();
            assert!(first.starts_with(want) && first.is_empty() == want.is_empty(), "{first}");
        }
    }
}
