//! Probes and lifecycle hooks.

use super::container::Surroundings;
use crate::checks::{self, texts};
use crate::names;
use crate::value::Get;
use api::Value;
use api::field::{Error, ErrorList, Path};

pub fn lifecycle(c: &Value, around: &Surroundings<'_>, at: &Path, e: &mut ErrorList) {
    let hooks = c.at("lifecycle");
    for hook in ["postStart", "preStop"] {
        if hooks.has(hook) {
            let known = ["exec", "httpGet", "tcpSocket", "sleep"];
            handler(hooks.at(hook), &known, around.grace, &at.child(hook), e);
        }
    }
    if hooks.has("stopSignal") && !around.spec.has("os") {
        let text = "may not be set for containers with empty `spec.os.name`";
        e.push(Error::forbidden(&at.child("stopSignal"), text));
    }
}

pub fn probes(c: &Value, around: &Surroundings<'_>, at: &Path, e: &mut ErrorList) {
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let p = c.at(name);
        if p.is_null() {
            continue;
        }
        let at = at.child(name);
        handler(p, &["exec", "httpGet", "tcpSocket", "grpc"], around.grace, &at, e);
        for field in
            ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"]
        {
            checks::non_negative(p, field, &at, e);
        }
        let grace = p.opt_int("terminationGracePeriodSeconds");
        if let Some(n) = grace.filter(|n| *n <= 0) {
            e.push(Error::invalid(&at.child("terminationGracePeriodSeconds"), n, "must be greater than 0"));
        }
        if name == "readinessProbe" {
            if let Some(n) = grace {
                let text = "must not be set for readinessProbes";
                e.push(Error::invalid(&at.child("terminationGracePeriodSeconds"), n, text));
            }
        } else if p.int("successThreshold") != 1 {
            e.push(Error::invalid(&at.child("successThreshold"), p.int("successThreshold"), "must be 1"));
        }
    }
}

fn handler(h: &Value, known: &[&str], grace: Option<i64>, at: &Path, e: &mut ErrorList) {
    let mut found = 0;
    for kind in known {
        let action = h.at(kind);
        if action.is_null() {
            continue;
        }
        found += 1;
        let at = at.child(kind);
        if found > 1 {
            e.push(Error::forbidden(&at, "may not specify more than 1 handler type"));
            continue;
        }
        match *kind {
            "exec" => {
                checks::required(action, "command", &at, e);
            }
            "httpGet" => http_get(action, &at, e),
            "sleep" => {
                let (seconds, grace) = (action.int("seconds"), grace.unwrap_or(i64::MAX));
                if seconds < 0 || seconds > grace {
                    let text =
                        format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
                    e.push(Error::invalid(&at, seconds, text));
                }
            }
            _ => checks::port(action.at("port"), &at.child("port"), e),
        }
    }
    if found == 0 {
        e.push(Error::required(at, "must specify a handler type"));
    }
}

fn http_get(get: &Value, at: &Path, e: &mut ErrorList) {
    checks::required(get, "path", at, e);
    checks::port(get.at("port"), &at.child("port"), e);
    checks::one_of(get.text("scheme"), &["HTTP", "HTTPS"], &at.child("scheme"), e);
    for header in get.list("httpHeaders") {
        let name = header.text("name");
        texts(name, names::http_header(name), &at.child("httpHeaders"), e);
    }
}
