//! Admission policies: expressions in the API that judge and change requests, without a webhook.
//!
//! [`definitions`] keeps them compiled, [`params`] finds their parameters, [`validating`] and [`mutating`] are
//! the plugins.

mod definitions;
mod mutating;
mod params;
mod patches;
mod validating;

pub use mutating::{Memory, Mutating};
pub use validating::Validating;

use crate::attributes::Attributes;
use crate::live::fetch;
use api::Value;
use api::registry::Registry;
use api::status::Result;
use std::sync::Arc;

/// Reviews are questions, not objects: policies do not see them.
fn is_excluded(a: &Attributes) -> bool {
    const REVIEWS: [(&str, &str); 6] = [
        ("authentication.k8s.io", "selfsubjectreviews"),
        ("authentication.k8s.io", "tokenreviews"),
        ("authorization.k8s.io", "localsubjectaccessreviews"),
        ("authorization.k8s.io", "selfsubjectaccessreviews"),
        ("authorization.k8s.io", "selfsubjectrulesreviews"),
        ("authorization.k8s.io", "subjectaccessreviews"),
    ];
    REVIEWS.contains(&(a.resource.group.as_str(), a.resource.resource.as_str()))
}

/// The namespace of a request, unless it is about a namespace.
async fn namespace(a: &Attributes, registry: &dyn Registry) -> Result<Option<Arc<Value>>> {
    let itself = a.kind.group.is_empty() && a.kind.kind == "Namespace";
    if a.namespace.is_empty() || itself {
        return Ok(None);
    }
    fetch(registry, ("", "namespaces"), "", &a.namespace).await.map(Some)
}

#[cfg(test)]
mod tests;
