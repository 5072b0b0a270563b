//! PATCH: the change is applied to what is stored now, again if somebody else was faster.

mod document;

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
use api::field::{Error, Path};
use api::status::{Result, Status};
use api::{GroupVersionKind, Value, decode};
pub use document::{Patch, kind, parse};
use http::Response;
use std::sync::Arc;

/// How the strict check's sentence begins.
const STRICT: &str = "strict decoding error";

/// Answers a PATCH of a resource or of a same-kind subresource.
pub async fn patch(call: &Call, served: &Arc<Served>) -> Result<Response<Body>> {
    let kind = document::kind(call, served.message.is_some())?;
    let accepted = call.accepted(Offers::ALL)?;
    let body = call.bytes().await?;
    let options = WriteOptions::of_patch(&call.query, kind.is_apply())?;
    let patch = document::read(kind, &body, options.validation);
    let manager = call.manager(&options.field_manager);
    let mut t = target(call, served, "PatchOptions");
    t.dry_run = options.dry_run;
    t.create = kind.is_apply() && t.subresource.is_empty();
    let change = Change { t: &t, patch: &patch, options: &options, manager: &manager };
    let (outcome, created) = write::update(&t, &Preconditions::default(), |old| change.compute(old)).await?;
    respond::object(call, served, if created { 201 } else { 200 }, &outcome, accepted)
}

/// A patch of an object that is not stored as such, e.g. a Scale.
pub fn apply_plain(patch: &Patch, gvk: &GroupVersionKind, old: &Value) -> Result<Value> {
    let mut new = old.clone();
    patch.run(gvk, &mut new)?;
    if let Some(message) = api::schema::for_kind(gvk) {
        patch.decode(message, gvk, &mut new)?;
    }
    new["kind"] = gvk.kind.as_str().into();
    new["apiVersion"] = gvk.api_version().into();
    Ok(new)
}

struct Change<'a> {
    t: &'a Target<'a>,
    patch: &'a Result<Patch>,
    options: &'a WriteOptions,
    manager: &'a str,
}

impl Change<'_> {
    /// The new object, in the storage version as the old one.
    fn compute(&self, old: Option<&Value>) -> Result<Value> {
        let served = self.t.served;
        let patch = self.patch.as_ref().map_err(Status::clone)?;
        let old = old.map(|o| served.from_stored(o.clone())).transpose()?;
        let own = Write { manager: self.manager, subresource: self.t.subresource };
        let mut new = match patch {
            Patch::Apply(p) => self.applied(p, old.as_ref(), &own)?,
            other => self.patched(other, old.as_ref())?,
        };
        match_namespace(self.t, &mut new)?;
        match_name(self.t, &new)?;
        served.room.defaults(&mut new);
        if !matches!(patch, Patch::Apply(_)) {
            managed::record(served, old.as_ref(), &mut new, &own);
        }
        served.to_stored(new)
    }

    fn patched(&self, patch: &Patch, old: Option<&Value>) -> Result<Value> {
        let served = self.t.served;
        let mut new = old.cloned().unwrap_or_default();
        patch.run(&served.gvk, &mut new)?;
        let Some(message) = served.message else {
            self.same_kind(&mut new)?;
            let (before, validation) = (new.clone(), self.options.validation);
            let strict = |e: Status| match &e.message {
                // What the strict check says of a patch is said of the whole.
                text if validation == FieldValidation::Strict && text.contains(STRICT) => {
                    let why = text.find(STRICT).map_or(text.as_str(), |i| &text[i..]);
                    patch.invalid(None, &before, why)
                }
                _ => e,
            };
            input::prune(self.t.call, served, validation, patch.problems(), &mut new).map_err(strict)?;
            return Ok(new);
        };
        let before = new.clone();
        let problems = patch.decode(message, &served.gvk, &mut new)?;
        match self.options.validation {
            FieldValidation::Strict if !problems.is_empty() => {
                return Err(patch.invalid(Some(message), &before, &decode::strict_error(&problems)));
            }
            FieldValidation::Warn => problems.into_iter().for_each(|p| self.t.call.warn(p)),
            _ => {}
        }
        Ok(new)
    }

    fn applied(&self, patch: &decode::Parsed, old: Option<&Value>, own: &Write<'_>) -> Result<Value> {
        let served = self.t.served;
        let force = self.options.force.unwrap_or(false);
        let text = |k: &str| patch.value[k].as_str().unwrap_or_default();
        if text("apiVersion") != served.api_version || text("kind") != served.gvk.kind {
            let slash = if text("apiVersion").contains('/') { "" } else { "/" };
            let (version, kind) = (text("apiVersion"), text("kind"));
            return Err(Status::bad_request(format!("invalid object type: {slash}{version}, Kind={kind}")));
        }
        let mut new = managed::apply(served, old, &patch.value, own, force)?;
        if let (Some(first), true) =
            (patch.duplicates.first(), self.options.validation != FieldValidation::Ignore)
        {
            let text = format!("error converting YAML to JSON: {first}");
            if self.options.validation == FieldValidation::Strict {
                return Err(Status::bad_request(format!("error strict decoding YAML: {text}")));
            }
            let lines = first.split('\n').skip(1).map(str::trim_start);
            lines.for_each(|line| self.t.call.warn(line));
        }
        match served.message {
            Some(message) => {
                decode::conform(message, &mut new).map_err(|e| self.unfit(&patch.value, &e))?;
                input::label(&served.gvk, &mut new);
            }
            None => {
                let validation = self.options.validation;
                input::prune(self.t.call, served, validation, Vec::new(), &mut new)?;
            }
        }
        Ok(new)
    }

    /// What was applied makes no object of the kind.
    fn unfit(&self, applied: &Value, why: &str) -> Status {
        let gvk = &self.t.served.gvk;
        let meta = |k: &str| applied["metadata"][k].as_str().unwrap_or_default();
        let kind = format!("{}/{}, Kind={}", gvk.group, gvk.version, gvk.kind);
        let how = if why.starts_with("illegal base64") { "error decoding from json: " } else { "" };
        let id = format!("{}/{}; {kind}", meta("namespace"), meta("name"));
        let text = format!(
            "failed to convert new object ({id}) to proper version: unable to convert unstructured object to {kind}: {how}{why}"
        );
        Status::new(500, "", text)
    }

    /// A patch cannot turn a custom object into one of another kind; one of its status changes no other field.
    fn same_kind(&self, new: &mut Value) -> Result<()> {
        let (gvk, is_status) = (&self.t.served.gvk, self.t.subresource == "status");
        let mut errors = Vec::new();
        let found_kind = new["kind"].as_str().unwrap_or_default().to_owned();
        for (field, wanted) in [("kind", &gvk.kind), ("apiVersion", &self.t.served.api_version)] {
            let found = new[field].as_str().unwrap_or_default();
            if found != wanted && !is_status {
                errors.push(Error::invalid(&Path::new(field), found, format!("must be {wanted}")));
            }
            new[field] = wanted.as_str().into();
        }
        if errors.is_empty() {
            return Ok(());
        }
        Err(Status::invalid(&gvk.group, &found_kind, self.t.name, &errors))
    }
}
