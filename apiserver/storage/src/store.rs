//! The store: connections, the stream and the resources it feeds.
use std::sync::Arc;
use crate::{Config, Error, Resource, Result, Spec};

/// Everything the apiserver keeps.
pub struct Store {}

impl Store {
    /// Connects. Succeeds also while etcd is away (then nothing is ready yet); fails on a bad
    /// configuration (unreadable certificate, malformed URL).
    pub async fn open(_config: Config) -> Result<Arc<Store>> {
        Err(Error::Unavailable("storage is being built".into()))
    }
    /// The resource of that prefix, registered and loading from now on if it is new. A second call
    /// with the same prefix answers the first one's resource.
    pub fn resource(self: &Arc<Self>, spec: Spec) -> Arc<Resource> {
        Arc::new(Resource { prefix: spec.prefix })
    }
    /// Forgets a resource (a CRD went away): its watchers end, its memory is freed. Nothing is
    /// deleted in etcd.
    pub fn remove(&self, _prefix: &str) {}
    /// Whether every registered resource has been loaded.
    pub fn ready(&self) -> bool {
        false
    }
    /// Waits until every registered resource has been loaded.
    pub async fn wait_ready(&self) {}
    /// Asks etcd whether it answers (`/healthz/etcd`, `/readyz/etcd-readiness`).
    pub async fn healthy(&self) -> Result<()> {
        Err(Error::NotReady)
    }
    /// etcd's current revision, asked now (shared with whoever asks at the same time).
    pub async fn current_revision(&self) -> Result<i64> {
        Err(Error::NotReady)
    }
    /// The revision up to which memory is complete.
    pub fn applied_revision(&self) -> i64 {
        0
    }
    /// Ends all tasks and watchers.
    pub async fn shutdown(&self) {}
}
