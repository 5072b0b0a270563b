//! The store: the etcd clusters and the resources that live on them.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cluster::Cluster;
use crate::object::JsonBudget;
use crate::{Config, Resource, Result, Spec};

/// Everything the apiserver keeps.
pub struct Store {
    main: Arc<Cluster>,
    /// Resource prefixes that live elsewhere.
    others: Vec<(String, Arc<Cluster>)>,
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
        let clusters = std::iter::once(&main).chain(others.iter().map(|(_, c)| c)).cloned().collect();
        tasks.spawn(make_room(clusters, budget, cancel.clone()));
        Ok(Arc::new(Store { main, others, cancel, tasks }))
    }

    /// The resource of that prefix, registered and loading from now on if it is new. A second call
    /// with the same prefix answers the first one's resource.
    pub fn resource(&self, spec: Spec) -> Arc<Resource> {
        let cluster = self.cluster(&spec.prefix);
        cluster.route(&spec.prefix, || Resource::new(spec.clone(), cluster.clone()))
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
        self.clusters().all(|c| c.resources().iter().all(|r| r.ready()))
    }

    /// Waits until every resource that is registered now has been loaded.
    pub async fn wait_ready(&self) {
        let all: Vec<_> = self.clusters().flat_map(|c| c.resources()).collect();
        for resource in all {
            resource.wait_ready().await;
        }
    }

    /// Asks etcd whether it answers (`/healthz/etcd`, `/readyz/etcd-readiness`).
    pub async fn healthy(&self) -> Result<()> {
        for cluster in self.clusters() {
            let answer = tokio::time::timeout(Duration::from_secs(2), cluster.current_revision()).await;
            answer.unwrap_or_else(|_| Err(crate::Error::Timeout("etcd failed: timeout".to_owned())))?;
        }
        Ok(())
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

    fn clusters(&self) -> impl Iterator<Item = &Arc<Cluster>> {
        std::iter::once(&self.main).chain(self.others.iter().map(|(_, c)| c))
    }
}

/// Drops lazily made JSON whenever there is too much of it.
async fn make_room(clusters: Vec<Arc<Cluster>>, budget: Arc<JsonBudget>, cancel: CancellationToken) {
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            () = budget.over.notified() => {}
        }
        for resource in clusters.iter().flat_map(|c| c.resources()) {
            resource.drop_json();
            tokio::task::yield_now().await;
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}
