//! Custom objects in storage: JSON, and what selectors see of it.

use crate::definition::Definition;
use api::Value;
use serde::Deserialize;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use storage::{Attributes, Spec};

#[derive(Deserialize)]
struct Head<'a> {
    #[serde(borrow, default)]
    metadata: Metadata<'a>,
}

#[derive(Deserialize, Default)]
struct Metadata<'a> {
    #[serde(borrow, default)]
    namespace: Cow<'a, str>,
    #[serde(borrow, default)]
    labels: Option<BTreeMap<Cow<'a, str>, Cow<'a, str>>>,
}

/// Objects that nobody has asked for this long leave memory until somebody does.
const IDLE: Duration = Duration::from_secs(300);

/// How a definition's objects are kept.
pub fn spec(definition: &Definition) -> Spec {
    let fields: Vec<String> = definition.versions.iter().flat_map(|v| v.selectable.iter().cloned()).collect();
    let attributes = Arc::new(move |key: &str, bytes: &[u8]| attributes(&fields, key, bytes));
    Spec::new(definition.prefix(), attributes).named(&definition.plural, &definition.group).resting(IDLE)
}

fn attributes(fields: &[String], key: &str, bytes: &[u8]) -> Attributes {
    let Ok(head) = serde_json::from_slice::<Head<'_>>(bytes) else { return Attributes::default() };
    let mut found = vec![
        ("metadata.name".to_owned(), key.rsplit('/').next().unwrap_or_default().to_owned()),
        ("metadata.namespace".to_owned(), head.metadata.namespace.into_owned()),
    ];
    if !fields.is_empty()
        && let Ok(object) = serde_json::from_slice::<Value>(bytes)
    {
        let texts = fields.iter().map(|f| (f.clone(), text_at(&object, f)));
        found.extend(texts);
    }
    Attributes::new(head.metadata.labels.unwrap_or_default(), found)
}

fn text_at(object: &Value, field: &str) -> String {
    match object.pointer(&format!("/{}", field.replace('.', "/"))) {
        Some(Value::String(s)) => s.clone(),
        Some(v @ (Value::Number(_) | Value::Bool(_))) => v.to_string(),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_see_labels_and_declared_fields() {
        let fields = ["spec.color".to_owned(), "spec.size".to_owned()];
        let bytes = br#"{"metadata":{"name":"a","namespace":"n","labels":{"x":"\u0079"}},"spec":{"color":"red","size":3}}"#;
        let got = attributes(&fields, "/registry/g/ps/n/a", bytes);
        assert_eq!(got.label("x"), Some("y"));
        let seen: Vec<&str> =
            ["metadata.name", "metadata.namespace", "spec.color", "spec.size"].map(|f| got.field(f)).into();
        assert_eq!(seen, ["a", "n", "red", "3"]);
    }
}
