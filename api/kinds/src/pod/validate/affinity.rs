//! Affinity to nodes and pods, and spreading over them.

use super::scheduling::{node_selector, node_term};
use crate::checks::{self, positive};
use crate::metadata::{SelectorOptions, label_key, label_selector};
use crate::value::Get;
use api::Value;
use api::field::{Error, ErrorList, Path};

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

pub fn affinity(affinity: &Value, at: &Path, e: &mut ErrorList) {
    let node = affinity.at("nodeAffinity");
    let at_node = at.child("nodeAffinity");
    if node.has(REQUIRED) {
        node_selector(node.at(REQUIRED), &at_node.child(REQUIRED), e);
    }
    for (i, term) in node.list(PREFERRED).iter().enumerate() {
        let at = at_node.child(PREFERRED).index(i);
        weight(term, &at, e);
        node_term(term.at("preference"), false, &at.child("preference"), e);
    }
    for side in ["podAffinity", "podAntiAffinity"] {
        let (terms, at) = (affinity.at(side), at.child(side));
        for (i, term) in terms.list(REQUIRED).iter().enumerate() {
            pod_term(term, &at.child(REQUIRED).index(i), e);
        }
        for (i, term) in terms.list(PREFERRED).iter().enumerate() {
            let at = at.child(PREFERRED).index(i);
            weight(term, &at, e);
            pod_term(term.at("podAffinityTerm"), &at.child("podAffinityTerm"), e);
        }
    }
}

fn weight(term: &Value, at: &Path, e: &mut ErrorList) {
    let weight = term.int("weight");
    if !(1..=100).contains(&weight) {
        e.push(Error::invalid(&at.child("weight"), weight, "must be in the range 1-100"));
    }
}

fn pod_term(term: &Value, at: &Path, e: &mut ErrorList) {
    for field in ["labelSelector", "namespaceSelector"] {
        label_selector(term.at(field), SelectorOptions::default(), &at.child(field), e);
    }
    for name in term.texts("namespaces") {
        checks::label(name, &at.child("namespace"), e);
    }
    label_keys(term, at, e);
    let key = term.text("topologyKey");
    if key.is_empty() {
        e.push(Error::required(&at.child("topologyKey"), "can not be empty"));
    }
    label_key(key, &at.child("topologyKey"), e);
}

/// `matchLabelKeys` and `mismatchLabelKeys` narrow a selector and do not contradict it or each other.
fn label_keys(term: &Value, at: &Path, e: &mut ErrorList) {
    for field in ["matchLabelKeys", "mismatchLabelKeys"] {
        if term.len(field) == 0 {
            continue;
        }
        if !term.has("labelSelector") {
            let text = "must not be specified when labelSelector is not set";
            e.push(Error::forbidden(&at.child(field), text));
            continue;
        }
        for (i, key) in term.texts(field).enumerate() {
            label_key(key, &at.child(field).index(i), e);
        }
    }
    let selector = term.at("labelSelector");
    let mut seen: Vec<&str> = selector.entries("matchLabels").map(|(k, _)| k).collect();
    // The expressions made of the keys themselves come once; a second one was there before.
    for expression in selector.list("matchExpressions") {
        let key = expression.text("key");
        if let Some(i) = last_position(term, key)
            && seen.contains(&key)
        {
            let text = "exists in both matchLabelKeys and labelSelector";
            e.push(Error::invalid(&at.index(i), key, text));
        }
        seen.push(key);
    }
    for (i, key) in term.texts("matchLabelKeys").enumerate() {
        if term.texts("mismatchLabelKeys").any(|k| k == key) {
            let text = "exists in both matchLabelKeys and mismatchLabelKeys";
            e.push(Error::invalid(&at.child("matchLabelKeys").index(i), key, text));
        }
    }
}

fn last_position(term: &Value, key: &str) -> Option<usize> {
    term.texts("matchLabelKeys").enumerate().filter(|(_, k)| *k == key).map(|(i, _)| i).last()
}

pub fn spread(list: &[Value], at: &Path, e: &mut ErrorList) {
    for (i, c) in list.iter().enumerate() {
        let at = at.index(i);
        positive(c.int("maxSkew"), &at.child("maxSkew"), e);
        let (key, action) = (c.text("topologyKey"), c.text("whenUnsatisfiable"));
        if key.is_empty() {
            e.push(Error::required(&at.child("topologyKey"), "can not be empty"));
        }
        checks::one_of(action, &["DoNotSchedule", "ScheduleAnyway"], &at.child("whenUnsatisfiable"), e);
        let again = |o: &Value| o.text("topologyKey") == key && o.text("whenUnsatisfiable") == action;
        if list[i + 1..].iter().any(again) {
            let at = at.child("{topologyKey, whenUnsatisfiable}");
            e.push(Error::duplicate(&at, format!("{{{key}, {action}}}")));
        }
        if let Some(n) = c.opt_int("minDomains") {
            positive(n, &at.child("minDomains"), e);
            if action != "DoNotSchedule" {
                let text =
                    format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}");
                e.push(Error::invalid(&at.child("minDomains"), n, text));
            }
        }
        for field in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            checks::opt_one_of(c, field, &["Ignore", "Honor"], &at, e);
        }
        label_keys(c, &at, e);
        label_selector(c.at("labelSelector"), SelectorOptions::default(), &at.child("labelSelector"), e);
    }
}
