//! The apiserver's own view of its objects: [`api::registry`] over the cache.
//!
//! Reads are of memory. A decoded object is kept as long as its revision is current, since authorizers
//! and admission ask for the same few again and again.

use crate::managed;
use crate::served::Routes;
use crate::write::now;
use api::registry::{GroupResource, Reader, Registry};
use api::status::{Result, Status};
use api::{Value, json};
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use std::sync::Arc;
use storage::Object;

/// Decoded objects that are kept, at most.
const KEPT: usize = 4096;

/// The owner of what this server writes by itself.
const MANAGER: &str = "kube-apiserver";

/// Decoded objects by key, each with the revision it was decoded at.
type Decoded = FxHashMap<Box<str>, (i64, Arc<Value>)>;

/// Reads and writes by the resource table, past authorization and admission.
pub struct Objects {
    routes: Arc<ArcSwap<Routes>>,
    decoded: Mutex<Decoded>,
}

impl Objects {
    pub fn new(routes: Arc<ArcSwap<Routes>>) -> Arc<Self> {
        Arc::new(Objects { routes, decoded: Mutex::default() })
    }

    fn row(&self, gr: GroupResource<'_>) -> Option<Arc<crate::served::Served>> {
        self.routes.load().storage(gr.0, gr.1).cloned()
    }

    fn need(&self, gr: GroupResource<'_>) -> Result<Arc<crate::served::Served>> {
        self.row(gr).ok_or_else(Status::no_such_path)
    }

    fn decode(&self, row: &crate::served::Served, object: &Object) -> Option<Arc<Value>> {
        if let Some((revision, value)) = self.decoded.lock().get(&*object.key)
            && *revision == object.revision
        {
            return Some(value.clone());
        }
        let value = match row.value(object) {
            Ok(v) => Arc::new(v),
            Err(error) => {
                tracing::error!(key = %object.key, %error, "a stored object cannot be read");
                return None;
            }
        };
        let mut kept = self.decoded.lock();
        if kept.len() >= KEPT {
            kept.clear();
        }
        kept.insert(object.key.clone(), (object.revision, value.clone()));
        Some(value)
    }
}

impl Reader for Objects {
    fn get(&self, gr: GroupResource<'_>, namespace: &str, name: &str) -> Option<Arc<Value>> {
        let row = self.row(gr)?;
        let snapshot = row.stored.as_ref()?.resource.snapshot();
        let object = snapshot.get(&row.key(namespace, name).ok()?)?;
        self.decode(&row, object)
    }

    fn list(&self, gr: GroupResource<'_>, namespace: Option<&str>) -> Vec<Arc<Value>> {
        let Some(row) = self.row(gr) else { return Vec::new() };
        let Some(stored) = &row.stored else { return Vec::new() };
        let Ok(range) = row.range(namespace.unwrap_or_default()) else { return Vec::new() };
        let snapshot = stored.resource.snapshot();
        snapshot.list(&range).filter_map(|o| self.decode(&row, o)).collect()
    }

    fn list_by_field(&self, gr: GroupResource<'_>, field: &str, value: &str) -> Vec<Arc<Value>> {
        let Some(row) = self.row(gr) else { return Vec::new() };
        let Some(stored) = &row.stored else { return Vec::new() };
        let snapshot = stored.resource.snapshot();
        if let Some(found) = stored.resource.snapshot_by_index(field, value) {
            return found.iter().filter_map(|o| self.decode(&row, o)).collect();
        }
        let prefix = stored.resource.prefix();
        let matching = snapshot.list(prefix).filter(|o| o.attributes.field(field) == value);
        matching.filter_map(|o| self.decode(&row, o)).collect()
    }

    fn revision(&self, gr: GroupResource<'_>) -> i64 {
        self.row(gr).and_then(|r| r.stored.as_ref().map(|s| s.resource.revision())).unwrap_or(0)
    }
}

fn text<'a>(v: &'a Value, field: &str) -> &'a str {
    v["metadata"][field].as_str().unwrap_or_default()
}

#[async_trait::async_trait]
impl Registry for Objects {
    async fn awake(&self, gr: GroupResource<'_>) {
        if let Some(stored) = self.row(gr).as_ref().and_then(|r| r.stored.as_ref()) {
            stored.resource.awake().await;
        }
    }

    async fn get_live(&self, gr: GroupResource<'_>, namespace: &str, name: &str) -> Result<Value> {
        let row = self.need(gr)?;
        let found = row.stored()?.resource.get_live(&row.key(namespace, name)?).await;
        let found = found.map_err(|e| crate::errors::storage(e, gr.0, gr.1, name))?;
        row.value(&*found.ok_or_else(|| row.not_found(name))?)
    }

    async fn create(&self, gr: GroupResource<'_>, namespace: &str, mut object: Value) -> Result<Value> {
        let row = self.need(gr)?;
        let stored = row.stored()?;
        object["kind"] = stored.gvk.kind.as_str().into();
        object["apiVersion"] = stored.gvk.api_version().into();
        let meta = &mut object["metadata"];
        if row.namespaced {
            meta["namespace"] = namespace.into();
        }
        meta["uid"] = uuid::Uuid::new_v4().to_string().into();
        meta["creationTimestamp"] = now().into();
        if let Some(message) = stored.message {
            // In full form, as if it had been decoded: else what is left out would count as set to nothing.
            api::decode::conform(message, &mut object).map_err(Status::internal)?;
        }
        stored.room.defaults(&mut object);
        let mut object = row.from_stored(object)?;
        managed::record(&row, None, &mut object, &managed::Write { manager: MANAGER, subresource: "" });
        let mut object = row.to_stored(object)?;
        let cx = kinds::Context { namespace, user: "system:apiserver", ..Default::default() };
        kinds::metadata::prepare(kinds::Operation::Create, &mut object, None);
        stored.room.prepare(kinds::Operation::Create, &cx, &mut object, None);
        stored.room.canonicalize(&mut object);
        let name = text(&object, "name").to_owned();
        let made =
            stored.resource.create(&row.key(namespace, &name)?, stored.encode(object)?, stored.ttl).await;
        row.value(&*made.map_err(|e| crate::errors::storage(e, gr.0, gr.1, &name))?)
    }

    async fn update(&self, gr: GroupResource<'_>, subresource: &str, object: Value) -> Result<Value> {
        let row = self.need(gr)?;
        let stored = row.stored()?;
        let (namespace, name) = (text(&object, "namespace").to_owned(), text(&object, "name").to_owned());
        let key = row.key(&namespace, &name)?;
        let fail = |e| crate::errors::storage(e, gr.0, gr.1, &name);
        for _ in 0..5 {
            let current =
                stored.resource.get_live(&key).await.map_err(fail)?.ok_or_else(|| row.not_found(&name))?;
            let old = row.value(&current)?;
            let wanted = text(&object, "resourceVersion");
            if !wanted.is_empty() && wanted != text(&old, "resourceVersion") {
                return Err(Status::modified(gr.0, gr.1, &name));
            }
            let mut new = object.clone();
            let cx = kinds::Context {
                namespace: &namespace,
                subresource,
                user: "system:apiserver",
                ..Default::default()
            };
            kinds::metadata::prepare(kinds::Operation::Update, &mut new, Some(&old));
            stored.room.defaults(&mut new);
            let mut new =
                managed::on_update(&row, new, &old, &managed::Write { manager: MANAGER, subresource })?;
            stored.room.prepare(kinds::Operation::Update, &cx, &mut new, Some(&old));
            stored.room.canonicalize(&mut new);
            let bytes = stored.encode(new)?;
            if bytes == current.bytes() {
                return Ok(old);
            }
            match stored.resource.update(&key, current.revision, bytes, stored.ttl).await {
                Ok(written) => return row.value(&written),
                Err(storage::Error::Conflict { .. }) if wanted.is_empty() => {}
                Err(e) => return Err(fail(e)),
            }
        }
        Err(Status::modified(gr.0, gr.1, &name))
    }

    async fn delete(&self, gr: GroupResource<'_>, namespace: &str, name: &str) -> Result<()> {
        let row = self.need(gr)?;
        let stored = row.stored()?;
        let key = row.key(namespace, name)?;
        let fail = |e| crate::errors::storage(e, gr.0, gr.1, name);
        for _ in 0..5 {
            let current =
                stored.resource.get_live(&key).await.map_err(fail)?.ok_or_else(|| row.not_found(name))?;
            match stored.resource.delete(&key, current.revision).await {
                Ok(_) => return Ok(()),
                Err(storage::Error::Conflict { .. }) => {}
                Err(e) => return Err(fail(e)),
            }
        }
        Err(Status::modified(gr.0, gr.1, name))
    }
}

/// An empty object of a kind, to be filled.
pub fn skeleton(api_version: &str, kind: &str, name: &str) -> Value {
    json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": name}})
}
