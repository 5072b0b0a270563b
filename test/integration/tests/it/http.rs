//! The server as a server: limits, WebSockets, and its way out.

use anyhow::{Context, Result};
use futures::StreamExt;
use http::Method;
use integration::{ADMIN, LIMIT, NOBODY, Raw, Server};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, WatchParams};
use serde_json::json;
use std::time::{Duration, Instant};

const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
const JSON: &str = "application/json";

async fn create(server: &Server, name: &str) -> Result<()> {
    let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}});
    let made =
        server.request(Some(ADMIN), Method::POST, CONFIG_MAPS, JSON, body.to_string().into_bytes()).await?;
    assert_eq!(made.status, 201, "{}", made.text);
    Ok(())
}

/// Tries until it holds, for as long as anything may take.
pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + LIMIT;
    while !holds().await? {
        assert!(Instant::now() < end, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

#[tokio::test]
async fn as_many_writes_at_once_as_the_flag_says() -> Result<()> {
    let server =
        Server::start_with(&["--max-mutating-requests-inflight=1", "--enable-priority-and-fairness=false"])
            .await?;
    // The limit is not for the admin.
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": {"name": "nobody"}, "subjects": [{"kind": "User", "name": "nobody", "apiGroup": "rbac.authorization.k8s.io"}],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"}});
    let path = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
    server.request(Some(ADMIN), Method::POST, path, JSON, binding.to_string().into_bytes()).await?;
    let line = format!("POST {CONFIG_MAPS}");
    let body = json!({"metadata": {"name": "a"}}).to_string();
    let mut slow = server.raw().await?;
    slow.send(format!("{line} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {NOBODY}\r\nContent-Type: {JSON}\r\nContent-Length: {}\r\n\r\n", body.len()).as_bytes()).await?;
    let media = format!("Content-Type: {JSON}\r\n");
    let other = json!({"metadata": {"name": "b"}}).to_string();
    until("a refusal", async || {
        let said =
            server.raw().await?.ask(&format!("{line}?dryRun=All"), NOBODY, &media, other.as_bytes()).await?;
        if said.status == 429 {
            assert!(said.head.contains("retry-after: 1\r\n"), "{}", said.head);
            assert_eq!(said.text(), "Too many requests, please try again later.\n");
        }
        Ok(said.status == 429)
    })
    .await?;
    let read = server.request(Some(NOBODY), Method::GET, CONFIG_MAPS, "", Vec::new()).await?;
    assert_eq!(read.status, 200, "reads have a limit of their own");
    slow.send(body.as_bytes()).await?;
    assert_eq!(slow.answer().await?.status, 201);
    Ok(())
}

/// One message of a server: its kind and its content.
async fn message(raw: &mut Raw, rest: &mut Vec<u8>) -> Result<(u8, Vec<u8>)> {
    loop {
        if rest.len() >= 2 {
            let (start, len) = match rest[1] {
                126 if rest.len() >= 4 => (4, usize::from(u16::from_be_bytes([rest[2], rest[3]]))),
                n if n < 126 => (2, usize::from(n)),
                _ => (0, usize::MAX),
            };
            if start > 0 && rest.len() >= start + len {
                let tail = rest.split_off(start + len);
                let whole = std::mem::replace(rest, tail);
                return Ok((whole[0] & 15, whole[start..].to_vec()));
            }
        }
        let piece = raw.read().await?;
        anyhow::ensure!(!piece.is_empty(), "the connection ended");
        rest.extend(piece);
    }
}

#[tokio::test]
async fn watches_over_websockets() -> Result<()> {
    let server = Server::start().await?;
    create(&server, "a").await?;
    for (accept, kind) in [(JSON, 1), ("application/vnd.kubernetes.protobuf", 2)] {
        let mut raw = server.raw().await?;
        let headers = format!(
            "Accept: {accept}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nOrigin: https://localhost\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        );
        let said = raw
            .ask(&format!("GET {CONFIG_MAPS}?watch=1&fieldSelector=metadata.name%3Da"), ADMIN, &headers, &[])
            .await?;
        assert_eq!(said.status, 101, "{}", said.head);
        assert!(said.head.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="), "{}", said.head);
        let mut rest = said.body;
        let (found, content) = tokio::time::timeout(LIMIT, message(&mut raw, &mut rest)).await??;
        assert_eq!(found, kind, "{accept}");
        let text = String::from_utf8_lossy(&content).into_owned();
        assert!(text.contains("ADDED") && text.contains("ConfigMap"), "{text}");
        // A ping is answered, a close ends it.
        raw.send(&[0x89, 0x80, 0, 0, 0, 0]).await?;
        assert_eq!(tokio::time::timeout(LIMIT, message(&mut raw, &mut rest)).await??.0, 10);
        raw.send(&[0x88, 0x80, 0, 0, 0, 0]).await?;
    }
    Ok(())
}

#[tokio::test]
async fn it_says_that_it_leaves_before_it_does() -> Result<()> {
    let mut server = Server::start_with(&["--shutdown-delay-duration=3s"]).await?;
    let api: Api<ConfigMap> = Api::default_namespaced(server.admin()?);
    let mut watch = Box::pin(api.watch(&WatchParams::default(), "0").await?);
    server.signal_end()?;
    until("readyz fails", async || Ok(server.get("/readyz").await?.status == 500)).await?;
    assert_eq!(server.get("/livez").await?.status, 200);
    create(&server, "late").await?;
    // The watch is served to the end, and ends in order.
    let mut seen = Vec::new();
    while let Some(event) = tokio::time::timeout(LIMIT, watch.next()).await? {
        seen.push(event.context("the watch broke")?);
    }
    assert!(!seen.is_empty(), "events still arrive");
    assert_eq!(server.ended().await?, Some(0));
    Ok(())
}

#[tokio::test]
async fn requests_under_way_are_finished_and_new_ones_sent_elsewhere() -> Result<()> {
    let flags = ["--shutdown-send-retry-after=true", "--shutdown-watch-termination-grace-period=1s"];
    let mut server = Server::start_with(&flags).await?;
    let body = json!({"metadata": {"name": "slow"}}).to_string();
    let mut slow = server.raw().await?;
    slow.send(format!("POST {CONFIG_MAPS} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ADMIN}\r\nContent-Type: {JSON}\r\nContent-Length: {}\r\n\r\n", body.len()).as_bytes()).await?;
    // It has arrived once the next request on another connection is through.
    server.get("/livez").await?;
    server.signal_end()?;
    until("new requests are refused", async || {
        let said = server.raw().await?.ask("GET /api/v1/namespaces", ADMIN, "", &[]).await?;
        assert!(said.status != 429 || said.head.contains("retry-after: 5\r\n"), "{}", said.head);
        Ok(said.status == 429)
    })
    .await?;
    slow.send(body.as_bytes()).await?;
    assert_eq!(slow.answer().await?.status, 201);
    assert_eq!(server.ended().await?, Some(0));
    Ok(())
}

#[tokio::test]
async fn two_servers_share_a_port_if_they_are_told_to() -> Result<()> {
    let mut server = Server::start_with(&["--permit-port-sharing=true"]).await?;
    let second = server.another()?;
    server.ready().await?;
    drop(second);
    assert!(!server.has_ended());
    Ok(())
}
