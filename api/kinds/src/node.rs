//! Runtime classes.

use crate::Context;
use crate::checks;
use crate::metadata::{Checks, immutable, labels};
use crate::pod::resource_list;
use crate::pod::validate::{resource_requirements, tolerations};
use crate::table::{age, name};
use crate::value::{Get, Put};
use crate::{Kind, PLAIN};
use api::Value;
use api::field::{Error, ErrorList, Path};

pub static RUNTIME_CLASS: Kind = Kind {
    defaults: |o| {
        if let Some(fixed) = o.sub("overhead").and_then(|o| o.sub("podFixed")) {
            resource_list(fixed);
        }
    },
    validate,
    warnings,
    row: Some(|o| vec![name(o), o.text("handler").into(), age(o)]),
    create_on_update: true,
    unconditional_update: false,
    any_finalizer: true,
    metadata_checks: Checks::BOTH,
    ..PLAIN
};

fn warnings(_: &Context<'_>, new: &Value, _: Option<&Value>) -> Vec<String> {
    let labels = new.at("scheduling").entries("nodeSelector");
    let old = labels.filter_map(|(key, _)| crate::warnings::node_label(key));
    old.map(|why| format!("scheduling.nodeSelector: {why}")).collect()
}

fn validate(_: &Context<'_>, new: &Value, old: Option<&Value>, e: &mut ErrorList) {
    if let Some(old) = old {
        immutable(new.at("handler"), old.at("handler"), &Path::new("handler"), e);
    }
    if checks::required(new, "handler", &Path::new(""), e) {
        checks::label(new.text("handler"), &Path::new("handler"), e);
    }
    if new.has("overhead") {
        let limits = api::json!({"limits": new.at("overhead").at("podFixed")});
        resource_requirements(&limits, None, &Path::new("overhead"), e);
    }
    let (scheduling, at) = (new.at("scheduling"), Path::new("scheduling"));
    if scheduling.has("nodeSelector") {
        labels(scheduling.at("nodeSelector"), &at.child("nodeSelector"), e);
    }
    let (list, at) = (scheduling.list("tolerations"), at.child("tolerations"));
    tolerations(list, &at, e);
    for (i, t) in list.iter().enumerate() {
        let same = |o: &Value| ["key", "operator", "value", "effect"].iter().all(|f| o.text(f) == t.text(f));
        if list[..i].iter().any(same) {
            e.push(Error::duplicate(&at.index(i), t.clone()));
        }
    }
}
