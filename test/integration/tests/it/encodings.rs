//! Media types, what is switched on, and the documents that tell of it.

use anyhow::{Context, Result};
use http::Method;
use integration::{ADMIN, Server};
use serde_json::{Value, json};
use std::io::Read;

const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
const CBOR: &str = "application/cbor";

async fn ask(server: &Server, line: &str, headers: &str, body: &[u8]) -> Result<integration::Said> {
    server.raw().await?.ask(line, ADMIN, headers, body).await
}

fn object(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"k": "v"}})
}

#[tokio::test]
async fn cbor_is_spoken_where_its_gate_is_on() -> Result<()> {
    let server = Server::start_with(&["--feature-gates=CBORServingAndStorage=true"]).await?;
    let headers = format!("Content-Type: {CBOR}\r\nAccept: {CBOR}\r\n");
    let made =
        ask(&server, &format!("POST {CONFIG_MAPS}"), &headers, &api::cbor::encode(&object("a"))).await?;
    assert_eq!(made.status, 201, "{}", made.text());
    assert!(made.head.contains("content-type: application/cbor"), "{}", made.head);
    let made = api::cbor::parse(&made.body)?.value;
    assert_eq!((&made["kind"], &made["data"]["k"]), (&json!("ConfigMap"), &json!("v")));
    let secret =
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "data": {"k": "aGk="}});
    let made = ask(&server, "POST /api/v1/namespaces/default/secrets", &headers, &api::cbor::encode(&secret))
        .await?;
    assert_eq!(api::cbor::parse(&made.body)?.value["data"]["k"], "aGk=");
    let accept = format!("Accept: {CBOR}\r\n");
    let list = ask(&server, &format!("GET {CONFIG_MAPS}"), &accept, &[]).await?;
    assert_eq!(api::cbor::parse(&list.body)?.value["items"][0]["metadata"]["name"], "a");
    let missing = ask(&server, &format!("GET {CONFIG_MAPS}/b"), &accept, &[]).await?;
    assert_eq!(
        (missing.status, &api::cbor::parse(&missing.body)?.value["reason"]),
        (404, &json!("NotFound"))
    );
    let watch = format!("GET {CONFIG_MAPS}?watch=1&timeoutSeconds=1");
    let mut raw = server.raw().await?;
    let watched = raw.ask(&watch, ADMIN, &accept, &[]).await?;
    assert!(watched.head.contains("content-type: application/cbor-seq"), "{}", watched.head);
    let line = format!("PATCH {CONFIG_MAPS}/applied?fieldManager=t");
    let headers = "Content-Type: application/apply-patch+cbor\r\n";
    let applied = ask(&server, &line, headers, &api::cbor::encode(&object("applied"))).await?;
    assert_eq!((applied.status, &applied.json()["data"]["k"]), (201, &json!("v")));
    Ok(())
}

#[tokio::test]
async fn answers_come_as_they_were_asked_for() -> Result<()> {
    let server = Server::start().await?;
    let body = object("a").to_string().into_bytes();
    server.request(Some(ADMIN), Method::POST, CONFIG_MAPS, "application/json", body).await?;
    let one = format!("{CONFIG_MAPS}/a");
    let partial = "g=meta.k8s.io;v=v1;as=PartialObjectMetadata";
    let protobuf = "application/vnd.kubernetes.protobuf";
    // Path, Accept, status, content type, a piece of the body.
    for (path, accept, status, media, piece) in [
        (&*one, "*/*", 200, "application/json", "\"kind\":\"ConfigMap\""),
        (&one, "application/yaml", 200, "application/yaml", "kind: ConfigMap"),
        (&one, protobuf, 200, protobuf, "k8s\0"),
        (&one, &format!("{protobuf};as=Table;v=v1;g=meta.k8s.io"), 406, "application/json", "NotAcceptable"),
        (&one, "application/json;as=Table;v=v1;g=meta.k8s.io", 200, "application/json", "\"kind\":\"Table\""),
        (
            &one,
            &format!("application/json;{partial}"),
            200,
            "application/json",
            "\"kind\":\"PartialObjectMetadata\"",
        ),
        (&one, &format!("{protobuf};{partial}"), 200, protobuf, "PartialObjectMetadata"),
        (
            &one,
            &format!("application/json;{partial}List"),
            406,
            "application/json",
            "the requested object is not a list (*core.ConfigMap)",
        ),
        (
            CONFIG_MAPS,
            &format!("application/json;{partial}"),
            406,
            "application/json",
            "the requested object is a list (*core.ConfigMapList)",
        ),
        (
            CONFIG_MAPS,
            &format!("application/json;{partial}List"),
            200,
            "application/json",
            "\"items\":[{\"kind\":\"PartialObjectMetadata\"",
        ),
        (
            &one,
            "text/plain",
            406,
            "application/json",
            "406: Not Acceptable\\n\\nAvailable representations: application/json, application/yaml, application/vnd.kubernetes.protobuf",
        ),
        (&one, "application/*", 406, "application/json", "NotAcceptable"),
        (&one, CBOR, 406, "application/json", "NotAcceptable"),
        (&one, "application/json;q=0.1,application/yaml;q=0.5", 200, "application/yaml", "kind: ConfigMap"),
        (
            &format!("{one}?pretty=true"),
            "application/json",
            200,
            "application/json",
            "{\n  \"kind\": \"ConfigMap\",",
        ),
        (
            &format!("{CONFIG_MAPS}?watch=1&timeoutSeconds=1"),
            "application/yaml",
            406,
            "application/yaml",
            "application/json;stream=watch",
        ),
        ("/apis/apps", protobuf, 200, protobuf, "apps/v1"),
    ] {
        let said = ask(&server, &format!("GET {path}"), &format!("Accept: {accept}\r\n"), &[]).await?;
        assert_eq!(said.status, status, "{path} {accept}: {}", said.text());
        assert!(said.head.contains(&format!("content-type: {media}")), "{path} {accept}: {}", said.head);
        assert!(said.text().contains(piece), "{path} {accept}: {}", said.text());
    }
    Ok(())
}

#[tokio::test]
async fn large_answers_are_compressed() -> Result<()> {
    let server = Server::start().await?;
    for (name, size) in [("small", 1000), ("large", 300_000)] {
        let mut o = object(name);
        o["data"]["k"] = "x".repeat(size).into();
        let made = server.request(
            Some(ADMIN),
            Method::POST,
            CONFIG_MAPS,
            "application/json",
            o.to_string().into_bytes(),
        );
        assert_eq!(made.await?.status, 201);
        let said =
            ask(&server, &format!("GET {CONFIG_MAPS}/{name}"), "Accept-Encoding: gzip\r\n", &[]).await?;
        assert_eq!(said.head.contains("content-encoding: gzip"), name == "large", "{}", said.head);
        assert!(name == "small" || said.body.len() < size / 10);
    }
    Ok(())
}

/// A field whose gate is off is not taken in; with the gate on it is.
#[tokio::test]
async fn fields_of_features_that_are_off_are_dropped() -> Result<()> {
    let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "l"},
        "spec": {"holderIdentity": "a", "strategy": "OldestEmulationVersion"}});
    for on in [false, true] {
        let gate = format!("--feature-gates=CoordinatedLeaderElection={on}");
        let server = Server::start_with(&[&gate]).await?;
        let path = "/apis/coordination.k8s.io/v1/namespaces/default/leases";
        let made = server
            .request(Some(ADMIN), Method::POST, path, "application/json", lease.to_string().into_bytes())
            .await?;
        assert_eq!(made.status, 201, "{}", made.text);
        assert_eq!(made.body["spec"]["strategy"].is_string(), on, "{}", made.text);
    }
    Ok(())
}

/// Everything switched on, the documents are the golden ones; switched off, an API is gone.
#[tokio::test]
async fn discovery_tells_what_is_served() -> Result<()> {
    let flags = ["--runtime-config=api/all=true", "--feature-gates=AllAlpha=true,AllBeta=true"];
    let server = Server::start_with(&flags).await?;
    let gz = include_bytes!("../../../../api/testdata/discovery.tar.gz");
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(&gz[..]));
    let mut seen = 0;
    for entry in archive.entries()? {
        let mut entry = entry?;
        let name = entry.path()?.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let Some(name) = name.strip_suffix(".json").map(str::to_owned) else { continue };
        let mut text = String::new();
        entry.read_to_string(&mut text)?;
        let mut want: Value = serde_json::from_str(&text)?;
        let v2 = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
        let (path, accept) = if name == "aggregated_v2" {
            ("/apis".to_owned(), v2)
        } else {
            (format!("/{}", name.replace("__", "/")), "application/json")
        };
        let said = ask(&server, &format!("GET {path}"), &format!("Accept: {accept}\r\n"), &[]).await?;
        assert_eq!(said.status, 200, "{path}");
        let mut got = said.json();
        if name == "api" {
            for v in [&mut want, &mut got] {
                v.as_object_mut().context("an object")?.remove("serverAddressByClientCIDRs");
            }
        }
        if got["metadata"] == json!({}) && want.get("metadata").is_none() {
            got.as_object_mut().context("an object")?.remove("metadata");
        }
        assert_eq!(got, want, "{path}");
        seen += 1;
    }
    assert!(seen > 50, "{seen}");
    Ok(())
}

#[tokio::test]
async fn runtime_config_turns_apis_off_and_on() -> Result<()> {
    let config = "--runtime-config=api/beta=true,apps/v1/daemonsets=false,batch/v1=false";
    let server = Server::start_with(&[config]).await?;
    for (path, status) in [
        ("/apis/batch/v1/jobs", 404),
        ("/apis/apps/v1/daemonsets", 404),
        ("/apis/apps/v1/deployments", 200),
        ("/apis/networking.k8s.io/v1beta1/servicecidrs", 200),
        ("/apis/certificates.k8s.io/v1beta1/clustertrustbundles", 404),
    ] {
        assert_eq!(server.get(path).await?.status, status, "{path}");
    }
    Ok(())
}
