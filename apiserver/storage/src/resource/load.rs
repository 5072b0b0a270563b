//! Loading a resource: pages of etcd's range read at one revision, joined with the stream.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::GetOptions;

use crate::etcd::Fault;
use crate::sorted::prefix_end;
use crate::{Error, Object};

use super::Resource;

/// A page should weigh about this, whatever the size of the objects.
const PAGE_BYTES: usize = 1 << 20;
const FIRST_PAGE: i64 = 200;

impl Resource {
    /// From now on events are buffered, until a task has loaded the state they belong to.
    pub(crate) fn begin_load(self: &Arc<Self>) {
        let generation = self.cache.write().begin();
        self.ready.send_replace(false);
        self.fanout.lock().close_all(Some(Error::Expired {
            message: "The resourceVersion for the provided watch is too old.".to_owned(),
            next: None,
        }));
        let resource = self.clone();
        self.cluster.tasks.spawn(async move {
            tokio::select! {
                () = resource.closed.cancelled() => {}
                () = resource.load(generation) => {}
            }
        });
    }

    async fn load(&self, generation: u64) {
        let mut pause = Duration::from_millis(20);
        loop {
            match self.read_all().await {
                Ok((revision, objects)) => {
                    self.install(generation, revision, objects);
                    return;
                }
                Err(fault) => {
                    let error = Error::from(fault);
                    tracing::debug!(prefix = self.prefix(), %error, "Loading failed, trying again");
                }
            }
            tokio::time::sleep(pause.mul_f64(0.5 + rand::random::<f64>())).await;
            pause = (pause * 2).min(Duration::from_secs(1));
        }
    }

    fn install(&self, generation: u64, revision: i64, objects: Vec<Arc<Object>>) {
        let (installed, last) = {
            let mut cache = self.cache.write();
            let fields = &self.spec.indexed_fields;
            let installed = cache.install(generation, revision, objects, fields, &self.cluster.config);
            (installed, cache.last)
        };
        // A newer load has begun otherwise, and will say so itself.
        if installed && !self.closed.is_cancelled() {
            self.changed.send_replace(last);
            self.ready.send_replace(true);
        }
    }

    /// All objects at one revision, which is not older than this call.
    async fn read_all(&self) -> Result<(i64, Vec<Arc<Object>>), Fault> {
        let _turn = self.cluster.loads.acquire().await;
        let end = prefix_end(self.prefix());
        let mut objects: Vec<Arc<Object>> = Vec::new();
        let (mut start, mut revision, mut limit) = (self.prefix().to_owned(), 0, FIRST_PAGE);
        loop {
            let options =
                GetOptions::new().with_range(end.as_str()).with_limit(limit).with_revision(revision);
            let mut answer = self.asking("list", self.cluster.etcd.get(&start, Some(options))).await?;
            if revision == 0 {
                revision = answer.header().map_or(0, |h| h.revision());
                objects.reserve_exact(usize::try_from(answer.count()).unwrap_or(0));
            }
            let more = answer.more();
            let page = answer.take_kvs();
            let bytes: usize = page.iter().map(|kv| kv.value().len() + 64).sum();
            let average = bytes / page.len().max(1) + 1;
            limit = i64::try_from(PAGE_BYTES / average).unwrap_or(FIRST_PAGE).clamp(20, 5000);
            for kv in page {
                let Ok(key) = kv.key_str() else { continue };
                objects.push(self.decoded(key, &kv).await);
            }
            match objects.last() {
                Some(last) if more => start = format!("{}\0", last.key),
                _ => return Ok((revision, objects)),
            }
        }
    }
}
