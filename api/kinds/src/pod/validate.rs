//! What a pod, and a pod template, must satisfy.

mod affinity;
mod container;
mod env;
mod handlers;
mod resources;
mod scheduling;
mod security;
mod status;
mod template;
#[cfg(test)]
mod tests;
mod update;
mod volumes;
mod volumesources;

pub use resources::{container_resource_name, requirements as resource_requirements};
pub use scheduling::{node_selector, taint_effect, tolerations};
pub use template::{template, template_metadata};
pub use volumesources::{csi_driver_name, source as volume_source};

use crate::checks::{self, label, subdomain};
use crate::value::Get;
use crate::{Context, names};
use api::Value;
use api::field::{Error, ErrorList, Path};

/// What differs between a pod and a template of pods.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    pub is_pod: bool,
}

pub fn pod(cx: &Context<'_>, new: &Value, old: Option<&Value>, e: &mut ErrorList) {
    match (cx.subresource, old) {
        ("", None) => create(new, e),
        ("", Some(old)) => update::pod(new, old, e),
        ("status", Some(old)) => status::update(new, old, e),
        ("ephemeralcontainers", Some(old)) => update::ephemeral_containers(new, old, e),
        ("resize", Some(old)) => update::resize(new, old, e),
        _ => {}
    }
}

fn create(pod: &Value, e: &mut ErrorList) {
    annotations_and_spec(pod, e);
    let (spec, at) = (pod.at("spec"), Path::new("spec"));
    if spec.len("ephemeralContainers") > 0 {
        e.push(Error::forbidden(&at.child("ephemeralContainers"), "cannot be set on create"));
    }
    if !spec.text("nodeName").is_empty() && spec.len("schedulingGates") > 0 {
        let text = "cannot be set until all schedulingGates have been cleared";
        e.push(Error::forbidden(&at.child("nodeName"), text));
    }
    security::annotations_match_fields(pod, &at, e);
}

fn annotations_and_spec(pod: &Value, e: &mut ErrorList) {
    let spec = pod.at("spec");
    annotations(pod, &Path::new("metadata").child("annotations"), e);
    let at = Path::new("spec");
    self::spec(spec, Some(pod.at("metadata")), Options { is_pod: true }, &at, e);
    if spec.text("serviceAccountName").is_empty() {
        for (i, volume) in spec.list("volumes").iter().enumerate() {
            for (j, source) in volume.at("projected").list("sources").iter().enumerate() {
                if source.has("serviceAccountToken") {
                    let at = at.child("volumes").index(i).child("projected").child("sources").index(j);
                    let text = "must not be specified when serviceAccountName is not set";
                    e.push(Error::forbidden(&at.child("serviceAccountToken"), text));
                }
            }
        }
    }
    for list in ["containers", "initContainers"] {
        for (i, c) in spec.list(list).iter().enumerate() {
            image_not_padded(c, &at.child(list).index(i), e);
        }
    }
}

fn image_not_padded(container: &Value, at: &Path, e: &mut ErrorList) {
    let image = container.text("image");
    if image.trim().len() != image.len() {
        let text = "must not have leading or trailing whitespace";
        e.push(Error::invalid(&at.child("image"), image, text));
    }
}

/// Annotations that mean something on pods.
fn annotations(pod: &Value, at: &Path, e: &mut ErrorList) {
    let annotations = pod.at("metadata").at("annotations");
    if let Some(mirror) = annotations.opt_text("kubernetes.io/config.mirror")
        && pod.at("spec").text("nodeName").is_empty()
    {
        let text = "must set spec.nodeName if mirror pod annotation is set";
        e.push(Error::invalid(&at.key("kubernetes.io/config.mirror"), mirror, text));
    }
    const COST: &str = "controller.kubernetes.io/pod-deletion-cost";
    if let Some(cost) = annotations.opt_text(COST)
        && (cost.starts_with('+') || cost.len() > 1 && cost.starts_with('0') || cost.parse::<i32>().is_err())
    {
        e.push(Error::invalid(&at.key(COST), cost, "must be a 32bit integer"));
    }
    security::annotations(pod, at, e);
}

/// A pod spec, of a pod (then with its metadata) or of a template.
pub fn spec(spec: &Value, metadata: Option<&Value>, options: Options, at: &Path, e: &mut ErrorList) {
    if !spec.has("terminationGracePeriodSeconds") {
        e.push(Error::required(&at.child("terminationGracePeriodSeconds"), ""));
    }
    let volumes = volumes::all(spec, metadata, options, &at.child("volumes"), e);
    resources::pod_claims(spec, metadata, &at.child("resourceClaims"), e);
    container::all(spec, &volumes, options, at, e);
    resources::whole_pod(spec, at, e);
    host_network_ports(spec, options, &at.child("containers"), e);
    let at_field = |name| at.child(name);
    checks::one_of_in_order(
        spec.text("restartPolicy"),
        &["Always", "OnFailure", "Never"],
        &at_field("restartPolicy"),
        e,
    );
    checks::one_of_in_order(
        spec.text("dnsPolicy"),
        &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"],
        &at_field("dnsPolicy"),
        e,
    );
    if spec.has("nodeSelector") {
        crate::metadata::labels(spec.at("nodeSelector"), &at_field("nodeSelector"), e);
    }
    security::pod(spec, at, e);
    if spec.has("affinity") {
        affinity::affinity(spec.at("affinity"), &at_field("affinity"), e);
    }
    dns_config(spec, &at_field("dnsConfig"), e);
    scheduling::gates(spec, at, e);
    affinity::spread(spec.list("topologySpreadConstraints"), &at_field("topologySpreadConstraints"), e);
    security::host_process(spec, at, e);
    security::host_users(spec, at, e);
    identity(spec, at, e);
    scheduling::tolerations(spec.list("tolerations"), &at_field("tolerations"), e);
    for (i, alias) in spec.list("hostAliases").iter().enumerate() {
        let at = at_field("hostAliases").index(i);
        checks::ip(alias.text("ip"), &at.child("ip"), e);
        for (j, name) in alias.texts("hostnames").enumerate() {
            subdomain(name, &at.child("hostnames").index(j), e);
        }
    }
    if spec.has("overhead") {
        let overhead = api::json!({"limits": spec.at("overhead")});
        resources::requirements(&overhead, None, &at_field("overhead"), e);
    }
    security::operating_system(spec, at, e);
    env::file_keys(spec, at, e);
}

/// Names and numbers at the top of the spec.
fn identity(spec: &Value, at: &Path, e: &mut ErrorList) {
    for field in ["serviceAccountName", "nodeName", "priorityClassName"] {
        if !spec.text(field).is_empty() {
            subdomain(spec.text(field), &at.child(field), e);
        }
    }
    if let Some(class) = spec.opt_text("runtimeClassName") {
        subdomain(class, &at.child("runtimeClassName"), e);
    }
    for field in ["hostname", "subdomain"] {
        if !spec.text(field).is_empty() {
            label(spec.text(field), &at.child(field), e);
        }
    }
    if let Some(name) = spec.opt_text("hostnameOverride") {
        let at = at.child("hostnameOverride");
        if spec.flag("setHostnameAsFQDN") {
            e.push(Error::forbidden(&at, "may not be specified when setHostnameAsFQDN is true"));
        }
        if spec.flag("hostNetwork") {
            e.push(Error::forbidden(&at, "may not be specified when hostNetwork is true"));
        }
        if name.len() > 64 {
            e.push(Error::too_long(&at, 64));
        }
        subdomain(name, &at, e);
    }
    if let Some(seconds) = spec.opt_int("activeDeadlineSeconds") {
        let max = i64::from(i32::MAX);
        if !(1..=max).contains(&seconds) {
            let text = names::range_error(1, max);
            e.push(Error::invalid(&at.child("activeDeadlineSeconds"), seconds, text));
        }
    }
    if let Some(policy) = spec.opt_text("preemptionPolicy") {
        let known = ["PreemptLowerPriority", "Never"];
        checks::one_of_in_order(policy, &known, &at.child("preemptionPolicy"), e);
    }
}

fn host_network_ports(spec: &Value, options: Options, at: &Path, e: &mut ErrorList) {
    if !spec.flag("hostNetwork") {
        return;
    }
    for (i, c) in spec.list("containers").iter().enumerate() {
        for (j, port) in c.list("ports").iter().enumerate() {
            let host = port.int("hostPort");
            if (options.is_pod || host != 0) && host != port.int("containerPort") {
                let at = at.index(i).child("ports").index(j).child("hostPort");
                e.push(Error::invalid(&at, host, "must match `containerPort` when `hostNetwork` is true"));
            }
        }
    }
}

fn dns_config(spec: &Value, at: &Path, e: &mut ErrorList) {
    let config = spec.at("dnsConfig");
    if spec.text("dnsPolicy") == "None" {
        if config.is_null() {
            e.push(Error::required(at, "must provide `dnsConfig` when `dnsPolicy` is None"));
            return;
        }
        if config.len("nameservers") == 0 {
            let text = "must provide at least one DNS nameserver when `dnsPolicy` is None";
            e.push(Error::required(&at.child("nameservers"), text));
            return;
        }
    }
    let (servers, searches) = (config.at("nameservers"), config.at("searches"));
    if config.len("nameservers") > 3 {
        let text = "must not have more than 3 nameservers";
        e.push(Error::invalid(&at.child("nameservers"), servers.clone(), text));
    }
    for (i, server) in config.texts("nameservers").enumerate() {
        checks::ip(server, &at.child("nameservers").index(i), e);
    }
    if config.len("searches") > 32 {
        let text = "must not have more than 32 search paths";
        e.push(Error::invalid(&at.child("searches"), searches.clone(), text));
    }
    let length: usize = config.texts("searches").map(|s| s.len() + 1).sum();
    if length.saturating_sub(1) > 2048 {
        let text = "must not have more than 2048 characters (including spaces) in the search list";
        e.push(Error::invalid(&at.child("searches"), searches.clone(), text));
    }
    for (i, search) in config.texts("searches").enumerate() {
        if search != "." {
            let search = search.strip_suffix('.').unwrap_or(search);
            let messages = names::dns_subdomain_underscore(search);
            checks::texts(search, messages, &at.child("searches").index(i), e);
        }
    }
    for (i, option) in config.list("options").iter().enumerate() {
        if option.text("name").is_empty() {
            e.push(Error::required(&at.child("options").index(i), "must not be empty"));
        }
    }
}
