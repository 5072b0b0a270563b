//! What monitoring, browsers and generators of clients ask of a server.

use anyhow::Result;
use integration::{ADMIN, Server};

const TABLE: &str = "Accept: application/json;as=Table;v=v1;g=meta.k8s.io\r\n";

#[tokio::test]
async fn checks_metrics_and_documents_are_told_as_upstream_tells_them() -> Result<()> {
    let server = Server::start_with(&[
        "--cors-allowed-origins=//ui.example.org$",
        "--strict-transport-security-directives=max-age=300",
    ])
    .await?;

    let live = server.get("/livez?verbose").await?.text;
    for check in [
        "loopback-serving-certificate",
        "etcd",
        "poststarthook/crd-informer-synced",
        "autoregister-completion",
    ] {
        assert!(live.contains(&format!("[+]{check} ok\n")), "{check}: {live}");
    }
    assert!(!live.contains("aggregator-reload-proxy-client-cert"), "there is no such certificate");
    let ready = server.get("/readyz?verbose").await?.text;
    assert!(
        ready.ends_with("[+]shutdown ok\nreadyz check passed\n") && !ready.contains("loopback"),
        "{ready}"
    );
    assert_eq!(server.get("/readyz/poststarthook/storage-readiness").await?.text, "ok");
    let slis = server.get("/metrics/slis").await?.text;
    assert!(slis.contains("kubernetes_healthcheck{name=\"etcd\",type=\"livez\"} 1\n"), "{slis}");

    let ask = async |line: &str, headers: &str| server.raw().await?.ask(line, ADMIN, headers, b"").await;
    let packed = ask("GET /metrics", "Accept-Encoding: gzip\r\n").await?;
    assert!(packed.head.contains("content-encoding: gzip\r\n"), "{}", packed.head);
    let metrics = server.get("/metrics").await?.text;
    for series in [
        "apiserver_storage_objects{resource=\"namespaces\"} ",
        "apiserver_request_sli_duration_seconds_bucket{",
        "authentication_attempts{result=\"success\"} ",
        "authorization_attempts_total{result=\"allowed\"} ",
        "etcd_request_duration_seconds_bucket{",
        "kubernetes_feature_enabled{",
        "le=\"1\"",
    ] {
        assert!(metrics.contains(series), "{series}");
    }

    let page = ask("GET /version", "Origin: https://ui.example.org\r\n").await?;
    assert!(page.head.contains("access-control-allow-origin: https://ui.example.org\r\n"), "{}", page.head);
    assert!(page.head.contains("strict-transport-security: max-age=300\r\n"), "{}", page.head);
    let other = ask("GET /version", "Origin: https://other.example.org\r\n").await?;
    assert!(!other.head.contains("access-control"), "{}", other.head);

    let protobuf = "application/com.github.proto-openapi.spec.v3.v1.0+protobuf";
    let document = ask("GET /openapi/v3/version", &format!("Accept: {protobuf}\r\n")).await?;
    assert!(document.head.contains(&format!("content-type: {protobuf}\r\n")), "{}", document.head);
    assert!(document.body.starts_with(b"\x0a\x053.0.0"), "{:?}", document.text());

    let statuses = ask("GET /api/v1/componentstatuses", TABLE).await?.json();
    assert_eq!(statuses["kind"], "Table");
    let rows: Vec<&str> =
        statuses["rows"].as_array().into_iter().flatten().filter_map(|r| r["cells"][0].as_str()).collect();
    assert_eq!(rows, ["scheduler", "controller-manager", "etcd-0"]);
    let maps = ask("GET /api/v1/configmaps", TABLE).await?.text();
    assert!(maps.contains("\"description\":\"Name must be unique within a namespace."), "{maps}");
    Ok(())
}
