//! Plans of typical Services, as text.

use super::*;
use crate::model::{endpoints, service_ports};
use serde_json::{Value, json};

fn node() -> Node {
    Node {
        name: "me".into(),
        zone: "za".into(),
        ip: "192.0.2.10".parse().ok(),
        local: LocalDetector::Cidrs(vec!["10.244.0.0/16".parse().unwrap()]),
        mark: 0x4000,
    }
}

fn service(spec: Value, balancer: &[&str]) -> k8s_openapi::api::core::v1::Service {
    let ingress: Vec<Value> = balancer.iter().map(|ip| json!({"ip": ip})).collect();
    serde_json::from_value(json!({"metadata": {"namespace": "ns", "name": "web"}, "spec": spec,
        "status": {"loadBalancer": {"ingress": ingress}}}))
    .unwrap()
}

/// Endpoints by address; those of node `me` are local.
fn slice(addresses: &[(&str, &str)]) -> k8s_openapi::api::discovery::v1::EndpointSlice {
    let list: Vec<Value> = addresses
        .iter()
        .map(|(ip, node)| json!({"addresses": [ip], "nodeName": node, "conditions": {"ready": true}}))
        .collect();
    serde_json::from_value(json!({"metadata": {}, "addressType": "IPv4", "endpoints": list,
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}]}))
    .unwrap()
}

fn plan_of(spec: Value, balancer: &[&str], addresses: &[(&str, &str)]) -> Plan {
    let (service, slice) = (service(spec, balancer), slice(addresses));
    let ports: Vec<_> = service_ports(&service, Family::V4)
        .into_iter()
        .map(|p| {
            let e = endpoints([&slice], &p, Family::V4, "me");
            (p, e)
        })
        .collect();
    plan(&ports, Family::V4, &node())
}

fn spec(extra: Value) -> Value {
    let mut spec = json!({"clusterIP": "10.96.0.5", "clusterIPs": ["10.96.0.5"], "type": "ClusterIP",
        "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]});
    for (k, v) in extra.as_object().unwrap() {
        spec[k] = v.clone();
    }
    spec
}

fn value<'a>(plan: &'a Plan, container: Container, key: &str) -> Option<&'a str> {
    plan.elements.get(&(container, key.to_owned())).map(String::as_str)
}

/// The rules of the only chain with this prefix.
fn chain<'a>(plan: &'a Plan, prefix: &str) -> &'a [String] {
    let mut found = plan.chains.iter().filter(|(n, _)| n.starts_with(prefix));
    let rules = found.next().map_or(&[][..], |(_, r)| r);
    assert!(found.next().is_none(), "several {prefix}");
    rules
}

const TCP80: &str = "10.96.0.5 . tcp . 80";

#[test]
fn cluster_ip_goes_to_a_random_endpoint() {
    let plan = plan_of(spec(json!({})), &[], &[("10.244.0.2", "me"), ("10.244.1.3", "other")]);
    assert!(value(&plan, Container::ServiceIps, TCP80).unwrap().starts_with("goto service-"));
    assert_eq!(
        chain(&plan, "service-"),
        [
            "meta l4proto tcp dnat ip addr . port to numgen random mod 2 map { 0 : 10.244.0.2 . 8080, 1 : 10.244.1.3 . 8080 }"
        ]
    );
    assert_eq!(value(&plan, Container::Hairpin, "10.244.0.2 . 10.244.0.2 . tcp . 8080"), Some(""));
    assert_eq!(value(&plan, Container::Hairpin, "10.244.1.3 . 10.244.1.3 . tcp . 8080"), None);
    assert_eq!(plan.chains.len(), 1);
}

#[test]
fn without_endpoints_packets_are_rejected() {
    let plan = plan_of(
        spec(json!({"type": "NodePort", "ports": [{"name": "http", "port": 80, "nodePort": 30080}]})),
        &[],
        &[],
    );
    assert_eq!(value(&plan, Container::NoEndpointServices, TCP80), Some("goto reject-chain"));
    assert_eq!(value(&plan, Container::NoEndpointNodePorts, "tcp . 30080"), Some("goto reject-chain"));
    assert!(plan.chains.is_empty() && value(&plan, Container::ClusterIps, "10.96.0.5") == Some(""));
}

#[test]
fn external_traffic_policy_local_keeps_to_the_node_except_for_its_own_pods() {
    let extra = json!({"type": "NodePort", "externalTrafficPolicy": "Local", "externalIPs": ["198.51.100.1"],
        "ports": [{"name": "http", "port": 80, "nodePort": 30080}]});
    let plan = plan_of(spec(extra.clone()), &[], &[("10.244.0.2", "me"), ("10.244.1.3", "other")]);
    let rules = chain(&plan, "external-");
    assert!(rules[0].starts_with("ip saddr { 10.244.0.0/16 } goto service-"), "{rules:?}");
    assert_eq!(rules[1], "fib saddr type local mark set mark or 0x00004000");
    assert!(
        rules[2].starts_with("fib saddr type local goto service-") && rules[3].starts_with("goto local-")
    );
    assert!(chain(&plan, "local-")[0].contains("mod 1 map { 0 : 10.244.0.2 . 8080 }"));

    let elsewhere = plan_of(spec(extra), &[], &[("10.244.1.3", "other")]);
    assert_eq!(value(&elsewhere, Container::NoEndpointNodePorts, "tcp . 30080"), Some("drop"));
    assert_eq!(value(&elsewhere, Container::NoEndpointServices, "198.51.100.1 . tcp . 80"), Some("drop"));
    assert!(
        value(&elsewhere, Container::ServiceNodePorts, "tcp . 30080").unwrap().starts_with("goto external-")
    );
    assert_eq!((elsewhere.no_local_internal, elsewhere.no_local_external), (0, 1));
}

#[test]
fn load_balancers_have_a_firewall() {
    let extra =
        json!({"type": "LoadBalancer", "loadBalancerSourceRanges": ["192.0.2.0/24", "2001:db8::/32"]});
    let plan = plan_of(spec(extra), &["198.51.100.9"], &[("10.244.0.2", "me")]);
    assert_eq!(chain(&plan, "firewall-"), ["ip saddr != { 192.0.2.0/24, 198.51.100.9 } drop"]);
    assert!(
        value(&plan, Container::FirewallIps, "198.51.100.9 . tcp . 80")
            .unwrap()
            .starts_with("goto firewall-")
    );
    assert_eq!(chain(&plan, "external-")[0], "mark set mark or 0x00004000");
}

#[test]
fn affinity_has_a_chain_and_a_set_for_each_endpoint() {
    let extra =
        json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}}});
    let plan = plan_of(spec(extra), &[], &[("10.244.0.2", "me"), ("10.244.1.3", "other")]);
    assert_eq!((plan.affinity.len(), plan.affinity.values().max()), (2, Some(&60)));
    let rules = chain(&plan, "service-");
    assert!(
        rules[0].starts_with("ip saddr @affinity-")
            && rules[2].starts_with("numgen random mod 2 vmap { 0 : goto endpoint-")
    );
    let endpoint = plan.chains.iter().find(|(n, _)| n.contains("10.244.1.3")).unwrap().1;
    assert!(
        endpoint[0].starts_with("update @affinity-")
            && endpoint[1] == "meta l4proto tcp dnat to 10.244.1.3:8080"
    );
}

#[test]
fn headless_external_names_and_other_families_are_left_alone() {
    for extra in [json!({"clusterIP": "None", "clusterIPs": ["None"]}), json!({"type": "ExternalName"})] {
        assert_eq!(plan_of(spec(extra), &[], &[("10.244.0.2", "me")]), Plan::default());
    }
    assert!(service_ports(&service(spec(json!({})), &[]), Family::V6).is_empty());
    let bad = plan_of(spec(json!({})), &[], &[("127.0.0.1", "me"), ("224.0.0.1", "me")]);
    assert_eq!(value(&bad, Container::NoEndpointServices, TCP80), Some("goto reject-chain"));
}
