//! The life of a write: everything between a decoded object and etcd, for every kind alike.
//!
//! A write is a function of what is stored now. It is first tried against memory; when the transaction
//! finds something newer in etcd it is computed again from that, so a stale cache costs a round trip,
//! never a lost update. What a kind has to say about it, its room says.

use crate::admit::{self, Review};
use crate::call::Call;
use crate::served::Served;
use api::field::{Error, ErrorList, Path};
use api::status::{Result, Status};
use api::{Value, json};
use kinds::{Context, Operation, metadata};
use rand::RngExt;
use std::sync::Arc;
use storage::{Object, ReadVersion};

mod existing;

use existing::{change_existing, put};

/// How often a write is computed anew before the caller is told of a conflict.
const ATTEMPTS: usize = 16;
/// How often another random name is tried.
const NAME_ATTEMPTS: usize = 8;

/// Which object is written through which door.
pub struct Target<'a> {
    pub call: &'a Call,
    pub served: &'a Arc<Served>,
    pub namespace: &'a str,
    pub name: &'a str,
    /// What rooms and field ownership are told.
    pub subresource: &'a str,
    /// What admission is told: the same, but for doors like `scale` that write the main resource.
    pub door: &'a str,
    pub dry_run: bool,
    /// `CreateOptions`, `UpdateOptions`…, for admission.
    pub options: &'static str,
    /// Whether a missing object may be created.
    pub create: bool,
}

/// What a write must find.
#[derive(Clone, Debug, Default)]
pub struct Preconditions {
    pub uid: Option<String>,
    pub resource_version: Option<String>,
}

/// What came of a write.
pub enum Outcome {
    /// Stored; readers share these bytes.
    Stored(Arc<Object>),
    /// In the storage version: a dry run, or an object that is gone.
    Value(Value),
}

impl Outcome {
    /// The object as a tree in the storage version.
    pub fn value(&self, served: &Served) -> Result<Value> {
        match self {
            Outcome::Stored(o) => served.value(o),
            Outcome::Value(v) => Ok(v.clone()),
        }
    }
}

impl<'a> Target<'a> {
    pub fn context(&self) -> Context<'_> {
        Context {
            namespace: self.namespace,
            api_version: &self.served.api_version,
            subresource: self.subresource,
            user: &self.call.user.name,
            uid: &self.call.user.uid,
            groups: &self.call.user.groups,
            extra: Some(&self.call.user.extra),
        }
    }

    pub fn review(&self, operation: &'static str) -> Review<'_> {
        Review {
            call: self.call,
            served: self.served,
            operation,
            subresource: self.door,
            namespace: self.namespace,
            name: self.name,
            dry_run: self.dry_run,
            options: self.options,
        }
    }

    fn key(&self) -> Result<String> {
        self.served.key(self.namespace, self.name)
    }

    /// An error of the store in the words of the API.
    pub fn storage_error(&self, e: storage::Error) -> Status {
        crate::errors::storage(e, self.served.group(), &self.served.resource, self.name)
    }
}

fn conflict(t: &Target<'_>) -> Status {
    Status::modified(t.served.group(), &t.served.resource, t.name)
}

/// Random ends of generated names: no vowels and no digits that could spell something.
pub fn random_suffix() -> String {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut rng = rand::rng();
    (0..5).map(|_| char::from(LETTERS[rng.random_range(0..LETTERS.len())])).collect()
}

/// `now`, to the second, as metadata carries it.
pub fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Creates an object of the storage version. `own` runs on each attempt before admission.
pub async fn create(t: &Target<'_>, value: Value) -> Result<Outcome> {
    let generated = name_of(&value).is_empty() && !value["metadata"]["generateName"].is_null();
    let mut attempt = 0;
    loop {
        attempt += 1;
        match create_once(t, value.clone()).await {
            Err(s) if s.reason == "AlreadyExists" && generated && attempt < NAME_ATTEMPTS => {}
            Err(mut s) if s.reason == "AlreadyExists" && generated => {
                s.message = format!(
                    "{}, the server was not able to generate a unique name for the object",
                    s.message
                );
                return Err(s);
            }
            other => return other,
        }
    }
}

fn name_of(value: &Value) -> &str {
    value["metadata"]["name"].as_str().unwrap_or_default()
}

async fn create_once(t: &Target<'_>, mut new: Value) -> Result<Outcome> {
    dedup_owners(t, &mut new, "");
    let meta = &mut new["metadata"];
    meta["creationTimestamp"] = now().into();
    meta["uid"] = uuid::Uuid::new_v4().to_string().into();
    crate::special::escalation(t, &new, None).await?;
    admit::mutate(&t.review("CREATE"), &mut new, None).await?;
    dedup_owners(t, &mut new, AFTER_ADMISSION);
    let meta = &mut new["metadata"];
    if meta["name"].as_str().unwrap_or_default().is_empty()
        && let Some(prefix) = meta["generateName"].as_str().filter(|p| !p.is_empty())
    {
        // 63 less the suffix: the result is still a DNS label.
        let cut: String = prefix.chars().take(58).collect();
        meta["name"] = format!("{cut}{}", random_suffix()).into();
    }
    let stored = t.served.stored()?;
    if name_of(&new).is_empty() && stored.room.names_the_nameless() {
        new["metadata"]["name"] = uuid::Uuid::new_v4().to_string().into();
    }
    let name = name_of(&new).to_owned();
    let t = &Target { name: &name, ..*t };
    crate::allocate::normalize(t, &mut new, None)?;
    metadata::prepare(Operation::Create, &mut new, None);
    drop_disabled(t, &mut new, None)?;
    stored.room.prepare(Operation::Create, &t.context(), &mut new, None);
    check(t, &new, None).await?;
    admit::validate(&t.review("CREATE"), &new, None).await?;
    let reserved = crate::allocate::take(t, &mut new, None).await?;
    stored.room.canonicalize(&mut new);
    if t.dry_run {
        return dry_create(t, new).await;
    }
    if new["metadata"]["resourceVersion"].as_str().is_some_and(|rv| !rv.is_empty() && rv != "0") {
        reserved.release().await;
        return Err(Status::new(500, "", "resourceVersion should not be set on objects to be created"));
    }
    let bytes = stored.encode(new)?;
    let made = stored.resource.create(&t.key()?, bytes, stored.ttl).await;
    match made {
        Ok(object) => {
            reserved.commit().await;
            Ok(Outcome::Stored(object))
        }
        Err(e) => {
            reserved.release().await;
            Err(still_there(t, t.storage_error(e)).await)
        }
    }
}

/// Fields of features that are off are not taken in; what is stored already may stay.
fn drop_disabled(t: &Target<'_>, new: &mut Value, old: Option<&Value>) -> Result<()> {
    let stored = t.served.stored()?;
    if let Some(message) = stored.message.filter(|_| stored.gated) {
        api::gates::drop_disabled(message, old, new, &|g| is_on(&t.call.server.settings.gates, g));
    }
    Ok(())
}

/// Whether a field's gate is on. Fields of long-settled features name gates that are gone.
pub fn is_on(gates: &component::gates::Gates, names: &str) -> bool {
    names.split(',').all(|g| !component::gates::Gates::exists(g) || gates.enabled(g))
}

const AFTER_ADMISSION: &str = " after mutating admission happens";

/// Owners listed twice are kept once, and the client is told.
fn dedup_owners(t: &Target<'_>, new: &mut Value, when: &str) {
    let twice = metadata::dedup_owners(new);
    if !twice.is_empty() {
        t.call.warn(format!(
            ".metadata.ownerReferences contains duplicate entries{when}; API server dedups owner references in 1.20+, and may reject such requests as early as 1.24; please fix your requests; duplicate UID(s) observed: {}",
            twice.join(", ")
        ));
    }
}

/// Says of a name that is taken whether its object is on its way out.
async fn still_there(t: &Target<'_>, mut status: Status) -> Status {
    let (Ok(stored), Ok(key)) = (t.served.stored(), t.key()) else { return status };
    if status.reason == "AlreadyExists"
        && let Ok(Some(object)) = stored.resource.get(&key, ReadVersion::Any).await
        && t.served.value(&object).is_ok_and(|v| !v["metadata"]["deletionTimestamp"].is_null())
    {
        status.message = format!("object is being deleted: {}", status.message);
    }
    status
}

async fn dry_create(t: &Target<'_>, new: Value) -> Result<Outcome> {
    let there = t.served.stored()?.resource.get(&t.key()?, ReadVersion::Consistent).await;
    match there.map_err(|e| t.storage_error(e))? {
        Some(_) => {
            let status = Status::already_exists(t.served.group(), &t.served.resource, t.name);
            Err(still_there(t, status).await)
        }
        None => Ok(Outcome::Value(new)),
    }
}

/// Metadata, then the room: all errors at once; warnings on the side.
async fn check(t: &Target<'_>, new: &Value, old: Option<&Value>) -> Result<()> {
    let stored = t.served.stored()?;
    let mut errors: ErrorList =
        metadata::validate(&*stored.room, &t.context(), t.served.namespaced, new, old);
    errors.extend(crate::special::claims::errors(t, new, old).await);
    errors.extend(stored.room.validate(&t.context(), new, old));
    kinds::shown::as_structs(new, &mut errors);
    if !errors.is_empty() {
        return Err(Status::invalid(&stored.gvk.group, &stored.gvk.kind, name_of(new), &errors));
    }
    for w in stored.room.warnings(&t.context(), new, old) {
        t.call.warn(w);
    }
    Ok(())
}

/// Reads, computes, writes; again if somebody else was faster. `change` makes the new object from the old
/// one, both in the storage version, and is told if there is none. The boolean says whether it was created.
pub async fn update<F>(t: &Target<'_>, pre: &Preconditions, change: F) -> Result<(Outcome, bool)>
where
    F: Fn(Option<&Value>) -> Result<Value> + Sync,
{
    let stored = t.served.stored()?;
    let key = t.key()?;
    let read = stored.resource.get(&key, ReadVersion::Any).await;
    let mut live = false;
    let mut current = match read {
        Ok(Some(found)) => Some(found),
        Ok(None) | Err(storage::Error::NotReady) => {
            live = true;
            stored.resource.get_live(&key).await.map_err(|e| t.storage_error(e))?
        }
        Err(e) => return Err(t.storage_error(e)),
    };
    for _ in 0..ATTEMPTS {
        let tried = attempt(t, pre, current.as_ref(), &change).await;
        match tried {
            Attempt::Done(outcome, created) => return Ok((outcome, created)),
            // What memory refuses, etcd may allow: judge by the truth before saying no.
            Attempt::Failed(e) if live => return Err(e),
            Attempt::Raced(Some(found)) => {
                current = Some(found);
                live = true;
                continue;
            }
            Attempt::Failed(_) | Attempt::Unchanged(..) | Attempt::Raced(None) => {}
        }
        if let Attempt::Unchanged(object) = tried
            && live
        {
            return Ok((Outcome::Stored(object), false));
        }
        let fresh = stored.resource.get_live(&key).await.map_err(|e| t.storage_error(e))?;
        live = true;
        current = fresh;
    }
    Err(conflict(t))
}

enum Attempt {
    Done(Outcome, bool),
    Failed(Status),
    /// Nothing would change.
    Unchanged(Arc<Object>),
    /// Somebody wrote in between; what is there now, if known.
    Raced(Option<Arc<Object>>),
}

async fn attempt<F>(t: &Target<'_>, pre: &Preconditions, current: Option<&Arc<Object>>, change: &F) -> Attempt
where
    F: Fn(Option<&Value>) -> Result<Value> + Sync,
{
    let tried = match current {
        Some(object) => change_existing(t, pre, object, change).await,
        None => change_missing(t, pre, change).await,
    };
    tried.unwrap_or_else(Attempt::Failed)
}

async fn change_missing<F>(t: &Target<'_>, pre: &Preconditions, change: &F) -> Result<Attempt>
where
    F: Fn(Option<&Value>) -> Result<Value> + Sync,
{
    if !t.create {
        return Err(t.served.not_found(t.name));
    }
    if let Some(uid) = &pre.uid {
        return Err(Status::conflict(
            t.served.group(),
            &t.served.resource,
            t.name,
            format!("Precondition failed: UID in precondition: {uid}, UID in object meta: "),
        ));
    }
    if pre.resource_version.as_deref().is_some_and(|rv| rv != "0") {
        return Err(conflict(t));
    }
    let mut new = change(None)?;
    if let Some(meta) = new["metadata"].as_object_mut() {
        meta.remove("resourceVersion");
    }
    let as_create = Target { options: "CreateOptions", ..*t };
    match create_once(&as_create, new).await {
        Ok(outcome) => Ok(Attempt::Done(outcome, true)),
        Err(s) if s.reason == "AlreadyExists" => Ok(Attempt::Raced(None)),
        Err(s) => Err(s),
    }
}

/// UID and resource version, if the caller named them.
pub fn check_preconditions(t: &Target<'_>, pre: &Preconditions, old: &Value) -> Result<()> {
    let meta = &old["metadata"];
    let fail = |what: &str, want: &str, have: &str| {
        Err(Status::conflict(
            t.served.group(),
            &t.served.resource,
            t.name,
            format!("Precondition failed: {what} in precondition: {want}, {what} in object meta: {have}"),
        ))
    };
    let have = meta["uid"].as_str().unwrap_or_default();
    if let Some(uid) = pre.uid.as_deref().filter(|u| *u != have) {
        return fail("UID", uid, have);
    }
    let have = meta["resourceVersion"].as_str().unwrap_or_default();
    if let Some(rv) = pre.resource_version.as_deref().filter(|r| *r != have) {
        return fail("ResourceVersion", rv, have);
    }
    Ok(())
}

/// The `Success` status that deletions and bindings answer with.
pub fn success(served: &Served, name: &str, uid: &str) -> Value {
    let mut details = json!({"name": name, "kind": served.resource});
    if !served.group().is_empty() {
        details["group"] = served.group().into();
    }
    if !uid.is_empty() {
        details["uid"] = uid.into();
    }
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
}

/// Reads, changes and writes the stored object as it is: no admission, no room. For doors whose own
/// checks are the only ones, such as bindings.
pub async fn raw_update<F>(t: &Target<'_>, pre: &Preconditions, change: F) -> Result<Outcome>
where
    F: Fn(&mut Value) -> Result<()> + Sync,
{
    let stored = t.served.stored()?;
    let key = t.key()?;
    for _ in 0..ATTEMPTS {
        let found = stored.resource.get_live(&key).await.map_err(|e| t.storage_error(e))?;
        let object = found.ok_or_else(|| t.served.not_found(t.name))?;
        let mut value = t.served.value(&object)?;
        check_preconditions(t, pre, &value)?;
        change(&mut value)?;
        if t.dry_run {
            return Ok(Outcome::Value(value));
        }
        match put(t, &object, value).await? {
            Attempt::Done(outcome, _) => return Ok(outcome),
            Attempt::Unchanged(same) => return Ok(Outcome::Stored(same)),
            Attempt::Failed(e) => return Err(e),
            Attempt::Raced(_) => {}
        }
    }
    Err(conflict(t))
}
