//! Roles and bindings.

use crate::metadata::Names;
use crate::table::{age, name};
use crate::value::{Get, Put};
use crate::{Kind, PLAIN};
use api::Value;

const GROUP: &str = "rbac.authorization.k8s.io";

pub static ROLE: Kind = Kind { names: Names::PathSegment, create_on_update: true, ..PLAIN };
pub static CLUSTER_ROLE: Kind = Kind { names: Names::PathSegment, create_on_update: true, ..PLAIN };
pub static BINDING: Kind =
    Kind { names: Names::PathSegment, defaults, row: Some(row), create_on_update: true, ..PLAIN };
pub static CLUSTER_BINDING: Kind =
    Kind { names: Names::PathSegment, defaults, row: Some(row), create_on_update: true, ..PLAIN };

fn defaults(o: &mut Value) {
    if let Some(role) = o.sub("roleRef") {
        role.fill_zero("apiGroup", GROUP);
    }
    for subject in o.items("subjects") {
        if matches!(subject.text("kind"), "User" | "Group") {
            subject.fill_zero("apiGroup", GROUP);
        }
    }
}

fn row(o: &Value) -> Vec<Value> {
    let role = o.at("roleRef");
    let of = |kind: &str| -> Value {
        let named: Vec<String> = o
            .list("subjects")
            .iter()
            .filter(|s| s.text("kind") == kind)
            .map(|s| match (kind, s.text("namespace")) {
                ("ServiceAccount", ns) if !ns.is_empty() => format!("{ns}/{}", s.text("name")),
                _ => s.text("name").to_owned(),
            })
            .collect();
        named.join(", ").into()
    };
    vec![
        name(o),
        format!("{}/{}", role.text("kind"), role.text("name")).into(),
        age(o),
        of("User"),
        of("Group"),
        of("ServiceAccount"),
    ]
}
