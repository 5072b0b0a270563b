//! The fields of a Service that depend on each other: type, cluster IPs, families, node ports.

use super::{Pools, addresses, invalid, spec_path};
use crate::write::Target;
use api::field::Error;
use api::status::Result;
use api::{Value, json};
use std::net::IpAddr;

pub fn kind(service: &Value) -> &str {
    service["spec"]["type"].as_str().unwrap_or("ClusterIP")
}

pub fn list(service: &Value, field: &str) -> Vec<String> {
    let values = service["spec"][field].as_array();
    values.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

pub fn set_list(service: &mut Value, field: &str, list: &[String]) {
    if list.is_empty() { unset(service, field) } else { service["spec"][field] = json!(list) }
}

pub fn unset(service: &mut Value, field: &str) {
    if let Some(spec) = service["spec"].as_object_mut() {
        spec.remove(field);
    }
}

pub fn cluster_ip(service: &Value) -> &str {
    service["spec"]["clusterIP"].as_str().unwrap_or_default()
}

pub fn is_headless(service: &Value) -> bool {
    cluster_ip(service) == "None"
}

pub fn needs_node_ports(service: &Value) -> bool {
    match kind(service) {
        "NodePort" => true,
        "LoadBalancer" => service["spec"]["allocateLoadBalancerNodePorts"] != Value::Bool(false),
        _ => false,
    }
}

/// A load balancer that keeps the client's address asks each node whether it has endpoints.
pub fn needs_health_port(service: &Value) -> bool {
    kind(service) == "LoadBalancer" && service["spec"]["externalTrafficPolicy"] == "Local"
}

/// `clusterIP` and `clusterIPs[0]` are one: whichever the client changed decides.
pub fn normalize(new: &mut Value, old: Option<&Value>) {
    let ip = cluster_ip(new).to_owned();
    let ips = list(new, "clusterIPs");
    let Some(old) = old else {
        if !ip.is_empty() && ips.is_empty() {
            set_list(new, "clusterIPs", &[ip]);
        }
        return;
    };
    let (was, were) = (cluster_ip(old).to_owned(), list(old, "clusterIPs"));
    if ip != was && ips == were {
        if ip.is_empty() {
            unset(new, "clusterIPs");
        } else {
            set_list(new, "clusterIPs", &[ip]);
        }
    } else if ip == was && ips != were && !were.is_empty() && ips.is_empty() {
        unset(new, "clusterIP");
    } else if ips.is_empty() && !ip.is_empty() && !were.is_empty() && ip == was {
        set_list(new, "clusterIPs", &were);
    }
}

/// What was allocated stays, though the client leaves it out.
pub fn carry_over(new: &mut Value, old: &Value) {
    if kind(old) != "ExternalName" && kind(new) != "ExternalName" {
        if cluster_ip(new).is_empty() && !cluster_ip(old).is_empty() {
            new["spec"]["clusterIP"] = old["spec"]["clusterIP"].clone();
        }
        if list(new, "clusterIPs").is_empty() && !list(old, "clusterIPs").is_empty() {
            new["spec"]["clusterIPs"] = old["spec"]["clusterIPs"].clone();
        }
    }
    if needs_node_ports(old) && needs_node_ports(new) {
        carry_node_ports(new, old);
    }
    let zero = |v: &Value| v["spec"]["healthCheckNodePort"].as_i64().unwrap_or(0) == 0;
    if needs_health_port(old) && needs_health_port(new) && zero(new) && !zero(old) {
        new["spec"]["healthCheckNodePort"] = old["spec"]["healthCheckNodePort"].clone();
    }
}

fn number(port: &Value) -> i64 {
    port["nodePort"].as_i64().unwrap_or(0)
}

fn carry_node_ports(new: &mut Value, old: &Value) {
    let before = old["spec"]["ports"].as_array().cloned().unwrap_or_default();
    let Some(ports) = new["spec"]["ports"].as_array_mut() else { return };
    let kept: Vec<i64> =
        before.iter().map(number).filter(|n| *n != 0 && ports.iter().any(|p| number(p) == *n)).collect();
    for port in ports.iter_mut().filter(|p| number(p) == 0) {
        let same = before.iter().find(|b| b["name"] == port["name"]).map(number).unwrap_or(0);
        if same != 0 && !kept.contains(&same) {
            port["nodePort"] = same.into();
        }
    }
}

/// Fields that the type of the Service has no use for, if they only linger from before.
pub fn drop_unused(new: &mut Value, old: Option<&Value>) {
    let Some(old) = old else { return };
    if kind(new) == "ExternalName" && kind(old) != "ExternalName" {
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            if new["spec"][field] == old["spec"][field] || field == "clusterIPs" {
                unset(new, field);
            }
        }
    }
    if needs_node_ports(old) && !needs_node_ports(new) {
        let before = old["spec"]["ports"].as_array().cloned().unwrap_or_default();
        for port in new["spec"]["ports"].as_array_mut().into_iter().flatten() {
            if before.iter().any(|b| number(b) == number(port))
                && let Some(p) = port.as_object_mut()
            {
                p.remove("nodePort");
            }
        }
    }
    if needs_health_port(old)
        && !needs_health_port(new)
        && new["spec"]["healthCheckNodePort"] == old["spec"]["healthCheckNodePort"]
    {
        unset(new, "healthCheckNodePort");
    }
    if kind(old) == "LoadBalancer" && kind(new) != "LoadBalancer" {
        for field in ["allocateLoadBalancerNodePorts", "loadBalancerClass"] {
            if new["spec"][field] == old["spec"][field] {
                unset(new, field);
            }
        }
    }
}

fn policy(service: &Value) -> &str {
    service["spec"]["ipFamilyPolicy"].as_str().unwrap_or("SingleStack")
}

/// Chooses policy and families where the client left them open, and refuses what this cluster cannot do.
pub fn choose(t: &Target<'_>, pools: &Pools, new: &mut Value, old: Option<&Value>) -> Result<()> {
    if kind(new) == "ExternalName" {
        return Ok(());
    }
    let selectorless = is_headless(new) && new["spec"]["selector"].as_object().is_none_or(|s| s.is_empty());
    if new["spec"]["ipFamilyPolicy"].is_null() {
        let kept = old.map(|o| o["spec"]["ipFamilyPolicy"].clone()).filter(|p| !p.is_null());
        let default = if selectorless { "RequireDualStack" } else { "SingleStack" };
        new["spec"]["ipFamilyPolicy"] = kept.unwrap_or_else(|| default.into());
    }
    let errors = kinds::services::address_errors(new, old);
    if !errors.is_empty() {
        return Err(invalid(t, errors));
    }
    let mut families = list(new, "ipFamilies");
    let mut ips = list(new, "clusterIPs");
    if let Some(old) = old
        && policy(new) == "SingleStack"
    {
        if ips == list(old, "clusterIPs") {
            ips.truncate(1);
        }
        if families == list(old, "ipFamilies") {
            families.truncate(1);
        }
    }
    let known = pools.families();
    let errors = refuse(new, &known, &mut families, &ips);
    if !errors.is_empty() {
        return Err(invalid(t, errors));
    }
    if selectorless {
        default_families(new, &mut families, &["IPv4", "IPv6"], known[0]);
    } else {
        let errors = unknown_families(new, &known, &families);
        if !errors.is_empty() {
            return Err(invalid(t, errors));
        }
        default_families(new, &mut families, &known, known[0]);
    }
    set_list(new, "ipFamilies", &families);
    set_list(new, "clusterIPs", &ips);
    Ok(())
}

fn refuse(new: &Value, known: &[&str], families: &mut Vec<String>, ips: &[String]) -> Vec<Error> {
    let mut errors = Vec::new();
    let policy_value = new["spec"]["ipFamilyPolicy"].clone();
    if policy(new) == "SingleStack" {
        for (count, what) in [(ips.len(), "cluster IPs"), (families.len(), "IP families")] {
            if count == 2 {
                errors.push(Error::invalid(
                    &spec_path("ipFamilyPolicy"),
                    policy_value.clone(),
                    format!(
                        "must be 'RequireDualStack' or 'PreferDualStack' when multiple {what} are specified"
                    ),
                ));
            }
        }
    }
    for (i, ip) in ips.iter().enumerate() {
        let Ok(parsed) = ip.parse::<IpAddr>() else { break };
        let family = addresses::family(&parsed);
        if i >= families.len() {
            if known.contains(&family) {
                families.push(family.to_owned());
            } else {
                let why = format!("{family} is not configured on this cluster");
                errors.push(Error::invalid(&spec_path("clusterIPs").index(i), json!(ips), why));
            }
        }
    }
    errors
}

fn unknown_families(new: &Value, known: &[&str], families: &[String]) -> Vec<Error> {
    let mut errors = Vec::new();
    if policy(new) == "RequireDualStack" && known.len() < 2 {
        let why = "this cluster is not configured for dual-stack services";
        errors.push(Error::invalid(&spec_path("ipFamilyPolicy"), new["spec"]["ipFamilyPolicy"].clone(), why));
    }
    for (i, family) in families.iter().enumerate() {
        if !known.contains(&family.as_str()) {
            let at = spec_path("ipFamilies").index(i);
            errors.push(Error::invalid(&at, family.as_str(), "not configured on this cluster"));
        }
    }
    errors
}

fn default_families(new: &Value, families: &mut Vec<String>, possible: &[&str], first: &str) {
    if families.is_empty() {
        families.push(first.to_owned());
    }
    if policy(new) != "SingleStack" && families.len() == 1 && possible.len() == 2 {
        let other = if families[0] == "IPv4" { "IPv6" } else { "IPv4" };
        families.push(other.to_owned());
    }
}
