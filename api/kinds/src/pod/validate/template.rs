//! Templates of pods, and of claims.

use super::{Options, security, spec};
use crate::metadata;
use crate::value::{Get, is_zero};
use api::Value;
use api::field::{Error, ErrorList, Path};

/// A pod template. Its labels and annotations are reported as if they stood beside the spec.
pub fn template(template: &Value, at: &Path, e: &mut ErrorList) {
    let meta = template.at("metadata");
    metadata::labels(meta.at("labels"), &at.child("labels"), e);
    metadata::annotations(meta.at("annotations"), &at.child("annotations"), e);
    security::annotations(template, &at.child("annotations"), e);
    let (pod, at) = (template.at("spec"), at.child("spec"));
    spec(pod, None, Options { is_pod: false }, &at, e);
    security::annotations_match_fields(template, &at, e);
    if pod.len("ephemeralContainers") > 0 {
        let text = "ephemeral containers not allowed in pod template";
        e.push(Error::forbidden(&at.child("ephemeralContainers"), text));
    }
}

/// Metadata in a template of claims: labels and annotations, nothing that names an object.
pub fn template_metadata(meta: &Value, at: &Path, e: &mut ErrorList) {
    metadata::annotations(meta.at("annotations"), &at.child("annotations"), e);
    metadata::labels(meta.at("labels"), &at.child("labels"), e);
    for (field, value) in meta.as_object().into_iter().flatten() {
        if !matches!(field.as_str(), "annotations" | "labels") && !is_zero(value) {
            // Upstream spells one of them its own way.
            let field = if field == "uid" { "uID" } else { field };
            e.push(Error::forbidden(&at.child(field), "cannot be set"));
        }
    }
}
