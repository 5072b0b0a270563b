//! Compaction: forgets history older than one interval, once per interval, however many apiservers
//! share the etcd.
//!
//! The key [`KEY`] holds the revision to compact to next and its version counts the compactions.
//! Whoever finds the version it saw an interval ago moves the key on and compacts; the others
//! learn the new version. Upstream's servers do the same with the same key, so both can mix.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use etcd_client::{Compare, CompareOp, Txn, TxnOp, TxnOpResponse};

use crate::Result;
use crate::cluster::Cluster;
use crate::etcd::{Etcd, Fault};

/// Where the servers meet.
pub(crate) const KEY: &str = "compact_rev_key";

/// What a server knows between two rounds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Seen {
    version: i64,
    revision: i64,
}

pub(crate) async fn run(cluster: Arc<Cluster>) {
    let every = cluster.config.compaction_interval;
    if every.is_zero() {
        return;
    }
    let mut seen = Seen::default();
    loop {
        tokio::select! {
            () = cluster.cancel.cancelled() => return,
            () = tokio::time::sleep(every) => {}
        }
        match round(&cluster.etcd, seen).await {
            Ok((now, compacted)) => {
                seen = now;
                cluster.compacted.fetch_max(compacted, Ordering::AcqRel);
            }
            Err(error) => tracing::warn!(%error, "Compacting etcd failed"),
        }
    }
}

/// What is known now, and the revision that all is compacted to.
async fn round(etcd: &Etcd, seen: Seen) -> Result<(Seen, i64)> {
    let txn = Txn::new()
        .when([Compare::version(KEY, CompareOp::Equal, seen.version)])
        .and_then([TxnOp::put(KEY, seen.revision.to_string(), None)])
        .or_else([TxnOp::get(KEY, None)]);
    let answer = etcd.txn(txn).await?;
    let revision = answer.header().map_or(0, |h| h.revision());
    if !answer.succeeded() {
        let Some(TxnOpResponse::Get(get)) = answer.op_responses().pop() else {
            return Ok((Seen { version: 0, revision }, 0));
        };
        let version = get.kvs().first().map_or(0, |kv| kv.version());
        let compacted = get.kvs().first().and_then(|kv| kv.value_str().ok()?.parse().ok());
        return Ok((Seen { version, revision }, compacted.unwrap_or(0)));
    }
    if seen.revision > 0 {
        match etcd.call(etcd.kv().compact(seen.revision, None)).await {
            Ok(_) | Err(Fault::Compacted) => tracing::debug!(revision = seen.revision, "Compacted etcd"),
            Err(fault) => return Err(fault.into()),
        }
    }
    Ok((Seen { version: seen.version + 1, revision }, seen.revision))
}

#[cfg(all(test, feature = "testing"))]
mod tests {
    use super::*;
    use crate::{Config, testing::Etcd as Process};

    #[tokio::test]
    async fn two_servers_take_turns() {
        let process = Process::start().await;
        let etcd = Etcd::connect(&[process.url()], &Config::new([process.url()])).await.unwrap();
        let (mut a, mut b) = (Seen::default(), Seen::default());
        a = round(&etcd, a).await.unwrap().0;
        assert_eq!(a.version, 1);
        b = round(&etcd, b).await.unwrap().0;
        assert_eq!(b.version, 1, "b lost the first round and learns the version");
        for i in 0..10 {
            etcd.kv().put("/registry/x", i.to_string(), None).await.unwrap();
        }
        let target = a.revision;
        a = round(&etcd, a).await.unwrap().0;
        assert_eq!(a.version, 2);
        let old = etcd_client::GetOptions::new().with_revision(target - 1);
        assert!(matches!(etcd.call(etcd.kv().get(KEY, Some(old))).await, Err(Fault::Compacted)));
        let (b, compacted) = round(&etcd, b).await.unwrap();
        assert_eq!(compacted, target, "b hears what a has done");
        assert_eq!(b.version, 2, "one compaction an interval");
    }
}
