//! Ingresses and their classes.

use crate::Context;
use crate::checks::{self, texts};
use crate::metadata::{Checks, immutable};
use crate::names;
use crate::prepare::Plan;
use crate::table::{NONE, age, load_balancer, name};
use crate::value::{Get, Put};
use crate::{Kind, PLAIN};
use api::Value;
use api::field::{Error, ErrorList, Path};

pub static ROOM: Kind =
    Kind { plan: Plan::FULL, validate, warnings, row: Some(row), metadata_checks: Checks::BOTH, ..PLAIN };
pub static CLASS: Kind = Kind {
    defaults: |o| {
        if let Some(p) = o.sub("spec").and_then(|s| s.sub("parameters")) {
            p.fill("scope", "Cluster");
        }
    },
    plan: Plan::GENERATION,
    validate: validate_class,
    row: Some(class_row),
    metadata_checks: Checks::BOTH,
    ..PLAIN
};

fn warnings(_: &Context<'_>, new: &Value, old: Option<&Value>) -> Vec<String> {
    const CLASS: &str = "kubernetes.io/ingress.class";
    let asked = new.at("metadata").at("annotations").has(CLASS) && !new.at("spec").has("ingressClassName");
    if old.is_none() && asked {
        return vec![format!(
            "annotation {CLASS:?} is deprecated, please use 'spec.ingressClassName' instead"
        )];
    }
    Vec::new()
}

fn row(o: &Value) -> Vec<Value> {
    let spec = o.at("spec");
    vec![
        name(o),
        spec.opt_text("ingressClassName").unwrap_or(NONE).into(),
        hosts(spec.list("rules")).into(),
        load_balancer(o.at("status")).into(),
        if spec.len("tls") > 0 { "80, 443" } else { "80" }.into(),
        age(o),
    ]
}

fn hosts(rules: &[Value]) -> String {
    let mut shown: Vec<&str> = Vec::new();
    let mut more = false;
    for rule in rules {
        more |= shown.len() == 3;
        if !more && !rule.text("host").is_empty() {
            shown.push(rule.text("host"));
        }
    }
    match (shown.is_empty(), more) {
        (true, _) => "*".to_owned(),
        (_, true) => format!("{} + {} more...", shown.join(","), rules.len() - 3),
        _ => shown.join(","),
    }
}

fn class_row(o: &Value) -> Vec<Value> {
    let p = o.at("spec").at("parameters");
    let parameters = match (p.is_null(), p.opt_text("apiGroup")) {
        (true, _) => NONE.to_owned(),
        (_, Some(group)) => format!("{}.{group}/{}", p.text("kind"), p.text("name")),
        _ => format!("{}/{}", p.text("kind"), p.text("name")),
    };
    let annotations = o.at("metadata").at("annotations");
    let default = annotations.text("ingressclass.kubernetes.io/is-default-class") == "true";
    let name = o.at("metadata").text("name");
    let shown = if default { format!("{name} (default)") } else { name.to_owned() };
    vec![shown.into(), o.at("spec").text("controller").into(), parameters.into(), age(o)]
}

fn validate(cx: &Context<'_>, new: &Value, old: Option<&Value>, e: &mut ErrorList) {
    if cx.subresource == "status" {
        return validate_status(new, old.unwrap_or(&Value::Null), e);
    }
    let (spec, at) = (new.at("spec"), Path::new("spec"));
    if spec.len("rules") == 0 && !spec.has("defaultBackend") {
        let text = "either `defaultBackend` or `rules` must be specified";
        e.push(Error::invalid(&at, spec.at("rules").clone(), text));
    }
    if spec.has("defaultBackend") {
        validate_backend(spec.at("defaultBackend"), &at.child("defaultBackend"), e);
    }
    for (i, rule) in spec.list("rules").iter().enumerate() {
        validate_rule(rule, &at.child("rules").index(i), e);
    }
    for (i, tls) in spec.list("tls").iter().enumerate() {
        let at = at.child("tls").index(i);
        for (j, host) in tls.texts("hosts").enumerate() {
            validate_host(host, &at.child("hosts").index(j), e);
        }
        if !tls.text("secretName").is_empty() {
            checks::subdomain(tls.text("secretName"), &at.child("secretName"), e);
        }
    }
    if let Some(class) = spec.opt_text("ingressClassName") {
        checks::subdomain(class, &at.child("ingressClassName"), e);
        const ANNOTATION: &str = "kubernetes.io/ingress.class";
        let annotation = new.at("metadata").at("annotations").opt_text(ANNOTATION);
        if let Some(annotation) = annotation.filter(|a| old.is_none() && *a != class) {
            let text = "must match `ingressClassName` when both are specified";
            e.push(Error::invalid(&Path::new("annotations").child(ANNOTATION), annotation, text));
        }
    }
}

/// A host name, or `*.` and one.
fn validate_host(host: &str, at: &Path, e: &mut ErrorList) {
    let messages =
        if host.contains('*') { names::wildcard_subdomain(host) } else { names::dns_subdomain(host) };
    texts(host, messages, at, e);
}

fn validate_rule(rule: &Value, at: &Path, e: &mut ErrorList) {
    let host = rule.text("host");
    if !host.is_empty() {
        if host.parse::<std::net::IpAddr>().is_ok() {
            let text = "must be a DNS name, not an IP address";
            e.push(Error::invalid(&at.child("host"), host, text));
        }
        validate_host(host, &at.child("host"), e);
    }
    if !rule.has("http") {
        return;
    }
    let at = at.child("http");
    checks::required(rule.at("http"), "paths", &at, e);
    for (i, path) in rule.at("http").list("paths").iter().enumerate() {
        validate_path(path, &at.child("paths").index(i), e);
    }
}

fn validate_path(path: &Value, at: &Path, e: &mut ErrorList) {
    let (text, at_path) = (path.text("path"), at.child("path"));
    let mut bad = |why: String| e.push(Error::invalid(&at_path, text, why));
    match path.opt_text("pathType") {
        None => {
            e.push(Error::required(&at.child("pathType"), "pathType must be specified"));
            return;
        }
        Some("Exact" | "Prefix") => {
            if !text.starts_with('/') {
                bad("must be an absolute path".into());
            }
            for part in ["//", "/./", "/../", "%2f", "%2F"].iter().filter(|p| text.contains(**p)) {
                bad(format!("must not contain '{part}'"));
            }
            for end in ["/..", "/."].iter().filter(|p| text.ends_with(**p)) {
                bad(format!("cannot end with '{end}'"));
            }
        }
        Some("ImplementationSpecific") => {
            if !text.is_empty() && !text.starts_with('/') {
                bad("must be an absolute path".into());
            }
        }
        Some(other) => {
            let known = ["Exact", "ImplementationSpecific", "Prefix"];
            e.push(Error::not_supported(&at.child("pathType"), other, &known));
        }
    }
    validate_backend(path.at("backend"), &at.child("backend"), e);
}

fn validate_backend(backend: &Value, at: &Path, e: &mut ErrorList) {
    let (resource, service) = (backend.at("resource"), backend.at("service"));
    match (resource.is_null(), service.is_null()) {
        (false, false) => e.push(Error::invalid(at, "", "cannot set both resource and service backends")),
        (true, true) => e.push(Error::invalid(at, "", "resource or service backend is required")),
        (false, true) => validate_reference(resource, &at.child("resource"), e),
        (true, false) => {
            let (at_service, port) = (at.child("service"), service.at("port"));
            if checks::required(service, "name", &at_service, e) {
                checks::label(service.text("name"), &at_service.child("name"), e);
            }
            match (port.text("name"), port.int("number")) {
                ("", 0) => e.push(Error::required(at, "port name or number is required")),
                ("", n) => texts(n, names::port_number(n), &at_service.child("port").child("number"), e),
                (name, 0) => texts(name, names::port_name(name), &at_service.child("port").child("name"), e),
                _ => e.push(Error::invalid(at, "", "cannot set both port name & port number")),
            }
        }
    }
}

/// Group, kind and name of some other object.
fn validate_reference(reference: &Value, at: &Path, e: &mut ErrorList) {
    if let Some(group) = reference.opt_text("apiGroup") {
        checks::subdomain(group, &at.child("apiGroup"), e);
    }
    for field in ["kind", "name"] {
        if checks::required(reference, field, at, e) {
            let text = reference.text(field);
            texts(text, names::path_segment(text, false), &at.child(field), e);
        }
    }
}

fn validate_status(new: &Value, old: &Value, e: &mut ErrorList) {
    let list = |o: &Value| o.at("status").at("loadBalancer").list("ingress").to_vec();
    let before = list(old);
    let stored: Vec<&str> = before.iter().map(|i| i.text("ip")).collect();
    for (i, ingress) in list(new).iter().enumerate() {
        let at = Path::new("status").child("loadBalancer").child("ingress").index(i);
        let (ip, host) = (ingress.text("ip"), ingress.text("hostname"));
        if !ip.is_empty() {
            checks::legacy_ip(ip, &stored, &at.child("ip"), e);
        }
        if !host.is_empty() {
            checks::subdomain(host, &at.child("hostname"), e);
            if host.parse::<std::net::IpAddr>().is_ok() {
                e.push(Error::invalid(&at.child("hostname"), host, "must be a DNS name, not an IP address"));
            }
        }
    }
}

fn validate_class(_: &Context<'_>, new: &Value, old: Option<&Value>, e: &mut ErrorList) {
    let (spec, at) = (new.at("spec"), Path::new("spec"));
    if let Some(old) = old {
        immutable(spec.at("controller"), old.at("spec").at("controller"), &at.child("controller"), e);
    }
    if spec.len("controller") > 250 {
        e.push(Error::too_long(&at.child("controller"), 250));
    }
    checks::domain_prefixed_path(spec.text("controller"), &at.child("controller"), e);
    let parameters = spec.at("parameters");
    if parameters.is_null() {
        return;
    }
    let at = at.child("parameters");
    validate_reference(parameters, &at, e);
    let namespace = parameters.opt_text("namespace");
    match (parameters.text("scope"), namespace) {
        ("Namespace", None) => {
            e.push(Error::required(&at.child("namespace"), "`parameters.scope` is set to 'Namespace'"));
        }
        ("Namespace", Some(ns)) => checks::label(ns, &at.child("namespace"), e),
        ("Cluster", Some(_)) => {
            e.push(Error::forbidden(&at.child("namespace"), "`parameters.scope` is set to 'Cluster'"));
        }
        ("Cluster", None) => {}
        (other, _) => e.push(Error::not_supported(&at.child("scope"), other, &["Cluster", "Namespace"])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Room;
    use api::json;

    #[test]
    fn checked() {
        let backend = json!({"service": {"name": "s", "port": {"number": 80}}});
        let path = |path: &str, kind: &str| json!({"rules": [{"host": "a.b", "http": {"paths": [{"path": path, "pathType": kind, "backend": backend}]}}]});
        for (spec, want) in [
            (path("/", "Prefix"), ""),
            (json!({"defaultBackend": backend}), ""),
            (json!({}), "spec: Invalid value: null: either `defaultBackend` or `rules` must be specified"),
            (
                path("a", "Exact"),
                "spec.rules[0].http.paths[0].path: Invalid value: \"a\": must be an absolute path",
            ),
            (
                path("/a//b", "Exact"),
                "spec.rules[0].http.paths[0].path: Invalid value: \"/a//b\": must not contain '//'",
            ),
            (path("/", "Regex"), "spec.rules[0].http.paths[0].pathType: Unsupported value: \"Regex\""),
            (
                json!({"defaultBackend": {"service": {"name": "s"}}}),
                "spec.defaultBackend: Required value: port name or number is required",
            ),
            (
                json!({"rules": [{"host": "1.2.3.4"}]}),
                "spec.rules[0].host: Invalid value: \"1.2.3.4\": must be a DNS name, not an IP address",
            ),
        ] {
            let got = ROOM.validate(&Context::default(), &json!({"spec": spec}), None);
            let first = got.first().map(ToString::to_string).unwrap_or_default();
            assert!(first.starts_with(want) && first.is_empty() == want.is_empty(), "{first}");
        }
    }
}
