//! Writes: one transaction each, compared on the mod revision.
//!
//! A write is answered when etcd has committed it, and after that (while the stream is up) when
//! memory holds it, so that whoever wrote also sees it in a [`super::Snapshot`].

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use etcd_client::{Compare, CompareOp, PutOptions, Txn, TxnOp, TxnOpResponse, TxnResponse};

use crate::etcd::Fault;
use crate::pack::Packed;
use crate::{Error, Object, Result};

use super::Resource;
use super::read::intact;

/// A written object that the stream does not bring within this is answered without it.
const ECHO: Duration = Duration::from_millis(500);

impl Resource {
    /// Creates; `AlreadyExists` if the key is taken.
    pub async fn create(&self, key: &str, value: Bytes, ttl: Option<Duration>) -> Result<Arc<Object>> {
        let answer = self.put(key, 0, &value, ttl, false).await?;
        if !answer.succeeded() {
            return Err(Error::AlreadyExists { key: key.to_owned() });
        }
        let revision = revision(&answer);
        Ok(self.landed(key, revision).await.unwrap_or_else(|| self.written(key, value, revision, revision)))
    }

    /// Replaces the object whose mod revision is `expected`; else `Conflict`.
    pub async fn update(
        &self,
        key: &str,
        expected: i64,
        value: Bytes,
        ttl: Option<Duration>,
    ) -> Result<Arc<Object>> {
        let before = self.cache.read().get(key).map_or(0, |o| o.create_revision);
        let answer = self.put(key, expected, &value, ttl, true).await?;
        if !answer.succeeded() {
            return Err(Error::Conflict { current: self.found(key, &answer).await? });
        }
        let revision = revision(&answer);
        Ok(self.landed(key, revision).await.unwrap_or_else(|| self.written(key, value, revision, before)))
    }

    /// Deletes the object whose mod revision is `expected`; answers the revision of the deletion.
    pub async fn delete(&self, key: &str, expected: i64) -> Result<i64> {
        self.check_key(key)?;
        let txn = Txn::new()
            .when([Compare::mod_revision(key, CompareOp::Equal, expected)])
            .and_then([TxnOp::delete(key, None)])
            .or_else([TxnOp::get(key, None)]);
        let answer = self.asking("delete", self.cluster.etcd.txn(txn)).await?;
        if !answer.succeeded() {
            return Err(Error::Conflict { current: self.found(key, &answer).await? });
        }
        let revision = revision(&answer);
        self.echoed(revision).await;
        Ok(revision)
    }

    async fn put(
        &self,
        key: &str,
        expected: i64,
        value: &Bytes,
        ttl: Option<Duration>,
        want_current: bool,
    ) -> Result<TxnResponse> {
        self.check_key(key)?;
        let stored = self.sealed(key, value)?;
        let etcd = &self.cluster.etcd;
        let mut fresh = false;
        let operation = if expected == 0 { "create" } else { "update" };
        loop {
            let lease = match ttl {
                Some(ttl) => Some(self.cluster.leases.get(etcd, ttl, fresh).await?),
                None => None,
            };
            let options = lease.map(|id| PutOptions::new().with_lease(id));
            let mut txn = Txn::new()
                .when([Compare::mod_revision(key, CompareOp::Equal, expected)])
                .and_then([TxnOp::put(key, stored.clone(), options)]);
            if want_current {
                txn = txn.or_else([TxnOp::get(key, None)]);
            }
            match self.asking(operation, etcd.txn(txn)).await {
                // Refused before anything was written: the shared lease was gone already.
                Err(Fault::Other(Error::Internal(text)))
                    if !fresh && ttl.is_some() && text.contains("lease not found") =>
                {
                    fresh = true;
                }
                answer => return answer.map_err(Error::from),
            }
        }
    }

    /// The current object in the answer of a transaction that did not succeed.
    async fn found(&self, key: &str, answer: &TxnResponse) -> Result<Option<Arc<Object>>> {
        let Some(TxnOpResponse::Get(mut get)) = answer.op_responses().pop() else { return Ok(None) };
        let Some(kv) = get.take_kvs().pop() else { return Ok(None) };
        intact(self.decoded(key, &kv).await).map(Some)
    }

    /// The cache's own object for a write, shared with all readers.
    async fn landed(&self, key: &str, revision: i64) -> Option<Arc<Object>> {
        if !self.echoed(revision).await {
            return None;
        }
        let found = self.cache.read().get(key).cloned();
        found.filter(|o| o.revision == revision)
    }

    async fn echoed(&self, revision: i64) -> bool {
        self.cluster.connected() && self.cluster.progress.reached(revision, ECHO).await
    }

    /// An object for a write that memory has not seen yet, or not any more.
    fn written(&self, key: &str, bytes: Bytes, revision: i64, create_revision: i64) -> Arc<Object> {
        Arc::new(Object {
            attributes: (self.spec.attributes)(key, &bytes),
            key: key.into(),
            revision,
            create_revision,
            packed: Packed::Plain(bytes),
            lease: 0,
            stale: false,
            corrupt: None,
            json: Default::default(),
            budget: self.cluster.budget.clone(),
        })
    }
}

fn revision(answer: &TxnResponse) -> i64 {
    answer.header().map_or(0, |h| h.revision())
}
