//! Custom resource definitions, and API services.

use crate::metadata::Names;
use crate::prepare::Plan;
use crate::table::{age, condition, name};
use crate::value::{Get, Put};
use crate::{Kind, PLAIN};
use api::{Value, json};

pub static CRD: Kind = Kind { defaults, plan: Plan::FULL, ..PLAIN };
pub static API_SERVICE: Kind = Kind {
    names: Names::PathSegment,
    defaults: |o| {
        if let Some(service) = o.sub("spec").and_then(|s| s.sub("service")) {
            service.fill("port", 443);
        }
    },
    plan: Plan::STATUS,
    row: Some(api_service_row),
    ..PLAIN
};

fn defaults(o: &mut Value) {
    let spec = o.ensure("spec");
    let names = spec.ensure("names");
    let kind = names.text("kind").to_owned();
    names.fill_zero("singular", kind.to_lowercase());
    if !kind.is_empty() {
        names.fill_zero("listKind", format!("{kind}List"));
    }
    if !spec.has("conversion") {
        spec.set("conversion", json!({"strategy": "None"}));
    }
    if let Some(service) = spec
        .sub("conversion")
        .and_then(|c| c.sub("webhook"))
        .and_then(|w| w.sub("clientConfig"))
        .and_then(|c| c.sub("service"))
    {
        service.fill("port", 443);
    }
    let stored = spec.list("versions").iter().find(|v| v.flag("storage")).map(|v| v.text("name").to_owned());
    if let Some(version) = stored
        && o.at("status").len("storedVersions") == 0
    {
        o.ensure("status").set("storedVersions", json!([version]));
    }
}

fn api_service_row(o: &Value) -> Vec<Value> {
    let service = match o.at("spec").at("service") {
        Value::Null => "Local".to_owned(),
        s => format!("{}/{}", s.text("namespace"), s.text("name")),
    };
    let available = match condition(o.at("status"), "Available") {
        None => "Unknown".to_owned(),
        Some(c) if c.text("status") == "True" => "True".to_owned(),
        Some(c) => format!("{} ({})", c.text("status"), c.text("reason")),
    };
    vec![name(o), service.into(), available.into(), age(o)]
}
