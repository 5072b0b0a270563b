//! Validation of claims, templates and classes; what the expressions say is for the scheduler.

use super::{DRIVER, bindings, fully_qualified, pool_name, set, taint_effect};
use crate::metadata::{conditions, label_key, unchanged};
use crate::pod::validate::{node_selector, template_metadata};
use crate::value::{Get, same};
use crate::{Context, checks, names};
use api::Value;
use api::field::{Error, ErrorList, Path};
use std::collections::{HashMap, HashSet};

const REQUESTS: usize = 32;
const CONSTRAINTS: usize = 32;
const CONFIGS: usize = 32;
const ALTERNATIVES: usize = 8;
const SELECTORS: usize = 32;
const CONSUMERS: usize = 256;
const EXPRESSION: usize = 10 << 10;
const PARAMETERS: usize = 10 << 10;

pub fn claim(cx: &Context<'_>, new: &Value, old: Option<&Value>, e: &mut ErrorList) {
    let at = Path::new("spec");
    match old {
        Some(old) if cx.subresource == "status" => status(new, old, &Path::new("status"), e),
        Some(old) => unchanged(new.at("spec"), old.at("spec"), &at, e),
        None => devices(new.at("spec").at("devices"), &at.child("devices"), e),
    }
}

pub fn template(_: &Context<'_>, new: &Value, old: Option<&Value>, e: &mut ErrorList) {
    let (spec, at) = (new.at("spec"), Path::new("spec"));
    if let Some(old) = old {
        unchanged(spec, old.at("spec"), &at, e);
    }
    template_metadata(spec.at("metadata"), &at.child("metadata"), e);
    devices(spec.at("spec").at("devices"), &at.child("spec").child("devices"), e);
}

pub fn class(_: &Context<'_>, new: &Value, _: Option<&Value>, e: &mut ErrorList) {
    let (spec, at) = (new.at("spec"), Path::new("spec"));
    set(spec.list("selectors"), SELECTORS, |_| None, &at.child("selectors"), e, selector);
    set(spec.list("config"), CONFIGS, |_| None, &at.child("config"), e, opaque);
    if let Some(name) = spec.opt_text("extendedResourceName").filter(|n| !checks::is_extended_resource(n)) {
        let text = "must be a valid extended resource name";
        e.push(Error::invalid(&at.child("extendedResourceName"), name, text));
    }
}

/// The names of requests, each with those of its alternatives.
type Requests<'a> = HashMap<&'a str, HashSet<&'a str>>;

fn requests(devices: &Value) -> Requests<'_> {
    devices
        .list("requests")
        .iter()
        .map(|r| (r.text("name"), r.list("firstAvailable").iter().map(|s| s.text("name")).collect()))
        .collect()
}

fn devices(devices: &Value, at: &Path, e: &mut ErrorList) {
    let known = requests(devices);
    set(devices.list("requests"), REQUESTS, by_name, &at.child("requests"), e, request);
    set(
        devices.list("constraints"),
        CONSTRAINTS,
        |_| None,
        &at.child("constraints"),
        e,
        |c, at, e| {
            references(c, &known, at, e);
            match (c.opt_text("matchAttribute"), c.opt_text("distinctAttribute")) {
                (Some(name), _) => fully_qualified(name, &at.child("matchAttribute"), e),
                (_, Some(name)) => fully_qualified(name, &at.child("distinctAttribute"), e),
                _ => {
                    let text = "exactly one of \"matchAttribute\" or \"distinctAttribute\" is required, but multiple fields are set";
                    e.push(Error::required(at, text));
                }
            }
        },
    );
    set(
        devices.list("config"),
        CONFIGS,
        |_| None,
        &at.child("config"),
        e,
        |c, at, e| {
            references(c, &known, at, e);
            opaque(c, at, e);
        },
    );
}

fn by_name(v: &Value) -> Option<String> {
    Some(v.text("name").to_owned())
}

fn request(r: &Value, at: &Path, e: &mut ErrorList) {
    checks::label(r.text("name"), &at.child("name"), e);
    let alternatives = r.list("firstAvailable");
    match (r.has("exactly"), !alternatives.is_empty()) {
        (false, false) => {
            e.push(Error::required(at, "exactly one of `exactly` or `firstAvailable` is required"));
        }
        (true, true) => {
            let text =
                "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set";
            e.push(Error::invalid(at, Value::Null, text));
        }
        (true, false) => exact(r.at("exactly"), &at.child("exactly"), e),
        (false, true) => {
            set(alternatives, ALTERNATIVES, by_name, &at.child("firstAvailable"), e, |s, at, e| {
                checks::label(s.text("name"), &at.child("name"), e);
                exact(s, at, e);
            });
        }
    }
}

fn exact(r: &Value, at: &Path, e: &mut ErrorList) {
    if checks::required(r, "deviceClassName", at, e) {
        checks::subdomain(r.text("deviceClassName"), &at.child("deviceClassName"), e);
    }
    set(r.list("selectors"), SELECTORS, |_| None, &at.child("selectors"), e, selector);
    let (mode, count) = (r.text("allocationMode"), r.int("count"));
    match mode {
        "All" if count != 0 => {
            let text = format!("must not be specified when allocationMode is '{mode}'");
            e.push(Error::invalid(&at.child("count"), count, text));
        }
        "ExactCount" => checks::positive(count, &at.child("count"), e),
        _ => checks::one_of(mode, &["All", "ExactCount"], &at.child("allocationMode"), e),
    }
    for (i, t) in r.list("tolerations").iter().enumerate() {
        toleration(t, &at.child("tolerations").index(i), e);
    }
}

fn toleration(t: &Value, at: &Path, e: &mut ErrorList) {
    let (value, at_value) = (t.text("value"), at.child("value"));
    if t.len("key") > 0 {
        label_key(t.text("key"), &at.child("key"), e);
    }
    match t.text("operator") {
        "Exists" if !value.is_empty() => {
            e.push(Error::invalid(&at_value, value, "must be empty for operator `Exists`"));
        }
        "Equal" => checks::texts(value, names::label_value(value), &at_value, e),
        operator => checks::one_of_required(operator, &["Equal", "Exists"], &at.child("operator"), e),
    }
    if t.len("effect") > 0 {
        taint_effect(t, at, e);
    }
}

fn selector(s: &Value, at: &Path, e: &mut ErrorList) {
    let at = at.child("cel");
    if !s.has("cel") {
        e.push(Error::required(&at, ""));
    } else if s.at("cel").text("expression").len() > EXPRESSION {
        e.push(Error::too_long(&at.child("expression"), EXPRESSION));
    } else {
        let text = s.at("cel").text("expression");
        if let Err(why) = expressions::device::compile(text) {
            e.push(Error::invalid(&at.child("expression"), text, why));
        }
    }
}

/// The requests that a constraint or configuration is for.
fn references(v: &Value, known: &Requests<'_>, at: &Path, e: &mut ErrorList) {
    let whole = |v: &Value| v.as_str().map(str::to_owned);
    set(v.list("requests"), REQUESTS, whole, &at.child("requests"), e, |name, at, e| {
        reference(name.as_str().unwrap_or_default(), known, at, e);
    });
}

fn reference(name: &str, known: &Requests<'_>, at: &Path, e: &mut ErrorList) {
    let text = "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";
    let parts: Vec<&str> = name.split('/').collect();
    if parts.len() <= 2 {
        parts.iter().for_each(|part| checks::label(part, at, e));
    }
    let found = match parts[..] {
        [request] => known.contains_key(request),
        [request, inner] => known.get(request).is_some_and(|r| r.contains(inner)),
        _ => false,
    };
    if !found {
        e.push(Error::invalid(at, name, text));
    }
}

fn opaque(config: &Value, at: &Path, e: &mut ErrorList) {
    let at = at.child("opaque");
    if !config.has("opaque") {
        return e.push(Error::required(&at, ""));
    }
    let opaque = config.at("opaque");
    DRIVER(opaque.text("driver"), &at.child("driver"), e);
    raw_object(opaque.at("parameters"), PARAMETERS, &at.child("parameters"), e);
}

fn raw_object(value: &Value, longest: usize, at: &Path, e: &mut ErrorList) {
    match value {
        Value::Null => e.push(Error::required(at, "")),
        Value::Object(_) if value.to_string().len() > longest => e.push(Error::too_long(at, longest)),
        Value::Object(_) => {}
        _ => e.push(Error::invalid(at, "<value omitted>", "must be a valid JSON object")),
    }
}

fn status(new: &Value, old: &Value, at: &Path, e: &mut ErrorList) {
    let (status, before) = (new.at("status"), old.at("status"));
    let consumers = at.child("reservedFor");
    let uid = |r: &Value| Some(r.text("uid").to_owned());
    set(status.list("reservedFor"), CONSUMERS, uid, &consumers, e, |r, at, e| {
        for field in ["resource", "name", "uid"] {
            checks::required(r, field, at, e);
        }
    });
    let allocation = status.at("allocation");
    let results = allocation.at("devices").list("results");
    set(
        status.list("devices"),
        usize::MAX,
        |d| Some(device_id(d)),
        &at.child("devices"),
        e,
        |d, at, e| {
            device_status(d, results, at, e);
        },
    );
    if status.len("reservedFor") > 0 {
        let added = || {
            status.list("reservedFor").iter().any(|r| !before.list("reservedFor").iter().any(|o| same(r, o)))
        };
        if allocation.is_null() {
            let text = "may not be specified when `allocated` is not set";
            e.push(Error::forbidden(&consumers, text));
        } else if new.at("metadata").has("deletionTimestamp") && added() {
            let text =
                "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set";
            e.push(Error::forbidden(&consumers, text));
        }
    }
    let at = at.child("allocation");
    if allocation.is_null() {
        return;
    }
    if before.has("allocation") {
        return unchanged(allocation, before.at("allocation"), &at, e);
    }
    allocated(allocation, &requests(new.at("spec").at("devices")), &at, e);
}

fn device_id(d: &Value) -> String {
    let id = format!("{}/{}/{}", d.text("driver"), d.text("pool"), d.text("device"));
    match d.opt_text("shareID") {
        Some(share) => format!("{id}/{share}"),
        None => id,
    }
}

fn device_status(d: &Value, allocated: &[Value], at: &Path, e: &mut ErrorList) {
    const CONDITIONS: usize = 8;
    DRIVER(d.text("driver"), &at.child("driver"), e);
    pool_name(d.text("pool"), &at.child("pool"), e);
    checks::label(d.text("device"), &at.child("device"), e);
    let id = device_id(d);
    if !allocated.iter().any(|r| device_id(r) == id) {
        e.push(Error::invalid(at, id, "must be an allocated device in the claim"));
    }
    let list = d.list("conditions");
    if list.len() > CONDITIONS {
        e.push(Error::too_many(&at.child("conditions"), list.len(), CONDITIONS));
    }
    conditions(list, &at.child("conditions"), e);
    if d.has("data") {
        raw_object(d.at("data"), PARAMETERS, &at.child("data"), e);
    }
    let (network, at) = (d.at("networkData"), at.child("networkData"));
    for (field, longest) in [("interfaceName", 256), ("hardwareAddress", 128)] {
        if network.len(field) > longest {
            e.push(Error::too_long(&at.child(field), longest));
        }
    }
    let text = |v: &Value| v.as_str().map(str::to_owned);
    set(network.list("ips"), 16, text, &at.child("ips"), e, |ip, at, e| {
        let ip = ip.as_str().unwrap_or_default();
        if ip.parse::<ipnet::IpNet>().is_err() {
            let text = "must be a valid address in CIDR form, (e.g. 10.9.8.7/24 or 2001:db8::1/64)";
            e.push(Error::invalid(at, ip, text));
        }
    });
}

fn allocated(allocation: &Value, known: &Requests<'_>, at: &Path, e: &mut ErrorList) {
    let (devices, at_devices) = (allocation.at("devices"), at.child("devices"));
    set(
        devices.list("results"),
        REQUESTS,
        |_| None,
        &at_devices.child("results"),
        e,
        |r, at, e| {
            reference(r.text("request"), known, &at.child("request"), e);
            DRIVER(r.text("driver"), &at.child("driver"), e);
            pool_name(r.text("pool"), &at.child("pool"), e);
            checks::label(r.text("device"), &at.child("device"), e);
            bindings(r, at, e);
        },
    );
    set(
        devices.list("config"),
        2 * CONFIGS,
        |_| None,
        &at_devices.child("config"),
        e,
        |c, at, e| {
            let source = c.text("source");
            checks::one_of_required(source, &["FromClaim", "FromClass"], &at.child("source"), e);
            references(c, known, at, e);
            opaque(c, at, e);
        },
    );
    if allocation.has("nodeSelector") {
        node_selector(allocation.at("nodeSelector"), &at.child("nodeSelector"), e);
    }
}
