//! Defaults in schemas: each is a value that the schema itself would take.

use super::structural::named;
use crate::value::Get;
use ::structural::rules::Rules;
use api::Value;
use api::field::{Error, ErrorList, Path};

/// All defaults of a structural schema.
pub fn check(s: &Value, at: &Path, e: &mut ErrorList) {
    if !s.is_object() {
        return;
    }
    if s.has("default") {
        own(s, &at.child("default"), e);
    }
    check(s.at("items"), &at.child("items"), e);
    for (key, inner) in named(s, "properties") {
        check(inner, &at.child("properties").key(key), e);
    }
}

fn own(s: &Value, at: &Path, e: &mut ErrorList) {
    let value = s.at("default");
    if !::structural::unknown_in(value, s).is_empty() {
        e.push(Error::invalid(at, value.clone(), "must not have unknown fields"));
    }
    let mut errors = ::structural::part(value, s, &::structural::Patterns::of(s));
    if let (true, Some(rules)) = (errors.is_empty(), Rules::of_part(s)) {
        errors = rules.check(value, Some(value)).errors;
        if errors.is_empty() {
            errors = rules.check(value, None).errors;
        }
    }
    e.extend(errors.into_iter().map(|error| below(at, error)));
}

/// The error of a part of the default at its place in the schema.
fn below(at: &Path, error: Error) -> Error {
    let field = match error.field.as_str() {
        "<nil>" | "" => at.to_string(),
        step if step.starts_with('[') => format!("{at}{step}"),
        step => format!("{at}.{step}"),
    };
    Error { field, ..error }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::json;

    #[test]
    fn defaults_fit_their_schemas() {
        for (schema, want) in [
            (json!({"type": "integer", "default": 1}), ""),
            (
                json!({"type": "integer", "default": "x"}),
                "at.default: Invalid value: \"string\":  in body must be of type integer: \"string\"",
            ),
            (
                json!({"type": "object", "properties": {"a": {"type": "integer"}}, "default": {"a": "x"}}),
                "at.default.a: Invalid value: \"string\": a in body must be of type integer: \"string\"",
            ),
            (
                json!({"type": "object", "properties": {"a": {"type": "integer"}}, "default": {"b": 1}}),
                "at.default: Invalid value: {\"b\":1}: must not have unknown fields",
            ),
            (
                json!({"type": "integer", "default": 1, "x-kubernetes-validations": [{"rule": "self > 2"}]}),
                "at.default: Invalid value: 1: failed rule: self > 2",
            ),
        ] {
            let mut errors = ErrorList::new();
            check(&schema, &Path::new("at"), &mut errors);
            assert_eq!(errors.first().map(ToString::to_string).unwrap_or_default(), want);
        }
    }
}
