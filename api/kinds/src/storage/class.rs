//! Storage classes and volume attributes classes.

use crate::table::{age, name};
use crate::value::{Get, Put};
use crate::{Kind, PLAIN};
use api::Value;

pub static STORAGE_CLASS: Kind = Kind { defaults, row: Some(row), ..PLAIN };
pub static ATTRIBUTES_CLASS: Kind =
    Kind { row: Some(|o| vec![name(o), o.text("driverName").into(), age(o)]), ..PLAIN };

/// The annotations that make a class the default one.
pub const DEFAULT_CLASS: [&str; 2] =
    ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];

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
