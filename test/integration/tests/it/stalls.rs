//! Clients that begin something and do not go on: nobody else has to wait for them.

use anyhow::Result;
use futures::{StreamExt, TryStreamExt};
use http::Method;
use integration::{ADMIN, LIMIT, Server};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, WatchEvent, WatchParams};
use serde_json::json;

const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
const STALLED: usize = 40;

#[tokio::test]
async fn half_a_request_holds_up_nobody() -> Result<()> {
    let server = Server::start().await?;
    let auth = format!("Authorization: Bearer {ADMIN}\r\n");
    let starts = [
        "GET /api/v1/po".to_owned(),
        format!("GET /api/v1/pods HTTP/1.1\r\nHost: x\r\n{auth}"),
        format!(
            "POST {CONFIG_MAPS} HTTP/1.1\r\nHost: x\r\n{auth}Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n{{\"metadata\""
        ),
        format!("POST {CONFIG_MAPS} HTTP/1.1\r\nHost: x\r\n{auth}Transfer-Encoding: chunked\r\n\r\n10\r\n{{"),
    ];
    let mut stalled = Vec::new();
    for i in 0..STALLED {
        let mut raw = server.raw().await?;
        raw.send(starts[i % starts.len()].as_bytes()).await?;
        stalled.push(raw);
    }
    for _ in 0..20 {
        let answer = tokio::time::timeout(LIMIT, server.get(CONFIG_MAPS)).await??;
        assert_eq!(answer.status, 200);
    }
    Ok(())
}

/// A watch whose reader sleeps is the reader's own loss: writers and other watchers go on.
#[tokio::test]
async fn a_watcher_that_does_not_read_holds_up_nobody() -> Result<()> {
    let server = Server::start().await?;
    let mut sleeper = server.raw().await?;
    sleeper
        .send(
            format!("GET {CONFIG_MAPS}?watch=1 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ADMIN}\r\n\r\n")
                .as_bytes(),
        )
        .await?;
    let api: Api<ConfigMap> = Api::default_namespaced(server.admin()?);
    let awake = api.watch(&WatchParams::default().labels("app=a"), "0").await?;
    let count = 60;
    for i in 0..count {
        let object = json!({"metadata": {"name": format!("c{i}"), "labels": {"app": "a"}},
            "data": {"k": "x".repeat(200_000)}});
        let made = server.request(
            Some(ADMIN),
            Method::POST,
            CONFIG_MAPS,
            "application/json",
            object.to_string().into_bytes(),
        );
        assert_eq!(tokio::time::timeout(LIMIT, made).await??.status, 201);
    }
    let events: Vec<WatchEvent<ConfigMap>> =
        tokio::time::timeout(LIMIT, awake.take(count).try_collect()).await??;
    assert!(events.iter().all(|e| matches!(e, WatchEvent::Added(_))));
    Ok(())
}
