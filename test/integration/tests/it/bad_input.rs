//! Whatever a client sends gets a clear answer, and the server goes on.

use anyhow::Result;
use http::Method;
use integration::{ADMIN, NOBODY, Server};
use serde_json::{Value, json};

const JSON: &str = "application/json";
const YAML: &str = "application/yaml";
const MERGE: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";
const APPLY: &str = "application/apply-patch+yaml";
const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
const SEED: &str = "/api/v1/namespaces/default/configmaps/seed";

/// Method, path, content type, body, expected status and reason.
struct Case(Method, &'static str, &'static str, Vec<u8>, u16, &'static str);

fn text(body: &str) -> Vec<u8> {
    body.as_bytes().to_vec()
}

fn config_map(name: &str) -> Vec<u8> {
    text(&json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}}).to_string())
}

fn with(field: &str, value: Value) -> Vec<u8> {
    let mut v = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}});
    v[field] = value;
    text(&v.to_string())
}

fn nested(open: &str, close: &str, depth: usize) -> Vec<u8> {
    text(&format!("{{\"metadata\":{}1{}}}", open.repeat(depth), close.repeat(depth)))
}

fn post(media: &'static str, body: Vec<u8>, status: u16, reason: &'static str) -> Case {
    Case(Method::POST, CONFIG_MAPS, media, body, status, reason)
}

fn get(path: &'static str, status: u16, reason: &'static str) -> Case {
    Case(Method::GET, path, "", Vec::new(), status, reason)
}

async fn run(server: &mut Server, cases: Vec<Case>) -> Result<()> {
    for Case(method, path, media, body, status, reason) in cases {
        let start = String::from_utf8_lossy(&body[..body.len().min(60)]).into_owned();
        let shown = format!("{method} {path} {media} {start} ({} bytes)", body.len());
        let answer = server.request(Some(ADMIN), method, path, media, body).await?;
        assert_eq!((answer.status, answer.reason()), (status, reason), "{shown}: {}", answer.text);
    }
    assert!(!server.has_ended());
    server.ready().await
}

async fn seeded() -> Result<Server> {
    let server = Server::start().await?;
    let made = server.request(Some(ADMIN), Method::POST, CONFIG_MAPS, JSON, config_map("seed")).await?;
    assert_eq!(made.status, 201, "{}", made.text);
    Ok(server)
}

#[tokio::test]
async fn bodies_that_are_no_objects() -> Result<()> {
    let bad = |media, body| post(media, body, 400, "BadRequest");
    let patch =
        |media, body: &str, status, reason| Case(Method::PATCH, SEED, media, text(body), status, reason);
    let cases = vec![
        // Truncated.
        bad(JSON, text("{\"metadata\":")),
        bad(JSON, text("{\"metadata\":{\"name\":\"a\"}")),
        bad(YAML, text("a: [b")),
        bad(YAML, text("metadata: {name: \"a")),
        bad("application/vnd.kubernetes.protobuf", text("k8s\0\x0a\x7f")),
        // No such language.
        bad(JSON, text("nonsense")),
        bad(JSON, b"{\"metadata\":{\"name\":\"\xff\xfe\"},\"data\":[]}".to_vec()),
        bad(JSON, text("{\"metadata\":{\"name\":\"a\"}} {}")),
        bad(JSON, text("[]")),
        bad(JSON, text("\"text\"")),
        bad(YAML, text("- a\n- b\n")),
        bad("application/vnd.kubernetes.protobuf", config_map("a")),
        // Deeply nested.
        bad(JSON, nested("[", "]", 100_000)),
        bad(JSON, nested("{\"a\":", "}", 100_000)),
        bad(YAML, nested("[", "]", 50_000)),
        bad(YAML, text(&"- ".repeat(50_000))),
        // Small text, large meaning.
        bad(
            YAML,
            text(
                "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e]\ng: [*f,*f,*f,*f,*f,*f,*f,*f,*f]\n",
            ),
        ),
        bad(YAML, text("&a [*a]")),
        // Huge.
        post(JSON, vec![b' '; 4 << 20], 413, "RequestEntityTooLarge"),
        post(YAML, vec![b'a'; 4 << 20], 413, "RequestEntityTooLarge"),
        Case(Method::PATCH, SEED, MERGE, vec![b' '; 4 << 20], 413, "RequestEntityTooLarge"),
        Case(Method::PUT, SEED, JSON, vec![b' '; 4 << 20], 413, "RequestEntityTooLarge"),
        // Wrong types.
        bad(JSON, with("data", json!([]))),
        bad(JSON, with("data", json!({"a": 5}))),
        bad(JSON, with("metadata", json!("a"))),
        bad(JSON, with("metadata", json!({"name": 5}))),
        bad(JSON, with("metadata", json!({"name": "a", "labels": {"a": {}}}))),
        bad(JSON, with("metadata", json!({"name": "a", "creationTimestamp": "yesterday"}))),
        bad(JSON, with("binaryData", json!({"a": "***"}))),
        bad(YAML, text("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {a: 5}\n")),
        bad(JSON, text("{\"apiVersion\":\"v1\",\"kind\":5}")),
        // Patches.
        patch(MERGE, "{", 400, "BadRequest"),
        patch(MERGE, "[]", 400, "BadRequest"),
        patch(MERGE, "{\"data\":[]}", 422, "Invalid"),
        patch(MERGE, "{\"kind\":\"Secret\"}", 422, "Invalid"),
        patch(STRATEGIC, "{\"data\":{\"a\":5}}", 422, "Invalid"),
        patch("application/json-patch+json", "{}", 400, "BadRequest"),
        patch(
            "application/json-patch+json",
            "[{\"op\":\"test\",\"path\":\"/data/a\",\"value\":\"x\"}]",
            422,
            "Invalid",
        ),
        Case(
            Method::PATCH,
            "/api/v1/namespaces/default/configmaps/seed?fieldManager=t",
            APPLY,
            text("just text"),
            400,
            "BadRequest",
        ),
        Case(
            Method::PATCH,
            "/api/v1/namespaces/default/configmaps/seed?fieldManager=t",
            APPLY,
            text("[]"),
            400,
            "BadRequest",
        ),
        Case(Method::PATCH, SEED, APPLY, config_map("seed"), 422, "Invalid"),
    ];
    run(&mut seeded().await?, cases).await
}

#[tokio::test]
async fn names_kinds_and_media_types_that_do_not_fit() -> Result<()> {
    let mut cases = vec![
        // Unknown kinds and versions.
        post(
            JSON,
            text("{\"apiVersion\":\"v1\",\"kind\":\"Nothing\",\"metadata\":{\"name\":\"a\"}}"),
            400,
            "BadRequest",
        ),
        post(
            JSON,
            text("{\"apiVersion\":\"v1\",\"kind\":\"Secret\",\"metadata\":{\"name\":\"a\"}}"),
            400,
            "BadRequest",
        ),
        post(
            JSON,
            text("{\"apiVersion\":\"apps/v1\",\"kind\":\"ConfigMap\",\"metadata\":{\"name\":\"a\"}}"),
            400,
            "BadRequest",
        ),
        post(JSON, text("{\"apiVersion\":\"a/b/c\",\"kind\":\"ConfigMap\"}"), 400, "BadRequest"),
        get("/api/v1/namespaces/default/nothings", 404, "NotFound"),
        get("/api/v9/pods", 404, "NotFound"),
        get("/apis/apps/v9/deployments", 404, "NotFound"),
        get("/apis/none.example.com/v1/things", 404, ""),
        get("/api/v1/namespaces/default/configmaps/missing", 404, "NotFound"),
        get("/api/v1/namespaces/default/configmaps/seed/status", 404, "NotFound"),
        get("/api/v1/namespaces/default/nodes", 404, "NotFound"),
        get("/api/v1/configmaps/seed", 404, "NotFound"),
        // Names.
        post(JSON, with("metadata", json!({})), 422, "Invalid"),
        post(JSON, with("metadata", json!({"name": "a", "namespace": "other"})), 400, "BadRequest"),
        post(JSON, with("metadata", json!({"name": "a", "labels": {"-": "x"}})), 422, "Invalid"),
        post(JSON, with("metadata", json!({"generateName": "Not_"})), 422, "Invalid"),
        Case(Method::POST, "/api/v1/namespaces/other/configmaps", JSON, config_map("a"), 404, "NotFound"),
        Case(Method::PUT, SEED, JSON, config_map("another"), 400, "BadRequest"),
        // Media types.
        post("text/plain", config_map("a"), 415, "UnsupportedMediaType"),
        post("application/xml", config_map("a"), 415, "UnsupportedMediaType"),
        post("application/cbor", config_map("a"), 415, "UnsupportedMediaType"),
        Case(Method::PATCH, SEED, JSON, text("{}"), 415, "UnsupportedMediaType"),
        Case(Method::PATCH, SEED, "", text("{}"), 415, "UnsupportedMediaType"),
        // Selectors and options.
        get("/api/v1/pods?labelSelector=a%20in%20(", 400, "BadRequest"),
        get("/api/v1/pods?fieldSelector=spec.color%3Dred", 400, "BadRequest"),
        get("/api/v1/pods?limit=x", 400, "BadRequest"),
        get("/api/v1/pods?continue=x", 400, "BadRequest"),
        get("/api/v1/pods?resourceVersionMatch=Exact", 422, "Invalid"),
        Case(
            Method::POST,
            "/api/v1/namespaces/default/configmaps?dryRun=some",
            JSON,
            config_map("a"),
            422,
            "Invalid",
        ),
        Case(
            Method::POST,
            "/api/v1/namespaces/default/configmaps?fieldValidation=Maybe",
            JSON,
            config_map("a"),
            422,
            "Invalid",
        ),
        Case(Method::DELETE, SEED, JSON, text("{\"propagationPolicy\":\"Sideways\"}"), 422, "Invalid"),
        Case(Method::DELETE, SEED, JSON, text("{\"kind\":\"Pod\",\"apiVersion\":\"v1\"}"), 400, "BadRequest"),
    ];
    for name in ["Not A Name", "..", ".", "a/b", "a%b", "UPPER", "-a", "a_b", &"x".repeat(254)] {
        cases.push(post(JSON, config_map(name), 422, "Invalid"));
    }
    run(&mut seeded().await?, cases).await
}

#[tokio::test]
async fn methods_that_a_path_does_not_have() -> Result<()> {
    let none = |method, path, status, reason| Case(method, path, "", Vec::new(), status, reason);
    let cases = vec![
        Case(Method::PUT, CONFIG_MAPS, JSON, config_map("a"), 405, "MethodNotAllowed"),
        Case(Method::PATCH, CONFIG_MAPS, MERGE, text("{}"), 405, "MethodNotAllowed"),
        Case(Method::POST, SEED, JSON, config_map("seed"), 405, "MethodNotAllowed"),
        none(Method::OPTIONS, SEED, 405, "MethodNotAllowed"),
        none(Method::TRACE, SEED, 405, "MethodNotAllowed"),
        none(Method::DELETE, "/api/v1/configmaps", 405, "MethodNotAllowed"),
        Case(Method::POST, "/api/v1/configmaps", JSON, config_map("a"), 405, "MethodNotAllowed"),
        none(Method::POST, "/api/v1", 405, "MethodNotAllowed"),
        none(Method::DELETE, "/version", 405, "MethodNotAllowed"),
        none(Method::GET, "/api/v1/namespaces/default/pods/x/binding", 405, "MethodNotAllowed"),
    ];
    run(&mut seeded().await?, cases).await
}

#[tokio::test]
async fn revisions_that_are_not_current() -> Result<()> {
    let mut server = seeded().await?;
    let old = server.get(SEED).await?.body;
    let version = |v: &Value| v["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
    let newer =
        server.request(Some(ADMIN), Method::PATCH, SEED, MERGE, text("{\"data\":{\"a\":\"b\"}}")).await?;
    assert_eq!(newer.status, 200);
    assert_ne!(version(&old), version(&newer.body));
    let stale = |options: Value| text(&json!({"preconditions": options}).to_string());
    let patched = json!({"metadata": {"resourceVersion": version(&old)}, "data": {"a": "c"}}).to_string();
    let cases = vec![
        Case(Method::PUT, SEED, JSON, text(&old.to_string()), 409, "Conflict"),
        Case(Method::PATCH, SEED, MERGE, text(&patched), 409, "Conflict"),
        Case(Method::DELETE, SEED, JSON, stale(json!({"resourceVersion": version(&old)})), 409, "Conflict"),
        Case(Method::DELETE, SEED, JSON, stale(json!({"uid": "somebody-else"})), 409, "Conflict"),
        post(JSON, config_map("seed"), 409, "AlreadyExists"),
        post(JSON, with("metadata", json!({"name": "b", "resourceVersion": "7"})), 500, ""),
        get("/api/v1/configmaps?resourceVersion=99999999", 504, "Timeout"),
        get("/api/v1/configmaps?resourceVersion=x", 400, "BadRequest"),
    ];
    run(&mut server, cases).await?;
    assert_eq!(server.get(SEED).await?.body["data"]["a"], "b", "nothing was lost");
    Ok(())
}

/// Duplicate and unknown fields: `Warn` is the default, `Strict` refuses, `Ignore` says nothing.
#[tokio::test]
async fn fields_that_nobody_knows_or_that_are_there_twice() -> Result<()> {
    let server = Server::start().await?;
    let twice = "{\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"metadata\":{\"name\":\"a\",\"name\":\"b\"},\"zip\":1,\"data\":{}}";
    let yaml = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\n  name: b\n";
    for (media, body, warnings) in [
        (JSON, twice, vec!["duplicate field \\\"metadata.name\\\"", "unknown field \\\"zip\\\""]),
        (YAML, yaml, vec!["line 5: key \\\"name\\\" already set in map"]),
    ] {
        for (validation, status) in [("Warn", 201), ("Ignore", 201), ("Strict", 400)] {
            let line = format!("POST {CONFIG_MAPS}?dryRun=All&fieldValidation={validation}");
            let headers = format!("Content-Type: {media}\r\n");
            let said = server.raw().await?.ask(&line, ADMIN, &headers, body.as_bytes()).await?;
            assert_eq!(said.status, status, "{}", said.text());
            let heard: Vec<&str> =
                said.head.lines().filter_map(|l| l.strip_prefix("warning: 299 - ")).collect();
            let expected = warnings.iter().map(|w| format!("\"{w}\"")).collect::<Vec<_>>();
            let want: Vec<&str> =
                if validation == "Warn" { expected.iter().map(String::as_str).collect() } else { vec![] };
            assert_eq!(heard, want, "{media} {validation}");
            if status == 400 {
                assert!(said.text().contains("strict decoding error: "), "{}", said.text());
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn paths_that_try_to_walk() -> Result<()> {
    let server = seeded().await?;
    for (path, status) in [
        ("/api/v1/namespaces/../configmaps", 400),
        ("/api/v1/namespaces/%2e%2e/configmaps", 400),
        ("/api/v1/namespaces/default/configmaps/..", 400),
        ("/api/v1/namespaces/default/configmaps/%2e", 400),
        ("/api/v1/namespaces/default%2fconfigmaps%2fseed", 200),
        ("/api/v1/namespaces/default/configmaps/a%2f..%2fseed", 404),
        ("/api/v1/namespaces/default/configmaps/a%25b", 400),
        ("/api/v1/namespaces/default/configmaps/%ff", 400),
        ("/api/v1/namespaces/default/configmaps/seed%00", 404),
        ("//api/v1/namespaces/default/configmaps", 404),
        ("/healthz/../api/v1/secrets", 404),
        ("/livez/%2e%2e/metrics", 404),
    ] {
        let said = server.raw().await?.ask(&format!("GET {path}"), ADMIN, "", &[]).await?;
        assert_eq!(said.status, status, "{path}: {}", said.text());
    }
    Ok(())
}

/// The client can read the refusal although it has not finished sending.
#[tokio::test]
async fn a_body_without_end_is_refused_in_words() -> Result<()> {
    let server = Server::start().await?;
    let large = vec![b' '; 8 << 20];
    let line = format!("POST {CONFIG_MAPS}");
    let said = server.raw().await?.ask(&line, ADMIN, "Content-Type: application/json\r\n", &large).await?;
    assert_eq!((said.status, said.reason().as_str()), (413, "RequestEntityTooLarge"));
    assert_eq!(said.json()["message"], "Request entity too large: limit is 3145728");
    let mut raw = server.raw().await?;
    raw.send(format!("{line} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ADMIN}\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n").as_bytes()).await?;
    for _ in 0..64 {
        raw.send(format!("{:x}\r\n", 1 << 16).as_bytes()).await?;
        raw.send(&large[..1 << 16]).await?;
        raw.send(b"\r\n").await?;
    }
    raw.send(b"0\r\n\r\n").await?;
    assert_eq!(raw.answer().await?.status, 413);
    Ok(())
}

#[tokio::test]
async fn an_invalid_object_names_the_field() -> Result<()> {
    let server = Server::start().await?;
    // Pods are admitted once their account is there.
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    let made = server.request(Some(ADMIN), Method::POST, accounts, JSON, text(&account.to_string()));
    assert_eq!(made.await?.status, 201);
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {"containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 70000}]}]}});
    let path = "/api/v1/namespaces/default/pods";
    let answer = server.request(Some(ADMIN), Method::POST, path, JSON, text(&pod.to_string())).await?;
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
    assert_eq!(get(Some(NOBODY), "/api/v1/pods").await?, (403, "Forbidden".to_owned()));
    assert_eq!(get(None, "/api/v1/pods").await?, (403, "Forbidden".to_owned()));
    assert_eq!(get(None, "/livez").await?.0, 200);
    Ok(())
}
