//! Which fields a resource or subresource does not write, so that nobody comes to own them there.

use crate::set::Set;

/// Restricts the fields that a write through one resource or subresource can own.
#[derive(Clone, Debug, Default)]
pub enum Filter {
    #[default]
    All,
    /// Everything but these and what is below them.
    Except(Set),
    /// Only these and what is below them.
    Only(Set),
}

impl Filter {
    pub fn except(paths: &[&[&str]]) -> Self {
        Filter::Except(Set::of_fields(paths))
    }

    pub(crate) fn apply(&self, mut set: Set) -> Set {
        match self {
            Filter::All => set,
            Filter::Except(gone) => {
                set.remove_all(gone, true);
                set
            }
            Filter::Only(kept) => set.below(kept),
        }
    }

    /// The filter of a built-in resource, by what its strategies reset.
    pub fn builtin(group: &str, resource: &str, subresource: &str, has_status: bool) -> Self {
        const SPEC: &[&str] = &["spec"];
        const STATUS: &[&str] = &["status"];
        const METADATA: &[&str] = &["metadata"];
        match (group, resource, subresource) {
            ("", "pods", "ephemeralcontainers") => {
                Filter::Only(Set::of_fields(&[&["spec", "ephemeralContainers"]]))
            }
            ("", "pods", "resize") => Filter::Only(Set::of_fields(&[
                &["spec", "containers"],
                &["spec", "initContainers"],
                &["spec", "resources"],
            ])),
            ("", "pods", "status") => {
                Self::except(&[SPEC, &["metadata", "deletionTimestamp"], &["metadata", "ownerReferences"]])
            }
            ("apps", "deployments", "status") => Self::except(&[SPEC, &["metadata", "labels"]]),
            ("certificates.k8s.io", "certificatesigningrequests", "") => Self::except(&[SPEC, STATUS]),
            ("certificates.k8s.io", "certificatesigningrequests", "status") => {
                Self::except(&[SPEC, &["status", "conditions"]])
            }
            ("certificates.k8s.io", "certificatesigningrequests", "approval") => {
                Self::except(&[SPEC, &["status", "certificate"]])
            }
            ("networking.k8s.io", "servicecidrs", "") => Filter::All,
            (_, _, "") if has_status => Self::except(&[STATUS]),
            ("", "namespaces", "finalize") => Self::except(&[STATUS]),
            (
                "admissionregistration.k8s.io"
                | "internal.apiserver.k8s.io"
                | "flowcontrol.apiserver.k8s.io"
                | "resource.k8s.io"
                | "scheduling.k8s.io"
                | "storage.k8s.io"
                | "storagemigration.k8s.io",
                _,
                "status",
            )
            | ("networking.k8s.io", "servicecidrs", "status") => Self::except(&[METADATA, SPEC]),
            (_, _, "status") => Self::except(&[SPEC]),
            _ => Filter::All,
        }
    }

    /// The filter of a custom resource whose version has a status subresource.
    pub fn custom(subresource: &str, has_status: bool) -> Self {
        match subresource {
            "" if has_status => Self::except(&[&["status"]]),
            "status" => Self::except(&[&["spec"], &["metadata"]]),
            _ => Filter::All,
        }
    }
}
