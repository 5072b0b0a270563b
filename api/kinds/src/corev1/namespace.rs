//! Namespaces.

use crate::checks::qualified;
use crate::metadata::{Checks, Names};
use crate::prepare::Plan;
use crate::table::{age, name};
use crate::value::{Get, Put};
use crate::{Context, Kind, Operation, PLAIN};
use api::field::{Error, ErrorList, Path};
use api::{Value, json};

/// The label that every namespace carries with its own name.
pub const NAME_LABEL: &str = "kubernetes.io/metadata.name";

pub static ROOM: Kind = Kind {
    names: Names::Label,
    defaults,
    plan: Plan::STATUS,
    prepare,
    validate,
    canonicalize: name_label,
    row: Some(row),
    metadata_checks: Checks::BOTH,
    ..PLAIN
};

fn defaults(o: &mut Value) {
    name_label(o);
    o.ensure("status").fill_zero("phase", "Active");
}

fn name_label(o: &mut Value) {
    let name = o.at("metadata").text("name").to_owned();
    if !name.is_empty() {
        o.ensure("metadata").ensure("labels").set(NAME_LABEL, name);
    }
}

fn prepare(op: Operation, cx: &Context<'_>, new: &mut Value, old: Option<&Value>) {
    match (op, old) {
        (Operation::Create, _) => {
            new.set("status", json!({"phase": "Active"}));
            let mut finalizers = new.at("spec").list("finalizers").to_vec();
            if !finalizers.iter().any(|f| f == "kubernetes") {
                finalizers.push("kubernetes".into());
            }
            new.ensure("spec").set("finalizers", finalizers);
        }
        (_, Some(old)) if cx.subresource.is_empty() => {
            new.ensure("spec").copy_from(old.at("spec"), "finalizers");
        }
        (_, Some(old)) if cx.subresource == "finalize" => new.copy_from(old, "status"),
        _ => {}
    }
}

fn row(o: &Value) -> Vec<Value> {
    vec![name(o), o.at("status").text("phase").into(), age(o)]
}

fn validate(cx: &Context<'_>, new: &Value, old: Option<&Value>, e: &mut ErrorList) {
    if old.is_none() || cx.subresource == "finalize" {
        let at = Path::new("spec").child("finalizers");
        for name in new.at("spec").texts("finalizers") {
            qualified(name, &at, e);
            if !name.contains('/') && !matches!(name, "kubernetes" | "orphan" | "foregroundDeletion") {
                let text = "name is neither a standard finalizer name nor is it fully qualified";
                e.push(Error::invalid(&at, name, text));
            }
        }
    }
    if cx.subresource == "status" {
        let phase = new.at("status").text("phase");
        let (want, why) = if new.at("metadata").has("deletionTimestamp") {
            ("Terminating", "may only be 'Terminating' if `deletionTimestamp` is not empty")
        } else {
            ("Active", "may only be 'Active' if `deletionTimestamp` is empty")
        };
        if phase != want {
            e.push(Error::invalid(&Path::new("status").child("Phase"), phase, why));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Room;

    #[test]
    fn a_namespace_is_born_with_its_label_and_finalizer() {
        let mut ns = json!({"metadata": {"name": "n"}, "status": {"phase": "x"}});
        defaults(&mut ns);
        ROOM.prepare(Operation::Create, &Context::default(), &mut ns, None);
        assert_eq!(
            ns,
            json!({"metadata": {"name": "n", "labels": {NAME_LABEL: "n"}}, "spec": {"finalizers": ["kubernetes"]},
                "status": {"phase": "Active"}})
        );
        let cx = Context { subresource: "status", ..Context::default() };
        let mut ending = ns.clone();
        ending["status"]["phase"] = json!("Terminating");
        assert_eq!(ROOM.validate(&cx, &ending, Some(&ns)).len(), 1);
        ending["metadata"]["deletionTimestamp"] = json!("2020-01-01T00:00:00Z");
        assert!(ROOM.validate(&cx, &ending, Some(&ns)).is_empty());
    }
}
