//! What must hold when processes die.

use anyhow::Result;
use http::Method;
use integration::{LIMIT, Server};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, ListParams, PostParams};
use std::time::{Duration, Instant};

fn named(name: &str) -> ConfigMap {
    let mut object = ConfigMap::default();
    object.metadata.name = Some(name.to_owned());
    object
}

#[tokio::test]
async fn acknowledged_writes_survive_kill_9() -> Result<()> {
    let mut server = Server::start().await?;
    let api: Api<ConfigMap> = Api::namespaced(server.admin()?, "kube-public");
    for i in 0..50 {
        api.create(&PostParams::default(), &named(&format!("c{i}"))).await?;
    }
    server.kill_apiserver();
    server.start_apiserver()?;
    server.ready().await?;
    let api: Api<ConfigMap> = Api::namespaced(server.admin()?, "kube-public");
    let names: Vec<String> =
        api.list(&ListParams::default()).await?.items.into_iter().filter_map(|c| c.metadata.name).collect();
    assert!((0..50).all(|i| names.contains(&format!("c{i}"))), "{names:?}");
    Ok(())
}

#[tokio::test]
async fn without_etcd_requests_fail_clearly_and_recover_by_themselves() -> Result<()> {
    let mut server = Server::start().await?;
    server.kill_etcd();
    let body = br#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"}}"#.to_vec();
    let path = "/api/v1/namespaces/default/configmaps";
    let request = server.request(Some("admin-token"), Method::POST, path, "application/json", body);
    let answer = tokio::time::timeout(LIMIT, request).await??;
    assert!(answer.status >= 500, "{}: {}", answer.status, answer.text);
    assert!(!server.has_ended());
    server.start_etcd()?;
    let end = Instant::now() + LIMIT;
    let api: Api<ConfigMap> = Api::default_namespaced(server.admin()?);
    while let Err(error) = api.create(&PostParams::default(), &named("b")).await {
        assert!(Instant::now() < end, "it does not recover: {error}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}

#[tokio::test]
async fn sigterm_is_a_clean_end() -> Result<()> {
    let mut server = Server::start().await?;
    assert_eq!(server.terminate().await?, Some(0));
    Ok(())
}
