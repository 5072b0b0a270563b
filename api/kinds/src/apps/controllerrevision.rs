//! Controller revisions.

use crate::table::{NONE, age, name};
use crate::value::Get;
use crate::{Kind, PLAIN};
use api::Value;

pub static ROOM: Kind = Kind { row: Some(row), ..PLAIN };

fn row(o: &Value) -> Vec<Value> {
    vec![name(o), controller(o).into(), o.int("revision").into(), age(o)]
}

/// `kind.group/name` of the owner that controls the object.
fn controller(o: &Value) -> String {
    let Some(owner) = o.at("metadata").list("ownerReferences").iter().find(|r| r.flag("controller")) else {
        return NONE.to_owned();
    };
    let kind = owner.text("kind").to_lowercase();
    match owner.text("apiVersion").rsplit_once('/') {
        Some((group, _)) => format!("{kind}.{group}/{}", owner.text("name")),
        None => format!("{kind}/{}", owner.text("name")),
    }
}
