//! API services: which server answers for a group and version.

use crate::metadata::{Checks, Names, must_be};
use crate::prepare::Plan;
use crate::table::{age, condition, name};
use crate::value::{Get, Put};
use crate::{Context, Kind, PLAIN, checks, names};
use api::Value;
use api::field::{Error, ErrorList, Path};

pub static API_SERVICE: Kind = Kind {
    names: Names::PathSegment,
    defaults: |o| {
        if let Some(service) = o.sub("spec").and_then(|s| s.sub("service")) {
            service.fill("port", 443);
        }
    },
    plan: Plan::STATUS,
    validate,
    row: Some(row),
    any_finalizer: true,
    unconditional_update: false,
    metadata_checks: Checks::BOTH,
    ..PLAIN
};

fn row(o: &Value) -> Vec<Value> {
    let service = match o.at("spec").at("service") {
        Value::Null => "Local".to_owned(),
        s => format!("{}/{}", s.text("namespace"), s.text("name")),
    };
    let available = match condition(o.at("status"), "Available") {
        None => "Unknown".to_owned(),
        Some(c) if c.text("status") == "True" => "True".to_owned(),
        Some(c) => format!("{} ({})", c.text("status"), c.text("reason")),
    };
    vec![name(o), service.into(), available.into(), age(o)]
}

fn validate(cx: &Context<'_>, new: &Value, _: Option<&Value>, e: &mut ErrorList) {
    if cx.subresource == "status" {
        let at = Path::new("status").child("conditions");
        for (i, c) in new.at("status").list("conditions").iter().enumerate() {
            checks::one_of(c.text("status"), &["True", "False", "Unknown"], &at.index(i).child("status"), e);
        }
        return;
    }
    let (spec, at) = (new.at("spec"), Path::new("spec"));
    let (group, version) = (spec.text("group"), spec.text("version"));
    let wanted = format!("{version}.{group}");
    let text = format!("must be `spec.version+\".\"+spec.group`: {wanted:?}");
    must_be(new.at("metadata"), |name| name == wanted, &text, e);
    if group.is_empty() {
        if version != "v1" {
            let text = "only v1 may have an empty group and it better be legacy kube";
            e.push(Error::required(&at.child("group"), text));
        }
    } else {
        checks::subdomain(group, &at.child("group"), e);
    }
    checks::texts(version, names::dns1035_label(version), &at.child("version"), e);
    for (field, most) in [("groupPriorityMinimum", 20_000), ("versionPriority", 1_000)] {
        let n = spec.int(field);
        if !(1..=most).contains(&n) {
            e.push(Error::invalid(&at.child(field), n, format!("must be positive and less than {most}")));
        }
    }
    transport(spec, &at, e);
}

fn transport(spec: &Value, at: &Path, e: &mut ErrorList) {
    let (insecure, skip) = (spec.flag("insecureSkipTLSVerify"), at.child("insecureSkipTLSVerify"));
    let bundle = spec.text("caBundle");
    if !spec.has("service") {
        if !bundle.is_empty() {
            let bytes = bundle.trim_end_matches('=').len() * 3 / 4;
            let text = "local APIServices may not have a caBundle";
            e.push(Error::invalid(&at.child("caBundle"), format!("{bytes} bytes"), text));
        }
        if insecure {
            e.push(Error::invalid(&skip, true, "local APIServices may not have insecureSkipTLSVerify"));
        }
        return;
    }
    let (service, at) = (spec.at("service"), at.child("service"));
    checks::required(service, "namespace", &at, e);
    checks::required(service, "name", &at, e);
    let port = service.int("port");
    let wrong = names::port_number(port);
    if !wrong.is_empty() {
        let text = format!("port is not valid: {}", wrong.join(", "));
        e.push(Error::invalid(&at.child("port"), port, text));
    }
    if insecure && !bundle.is_empty() {
        e.push(Error::invalid(&skip, true, "may not be true if caBundle is present"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Room;
    use api::json;

    #[test]
    fn checked() {
        let service = |name: &str, key: &str, value: Value| {
            let mut spec = json!({
                "group": "a.b", "version": "v1", "groupPriorityMinimum": 100, "versionPriority": 10,
                "service": {"name": "s", "namespace": "n"},
            });
            spec.set(key, value);
            json!({"metadata": {"name": name}, "spec": spec})
        };
        for (mut o, want) in [
            (service("v1.a.b", "x", Value::Null), ""),
            (
                service("a", "x", Value::Null),
                "metadata.name: Invalid value: \"a\": must be `spec.version+\".\"+spec.group`: \"v1.a.b\"",
            ),
            (
                service("v1.a.b", "versionPriority", json!(1001)),
                "spec.versionPriority: Invalid value: 1001: must be positive and less than 1000",
            ),
            (service("v1.a.b", "service", json!({"name": "s"})), "spec.service.namespace: Required value"),
        ] {
            API_SERVICE.defaults(&mut o);
            let got = API_SERVICE.validate(&Context::default(), &o, None);
            let first = got.first().map(ToString::to_string).unwrap_or_default();
            assert!(first.starts_with(want) && first.is_empty() == want.is_empty(), "{first}");
        }
    }
}
