//! Network policies.

use crate::prepare::Plan;
use crate::table::{age, name, selector};
use crate::value::{Get, Put};
use crate::{Kind, PLAIN};
use api::{Value, json};

pub static ROOM: Kind = Kind {
    defaults,
    plan: Plan::GENERATION,
    row: Some(|o| vec![name(o), selector(o.at("spec").at("podSelector")), age(o)]),
    ..PLAIN
};

fn defaults(o: &mut Value) {
    let spec = o.ensure("spec");
    for direction in ["ingress", "egress"] {
        for rule in spec.items(direction) {
            for port in rule.items("ports") {
                port.fill("protocol", "TCP");
            }
        }
    }
    if spec.len("policyTypes") == 0 {
        let egress = spec.len("egress") > 0;
        spec.set("policyTypes", if egress { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) });
    }
}
