//! One resource: its cache, reads, writes and watchers.

pub(crate) mod cache;
mod current;
mod fanout;
mod load;
mod mend;
pub(crate) mod past;
mod read;
pub(crate) mod rest;
mod watch;
mod write;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch as latest;
use tokio_util::sync::CancellationToken;

use crate::cluster::Cluster;
use crate::object::Corrupt;
use crate::pack::Packer;
use crate::{Error, Object, Result, Spec, Transformed};
use cache::Cache;
use fanout::Fanout;

pub use cache::Snapshot;
pub use watch::Watcher;

/// One resource: its cache, reads, writes and watchers. Keys are whole etcd keys below its prefix.
pub struct Resource {
    spec: Spec,
    cluster: Arc<Cluster>,
    cache: RwLock<Cache>,
    fanout: Mutex<Fanout>,
    ready: latest::Sender<bool>,
    changed: latest::Sender<i64>,
    closed: CancellationToken,
    /// Memory holds objects that could not be decrypted.
    broken: AtomicBool,
    packer: Packer,
    rest: rest::Rest,
    me: Weak<Resource>,
}

impl Resource {
    pub(crate) fn new(spec: Spec, cluster: Arc<Cluster>) -> Arc<Resource> {
        Arc::new_cyclic(|me| Resource {
            cache: RwLock::new(Cache::new(spec.indexed_fields.len())),
            fanout: Mutex::new(Fanout::new(spec.indexed_fields.clone(), spec.prefix.len())),
            ready: latest::Sender::new(false),
            changed: latest::Sender::new(0),
            closed: cluster.cancel.child_token(),
            broken: AtomicBool::new(false),
            packer: Packer::default(),
            rest: rest::Rest::default(),
            me: me.clone(),
            spec,
            cluster,
        })
    }

    /// `/registry/pods/`.
    pub fn prefix(&self) -> &str {
        &self.spec.prefix
    }

    /// Resource and API group.
    pub(crate) fn name(&self) -> Option<(&str, &str)> {
        self.spec.name.as_ref().map(|(resource, group)| (resource.as_str(), group.as_str()))
    }

    /// Whether it has been loaded.
    pub fn ready(&self) -> bool {
        *self.ready.borrow()
    }

    /// Waits until it has been loaded (or the store shuts down).
    pub async fn wait_ready(&self) {
        let mut ready = self.ready.subscribe();
        tokio::select! {
            () = self.closed.cancelled() => {}
            _ = ready.wait_for(|r| *r) => {}
        }
    }

    /// The revision of the last event of this resource.
    pub fn revision(&self) -> i64 {
        *self.changed.borrow()
    }

    /// Changes with every event of this resource (value: [`Resource::revision`]), for in-process
    /// readers that recompute something from [`Resource::snapshot`].
    pub fn subscribe(&self) -> latest::Receiver<i64> {
        self.changed.subscribe()
    }

    /// Serves the watchers; called by the stream in the order of the changes.
    pub(crate) fn dispatch(&self, changes: &[Arc<cache::Change>]) {
        if changes.is_empty() {
            return;
        }
        let mut fanout = self.fanout.lock();
        for change in changes {
            fanout.dispatch(change);
        }
    }

    /// Ends its watchers and its loading.
    pub(crate) fn close(&self) {
        self.closed.cancel();
        self.ready.send_replace(false);
        self.fanout.lock().close_all(None);
    }

    /// Bookmarks, and dropping what nobody needs any more.
    pub(crate) fn round(&self, applied: i64) {
        if !self.ready() {
            return;
        }
        self.fanout.lock().bookmarks(applied, self.cluster.config.bookmark_interval);
        let stale = self.cache.write().take_old_pages();
        drop(stale);
        self.rest_if_idle();
    }

    /// Makes room for other JSON.
    pub(crate) fn drop_json(&self) {
        self.cache.read().for_each_object(Object::drop_json);
    }

    /// Drops JSON that nobody asks for any more.
    pub(crate) fn drop_idle_json(&self) {
        self.cache.read().for_each_object(Object::drop_idle_json);
    }

    fn index_of(&self, field: &str) -> Option<usize> {
        self.spec.indexed_fields.iter().position(|f| f == field)
    }

    /// Fetches what decrypting this value needs, if anything is missing.
    pub(crate) async fn prepare_value(&self, stored: &[u8]) {
        if let Some(fetching) = self.spec.transformer.prepare(stored) {
            fetching.await;
        }
    }

    /// The object of a value that etcd has just answered with.
    async fn decoded(&self, key: &str, kv: &etcd_client::KeyValue) -> Arc<Object> {
        self.prepare_value(kv.value()).await;
        let value = Bytes::copy_from_slice(kv.value());
        self.object(key, value, kv.mod_revision(), kv.create_revision(), kv.lease())
    }

    /// Decrypted and in the form that the server works on.
    fn plain(&self, key: &str, stored: Bytes) -> Result<Transformed, String> {
        let mut plain = self.spec.transformer.transform_from_storage(key, stored)?;
        if let Some(codec) = &self.spec.codec {
            let (bytes, stale) = codec.read(plain.bytes).map_err(|e| format!("unable to decode: {e}"))?;
            plain = Transformed { bytes, stale: plain.stale || stale };
        }
        Ok(plain)
    }

    /// What etcd gets for a value.
    fn sealed(&self, key: &str, value: &Bytes) -> Result<Bytes> {
        let encoded = match &self.spec.codec {
            None => Ok(value.clone()),
            Some(codec) => codec.write(value.clone()),
        };
        let sealed = encoded.and_then(|v| self.spec.transformer.transform_to_storage(key, v));
        sealed.map_err(|e| Error::Internal(format!("unable to transform key {key:?}: {e}")))
    }

    /// Makes the object of a stored value.
    fn object(
        &self,
        key: &str,
        stored: Bytes,
        revision: i64,
        create_revision: i64,
        lease: i64,
    ) -> Arc<Object> {
        let transformed = self.plain(key, stored.clone());
        let (bytes, stale, corrupt) = match transformed {
            Ok(plain) => (plain.bytes, plain.stale, None),
            Err(message) => {
                self.broken.store(true, Ordering::Release);
                (Bytes::new(), false, Some(Box::new(Corrupt { message: message.into(), stored })))
            }
        };
        let attributes = match corrupt {
            None => (self.spec.attributes)(key, &bytes),
            Some(_) => Default::default(),
        };
        Arc::new(Object {
            key: key.into(),
            revision,
            create_revision,
            packed: self.packer.pack(bytes),
            attributes,
            lease,
            stale,
            corrupt,
            json: Mutex::new(None),
            budget: self.cluster.budget.clone(),
        })
    }

    /// Keys outside the prefix would escape the cache; a caller that makes one has a bug.
    fn check_key(&self, key: &str) -> Result<()> {
        match key.strip_prefix(self.prefix()) {
            Some(rest) if !rest.is_empty() && !rest.ends_with('/') => Ok(()),
            _ => Err(Error::Internal(format!("key {key:?} is not below {:?}", self.prefix()))),
        }
    }

    async fn ready_within(&self, limit: Duration) -> Result<()> {
        if self.ready() {
            return Ok(());
        }
        let _ = tokio::time::timeout(limit, self.wait_ready()).await;
        if self.ready() { Ok(()) } else { Err(Error::NotReady) }
    }
}

impl std::fmt::Debug for Resource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Resource").field(&self.spec.prefix).finish()
    }
}
