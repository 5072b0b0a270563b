//! Service CIDRs and the addresses taken from them.

use crate::metadata::Names;
use crate::prepare::{Plan, StatusMeta};
use crate::table::{NONE, age, name};
use crate::value::Get;
use crate::{Kind, PLAIN};
use api::Value;

pub static SERVICE_CIDR: Kind = Kind {
    plan: Plan { status_meta: StatusMeta::Keep, ..Plan::STATUS },
    row: Some(|o| vec![name(o), o.at("spec").texts("cidrs").collect::<Vec<_>>().join(",").into(), age(o)]),
    ..PLAIN
};
pub static IP_ADDRESS: Kind = Kind { names: Names::Any, row: Some(address_row), ..PLAIN };

fn address_row(o: &Value) -> Vec<Value> {
    let parent = o.at("spec").at("parentRef");
    let shown = if parent.is_null() {
        NONE.to_owned()
    } else {
        let mut text = parent.text("resource").to_lowercase();
        for (separator, part) in
            [(".", parent.text("group")), ("/", parent.text("namespace")), ("/", parent.text("name"))]
        {
            if !part.is_empty() {
                text.push_str(separator);
                text.push_str(part);
            }
        }
        text
    };
    vec![name(o), shown.into()]
}
