//! Leases.

use crate::Context;
use crate::checks;
use crate::metadata::{Names, immutable};
use crate::table::{age, name};
use crate::value::Get;
use crate::{Kind, PLAIN};
use api::Value;
use api::field::{Error, ErrorList, Path};

pub static LEASE: Kind = Kind {
    validate,
    row: Some(row),
    create_on_update: true,
    unconditional_update: false,
    any_finalizer: true,
    ..PLAIN
};
pub static CANDIDATE: Kind = Kind {
    names: Names::ConfigKey,
    validate: validate_candidate,
    row: Some(candidate_row),
    any_finalizer: true,
    create_on_update: true,
    unconditional_update: false,
    ..PLAIN
};

fn row(o: &Value) -> Vec<Value> {
    vec![name(o), o.at("spec").text("holderIdentity").into(), age(o)]
}

fn candidate_row(o: &Value) -> Vec<Value> {
    let spec = o.at("spec");
    vec![
        name(o),
        spec.text("leaseName").into(),
        spec.text("binaryVersion").into(),
        spec.text("emulationVersion").into(),
        age(o),
    ]
}

fn strategy(text: &str, at: &Path, e: &mut ErrorList) {
    if text.contains('/') {
        checks::qualified(text, &at.child("strategy"), e);
    } else {
        checks::one_of(text, &["OldestEmulationVersion"], &at.child("strategy"), e);
    }
}

fn validate(_: &Context<'_>, new: &Value, _: Option<&Value>, e: &mut ErrorList) {
    let (spec, at) = (new.at("spec"), Path::new("spec"));
    if let Some(n) = spec.opt_int("leaseDurationSeconds").filter(|n| *n <= 0) {
        e.push(Error::invalid(&at.child("leaseDurationSeconds"), n, "must be greater than 0"));
    }
    checks::non_negative(spec, "leaseTransitions", &at, e);
    if let Some(text) = spec.opt_text("strategy") {
        strategy(text, &at.child("strategy"), e);
    }
    if !spec.text("preferredHolder").is_empty() && spec.text("strategy").is_empty() {
        let text = "may only be specified if `strategy` is defined";
        e.push(Error::forbidden(&at.child("preferredHolder"), text));
    }
}

/// The numbers of `1.2.3`.
fn semantic_version(text: &str) -> Option<Vec<u64>> {
    let plain = text.split(['-', '+']).next()?;
    let numbers: Option<Vec<u64>> = plain.split('.').map(|n| n.parse().ok()).collect();
    numbers.filter(|n| n.len() == 3)
}

fn validate_candidate(_: &Context<'_>, new: &Value, old: Option<&Value>, e: &mut ErrorList) {
    let (spec, at) = (new.at("spec"), Path::new("spec"));
    checks::required(spec, "leaseName", &at, e);
    checks::required(spec, "binaryVersion", &at, e);
    let mut version = |field: &str| {
        let text = spec.text(field);
        let parsed = semantic_version(text);
        if !text.is_empty() && parsed.is_none() {
            e.push(Error::invalid(&at.child(field), text, "must be a valid semantic version"));
        }
        parsed
    };
    let (emulated, binary) = (version("emulationVersion"), version("binaryVersion"));
    if emulated.is_some() && !spec.text("binaryVersion").is_empty() && binary < emulated {
        let text = "must be greater than or equal to `emulationVersion`";
        e.push(Error::invalid(&at.child("binaryVersion"), spec.text("binaryVersion"), text));
    }
    if checks::required(spec, "strategy", &at, e) {
        if spec.text("strategy") == "OldestEmulationVersion" && emulated.is_none() {
            let text = "must be specified when `strategy` is 'OldestEmulationVersion'";
            e.push(Error::required(&at.child("emulationVersion"), text));
        }
        strategy(spec.text("strategy"), &at.child("strategy"), e);
    }
    if let Some(old) = old {
        immutable(spec.at("leaseName"), old.at("spec").at("leaseName"), &at.child("leaseName"), e);
    }
}
