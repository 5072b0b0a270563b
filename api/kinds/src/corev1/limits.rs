//! Limit ranges and resource quotas.

use crate::pod::resource_list;
use crate::prepare::Plan;
use crate::table::{age, name, quantity};
use crate::value::{Get, Put};
use crate::{Kind, PLAIN};
use api::Value;

pub static LIMIT_RANGE: Kind = Kind { defaults: limit_range, create_on_update: true, ..PLAIN };
pub static RESOURCE_QUOTA: Kind = Kind { defaults: quota, plan: Plan::STATUS, row: Some(quota_row), ..PLAIN };

fn limit_range(o: &mut Value) {
    let Some(spec) = o.sub("spec") else { return };
    for item in spec.items("limits") {
        for field in ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"] {
            if let Some(list) = item.sub(field) {
                resource_list(list);
            }
        }
        if item.text("type") == "Container" {
            fill_from(item, "default", "max");
            fill_from(item, "defaultRequest", "default");
            fill_from(item, "defaultRequest", "min");
        }
    }
}

fn fill_from(item: &mut Value, into: &str, from: &str) {
    let source = item.at(from).clone();
    for (name, quantity) in source.as_object().into_iter().flatten() {
        item.ensure(into).fill(name, quantity.clone());
    }
}

fn quota(o: &mut Value) {
    for (part, lists) in [("spec", &["hard"][..]), ("status", &["hard", "used"])] {
        for list in lists {
            if let Some(map) = o.sub(part).and_then(|p| p.sub(list)) {
                resource_list(map);
            }
        }
    }
}

fn quota_row(o: &Value) -> Vec<Value> {
    let (mut requests, mut limits) = (Vec::new(), Vec::new());
    for (resource, hard) in o.at("status").entries("hard") {
        let used = quantity(o.at("status").at("used").at(resource));
        let text = format!("{resource}: {used}/{}", quantity(hard));
        if resource.starts_with("limits.") { limits.push(text) } else { requests.push(text) }
    }
    vec![name(o), requests.join(", ").into(), limits.join(", ").into(), age(o)]
}
