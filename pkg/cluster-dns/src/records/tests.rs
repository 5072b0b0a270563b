use std::sync::Arc;

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::{
    Endpoint as SliceEndpoint, EndpointConditions, EndpointPort, EndpointSlice,
};
use kube::api::ObjectMeta;

use super::*;

/// A Service of namespace `ns`.
pub fn service(name: &str, spec: ServiceSpec) -> Service {
    let metadata =
        ObjectMeta { namespace: Some("ns".to_owned()), name: Some(name.to_owned()), ..Default::default() };
    Service { metadata, spec: Some(spec), ..Default::default() }
}

/// A spec with these addresses (`None` is headless) and ports `http` (TCP), `dns` (UDP) and one without a name.
pub fn spec(ips: &[&str]) -> ServiceSpec {
    let port = |name: Option<&str>, protocol: &str, port| ServicePort {
        name: name.map(str::to_owned),
        protocol: Some(protocol.to_owned()),
        port,
        ..Default::default()
    };
    ServiceSpec {
        cluster_ip: ips.first().map(|s| (*s).to_owned()),
        cluster_ips: Some(ips.iter().map(|s| (*s).to_owned()).collect()),
        ports: Some(vec![port(Some("HTTP"), "TCP", 80), port(Some("dns"), "UDP", 53), port(None, "TCP", 9)]),
        ..Default::default()
    }
}

/// A slice with port `http` on 8080, of endpoints: address, host name, ready.
pub fn slice(endpoints: &[(&str, Option<&str>, Option<bool>)]) -> Arc<EndpointSlice> {
    let endpoint = |(ip, host, ready): &(&str, Option<&str>, Option<bool>)| SliceEndpoint {
        addresses: vec![(*ip).to_owned()],
        hostname: host.map(str::to_owned),
        conditions: Some(EndpointConditions { ready: *ready, ..Default::default() }),
        ..Default::default()
    };
    let port = EndpointPort { name: Some("http".to_owned()), port: Some(8080), ..Default::default() };
    Arc::new(EndpointSlice {
        endpoints: Some(endpoints.iter().map(endpoint).collect()),
        ports: Some(vec![port]),
        ..Default::default()
    })
}

fn hosts(records: &ServiceRecords) -> Vec<&str> {
    records.endpoints.keys().map(String::as_str).collect()
}

#[test]
fn only_ready_endpoints_count_unless_all_are_asked_for() {
    let slices = [slice(&[
        ("10.0.0.1", None, Some(true)),
        ("10.0.0.2", Some("Web-0"), None),
        ("10.0.0.3", None, Some(false)),
        ("not-an-address", None, Some(true)),
    ])];
    let ready = of_service(&service("s", spec(&["None"])), &slices).unwrap();
    assert_eq!(hosts(&ready), ["10-0-0-1", "web-0"]);
    let all = ServiceSpec { publish_not_ready_addresses: Some(true), ..spec(&["None"]) };
    let all = of_service(&service("s", all), &slices).unwrap();
    assert_eq!(hosts(&all), ["10-0-0-1", "10-0-0-3", "web-0"]);
}

#[test]
fn a_service_without_an_address_yet_has_no_records() {
    assert_eq!(of_service(&service("s", spec(&[])), &[]), None);
    assert_eq!(of_service(&service("s", spec(&["None"])), &[]).unwrap().target, Target::Headless);
}

#[test]
fn an_endpoint_in_two_slices_counts_once() {
    let one = slice(&[("10.0.0.1", None, Some(true))]);
    let found = of_service(&service("s", spec(&["None"])), &[one.clone(), one]).unwrap();
    assert_eq!(found.endpoints["10-0-0-1"].len(), 1);
}

#[test]
fn addresses_are_forgotten_with_their_service() {
    let mut records = Records::default();
    let both = of_service(&service("s", spec(&["10.96.0.1"])), &[slice(&[("10.0.0.1", None, None)])]);
    let other = of_service(&service("t", spec(&["None"])), &[slice(&[("10.0.0.1", Some("h"), None)])]);
    assert!(records.set("ns", "s", both.clone()));
    assert!(!records.set("ns", "s", both), "the same again is no change");
    assert!(records.set("ns", "t", other));
    let names = |records: &Records, ip: &str| {
        let names = records.names_of(&ip.parse().unwrap()).iter();
        names.map(|n| format!("{}.{}", n.host.as_deref().unwrap_or("-"), n.service)).collect::<Vec<_>>()
    };
    assert_eq!(names(&records, "10.96.0.1"), ["-.s"]);
    assert_eq!(names(&records, "10.0.0.1"), ["10-0-0-1.s", "h.t"]);
    assert!(records.set("ns", "s", None));
    assert_eq!(names(&records, "10.96.0.1"), Vec::<String>::new());
    assert_eq!(names(&records, "10.0.0.1"), ["h.t"]);
    assert!(records.has_namespace("ns"));
    assert!(records.set("ns", "t", None));
    assert!(!records.has_namespace("ns"));
    assert_eq!(records.count(), 0);
}
