//! A registry that is nothing but a map, for tests of whatever reads the apiserver's objects.

use api::Value;
use api::registry::{GroupResource, Reader, Registry};
use api::status::{Result, Status};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;

type Key = (String, String, String, String);

#[derive(Default)]
struct State {
    objects: BTreeMap<Key, Arc<Value>>,
    /// Created or updated, but not seen by [`Reader`] yet.
    unseen: BTreeMap<Key, Arc<Value>>,
    revision: i64,
}

/// Objects in memory, with revisions and optimistic concurrency like the real thing.
#[derive(Default)]
pub struct FakeRegistry {
    state: Mutex<State>,
}

fn key(gr: GroupResource<'_>, namespace: &str, name: &str) -> Key {
    (gr.0.to_owned(), gr.1.to_owned(), namespace.to_owned(), name.to_owned())
}

fn key_of(gr: GroupResource<'_>, v: &Value) -> Key {
    key(gr, crate::values::namespace(v), crate::values::name(v))
}

impl FakeRegistry {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// With these objects.
    pub fn with(objects: impl IntoIterator<Item = (GroupResource<'static>, Value)>) -> Arc<Self> {
        let fake = Self::new();
        for (gr, object) in objects {
            fake.put(gr, object);
        }
        fake
    }

    /// Creates or replaces, without questions.
    pub fn put(&self, gr: GroupResource<'_>, mut object: Value) {
        let mut state = self.state.lock();
        state.revision += 1;
        object["metadata"]["resourceVersion"] = state.revision.to_string().into();
        state.objects.insert(key_of(gr, &object), Arc::new(object));
    }

    /// Puts an object that only a live read finds.
    pub fn put_unseen(&self, gr: GroupResource<'_>, object: Value) {
        self.state.lock().unseen.insert(key_of(gr, &object), Arc::new(object));
    }

    pub fn remove(&self, gr: GroupResource<'_>, namespace: &str, name: &str) {
        let mut state = self.state.lock();
        state.revision += 1;
        state.objects.remove(&key(gr, namespace, name));
    }
}

/// The value at a dotted path, as text.
fn field_text(v: &Value, field: &str) -> String {
    let found = field.split('.').try_fold(v, |v, k| v.get(k));
    match found {
        Some(Value::String(s)) => s.clone(),
        Some(Value::Null) | None => String::new(),
        Some(other) => other.to_string(),
    }
}

impl Reader for FakeRegistry {
    fn get(&self, gr: GroupResource<'_>, namespace: &str, name: &str) -> Option<Arc<Value>> {
        self.state.lock().objects.get(&key(gr, namespace, name)).cloned()
    }
    fn list(&self, gr: GroupResource<'_>, namespace: Option<&str>) -> Vec<Arc<Value>> {
        let state = self.state.lock();
        let wanted = |k: &Key| k.0 == gr.0 && k.1 == gr.1 && namespace.is_none_or(|n| k.2 == n);
        state.objects.iter().filter(|(k, _)| wanted(k)).map(|(_, v)| v.clone()).collect()
    }
    fn list_by_field(&self, gr: GroupResource<'_>, field: &str, value: &str) -> Vec<Arc<Value>> {
        self.list(gr, None).into_iter().filter(|v| field_text(v, field) == value).collect()
    }
    fn revision(&self, _gr: GroupResource<'_>) -> i64 {
        self.state.lock().revision
    }
}

#[async_trait::async_trait]
impl Registry for FakeRegistry {
    async fn get_live(&self, gr: GroupResource<'_>, namespace: &str, name: &str) -> Result<Value> {
        let state = self.state.lock();
        let k = key(gr, namespace, name);
        let found = state.objects.get(&k).or_else(|| state.unseen.get(&k));
        found.map(|v| Value::clone(v)).ok_or_else(|| Status::not_found(gr.0, gr.1, name))
    }
    async fn create(&self, gr: GroupResource<'_>, namespace: &str, mut object: Value) -> Result<Value> {
        let mut state = self.state.lock();
        if !namespace.is_empty() {
            object["metadata"]["namespace"] = namespace.into();
        }
        let k = key_of(gr, &object);
        if state.objects.contains_key(&k) {
            return Err(Status::already_exists(gr.0, gr.1, &k.3));
        }
        state.revision += 1;
        object["metadata"]["resourceVersion"] = state.revision.to_string().into();
        state.objects.insert(k, Arc::new(object.clone()));
        Ok(object)
    }
    async fn update(&self, gr: GroupResource<'_>, subresource: &str, mut object: Value) -> Result<Value> {
        let mut state = self.state.lock();
        let k = key_of(gr, &object);
        let Some(old) = state.objects.get(&k) else { return Err(Status::not_found(gr.0, gr.1, &k.3)) };
        let revision = &object["metadata"]["resourceVersion"];
        if !revision.is_null() && *revision != old["metadata"]["resourceVersion"] {
            return Err(Status::modified(gr.0, gr.1, &k.3));
        }
        if subresource == "status" {
            let mut merged = Value::clone(old);
            merged["status"] = object["status"].take();
            object = merged;
        }
        state.revision += 1;
        object["metadata"]["resourceVersion"] = state.revision.to_string().into();
        state.objects.insert(k, Arc::new(object.clone()));
        Ok(object)
    }
    async fn delete(&self, gr: GroupResource<'_>, namespace: &str, name: &str) -> Result<()> {
        let mut state = self.state.lock();
        state.revision += 1;
        let removed = state.objects.remove(&key(gr, namespace, name));
        removed.map(drop).ok_or_else(|| Status::not_found(gr.0, gr.1, name))
    }
}
