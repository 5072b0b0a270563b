//! Custom resource definitions: `v1` is served, `v1beta1` is what stands in etcd.
//!
//! The older version says once, at the top of the spec, what all versions have in common.

use crate::value::{Get, Put};
use api::{Value, json};

/// Fields of a version, and what they are called at the top of a `v1beta1` spec.
const SHARED: [(&str, &str); 4] = [
    ("subresources", "subresources"),
    ("schema", "validation"),
    ("additionalPrinterColumns", "additionalPrinterColumns"),
    ("selectableFields", "selectableFields"),
];

/// `v1` to `v1beta1`.
pub fn to_stored(o: &mut Value) {
    let spec = o.ensure("spec");
    hoist(spec);
    rename_paths(spec, "jsonPath", "JSONPath");
    if let Some(conversion) = spec.sub("conversion")
        && let Some(mut webhook) = conversion.unset("webhook").filter(Value::is_object)
    {
        if let Some(config) = webhook.unset("clientConfig") {
            conversion.set("webhookClientConfig", config);
        }
        if let Some(versions) = webhook.unset("conversionReviewVersions") {
            conversion.set("conversionReviewVersions", versions);
        }
    }
    // Absent means true there.
    spec.fill("preserveUnknownFields", false);
}

/// `v1beta1` to `v1`.
pub fn to_served(o: &mut Value) {
    let spec = o.ensure("spec");
    if let Some(name) = spec.unset("version").filter(|v| v.as_str().is_some_and(|t| !t.is_empty()))
        && spec.len("versions") == 0
    {
        spec.set("versions", json!([{"name": name, "served": true, "storage": true}]));
    }
    for (own, shared) in SHARED {
        if let Some(value) = spec.unset(shared).filter(|v| !v.is_null()) {
            spec.items("versions").for_each(|v| v.set(own, value.clone()));
        }
    }
    rename_paths(spec, "JSONPath", "jsonPath");
    if let Some(conversion) = spec.sub("conversion") {
        let config = conversion.unset("webhookClientConfig").filter(|v| !v.is_null());
        let versions = conversion.unset("conversionReviewVersions").filter(|v| !v.is_null());
        if config.is_some() || versions.is_some() {
            let mut webhook = json!({"conversionReviewVersions": versions});
            if let Some(config) = config {
                webhook.set("clientConfig", config);
            }
            conversion.set("webhook", webhook);
        }
    }
    match spec.unset("preserveUnknownFields") {
        Some(Value::Bool(false)) => {}
        _ => spec.set("preserveUnknownFields", true),
    }
}

fn hoist(spec: &mut Value) {
    let versions = spec.list("versions");
    let Some(first) = versions.first() else { return };
    let name = first.text("name").to_owned();
    let equal: Vec<(&str, &str, Value)> = SHARED
        .into_iter()
        .filter(|(own, _)| versions.iter().all(|v| v.at(own) == first.at(own)))
        .map(|(own, shared)| (own, shared, first.at(own).clone()))
        .collect();
    spec.set("version", name);
    for (own, shared, value) in equal {
        spec.items("versions").for_each(|v| drop(v.unset(own)));
        if !value.is_null() {
            spec.set(shared, value);
        }
    }
}

/// The one field of printer columns that the versions spell differently.
fn rename_paths(spec: &mut Value, from: &str, to: &str) {
    let rename = |columns: &mut Value| {
        for column in columns.items("additionalPrinterColumns") {
            if let Some(path) = column.unset(from) {
                column.set(to, path);
            }
        }
    };
    rename(spec);
    spec.items("versions").for_each(rename);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v1(versions: Value) -> Value {
        json!({"spec": {"group": "g", "conversion": {"strategy": "Webhook", "webhook":
            {"conversionReviewVersions": ["v1"], "clientConfig": {"url": "u"}}}, "versions": versions}})
    }

    #[test]
    fn there_and_back() {
        let column = json!([{"name": "A", "type": "string", "jsonPath": ".a"}]);
        let alike = v1(json!([
            {"name": "v1", "schema": {"openAPIV3Schema": {}}, "additionalPrinterColumns": column},
            {"name": "v2", "schema": {"openAPIV3Schema": {}}, "additionalPrinterColumns": column}]));
        let mut o = alike.clone();
        to_stored(&mut o);
        assert_eq!(
            o["spec"],
            json!({"group": "g", "version": "v1", "versions": [{"name": "v1"}, {"name": "v2"}],
                "validation": {"openAPIV3Schema": {}}, "preserveUnknownFields": false,
                "additionalPrinterColumns": [{"name": "A", "type": "string", "JSONPath": ".a"}],
                "conversion": {"strategy": "Webhook", "webhookClientConfig": {"url": "u"}, "conversionReviewVersions": ["v1"]}})
        );
        to_served(&mut o);
        assert_eq!(o, alike);

        let different = v1(json!([{"name": "v1", "subresources": {"status": {}}}, {"name": "v2"}]));
        let mut o = different.clone();
        to_stored(&mut o);
        assert_eq!(o["spec"]["versions"][0]["subresources"], json!({"status": {}}));
        assert_eq!(o["spec"]["subresources"], Value::Null);
        to_served(&mut o);
        assert_eq!(o, different);
    }
}
