//! Kinds that are asked, not stored: reviews, bindings, token requests.

use crate::checks;
use crate::metadata::label_key;
use crate::value::{Get, Put};
use crate::{Kind, PLAIN};
use api::Value;
use api::field::{Error, ErrorList, Path};

pub static REVIEW: Kind = PLAIN;
pub static BINDING: Kind = PLAIN;
pub static TOKEN_REQUEST: Kind =
    Kind { defaults: |o| o.ensure("spec").fill("expirationSeconds", 3600), ..PLAIN };

/// What is wrong with a `SubjectAccessReview`, `LocalSubjectAccessReview` or `SelfSubjectAccessReview`.
pub fn access(kind: &str, review: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    let (spec, at) = (review.at("spec"), Path::new("spec"));
    let (resource, other) = (spec.at("resourceAttributes"), spec.at("nonResourceAttributes"));
    if !resource.is_null() && !other.is_null() {
        let text = "cannot be specified in combination with resourceAttributes";
        e.push(Error::invalid(&at.child("nonResourceAttributes"), other.clone(), text));
    }
    if resource.is_null() && other.is_null() {
        let text = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
        e.push(Error::invalid(&at.child("resourceAttributes"), Value::Null, text));
    }
    if kind != "SelfSubjectAccessReview" && spec.len("user") == 0 && spec.len("groups") == 0 {
        e.push(Error::invalid(&at.child("user"), "", "at least one of user or group must be specified"));
    }
    let at = at.child("resourceAttributes");
    selector(resource, "fieldSelector", &at, &mut e);
    selector(resource, "labelSelector", &at, &mut e);
    metadata(kind, review, &mut e);
    if kind == "LocalSubjectAccessReview" {
        let (asked, own) = (resource.text("namespace"), review.at("metadata").text("namespace"));
        if !resource.is_null() && asked != own {
            e.push(Error::invalid(&at.child("namespace"), asked, "must match metadata.namespace"));
        }
        if !other.is_null() {
            let at = Path::new("spec").child("nonResourceAttributes");
            e.push(Error::invalid(&at, other.clone(), "disallowed on this kind of request"));
        }
    }
    e
}

/// A review has no metadata but what says where it is asked.
fn metadata(kind: &str, review: &Value, e: &mut ErrorList) {
    let local = kind == "LocalSubjectAccessReview";
    let meta = review.at("metadata").as_object();
    let said = meta.into_iter().flatten().any(|(k, v)| {
        let own = k == "managedFields" || (local && k == "namespace");
        !own && !crate::value::is_zero(v)
    });
    if said {
        let text = if local { "must be empty except for namespace" } else { "must be empty" };
        e.push(Error::invalid(&Path::new("metadata"), review.at("metadata").clone(), text));
    }
}

fn selector(attributes: &Value, field: &str, at: &Path, e: &mut ErrorList) {
    let (s, at) = (attributes.at(field), at.child(field));
    if s.is_null() {
        return;
    }
    let (raw, listed) = (s.text("rawSelector"), s.list("requirements"));
    if !raw.is_empty() && !listed.is_empty() {
        let text = "may not specified at the same time as requirements";
        e.push(Error::invalid(&at.child("rawSelector"), raw, text));
    }
    if raw.is_empty() && listed.is_empty() {
        let text = format!("when {at} is specified, requirements or rawSelector is required");
        e.push(Error::required(&at.child("requirements"), text));
    }
    for (i, term) in listed.iter().enumerate() {
        requirement(term, field, &at.child("requirements").index(i), e);
    }
}

/// Operators that are not known are the authorizers' business.
fn requirement(term: &Value, field: &str, at: &Path, e: &mut ErrorList) {
    let key = at.child("key");
    if field == "fieldSelector" && term.len("key") == 0 {
        e.push(Error::required(&key, "must be specified"));
    }
    match term.text("operator") {
        "In" | "NotIn" if term.len("values") == 0 => {
            let text = "must be specified when `operator` is 'In' or 'NotIn'";
            e.push(Error::required(&at.child("values"), text));
        }
        "Exists" | "DoesNotExist" if term.len("values") > 0 => {
            let text = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
            e.push(Error::forbidden(&at.child("values"), text));
        }
        _ => {}
    }
    if field == "labelSelector" {
        label_key(term.text("key"), &key, e);
        for (i, value) in term.texts("values").enumerate() {
            let wrong = crate::names::label_value(value);
            checks::texts(value, wrong, &at.child("values").index(i), e);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::json;

    #[test]
    fn access_reviews() {
        let review = |spec: Value| json!({"metadata": {"namespace": "a"}, "spec": spec});
        let with = |field: &str, selector: Value| {
            review(json!({"user": "u", "resourceAttributes": {"namespace": "a", field: selector}}))
        };
        for (kind, review, want) in [
            (
                "LocalSubjectAccessReview",
                review(json!({"user": "u", "resourceAttributes": {"namespace": "a"}})),
                "",
            ),
            (
                "LocalSubjectAccessReview",
                review(json!({"user": "u", "resourceAttributes": {}})),
                "spec.resourceAttributes.namespace: Invalid value: \"\": must match metadata.namespace",
            ),
            (
                "SelfSubjectAccessReview",
                review(json!({})),
                "spec.resourceAttributes: Invalid value: null: exactly",
            ),
            (
                "SubjectAccessReview",
                review(json!({"user": "u", "nonResourceAttributes": {}})),
                "metadata: Invalid value: {\"namespace\":\"a\"}: must be empty",
            ),
            (
                "LocalSubjectAccessReview",
                with("fieldSelector", json!({})),
                "spec.resourceAttributes.fieldSelector.requirements: Required value: when spec.resource",
            ),
            (
                "LocalSubjectAccessReview",
                with("labelSelector", json!({"requirements": [{"key": "k", "operator": "In"}]})),
                "spec.resourceAttributes.labelSelector.requirements[0].values: Required value: must be",
            ),
            (
                "LocalSubjectAccessReview",
                with("fieldSelector", json!({"requirements": [{"key": "k", "operator": "Near"}]})),
                "",
            ),
        ] {
            let first = access(kind, &review).first().map(ToString::to_string).unwrap_or_default();
            assert!(first.starts_with(want) && first.is_empty() == want.is_empty(), "{first}");
        }
    }
}
