//! Services.

mod prepare;
mod validate;

pub use validate::address_errors;

use crate::metadata::{Checks, Names};
use crate::prepare::Plan;
use crate::table::{NONE, age, labels, load_balancer, name, or_none};
use crate::value::{Get, Put};
use crate::warnings::{Warnings, address};
use crate::{Context, Kind, PLAIN};
use api::{Value, json};

pub static ROOM: Kind = Kind {
    names: Names::Label,
    defaults,
    plan: Plan::STATUS,
    prepare: prepare::service,
    validate: validate::service,
    warnings,
    row: Some(row),
    create_on_update: true,
    metadata_checks: Checks::BOTH,
    ..PLAIN
};

fn warnings(cx: &Context<'_>, new: &Value, _: Option<&Value>) -> Warnings {
    let mut out = Warnings::new();
    if !cx.subresource.is_empty() {
        return out;
    }
    let spec = new.at("spec");
    const HINTS: &str = "service.kubernetes.io/topology-aware-hints";
    if new.at("metadata").at("annotations").has(HINTS) {
        out.push(format!(
            "annotation {HINTS} is deprecated, please use service.kubernetes.io/topology-mode instead"
        ));
    }
    let (kind, external) = (spec.text("type"), spec.len("externalIPs") > 0);
    let headless = kind == "ClusterIP" && spec.text("clusterIP") == "None";
    if headless {
        for (ignored, name) in [
            (spec.len("loadBalancerIP") > 0, "loadBalancerIP"),
            (external, "externalIPs"),
            (spec.text("sessionAffinity") != "None", "SessionAffinity"),
        ] {
            if ignored {
                out.push(format!("spec.{name} is ignored for headless services"));
            }
        }
    } else {
        for (i, ip) in spec.texts("clusterIPs").enumerate() {
            address(ip, || format!("spec.clusterIPs[{i}]"), &mut out);
        }
    }
    for (i, ip) in spec.texts("externalIPs").enumerate() {
        address(ip, || format!("spec.externalIPs[{i}]"), &mut out);
    }
    let by_name = kind == "ExternalName";
    if external && !headless && !by_name {
        out.push(
            "spec.externalIPs is deprecated and may no longer be implemented in some clusters".to_owned(),
        );
    }
    if spec.len("loadBalancerIP") > 0 {
        address(spec.text("loadBalancerIP"), || "spec.loadBalancerIP".to_owned(), &mut out);
    }
    if by_name && external {
        out.push("spec.externalIPs is ignored when spec.type is \"ExternalName\"".to_owned());
    }
    if !by_name && spec.len("externalName") > 0 {
        out.push("spec.externalName is ignored when spec.type is not \"ExternalName\"".to_owned());
    }
    if spec.text("trafficDistribution") == "PreferClose" {
        let text = "spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"";
        out.push(text.to_owned());
    }
    out
}

fn defaults(o: &mut Value) {
    let spec = o.ensure("spec");
    affinity(spec);
    spec.fill_zero("type", "ClusterIP");
    for port in spec.items("ports") {
        port.fill_zero("protocol", "TCP");
        let number = port.int("port");
        port.fill_zero("targetPort", number);
    }
    let kind = spec.text("type").to_owned();
    let outside = matches!(kind.as_str(), "NodePort" | "LoadBalancer")
        || (kind == "ClusterIP" && spec.len("externalIPs") > 0);
    if outside {
        spec.fill_zero("externalTrafficPolicy", "Cluster");
    }
    if matches!(kind.as_str(), "NodePort" | "LoadBalancer" | "ClusterIP") {
        spec.fill("internalTrafficPolicy", "Cluster");
    }
    if kind == "LoadBalancer" {
        spec.fill("allocateLoadBalancerNodePorts", true);
        if let Some(lb) = o.sub("status").and_then(|s| s.sub("loadBalancer")) {
            for ingress in lb.items("ingress").filter(|i| !i.text("ip").is_empty()) {
                ingress.fill("ipMode", "VIP");
            }
        }
    }
}

fn affinity(spec: &mut Value) {
    spec.fill_zero("sessionAffinity", "None");
    match spec.text("sessionAffinity") {
        "None" => {
            spec.unset("sessionAffinityConfig");
        }
        "ClientIP" if spec.at("sessionAffinityConfig").at("clientIP").at("timeoutSeconds").is_null() => {
            spec.set("sessionAffinityConfig", json!({"clientIP": {"timeoutSeconds": 10800}}));
        }
        _ => {}
    }
}

fn row(o: &Value) -> Vec<Value> {
    let spec = o.at("spec");
    let ports: Vec<String> = spec
        .list("ports")
        .iter()
        .map(|p| match p.int("nodePort") {
            n if n > 0 => format!("{}:{n}/{}", p.int("port"), p.text("protocol")),
            _ => format!("{}/{}", p.int("port"), p.text("protocol")),
        })
        .collect();
    vec![
        name(o),
        spec.text("type").into(),
        spec.texts("clusterIPs").next().unwrap_or(NONE).into(),
        external(o).into(),
        or_none(&ports.join(",")),
        age(o),
        labels(spec.at("selector")).into(),
    ]
}

fn external(o: &Value) -> String {
    let spec = o.at("spec");
    let listed: Vec<&str> = spec.texts("externalIPs").collect();
    let listed = listed.join(",");
    match spec.text("type") {
        "ClusterIP" | "NodePort" if listed.is_empty() => NONE.to_owned(),
        "ClusterIP" | "NodePort" => listed,
        "LoadBalancer" => match (load_balancer(o.at("status")), listed) {
            (lb, ips) if lb.is_empty() && ips.is_empty() => "<pending>".to_owned(),
            (lb, ips) if ips.is_empty() => lb,
            (lb, ips) if lb.is_empty() => ips,
            (lb, ips) => format!("{lb},{ips}"),
        },
        "ExternalName" => spec.text("externalName").to_owned(),
        _ => "<unknown>".to_owned(),
    }
}
