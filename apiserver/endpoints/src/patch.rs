//! PATCH: the change is applied to what is stored now, again if somebody else was faster.

use crate::body::Body;
use crate::call::Call;
use crate::input;
use crate::managed::{self, Write};
use crate::negotiate::Offers;
use crate::query::{FieldValidation, WriteOptions};
use crate::respond;
use crate::served::Served;
use crate::verbs::{match_name, match_namespace, target};
use crate::write::{self, Preconditions, Target};
use api::decode::{self, Parsed};
use api::status::{Result, Status};
use api::{GroupVersionKind, Value};
use bytes::Bytes;
use http::Response;
use std::sync::Arc;

const JSON_PATCH: &str = "application/json-patch+json";
const MERGE_PATCH: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";
const APPLY_YAML: &str = "application/apply-patch+yaml";
const APPLY_CBOR: &str = "application/apply-patch+cbor";

/// How a patch says what to change. Duplicate keys of the document are kept for the strict check.
pub enum Patch {
    Json(Bytes),
    Merge(Parsed),
    Strategic(Parsed),
    Apply(Parsed),
}

/// Answers a PATCH of a resource or of a same-kind subresource.
pub async fn patch(call: &Call, served: &Arc<Served>) -> Result<Response<Body>> {
    let accepted = call.accepted(Offers::ALL)?;
    let options = WriteOptions::from_query(&call.query, "PatchOptions")?;
    let body = call.bytes().await?;
    let patch = parse(call, served.message.is_some(), &body)?;
    let apply = matches!(patch, Patch::Apply(_));
    check_options(&options, apply)?;
    let manager = call.manager(&options.field_manager);
    let mut t = target(call, served, "PatchOptions");
    t.dry_run = options.dry_run;
    t.create = apply && t.subresource.is_empty();
    duplicates(call, &options, &served.gvk, &patch)?;
    let change = Change { t: &t, patch: &patch, options: &options, manager: &manager };
    let (outcome, created) = write::update(&t, &Preconditions::default(), |old| change.compute(old)).await?;
    respond::object(call, served, if created { 201 } else { 200 }, &outcome, accepted)
}

/// Reads the patch document.
pub fn parse(call: &Call, builtin: bool, body: &Bytes) -> Result<Patch> {
    let bad = |e: &dyn std::fmt::Display| Status::bad_request(format!("error decoding patch: {e}"));
    let json = || decode::parse_json(body).map_err(|e| bad(&e));
    match call.content_type() {
        JSON_PATCH => Ok(Patch::Json(body.clone())),
        MERGE_PATCH => json().map(Patch::Merge),
        STRATEGIC if builtin => json().map(Patch::Strategic),
        APPLY_YAML => decode::parse_yaml(body)
            .map(Patch::Apply)
            .map_err(|e| Status::bad_request(format!("error decoding YAML: {e}"))),
        APPLY_CBOR => {
            let value = ciborium::from_reader(&body[..]).map_err(|e| bad(&e))?;
            Ok(Patch::Apply(Parsed { value, duplicates: Vec::new() }))
        }
        _ if builtin => {
            Err(Status::unsupported_media_type(&[JSON_PATCH, MERGE_PATCH, STRATEGIC, APPLY_YAML]))
        }
        _ => Err(Status::unsupported_media_type(&[JSON_PATCH, MERGE_PATCH, APPLY_YAML])),
    }
}

fn duplicates(call: &Call, options: &WriteOptions, gvk: &GroupVersionKind, patch: &Patch) -> Result<()> {
    match patch {
        Patch::Json(_) => Ok(()),
        Patch::Merge(p) | Patch::Strategic(p) | Patch::Apply(p) => {
            input::take_strict(call, options.validation, gvk, p.duplicates.clone())
        }
    }
}

fn check_options(o: &WriteOptions, apply: bool) -> Result<()> {
    use api::field::{Error, Path};
    let mut errors = Vec::new();
    if apply && o.field_manager.is_empty() {
        errors.push(Error::required(&Path::new("fieldManager"), "is required for apply patch"));
    }
    if !apply && o.force.is_some() {
        errors.push(Error::forbidden(&Path::new("force"), "may not be specified for non-apply patch"));
    }
    if errors.is_empty() { Ok(()) } else { Err(Status::invalid("meta.k8s.io", "PatchOptions", "", &errors)) }
}

/// A patch of an object that is not stored as such, e.g. a Scale.
pub fn apply_plain(patch: &Patch, gvk: &GroupVersionKind, old: &Value) -> Result<Value> {
    let mut new = old.clone();
    run(patch, gvk, &mut new)?;
    if let Some(message) = api::schema::for_kind(gvk) {
        decode::conform(message, &mut new).map_err(Status::bad_request)?;
    }
    new["kind"] = gvk.kind.as_str().into();
    new["apiVersion"] = gvk.api_version().into();
    Ok(new)
}

fn run(patch: &Patch, gvk: &GroupVersionKind, document: &mut Value) -> Result<()> {
    match patch {
        Patch::Json(body) => merge::patch::json_patch(document, body),
        Patch::Merge(p) | Patch::Apply(p) => merge::patch::merge_patch(document, &p.value),
        Patch::Strategic(p) => {
            let message = api::schema::for_kind(gvk)
                .ok_or_else(|| Status::unsupported_media_type(&[JSON_PATCH, MERGE_PATCH]))?;
            merge::patch::strategic(message, document, &p.value)
        }
    }
}

struct Change<'a> {
    t: &'a Target<'a>,
    patch: &'a Patch,
    options: &'a WriteOptions,
    manager: &'a str,
}

impl Change<'_> {
    /// The new object, in the storage version as the old one.
    fn compute(&self, old: Option<&Value>) -> Result<Value> {
        let served = self.t.served;
        let old = old.map(|o| served.from_stored(o.clone())).transpose()?;
        let own = Write { manager: self.manager, subresource: self.t.subresource };
        let mut new = match self.patch {
            Patch::Apply(p) => self.applied(&p.value, old.as_ref(), &own)?,
            other => {
                let mut new = old.clone().unwrap_or_default();
                run(other, &served.gvk, &mut new)?;
                new
            }
        };
        self.same_kind(&new)?;
        match served.message {
            Some(message) => {
                let validation = if matches!(self.patch, Patch::Apply(_)) {
                    FieldValidation::Ignore
                } else {
                    self.options.validation
                };
                input::conform(self.t.call, message, &served.gvk, validation, &mut new)?;
            }
            None if !new["metadata"].is_object() => new["metadata"] = Value::Object(Default::default()),
            None => {}
        }
        match_namespace(self.t, &mut new)?;
        match_name(self.t, &new)?;
        served.room.defaults(&mut new);
        if !matches!(self.patch, Patch::Apply(_)) {
            managed::record(served, old.as_ref(), &mut new, &own);
        }
        served.to_stored(new)
    }

    fn applied(&self, applied: &Value, old: Option<&Value>, own: &Write<'_>) -> Result<Value> {
        let mut applied = applied.clone();
        if !applied["metadata"].is_object() {
            applied["metadata"] = Value::Object(Default::default());
        }
        match_namespace(self.t, &mut applied)?;
        if applied["metadata"]["name"].as_str().unwrap_or_default().is_empty() {
            applied["metadata"]["name"] = self.t.name.into();
        }
        match_name(self.t, &applied)?;
        let force = self.options.force.unwrap_or(false);
        managed::apply(self.t.served, old, &applied, own, force)
    }

    /// A patch cannot turn an object into one of another kind.
    fn same_kind(&self, new: &Value) -> Result<()> {
        let gvk = &self.t.served.gvk;
        let text = |k: &str| new[k].as_str().unwrap_or_default();
        if text("kind") == gvk.kind && text("apiVersion") == self.t.served.api_version {
            return Ok(());
        }
        Err(Status::bad_request(format!(
            "{} in version {:?} cannot be handled as a {}: the patch changes the kind",
            text("kind"),
            text("apiVersion"),
            gvk.kind
        )))
    }
}
