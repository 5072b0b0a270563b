//! Fields of a service that come from each other, from the stored object, or from its type.

use crate::value::{Get, Put};
use crate::{Context, Operation};
use api::{Value, json};

fn has_address(spec: &Value) -> bool {
    spec.text("type") != "ExternalName"
}

fn has_node_ports(spec: &Value) -> bool {
    matches!(spec.text("type"), "NodePort" | "LoadBalancer")
}

/// Traffic that stays on the node that it reaches needs a port to ask which nodes have endpoints.
pub fn needs_health_port(spec: &Value) -> bool {
    spec.text("type") == "LoadBalancer" && spec.text("externalTrafficPolicy") == "Local"
}

/// Reachable from outside of the cluster.
pub fn is_external(spec: &Value) -> bool {
    has_node_ports(spec) || (spec.text("type") == "ClusterIP" && spec.len("externalIPs") > 0)
}

pub fn service(op: Operation, cx: &Context<'_>, new: &mut Value, old: Option<&Value>) {
    if !cx.subresource.is_empty() {
        return;
    }
    let spec = new.ensure("spec");
    if !has_address(spec) {
        // There is no address within the cluster to have a policy.
        spec.unset("internalTrafficPolicy");
    }
    match old.filter(|_| op == Operation::Update) {
        None => {
            let address = spec.text("clusterIP").to_owned();
            if !address.is_empty() && spec.len("clusterIPs") == 0 {
                spec.set("clusterIPs", json!([address]));
            }
        }
        Some(old) => {
            let was = old.at("spec");
            keep_allocated(spec, was);
            drop_what_the_type_has_no_use_for(spec, was);
            follow_address(spec, was);
            if spec.text("type") != "LoadBalancer"
                && let Some(status) = new.sub("status")
            {
                status.set("loadBalancer", json!({}));
            }
        }
    }
}

/// What was allocated and is not mentioned stays.
fn keep_allocated(spec: &mut Value, was: &Value) {
    if has_address(was) && has_address(spec) {
        if spec.text("clusterIP").is_empty() {
            spec.copy_from(was, "clusterIP");
        }
        if spec.len("clusterIPs") == 0 {
            spec.copy_from(was, "clusterIPs");
        }
    }
    if has_node_ports(was) && has_node_ports(spec) {
        let number = |list: &[Value], n: i64| list.iter().any(|p| p.int("nodePort") == n);
        let before = was.list("ports");
        let used: Vec<i64> = before
            .iter()
            .map(|p| p.int("nodePort"))
            .filter(|n| *n != 0 && number(spec.list("ports"), *n))
            .collect();
        for port in spec.items("ports").filter(|p| p.int("nodePort") == 0) {
            let same = before.iter().rfind(|o| o.text("name") == port.text("name"));
            if let Some(n) = same.map(|o| o.int("nodePort")).filter(|n| *n != 0 && !used.contains(n)) {
                port.set("nodePort", n);
            }
        }
    }
    if needs_health_port(was) && needs_health_port(spec) && spec.int("healthCheckNodePort") == 0 {
        spec.copy_from(was, "healthCheckNodePort");
    }
}

/// A client that changes only the type means that what came with the old one goes.
fn drop_what_the_type_has_no_use_for(spec: &mut Value, was: &Value) {
    let unchanged = |spec: &Value, field: &str| spec.at(field) == was.at(field);
    let drop = |spec: &mut Value, field: &str| {
        if unchanged(spec, field) {
            spec.unset(field);
        }
    };
    if has_address(was) && !has_address(spec) {
        if unchanged(spec, "clusterIP") && unchanged(spec, "clusterIPs") {
            spec.unset("clusterIP");
            spec.unset("clusterIPs");
        }
        drop(spec, "ipFamilies");
        drop(spec, "ipFamilyPolicy");
    }
    if has_node_ports(was) && !has_node_ports(spec) {
        let before: Vec<i64> = was.list("ports").iter().map(|p| p.int("nodePort")).collect();
        let known = |p: &Value| p.int("nodePort") == 0 || before.contains(&p.int("nodePort"));
        if spec.list("ports").iter().all(known) {
            for port in spec.items("ports") {
                port.unset("nodePort");
            }
        }
    }
    if needs_health_port(was) && !needs_health_port(spec) {
        drop(spec, "healthCheckNodePort");
    }
    if was.text("type") == "LoadBalancer" && spec.text("type") != "LoadBalancer" {
        drop(spec, "allocateLoadBalancerNodePorts");
        drop(spec, "loadBalancerClass");
    }
    if is_external(was) && !is_external(spec) {
        drop(spec, "externalTrafficPolicy");
    }
}

/// A client that knows only the single address changes the list with it.
fn follow_address(spec: &mut Value, was: &Value) {
    if spec.text("clusterIP") != was.text("clusterIP") && spec.at("clusterIPs") == was.at("clusterIPs") {
        match spec.text("clusterIP").to_owned() {
            address if address.is_empty() => {
                spec.unset("clusterIPs");
            }
            address => spec.set("clusterIPs", json!([address])),
        }
    }
}
