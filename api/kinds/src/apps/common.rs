//! What all that keeps pods running from a template must satisfy.

use crate::checks;
use crate::metadata::{SelectorOptions, label_selector};
use crate::pod::validate;
use crate::value::Get;
use api::Value;
use api::field::{Error, ErrorList, Path};

/// Whether a label selector in its dynamic form matches labels.
pub fn selects(selector: &Value, labels: &Value) -> bool {
    selector.entries("matchLabels").all(|(k, v)| labels.at(k) == v)
        && selector.list("matchExpressions").iter().all(|term| {
            let value = labels.opt_text(term.text("key"));
            let listed = value.is_some_and(|v| term.texts("values").any(|t| t == v));
            match term.text("operator") {
                "In" => listed,
                "NotIn" => !listed,
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                _ => false,
            }
        })
}

/// A selector that must be there and select something.
pub fn selector(spec: &Value, kind: &str, at: &Path, e: &mut ErrorList) {
    let (selector, at) = (spec.at("selector"), at.child("selector"));
    if selector.is_null() {
        e.push(Error::required(&at, ""));
        return;
    }
    label_selector(selector, SelectorOptions::default(), &at, e);
    if selector.len("matchLabels") + selector.len("matchExpressions") == 0 {
        let text = format!("empty selector is invalid for {kind}");
        e.push(Error::invalid(&at, selector.clone(), text));
    }
}

/// Whether the selector can be evaluated at all; one that is absent selects nothing.
pub fn is_evaluable(selector: &Value) -> bool {
    let key = |k: &str| crate::names::qualified_name(k).is_empty();
    let value = |v: &str| crate::names::label_value(v).is_empty();
    let labels_fit =
        selector.entries("matchLabels").all(|(k, v)| key(k) && value(v.as_str().unwrap_or_default()));
    labels_fit
        && selector.list("matchExpressions").iter().all(|term| {
            let counted = match term.text("operator") {
                "In" | "NotIn" => term.len("values") > 0,
                "Exists" | "DoesNotExist" => term.len("values") == 0,
                _ => false,
            };
            counted && key(term.text("key")) && term.texts("values").all(value)
        })
}

/// A selector as error texts print it.
pub fn shown_selector(selector: &Value) -> String {
    crate::shown::external("k8s.io.apimachinery.pkg.apis.meta.v1.LabelSelector", selector)
}

/// A selector that may not change; an empty label value is not the same as no label.
pub fn immutable_selector(new: &Value, old: &Value, at: &Path, e: &mut ErrorList) {
    if new.at("selector") != old.at("selector") {
        let shown = shown_selector(new.at("selector"));
        e.push(Error::invalid_printed(&at.child("selector"), shown, crate::metadata::IMMUTABLE));
    }
}

/// Whether pods of the template would be found; an empty selector is another error's matter.
pub fn finds(selector: &Value, labels: &Value) -> bool {
    !selector.is_null() && selects(selector, labels)
}

/// A template whose pods the selector finds again. Without a usable selector it is not looked at.
pub fn strict_template(spec: &Value, at: &Path, e: &mut ErrorList) {
    let selector = spec.at("selector");
    if is_evaluable(selector) {
        template(spec, "ReplicaSet", at, e);
    } else {
        let text = "invalid label selector";
        e.push(Error::invalid_printed(&at.child("selector"), shown_selector(selector), text));
    }
}

/// A template whose pods the selector finds again.
pub fn template(spec: &Value, kind: &str, at: &Path, e: &mut ErrorList) {
    let (selector, pod, at) = (spec.at("selector"), spec.at("template"), at.child("template"));
    let labels = pod.at("metadata").at("labels");
    if is_evaluable(selector) && !finds(selector, labels) {
        let text = "`selector` does not match template `labels`";
        e.push(Error::invalid(&at.child("metadata").child("labels"), labels.clone(), text));
    }
    validate::template(pod, &at, e);
    crate::corev1::rc::always_running(pod, kind, &at, e);
}

/// Numbers of the spec that are not negative where they are given.
pub fn counts(spec: &Value, fields: &[&str], at: &Path, e: &mut ErrorList) {
    for field in fields {
        checks::non_negative(spec, field, at, e);
    }
}

/// A count in the status that only grows.
pub fn collision_count(new: &Value, old: Option<&Value>, e: &mut ErrorList) {
    let at = Path::new("status").child("collisionCount");
    let now = new.at("status").int("collisionCount");
    if now < 0 {
        e.push(Error::invalid(&at, now, checks::NOT_NEGATIVE));
    }
    let was = old.and_then(|o| o.at("status").opt_int("collisionCount"));
    if was.is_some_and(|was| new.at("status").opt_int("collisionCount").is_none_or(|now| now < was)) {
        e.push(Error::invalid(&at, now, "cannot be decremented"));
    }
}

/// An absolute number or percentage of pods.
pub fn int_or_percent(v: &Value, at: &Path, e: &mut ErrorList) {
    match v {
        Value::String(s) => checks::texts(s.as_str(), crate::names::percent(s), at, e),
        v => {
            let n = v.as_i64().unwrap_or_default();
            if n < 0 {
                e.push(Error::invalid(at, n, checks::NOT_NEGATIVE));
            }
        }
    }
}
