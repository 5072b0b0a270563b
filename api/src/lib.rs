//! The Kubernetes API as data.
//!
//! Which resources exist ([`resources`]), what fields they have and how they go on the wire
//! ([`schema`], [`protobuf`]), how requests are decoded strictly ([`decode`]), how errors are
//! reported ([`field`], [`status`]), and the small shared vocabulary (selectors, quantities, names).
//! Pure functions over [`Value`]: no I/O, no tokio, no kind-specific behaviour (that is in `kinds`).

pub mod cbor;
pub mod decode;
pub mod discovery;
pub mod field;
pub mod gates;
pub mod intstr;
pub mod json;
pub mod media;
pub mod names;
pub mod print;
pub mod protobuf;
pub mod quantity;
pub mod registry;
pub mod resources;
pub mod schema;
pub mod selectors;
pub mod status;
pub mod time;

/// The dynamic form of every API object between decoding and encoding. Maps are sorted by key;
/// the field order of built-in kinds on the wire comes from the field table, never from the map.
pub use serde_json::{Map, Value, json};

/// A kind, fully qualified. The core group is the empty string.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupVersionKind {
    pub group: String,
    pub version: String,
    pub kind: String,
}

impl GroupVersionKind {
    pub fn new(group: &str, version: &str, kind: &str) -> Self {
        Self { group: group.into(), version: version.into(), kind: kind.into() }
    }

    /// `group/version`, or only `version` for the core group.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }
}

/// A resource (plural, lower case), fully qualified.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupVersionResource {
    pub group: String,
    pub version: String,
    pub resource: String,
}

impl GroupVersionResource {
    pub fn new(group: &str, version: &str, resource: &str) -> Self {
        Self { group: group.into(), version: version.into(), resource: resource.into() }
    }
}
