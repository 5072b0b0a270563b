//! Validation of what drivers publish, and of taints put on devices.

use super::{DRIVER, bindings, pool_name, qualified, set, taint_effect};
use crate::metadata::{immutable, label_key};
use crate::pod::validate::node_selector;
use crate::value::{Get, same};
use crate::{Context, checks, names};
use api::Value;
use api::field::{Error, ErrorList, Path};
use regex::Regex;
use std::sync::LazyLock;

const DEVICES: usize = 128;
const ADVANCED_DEVICES: usize = 64;
const COUNTER_SETS: usize = 8;
const COUNTERS: usize = 32;
const CONSUMED_SETS: usize = 2;
const ATTRIBUTES: usize = 32;
const TAINTS: usize = 16;
const LONGEST_VALUE: usize = 64;

static VERSION: LazyLock<Regex> = LazyLock::new(|| {
    let pre = r"(0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*)";
    let build = "[0-9a-zA-Z-]+";
    let n = r"(0|[1-9]\d*)";
    let text = format!(r"^{n}\.{n}\.{n}(-{pre}(\.{pre})*)?(\+{build}(\.{build})*)?$");
    Regex::new(&text).expect("a fixed pattern")
});

pub fn slice(_: &Context<'_>, new: &Value, old: Option<&Value>, e: &mut ErrorList) {
    let (spec, at) = (new.at("spec"), Path::new("spec"));
    DRIVER(spec.text("driver"), &at.child("driver"), e);
    let (pool, at_pool) = (spec.at("pool"), at.child("pool"));
    pool_name(pool.text("name"), &at_pool.child("name"), e);
    checks::positive(pool.int("resourceSliceCount"), &at_pool.child("resourceSliceCount"), e);
    let generation = pool.int("generation");
    if generation < 0 {
        let text = "must be greater than or equal to zero";
        e.push(Error::invalid(&at_pool.child("generation"), generation, text));
    }
    if let Some(old) = old {
        let before = old.at("spec");
        immutable(pool.at("name"), before.at("pool").at("name"), &at_pool.child("name"), e);
        for field in ["driver", "nodeName"] {
            immutable(spec.at(field), before.at(field), &at.child(field), e);
        }
    }
    where_from(spec, &at, e);
    if spec.has("sharedCounters") && spec.has("devices") {
        e.push(Error::invalid(&at, "", "only one of `sharedCounters` or `devices` is allowed"));
    }
    let lists = ["bools", "ints", "strings", "versions"];
    let advanced = spec.list("devices").iter().any(|d| {
        d.len("taints") > 0
            || d.len("consumesCounters") > 0
            || entries(d, "attributes").any(|(_, a)| lists.iter().any(|l| a.has(l)))
    });
    let most = if advanced { ADVANCED_DEVICES } else { DEVICES };
    let name = |v: &Value| Some(v.text("name").to_owned());
    let per_device = spec.flag("perDeviceNodeSelection");
    set(spec.list("devices"), most, name, &at.child("devices"), e, |d, at, e| {
        let before =
            old.and_then(|o| o.at("spec").list("devices").iter().find(|b| b.text("name") == d.text("name")));
        device(d, before, per_device, at, e);
    });
    set(spec.list("sharedCounters"), COUNTER_SETS, name, &at.child("sharedCounters"), e, |s, at, e| {
        counters(s, "name", at, e);
    });
}

fn entries<'a>(v: &'a Value, key: &str) -> impl Iterator<Item = (&'a String, &'a Value)> {
    v.at(key).as_object().into_iter().flatten()
}

/// Which nodes reach the devices: one way to say so.
fn where_from(spec: &Value, at: &Path, e: &mut ErrorList) {
    const ONE: &str =
        "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";
    let mut said = Vec::new();
    if let Some(name) = spec.opt_text("nodeName") {
        if name.is_empty() {
            let text = "must be either unset or set to a non-empty string";
            e.push(Error::invalid(&at.child("nodeName"), name, text));
        } else {
            said.push("`nodeName`");
            checks::subdomain(name, &at.child("nodeName"), e);
        }
    }
    if spec.has("nodeSelector") {
        said.push("`nodeSelector`");
        let (selector, at) = (spec.at("nodeSelector"), at.child("nodeSelector"));
        node_selector(selector, &at, e);
        if selector.len("nodeSelectorTerms") != 1 {
            let terms = selector.at("nodeSelectorTerms").clone();
            let text = "must have exactly one node selector term";
            e.push(Error::invalid(&at.child("nodeSelectorTerms"), terms, text));
        }
    }
    for (field, word) in [("allNodes", "`allNodes`"), ("perDeviceNodeSelection", "`perDeviceNodeSelection`")]
    {
        match spec.at(field).as_bool() {
            Some(true) => said.push(word),
            Some(false) => {
                e.push(Error::invalid(&at.child(field), false, "must be either unset or set to true"));
            }
            None => {}
        }
    }
    match said.len() {
        0 => e.push(Error::required(at, ONE)),
        1 => {}
        _ => {
            let text = format!("{ONE}, but multiple fields are set");
            e.push(Error::invalid(at, format!("{{{}}}", said.join(", ")), text));
        }
    }
}

fn device(d: &Value, old: Option<&Value>, per_device: bool, at: &Path, e: &mut ErrorList) {
    checks::label(d.text("name"), &at.child("name"), e);
    let count = d.len("attributes") + d.len("capacity");
    if count > ATTRIBUTES {
        let text = format!("the total number of attributes and capacities must not exceed {ATTRIBUTES}");
        e.push(Error::invalid(at, count, text));
    }
    for (key, a) in entries(d, "attributes") {
        qualified(key, &at.child("attributes"), e);
        attribute(a, &at.child("attributes").key(key), e);
    }
    for (key, c) in entries(d, "capacity") {
        qualified(key, &at.child("capacity"), e);
        if c.has("requestPolicy") && !d.flag("allowMultipleAllocations") {
            let at = at.child("capacity").key(key).child("requestPolicy");
            e.push(Error::forbidden(&at, "allowMultipleAllocations must be true"));
        }
    }
    if !old.is_some_and(|o| same(o.at("taints"), d.at("taints"))) {
        set(d.list("taints"), TAINTS, |_| None, &at.child("taints"), e, taint);
    }
    let by_set = |v: &Value| Some(v.text("counterSet").to_owned());
    set(d.list("consumesCounters"), CONSUMED_SETS, by_set, &at.child("consumesCounters"), e, |c, at, e| {
        counters(c, "counterSet", at, e);
    });
    bindings(d, at, e);
    let said: Vec<String> = ["nodeName", "nodeSelector", "allNodes"]
        .into_iter()
        .filter(|f| d.has(f))
        .map(|f| format!("`{f}`"))
        .collect();
    if !per_device {
        if !said.is_empty() {
            let text = "`nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
            e.push(Error::invalid(at, Value::Null, text));
        }
        return;
    }
    let text = "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
    match said.len() {
        0 => e.push(Error::required(at, text)),
        1 => {}
        _ => e.push(Error::invalid(at, format!("{{{}}}", said.join(", ")), text)),
    }
}

fn counters(v: &Value, name: &str, at: &Path, e: &mut ErrorList) {
    if checks::required(v, name, at, e) {
        checks::label(v.text(name), &at.child(name), e);
    }
    if !checks::required(v, "counters", at, e) {
        return;
    }
    let at = at.child("counters");
    if v.len("counters") > COUNTERS {
        return e.push(Error::too_many(&at, v.len("counters"), COUNTERS));
    }
    for (key, _) in entries(v, "counters") {
        checks::label(key, &at, e);
    }
}

fn attribute(a: &Value, at: &Path, e: &mut ErrorList) {
    const ONE: &str = "exactly one value must be specified";
    let mut text_value = |text: &str, version: bool, at: &Path| {
        if version && !VERSION.is_match(text) {
            e.push(Error::invalid(at, text, "must be a string compatible with semver.org spec 2.0.0"));
        }
        if text.len() > LONGEST_VALUE {
            e.push(Error::too_long(at, LONGEST_VALUE));
        }
    };
    for key in ["string", "version"] {
        if let Some(text) = a.opt_text(key) {
            text_value(text, key == "version", &at.child(key));
        }
        let many = format!("{key}s");
        for (i, text) in a.texts(&many).enumerate() {
            text_value(text, key == "version", &at.child(&many).index(i));
        }
    }
    for key in ["bools", "ints", "strings", "versions"] {
        if a.has(key) && a.len(key) == 0 {
            e.push(Error::invalid(&at.child(key), a.at(key).clone(), "must not be empty if specified"));
        }
    }
    let fields = ["bool", "int", "string", "version", "bools", "ints", "strings", "versions"];
    match fields.iter().filter(|f| a.has(f)).count() {
        0 => e.push(Error::invalid(at, "", ONE)),
        1 => {}
        _ => e.push(Error::invalid(at, a.clone(), ONE)),
    }
}

fn taint(t: &Value, at: &Path, e: &mut ErrorList) {
    label_key(t.text("key"), &at.child("key"), e);
    let value = t.text("value");
    if !value.is_empty() {
        checks::texts(value, names::label_value(value), &at.child("value"), e);
    }
    taint_effect(t, at, e);
}

pub fn taint_rule(cx: &Context<'_>, new: &Value, _: Option<&Value>, e: &mut ErrorList) {
    if cx.subresource == "status" {
        return;
    }
    let (spec, at) = (new.at("spec"), Path::new("spec"));
    let (selector, at_selector) = (spec.at("deviceSelector"), at.child("deviceSelector"));
    if let Some(name) = selector.opt_text("driver") {
        DRIVER(name, &at_selector.child("driver"), e);
    }
    if let Some(name) = selector.opt_text("pool") {
        pool_name(name, &at_selector.child("pool"), e);
    }
    if let Some(name) = selector.opt_text("device") {
        checks::label(name, &at_selector.child("device"), e);
    }
    taint(spec.at("taint"), &at.child("taint"), e);
}
