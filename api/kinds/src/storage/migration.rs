//! Storage version migrations, and the storage versions that API servers announce.

use crate::metadata::{Checks, Names};
use crate::metadata::{conditions, immutable};
use crate::prepare::{Plan, StatusMeta, bump_generation};
use crate::table::{age, first_three, name, opt_text};
use crate::value::{Get, same};
use crate::{Context, Kind, Operation, PLAIN, names};
use api::Value;
use api::field::{Error, ErrorList, Path};

mod version;

pub static MIGRATION: Kind = Kind {
    plan: Plan { status_meta: StatusMeta::Keep, ..Plan::STATUS },
    metadata_checks: Checks::BOTH,
    prepare,
    validate,
    row: Some(row),
    unconditional_update: false,
    ..PLAIN
};
pub static STORAGE_VERSION: Kind = Kind {
    plan: Plan::STATUS,
    names: Names::StorageVersion,
    validate: version::validate,
    row: Some(version_row),
    unconditional_update: false,
    metadata_checks: Checks::NONE,
    ..PLAIN
};

/// Generations are counted from the first change on, not from creation.
fn prepare(op: Operation, cx: &Context<'_>, new: &mut Value, old: Option<&Value>) {
    if op == Operation::Update
        && cx.subresource.is_empty()
        && let Some(old) = old
        && !same(new.at("spec"), old.at("spec"))
    {
        bump_generation(new, old);
    }
}

fn validate(cx: &Context<'_>, new: &Value, old: Option<&Value>, e: &mut ErrorList) {
    if cx.subresource == "status" {
        return validate_status(new.at("status"), old.unwrap_or(&Value::Null).at("status"), e);
    }
    let (resource, at) = (new.at("spec").at("resource"), Path::new("spec").child("resource"));
    let mut named = |field: &str, wrong: Vec<String>| {
        if !wrong.is_empty() {
            e.push(Error::invalid(&at.child(field), resource.text(field), wrong.join(",")));
        }
    };
    if resource.len("group") > 0 {
        named("group", names::dns_subdomain(resource.text("group")));
    }
    if resource.len("resource") > 0 {
        named("resource", names::dns1035_label(resource.text("resource")));
    } else {
        e.push(Error::required(&at.child("resource"), "resource is required to be set"));
    }
    if let Some(old) = old {
        immutable(new.at("spec"), old.at("spec"), &Path::new("spec"), e);
    }
}

fn validate_status(new: &Value, old: &Value, e: &mut ErrorList) {
    let at = Path::new("status");
    let version = new.text("resourceVersion");
    let at_version = at.child("resourceVersion");
    if !version.is_empty()
        && let Some(why) = not_a_version(version)
    {
        e.push(Error::invalid(&at_version, version, why));
    }
    let at_conditions = at.child("conditions");
    conditions(new.list("conditions"), &at_conditions, e);
    if old.len("resourceVersion") > 0 && old.text("resourceVersion") != version {
        e.push(Error::invalid(&at_version, version, crate::metadata::IMMUTABLE));
    }
    let is = |status: &Value, kind: &str| {
        status.list("conditions").iter().any(|c| c.text("type") == kind && c.text("status") == "True")
    };
    let mut wrong = |text: &str| e.push(Error::invalid(&at_conditions, new.at("conditions").clone(), text));
    if is(new, "Succeeded") && is(new, "Failed") {
        wrong("Both success and failed conditions cannot be true at the same time");
    }
    if is(old, "Succeeded") && !is(new, "Succeeded") {
        wrong("Success condition cannot be set to false once it is true");
    }
    if is(old, "Failed") && !is(new, "Failed") {
        wrong("Failed condition cannot be set to false once it is true");
    }
}

/// Resource versions that can be compared are positive decimal numbers of any length.
fn not_a_version(text: &str) -> Option<String> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    (!digits || text.starts_with('0')).then(|| format!("resource version is not well formed: {text}"))
}

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Room;
    use api::json;

    fn first(room: &Kind, subresource: &str, new: &Value, old: Option<&Value>) -> String {
        let cx = Context { subresource, ..Context::default() };
        room.validate(&cx, new, old).first().map(ToString::to_string).unwrap_or_default()
    }

    #[test]
    fn migrations() {
        let of = |resource: Value| json!({"spec": {"resource": resource}});
        let good = of(json!({"group": "a.b", "resource": "foos"}));
        for (new, old, want) in [
            (good.clone(), None, ""),
            (of(json!({})), None, "spec.resource.resource: Required value: resource is required to be set"),
            (
                of(json!({"group": "A", "resource": "foos"})),
                None,
                "spec.resource.group: Invalid value: \"A\"",
            ),
            (of(json!({"resource": "foos"})), Some(&good), "spec: Invalid value"),
        ] {
            let got = first(&MIGRATION, "", &new, old);
            assert!(got.starts_with(want) && got.is_empty() == want.is_empty(), "{got}");
        }
        let done = |kind: &str| {
            json!({"status": {"resourceVersion": "5", "conditions": [{"type": kind, "status": "True",
            "reason": "R", "lastTransitionTime": "2020-01-01T00:00:00Z"}]}})
        };
        assert_eq!(first(&MIGRATION, "status", &done("Succeeded"), Some(&good)), "");
        let got = first(&MIGRATION, "status", &done("Running"), Some(&done("Succeeded")));
        assert!(got.contains("Success condition cannot be set to false"), "{got}");
    }

    #[test]
    fn storage_versions() {
        let server = |encoding: &str| json!({"apiServerID": "a", "encodingVersion": encoding, "decodableVersions": ["g/v1"]});
        let status = |servers: Value, common: Value| json!({"status": {"storageVersions": servers, "commonEncodingVersion": common}});
        for (new, want) in [
            (status(json!([server("g/v1")]), json!("g/v1")), ""),
            (
                status(json!([server("g/v1")]), json!(null)),
                "status.commonEncodingVersion: Invalid value: null: the common",
            ),
            (
                status(json!([server("g/v2")]), json!("g/v2")),
                "status.storageVersions[0].decodableVersions: Invalid value",
            ),
            (
                status(json!([]), json!("g/v1")),
                "status.commonEncodingVersion: Invalid value: \"g/v1\": should be nil",
            ),
        ] {
            let got = first(&STORAGE_VERSION, "status", &new, Some(&new));
            assert!(got.starts_with(want) && got.is_empty() == want.is_empty(), "{got}");
        }
    }
}
