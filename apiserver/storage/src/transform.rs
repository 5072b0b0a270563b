//! Encryption at rest: what happens to a value between the cache and etcd.

mod ciphers;
mod config;

use bytes::Bytes;

pub use config::Encryption;

/// A value as it came out of storage.
#[derive(Debug, Clone)]
pub struct Transformed {
    /// The plain bytes.
    pub bytes: Bytes,
    /// Stored under another key or scheme than a write would use now.
    pub stale: bool,
}

/// Turns plain bytes into stored ones and back. The etcd key is the authenticated data, so that a
/// value moved to another key does not decrypt.
pub trait Transformer: Send + Sync {
    /// Stored bytes to plain ones. The error must not contain any of the data.
    fn transform_from_storage(&self, key: &str, stored: Bytes) -> Result<Transformed, String>;
    /// Plain bytes to stored ones.
    fn transform_to_storage(&self, key: &str, plain: Bytes) -> Result<Bytes, String>;
}

/// No encryption.
#[derive(Debug, Clone, Copy, Default)]
pub struct Identity;

impl Transformer for Identity {
    fn transform_from_storage(&self, _key: &str, stored: Bytes) -> Result<Transformed, String> {
        if stored.starts_with(b"k8s:enc:") {
            return Err("identity transformer tried to read encrypted data".to_owned());
        }
        Ok(Transformed { bytes: stored, stale: false })
    }

    fn transform_to_storage(&self, _key: &str, plain: Bytes) -> Result<Bytes, String> {
        Ok(plain)
    }
}
