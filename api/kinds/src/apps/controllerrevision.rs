//! Controller revisions.

use crate::Context;
use crate::metadata::{Checks, immutable};
use crate::table::{NONE, age, name};
use crate::value::Get;
use crate::{Kind, PLAIN};
use api::Value;
use api::field::{Error, ErrorList, Path};

pub static ROOM: Kind = Kind { validate, row: Some(row), metadata_checks: Checks::BOTH, ..PLAIN };

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

fn validate(_: &Context<'_>, new: &Value, old: Option<&Value>, e: &mut ErrorList) {
    crate::checks::non_negative(new, "revision", &Path::new(""), e);
    let at = Path::new("data");
    match (old, new.at("data")) {
        (Some(old), data) => immutable(data, old.at("data"), &at, e),
        (None, Value::Null) => e.push(Error::required(&at, "data is mandatory")),
        (None, Value::Object(_)) => {}
        (None, _) => e.push(Error::required(&at, "data must be a valid JSON object")),
    }
}
