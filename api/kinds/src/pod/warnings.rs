//! What is accepted in pods but likely a mistake.

use crate::names;
use crate::value::{Get, ONE, amount_value};
use crate::warnings::{Warnings, claim_spec, node_label};
use api::Value;
use std::collections::{HashMap, HashSet};

const OLD_ANNOTATIONS: [(&str, &str); 3] = [
    (
        "scheduler.alpha.kubernetes.io/critical-pod",
        "non-functional in v1.16+; use the \"priorityClassName\" field instead",
    ),
    ("security.alpha.kubernetes.io/sysctls", "non-functional in v1.11+; use the \"sysctls\" field instead"),
    (
        "security.alpha.kubernetes.io/unsafe-sysctls",
        "non-functional in v1.11+; use the \"sysctls\" field instead",
    ),
];
const OLD_VOLUMES: [(&str, &str); 9] = [
    ("photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
    ("gitRepo", "deprecated in v1.11, and disabled by default in v1.33+"),
    ("scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
    ("flocker", "deprecated in v1.22, non-functional in v1.25+"),
    ("storageos", "deprecated in v1.22, non-functional in v1.25+"),
    ("quobyte", "deprecated in v1.22, non-functional in v1.25+"),
    ("glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
    ("cephfs", "deprecated in v1.28, non-functional in v1.31+"),
    ("rbd", "deprecated in v1.28, non-functional in v1.31+"),
];
const SECCOMP: &str = "non-functional in v1.27+; use the \"seccompProfile\" field instead";
const APPARMOR_KEY: &str = "container.apparmor.security.beta.kubernetes.io/";

/// Only on creation: people rarely update pods.
pub fn pod(pod: &Value) -> Warnings {
    let mut out = Warnings::new();
    let messages = names::dns_label(pod.at("metadata").text("name"));
    if !messages.is_empty() {
        out.push(format!(
            "metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is recommended: [{}]",
            messages.join(" ")
        ));
    }
    both(pod, "", &mut out);
    out
}

/// A template of pods at a path such as `spec.template`.
pub fn template(template: &Value, at: &str, out: &mut Warnings) {
    both(template, &format!("{at}."), out);
}

fn both(pod: &Value, before: &str, out: &mut Warnings) {
    let spec = pod.at("spec");
    let at = &format!("{before}spec");
    nodes(spec, at, out);
    annotations(pod, before, out);
    volumes(spec, at, out);
    doubles(spec, at, out);
    fractional(spec.at("overhead"), &format!("{at}.overhead"), out);
    for (list, i, c) in containers(spec) {
        container(c, &format!("{at}.{list}[{i}]"), out);
    }
    ports(spec, at, out);
    if spec.int("terminationGracePeriodSeconds") < 0 {
        out.push(format!(
            "{at}.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be treated as 1"
        ));
    }
    pod_affinity(spec, at, out);
    for (i, server) in spec.at("dnsConfig").texts("nameservers").enumerate() {
        crate::warnings::address(server, || format!("{at}.dnsConfig.nameservers[{i}]"), out);
    }
    for (i, alias) in spec.list("hostAliases").iter().enumerate() {
        crate::warnings::address(alias.text("ip"), || format!("{at}.hostAliases[{i}].ip"), out);
    }
}

fn containers(spec: &Value) -> impl Iterator<Item = (&'static str, usize, &Value)> {
    ["initContainers", "containers", "ephemeralContainers"]
        .into_iter()
        .flat_map(move |list| spec.list(list).iter().enumerate().map(move |(i, c)| (list, i, c)))
}

/// Labels of nodes that have newer names, and terms that match nothing.
fn nodes(spec: &Value, at: &str, out: &mut Warnings) {
    for (key, _) in spec.entries("nodeSelector") {
        if let Some(why) = node_label(key) {
            out.push(format!("{at}.nodeSelector[{key}]: {why}"));
        }
    }
    let affinity = spec.at("affinity").at("nodeAffinity");
    let at_affinity = || format!("{at}.affinity.nodeAffinity");
    const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
    const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
    for (i, term) in affinity.at(REQUIRED).list("nodeSelectorTerms").iter().enumerate() {
        let at = || format!("{}.{REQUIRED}.nodeSelectorTerms[{i}]", at_affinity());
        node_term(term, false, at, out);
    }
    for (i, term) in affinity.list(PREFERRED).iter().enumerate() {
        let at = || format!("{}.{PREFERRED}[{i}].preference", at_affinity());
        node_term(term.at("preference"), true, at, out);
    }
    for (i, constraint) in spec.list("topologySpreadConstraints").iter().enumerate() {
        let key = constraint.text("topologyKey");
        if let Some(why) = node_label(key) {
            out.push(format!("{at}.topologySpreadConstraints[{i}].topologyKey: {key} is {why}"));
        }
        if !constraint.has("labelSelector") {
            out.push(format!(
                "{at}.topologySpreadConstraints[{i}].labelSelector: a null labelSelector results in matching no pod"
            ));
        }
    }
}

fn node_term(term: &Value, values: bool, at: impl Fn() -> String, out: &mut Warnings) {
    for (i, expression) in term.list("matchExpressions").iter().enumerate() {
        let key = expression.text("key");
        if let Some(why) = node_label(key) {
            out.push(format!("{}.matchExpressions[{i}].key: {key} is {why}", at()));
        }
        for (j, value) in expression.texts("values").enumerate().filter(|_| values) {
            for why in names::label_value(value) {
                out.push(format!("{}.matchExpressions[{i}].values[{j}]: {value} is invalid, {why}", at()));
            }
        }
    }
}

fn annotations(pod: &Value, before: &str, out: &mut Warnings) {
    let (annotations, spec) = (pod.at("metadata").at("annotations"), pod.at("spec"));
    if annotations.is_null() {
        return;
    }
    let mut warn = |key: &str, why: &str| out.push(format!("{before}metadata.annotations[{key}]: {why}"));
    for (key, why) in OLD_ANNOTATIONS {
        if annotations.has(key) {
            warn(key, why);
        }
    }
    const POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
    if annotations.has(POD) && !spec.at("securityContext").has("seccompProfile") {
        warn(POD, SECCOMP);
    }
    for (_, _, c) in containers(spec) {
        let key = format!("container.seccomp.security.alpha.kubernetes.io/{}", c.text("name"));
        if annotations.has(&key) && !c.at("securityContext").has("seccompProfile") {
            warn(&key, SECCOMP);
        }
        let key = format!("{APPARMOR_KEY}{}", c.text("name"));
        if apparmor_by_annotation(pod, c, annotations.opt_text(&key), before.is_empty()) {
            warn(&key, "deprecated since v1.30; use the \"appArmorProfile\" field instead");
        }
    }
}

/// Whether an annotation asks for a profile that no field asked for. A pod has got the field from the
/// annotation already, unless the whole pod has the same profile.
fn apparmor_by_annotation(pod: &Value, c: &Value, annotation: Option<&str>, of_pod: bool) -> bool {
    let Some(annotation) = annotation else { return false };
    let (spec, own) = (pod.at("spec"), c.at("securityContext").at("appArmorProfile"));
    let (whole, asked) =
        (spec.at("securityContext").at("appArmorProfile"), super::apparmor_profile(annotation));
    if of_pod && spec.at("os").text("name") == "windows" {
        return false;
    }
    match asked {
        Some(asked) if of_pod && *own == asked => true,
        asked => own.is_null() && asked.as_ref() != Some(whole),
    }
}

fn volumes(spec: &Value, at: &str, out: &mut Warnings) {
    for (i, v) in spec.list("volumes").iter().enumerate() {
        for (kind, why) in OLD_VOLUMES.iter().filter(|(kind, _)| v.has(kind)) {
            let shown = if *kind == "storageos" { "storageOS" } else { kind };
            out.push(format!("{at}.volumes[{i}].{shown}: {why}"));
        }
        let claim = v.at("ephemeral").at("volumeClaimTemplate").at("spec");
        claim_spec(claim, || format!("{at}.volumes[{i}].ephemeral.volumeClaimTemplate.spec"), out);
        for source in v.at("projected").list("sources") {
            if source.as_object().is_some_and(|s| s.values().all(Value::is_null)) {
                out.push(format!("volume {:?} (Projected) has no sources provided", v.text("name")));
            }
        }
        overlaps(v, out);
    }
}

/// Files of one volume that would hide each other.
fn overlaps(volume: &Value, out: &mut Warnings) {
    let name = volume.text("name");
    let files = |v: &Value, source: &str| -> Vec<(String, String)> {
        let one = |f: &Value| (f.text("path").trim_end_matches('/').to_owned(), source.to_owned());
        v.list("items").iter().map(one).collect()
    };
    let mut check = |described: &str, files: Vec<(String, String)>| {
        for (i, file) in files.iter().enumerate() {
            for other in files[..i].iter().filter(|other| within(&file.0, &other.0)) {
                let text = format!("{} with {}", shown(file), shown(other));
                out.push(format!("volume {name:?} ({described}): overlapping paths: {text}"));
            }
        }
    };
    if volume.has("configMap") {
        let map = volume.at("configMap");
        check(&format!("ConfigMap {:?}", map.text("name")), files(map, ""));
    }
    if volume.has("secret") {
        let secret = volume.at("secret");
        check(&format!("Secret {:?}", secret.text("secretName")), files(secret, ""));
    }
    if volume.has("downwardAPI") {
        check("DownwardAPI", files(volume.at("downwardAPI"), ""));
    }
    let mut all = Vec::new();
    for source in volume.at("projected").list("sources") {
        let (map, secret) = (source.at("configMap"), source.at("secret"));
        all.extend(files(map, &format!("ConfigMap {:?}", map.text("name"))));
        all.extend(files(secret, &format!("Secret {:?}", secret.text("name"))));
        all.extend(files(source.at("downwardAPI"), "DownwardAPI"));
        if source.has("serviceAccountToken") {
            let path = source.at("serviceAccountToken").text("path");
            all.push((path.trim_end_matches('/').to_owned(), "ServiceAccountToken".to_owned()));
        }
    }
    check("Projected", all);
}

fn shown((path, source): &(String, String)) -> String {
    if source.is_empty() { format!("{path:?}") } else { format!("{path:?} ({source})") }
}

fn within(a: &str, b: &str) -> bool {
    let under = |inner: &str, outer: &str| {
        inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    !a.is_empty() && !b.is_empty() && (under(a, b) || under(b, a))
}

fn doubles(spec: &Value, at: &str, out: &mut Warnings) {
    for (list, field, word) in [("hostAliases", "ip", "ip"), ("imagePullSecrets", "name", "name")] {
        let mut seen = HashSet::new();
        for (i, item) in spec.list(list).iter().enumerate() {
            let value = item.text(field);
            if !seen.insert(value) {
                out.push(format!("{at}.{list}[{i}].{field}: duplicate {word} {value:?}"));
            }
            if list == "imagePullSecrets" && value.is_empty() {
                out.push(format!("{at}.{list}[{i}].{field}: invalid empty name \"\""));
            }
        }
    }
}

fn fractional(resources: &Value, at: &str, out: &mut Warnings) {
    for name in ["memory", "ephemeral-storage"] {
        let value = resources.at(name);
        if amount_value(value).is_some_and(|n| n % ONE != 0) {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            out.push(format!("{at}[{name}]: fractional byte value {text:?} is invalid, must be an integer"));
        }
    }
}

fn container(c: &Value, at: &str, out: &mut Warnings) {
    for list in ["limits", "requests"] {
        fractional(c.at("resources").at(list), &format!("{at}.resources.{list}"), out);
    }
    let mut seen = HashSet::new();
    for (i, var) in c.list("env").iter().enumerate() {
        let (name, value) = (var.text("name"), var.text("value"));
        if seen.insert(name) {
            continue;
        }
        let reference = format!("$({name})");
        if var.has("valueFrom") || value == reference || !value.contains(&reference) {
            out.push(format!(
                "{at}.env[{i}]: hides previous definition of {name:?}, which may be dropped when using apply"
            ));
        }
    }
}

fn ports(spec: &Value, at: &str, out: &mut Warnings) {
    let mut all: HashMap<(i64, &str), Vec<(String, &Value)>> = HashMap::new();
    let mut named = HashMap::new();
    let mut late = Warnings::new();
    for (list, i, c) in containers(spec) {
        for (j, port) in c.list("ports").iter().enumerate() {
            let at = format!("{at}.{list}[{i}].ports[{j}]");
            if !port.text("hostIP").is_empty() && port.int("hostPort") == 0 {
                out.push(format!("{at}: hostIP set without hostPort: {}", port_text(port)));
            }
            let others = all.entry((port.int("containerPort"), port.text("protocol"))).or_default();
            for (other_at, other) in others.iter() {
                if let Some(how) = conflict(port, other) {
                    out.push(format!("{at}: {how} port definition with {other_at}"));
                }
            }
            others.push((at.clone(), port));
            let name = port.text("name");
            if name.is_empty() {
                continue;
            }
            if let Some(other) = named.get(name) {
                late.push(format!(
                    "{at}: duplicate port name {name:?} with {other}, services and probes that select ports by name will use {other}"
                ));
            } else {
                named.insert(name, at);
            }
        }
    }
    out.append(&mut late);
}

/// As Go prints the struct.
fn port_text(port: &Value) -> String {
    let [name, protocol, ip] = ["name", "protocol", "hostIP"].map(|f| port.text(f));
    let container = port.int("containerPort");
    format!("{{Name:{name} HostPort:0 ContainerPort:{container} Protocol:{protocol} HostIP:{ip}}}")
}

fn conflict(port: &Value, other: &Value) -> Option<&'static str> {
    let (ip, other_ip) = (port.text("hostIP"), other.text("hostIP"));
    let (host, other_host) = (port.int("hostPort"), other.int("hostPort"));
    if ip == other_ip && host == other_host {
        Some("duplicate")
    } else if host == 0 || other_host == 0 {
        Some("overlapping")
    } else if host == other_host && ip.is_empty() != other_ip.is_empty() {
        Some("dangerously ambiguous")
    } else {
        None
    }
}

fn pod_affinity(spec: &Value, at: &str, out: &mut Warnings) {
    for side in ["podAffinity", "podAntiAffinity"] {
        let terms = spec.at("affinity").at(side);
        for (list, inner) in [
            ("requiredDuringSchedulingIgnoredDuringExecution", ""),
            ("preferredDuringSchedulingIgnoredDuringExecution", ".podAffinityTerm"),
        ] {
            for (i, term) in terms.list(list).iter().enumerate() {
                let term = if inner.is_empty() { term } else { term.at("podAffinityTerm") };
                if !term.has("labelSelector") {
                    out.push(format!(
                        "{at}.affinity.{side}.{list}[{i}]{inner}.labelSelector: a null labelSelector results in matching no pod"
                    ));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::json;

    #[test]
    fn warned_of() {
        let with = |key: &str, value: Value| {
            let mut spec = json!({"containers": [{"name": "a"}]});
            spec[key] = value;
            json!({"metadata": {"name": "a"}, "spec": spec})
        };
        for (o, want) in [
            (with("x", Value::Null), None),
            (
                json!({"metadata": {"name": "a.b"}}),
                Some(
                    "metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is recommended: [must not contain dots]",
                ),
            ),
            (
                with("nodeSelector", json!({"beta.kubernetes.io/os": "linux"})),
                Some(
                    "spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use \"kubernetes.io/os\" instead",
                ),
            ),
            (
                with("volumes", json!([{"name": "v", "gitRepo": {}}])),
                Some("spec.volumes[0].gitRepo: deprecated in v1.11, and disabled by default in v1.33+"),
            ),
            (
                with(
                    "volumes",
                    json!([{"name": "v", "configMap": {"name": "c", "items": [{"path": "a"}, {"path": "a/b"}]}}]),
                ),
                Some("volume \"v\" (ConfigMap \"c\"): overlapping paths: \"a/b\" with \"a\""),
            ),
            (
                with(
                    "containers",
                    json!([{"env": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]}]),
                ),
                Some(
                    "spec.containers[0].env[1]: hides previous definition of \"A\", which may be dropped when using apply",
                ),
            ),
            (
                with("containers", json!([{"ports": [{"containerPort": 1}, {"containerPort": 1}]}])),
                Some(
                    "spec.containers[0].ports[1]: duplicate port definition with spec.containers[0].ports[0]",
                ),
            ),
            (
                with("containers", json!([{"resources": {"limits": {"memory": "100m"}}}])),
                Some(
                    "spec.containers[0].resources.limits[memory]: fractional byte value \"100m\" is invalid, must be an integer",
                ),
            ),
        ] {
            assert_eq!(pod(&o).first().map(String::as_str), want);
        }
    }
}
