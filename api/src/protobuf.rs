//! The protobuf form of every kind, driven by the field table.
//!
//! [`encode`] writes what upstream's generated code writes, byte for byte. Reading is one walk over
//! the bytes ([`read`]) with two ends: JSON text without a tree ([`to_json`]) or a tree
//! ([`to_value`]). Objects are stored without `metadata.resourceVersion`; each way out can add it.
//! Input is not trusted: lengths are checked, nesting is limited, nothing panics.

pub mod envelope;
mod fields;
pub mod peek;
pub(crate) mod read;
mod tree;
pub mod wire;
mod write;

pub use envelope::{MAGIC, Unwrapped, encode_list, envelope, unenvelope, watch_event};
pub use peek::{Meta, set_resource_version};
pub use write::encode;

use crate::json::Text;
use crate::schema::Message;
use crate::{GroupVersionKind, Value};

/// Deepest nesting of messages that is read or written. CRD schemas are the only deep kind.
pub const MAX_DEPTH: usize = 256;

/// Bytes that are no such message, or a value that does not fit the message.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum Error {
    #[error("unexpected EOF")]
    Truncated,
    #[error("proto: wrong wireType = {wire} for field {field}")]
    WireType { wire: u8, field: &'static str },
    #[error("proto: illegal tag or wire type")]
    BadTag,
    #[error("exceeded max depth")]
    Depth,
    #[error("{0} holds no JSON: {1}")]
    Json(&'static str, String),
    #[error("{0}: {1}")]
    Value(&'static str, String),
    #[error("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")]
    NoMagic,
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Bytes of `message` as the tree of the JSON form, with `apiVersion` and `kind` if `gvk` is given.
pub fn to_value(message: &'static Message, gvk: Option<&GroupVersionKind>, bytes: &[u8]) -> Result<Value> {
    let mut walker = read::Walker::new(tree::Tree::default(), None);
    walker.top(message, gvk, bytes)?;
    Ok(walker.sink.finish())
}

/// As [`to_value`], with `metadata.resourceVersion` set.
pub fn to_value_at(
    message: &'static Message,
    gvk: Option<&GroupVersionKind>,
    resource_version: &str,
    bytes: &[u8],
) -> Result<Value> {
    let mut walker = read::Walker::new(tree::Tree::default(), Some(resource_version));
    walker.top(message, gvk, bytes)?;
    Ok(walker.sink.finish())
}

/// Appends the JSON text of `bytes` exactly as upstream writes it: keys in declaration order, empty
/// fields left out by upstream's rules, strings escaped as Go escapes them; no final newline.
/// With `gvk` the text begins with `kind` and `apiVersion` (items of a list of built-in kinds have none).
pub fn to_json(
    message: &'static Message,
    gvk: Option<&GroupVersionKind>,
    resource_version: Option<&str>,
    bytes: &[u8],
    out: &mut Vec<u8>,
) -> Result<()> {
    let mut walker = read::Walker::new(Text(out), resource_version);
    walker.top(message, gvk, bytes)
}

/// The bytes as any type that can be deserialised, e.g. one of k8s-openapi.
pub fn to_typed<T: serde::de::DeserializeOwned>(
    message: &'static Message,
    gvk: &GroupVersionKind,
    bytes: &[u8],
) -> Result<T> {
    let value = to_value(message, Some(gvk), bytes)?;
    T::deserialize(value).map_err(|e| Error::Value(message.short, e.to_string()))
}

#[cfg(test)]
mod tests;
