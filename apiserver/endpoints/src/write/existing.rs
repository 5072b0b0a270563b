//! The change of an object that is there.

use super::*;

pub(super) async fn change_existing<F>(
    t: &Target<'_>,
    pre: &Preconditions,
    object: &Arc<Object>,
    change: &F,
) -> Result<Attempt>
where
    F: Fn(Option<&Value>) -> Result<Value> + Sync,
{
    let stored = t.served.stored()?;
    let old = Arc::new(t.served.value(object)?);
    check_preconditions(t, pre, &old)?;
    let mut new = change(Some(&old))?;
    crate::special::escalation(t, &new, Some(&old)).await?;
    let had_version =
        new["metadata"]["resourceVersion"].as_str().is_some_and(|rv| !rv.is_empty() && rv != "0");
    if !had_version {
        if !stored.room.unconditional_update()
            && pre.resource_version.is_none()
            && t.options == "UpdateOptions"
        {
            let path = Path::new("metadata").child("resourceVersion");
            let errors = vec![Error::invalid(&path, 0, "must be specified for an update")];
            // Upstream names the resource here where all other errors name the kind.
            return Err(Status::invalid(&stored.gvk.group, &t.served.resource, t.name, &errors));
        }
        new["metadata"]["resourceVersion"] = old["metadata"]["resourceVersion"].clone();
    } else if new["metadata"]["resourceVersion"] != old["metadata"]["resourceVersion"] {
        return Err(not_that_version(t, &new));
    }
    if t.options == "UpdateOptions" {
        dedup_owners(t, &mut new, "");
    }
    admit::mutate(&t.review("UPDATE"), &mut new, Some(&old)).await?;
    if t.options == "UpdateOptions" {
        merge::managed::keep_times(&old, &mut new);
    }
    dedup_owners(t, &mut new, AFTER_ADMISSION);
    crate::allocate::normalize(t, &mut new, Some(&old))?;
    metadata::prepare(Operation::Update, &mut new, Some(&old));
    drop_disabled(t, &mut new, Some(&old))?;
    stored.room.prepare(Operation::Update, &t.context(), &mut new, Some(&old));
    check(t, &new, Some(&old)).await?;
    admit::validate(&t.review("UPDATE"), &new, Some(&old)).await?;
    let reserved = crate::allocate::take(t, &mut new, Some(&old)).await?;
    stored.room.canonicalize(&mut new);
    let removes = finished_deleting(&old, &new);
    if t.dry_run {
        return Ok(Attempt::Done(Outcome::Value(new), false));
    }
    let done = if removes { remove(t, object, new).await } else { put(t, object, new).await };
    match &done {
        Ok(Attempt::Done(..)) => reserved.commit().await,
        _ => reserved.release().await,
    }
    done
}

/// The resource version that was sent is another one, or none at all.
fn not_that_version(t: &Target<'_>, new: &Value) -> Status {
    let sent = new["metadata"]["resourceVersion"].as_str().unwrap_or_default();
    match sent.parse::<u64>() {
        Ok(_) => conflict(t),
        Err(_) => Status::new(500, "", crate::query::no_number("ParseUint", sent)),
    }
}

pub(super) async fn put(t: &Target<'_>, object: &Arc<Object>, new: Value) -> Result<Attempt> {
    let stored = t.served.stored()?;
    let bytes = stored.encode(new)?;
    if bytes == object.bytes() && !object.stale {
        return Ok(Attempt::Unchanged(object.clone()));
    }
    match stored.resource.update(&object.key, object.revision, bytes, stored.ttl).await {
        Ok(written) => Ok(Attempt::Done(Outcome::Stored(written), false)),
        Err(storage::Error::Conflict { current }) => Ok(Attempt::Raced(current)),
        Err(e) => Err(t.storage_error(e)),
    }
}

async fn remove(t: &Target<'_>, object: &Arc<Object>, new: Value) -> Result<Attempt> {
    match t.served.stored()?.resource.delete(&object.key, object.revision).await {
        Ok(revision) => {
            crate::allocate::on_delete(t, &new).await;
            let mut gone = new;
            gone["metadata"]["resourceVersion"] = revision.to_string().into();
            Ok(Attempt::Done(Outcome::Value(gone), false))
        }
        Err(storage::Error::Conflict { current }) => Ok(Attempt::Raced(current)),
        Err(e) => Err(t.storage_error(e)),
    }
}

/// An update that takes away the last reason to keep an object that is being deleted deletes it.
fn finished_deleting(old: &Value, new: &Value) -> bool {
    let none = |v: &Value| v["metadata"]["finalizers"].as_array().is_none_or(Vec::is_empty);
    let grace = |v: &Value| v["metadata"]["deletionGracePeriodSeconds"].as_i64();
    let deleting = !new["metadata"]["deletionTimestamp"].is_null();
    // Namespaces keep a second list of finalizers in their spec.
    let spec_done = new["spec"]["finalizers"].as_array().is_none_or(Vec::is_empty);
    deleting
        && none(new)
        && spec_done
        && grace(new).is_none_or(|g| g == 0)
        && grace(old).is_none_or(|g| g == 0)
}
