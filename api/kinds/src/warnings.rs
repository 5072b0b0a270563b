//! Texts for `Warning:` headers that several kinds share.

use crate::Context;
use crate::checks::sloppy_ip;
use crate::names;
use crate::pod::warnings::template;
use crate::value::{Get, ONE, amount_value, same};
use api::Value;
use std::net::IpAddr;

pub type Warnings = Vec<String>;

/// The name of what makes pods becomes part of host names.
pub fn name_in_pods(object: &Value) -> Warnings {
    let messages = names::dns_label(object.at("metadata").text("name"));
    if messages.is_empty() {
        return Vec::new();
    }
    vec![format!(
        "metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is recommended: [{}]",
        messages.join(" ")
    )]
}

/// Of the template of a workload, when it is new or changed.
pub fn of_template(new: &Value, old: Option<&Value>, out: &mut Warnings) {
    let made_of = new.at("spec").at("template");
    if old.is_none_or(|o| !same(o.at("spec").at("template"), made_of)) {
        template(made_of, "spec.template", out);
    }
}

/// Of a claim's sizes.
pub fn claim_spec(spec: &Value, at: impl Fn() -> String, out: &mut Warnings) {
    for list in ["requests", "limits"] {
        let value = spec.at("resources").at(list).at("storage");
        if amount_value(value).is_some_and(|n| n % ONE != 0) {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            out.push(format!(
                "{}.resources.{list}[storage]: fractional byte value {text:?} is invalid, must be an integer",
                at()
            ));
        }
    }
}

/// Why a label of nodes should not be used any more.
pub fn node_label(key: &str) -> Option<&'static str> {
    Some(match key {
        "beta.kubernetes.io/arch" => "deprecated since v1.14; use \"kubernetes.io/arch\" instead",
        "beta.kubernetes.io/os" => "deprecated since v1.14; use \"kubernetes.io/os\" instead",
        "failure-domain.beta.kubernetes.io/region" => {
            "deprecated since v1.17; use \"topology.kubernetes.io/region\" instead"
        }
        "failure-domain.beta.kubernetes.io/zone" => {
            "deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead"
        }
        "beta.kubernetes.io/instance-type" => {
            "deprecated since v1.17; use \"node.kubernetes.io/instance-type\" instead"
        }
        "app.kubernetes.io/created-by" => "deprecated since v1.9",
        "scheduler.alpha.kubernetes.io/preferAvoidPods" => {
            "deprecated since v1.22; use Taints and Tolerations instead"
        }
        "node-role.kubernetes.io/master" => "use \"node-role.kubernetes.io/control-plane\" instead",
        _ => return None,
    })
}

/// Of expressions that ask for labels of nodes that should not be used any more.
pub fn node_expressions(term: &Value, at: &str, out: &mut Warnings) {
    for (i, expression) in term.list("matchExpressions").iter().enumerate() {
        let key = expression.text("key");
        if let Some(why) = node_label(key) {
            out.push(format!("{at}.matchExpressions[{i}].key: {key} is {why}"));
        }
    }
}

/// Of annotations that fields have taken the place of.
pub fn annotations(object: &Value, deprecated: &[(&str, &str)], out: &mut Warnings) {
    for (key, why) in deprecated {
        if object.at("metadata").at("annotations").has(key) {
            out.push(format!("metadata.annotations[{key}]: {why}"));
        }
    }
}

/// Of an address that is not written as it should be.
pub fn address(text: &str, at: impl Fn() -> String, out: &mut Warnings) {
    match text.parse::<IpAddr>() {
        Ok(IpAddr::V6(v6)) if v6.to_ipv4_mapped().is_none() => {
            if v6.to_string() != text {
                out.push(format!(
                    "{}: IPv6 address {text:?} should be in RFC 5952 canonical format (\"{v6}\")",
                    at()
                ));
            }
        }
        Ok(IpAddr::V4(_)) => {}
        _ => {
            if let Some(better) = sloppy_ip(text) {
                out.push(format!("{}: non-standard IP address {text:?} is invalid: use \"{better}\"", at()));
            }
        }
    }
}

/// Of a workload that makes pods from `spec.template`.
pub fn workload(cx: &Context<'_>, new: &Value, old: Option<&Value>) -> Warnings {
    let mut out = Warnings::new();
    if cx.subresource.is_empty() {
        of_template(new, old, &mut out);
    }
    out
}

/// As [`workload`], for those whose name becomes part of their pods' names as it is.
pub fn named_workload(cx: &Context<'_>, new: &Value, old: Option<&Value>) -> Warnings {
    let mut out = if old.is_none() { name_in_pods(new) } else { Warnings::new() };
    out.append(&mut workload(cx, new, old));
    out
}

/// Of what a job is asked for.
pub fn job_spec(spec: &Value, at: &str, out: &mut Warnings) {
    let many = spec.int("completions") > 100_000 && spec.int("parallelism") > 10_000;
    if many && spec.text("completionMode") == "Indexed" {
        out.push(format!(
            "{at}: In Indexed Jobs with a number of completions higher than 10^5 and a parallelism higher than 10^4, Kubernetes might not be able to track completedIndexes when a big number of indexes fail"
        ));
    }
    template(spec.at("template"), &format!("{at}.template"), out);
}
