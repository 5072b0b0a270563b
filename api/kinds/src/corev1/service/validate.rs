//! What a service must satisfy, and what of it may change.

use super::prepare::{is_external, needs_health_port};
use crate::Context;
use crate::checks::{self, is_dual_stack, legacy_cidr, one_of, one_of_required, qualified, texts};
use crate::corev1::endpoints::endpoint_ip;
use crate::metadata::labels;
use crate::names;
use crate::value::Get;
use api::Value;
use api::field::{Error, ErrorList, Path};

const FAMILIES: [&str; 2] = ["IPv4", "IPv6"];
const ONLY_LOAD_BALANCER: &str = "may only be used when `type` is 'LoadBalancer'";

pub fn service(cx: &Context<'_>, new: &Value, old: Option<&Value>, e: &mut ErrorList) {
    if cx.subresource == "status" {
        return load_balancer(new, old.unwrap_or(&Value::Null), e);
    }
    let at = Path::new("spec");
    if let Some(old) = old {
        let (spec, was) = (new.at("spec"), old.at("spec"));
        addresses_kept(spec, was, &at, e);
        families_kept(spec, was, &at, e);
        let both = spec.text("type") == "LoadBalancer" && was.text("type") == "LoadBalancer";
        if both && spec.at("loadBalancerClass") != was.at("loadBalancerClass") {
            let class = spec.at("loadBalancerClass").clone();
            e.push(Error::invalid(&at.child("loadBalancerClass"), class, "may not change once set"));
        }
        class(spec, &at, e);
        let ports = (was.int("healthCheckNodePort"), spec.int("healthCheckNodePort"));
        if needs_health_port(was) && needs_health_port(spec) && ports.0 != 0 && ports.0 != ports.1 {
            e.push(Error::forbidden(&at.child("healthCheckNodePort"), crate::metadata::IMMUTABLE));
        }
    }
    spec(new, old, &at, e);
}

/// What is wrong with the addresses that a service asks for, and their families.
pub fn address_errors(new: &Value, old: Option<&Value>) -> ErrorList {
    let mut errors = ErrorList::new();
    addresses(new.at("spec"), old.map(|o| o.at("spec")), &Path::new("spec"), &mut errors);
    errors
}

fn is_headless(spec: &Value) -> bool {
    spec.len("clusterIPs") == 1 && spec.texts("clusterIPs").next() == Some("None")
}

fn spec(new: &Value, old: Option<&Value>, at: &Path, e: &mut ErrorList) {
    let spec = new.at("spec");
    let kind = spec.text("type");
    if spec.len("ports") == 0 && !is_headless(spec) && kind != "ExternalName" {
        e.push(Error::required(&at.child("ports"), ""));
    }
    match kind {
        "LoadBalancer" | "NodePort" if is_headless(spec) => {
            let text = format!("may not be set to 'None' for {kind} services");
            e.push(Error::invalid(&at.child("clusterIPs").index(0), "None", text));
        }
        "ExternalName" => external_name(spec, at, e),
        _ => {}
    }
    ports(spec, at, e);
    if spec.has("selector") {
        labels(spec.at("selector"), &at.child("selector"), e);
    }
    affinity(spec, at, e);
    if kind != "ExternalName" {
        addresses(spec, old.map(|o| o.at("spec")), at, e);
    }
    let stored: Vec<&str> = old.map(|o| o.at("spec").texts("externalIPs").collect()).unwrap_or_default();
    for (i, ip) in spec.texts("externalIPs").enumerate() {
        let (at, before) = (at.child("externalIPs").index(i), e.len());
        checks::legacy_ip(ip, &stored, &at, e);
        if e.len() == before {
            endpoint_ip(ip, &at, e);
        }
    }
    one_of_required(kind, &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"], &at.child("type"), e);
    source_ranges(new, old, at, e);
    if kind != "LoadBalancer" && spec.has("allocateLoadBalancerNodePorts") {
        e.push(Error::forbidden(&at.child("allocateLoadBalancerNodePorts"), ONLY_LOAD_BALANCER));
    }
    class(spec, at, e);
    traffic(spec, at, e);
}

fn class(spec: &Value, at: &Path, e: &mut ErrorList) {
    let at = at.child("loadBalancerClass");
    match spec.opt_text("loadBalancerClass") {
        Some(class) if spec.text("type") == "LoadBalancer" => qualified(class, &at, e),
        Some(_) => e.push(Error::forbidden(&at, ONLY_LOAD_BALANCER)),
        None => {}
    }
}

fn external_name(spec: &Value, at: &Path, e: &mut ErrorList) {
    for field in ["clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
        if spec.len(field) > 0 {
            e.push(Error::forbidden(&at.child(field), "may not be set for ExternalName services"));
        }
    }
    let name = spec.text("externalName");
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.is_empty() {
        e.push(Error::required(&at.child("externalName"), ""));
    } else {
        checks::subdomain(name, &at.child("externalName"), e);
    }
}

fn ports(spec: &Value, at: &Path, e: &mut ErrorList) {
    let list = spec.list("ports");
    for (i, port) in list.iter().enumerate() {
        let (at, name) = (at.child("ports").index(i), port.text("name"));
        if !name.is_empty() {
            checks::label(name, &at.child("name"), e);
            if list[..i].iter().any(|o| o.text("name") == name) {
                e.push(Error::duplicate(&at.child("name"), name));
            }
        } else if list.len() > 1 {
            e.push(Error::required(&at.child("name"), ""));
        }
        let n = port.int("port");
        texts(n, names::port_number(n), &at.child("port"), e);
        one_of_required(port.text("protocol"), &["TCP", "UDP", "SCTP"], &at.child("protocol"), e);
        checks::port(port.at("targetPort"), &at.child("targetPort"), e);
        if let Some(protocol) = port.opt_text("appProtocol") {
            qualified(protocol, &at.child("appProtocol"), e);
        }
        let node_port = port.int("nodePort");
        if node_port != 0 && spec.text("type") == "ClusterIP" {
            e.push(Error::forbidden(&at.child("nodePort"), "may not be used when `type` is 'ClusterIP'"));
        }
        let same = |field: &str| {
            let both =
                |o: &&Value| o.int(field) == port.int(field) && o.text("protocol") == port.text("protocol");
            list[..i].iter().any(|o| both(&o))
        };
        if node_port != 0 && same("nodePort") {
            e.push(Error::duplicate(&at.child("nodePort"), node_port));
        }
        if same("port") {
            let key = api::json!({"protocol": port.text("protocol"), "port": n});
            let mut error = Error::duplicate(&at, key.clone());
            error.printed = Some(crate::shown::internal("k8s.io.api.core.v1.ServicePort", &key));
            e.push(error);
        }
    }
}

fn affinity(spec: &Value, at: &Path, e: &mut ErrorList) {
    let affinity = spec.text("sessionAffinity");
    one_of_required(affinity, &["ClientIP", "None"], &at.child("sessionAffinity"), e);
    let (config, at) = (spec.at("sessionAffinityConfig"), at.child("sessionAffinityConfig"));
    match affinity {
        "None" if !config.is_null() => {
            e.push(Error::forbidden(&at, "must not be set when session affinity is None"));
        }
        "ClientIP" => {
            let at = at.child("clientIP").child("timeoutSeconds");
            match config.at("clientIP").opt_int("timeoutSeconds") {
                None => e.push(Error::required(&at, "when session affinity type is ClientIP")),
                Some(n) if n <= 0 || n > 86400 => {
                    e.push(Error::invalid(&at, n, "must be greater than 0 and less than 86400"));
                }
                Some(_) => {}
            }
        }
        _ => {}
    }
}

fn addresses(spec: &Value, was: Option<&Value>, at: &Path, e: &mut ErrorList) {
    let (ips_at, list) = (at.child("clusterIPs"), spec.at("clusterIPs"));
    let (one, all): (&str, Vec<&str>) = (spec.text("clusterIP"), spec.texts("clusterIPs").collect());
    match (one.is_empty(), all.first()) {
        (false, None) => e.push(Error::required(&ips_at, "")),
        (false, Some(first)) if *first != one => {
            e.push(Error::invalid(&ips_at, list.clone(), "first value must match `clusterIP`"));
        }
        (true, Some(_)) => {
            e.push(Error::invalid(&ips_at, list.clone(), "must be empty when `clusterIP` is not specified"));
        }
        _ => {}
    }
    let families: Vec<&str> = spec.texts("ipFamilies").collect();
    for (i, family) in families.iter().enumerate() {
        let at = at.child("ipFamilies").index(i);
        one_of(family, &FAMILIES, &at, e);
        if families[..i].contains(family) {
            e.push(Error::duplicate(&at, *family));
        }
    }
    checks::opt_one_of(
        spec,
        "ipFamilyPolicy",
        &["PreferDualStack", "RequireDualStack", "SingleStack"],
        at,
        e,
    );
    let stored: Vec<&str> = was.map(|w| w.texts("clusterIPs").collect()).unwrap_or_default();
    let before = e.len();
    for (i, ip) in all.iter().enumerate() {
        if i == 0 && *ip == "None" {
            if all.len() > 1 {
                e.push(Error::invalid(&ips_at, list.clone(), "'None' must be the first and only value"));
            }
            continue;
        }
        checks::legacy_ip(ip, &stored, &ips_at.index(i), e);
    }
    if all.len() > 2 {
        e.push(Error::invalid(&ips_at, list.clone(), "may only hold up to 2 values"));
    }
    if e.len() > before {
        return;
    }
    if all.len() > 1 && !is_dual_stack(all.iter().copied()) {
        let text = "may specify no more than one IP for each IP family";
        e.push(Error::invalid(&ips_at, list.clone(), text));
    }
    if !is_headless(spec) {
        for (i, (ip, family)) in all.iter().zip(&families).enumerate() {
            if FAMILIES.contains(family) && ip.contains(':') != (*family == "IPv6") {
                let text = format!("expected an {family} value as indicated by `ipFamilies[{i}]`");
                e.push(Error::invalid(&ips_at.index(i), *ip, text));
            }
        }
    }
}

fn source_ranges(new: &Value, old: Option<&Value>, at: &Path, e: &mut ErrorList) {
    const ANNOTATION: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";
    let (spec, annotations) = (new.at("spec"), new.at("metadata").at("annotations"));
    let balanced = spec.text("type") == "LoadBalancer";
    let stored: Vec<&str> = old
        .map(|o| o.at("spec").texts("loadBalancerSourceRanges").map(str::trim).collect())
        .unwrap_or_default();
    if spec.len("loadBalancerSourceRanges") > 0 {
        let at = at.child("LoadBalancerSourceRanges");
        if !balanced {
            e.push(Error::forbidden(&at, ONLY_LOAD_BALANCER));
        }
        for (i, range) in spec.texts("loadBalancerSourceRanges").enumerate() {
            legacy_cidr(range.trim(), &stored, &at.index(i), e);
        }
    } else if let Some(ranges) = annotations.opt_text(ANNOTATION) {
        let at = Path::new("metadata").child("annotations").key(ANNOTATION);
        if !balanced {
            e.push(Error::forbidden(&at, ONLY_LOAD_BALANCER));
        }
        let before = old.and_then(|o| o.at("metadata").at("annotations").opt_text(ANNOTATION));
        if before != Some(ranges) && !ranges.trim().is_empty() {
            for range in ranges.split(',') {
                legacy_cidr(range.trim(), &[], &at, e);
            }
        }
    }
}

fn traffic(spec: &Value, at: &Path, e: &mut ErrorList) {
    let (policy, at_policy) = (spec.text("externalTrafficPolicy"), at.child("externalTrafficPolicy"));
    if is_external(spec) {
        one_of_required(policy, &["Cluster", "Local"], &at_policy, e);
    } else if !policy.is_empty() {
        let text = "may only be set for externally-accessible services";
        e.push(Error::invalid(&at_policy, policy, text));
    }
    let (port, at_port) = (spec.int("healthCheckNodePort"), at.child("healthCheckNodePort"));
    // Zero is fine where one is needed: it is allocated after this check.
    if port != 0 {
        if needs_health_port(spec) {
            texts(port, names::port_number(port), &at_port, e);
        } else {
            let text = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
            e.push(Error::invalid(&at_port, port, text));
        }
    }
    let internal = matches!(spec.text("type"), "NodePort" | "LoadBalancer" | "ClusterIP");
    match spec.opt_text("internalTrafficPolicy") {
        None if internal => e.push(Error::required(&at.child("internalTrafficPolicy"), "")),
        None => {}
        Some(policy) => one_of(policy, &["Cluster", "Local"], &at.child("internalTrafficPolicy"), e),
    }
    let near = ["PreferClose", "PreferSameZone", "PreferSameNode"];
    if let Some(asked) = spec.opt_text("trafficDistribution").filter(|t| !near.contains(t)) {
        e.push(Error::not_supported_in_order(&at.child("trafficDistribution"), asked, &near));
    }
}

fn addresses_kept(spec: &Value, was: &Value, at: &Path, e: &mut ErrorList) {
    let external = |s: &Value| s.text("type") == "ExternalName";
    if external(spec) || external(was) || (is_headless(spec) && is_headless(was)) {
        return;
    }
    let (new, old): (Vec<&str>, Vec<&str>) =
        (spec.texts("clusterIPs").collect(), was.texts("clusterIPs").collect());
    let ips = at.child("clusterIPs");
    let mut bad = |at: &Path, text: &str| e.push(Error::invalid(at, spec.at("clusterIPs").clone(), text));
    if new.len() == old.len() {
        for (i, (n, o)) in new.iter().zip(&old).enumerate() {
            if n != o {
                bad(&ips.index(i), "may not change once set");
            }
        }
        return;
    }
    if new.is_empty() {
        bad(&ips.index(0), "primary clusterIP can not be unset");
    } else if old.first().is_some_and(|o| *o != new[0]) {
        bad(&ips.index(0), "may not change once set");
    }
    released(spec, old.len(), new.len(), "clusterIP", at, e);
}

fn released(spec: &Value, before: usize, now: usize, what: &str, at: &Path, e: &mut ErrorList) {
    if before > now && now == 1 && spec.text("ipFamilyPolicy") != "SingleStack" {
        let text = format!("must be set to 'SingleStack' when releasing the secondary {what}");
        e.push(Error::invalid(&at.child("ipFamilyPolicy"), spec.at("ipFamilyPolicy").clone(), text));
    }
}

fn families_kept(spec: &Value, was: &Value, at: &Path, e: &mut ErrorList) {
    let external = |s: &Value| s.text("type") == "ExternalName";
    if external(spec) || external(was) || is_headless(spec) || is_headless(was) {
        return;
    }
    let (new, old): (Vec<&str>, Vec<&str>) =
        (spec.texts("ipFamilies").collect(), was.texts("ipFamilies").collect());
    if new.is_empty() {
        return;
    }
    let changed = if new.len() == old.len() { new != old } else { old.first().is_some_and(|o| *o != new[0]) };
    if changed {
        let list = spec.at("ipFamilies").clone();
        e.push(Error::invalid(&at.child("ipFamilies").index(0), list, "may not change once set"));
    }
    released(spec, old.len(), new.len(), "ipFamily", at, e);
}

fn load_balancer(new: &Value, old: &Value, e: &mut ErrorList) {
    let list = new.at("status").at("loadBalancer").list("ingress");
    let at = Path::new("status").child("loadBalancer").child("ingress");
    if new.at("spec").text("type") != "LoadBalancer" {
        if !list.is_empty() {
            e.push(Error::forbidden(&at, "may only be used when `spec.type` is 'LoadBalancer'"));
        }
        return;
    }
    let before = old.at("status").at("loadBalancer").list("ingress");
    let stored: Vec<&str> = before.iter().map(|i| i.text("ip")).collect();
    for (i, ingress) in list.iter().enumerate() {
        let (at, ip, host) = (at.index(i), ingress.text("ip"), ingress.text("hostname"));
        if !ip.is_empty() {
            checks::legacy_ip(ip, &stored, &at.child("ip"), e);
        }
        let at_mode = at.child("ipMode");
        match ingress.opt_text("ipMode") {
            None if !ip.is_empty() => e.push(Error::required(&at_mode, "must be specified when `ip` is set")),
            None => {}
            Some(_) if ip.is_empty() => {
                e.push(Error::forbidden(&at_mode, "may not be specified when `ip` is not set"));
            }
            Some(mode) => one_of(mode, &["Proxy", "VIP"], &at_mode, e),
        }
        if !host.is_empty() {
            checks::subdomain(host, &at.child("hostname"), e);
            if host.parse::<std::net::IpAddr>().is_ok() {
                e.push(Error::invalid(&at.child("hostname"), host, "must be a DNS name, not an IP address"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::corev1::service::ROOM;
    use crate::value::Put;
    use crate::{Context, Operation, Room};
    use api::{Value, json};

    fn service(changes: Value) -> Value {
        let mut spec = json!({"ports": [{"port": 80}]});
        for (k, v) in changes.as_object().unwrap() {
            spec.set(k, v.clone());
        }
        let mut o = json!({"metadata": {"name": "s"}, "spec": spec});
        ROOM.defaults(&mut o);
        o
    }

    fn first_error(mut new: Value, old: Option<&Value>) -> String {
        let op = if old.is_some() { Operation::Update } else { Operation::Create };
        ROOM.prepare(op, &Context::default(), &mut new, old);
        ROOM.validate(&Context::default(), &new, old).first().map(ToString::to_string).unwrap_or_default()
    }

    #[test]
    fn created() {
        for (changes, want) in [
            (json!({}), ""),
            (json!({"clusterIP": "None", "ports": []}), ""),
            (json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local"}), ""),
            (json!({"type": "ExternalName", "externalName": "a.b", "ports": []}), ""),
            (json!({"ports": []}), "spec.ports: Required value"),
            (json!({"ports": [{"port": 80}, {"port": 81}]}), "spec.ports[0].name: Required value"),
            (
                json!({"ports": [{"port": 0}]}),
                "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
            ),
            (
                json!({"ports": [{"port": 80, "nodePort": 30000}]}),
                "spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'",
            ),
            (json!({"type": "Other"}), "spec.type: Unsupported value: \"Other\""),
            (
                json!({"clusterIP": "x"}),
                "spec.clusterIPs[0]: Invalid value: \"x\": must be a valid IP address",
            ),
            (
                json!({"externalIPs": ["127.0.0.1"]}),
                "spec.externalIPs[0]: Invalid value: \"127.0.0.1\": may not be in the loopback range",
            ),
            (json!({"sessionAffinity": "Sticky"}), "spec.sessionAffinity: Unsupported value: \"Sticky\""),
            (json!({"type": "ExternalName", "ports": []}), "spec.externalName: Required value"),
        ] {
            let got = first_error(service(changes.clone()), None);
            assert!(got.starts_with(want) && got.is_empty() == want.is_empty(), "{changes}: {got}");
        }
    }

    #[test]
    fn updated() {
        let old = service(json!({"type": "NodePort", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"],
            "ipFamilies": ["IPv4"], "ports": [{"port": 80, "nodePort": 30080}]}));
        assert_eq!(first_error(service(json!({"type": "NodePort"})), Some(&old)), "");
        let changed = service(json!({"type": "NodePort", "clusterIP": "10.0.0.2"}));
        assert_eq!(
            first_error(changed, Some(&old)),
            "spec.clusterIPs[0]: Invalid value: [\"10.0.0.1\"]: may not change once set"
                .replace("[\"10.0.0.1\"]", "[\"10.0.0.2\"]")
        );
        let mut new = service(json!({"type": "NodePort"}));
        ROOM.prepare(Operation::Update, &Context::default(), &mut new, Some(&old));
        assert_eq!(new["spec"]["ports"][0]["nodePort"], json!(30080), "what is allocated stays");
        let mut new = old.clone();
        new["spec"]["type"] = json!("ClusterIP");
        ROOM.prepare(Operation::Update, &Context::default(), &mut new, Some(&old));
        assert!(new["spec"]["ports"][0].get("nodePort").is_none(), "the type has no node ports");
        assert!(new["spec"].get("externalTrafficPolicy").is_none());
    }
}
