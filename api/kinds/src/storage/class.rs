//! Storage classes and volume attributes classes.

use crate::Context;
use crate::checks;
use crate::metadata::{Checks, immutable, label_key};
use crate::table::{age, name};
use crate::value::same;
use crate::value::{Get, Put};
use crate::warnings::node_label;
use crate::{Kind, PLAIN};
use api::Value;
use api::field::{Error, ErrorList, Path};
use std::collections::{BTreeMap, BTreeSet};

pub static STORAGE_CLASS: Kind =
    Kind { defaults, validate, warnings, row: Some(row), metadata_checks: Checks::BOTH, ..PLAIN };
pub static ATTRIBUTES_CLASS: Kind = Kind {
    validate: validate_attributes,
    row: Some(|o| vec![name(o), o.text("driverName").into(), age(o)]),
    metadata_checks: Checks::BOTH,
    ..PLAIN
};

/// The annotations that make a class the default one.
pub const DEFAULT_CLASS: [&str; 2] =
    ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];

fn warnings(_: &Context<'_>, new: &Value, _: Option<&Value>) -> Vec<String> {
    let mut out = Vec::new();
    for (i, term) in new.list("allowedTopologies").iter().enumerate() {
        for (j, expression) in term.list("matchLabelExpressions").iter().enumerate() {
            if let Some(why) = node_label(expression.text("key")) {
                out.push(format!("allowedTopologies[{i}].matchLabelExpressions[{j}].key: {why}"));
            }
        }
    }
    out
}

fn defaults(o: &mut Value) {
    o.fill("reclaimPolicy", "Delete");
    o.fill("volumeBindingMode", "Immediate");
}

fn row(o: &Value) -> Vec<Value> {
    let annotations = o.at("metadata").at("annotations");
    let name = o.at("metadata").text("name");
    let default = DEFAULT_CLASS.iter().any(|a| annotations.text(a) == "true");
    vec![
        if default { format!("{name} (default)") } else { name.to_owned() }.into(),
        o.text("provisioner").into(),
        o.opt_text("reclaimPolicy").unwrap_or("Delete").into(),
        o.opt_text("volumeBindingMode").unwrap_or("Immediate").into(),
        o.flag("allowVolumeExpansion").into(),
        age(o),
    ]
}

fn provisioner(text: &str, at: &Path, e: &mut ErrorList) {
    if text.is_empty() {
        e.push(Error::required(at, ""));
    } else {
        checks::qualified(&text.to_lowercase(), at, e);
    }
}

fn parameters(o: &Value, may_be_empty: bool, e: &mut ErrorList) {
    let at = Path::new("parameters");
    if o.len("parameters") > 512 {
        e.push(Error::too_long(&at, 512));
    }
    let mut size = 0;
    for (key, value) in o.entries("parameters") {
        if key.is_empty() {
            e.push(Error::invalid(&at, key, "field can not be empty."));
        }
        size += key.len() + value.as_str().map_or(0, str::len);
    }
    if size > 256 * 1024 {
        e.push(Error::too_long(&at, 256 * 1024));
    }
    if !may_be_empty && o.len("parameters") == 0 {
        e.push(Error::required(&at, "must contain at least one key/value pair"));
    }
}

fn validate(_: &Context<'_>, new: &Value, old: Option<&Value>, e: &mut ErrorList) {
    if let Some(old) = old {
        for field in ["parameters", "provisioner", "reclaimPolicy", "volumeBindingMode"] {
            immutable(new.at(field), old.at(field), &Path::new(field), e);
        }
    }
    provisioner(new.text("provisioner"), &Path::new("provisioner"), e);
    parameters(new, true, e);
    if !new.text("reclaimPolicy").is_empty() {
        checks::opt_one_of(new, "reclaimPolicy", &["Delete", "Retain"], &Path::new(""), e);
    }
    let modes = ["Immediate", "WaitForFirstConsumer"];
    checks::one_of_pointed(new, "volumeBindingMode", &modes, &Path::new(""), e);
    topologies(new.list("allowedTopologies"), e);
}

/// What a term asks of each key, whatever the order.
fn asked(term: &Value) -> BTreeMap<&str, BTreeSet<&str>> {
    let expressions = term.list("matchLabelExpressions").iter();
    expressions.map(|r| (r.text("key"), r.texts("values").collect())).collect()
}

fn topologies(terms: &[Value], e: &mut ErrorList) {
    for (i, term) in terms.iter().enumerate() {
        let list = term.list("matchLabelExpressions");
        for (j, r) in list.iter().enumerate() {
            let at = Path::new("allowedTopologies").index(i).child("matchLabelExpressions").index(j);
            checks::required(r, "values", &at, e);
            let values: Vec<&str> = r.texts("values").collect();
            for (k, value) in values.iter().enumerate().filter(|(k, v)| values[..*k].contains(v)) {
                e.push(Error::duplicate(&at.child("values").index(k), *value));
            }
            label_key(r.text("key"), &at.child("key"), e);
            if list[..j].iter().any(|o| o.text("key") == r.text("key")) {
                e.push(Error::duplicate(&at.child("key"), r.text("key")));
            }
        }
        // A term that asks nothing is like each of the places that upstream keeps for them, too.
        let places = if list.is_empty() { terms.len() } else { 0 };
        let alike = terms[..i].iter().filter(|t| asked(t) == asked(term)).count();
        for _ in 0..places + alike {
            let at = Path::new("allowedTopologies").index(i).child("matchLabelExpressions");
            e.push(Error::duplicate(&at, ""));
        }
    }
}

fn validate_attributes(_: &Context<'_>, new: &Value, old: Option<&Value>, e: &mut ErrorList) {
    if let Some(old) = old {
        for field in ["driverName", "parameters"] {
            if !same(new.at(field), old.at(field)) {
                e.push(Error::forbidden(&Path::new(field), format!("updates to {field} are forbidden.")));
            }
        }
    }
    provisioner(new.text("driverName"), &Path::new("driverName"), e);
    parameters(new, false, e);
}
