//! Validation of webhook configurations.

use super::rules::{MATCH_POLICIES, match_conditions, rule};
use crate::metadata::{SelectorOptions, label_selector};
use crate::value::{Get, same};
use crate::{Context, checks, clientconfig, names};
use api::Value;
use api::field::{Error, ErrorList, Path};
use std::collections::HashSet;

const REVIEWS: [&str; 2] = ["v1", "v1beta1"];
const HARMLESS: [&str; 2] = ["None", "NoneOnDryRun"];
const SIDE_EFFECTS: [&str; 4] = ["None", "NoneOnDryRun", "Some", "Unknown"];

/// What newer rules ask for is not asked of configurations that lacked it before.
struct Strict {
    no_side_effects: bool,
    known_reviews: bool,
    unique: bool,
    conditions: bool,
}

impl Strict {
    fn new(new: &Value, old: Option<&Value>) -> Self {
        let Some(old) = old else {
            return Strict { no_side_effects: true, known_reviews: true, unique: true, conditions: true };
        };
        let (hooks, mut seen) = (old.list("webhooks"), HashSet::new());
        let conditions = |o: &Value| {
            o.list("webhooks").iter().map(|h| h.at("matchConditions").clone()).collect::<Vec<_>>()
        };
        Strict {
            no_side_effects: hooks.iter().all(|h| HARMLESS.contains(&h.text("sideEffects"))),
            known_reviews: hooks.iter().all(knows_review),
            unique: hooks.iter().all(|h| seen.insert(h.text("name"))),
            conditions: !same(&conditions(new).into(), &conditions(old).into()),
        }
    }
}

fn knows_review(hook: &Value) -> bool {
    hook.len("admissionReviewVersions") == 0
        || hook.texts("admissionReviewVersions").any(|v| REVIEWS.contains(&v))
}

pub fn validate(_: &Context<'_>, new: &Value, old: Option<&Value>, e: &mut ErrorList) {
    let strict = Strict::new(new, old);
    let mut seen = HashSet::new();
    for (i, hook) in new.list("webhooks").iter().enumerate() {
        let at = Path::new("webhooks").index(i);
        webhook(hook, &strict, &at, e);
        reviews(hook, strict.known_reviews, &at.child("admissionReviewVersions"), e);
        let name = hook.text("name");
        if !name.is_empty() && !seen.insert(name) && strict.unique {
            e.push(Error::duplicate(&at.child("name"), name));
        }
    }
}

fn webhook(hook: &Value, strict: &Strict, at: &Path, e: &mut ErrorList) {
    full_name(hook.text("name"), &at.child("name"), e);
    for (i, r) in hook.list("rules").iter().enumerate() {
        rule(r, &at.child("rules").index(i), e);
    }
    checks::opt_one_of(hook, "failurePolicy", &["Fail", "Ignore"], at, e);
    checks::opt_one_of(hook, "matchPolicy", &MATCH_POLICIES, at, e);
    let effects: &[&str] = if strict.no_side_effects { &HARMLESS } else { &SIDE_EFFECTS };
    match hook.opt_text("sideEffects") {
        Some(class) => checks::one_of(class, effects, &at.child("sideEffects"), e),
        None => {
            let text = format!("must specify one of {}", effects.join(", "));
            e.push(Error::required(&at.child("sideEffects"), text));
        }
    }
    if let Some(n) = hook.opt_int("timeoutSeconds").filter(|n| !(1..=30).contains(n)) {
        let text = "the timeout value must be between 1 and 30 seconds";
        e.push(Error::invalid(&at.child("timeoutSeconds"), n, text));
    }
    for key in ["namespaceSelector", "objectSelector"] {
        label_selector(hook.at(key), SelectorOptions::default(), &at.child(key), e);
    }
    checks::opt_one_of(hook, "reinvocationPolicy", &["IfNeeded", "Never"], at, e);
    clientconfig::validate(hook.at("clientConfig"), &at.child("clientConfig"), e);
    if strict.conditions {
        match_conditions(hook.list("matchConditions"), false, &at.child("matchConditions"), e);
    }
}

fn full_name(name: &str, at: &Path, e: &mut ErrorList) {
    if name.is_empty() {
        return e.push(Error::required(at, ""));
    }
    let wrong = names::dns_subdomain(name);
    if !wrong.is_empty() {
        e.push(Error::invalid(at, name, wrong.join(",")));
    } else if name.split('.').count() < 3 {
        let text = "should be a domain with at least three segments separated by dots";
        e.push(Error::invalid(at, name, text));
    }
}

fn reviews(hook: &Value, known: bool, at: &Path, e: &mut ErrorList) {
    if hook.len("admissionReviewVersions") == 0 {
        return e.push(Error::required(at, format!("must specify one of {}", REVIEWS.join(", "))));
    }
    let mut seen = HashSet::new();
    for (i, version) in hook.texts("admissionReviewVersions").enumerate() {
        if seen.insert(version) {
            checks::texts(version, names::dns1035_label(version), &at.index(i), e);
        } else {
            e.push(Error::invalid(&at.index(i), version, "duplicate version"));
        }
    }
    if known && !knows_review(hook) {
        let text = format!("must include at least one of {}", REVIEWS.join(", "));
        e.push(Error::invalid(at, hook.at("admissionReviewVersions").clone(), text));
    }
}
