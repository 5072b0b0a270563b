//! Updates of a pod's status.

use super::update::annotation_updates;
use crate::checks::{self, is_dual_stack, legacy_ip, qualified};
use crate::metadata::immutable;
use crate::value::Get;
use api::Value;
use api::field::{Error, ErrorList, Path};

pub fn update(new: &Value, old: &Value, e: &mut ErrorList) {
    annotation_updates(new, old, e);
    let (status, was, at) = (new.at("status"), old.at("status"), Path::new("status"));
    conditions(status.list("conditions"), &at.child("conditions"), e);
    let nominated = status.text("nominatedNodeName");
    if nominated != was.text("nominatedNodeName") && !nominated.is_empty() {
        let at = at.child("nominatedNodeName");
        checks::subdomain(nominated, &at, e);
        if !old.at("spec").text("nodeName").is_empty() {
            e.push(Error::forbidden(&at, "may not be set on pods that are already bound to a node"));
        }
    }
    if status.int("observedGeneration") < 0 {
        let text = "must be a non-negative integer";
        e.push(Error::invalid(&at.child("observedGeneration"), status.int("observedGeneration"), text));
    }
    immutable(status.at("qosClass"), was.at("qosClass"), &at.child("qosClass"), e);
    for (list, containers) in [
        ("containerStatuses", "containers"),
        ("initContainerStatuses", "initContainers"),
        ("ephemeralContainerStatuses", ""),
    ] {
        transitions(status.list(list), was.list(list), old.at("spec"), containers, &at.child(list), e);
    }
    claims(new, &at.child("resourceClaimStatuses"), e);
    extended_claim(new, &at.child("extendedResourceClaimStatus"), e);
    for field in ["podIPs", "hostIPs"] {
        addresses(status, was, field, &at.child(field), e);
    }
    for (list, containers) in [
        ("containerStatuses", "containers"),
        ("initContainerStatuses", "initContainers"),
        ("ephemeralContainerStatuses", ""),
    ] {
        for (i, s) in status.list(list).iter().enumerate() {
            let at = at.child(list).index(i);
            linux_user(s.at("user").at("linux"), old.at("spec"), &at.child("user").child("linux"), e);
            if containers.is_empty() && s.len("allocatedResourcesStatus") > 0 {
                let text = "must not be specified in container status";
                e.push(Error::forbidden(&at.child("allocatedResourcesStatus"), text));
            }
        }
    }
    let host = status.list("hostIPs").first().map(|h| h.text("ip"));
    if let Some(first) = host.filter(|h| *h != status.text("hostIP")) {
        let at = at.child("hostIPs").index(0).child("ip");
        e.push(Error::invalid(&at, first, "must be equal to `hostIP`"));
    }
}

/// The claim that stands for extended resources: which request of it is for which container.
fn extended_claim(pod: &Value, at: &Path, e: &mut ErrorList) {
    let (status, spec) = (pod.at("status").at("extendedResourceClaimStatus"), pod.at("spec"));
    if status.is_null() {
        return;
    }
    let list = status.list("requestMappings");
    if list.is_empty() {
        let text = "at least one request mapping is required";
        e.push(Error::required(&at.child("requestMappings"), text));
    }
    let parts = |m: &Value| ["containerName", "resourceName", "requestName"].map(|k| m.text(k).to_owned());
    for (i, mapping) in list.iter().enumerate() {
        let at_mapping = at.child("requestMappings").index(i);
        let name = mapping.text("containerName");
        let mut containers = spec.list("containers").iter().chain(spec.list("initContainers"));
        match containers.find(|c| c.text("name") == name) {
            None => {
                let text =
                    "must match the name of an entry in spec.initContainers.name or spec.containers.name";
                e.push(Error::invalid(&at_mapping.child("containerName"), name, text));
            }
            Some(c) if !c.at("resources").at("requests").has(mapping.text("resourceName")) => {
                let text = "must match the extended resource name of an entry in spec.initContainers.resources.requests or spec.containers.resources.requests";
                let at = at_mapping.child("resourceName");
                e.push(Error::invalid(&at, mapping.text("resourceName"), text));
            }
            Some(_) => {}
        }
        checks::label(mapping.text("requestName"), &at.child("requestName"), e);
        if list[..i].iter().any(|m| parts(m) == parts(mapping)) {
            for key in ["containerName", "resourceName", "requestName"] {
                e.push(Error::duplicate(&at_mapping.child(key), mapping.text(key)));
            }
        }
    }
    if checks::required(status, "resourceClaimName", at, e) {
        checks::subdomain(status.text("resourceClaimName"), &at.child("resourceClaimName"), e);
    }
}

fn conditions(list: &[Value], at: &Path, e: &mut ErrorList) {
    for (i, c) in list.iter().enumerate() {
        if c.int("observedGeneration") < 0 {
            let at = at.index(i).child("observedGeneration");
            e.push(Error::invalid(&at, c.int("observedGeneration"), "must be a non-negative integer"));
        }
        if !matches!(c.text("type"), "PodScheduled" | "Ready" | "Initialized") {
            qualified(c.text("type"), &at.index(i).child("Type"), e);
        }
    }
}

/// Whether the container may run again after it has ended with that code.
fn restarts(container: &Value, pod_policy: &str, code: i64) -> bool {
    for rule in container.list("restartPolicyRules") {
        let codes = rule.at("exitCodes");
        let listed = codes.list("values").iter().any(|v| v.as_i64() == Some(code));
        if rule.text("action") == "Restart" && listed == (codes.text("operator") == "In") {
            return true;
        }
    }
    match container.opt_text("restartPolicy").unwrap_or(pod_policy) {
        "Always" => true,
        "OnFailure" => code != 0,
        _ => false,
    }
}

/// A container that has ended for good does not come back.
fn transitions(new: &[Value], old: &[Value], spec: &Value, containers: &str, at: &Path, e: &mut ErrorList) {
    let policy = spec.text("restartPolicy");
    for (i, was) in old.iter().enumerate() {
        let ended = was.at("state").at("terminated");
        if ended.is_null() {
            continue;
        }
        let now = new.iter().find(|n| n.text("name") == was.text("name"));
        if now.is_none_or(|n| n.at("state").has("terminated")) {
            continue;
        }
        let code = ended.int("exitCode");
        let container = spec.list(containers).iter().find(|c| c.text("name") == was.text("name"));
        let allowed = match (containers, container) {
            ("", _) => false,
            (_, Some(c)) => restarts(c, policy, code),
            (_, None) => policy == "Always" || (policy == "OnFailure" && code != 0),
        };
        if !allowed {
            let text = "may not be transitioned to non-terminated state";
            e.push(Error::forbidden(&at.index(i).child("state"), text));
        }
    }
}

fn claims(pod: &Value, at: &Path, e: &mut ErrorList) {
    let list = pod.at("status").list("resourceClaimStatuses");
    for (i, s) in list.iter().enumerate() {
        let (at, name) = (at.index(i), s.text("name"));
        if !pod.at("spec").list("resourceClaims").iter().any(|c| c.text("name") == name) {
            let text = "must match the name of an entry in `spec.resourceClaims`";
            e.push(Error::invalid(&at.child("name"), name, text));
        }
        if list[..i].iter().any(|o| o.text("name") == name) {
            e.push(Error::duplicate(&at.child("name"), name));
        }
        if let Some(claim) = s.opt_text("resourceClaimName") {
            checks::subdomain(claim, &at.child("resourceClaimName"), e);
        }
    }
}

/// Who a container runs as, as the runtime reports it.
fn linux_user(user: &Value, spec: &Value, at: &Path, e: &mut ErrorList) {
    if user.is_null() {
        return;
    }
    if spec.at("os").text("name") == "windows" {
        e.push(Error::forbidden(at, "cannot be set for a windows pod"));
    }
    for field in ["uid", "gid"] {
        let id = user.int(field);
        checks::texts(id, crate::names::id_number(id), &at.child(field), e);
    }
    for (i, id) in user.list("supplementalGroups").iter().enumerate() {
        let id = id.as_i64().unwrap_or_default();
        checks::texts(id, crate::names::id_number(id), &at.child("supplementalGroups").index(i), e);
    }
}

fn addresses(status: &Value, was: &Value, field: &str, at: &Path, e: &mut ErrorList) {
    let stored: Vec<&str> = was.list(field).iter().map(|v| v.text("ip")).collect();
    let all: Vec<&str> = status.list(field).iter().map(|v| v.text("ip")).collect();
    for (i, ip) in all.iter().enumerate() {
        legacy_ip(ip, &stored, &at.index(i), e);
    }
    let broken = all.iter().enumerate().find(|(_, ip)| ip.parse::<std::net::IpAddr>().is_err());
    if let Some((i, ip)) = broken.filter(|_| all.len() > 1) {
        let text = format!("failed to check for dual stack with error:invalid IP[{i}]: {ip}");
        e.push(Error::internal(at, text));
    }
    if all.len() > 1 && (all.len() > 2 || !is_dual_stack(all.iter().copied())) {
        let text = "may specify no more than one IP for each IP family";
        e.push(Error::invalid(at, status.at(field).clone(), text));
    }
}
