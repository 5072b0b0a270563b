//! What can go wrong, in the terms the API has to answer in.

use std::sync::Arc;

use crate::Object;

/// Shorthand.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Every variant names the answer it wants at the API.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// Create found the key taken: 409 AlreadyExists.
    #[error("key exists: {key}")]
    AlreadyExists {
        /// The etcd key.
        key: String,
    },
    /// The mod revision was not the expected one: 409 Conflict, or 404 if there is no object.
    #[error("the object has been modified or deleted")]
    Conflict {
        /// What is there now.
        current: Option<Arc<Object>>,
    },
    /// History no longer reaches back that far: 410 Gone, reason Expired. The text is upstream's.
    #[error("{message}")]
    Expired {
        /// Message for the client.
        message: String,
        /// For an expired `continue`: a token that goes on with an inconsistent list.
        next: Option<String>,
    },
    /// A revision from the future: 504 Timeout with a `ResourceVersionTooLarge` cause and a retry after 1 s.
    #[error("Too large resource version: {requested}, current: {current}")]
    ResourceVersionTooLarge {
        /// Asked for.
        requested: i64,
        /// Where the store is.
        current: i64,
    },
    /// A `continue` token that we did not make: 400 BadRequest.
    #[error("{0}")]
    InvalidContinue(String),
    /// etcd cannot be reached or has no leader: 503 / 500.
    #[error("{0}")]
    Unavailable(String),
    /// etcd did not answer in time; a write may or may not have happened: 504 Timeout.
    #[error("{0}")]
    Timeout(String),
    /// The cache is still loading: 429 with a retry after 1 s.
    #[error("storage is (re)initializing")]
    NotReady,
    /// etcd refuses the size: 413 RequestEntityTooLarge.
    #[error("etcdserver: request is too large")]
    TooLarge,
    /// The stored bytes cannot be decrypted: 500 InternalError, naming the key and no content.
    #[error("unable to transform key {key:?}: {message}")]
    Corrupt {
        /// The etcd key.
        key: String,
        /// Why.
        message: String,
    },
    /// Anything else: 500.
    #[error("{0}")]
    Internal(String),
}

impl Error {
    /// History asked for with a `resourceVersion` that a watch cannot start from any more.
    pub(crate) fn too_old(requested: i64, oldest: i64) -> Error {
        Error::Expired { message: format!("too old resource version: {requested} ({oldest})"), next: None }
    }
}
