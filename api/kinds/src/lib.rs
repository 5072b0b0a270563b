//! A room per kind: what is peculiar to it, and nothing else. Defaults, validation, what an update
//! may change, table rows. The generic endpoint code asks a [`Room`]; it names no kind itself.

pub mod checks;
mod clientconfig;
pub mod convert;
pub mod gates;
pub mod hash;
pub mod metadata;
pub use api::names;
pub use crd::CLEANUP as CUSTOM_RESOURCE_CLEANUP;
pub mod placement;
pub mod pods;
pub mod prepare;
pub mod selectors;
pub mod services;
pub mod shown;
pub mod table;
pub mod value;

mod admissionregistration;
mod apiservice;
mod apps;
mod autoscaling;
mod batch;
mod certificates;
mod coordination;
mod corev1;
mod crd;
mod discovery;
mod dra;
mod flowcontrol;
mod generic;
mod networking;
mod node;
mod pod;
mod policy;
mod rbac;
mod registry;
pub mod reviews;
mod scheduling;
mod semantic;
mod storage;
mod warnings;

pub use convert::convert;
pub use generic::{Kind, PLAIN};
pub use registry::room;

use api::Value;
use api::field::ErrorList;
use std::collections::BTreeMap;

/// What is being done to an object; `Status` and other subresources change what may be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Create,
    Update,
}

/// What a room may need to know of the request beside the object.
#[derive(Clone, Copy, Default)]
pub struct Context<'a> {
    pub namespace: &'a str,
    /// The version that the request speaks, e.g. `events.k8s.io/v1`; objects come in the storage version.
    pub api_version: &'a str,
    /// `""` for the main resource, else e.g. `status`, `ephemeralcontainers`, `resize`.
    pub subresource: &'a str,
    pub user: &'a str,
    pub uid: &'a str,
    pub groups: &'a [String],
    /// The user's extra attributes, as authentication found them.
    pub extra: Option<&'a BTreeMap<String, Vec<String>>>,
}

/// The behaviour of one kind (one version of it, for defaults and rows; storage version for the rest).
///
/// Order for a write: `defaults` on the decoded object, mutating admission, [`metadata::prepare`],
/// `prepare`, [`metadata::validate`] and `validate`, validating admission, `canonicalize`, storage.
pub trait Room: Send + Sync {
    /// Fills what the API documents as defaulted. Must be idempotent.
    fn defaults(&self, _object: &mut Value) {}

    /// Drops what a kind without a field table does not know, and names it: `spec.foo`. An error where the object
    /// cannot be read as one of the kind at all.
    fn prune(&self, _object: &mut Value) -> Result<Vec<String>, String> {
        Ok(Vec::new())
    }

    /// The structural schema of a kind without a field table.
    fn schema(&self) -> Option<&Value> {
        None
    }

    /// Clears or carries over what the client may not write: status on create, spec on a status
    /// update, `metadata.generation` bookkeeping. `metadata.uid` and the name are already set.
    fn prepare(&self, _op: Operation, _cx: &Context<'_>, _new: &mut Value, _old: Option<&Value>) {}

    /// Field errors of a create (`old` is none) or an update of the main resource or a subresource.
    fn validate(&self, _cx: &Context<'_>, _new: &Value, _old: Option<&Value>) -> ErrorList {
        Vec::new()
    }

    /// Last touch after validation, before storage.
    fn canonicalize(&self, _object: &mut Value) {}

    /// How often an update's metadata is checked by rules of the kind.
    fn metadata_checks(&self, _cx: &Context<'_>) -> metadata::Checks {
        metadata::Checks::UPDATE
    }

    /// Texts for `Warning:` headers.
    fn warnings(&self, _cx: &Context<'_>, _new: &Value, _old: Option<&Value>) -> Vec<String> {
        Vec::new()
    }

    /// What is wrong with a name (or with a `generateName`, if `prefix`) of this kind.
    fn name_errors(&self, _object: &Value, name: &str, prefix: bool) -> Vec<String> {
        metadata::Names::Subdomain.check(name, prefix)
    }

    /// Whether an object that comes with no name at all gets a random one.
    fn names_the_nameless(&self) -> bool {
        false
    }

    /// The cells of the object's row, in the order of the resource's columns (after `Name` too:
    /// all cells). `None`: the default columns (name and creation time) are used.
    fn row(&self, _object: &Value) -> Option<Vec<Value>> {
        None
    }

    /// Conditions of the object's row.
    fn row_conditions(&self, _object: &Value) -> Option<Value> {
        None
    }

    /// Whether finalizers of this kind need no domain before their name, as those of custom resources.
    fn any_finalizer(&self) -> bool {
        false
    }

    /// Whether PUT and apply to a missing name create it (leases, endpoints, services … as upstream's `AllowCreateOnUpdate`).
    fn create_on_update(&self) -> bool {
        false
    }

    /// Whether an update without resourceVersion is refused rather than forced (upstream's `AllowUnconditionalUpdate` false).
    fn unconditional_update(&self) -> bool {
        true
    }

    /// Grace period of a graceful deletion in seconds, given the object and what the caller asked for;
    /// `None` when the kind is deleted at once.
    fn grace_period(&self, _object: &Value, _asked: Option<i64>) -> Option<i64> {
        None
    }

    /// Finalizers that a deletion sets, beside those of the garbage collector.
    fn deletion_finalizers(&self) -> &'static [&'static str] {
        &[]
    }

    /// Paths that a write to `subresource` never changes: server-side apply must not own them.
    fn reset_fields(&self, _subresource: &str) -> &'static [&'static [&'static str]] {
        &[]
    }
}
