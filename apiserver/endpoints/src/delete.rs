//! Deleting: at once, gracefully, or when the last finalizer is gone.
//!
//! A deletion either removes the object in one transaction or marks it (`deletionTimestamp`, grace period,
//! the garbage collector's finalizers) and leaves the removal to whoever clears the marks.

use crate::admit;
use crate::call::Call;
use crate::query::{DeleteOptions, ListOptions};
use crate::served::Served;
use crate::write::{Outcome, Target, success};
use api::status::{Result, Status};
use api::{Value, json};
use std::sync::Arc;
use storage::{Object, ReadVersion};

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";
const ATTEMPTS: usize = 16;

/// Kinds whose dependents are orphaned unless the caller says otherwise: the API promised so in v1.
const ORPHAN_BY_DEFAULT: [(&str, &str); 2] = [("", "replicationcontrollers"), ("batch", "jobs")];
/// Kinds that own nothing and are owned by nothing.
const NOT_COLLECTED: [(&str, &str); 3] = [("", "namespaces"), ("", "events"), ("events.k8s.io", "events")];
/// Kinds whose deletion answers with the object rather than with a status.
const RETURNS_OBJECT: [(&str, &[&str]); 3] = [
    (
        "",
        &[
            "namespaces",
            "persistentvolumes",
            "persistentvolumeclaims",
            "pods",
            "podtemplates",
            "resourcequotas",
            "services",
            "serviceaccounts",
        ],
    ),
    (
        "resource.k8s.io",
        &["deviceclasses", "devicetaintrules", "resourceclaims", "resourceclaimtemplates", "resourceslices"],
    ),
    (
        "storage.k8s.io",
        &["csidrivers", "csinodes", "storageclasses", "volumeattachments", "volumeattributesclasses"],
    ),
];

/// What a deletion answers.
pub struct Deleted {
    /// In the storage version when it is an object.
    pub body: Deletion,
    pub at_once: bool,
}

pub enum Deletion {
    Status(Value),
    Object(Outcome),
}

/// Deletes one object.
pub async fn delete(t: &Target<'_>, options: &DeleteOptions) -> Result<Deleted> {
    let stored = t.served.stored()?;
    let key = t.served.key(t.namespace, t.name)?;
    if options.ignore_store_read_error
        && t.call.server.settings.gates.enabled("AllowUnsafeMalformedObjectDeletion")
    {
        return unreadable(t, &key).await;
    }
    warn_of_orphans(t, options);
    let mut current = match stored.resource.get(&key, ReadVersion::Any).await {
        Ok(Some(found)) => found,
        _ => live(t, &key).await?,
    };
    for _ in 0..ATTEMPTS {
        match step(t, options, &current).await? {
            Step::Done(deleted) => return Ok(deleted),
            Step::Raced(Some(newer)) => current = newer,
            Step::Raced(None) => current = live(t, &key).await?,
        }
    }
    Err(Status::modified(t.served.group(), &t.served.resource, t.name))
}

/// Jobs leave their pods behind unless they are told not to, which surprises people.
fn warn_of_orphans(t: &Target<'_>, options: &DeleteOptions) {
    let job = t.served.group() == "batch" && t.served.resource == "jobs";
    if job && options.propagation.is_none() && options.orphan_dependents.is_none() {
        t.call.warn(
            "child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to remove them or set propagationPolicy=Orphan to suppress this warning",
        );
    }
}

/// Deletes what can no longer be read, and nothing else: no admission and no precondition could judge it.
async fn unreadable(t: &Target<'_>, key: &str) -> Result<Deleted> {
    let mut attributes = crate::server::attributes(t.call);
    attributes.verb = "unsafe-delete-ignore-read-errors";
    let verdict = t.call.server.authorizer.authorize(&attributes).await;
    if !verdict.allowed() {
        return Err(Status::forbidden(
            t.served.group(),
            &t.served.resource,
            t.name,
            format!("not permitted to do \"unsafe-delete-ignore-read-errors\", reason: {}", verdict.reason),
        ));
    }
    let stored = t.served.stored()?;
    match stored.resource.get_live(key).await {
        Err(storage::Error::Corrupt { .. }) => {}
        Err(e) => return Err(t.storage_error(e)),
        Ok(_) => {
            let path = api::field::Path::new(IGNORE_READ_ERROR);
            let why = "is exclusively used to delete corrupt object(s), try again by removing this option";
            let errors = vec![api::field::Error::invalid(&path, true, why)];
            return Err(Status::invalid(t.served.group(), &t.served.resource, t.name, &errors));
        }
    }
    let revision = stored.resource.snapshot().get(key).map(|o| o.revision);
    let revision = revision.ok_or_else(|| t.served.not_found(t.name))?;
    tracing::warn!(key, "an object that cannot be read is deleted unseen");
    stored.resource.delete(key, revision).await.map_err(|e| t.storage_error(e))?;
    Ok(Deleted { body: Deletion::Status(success(t.served, t.name, "")), at_once: true })
}

/// The option that asks for [`unreadable`].
pub const IGNORE_READ_ERROR: &str = "ignoreStoreReadErrorWithClusterBreakingPotential";

async fn live(t: &Target<'_>, key: &str) -> Result<Arc<Object>> {
    let found = t.served.stored()?.resource.get_live(key).await.map_err(|e| t.storage_error(e))?;
    found.ok_or_else(|| t.served.not_found(t.name))
}

enum Step {
    Done(Deleted),
    Raced(Option<Arc<Object>>),
}

async fn step(t: &Target<'_>, options: &DeleteOptions, object: &Arc<Object>) -> Result<Step> {
    let old = Arc::new(t.served.value(object)?);
    if let Err(e) = preconditions(t, options, &old) {
        // The cache may be behind: only etcd's own word refuses.
        let fresh = live(t, &object.key).await?;
        return if fresh.revision == object.revision { Err(e) } else { Ok(Step::Raced(Some(fresh))) };
    }
    admit::delete(&t.review("DELETE"), &old).await?;
    match plan(t, options, &old)? {
        Plan::Nothing => Ok(Step::Done(answer(t, Outcome::Stored(object.clone()), &old, false))),
        Plan::Mark(new) => mark(t, object, *new).await,
        Plan::Remove(last) => remove(t, object, *last).await,
    }
}

enum Plan {
    /// It is being deleted already, and this request does not hurry it.
    Nothing,
    Mark(Box<Value>),
    /// As what the object is shown to have ended.
    Remove(Box<Value>),
}

fn plan(t: &Target<'_>, options: &DeleteOptions, old: &Value) -> Result<Plan> {
    let mut new = old.clone();
    let mut finalizers = collector_finalizers(t.served, options, old);
    if old["metadata"]["deletionTimestamp"].is_null() {
        for own in t.served.stored()?.room.deletion_finalizers() {
            if !finalizers.iter().any(|f| f == own) {
                finalizers.push((*own).to_owned());
            }
        }
    }
    let graceful = match graceful(t, options, old, &mut new) {
        Grace::Pending if finalizers == names(old) => return Ok(Plan::Nothing),
        Grace::Pending => return Ok(Plan::Nothing),
        Grace::Marked => true,
        Grace::None => false,
    };
    let pending = !finalizers.is_empty();
    set_finalizers(&mut new, &finalizers);
    if namespace_remains(old) {
        new["status"]["phase"] = "Terminating".into();
        mark_now(&mut new);
        if let Some(meta) = new["metadata"].as_object_mut() {
            meta.remove("deletionGracePeriodSeconds");
        }
        return Ok(Plan::Mark(Box::new(new)));
    }
    if !graceful {
        if !pending {
            return Ok(Plan::Remove(Box::new(old.clone())));
        }
        mark_now(&mut new);
    } else if !pending && new["metadata"]["deletionGracePeriodSeconds"] == json!(0) {
        return Ok(Plan::Remove(Box::new(new)));
    }
    Ok(Plan::Mark(Box::new(new)))
}

/// A namespace stays until its own finalizers (a list in its spec) are done.
fn namespace_remains(old: &Value) -> bool {
    old["kind"] == "Namespace" && old["spec"]["finalizers"].as_array().is_some_and(|f| !f.is_empty())
}

enum Grace {
    None,
    Marked,
    Pending,
}

fn graceful(t: &Target<'_>, options: &DeleteOptions, old: &Value, new: &mut Value) -> Grace {
    let asked = options.grace_period.map(|g| if g < 0 { 1 } else { g });
    let Ok(stored) = t.served.stored() else { return Grace::None };
    let meta = &old["metadata"];
    if let Some(since) = meta["deletionTimestamp"].as_str() {
        let period = meta["deletionGracePeriodSeconds"].as_i64().unwrap_or(0);
        let period = if period < 0 { 1 } else { period };
        if period == 0 {
            return Grace::None;
        }
        return match asked {
            Some(shorter) if shorter < period => {
                shorten(new, since, period, shorter);
                Grace::Marked
            }
            _ => Grace::Pending,
        };
    }
    let Some(grace) = stored.room.grace_period(old, asked) else { return Grace::None };
    let at = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(grace);
    let meta = &mut new["metadata"];
    meta["deletionTimestamp"] = stamp(at).into();
    meta["deletionGracePeriodSeconds"] = grace.into();
    bump_generation(meta);
    Grace::Marked
}

/// Moves the time of an ongoing deletion closer, never into the past.
fn shorten(new: &mut Value, since: &str, period: i64, shorter: i64) {
    let now = jiff::Timestamp::now();
    let began = since.parse::<jiff::Timestamp>().unwrap_or(now) - jiff::SignedDuration::from_secs(period);
    let (mut at, mut left) = (began + jiff::SignedDuration::from_secs(shorter), shorter);
    if at < now {
        at = now;
        left = left.min(1);
    }
    new["metadata"]["deletionTimestamp"] = stamp(at).into();
    new["metadata"]["deletionGracePeriodSeconds"] = left.into();
}

fn stamp(at: jiff::Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn bump_generation(meta: &mut Value) {
    if let Some(g) = meta["generation"].as_i64().filter(|g| *g > 0) {
        meta["generation"] = (g + 1).into();
    }
}

fn mark_now(new: &mut Value) {
    let now = jiff::Timestamp::now();
    let meta = &mut new["metadata"];
    let since = meta["deletionTimestamp"].as_str().and_then(|s| s.parse::<jiff::Timestamp>().ok());
    if since.is_none() {
        bump_generation(meta);
    }
    if since.is_none_or(|s| s > now) {
        meta["deletionTimestamp"] = stamp(now).into();
    }
    meta["deletionGracePeriodSeconds"] = 0.into();
}

fn names(v: &Value) -> Vec<String> {
    let list = v["metadata"]["finalizers"].as_array();
    list.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn set_finalizers(v: &mut Value, finalizers: &[String]) {
    if let Some(meta) = v["metadata"].as_object_mut() {
        if finalizers.is_empty() {
            meta.remove("finalizers");
        } else {
            meta.insert("finalizers".into(), json!(finalizers));
        }
    }
}

/// The object's finalizers with those of the garbage collector as the caller's policy wants them.
fn collector_finalizers(served: &Served, options: &DeleteOptions, old: &Value) -> Vec<String> {
    let have = names(old);
    let row = (served.group(), served.resource.as_str());
    let collected = !NOT_COLLECTED.contains(&row);
    let asked = |orphans: bool| match (options.orphan_dependents, options.propagation.as_deref()) {
        (Some(o), _) => Some(orphans && o),
        (None, Some(p)) => Some(p == if orphans { "Orphan" } else { "Foreground" }),
        (None, None) => {
            let first = have.iter().find(|f| *f == ORPHAN || *f == FOREGROUND)?;
            Some(first == if orphans { ORPHAN } else { FOREGROUND })
        }
    };
    let orphan = collected && asked(true).unwrap_or(ORPHAN_BY_DEFAULT.contains(&row));
    let foreground = collected && asked(false).unwrap_or(false);
    let mut want: Vec<String> = have.iter().filter(|f| *f != ORPHAN && *f != FOREGROUND).cloned().collect();
    want.extend(orphan.then(|| ORPHAN.to_owned()));
    want.extend(foreground.then(|| FOREGROUND.to_owned()));
    want
}

async fn mark(t: &Target<'_>, object: &Arc<Object>, new: Value) -> Result<Step> {
    if t.dry_run {
        let body = answer(t, Outcome::Value(new.clone()), &new, false);
        return Ok(Step::Done(body));
    }
    let stored = t.served.stored()?;
    let bytes = stored.encode(new.clone())?;
    if bytes == object.bytes() {
        return Ok(Step::Done(answer(t, Outcome::Stored(object.clone()), &new, false)));
    }
    match stored.resource.update(&object.key, object.revision, bytes, stored.ttl).await {
        Ok(written) => Ok(Step::Done(answer(t, Outcome::Stored(written), &new, false))),
        Err(storage::Error::Conflict { current }) => Ok(Step::Raced(current)),
        Err(e) => Err(t.storage_error(e)),
    }
}

async fn remove(t: &Target<'_>, object: &Arc<Object>, mut old: Value) -> Result<Step> {
    if !t.dry_run {
        match t.served.stored()?.resource.delete(&object.key, object.revision).await {
            Ok(revision) => {
                crate::allocate::on_delete(t, &old).await;
                old["metadata"]["resourceVersion"] = revision.to_string().into();
            }
            Err(storage::Error::Conflict { current }) => return Ok(Step::Raced(current)),
            Err(e) => return Err(t.storage_error(e)),
        }
    }
    let done = answer(t, Outcome::Value(old.clone()), &old, true);
    Ok(Step::Done(done))
}

fn answer(t: &Target<'_>, outcome: Outcome, object: &Value, at_once: bool) -> Deleted {
    let shows =
        RETURNS_OBJECT.iter().any(|(g, r)| *g == t.served.group() && r.contains(&t.served.resource.as_str()));
    let body = if shows || !at_once {
        Deletion::Object(outcome)
    } else {
        let uid = object["metadata"]["uid"].as_str().unwrap_or_default();
        Deletion::Status(success(t.served, t.name, uid))
    };
    Deleted { body, at_once }
}

fn preconditions(t: &Target<'_>, options: &DeleteOptions, old: &Value) -> Result<()> {
    let meta = &old["metadata"];
    if t.served.resource == "namespaces" && t.served.group().is_empty() {
        // Namespaces have their own way of being deleted, and their own words.
        let pre = crate::write::Preconditions {
            uid: options.uid.clone(),
            resource_version: options.resource_version.clone(),
        };
        return crate::write::check_preconditions(t, &pre, old);
    }
    // Here upstream speaks of the kind, not of the resource.
    let fail = |text: String| Err(Status::conflict(t.served.group(), &t.served.gvk.kind, t.name, text));
    let have = meta["uid"].as_str().unwrap_or_default();
    if let Some(uid) = options.uid.as_deref().filter(|u| *u != have) {
        return fail(format!(
            "the UID in the precondition ({uid}) does not match the UID in record ({have}). The object might have been deleted and then recreated"
        ));
    }
    let have = meta["resourceVersion"].as_str().unwrap_or_default();
    if let Some(rv) = options.resource_version.as_deref().filter(|r| *r != have) {
        return fail(format!(
            "the ResourceVersion in the precondition ({rv}) does not match the ResourceVersion in record ({have}). The object might have been modified"
        ));
    }
    Ok(())
}

/// Deletes all that a list would show, a few at a time; answers the list as it was.
pub async fn delete_collection(
    call: &Call,
    served: &Arc<Served>,
    list: &ListOptions,
    options: &DeleteOptions,
) -> Result<storage::List> {
    use futures::StreamExt;
    if options.ignore_store_read_error
        && call.server.settings.gates.enabled("AllowUnsafeMalformedObjectDeletion")
    {
        let path = api::field::Path::new(IGNORE_READ_ERROR);
        let why = "is not allowed with DELETECOLLECTION, try again after removing the option";
        let errors = vec![api::field::Error::invalid(&path, true, why)];
        return Err(Status::invalid("meta.k8s.io", "DeleteOptions", "", &errors));
    }
    let found = crate::list::select(call, served, list).await?;
    let work: Vec<_> = found.items.iter().map(|object| delete_one(call, served, object, options)).collect();
    let mut running = futures::stream::iter(work).buffer_unordered(16);
    while let Some(done) = running.next().await {
        match done {
            Err(e) if e.code == 404 => {}
            other => other?,
        }
    }
    drop(running);
    Ok(found)
}

async fn delete_one(
    call: &Call,
    served: &Arc<Served>,
    object: &Object,
    options: &DeleteOptions,
) -> Result<()> {
    let (namespace, name) = crate::list::names_of(served, &object.key);
    let t = Target {
        call,
        served,
        namespace,
        name,
        subresource: "",
        door: "",
        dry_run: options.dry_run,
        options: "DeleteOptions",
        create: false,
    };
    delete(&t, options).await.map(|_| ())
}
