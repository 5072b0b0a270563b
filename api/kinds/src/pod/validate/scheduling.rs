//! Gates, tolerations, taints and node selectors.

use crate::checks::{self, qualified};
use crate::metadata::label_key;
use crate::names;
use crate::value::Get;
use api::Value;
use api::field::{Error, ErrorList, Path};

/// Readiness gates and scheduling gates.
pub fn gates(spec: &Value, at: &Path, e: &mut ErrorList) {
    for (i, gate) in spec.list("readinessGates").iter().enumerate() {
        qualified(gate.text("conditionType"), &at.child("readinessGates").index(i).child("conditionType"), e);
    }
    let list = spec.list("schedulingGates");
    for (i, gate) in list.iter().enumerate() {
        let (at, name) = (at.child("schedulingGates").index(i), gate.text("name"));
        qualified(name, &at, e);
        if list[..i].iter().any(|o| o.text("name") == name) {
            e.push(Error::duplicate(&at, name));
        }
    }
}

pub fn taint_effect(effect: &str, at: &Path, e: &mut ErrorList) {
    let known = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
    if !known.contains(&effect) {
        e.push(Error::not_supported_in_order(at, effect, &known));
    }
}

pub fn tolerations(list: &[Value], at: &Path, e: &mut ErrorList) {
    for (i, t) in list.iter().enumerate() {
        let at = at.index(i);
        let (key, operator, effect, value) =
            (t.text("key"), t.text("operator"), t.text("effect"), t.text("value"));
        if !key.is_empty() {
            label_key(key, &at.child("key"), e);
        } else if operator != "Exists" {
            let text =
                "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            e.push(Error::invalid(&at.child("operator"), operator, text));
        }
        if t.has("tolerationSeconds") && effect != "NoExecute" {
            let text = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            e.push(Error::invalid(&at.child("effect"), effect, text));
        }
        match operator {
            "" | "Equal" => {
                let messages = names::label_value(value);
                if !messages.is_empty() {
                    e.push(Error::invalid(&at.child("operator"), value, messages.join(";")));
                }
            }
            "Exists" if !value.is_empty() => {
                let text = "value must be empty when `operator` is 'Exists'";
                e.push(Error::invalid(&at.child("operator"), value, text));
            }
            "Exists" => {}
            "Lt" | "Gt" => {
                let known = ["Equal", "Exists", "Lt", "Gt"];
                e.push(Error::not_supported_in_order(&at.child("operator"), operator, &known));
            }
            other => e.push(Error::not_supported(&at.child("operator"), other, &["Equal", "Exists"])),
        }
        if !effect.is_empty() {
            taint_effect(effect, &at.child("effect"), e);
        }
    }
}

/// A node selector with at least one term.
pub fn node_selector(selector: &Value, at: &Path, e: &mut ErrorList) {
    let at = at.child("nodeSelectorTerms");
    let terms = selector.list("nodeSelectorTerms");
    if terms.is_empty() {
        e.push(Error::required(&at, "must have at least one node selector term"));
    }
    for (i, term) in terms.iter().enumerate() {
        node_term(term, true, &at.index(i), e);
    }
}

/// `strict`: values must be label values too.
pub fn node_term(term: &Value, strict: bool, at: &Path, e: &mut ErrorList) {
    for (i, r) in term.list("matchExpressions").iter().enumerate() {
        node_requirement(r, strict, &at.child("matchExpressions").index(i), e);
    }
    for (i, r) in term.list("matchFields").iter().enumerate() {
        node_field(r, &at.child("matchFields").index(i), e);
    }
}

fn node_requirement(r: &Value, strict: bool, at: &Path, e: &mut ErrorList) {
    let values = r.len("values");
    let at_values = || at.child("values");
    match r.text("operator") {
        "In" | "NotIn" if values == 0 => {
            e.push(Error::required(&at_values(), "must be specified when `operator` is 'In' or 'NotIn'"));
        }
        "Exists" | "DoesNotExist" if values > 0 => {
            let text = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
            e.push(Error::forbidden(&at_values(), text));
        }
        "Gt" | "Lt" if values != 1 => {
            let text = "must be specified single value when `operator` is 'Lt' or 'Gt'";
            e.push(Error::required(&at_values(), text));
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
        other => e.push(Error::invalid(&at.child("operator"), other, "not a valid selector operator")),
    }
    label_key(r.text("key"), &at.child("key"), e);
    if strict {
        for (i, value) in r.texts("values").enumerate() {
            checks::texts(value, names::label_value(value), &at_values().index(i), e);
        }
    }
}

fn node_field(r: &Value, at: &Path, e: &mut ErrorList) {
    match r.text("operator") {
        "In" | "NotIn" if r.len("values") != 1 => {
            let text = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
            e.push(Error::required(&at.child("values"), text));
        }
        "In" | "NotIn" => {}
        other => e.push(Error::invalid(&at.child("operator"), other, "not a valid selector operator")),
    }
    if r.text("key") != "metadata.name" {
        e.push(Error::invalid(&at.child("key"), r.text("key"), "not a valid field selector key"));
        return;
    }
    for (i, value) in r.texts("values").enumerate() {
        checks::subdomain(value, &at.child("values").index(i), e);
    }
}
