//! What the server serves: one row a resource and version, found by path without allocating.
//!
//! [`Routes`] is a value that is swapped as a whole when CRDs or aggregated APIs come and go; requests in
//! flight keep the rows that they began with.

use crate::envelope;
use api::resources::Resource;
use api::schema::Message;
use api::status::{Result, Status};
use api::{GroupVersionKind, Value};
use bytes::Bytes;
use kinds::Room;
use rustc_hash::FxHashMap;
use std::ops::Deref;
use std::sync::Arc;
use storage::Object;

/// A room that is part of the program, or one that came with a CRD.
#[derive(Clone)]
pub enum RoomRef {
    Static(&'static dyn Room),
    Owned(Arc<dyn Room>),
}

impl Deref for RoomRef {
    type Target = dyn Room;
    fn deref(&self) -> &(dyn Room + 'static) {
        match self {
            RoomRef::Static(r) => *r,
            RoomRef::Owned(r) => &**r,
        }
    }
}

/// Conversion between the versions of a custom resource.
pub trait Convert: Send + Sync {
    fn convert(&self, value: Value, from: &GroupVersionKind, to: &GroupVersionKind) -> Result<Value>;
}

/// Where an object keeps what its Scale shows, as JSON pointers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScalePaths {
    pub spec_replicas: String,
    pub status_replicas: String,
    /// A selector that is a text; none where `spec.selector` is one.
    pub selector: Option<String>,
}

/// Where and as what a resource is kept.
pub struct Stored {
    pub resource: Arc<storage::Resource>,
    pub gvk: GroupVersionKind,
    /// Absent for custom resources, which are stored as JSON.
    pub message: Option<&'static Message>,
    pub room: RoomRef,
    /// Objects vanish after that time (events).
    pub ttl: Option<std::time::Duration>,
    /// Whether the kind has fields whose feature gate is off.
    pub gated: bool,
}

/// One resource in one version. Reads as its row of the resource table, with what runs it beside.
pub struct Served {
    pub row: Arc<Resource>,
    pub gvk: GroupVersionKind,
    pub api_version: String,
    pub list_kind: String,
    pub room: RoomRef,
    pub message: Option<&'static Message>,
    pub stored: Option<Stored>,
    /// `{"kind":"Pod","apiVersion":"v1",`: what items of a list do not repeat.
    pub json_prefix: Box<[u8]>,
    /// What stands between versions that differ in more than their name.
    pub convert: Option<Arc<dyn Convert>>,
    /// Where the Scale of a custom resource is.
    pub scale: Option<ScalePaths>,
    /// Sent as a warning with every answer.
    pub deprecation: Option<String>,
}

impl Deref for Served {
    type Target = Resource;
    fn deref(&self) -> &Resource {
        &self.row
    }
}

impl Served {
    pub fn group(&self) -> &str {
        &self.gvk.group
    }

    /// A built-in row. `store` gives the cache of a prefix and how long its objects live.
    pub fn builtin(row: Arc<Resource>, store: &dyn Fn(&Resource) -> Option<Stored>) -> Self {
        let gvk = row.gvk();
        let room = RoomRef::Static(kinds::room(&gvk.group, &gvk.version, &gvk.kind));
        Self::with(row.clone(), room, api::schema::for_kind(&gvk), store(&row))
    }

    pub fn with(
        row: Arc<Resource>,
        room: RoomRef,
        message: Option<&'static Message>,
        stored: Option<Stored>,
    ) -> Self {
        let gvk = row.gvk();
        let api_version = gvk.api_version();
        let json_prefix = format!("{{\"kind\":\"{}\",\"apiVersion\":\"{api_version}\",", gvk.kind);
        Served {
            list_kind: row.list_kind(),
            json_prefix: json_prefix.into_bytes().into(),
            row,
            gvk,
            api_version,
            room,
            message,
            stored,
            convert: None,
            scale: None,
            deprecation: None,
        }
    }

    /// Where it is kept; resources that are computed have no such place.
    pub fn stored(&self) -> Result<&Stored> {
        self.stored.as_ref().ok_or_else(|| Status::method_not_supported(self.group(), &self.resource, ""))
    }

    /// The etcd key of an object.
    pub fn key(&self, namespace: &str, name: &str) -> Result<String> {
        let prefix = self.stored()?.resource.prefix();
        Ok(if self.namespaced { format!("{prefix}{namespace}/{name}") } else { format!("{prefix}{name}") })
    }

    /// The part of the key space that a list or watch looks at.
    pub fn range(&self, namespace: &str) -> Result<String> {
        let prefix = self.stored()?.resource.prefix();
        Ok(if self.namespaced && !namespace.is_empty() {
            format!("{prefix}{namespace}/")
        } else {
            prefix.to_owned()
        })
    }

    /// Whether what is stored is what this version shows.
    pub fn is_stored_version(&self) -> bool {
        self.stored.as_ref().is_some_and(|s| s.gvk == self.gvk)
    }

    pub fn not_found(&self, name: &str) -> Status {
        Status::not_found(self.group(), &self.resource, name)
    }

    /// The stored object as a tree, in the storage version, with its resource version.
    pub fn value(&self, object: &Object) -> Result<Value> {
        let stored = self.stored()?;
        let value = stored.value(&object.bytes(), object.revision)?;
        if stored.message.is_some() { Ok(value) } else { self.custom_value(value, stored) }
    }

    /// A custom object as its definition now says: it may have been stored in another version, or by
    /// another schema.
    fn custom_value(&self, value: Value, stored: &Stored) -> Result<Value> {
        let version = value["apiVersion"].as_str().and_then(|v| v.rsplit('/').next()).unwrap_or_default();
        let from = GroupVersionKind::new(&stored.gvk.group, version, &stored.gvk.kind);
        let mut value = self.converted(value, &from, &stored.gvk)?;
        stored.room.prune(&mut value).map_err(Status::internal)?;
        stored.room.defaults(&mut value);
        Ok(value)
    }

    /// The stored object as a tree in this version.
    pub fn value_here(&self, object: &Object) -> Result<Value> {
        self.from_stored(self.value(object)?)
    }

    /// Storage version to this version.
    pub fn from_stored(&self, value: Value) -> Result<Value> {
        let stored = self.stored()?;
        if stored.gvk == self.gvk {
            return Ok(value);
        }
        let mut value = self.converted(value, &stored.gvk, &self.gvk)?;
        if self.message.is_none() {
            self.room.prune(&mut value).map_err(Status::internal)?;
            self.room.defaults(&mut value);
        }
        Ok(value)
    }

    /// This version to the storage version.
    pub fn to_stored(&self, value: Value) -> Result<Value> {
        let stored = self.stored()?;
        self.converted(value, &self.gvk, &stored.gvk)
    }

    /// Between any two versions.
    pub fn converted(&self, value: Value, from: &GroupVersionKind, to: &GroupVersionKind) -> Result<Value> {
        match &self.convert {
            _ if from == to => Ok(value),
            Some(by) => by.convert(value, from, to),
            None => convert(value, from, to),
        }
    }

    /// JSON of a stored object in this version. The storage version's text is shared with all readers.
    pub fn json(&self, object: &Object) -> Result<Bytes> {
        if self.is_stored_version() {
            let made = object.json(|o| self.make_json(o).unwrap_or_default());
            return if made.is_empty() { self.make_json(object) } else { Ok(made) };
        }
        Ok(encode_json(self.message, &self.gvk, &self.value_here(object)?)?.into())
    }

    /// As [`Served::json`], but text that nobody has asked for yet is not kept: lists are large.
    pub fn json_transient(&self, object: &Object) -> Result<Bytes> {
        if !self.is_stored_version() {
            return self.json(object);
        }
        match object.cached_json().filter(|j| !j.is_empty()) {
            Some(json) => Ok(json),
            None => self.make_json(object),
        }
    }

    fn make_json(&self, object: &Object) -> Result<Bytes> {
        let stored = self.stored()?;
        match stored.message {
            Some(message) => stored.json(message, &object.bytes(), object.revision),
            None => encode_json(None, &self.gvk, &self.value(object)?).map(Bytes::from),
        }
    }

    /// Protobuf of a stored object in this version, enveloped.
    pub fn protobuf(&self, object: &Object) -> Result<Bytes> {
        if self.is_stored_version()
            && let Some(bytes) =
                envelope::object(&object.bytes(), object.revision, &self.api_version, &self.gvk.kind)
        {
            return Ok(bytes);
        }
        self.value_protobuf(&self.value_here(object)?)
    }

    /// Protobuf of a tree of this version, enveloped.
    pub fn value_protobuf(&self, value: &Value) -> Result<Bytes> {
        let message =
            self.message.ok_or_else(|| Status::not_acceptable(&["application/json", "application/yaml"]))?;
        let raw = api::protobuf::encode(message, value).map_err(Status::internal)?;
        Ok(envelope::wrap(&self.api_version, &self.gvk.kind, raw.len(), |out| out.extend_from_slice(&raw)))
    }
}

impl Stored {
    /// The tree of stored bytes.
    pub fn value(&self, bytes: &Bytes, revision: i64) -> Result<Value> {
        let revision = revision.to_string();
        match self.message {
            Some(message) => {
                let raw = envelope::message(bytes)
                    .ok_or_else(|| Status::internal("the stored object is damaged"))?;
                api::protobuf::to_value_at(message, Some(&self.gvk), &revision, &raw)
                    .map_err(Status::internal)
            }
            None => {
                let mut v: Value = serde_json::from_slice(bytes).map_err(Status::internal)?;
                v["metadata"]["resourceVersion"] = revision.into();
                Ok(v)
            }
        }
    }

    fn json(&self, message: &'static Message, bytes: &Bytes, revision: i64) -> Result<Bytes> {
        let raw = envelope::message(bytes).ok_or_else(|| Status::internal("the stored object is damaged"))?;
        let mut out = Vec::with_capacity(raw.len() * 3 + 64);
        api::protobuf::to_json(message, Some(&self.gvk), Some(&revision.to_string()), &raw, &mut out)
            .map_err(Status::internal)?;
        out.push(b'\n');
        out.shrink_to_fit();
        Ok(out.into())
    }

    /// What etcd gets: no resource version, no self link, the envelope of the kind.
    pub fn encode(&self, mut value: Value) -> Result<Bytes> {
        if let Some(meta) = value.get_mut("metadata").and_then(Value::as_object_mut) {
            meta.remove("resourceVersion");
            meta.remove("selfLink");
        }
        match self.message {
            Some(message) => {
                let raw = api::protobuf::encode(message, &value).map_err(Status::internal)?;
                Ok(envelope::wrap(&self.gvk.api_version(), &self.gvk.kind, raw.len(), |o| {
                    o.extend_from_slice(&raw)
                }))
            }
            None => encode_json(None, &self.gvk, &value).map(Bytes::from),
        }
    }
}

fn convert(mut value: Value, from: &GroupVersionKind, to: &GroupVersionKind) -> Result<Value> {
    kinds::convert(&mut value, from, to);
    Ok(value)
}

/// JSON text of a tree, in the field order of its kind, with the final newline that upstream writes.
pub fn encode_json(
    message: Option<&'static Message>,
    gvk: &GroupVersionKind,
    value: &Value,
) -> Result<Vec<u8>> {
    let mut out = Vec::with_capacity(1024);
    match message {
        Some(message) => {
            let raw = api::protobuf::encode(message, value).map_err(Status::internal)?;
            api::protobuf::to_json(message, Some(gvk), None, &raw, &mut out).map_err(Status::internal)?;
        }
        None => api::json::write(value, &mut out),
    }
    out.push(b'\n');
    Ok(out)
}

type Resources = FxHashMap<Box<str>, Arc<Served>>;
type Versions = FxHashMap<Box<str>, Resources>;

/// Every resource that is served, by group, version and plural.
#[derive(Default)]
pub struct Routes {
    groups: FxHashMap<Box<str>, Versions>,
    all: Vec<Arc<Served>>,
}

impl Routes {
    pub fn new(all: Vec<Arc<Served>>) -> Self {
        let mut groups: FxHashMap<Box<str>, Versions> = FxHashMap::default();
        for s in &all {
            let versions = groups.entry(s.gvk.group.as_str().into()).or_default();
            versions
                .entry(s.gvk.version.as_str().into())
                .or_default()
                .insert(s.resource.as_str().into(), s.clone());
        }
        Routes { groups, all }
    }

    pub fn find(&self, group: &str, version: &str, resource: &str) -> Option<&Arc<Served>> {
        self.groups.get(group)?.get(version)?.get(resource)
    }

    pub fn has_version(&self, group: &str, version: &str) -> bool {
        self.groups.get(group).is_some_and(|v| v.contains_key(version))
    }

    pub fn all(&self) -> &[Arc<Served>] {
        &self.all
    }

    /// The row by which the server itself reads and writes a resource: the stored version if it is served.
    pub fn storage(&self, group: &str, resource: &str) -> Option<&Arc<Served>> {
        let mut rows = self.groups.get(group)?.values().filter_map(|r| r.get(resource));
        let first = rows.clone().next();
        rows.find(|s| s.is_stored_version()).or(first).filter(|s| s.stored.is_some())
    }
}
