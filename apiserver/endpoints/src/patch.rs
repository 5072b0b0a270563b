//! PATCH: the change is applied to what is stored now, again if somebody else was faster.

use crate::body::Body;
use crate::call::Call;
use crate::negotiate::Offers;
use crate::query::WriteOptions;
use crate::respond;
use crate::served::Served;
use crate::verbs::{match_name, match_namespace, target};
use crate::write::{self, Preconditions};
use api::Value;
use api::status::{Result, Status};
use bytes::Bytes;
use http::Response;
use std::sync::Arc;

const JSON_PATCH: &str = "application/json-patch+json";
const MERGE_PATCH: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";
const APPLY_YAML: &str = "application/apply-patch+yaml";
const APPLY_CBOR: &str = "application/apply-patch+cbor";

/// How a patch says what to change.
pub enum Patch {
    Json(Value),
    Merge(Value),
    Strategic(Value),
    Apply(Value),
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
    let change = Change { call, served, t: &t, patch: &patch, options: &options, manager: &manager };
    let (outcome, created) = write::update(&t, &Preconditions::default(), |old| change.compute(old)).await?;
    respond::object(call, served, if created { 201 } else { 200 }, &outcome, accepted)
}

/// Reads the patch document.
pub fn parse(call: &Call, builtin: bool, body: &Bytes) -> Result<Patch> {
    let bad = |e: &dyn std::fmt::Display| Status::bad_request(format!("error decoding patch: {e}"));
    let json = || serde_json::from_slice::<Value>(body).map_err(|e| bad(&e));
    match call.content_type() {
        JSON_PATCH => json().map(Patch::Json),
        MERGE_PATCH => json().map(Patch::Merge),
        STRATEGIC if builtin => json().map(Patch::Strategic),
        APPLY_YAML => serde_saphyr::from_slice(body).map(Patch::Apply).map_err(|e| bad(&e)),
        APPLY_CBOR => ciborium::from_reader(&body[..]).map(Patch::Apply).map_err(|e| bad(&e)),
        _ => Err(Status::unsupported_media_type(&[JSON_PATCH, MERGE_PATCH, STRATEGIC, APPLY_YAML])),
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

struct Change<'a> {
    call: &'a Call,
    served: &'a Arc<Served>,
    t: &'a write::Target<'a>,
    patch: &'a Patch,
    options: &'a WriteOptions,
    manager: &'a str,
}

impl Change<'_> {
    fn compute(&self, old: Option<&Value>) -> Result<Value> {
        let _ = (self.call, self.served, self.t, self.patch, self.options, self.manager, old);
        let old = self.served.from_stored(old.cloned().unwrap_or_default())?;
        let mut new = match self.patch {
            Patch::Merge(p) | Patch::Strategic(p) => {
                let mut v = old.clone();
                merge_into(&mut v, p);
                v
            }
            _ => return Err(Status::unsupported_media_type(&[MERGE_PATCH])),
        };
        match_namespace(self.t, &mut new)?;
        match_name(self.t, &new)?;
        self.served.room.defaults(&mut new);
        self.served.to_stored(new)
    }
}

/// A patch of an object that no field ownership is kept of, e.g. a Scale.
pub fn apply_plain(patch: &Patch, _gvk: &api::GroupVersionKind, old: &Value) -> Result<Value> {
    let mut v = old.clone();
    match patch {
        Patch::Merge(p) | Patch::Strategic(p) => merge_into(&mut v, p),
        _ => return Err(Status::unsupported_media_type(&[MERGE_PATCH])),
    }
    Ok(v)
}

fn merge_into(target: &mut Value, patch: &Value) {
    let Value::Object(p) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Default::default());
    }
    if let Some(t) = target.as_object_mut() {
        for (k, v) in p {
            if v.is_null() {
                t.remove(k);
            } else {
                merge_into(t.entry(k.clone()).or_insert(Value::Null), v);
            }
        }
    }
}
