//! One question to one answer, from records alone.
//!
//! The names are those of the DNS-based service discovery specification, version 1.1.0. A name that exists and lacks the
//! asked type is an empty answer; so is a name that only leads to others, as `svc.cluster.local` does.

mod names;

use std::net::IpAddr;

use hickory_proto::rr::rdata::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use crate::records::{Endpoint, Port, Records, ServiceRecords, Target};
pub use names::Zone;
use names::{address_of_label, labels_of, reverse_address};

/// The specification's version that the zone tells.
const SCHEMA_VERSION: &str = "1.1.0";

/// The answer to a question.
#[derive(Debug, Default, PartialEq)]
pub struct Answer {
    pub outcome: Outcome,
    pub answers: Vec<Record>,
    pub additionals: Vec<Record>,
    /// The zone's SOA, where there is nothing to tell.
    pub authorities: Vec<Record>,
}

/// How a question ends.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Outcome {
    /// The name exists.
    #[default]
    Found,
    /// The name does not exist.
    Missing,
    /// The name is not ours: somebody else has to be asked.
    Elsewhere,
    /// The answer's alias leads out of the zone: this name has to be asked for as well.
    Alias(Name),
}

/// Answers a question about any name.
pub fn query(records: &Records, zone: &Zone, name: &Name, kind: RecordType) -> Answer {
    let labels = labels_of(name);
    if let Some(own) = zone.strip(&labels) {
        return in_zone(records, zone, name, kind, own);
    }
    match reverse_address(&labels).map(|ip| records.names_of(&ip)) {
        Some(names) if !names.is_empty() => {
            let found = names.iter().filter_map(|n| {
                let host = n.host.iter().map(String::as_str);
                zone.name(host.chain([n.service.as_str(), n.namespace.as_str(), "svc"]))
            });
            let pointers = found.map(|n| RData::PTR(PTR(n))).collect();
            Found::Records { data: pointers, additionals: Vec::new() }.answer(records, zone, name, kind)
        }
        _ => Answer { outcome: Outcome::Elsewhere, ..Answer::default() },
    }
}

/// What a name has, before the asked type decides.
enum Found {
    Records {
        data: Vec<RData>,
        additionals: Vec<Record>,
    },
    /// Exists, holds nothing.
    Empty,
    Missing,
    Alias(String),
}

impl Found {
    fn data(data: Vec<RData>) -> Found {
        Found::Records { data, additionals: Vec::new() }
    }

    fn addresses(ips: impl IntoIterator<Item = IpAddr>) -> Found {
        Found::data(ips.into_iter().map(address).collect())
    }

    fn exists_if(exists: bool) -> Found {
        if exists { Found::Empty } else { Found::Missing }
    }

    fn answer(self, records: &Records, zone: &Zone, name: &Name, kind: RecordType) -> Answer {
        let (data, additionals) = match self {
            Found::Missing => return negative(records, zone, Outcome::Missing),
            Found::Alias(target) => return alias(records, zone, name, kind, &target),
            Found::Empty => (Vec::new(), Vec::new()),
            Found::Records { data, additionals } => (data, additionals),
        };
        let wanted = |d: &RData| kind == RecordType::ANY || d.record_type() == kind;
        let answers: Vec<Record> =
            data.into_iter().filter(wanted).map(|d| Record::from_rdata(name.clone(), zone.ttl, d)).collect();
        if answers.is_empty() {
            return negative(records, zone, Outcome::Found);
        }
        let has_srv = answers.iter().any(|r| r.record_type() == RecordType::SRV);
        let additionals = if has_srv { additionals } else { Vec::new() };
        Answer { outcome: Outcome::Found, answers, additionals, authorities: Vec::new() }
    }
}

fn in_zone(records: &Records, zone: &Zone, name: &Name, kind: RecordType, own: &[String]) -> Answer {
    let own: Vec<&str> = own.iter().map(String::as_str).collect();
    let found = match own.as_slice() {
        [] => Found::data(vec![RData::SOA(soa(records, zone)), RData::NS(NS(zone.name_server.clone()))]),
        ["dns-version"] => Found::data(vec![RData::TXT(TXT::new(vec![SCHEMA_VERSION.to_owned()]))]),
        ["svc" | "pod" | "dns"] => Found::Empty,
        ["ns", "dns"] => name_server(records, zone),
        [ns, "svc" | "pod"] => Found::exists_if(records.has_namespace(ns)),
        [pod, ns, "pod"] => pod_address(records, ns, pod),
        [rest @ .., service, ns, "svc"] => match records.service(ns, service) {
            Some(found) => in_service(found, zone, (service, ns), rest, kind),
            None => Found::Missing,
        },
        _ => Found::Missing,
    };
    found.answer(records, zone, name, kind)
}

/// The zone's name server is the Service that leads to us.
fn name_server(records: &Records, zone: &Zone) -> Found {
    match records.service(&zone.own_service.0, &zone.own_service.1) {
        Some(ServiceRecords { target: Target::Addresses { ips, .. }, .. }) => {
            Found::addresses(ips.iter().copied())
        }
        _ => Found::Empty,
    }
}

fn pod_address(records: &Records, namespace: &str, label: &str) -> Found {
    match address_of_label(label) {
        Some(ip) if records.has_namespace(namespace) => Found::addresses([ip]),
        _ => Found::Missing,
    }
}

/// A name of a Service or below it.
fn in_service(
    service: &ServiceRecords,
    zone: &Zone,
    (name, namespace): (&str, &str),
    rest: &[&str],
    kind: RecordType,
) -> Found {
    let at = |host: Option<&str>| zone.name(host.into_iter().chain([name, namespace, "svc"]));
    // A headless Service without a ready endpoint does not exist, says the specification, and nothing below it.
    let absent = service.target == Target::Headless && service.endpoints.is_empty();
    match (rest, &service.target) {
        ([], Target::External(target)) => Found::Alias(target.clone()),
        (_, Target::External(_)) => Found::Missing,
        _ if absent => Found::Missing,
        ([], _) => {
            let Found::Records { mut data, additionals } = services(service, zone, &at, kind, |_| true)
            else {
                return Found::Empty;
            };
            data.extend(service_ips(service).map(address));
            Found::Records { data, additionals }
        }
        ([host], _) => match (host.strip_prefix('_'), service.endpoints.get(*host)) {
            (Some(protocol), _) => {
                Found::exists_if(has_port(service, |p| p.protocol == protocol && !p.name.is_empty()))
            }
            (None, Some(endpoints)) => Found::addresses(endpoints.iter().map(|e| e.ip)),
            (None, None) => Found::Missing,
        },
        ([port, protocol], _) => {
            let (Some(port), Some(protocol)) = (port.strip_prefix('_'), protocol.strip_prefix('_')) else {
                return Found::Missing;
            };
            let fits = |p: &Port| !p.name.is_empty() && p.name == port && p.protocol == protocol;
            match has_port(service, fits) {
                true => services(service, zone, &at, kind, fits),
                false => Found::Missing,
            }
        }
        _ => Found::Missing,
    }
}

fn service_ips(service: &ServiceRecords) -> impl Iterator<Item = IpAddr> {
    let (own, endpoints) = match &service.target {
        Target::Addresses { ips, .. } => (ips.as_slice(), None),
        _ => (&[][..], Some(service.endpoints.values().flatten().map(|e| e.ip))),
    };
    own.iter().copied().chain(endpoints.into_iter().flatten())
}

fn has_port(service: &ServiceRecords, fits: impl Fn(&Port) -> bool) -> bool {
    match &service.target {
        Target::Addresses { ports, .. } => ports.iter().any(fits),
        _ => service.endpoints.values().flatten().any(|e| e.ports.iter().any(&fits)),
    }
}

/// The SRV records of a Service's ports that fit, with the addresses they lead to. Only made when asked for: a headless
/// Service has one for each endpoint.
fn services(
    service: &ServiceRecords,
    zone: &Zone,
    at: &dyn Fn(Option<&str>) -> Option<Name>,
    kind: RecordType,
    fits: impl Fn(&Port) -> bool,
) -> Found {
    if !matches!(kind, RecordType::SRV | RecordType::ANY) {
        return Found::data(Vec::new());
    }
    let (mut data, mut additionals) = (Vec::new(), Vec::new());
    let mut add = |target: Option<Name>, ports: Vec<&Port>, ips: &mut dyn Iterator<Item = IpAddr>| {
        let Some(target) = target.filter(|_| !ports.is_empty()) else { return };
        data.extend(ports.iter().map(|p| (p.number, target.clone())));
        additionals.extend(ips.map(|ip| Record::from_rdata(target.clone(), zone.ttl, address(ip))));
    };
    match &service.target {
        Target::Addresses { ips, ports } => {
            add(at(None), ports.iter().filter(|p| fits(p)).collect(), &mut ips.iter().copied());
        }
        _ => {
            for (host, endpoints) in &service.endpoints {
                add(at(Some(host)), ports_of(endpoints, &fits), &mut endpoints.iter().map(|e| e.ip));
            }
        }
    }
    let weight = u16::try_from(100 / data.len().max(1)).unwrap_or(1).max(1);
    let data = data.into_iter().map(|(port, target)| RData::SRV(SRV::new(0, weight, port, target))).collect();
    Found::Records { data, additionals }
}

/// A host's ports, each once however many addresses it has.
fn ports_of<'a>(endpoints: &'a [Endpoint], fits: &dyn Fn(&Port) -> bool) -> Vec<&'a Port> {
    let mut ports: Vec<&Port> = Vec::new();
    for port in endpoints.iter().flat_map(|e| e.ports.iter()).filter(|p| fits(p)) {
        if !ports.contains(&port) {
            ports.push(port);
        }
    }
    ports
}

/// An alias and, if it leads to a name of ours, that name's answer. One step is enough for two Services; a longer chain
/// of them is left to the client, which keeps a circle of aliases from being one of ours.
fn alias(records: &Records, zone: &Zone, name: &Name, kind: RecordType, target: &str) -> Answer {
    let Ok(mut target) = Name::from_ascii(target) else {
        return negative(records, zone, Outcome::Found);
    };
    target.set_fqdn(true);
    let link = Record::from_rdata(name.clone(), zone.ttl, RData::CNAME(CNAME(target.clone())));
    let only = |outcome| Answer { outcome, answers: vec![link.clone()], ..Answer::default() };
    if matches!(kind, RecordType::CNAME | RecordType::ANY) {
        return only(Outcome::Found);
    }
    let labels = labels_of(&target);
    let Some(own) = zone.strip(&labels) else { return only(Outcome::Alias(target)) };
    let own: Vec<&str> = own.iter().map(String::as_str).collect();
    if let [service, ns, "svc"] = own.as_slice()
        && matches!(records.service(ns, service).map(|s| &s.target), Some(Target::External(_)))
    {
        return only(Outcome::Found);
    }
    let mut answer = query(records, zone, &target, kind);
    answer.answers.insert(0, link);
    answer
}

fn negative(records: &Records, zone: &Zone, outcome: Outcome) -> Answer {
    let soa = Record::from_rdata(zone.origin.clone(), zone.ttl, RData::SOA(soa(records, zone)));
    Answer { outcome, authorities: vec![soa], ..Answer::default() }
}

fn soa(records: &Records, zone: &Zone) -> SOA {
    SOA::new(zone.name_server.clone(), zone.contact.clone(), records.serial, 7200, 1800, 86400, zone.ttl)
}

fn address(ip: IpAddr) -> RData {
    match ip {
        IpAddr::V4(ip) => RData::A(A(ip)),
        IpAddr::V6(ip) => RData::AAAA(AAAA(ip)),
    }
}

#[cfg(test)]
pub(crate) mod tests;
