//! The store: the etcd clusters and the resources that live on them.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cluster::Cluster;
use crate::object::JsonBudget;
use crate::resource::rest;
use crate::{Config, Encryption, Error, Resource, Result, Spec};

/// Everything the apiserver keeps.
pub struct Store {
    main: Arc<Cluster>,
    /// Resource prefixes that live elsewhere.
    others: Vec<(String, Arc<Cluster>)>,
    encryption: Option<Arc<Encryption>>,
    cancel: CancellationToken,
    tasks: TaskTracker,
}

impl Store {
    /// Connects. Succeeds also while etcd is away (then nothing is ready yet); fails on a bad
    /// configuration (unreadable certificate, malformed URL).
    pub async fn open(config: Config) -> Result<Arc<Store>> {
        let (cancel, tasks) = (CancellationToken::new(), TaskTracker::new());
        let config = Arc::new(config);
        let budget = Arc::new(JsonBudget::new(config.json_budget));
        let open = |endpoints: Vec<String>| {
            let (config, budget) = (config.clone(), Arc::clone(&budget));
            let (cancel, tasks) = (cancel.clone(), tasks.clone());
            async move { Cluster::open(&endpoints, config, budget, cancel, tasks).await }
        };
        let main = open(config.endpoints.clone()).await?;
        let mut others = Vec::new();
        for o in &config.overrides {
            others.push((o.prefix.clone(), open(o.endpoints.clone()).await?));
        }
        let encryption = match &config.encryption {
            None => None,
            Some(f) => Some(
                Encryption::open(&f.path, f.reload, &f.server, &cancel, &tasks)
                    .await
                    .map_err(Error::Internal)?,
            ),
        };
        let clusters = std::iter::once(&main).chain(others.iter().map(|(_, c)| c)).cloned().collect();
        tasks.spawn(make_room(clusters, budget, cancel.clone()));
        let store = Arc::new(Store { main, others, encryption, cancel, tasks });
        crate::metrics::tell(Arc::downgrade(&store));
        Ok(store)
    }

    /// The resource of that prefix, registered and loading from now on if it is new. A second call
    /// with the same prefix answers the first one's resource.
    pub fn resource(&self, mut spec: Spec) -> Arc<Resource> {
        if let (Some(encryption), Some((resource, group))) = (&self.encryption, &spec.name) {
            spec.transformer = encryption.transformer(resource, group);
        }
        let cluster = self.cluster(&spec.prefix);
        cluster.route(&spec.prefix, || Resource::new(spec.clone(), cluster.clone()))
    }

    /// The encryption configuration in force, if there is one.
    pub fn encryption(&self) -> Option<&Arc<Encryption>> {
        self.encryption.as_ref()
    }

    /// Forgets a resource (a CRD went away): its watchers end, its memory is freed. Nothing is
    /// deleted in etcd.
    pub fn remove(&self, prefix: &str) {
        if let Some(resource) = self.cluster(prefix).unroute(prefix) {
            resource.close();
        }
    }

    /// Whether every registered resource has been loaded.
    pub fn ready(&self) -> bool {
        self.clusters().all(|c| c.resources().iter().all(|r| r.ready() || r.resting()))
    }

    /// Waits until every resource that is registered now has been loaded.
    pub async fn wait_ready(&self) {
        let all = rest::awake(self.clusters().flat_map(|c| c.resources()).collect());
        for resource in all {
            resource.wait_ready().await;
        }
    }

    /// How many etcd clusters there are: the main one and those of overrides.
    pub fn etcd_clusters(&self) -> usize {
        1 + self.others.len()
    }

    /// Asks an etcd cluster (0: the main one) whether it answers (`/healthz/etcd`).
    pub async fn healthy(&self, index: usize) -> Result<()> {
        self.answers_within(index, self.main.config.health_timeout).await
    }

    /// The same for `/readyz/etcd-readiness`.
    pub async fn etcd_ready(&self, index: usize) -> Result<()> {
        self.answers_within(index, self.main.config.ready_timeout).await
    }

    async fn answers_within(&self, index: usize, limit: Duration) -> Result<()> {
        let Some(cluster) = self.clusters().nth(index) else { return Ok(()) };
        let answer = tokio::time::timeout(limit, cluster.current_revision()).await;
        answer.unwrap_or_else(|_| Err(Error::Timeout("etcd failed: timeout".to_owned()))).map(drop)
    }

    /// etcd's current revision, asked now (shared with whoever asks at the same time).
    pub async fn current_revision(&self) -> Result<i64> {
        self.main.current_revision().await
    }

    /// The revision up to which memory is complete.
    pub fn applied_revision(&self) -> i64 {
        self.main.progress.applied()
    }

    /// Ends all tasks and watchers.
    pub async fn shutdown(&self) {
        self.cancel.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    fn cluster(&self, prefix: &str) -> &Arc<Cluster> {
        self.others.iter().find(|(p, _)| p == prefix).map_or(&self.main, |(_, c)| c)
    }

    pub(crate) fn clusters(&self) -> impl Iterator<Item = &Arc<Cluster>> {
        std::iter::once(&self.main).chain(self.others.iter().map(|(_, c)| c))
    }
}

/// JSON that nobody has asked for within one to two of these is dropped.
const IDLE: Duration = Duration::from_secs(20);

/// Drops lazily made JSON whenever there is too much of it, and what is not used any more.
async fn make_room(clusters: Vec<Arc<Cluster>>, budget: Arc<JsonBudget>, cancel: CancellationToken) {
    let mut look = tokio::time::interval(IDLE);
    loop {
        let idle = tokio::select! {
            () = cancel.cancelled() => return,
            () = budget.over.notified() => false,
            _ = look.tick() => true,
        };
        if idle && !budget.in_use() {
            continue;
        }
        for resource in clusters.iter().flat_map(|c| c.resources()) {
            if idle {
                resource.drop_idle_json()
            } else {
                resource.drop_json()
            }
            tokio::task::yield_now().await;
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}
