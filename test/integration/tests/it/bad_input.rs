//! Whatever a client sends gets a clear answer, and the server goes on.

use anyhow::Result;
use http::Method;
use integration::{NOBODY, Server};
use serde_json::json;

const JSON: &str = "application/json";
const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// Method, path, content type, body, expected status and reason.
type Case = (Method, &'static str, &'static str, Vec<u8>, u16, &'static str);

fn nested(depth: usize) -> Vec<u8> {
    format!("{{\"metadata\":{}1{}}}", "[".repeat(depth), "]".repeat(depth)).into_bytes()
}

fn cases() -> Vec<Case> {
    let config_map = |name: &str| {
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}}).to_string().into_bytes()
    };
    let huge = vec![b' '; 4 << 20];
    vec![
        (Method::POST, CONFIG_MAPS, JSON, b"{\"metadata\":".to_vec(), 400, "BadRequest"),
        (Method::POST, CONFIG_MAPS, JSON, b"nonsense".to_vec(), 400, "BadRequest"),
        (Method::POST, CONFIG_MAPS, JSON, nested(100_000), 400, "BadRequest"),
        (Method::POST, CONFIG_MAPS, "application/yaml", b"a: [b".to_vec(), 400, "BadRequest"),
        (Method::POST, CONFIG_MAPS, JSON, huge, 413, "RequestEntityTooLarge"),
        (Method::POST, CONFIG_MAPS, "text/plain", config_map("a"), 415, "UnsupportedMediaType"),
        (
            Method::POST,
            CONFIG_MAPS,
            JSON,
            b"{\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"metadata\":{\"name\":\"a\"},\"data\":[]}"
                .to_vec(),
            400,
            "BadRequest",
        ),
        (
            Method::POST,
            "/api/v1/namespaces/default/configmaps?fieldValidation=Strict",
            JSON,
            b"{\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"metadata\":{\"name\":\"a\",\"name\":\"b\"}}"
                .to_vec(),
            400,
            "BadRequest",
        ),
        (Method::POST, CONFIG_MAPS, JSON, config_map("Not A Name"), 422, "Invalid"),
        (Method::POST, CONFIG_MAPS, JSON, config_map(".."), 422, "Invalid"),
        (Method::POST, "/api/v1/namespaces/other/configmaps", JSON, config_map("a"), 404, "NotFound"),
        (Method::GET, "/api/v1/namespaces/default/nothings", "", Vec::new(), 404, ""),
        (Method::GET, "/apis/none.example.com/v1/things", "", Vec::new(), 404, ""),
        (Method::GET, "/api/v1/namespaces/default/configmaps/missing", "", Vec::new(), 404, "NotFound"),
        (Method::PUT, CONFIG_MAPS, JSON, config_map("a"), 405, "MethodNotAllowed"),
        (Method::GET, "/api/v1/pods?labelSelector=a%20in%20(", "", Vec::new(), 400, "BadRequest"),
        (Method::GET, "/api/v1/pods?fieldSelector=spec.color%3Dred", "", Vec::new(), 400, "BadRequest"),
        (Method::GET, "/api/v1/pods?limit=x", "", Vec::new(), 400, "BadRequest"),
        (Method::GET, "/api/v1/pods?continue=x", "", Vec::new(), 400, "BadRequest"),
    ]
}

#[tokio::test]
async fn every_bad_request_has_its_status() -> Result<()> {
    let mut server = Server::start().await?;
    for (method, path, media, body, status, reason) in cases() {
        let shown = format!("{method} {path} {media} ({} bytes)", body.len());
        let answer = server.request(Some("admin-token"), method, path, media, body).await?;
        assert_eq!((answer.status, answer.reason()), (status, reason), "{shown}: {}", answer.text);
    }
    assert!(!server.has_ended());
    server.ready().await
}

#[tokio::test]
async fn an_invalid_object_names_the_field() -> Result<()> {
    let server = Server::start().await?;
    // Pods are admitted once their account is there.
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    let made =
        server.request(Some("admin-token"), Method::POST, accounts, JSON, account.to_string().into_bytes());
    assert_eq!(made.await?.status, 201);
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {"containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 70000}]}]}});
    let body = pod.to_string().into_bytes();
    let path = "/api/v1/namespaces/default/pods";
    let answer = server.request(Some("admin-token"), Method::POST, path, JSON, body).await?;
    assert_eq!(answer.status, 422, "{}", answer.text);
    let cause = &answer.body["details"]["causes"][0];
    assert_eq!(cause["field"], "spec.containers[0].ports[0].containerPort");
    assert_eq!(cause["reason"], "FieldValueInvalid");
    Ok(())
}

#[tokio::test]
async fn strangers_are_kept_out() -> Result<()> {
    let server = Server::start().await?;
    let get = async |token: Option<&str>, path: &str| {
        let answer = server.request(token, Method::GET, path, "", Vec::new()).await?;
        anyhow::Ok((answer.status, answer.reason().to_owned()))
    };
    assert_eq!(get(Some("forged"), "/api/v1/pods").await?, (401, "Unauthorized".to_owned()));
    let forged = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJzeXN0ZW06YWRtaW4ifQ.";
    assert_eq!(get(Some(forged), "/api/v1/pods").await?, (401, "Unauthorized".to_owned()));
    assert_eq!(get(Some(NOBODY), "/api/v1/pods").await?, (403, "Forbidden".to_owned()));
    assert_eq!(get(None, "/api/v1/pods").await?, (403, "Forbidden".to_owned()));
    assert_eq!(get(None, "/livez").await?.0, 200);
    Ok(())
}
