//! Aggregated APIs: a group that another server answers for is a part of this one.

use crate::http::until;
use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use integration::extension::{Extension, GROUP};
use integration::{ADMIN, NOBODY, Server};
use serde_json::{Value, json};

const SERVICES: &str = "/apis/apiregistration.k8s.io/v1/apiservices";

fn front_proxy(dir: &std::path::Path) -> Result<(pki::Ca, Vec<String>)> {
    let ca = pki::Ca::new("front-proxy")?;
    let cert = ca.issue(pki::Request { cn: "front".into(), client: true, ..Default::default() })?;
    std::fs::write(dir.join("front.crt"), cert.cert_pem)?;
    std::fs::write(dir.join("front.key"), cert.key_pem)?;
    let flag = |name: &str, file: &str| format!("--{name}={}", dir.join(file).display());
    let flags = vec![flag("proxy-client-cert-file", "front.crt"), flag("proxy-client-key-file", "front.key")];
    Ok((ca, flags))
}

/// A Service that leads to this machine, and an APIService that says so.
async fn register(server: &Server, extension: &Extension) -> Result<()> {
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "cats"},
        "spec": {"type": "ExternalName", "externalName": "localhost"}});
    let made = server.send("POST", "/api/v1/namespaces/default/services", &service).await?;
    assert_eq!(made.status, 201, "{}", made.text);
    let object = json!({"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
        "metadata": {"name": format!("v1.{GROUP}")},
        "spec": {"group": GROUP, "version": "v1", "groupPriorityMinimum": 2000, "versionPriority": 10,
            "caBundle": STANDARD.encode(&extension.authority),
            "service": {"namespace": "default", "name": "cats", "port": extension.port}}});
    let made = server.send("POST", SERVICES, &object).await?;
    assert_eq!(made.status, 201, "{}", made.text);
    Ok(())
}

async fn available(server: &Server) -> Result<Value> {
    let object = server.get(&format!("{SERVICES}/v1.{GROUP}")).await?.body;
    Ok(object["status"]["conditions"][0].clone())
}

#[tokio::test]
async fn another_servers_group_is_a_part_of_this_api() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (clients, flags) = front_proxy(dir.path())?;
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let server = Server::start_with(&flags).await?;
    let extension = Extension::start("cats.default.svc", clients.cert_pem()).await?;
    let list = format!("/apis/{GROUP}/v1/namespaces/default/cats");
    assert_eq!(server.get(&list).await?.status, 404);
    register(&server, &extension).await?;
    until("it is available", async || Ok(available(&server).await?["status"] == "True")).await?;
    assert_eq!(available(&server).await?["message"], "all checks passed");
    until("requests pass", async || Ok(server.get(&list).await?.status == 200)).await?;
    in_the_users_name(&server, &extension, &list).await?;
    documents(&server).await?;
    tunnels(&server, &list).await?;
    let moved = server.get(&format!("{list}/moved")).await?;
    assert_eq!(moved.status, 502, "{}", moved.text);
    let forbidden = server.request(Some(NOBODY), Method::GET, &list, "", Vec::new()).await?;
    assert_eq!(forbidden.reason(), "Forbidden");
    drop(extension);
    // Any change of the Service is a reason to look again.
    let label = json!({"metadata": {"labels": {"touched": "true"}}});
    server.send("PATCH", "/api/v1/namespaces/default/services/cats", &label).await?;
    until("it is seen to be gone", async || Ok(available(&server).await?["status"] == "False")).await?;
    assert_eq!(available(&server).await?["reason"], "FailedDiscoveryCheck");
    until("503", async || Ok(server.get(&list).await?.text == "service unavailable\n")).await?;
    assert_eq!(server.get(&list).await?.status, 503);
    assert_eq!(server.send("DELETE", &format!("{SERVICES}/v1.{GROUP}"), &Value::Null).await?.status, 200);
    until("404", async || Ok(server.get(&list).await?.status == 404)).await?;
    until("discovery forgets it", async || Ok(!server.get("/apis").await?.text.contains(GROUP))).await
}

async fn in_the_users_name(server: &Server, extension: &Extension, list: &str) -> Result<()> {
    let headers = "Content-Type: application/json\r\nX-Remote-User: forged\r\nX-Remote-Extra-A: forged\r\nAudit-ID: 42\r\n";
    let said =
        server.raw().await?.ask(&format!("POST {list}?dryRun=All"), ADMIN, headers, b"{\"a\": 1}").await?;
    assert_eq!((said.status, said.json()["body"].as_str()), (200, Some("{\"a\": 1}")), "{}", said.head);
    assert!(said.head.contains("audit-id: 42\r\n"), "{}", said.head);
    let head = extension.asked(&format!("{list}?dryrun=all"))?;
    for line in [
        "x-remote-user: admin\r\n",
        "x-remote-uid: 1\r\n",
        "x-remote-group: system:masters\r\n",
        "x-remote-group: system:authenticated\r\n",
        "audit-id: 42\r\n",
        "x-forwarded-for: 127.0.0.1\r\n",
    ] {
        assert!(head.contains(line), "{line} is missing in {head}");
    }
    for text in ["forged", "authorization"] {
        assert!(!head.contains(text), "{text} is in {head}");
    }
    let check = extension.asked(&format!("/apis/{GROUP}/v1"))?;
    assert!(check.contains("x-remote-user: system:kube-aggregator\r\n"), "{check}");
    Ok(())
}

async fn documents(server: &Server) -> Result<()> {
    until("discovery has it", async || {
        let headers = "Accept: application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList\r\n";
        let said = server.raw().await?.ask("GET /apis", ADMIN, headers, b"").await?.json();
        let group = said["items"].as_array().and_then(|i| i.iter().find(|g| g["metadata"]["name"] == GROUP));
        let Some(version) = group.map(|g| &g["versions"][0]) else { return Ok(false) };
        Ok(version["freshness"] == "Current" && version["resources"][0]["resource"] == "cats")
    })
    .await?;
    let groups = server.get("/apis").await?.body;
    let names: Vec<&str> =
        groups["groups"].as_array().into_iter().flatten().filter_map(|g| g["name"].as_str()).collect();
    assert_eq!(names.last(), Some(&GROUP), "the lowest priority comes last");
    let group = server.get(&format!("/apis/{GROUP}")).await?.body;
    assert_eq!(group["preferredVersion"]["groupVersion"], format!("{GROUP}/v1"));
    let resources = server.get(&format!("/apis/{GROUP}/v1")).await?.body;
    assert_eq!(resources["resources"][0]["kind"], "Cat");
    until("OpenAPI v2 has it", async || {
        let v2 = server.get("/openapi/v2").await?.body;
        Ok(v2["paths"].get(format!("/apis/{GROUP}/v1/cats")).is_some()
            && v2["definitions"].get("Cat").is_some()
            && v2["definitions"].get("Dog").is_none())
    })
    .await?;
    let root = server.get("/openapi/v3").await?.body;
    let url = root["paths"][format!("apis/{GROUP}/v1")]["serverRelativeURL"].as_str().context("in v3")?;
    assert_eq!(server.get(url).await?.body["kind"], "Echo");
    Ok(())
}

async fn tunnels(server: &Server, list: &str) -> Result<()> {
    let mut raw = server.raw().await?;
    let headers = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n";
    raw.send(
        format!("GET {list}/tom/talk HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ADMIN}\r\n{headers}\r\n")
            .as_bytes(),
    )
    .await?;
    let said = raw.answer().await?;
    assert_eq!(said.status, 101, "{}", said.head);
    raw.send(b"meow").await?;
    assert_eq!(raw.read().await?, b"meow");
    Ok(())
}

#[tokio::test]
async fn the_servers_own_groups_have_local_services() -> Result<()> {
    let server = Server::start().await?;
    let label = "kube-aggregator.kubernetes.io/automanaged";
    let core = server.get(&format!("{SERVICES}/v1.")).await?.body;
    assert_eq!(core["metadata"]["labels"][label], "onstart");
    assert_eq!(core["status"]["conditions"][0]["reason"], "Local");
    assert!(core["spec"].get("service").is_none() && core["spec"]["groupPriorityMinimum"] == 18000);
    let crd = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "dogs.example.org"}, "spec": {"group": "example.org", "scope": "Namespaced",
        "names": {"plural": "dogs", "kind": "Dog"}, "versions": [{"name": "v1", "served": true, "storage": true,
        "schema": {"openAPIV3Schema": {"type": "object"}}}]}});
    let crds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    assert_eq!(server.send("POST", crds, &crd).await?.status, 201);
    let own = format!("{SERVICES}/v1.example.org");
    until("the definition has one", async || {
        Ok(server.get(&own).await?.body["metadata"]["labels"][label] == "true")
    })
    .await?;
    server.send("DELETE", &own, &Value::Null).await?;
    until("it comes back", async || Ok(server.get(&own).await?.status == 200)).await?;
    server.send("DELETE", &format!("{crds}/dogs.example.org"), &Value::Null).await?;
    until("it goes with the definition", async || Ok(server.get(&own).await?.status == 404)).await
}
