//! History from before the server started.
//!
//! A server that has just loaded remembers no changes, so every client that comes back from its
//! predecessor would be told to list again, all at once. etcd still has the last minutes: they are
//! read once, in the background, and put in front of what the stream has brought since.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use etcd_client::{EventType, KeyValue, WatchOptions};
use rustc_hash::FxHashMap;

use crate::cluster::Cluster;
use crate::etcd::Fault;
use crate::{Error, Object};

use super::Resource;
use super::cache::Change;

/// Revisions looked back.
const REVISIONS: i64 = 1000;
/// Bytes that may gather meanwhile; what would need more is left to the clients' lists.
const BYTES: usize = 16 << 20;
/// The server registers its resources in this time; nobody waits for the history.
const SETTLE: Duration = Duration::from_millis(500);
/// It is a convenience: give up rather than hang on to a stream that brings nothing.
const DEADLINE: Duration = Duration::from_secs(10);

/// Reads the changes up to `until`, which the stream begins after, for all resources that the
/// server registers as it starts.
pub(crate) async fn recall(cluster: Arc<Cluster>, until: i64) {
    tokio::select! {
        () = cluster.cancel.cancelled() => return,
        () = tokio::time::sleep(SETTLE) => {}
    }
    let resources = super::rest::awake(cluster.resources());
    for resource in &resources {
        resource.wait_ready().await;
    }
    let loaded = resources.iter().map(|r| r.cache.read().floor).fold(until, i64::max);
    match tokio::time::timeout(DEADLINE, read(&cluster, until, loaded)).await {
        Ok(Ok((floor, past))) => {
            for resource in &resources {
                resource.recall(floor, loaded, past.get(resource.prefix()).map_or(&[], Vec::as_slice));
            }
        }
        Ok(Err(fault)) => tracing::debug!(?fault, "No history from before the start"),
        Err(_) => tracing::debug!("No history from before the start: etcd takes too long"),
    }
}

type Past = FxHashMap<Box<str>, Vec<Arc<Change>>>;

/// The changes from some revision near `until - REVISIONS` up to at least `loaded`.
async fn read(cluster: &Cluster, until: i64, loaded: i64) -> Result<(i64, Past), Fault> {
    let floor = (until - REVISIONS).max(1);
    match read_from(cluster, floor, loaded).await? {
        Ok(past) => Ok((floor, past)),
        // What is left begins after the compaction, whose own state etcd keeps as previous values.
        Err(compacted) if compacted < until => {
            let past = read_from(cluster, compacted, loaded).await?;
            past.map(|p| (compacted, p)).map_err(|_| Fault::Compacted)
        }
        Err(_) => Err(Fault::Compacted),
    }
}

/// The changes of `(floor, loaded]`, or the revision that etcd has been compacted to.
async fn read_from(cluster: &Cluster, floor: i64, loaded: i64) -> Result<Result<Past, i64>, Fault> {
    let mut past = Past::default();
    if floor >= loaded {
        return Ok(Ok(past));
    }
    let options = WatchOptions::new().with_from_key().with_start_revision(floor + 1).with_prev_key();
    let mut watch = cluster.etcd.watch();
    let mut stream = cluster.etcd.call(watch.watch(vec![0u8], Some(options))).await?;
    let (mut weight, mut end) = (0, floor);
    while let Some(response) = cluster.etcd.call(stream.message()).await? {
        if response.compact_revision() > 0 {
            return Ok(Err(response.compact_revision()));
        }
        for event in response.events() {
            let Some(kv) = event.kv() else { continue };
            let delete = event.event_type() == EventType::Delete;
            let unknown = event.prev_kv().is_none() && (delete || kv.version() != 1);
            // At the very edge of a compaction etcd has lost previous values, and old versions of
            // it also deletions. Every revision has an event, so that shows as a hole.
            if unknown || kv.mod_revision() > end + 1 {
                return Ok(Err(kv.mod_revision()));
            }
            end = kv.mod_revision();
            let Some(resource) = kv.key_str().ok().and_then(|k| cluster.resource_of(k)) else { continue };
            weight += kv.value().len() + event.prev_kv().map_or(0, |p| p.value().len()) + 512;
            resource.prepare_value(kv.value()).await;
            if let Some(previous) = event.prev_kv() {
                resource.prepare_value(previous.value()).await;
            }
            let change = resource.past(kv, event.prev_kv(), delete);
            past.entry(resource.prefix().into()).or_default().push(change);
        }
        if end >= loaded {
            return Ok(Ok(past));
        }
        if response.canceled() || weight > BYTES {
            break;
        }
    }
    Err(Fault::Other(Error::Unavailable("too much of it, or the watch was cancelled".to_owned())))
}

impl Resource {
    fn past(&self, kv: &KeyValue, previous: Option<&KeyValue>, delete: bool) -> Arc<Change> {
        let object = |kv: &KeyValue| -> Option<Arc<Object>> {
            let value = Bytes::copy_from_slice(kv.value());
            Some(self.object(kv.key_str().ok()?, value, kv.mod_revision(), kv.create_revision(), kv.lease()))
        };
        let new = if delete { None } else { object(kv) };
        self.past_change(kv.mod_revision(), new, previous.and_then(object))
    }

    fn recall(&self, floor: i64, end: i64, changes: &[Arc<Change>]) {
        let mut cache = self.cache.write();
        // A load that is newer than what was read, or changes already forgotten, would leave a hole.
        let loaded = cache.floor;
        if loaded <= end {
            let changes = changes.iter().filter(|c| c.revision <= loaded && !c.key().is_empty()).cloned();
            cache.prepend(floor, changes.collect(), &self.cluster.config);
        }
    }
}
