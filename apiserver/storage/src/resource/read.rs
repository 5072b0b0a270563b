//! Reads: from memory where memory is fresh enough, from etcd where it cannot be.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use etcd_client::GetOptions;

use crate::cluster::PATIENCE;
use crate::etcd::Fault;
use crate::sorted::{SortedMap, prefix_end};
use crate::{Continue, Error, List, ListOptions, Object, ReadVersion, Result};

use super::Resource;
use super::cache::Snapshot;
use super::fanout::Scope;

/// Keys asked of etcd at once when a selector may reject most of them.
const CHUNK: usize = 500;

const INCONSISTENT: &str = "The provided continue parameter is too old to display a consistent list result. \
You can start a new list without the continue parameter, or use the continue token in this response to \
retrieve the remainder of the results. Continuing with the provided token results in an inconsistent \
list - objects that were created, modified, or deleted between the time the first chunk was returned \
and now may show up in the list.";

/// Who can answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Source {
    Memory,
    /// The stream does not get there in time although etcd answers.
    Etcd,
}

impl Resource {
    /// Reads one object.
    pub async fn get(&self, key: &str, version: ReadVersion) -> Result<Option<Arc<Object>>> {
        if self.fresh(version).await? == Source::Etcd {
            return self.get_live(key).await;
        }
        let found = self.cache.read().get(key).cloned();
        match found {
            Some(object) if object.corrupt.is_some() => self.get_live(key).await,
            found => Ok(found),
        }
    }

    /// Reads one object straight from etcd (a retry after a conflict).
    pub async fn get_live(&self, key: &str) -> Result<Option<Arc<Object>>> {
        let mut answer = self.asking("get", self.cluster.etcd.get(key, None)).await?;
        match answer.take_kvs().pop() {
            Some(kv) => intact(self.decoded(key, &kv).await).map(Some),
            None => Ok(None),
        }
    }

    /// Lists what lies below `key_prefix` (the resource's prefix, or longer by `namespace/`).
    pub async fn list(&self, key_prefix: &str, options: ListOptions) -> Result<List> {
        let scope = self.scope(key_prefix, &options.index, &options.predicate);
        self.mend().await;
        let mut start = key_prefix.to_owned();
        let (mut version, mut paging) = (options.version, false);
        if let Some(token) = options.continue_token.as_deref().filter(|t| !t.is_empty()) {
            let at = Continue::decode(token, key_prefix)?;
            start = at.start;
            paging = true;
            version = if at.revision < 0 { ReadVersion::Consistent } else { ReadVersion::Exact(at.revision) };
        }
        if let ReadVersion::Exact(revision) = version {
            return match self.at(revision).await? {
                Some(view) => self.list_view(&view, &scope, &start, options.limit, true),
                None => self.list_etcd(revision, &scope, &start, options.limit, paging).await,
            };
        }
        if self.fresh(version).await? == Source::Etcd {
            return self.list_etcd(0, &scope, &start, options.limit, paging).await;
        }
        let view = match &scope.index {
            // An index answers complete lists; pages are cut from the whole.
            Some((index, value)) if options.limit == 0 => self.view(|c| c.by_index(*index, value)),
            _ => self.view(|c| c.objects().clone()),
        };
        let list = self.list_view(&view, &scope, &start, options.limit, false)?;
        if list.next.is_some() {
            self.cache.write().keep_page(view.revision, view.objects);
        }
        Ok(list)
    }

    fn view(&self, take: impl FnOnce(&super::cache::Cache) -> SortedMap) -> Snapshot {
        let applied = self.cluster.progress.applied();
        let cache = self.cache.read();
        Snapshot { revision: applied.max(cache.last), objects: take(&cache) }
    }

    /// The state at exactly this revision, where memory has it. What etcd has forgotten is forgotten here, too: clients
    /// count on old lists coming to an end, and other servers could not go on with them.
    async fn at(&self, revision: i64) -> Result<Option<Snapshot>> {
        if revision < self.cluster.compacted.load(Ordering::Acquire) {
            return Ok(None);
        }
        self.touch();
        self.ready_within(PATIENCE).await?;
        let applied = self.cluster.progress.applied();
        if revision > applied {
            self.fresh(ReadVersion::NotOlderThan(revision)).await?;
        }
        let objects = self.cache.read().at(revision, self.cluster.progress.applied());
        Ok(objects.map(|objects| Snapshot { revision, objects }))
    }

    fn list_view(
        &self,
        view: &Snapshot,
        scope: &Scope,
        start: &str,
        limit: usize,
        exact: bool,
    ) -> Result<List> {
        let fields = &self.spec.indexed_fields;
        let mut list = List { revision: view.revision, ..List::default() };
        if limit == 0 && !exact {
            list.items.reserve(if scope.selective() { 0 } else { view.objects.len() });
        }
        for object in view.objects.from(start).take_while(|o| o.key.starts_with(&*scope.prefix)) {
            if !scope.selects(object, fields) {
                continue;
            }
            if limit > 0 && list.items.len() == limit {
                let from = format!("{}\0", list.items[limit - 1].key);
                if !scope.selective() {
                    let rest = view.objects.count(&from, &prefix_end(&scope.prefix));
                    list.remaining = i64::try_from(rest).ok();
                }
                list.next = Some(Continue { revision: view.revision, start: from }.encode(&scope.prefix));
                break;
            }
            list.items.push(intact(object.clone())?);
        }
        Ok(list)
    }

    /// Lists from etcd at a revision (0: now).
    async fn list_etcd(
        &self,
        revision: i64,
        scope: &Scope,
        start: &str,
        limit: usize,
        paging: bool,
    ) -> Result<List> {
        let expired = |fault: Fault| match fault {
            Fault::Compacted if paging => Error::Expired {
                message: INCONSISTENT.to_owned(),
                next: Some(Continue { revision: -1, start: start.to_owned() }.encode(&scope.prefix)),
            },
            Fault::Future => Error::ResourceVersionTooLarge {
                requested: revision,
                current: self.cluster.progress.applied(),
            },
            fault => fault.into(),
        };
        let fields = &self.spec.indexed_fields;
        let end = prefix_end(&scope.prefix);
        let (mut from, mut list) = (start.to_owned(), List { revision, ..List::default() });
        loop {
            let chunk = if limit > 0 && !scope.selective() { limit - list.items.len() } else { CHUNK };
            let options = GetOptions::new()
                .with_range(end.as_str())
                .with_limit(i64::try_from(chunk).unwrap_or(i64::MAX))
                .with_revision(list.revision);
            let asked = self.asking("list", self.cluster.etcd.get(&from, Some(options))).await;
            let mut answer = asked.map_err(expired)?;
            if list.revision == 0 {
                list.revision = answer.header().map_or(0, |h| h.revision());
            }
            let (mut more, count, page) = (answer.more(), answer.count(), answer.take_kvs());
            let returned = page.len();
            for (i, kv) in page.iter().enumerate() {
                let Ok(key) = kv.key_str() else { continue };
                from = format!("{key}\0");
                let object = intact(self.decoded(key, kv).await)?;
                if scope.selects(&object, fields) {
                    list.items.push(object);
                }
                if limit > 0 && list.items.len() == limit {
                    more |= i + 1 < returned;
                    break;
                }
            }
            let full = limit > 0 && list.items.len() >= limit;
            if more && full {
                if !scope.selective() {
                    list.remaining = Some(count - i64::try_from(returned).unwrap_or(0));
                }
                list.next =
                    Some(Continue { revision: list.revision, start: from.clone() }.encode(&scope.prefix));
            }
            if !more || full || returned == 0 {
                return Ok(list);
            }
        }
    }

    /// Waits until memory is as fresh as the version wants it.
    pub(super) async fn fresh(&self, version: ReadVersion) -> Result<Source> {
        let progress = &self.cluster.progress;
        self.touch();
        match version {
            ReadVersion::Any => {}
            ReadVersion::Consistent => {
                let revision = self.cluster.current_revision().await?;
                if !progress.reached(revision, PATIENCE).await {
                    self.cluster.report_stuck();
                    return Ok(Source::Etcd);
                }
            }
            ReadVersion::NotOlderThan(revision) | ReadVersion::Exact(revision) => {
                self.ready_within(PATIENCE).await?;
                if revision > self.cache.read().last && !progress.reached(revision, PATIENCE).await {
                    let current = progress.applied();
                    return Err(Error::ResourceVersionTooLarge { requested: revision, current });
                }
            }
        }
        self.ready_within(PATIENCE).await?;
        // Again: it must not go to rest before what has been waited for is read.
        self.touch();
        Ok(Source::Memory)
    }
}

/// Refuses an object whose bytes could not be decrypted.
pub(super) fn intact(object: Arc<Object>) -> Result<Arc<Object>> {
    match &object.corrupt {
        None => Ok(object),
        Some(why) => Err(Error::Corrupt { key: object.key.to_string(), message: why.message.to_string() }),
    }
}
