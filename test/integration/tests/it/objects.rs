//! What clients do with objects.

use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt};
use integration::{LIMIT, Server};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use serde_json::{Value, json};

fn config_map(name: &str, value: &str) -> Result<ConfigMap> {
    Ok(serde_json::from_value(
        json!({"metadata": {"name": name, "labels": {"app": "a"}}, "data": {"k": value}}),
    )?)
}

#[tokio::test]
async fn a_life_as_watchers_see_it() -> Result<()> {
    let server = Server::start().await?;
    let api: Api<ConfigMap> = Api::default_namespaced(server.admin()?);
    let start = api.list(&ListParams::default()).await?.metadata.resource_version.context("a version")?;
    let made = api.create(&PostParams::default(), &config_map("one", "1")?).await?;
    let again = api.create(&PostParams::default(), &config_map("one", "1")?).await;
    assert!(matches!(again, Err(kube::Error::Api(s)) if s.reason == "AlreadyExists"));
    let mut stale = made.clone();
    let merge = Patch::Merge(json!({"data": {"k": "2"}}));
    let patched = api.patch("one", &PatchParams::default(), &merge).await?;
    assert_ne!(made.metadata.resource_version, patched.metadata.resource_version);
    stale.data = None;
    let lost = api.replace("one", &PostParams::default(), &stale).await;
    assert!(matches!(lost, Err(kube::Error::Api(s)) if s.reason == "Conflict"));
    api.delete("one", &DeleteParams::default()).await?;
    let events = api.watch(&WatchParams::default().labels("app=a"), &start).await?.take(3);
    let events: Vec<_> = tokio::time::timeout(LIMIT, events.try_collect()).await??;
    let kinds: Vec<&str> = events
        .iter()
        .map(|e| match e {
            WatchEvent::Added(_) => "added",
            WatchEvent::Modified(_) => "modified",
            WatchEvent::Deleted(_) => "deleted",
            _ => "other",
        })
        .collect();
    assert_eq!(kinds, ["added", "modified", "deleted"]);
    Ok(())
}

#[tokio::test]
async fn two_appliers_own_what_they_apply() -> Result<()> {
    let server = Server::start().await?;
    let api: Api<Deployment> = Api::default_namespaced(server.admin()?);
    let wanted = |replicas: Value| {
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": {
            "replicas": replicas, "selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "b"}},
                "spec": {"containers": [{"name": "c", "image": "i"}]}}}})
    };
    api.patch("d", &PatchParams::apply("one"), &Patch::Apply(wanted(json!(1)))).await?;
    let refused = api.patch("d", &PatchParams::apply("two"), &Patch::Apply(wanted(json!(2)))).await;
    let Err(kube::Error::Api(status)) = refused else { anyhow::bail!("no conflict: {refused:?}") };
    assert_eq!(status.reason, "Conflict");
    assert!(status.message.contains(".spec.replicas"), "{}", status.message);
    let forced = api.patch("d", &PatchParams::apply("two").force(), &Patch::Apply(wanted(json!(2)))).await?;
    assert_eq!(forced.spec.as_ref().and_then(|s| s.replicas), Some(2));
    assert_eq!(forced.spec.and_then(|s| s.revision_history_limit), Some(10), "defaults are filled");
    Ok(())
}

#[tokio::test]
async fn lists_come_in_pages_and_tables() -> Result<()> {
    let server = Server::start().await?;
    let api: Api<ConfigMap> = Api::default_namespaced(server.admin()?);
    for i in 0..5 {
        api.create(&PostParams::default(), &config_map(&format!("c{i}"), "x")?).await?;
    }
    let first = api.list(&ListParams::default().labels("app=a").limit(2)).await?;
    assert_eq!(first.items.len(), 2);
    let token = first.metadata.continue_.context("more to come")?;
    let rest = api.list(&ListParams::default().labels("app=a").limit(10).continue_token(&token)).await?;
    assert_eq!(rest.items.len(), 3);
    let request = http::Request::get("/api/v1/namespaces/default/configmaps")
        .header("accept", "application/json;as=Table;v=v1;g=meta.k8s.io");
    let table: Value = server.admin()?.request(request.body(Vec::new())?).await?;
    assert_eq!(table["kind"], "Table");
    assert_eq!(table["columnDefinitions"][1]["name"], "Data");
    Ok(())
}

#[tokio::test]
async fn pages_of_a_compacted_list_go_on_without_it() -> Result<()> {
    let server = Server::start_with(&["--etcd-compaction-interval=1s"]).await?;
    let path = "/api/v1/namespaces/default/podtemplates";
    for i in 0..4 {
        let template = json!({"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": format!("t{i}")},
            "template": {"spec": {"containers": [{"name": "c", "image": "i"}]}}});
        assert_eq!(server.send("POST", path, &template).await?.status, 201);
    }
    let first = server.get(&format!("{path}?limit=1")).await?.body;
    let token = first["metadata"]["continue"].as_str().unwrap_or_default().to_owned();
    let mut next = String::new();
    crate::http::until("the list is too old", async || {
        let said = server.get(&format!("{path}?limit=1&continue={token}")).await?;
        next = said.body["metadata"]["continue"].as_str().unwrap_or_default().to_owned();
        Ok(said.status == 410)
    })
    .await?;
    let rest = server.get(&format!("{path}?limit=1&continue={next}")).await?.body;
    assert_eq!(rest["items"][0]["metadata"]["name"], "t1");
    assert_eq!(rest["metadata"]["remainingItemCount"], 2);
    assert_ne!(rest["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    Ok(())
}
