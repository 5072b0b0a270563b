use super::*;
use crate::chain::Chain;
use crate::testing::{create, deps};
use api::Value;
use auth::testing::FakeRegistry;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use rustls::pki_types::pem::PemObject;
use std::net::SocketAddr;
use tokio_rustls::TlsAcceptor;
use tokio_util::task::AbortOnDropHandle;

type Handler = fn(&Value) -> (u16, Value);

/// A webhook on the loopback, with its own authority.
struct Server {
    address: SocketAddr,
    ca: String,
    _task: AbortOnDropHandle<()>,
}

async fn serve(handler: Handler) -> Server {
    let ca = pki::Ca::new("webhook").unwrap();
    let ips = vec!["127.0.0.1".parse().unwrap()];
    let cert = ca.issue(pki::Request { cn: "hook".into(), ips, server: true, ..Default::default() }).unwrap();
    let chain = vec![rustls::pki_types::CertificateDer::from_pem_slice(cert.cert_pem.as_bytes()).unwrap()];
    let key = rustls::pki_types::PrivateKeyDer::from_pem_slice(cert.key_pem.as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let task = tokio::spawn(async move {
        let mut connections = tokio::task::JoinSet::new();
        while let Ok((tcp, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            connections.spawn(async move {
                let Ok(tls) = acceptor.accept(tcp).await else { return };
                let service = service_fn(move |request: http::Request<hyper::body::Incoming>| async move {
                    let body = request.into_body().collect().await.unwrap().to_bytes();
                    let (code, answer) = handler(&serde_json::from_slice(&body).unwrap());
                    let body = Full::new(bytes::Bytes::from(answer.to_string()));
                    let reply =
                        http::Response::builder().status(code).header("location", "https://127.0.0.1:1/");
                    Ok::<_, std::convert::Infallible>(reply.body(body).unwrap())
                });
                let io = hyper_util::rt::TokioIo::new(tls);
                let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, service).await;
            });
        }
    });
    Server { address, ca: ca.cert_pem().to_owned(), _task: AbortOnDropHandle::new(task) }
}

fn configuration(server: &Server, change: Value) -> Value {
    let mut hook = json!({
        "name": "hook.example.com", "admissionReviewVersions": ["v1"], "sideEffects": "None",
        "failurePolicy": "Fail", "timeoutSeconds": 5, "matchPolicy": "Equivalent",
        "clientConfig": {"url": format!("https://{}/path", server.address), "caBundle": STANDARD.encode(&server.ca)},
        "rules": [{"operations": ["CREATE"], "apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["deployments"]}],
    });
    for (key, value) in change.as_object().unwrap() {
        hook[key] = value.clone();
    }
    json!({"metadata": {"name": "c"}, "webhooks": [hook]})
}

fn answer(review: &Value, change: Value) -> Value {
    let mut response = json!({"uid": review["request"]["uid"], "allowed": true});
    for (key, value) in change.as_object().unwrap() {
        response[key] = value.clone();
    }
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response})
}

fn deployment() -> Attributes {
    let object = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "labels": {"a": "b"}}});
    create(("apps", "deployments"), "Deployment", object)
}

async fn validate(handler: Handler, change: Value) -> (Result<()>, Attributes) {
    let server = serve(handler).await;
    let namespace = json!({"metadata": {"name": "ns", "labels": {"team": "x"}}});
    let registry = FakeRegistry::with([
        (("", "namespaces"), namespace),
        ((hooks::GROUP, "validatingwebhookconfigurations"), configuration(&server, change)),
    ]);
    let mut a = deployment();
    let outcome = Validating::new(&deps(&registry)).validate(&mut a).await;
    (outcome, a)
}

#[tokio::test]
async fn refusals_warnings_and_annotations_come_through() {
    let (outcome, a) = validate(
        |review| {
            assert_eq!(review["request"]["operation"], "CREATE");
            assert_eq!(review["request"]["userInfo"]["username"], "alice");
            assert_eq!(review["request"]["object"]["metadata"]["name"], "d");
            (
                200,
                answer(
                    review,
                    json!({"allowed": false, "warnings": ["w"], "auditAnnotations": {"k": "v"},
                "status": {"code": 403, "reason": "Forbidden", "message": "no"}}),
                ),
            )
        },
        json!({}),
    )
    .await;
    let status = outcome.unwrap_err();
    assert_eq!((status.code, status.reason), (403, "Forbidden"));
    assert_eq!(status.message, "admission webhook \"hook.example.com\" denied the request: no");
    assert_eq!(a.warnings, ["w"]);
    assert_eq!(a.annotations, [("hook.example.com/k".to_owned(), "v".to_owned())]);
}

#[tokio::test]
async fn failures_follow_the_policy_and_redirects_are_failures() {
    let redirect: Handler = |_| (302, Value::Null);
    let (outcome, _) = validate(redirect, json!({})).await;
    let status = outcome.unwrap_err();
    assert_eq!(status.code, 500);
    assert!(status.message.starts_with(
        "Internal error occurred: failed calling webhook \"hook.example.com\": failed to call webhook: Post \"https://127.0.0.1:"
    ), "{}", status.message);
    assert!(validate(redirect, json!({"failurePolicy": "Ignore"})).await.0.is_ok());
    let liar: Handler = |_| (200, answer(&json!({}), json!({"uid": "other"})));
    assert!(validate(liar, json!({})).await.0.unwrap_err().message.contains("expected response.uid="));
    let patcher: Handler = |r| (200, answer(r, json!({"patch": "e30="})));
    assert!(
        validate(patcher, json!({})).await.0.unwrap_err().message.contains("may not return response.patch")
    );
}

#[tokio::test]
async fn selectors_and_rules_decide_who_is_asked() {
    let deny: Handler = |r| (200, answer(r, json!({"allowed": false})));
    let rule = |change: Value| {
        let mut rule =
            json!({"operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*"]});
        for (key, value) in change.as_object().unwrap() {
            rule[key] = value.clone();
        }
        json!({"rules": [rule]})
    };
    for (change, asked) in [
        (json!({}), true),
        (rule(json!({})), true),
        (rule(json!({"operations": ["UPDATE"]})), false),
        (rule(json!({"resources": ["deployments/scale"]})), false),
        (rule(json!({"scope": "Cluster"})), false),
        (rule(json!({"scope": "Namespaced"})), true),
        (json!({"namespaceSelector": {"matchLabels": {"team": "x"}}}), true),
        (json!({"namespaceSelector": {"matchLabels": {"team": "y"}}}), false),
        (json!({"objectSelector": {"matchLabels": {"a": "b"}}}), true),
        (json!({"objectSelector": {"matchLabels": {"a": "c"}}}), false),
    ] {
        let (outcome, _) = validate(deny, change.clone()).await;
        assert_eq!(outcome.is_err(), asked, "{change}");
    }
}

#[tokio::test]
async fn patches_are_applied_and_earlier_hooks_asked_again() {
    const GR: (&str, &str) = (hooks::GROUP, "mutatingwebhookconfigurations");
    let patch = |r: &Value, key: &str, present: &str| {
        let labels = &r["request"]["object"]["metadata"]["labels"];
        if !labels[key].is_null() || (!present.is_empty() && labels[present].is_null()) {
            return answer(r, json!({}));
        }
        let operations = json!([{"op": "add", "path": format!("/metadata/labels/{key}"), "value": "x"}]);
        answer(r, json!({"patchType": "JSONPatch", "patch": STANDARD.encode(operations.to_string())}))
    };
    static PATCH: std::sync::OnceLock<fn(&Value, &str, &str) -> Value> = std::sync::OnceLock::new();
    PATCH.get_or_init(|| patch);
    let first = serve(|r| (200, PATCH.get().unwrap()(r, "first", "second"))).await;
    let second = serve(|r| (200, PATCH.get().unwrap()(r, "second", ""))).await;
    let mut early = configuration(&first, json!({"reinvocationPolicy": "IfNeeded"}));
    early["metadata"]["name"] = "a".into();
    let registry = FakeRegistry::with([(GR, early), (GR, configuration(&second, json!({})))]);
    let chain = Chain::of(vec![Arc::new(Mutating::new(&deps(&registry)))]);
    let mut a = deployment();
    chain.admit(&mut a).await.unwrap();
    let labels = &a.object.unwrap()["metadata"]["labels"];
    assert_eq!(*labels, json!({"a": "b", "first": "x", "second": "x"}));
}

#[tokio::test]
async fn dry_runs_need_hooks_without_side_effects() {
    let server = serve(|r| (200, answer(r, json!({})))).await;
    let config = configuration(&server, json!({"sideEffects": "Some"}));
    let registry = FakeRegistry::with([((hooks::GROUP, "validatingwebhookconfigurations"), config)]);
    let mut a = deployment();
    a.dry_run = true;
    let error = Validating::new(&deps(&registry)).validate(&mut a).await.unwrap_err();
    assert_eq!(error.message, "admission webhook \"hook.example.com\" does not support dry run");
}
