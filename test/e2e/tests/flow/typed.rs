//! The same cluster through kube-rs: typed objects, a watch, optimistic concurrency.

use crate::common::NAMESPACE;
use anyhow::{Context, Result, ensure};
use e2e::Bed;
use futures::TryStreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, DeleteParams, ListParams, PostParams, WatchEvent, WatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use std::time::Duration;

pub fn kube_rs(bed: &Bed) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let all =
        async { tokio::time::timeout(Duration::from_secs(60), flow(bed)).await.context("not done in time")? };
    runtime.block_on(all)
}

async fn flow(bed: &Bed) -> Result<()> {
    let file = Kubeconfig::read_from(bed.kubeconfig())?;
    let config = kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
    let maps: Api<ConfigMap> = Api::namespaced(kube::Client::try_from(config)?, NAMESPACE);
    let revision = maps.list(&ListParams::default().limit(1)).await?.metadata.resource_version;
    let watch = WatchParams::default().fields("metadata.name=typed");
    let mut events = Box::pin(maps.watch(&watch, &revision.context("a list has a revision")?).await?);

    let mut map = ConfigMap::default();
    map.metadata.name = Some("typed".into());
    let first = maps.create(&PostParams::default(), &map).await?;
    let mut changed = first.clone();
    changed.data = Some([("a".to_owned(), "1".to_owned())].into());
    maps.replace("typed", &PostParams::default(), &changed).await?;
    let stale = maps.replace("typed", &PostParams::default(), &first).await;
    ensure!(
        matches!(&stale, Err(kube::Error::Api(e)) if e.code == 409),
        "a stale write conflicts: {stale:?}"
    );
    maps.delete("typed", &DeleteParams::default()).await?;

    let mut seen = Vec::new();
    while seen.len() < 3 {
        match events.try_next().await?.context("the watch ended")? {
            WatchEvent::Added(_) => seen.push("added"),
            WatchEvent::Modified(_) => seen.push("modified"),
            WatchEvent::Deleted(_) => seen.push("deleted"),
            _ => {}
        }
    }
    ensure!(seen == ["added", "modified", "deleted"], "{seen:?}");
    Ok(())
}
