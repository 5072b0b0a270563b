//! Storage version migrations, and the storage versions that API servers announce.

use crate::prepare::{Plan, StatusMeta};
use crate::table::{age, first_three, name, opt_text};
use crate::value::Get;
use crate::{Kind, PLAIN};
use api::Value;

pub static MIGRATION: Kind = Kind {
    plan: Plan { status_meta: StatusMeta::Keep, ..Plan::FULL },
    row: Some(row),
    unconditional_update: false,
    ..PLAIN
};
pub static STORAGE_VERSION: Kind =
    Kind { plan: Plan::STATUS, row: Some(version_row), unconditional_update: false, ..PLAIN };

fn row(o: &Value) -> Vec<Value> {
    let r = o.at("spec").at("resource");
    let resource = match r.text("group") {
        "" => r.text("resource").to_owned(),
        group => format!("{}.{group}", r.text("resource")),
    };
    let word = o
        .at("status")
        .list("conditions")
        .iter()
        .rfind(|c| c.text("status") == "True" && matches!(c.text("type"), "Running" | "Failed" | "Succeeded"))
        .map_or("Unknown", |c| c.text("type"));
    vec![name(o), resource.into(), word.into()]
}

fn version_row(o: &Value) -> Vec<Value> {
    let status = o.at("status");
    let versions: Vec<String> = status
        .list("storageVersions")
        .iter()
        .map(|v| format!("{}={}", v.text("apiServerID"), v.text("encodingVersion")))
        .collect();
    vec![
        name(o),
        opt_text(status.opt_text("commonEncodingVersion")),
        first_three(&versions, "<unset>").into(),
        age(o),
    ]
}
