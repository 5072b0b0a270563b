//! Encryption at rest: what happens to a value between the cache and etcd.
//!
//! [`Encryption`] is an `EncryptionConfiguration` in force; it answers a [`Transformer`] for each
//! resource and may exchange what stands behind it while the server runs.

mod ciphers;
mod config;
mod keyed;
pub(crate) mod kms;
mod live;
mod metrics;
#[cfg(test)]
mod tests;

use bytes::Bytes;
use futures::future::BoxFuture;

pub use live::Encryption;

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
    /// Fetches what [`Transformer::transform_from_storage`] of this value needs and this process
    /// does not have (a data key that only a key management service can open). `None` where nothing
    /// is missing, which is always so for ciphers whose keys are in the configuration.
    fn prepare(&self, _stored: &[u8]) -> Option<BoxFuture<'static, ()>> {
        None
    }
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
