//! Service accounts, and component statuses.

use crate::metadata::Checks;
use crate::table::{age, name};
use crate::value::{Get, Put};
use crate::{Context, Kind, Operation, PLAIN};
use api::{Value, json};

pub static ROOM: Kind =
    Kind { prepare, row: Some(|o| vec![name(o), age(o)]), metadata_checks: Checks::BOTH, ..PLAIN };
pub static COMPONENT_STATUS: Kind = Kind { row: Some(component_row), ..PLAIN };

/// Of a referenced secret only the name is kept.
fn prepare(_: Operation, _: &Context<'_>, new: &mut Value, _: Option<&Value>) {
    for secret in new.items("secrets") {
        *secret = json!({"name": secret.text("name")});
    }
}

fn component_row(o: &Value) -> Vec<Value> {
    let healthy = o.list("conditions").iter().find(|c| c.text("type") == "Healthy");
    let word = match healthy.map(|c| c.text("status")) {
        Some("True") => "Healthy",
        Some(_) => "Unhealthy",
        None => "Unknown",
    };
    let text = |field| healthy.map_or("", |c| c.text(field));
    vec![name(o), word.into(), text("message").into(), text("error").into()]
}
