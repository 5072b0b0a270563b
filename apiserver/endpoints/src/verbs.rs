//! The verbs of a resource: from a routed request to the generic read or write that it means.

use crate::body::Body;
use crate::call::Call;
use crate::delete::{self, Deletion};
use crate::input;
use crate::negotiate::{Accepted, Offers, Shape};
use crate::query::{DeleteOptions, ListOptions, WriteOptions};
use crate::respond;
use crate::served::Served;
use crate::write::{self, Outcome, Preconditions, Target};
use crate::{list, patch, watch};
use api::Value;
use api::status::{Result, Status};
use http::Response;
use std::sync::Arc;
use storage::ReadVersion;

/// Handles a request to a resource or to one of its same-kind subresources.
pub async fn serve(call: &Call, served: &Arc<Served>) -> Result<Response<Body>> {
    match call.info.verb {
        "get" => get(call, served).await,
        "list" => list::list(call, served).await,
        "watch" => watch::watch(call, served).await,
        "create" => create(call, served).await,
        "update" => update(call, served).await,
        "patch" => patch::patch(call, served).await,
        "delete" => remove(call, served).await,
        "deletecollection" => remove_collection(call, served).await,
        _ => Err(method_not_allowed()),
    }
}

/// Collections are not replaced, and objects are not created under a name in the path.
pub fn check_target(call: &Call) -> Result<()> {
    let named = !call.info.name.is_empty();
    match call.info.verb {
        "update" | "patch" if !named => Err(method_not_allowed()),
        "create" if named => Err(method_not_allowed()),
        _ => Ok(()),
    }
}

/// Tells the client if the API that it uses is going away.
pub fn warn_of_end(call: &Call, served: &Served) {
    if let Some(text) = deprecation(served) {
        call.server.metrics.deprecated(served, &call.info.subresource);
        call.warn(text);
    }
}

/// What clients of an API that is going away are told with every answer.
fn deprecation(served: &Served) -> Option<String> {
    if served.deprecation.is_some() {
        return served.deprecation.clone();
    }
    match (served.gvk.group.as_str(), served.gvk.version.as_str(), served.resource.as_str()) {
        ("", "v1", "endpoints") => {
            return Some(
                "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice".into(),
            );
        }
        ("", "v1", "componentstatuses") => return Some("v1 ComponentStatus is deprecated in v1.19+".into()),
        _ => {}
    }
    // An API is announced to go three releases before it does.
    let removed: u32 = served.removed_in.as_deref()?.strip_prefix("1.")?.parse().ok()?;
    let since = removed.checked_sub(3)?;
    let now: u32 = component::version::MINOR.parse().ok()?;
    if since > now {
        return None;
    }
    let (version, kind) = (&served.api_version, &served.gvk.kind);
    let instead = match kind.as_str() {
        "VolumeAttributesClass" => "; use storage.k8s.io/v1 VolumeAttributesClass",
        _ => "",
    };
    Some(format!("{version} {kind} is deprecated in v1.{since}+, unavailable in v1.{removed}+{instead}"))
}

/// A method that the path does not have.
pub fn method_not_allowed() -> Status {
    let text = "the server does not allow this method on the requested resource";
    crate::negotiate::router_status(405, "MethodNotAllowed", text)
}

/// The object of the request's path.
pub fn target<'a>(call: &'a Call, served: &'a Arc<Served>, options: &'static str) -> Target<'a> {
    Target {
        call,
        served,
        namespace: if served.namespaced { &call.info.namespace } else { "" },
        name: &call.info.name,
        subresource: &call.info.subresource,
        door: &call.info.subresource,
        dry_run: false,
        options,
        create: false,
    }
}

/// Reads the stored object of the path, as fresh as the query demands.
pub async fn read(call: &Call, served: &Arc<Served>) -> Result<Arc<storage::Object>> {
    let version = match list::parse_version(call.query.get("resourceVersion").unwrap_or_default())? {
        None => ReadVersion::Consistent,
        Some(0) => ReadVersion::Any,
        Some(n) => ReadVersion::NotOlderThan(n),
    };
    let t = target(call, served, "GetOptions");
    let found = served.stored()?.resource.get(&served.key(t.namespace, t.name)?, version).await;
    found.map_err(|e| t.storage_error(e))?.ok_or_else(|| served.not_found(t.name))
}

async fn get(call: &Call, served: &Arc<Served>) -> Result<Response<Body>> {
    let accepted = call.accepted(Offers::ALL)?;
    if call.query.flag("export") {
        let why = "the export parameter, deprecated since v1.14, is no longer supported";
        return Err(Status::bad_request(why));
    }
    let object = read(call, served).await?;
    respond::object(call, served, 200, &Outcome::Stored(object), accepted)
}

async fn create(call: &Call, served: &Arc<Served>) -> Result<Response<Body>> {
    let accepted = call.accepted(Offers::ALL)?;
    let options = WriteOptions::from_query(&call.query, "CreateOptions")?;
    let mut value = input::served(call, served, options.validation).await?;
    let mut t = target(call, served, "CreateOptions");
    t.dry_run = options.dry_run;
    match_namespace(&t, &mut value)?;
    if let Some(meta) = value["metadata"].as_object_mut() {
        // Nobody can set them, so nobody owns them.
        for field in ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink"] {
            meta.remove(field);
        }
    }
    served.room.defaults(&mut value);
    let own = crate::managed::Write { manager: &call.manager(&options.field_manager), subresource: "" };
    crate::managed::record(served, None, &mut value, &own);
    let value = served.to_stored(value)?;
    let name = value["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let t = Target { name: &name, ..t };
    let outcome = write::create(&t, value).await?;
    respond::object(call, served, 201, &outcome, accepted)
}

/// The namespace of an object is that of its path.
pub fn match_namespace(t: &Target<'_>, value: &mut Value) -> Result<()> {
    let Some(meta) = value["metadata"].as_object_mut() else {
        value["metadata"] = Value::Object(Default::default());
        return if t.namespace.is_empty() { Ok(()) } else { match_namespace(t, value) };
    };
    let have = meta.get("namespace").and_then(Value::as_str).unwrap_or_default();
    if have == t.namespace {
        return Ok(());
    }
    if t.namespace.is_empty() {
        meta.remove("namespace");
    } else if have.is_empty() {
        meta.insert("namespace".into(), t.namespace.into());
    } else {
        return Err(Status::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    Ok(())
}

/// The name of an object that is put is that of its path.
pub fn match_name(t: &Target<'_>, value: &Value) -> Result<()> {
    let name = value["metadata"]["name"].as_str().unwrap_or_default();
    if name.is_empty() {
        return Err(Status::bad_request(format!(
            "the name of the object ({} based on URL) was undeterminable: name must be provided",
            t.name
        )));
    }
    if name != t.name {
        return Err(Status::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({})",
            t.name
        )));
    }
    Ok(())
}

async fn update(call: &Call, served: &Arc<Served>) -> Result<Response<Body>> {
    let accepted = call.accepted(Offers::ALL)?;
    let options = WriteOptions::from_query(&call.query, "UpdateOptions")?;
    let mut value = input::served(call, served, options.validation).await?;
    let mut t = target(call, served, "UpdateOptions");
    t.dry_run = options.dry_run;
    match_namespace(&t, &mut value)?;
    match_name(&t, &value)?;
    t.create = t.subresource.is_empty() && served.stored()?.room.create_on_update();
    served.room.defaults(&mut value);
    let manager = call.manager(&options.field_manager);
    let (outcome, created) = put(&t, value, &manager).await?;
    respond::object(call, served, if created { 201 } else { 200 }, &outcome, accepted)
}

/// Replaces an object by one of the version that is served.
pub async fn put(t: &Target<'_>, value: Value, manager: &str) -> Result<(Outcome, bool)> {
    let text = |k: &str| value["metadata"][k].as_str().filter(|s| !s.is_empty()).map(str::to_owned);
    let pre = Preconditions { uid: text("uid"), resource_version: None };
    let own = crate::managed::Write { manager, subresource: t.subresource };
    write::update(t, &pre, |old| {
        let mut new = value.clone();
        let Some(old) = old else {
            if value["metadata"]["resourceVersion"].as_str().is_some_and(|rv| !rv.is_empty() && rv != "0") {
                return Err(t.served.not_found(t.name));
            }
            crate::managed::record(t.served, None, &mut new, &own);
            return t.served.to_stored(new);
        };
        keep_identity(&mut new, old);
        if t.served.is_stored_version() {
            crate::managed::record(t.served, Some(old), &mut new, &own);
        } else {
            crate::managed::record(t.served, Some(&t.served.from_stored(old.clone())?), &mut new, &own);
        }
        t.served.to_stored(new)
    })
    .await
}

/// What an object that is put may leave out without losing it.
fn keep_identity(new: &mut Value, old: &Value) {
    for field in ["uid", "creationTimestamp"] {
        if new["metadata"][field].as_str().is_none_or(str::is_empty) {
            new["metadata"][field] = old["metadata"][field].clone();
        }
    }
}

async fn delete_options(call: &Call) -> Result<DeleteOptions> {
    let body = call.bytes().await?;
    if body.is_empty() {
        return DeleteOptions::from_query(&call.query);
    }
    let value = input::delete_options(call, body)?;
    DeleteOptions::from_value(&value)
}

async fn remove(call: &Call, served: &Arc<Served>) -> Result<Response<Body>> {
    let accepted = call.accepted(Offers::ALL)?;
    let options = delete_options(call).await?;
    let mut t = target(call, served, "DeleteOptions");
    t.dry_run = options.dry_run;
    let done = delete::delete(&t, &options).await?;
    let code = if !done.at_once && options.orphan_dependents == Some(false) { 202 } else { 200 };
    match done.body {
        Deletion::Object(outcome) => respond::object(call, served, code, &outcome, accepted),
        Deletion::Status(status) => respond::value(call, code, &status, plain(accepted)),
    }
}

/// A status has no columns of the resource; it is answered as an object.
fn plain(accepted: Accepted) -> Accepted {
    Accepted { shape: Shape::Object, ..accepted }
}

async fn remove_collection(call: &Call, served: &Arc<Served>) -> Result<Response<Body>> {
    let accepted = call.accepted(Offers::ALL)?;
    let listing = ListOptions::from_query(&call.query)?;
    list::validate(&listing)?;
    let options = delete_options(call).await?;
    let found = delete::delete_collection(call, served, &listing, &options).await?;
    list::render(call, served, found, accepted)
}
