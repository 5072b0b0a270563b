use super::*;
use crate::testing::FakeRegistry;
use crate::values::{at, text};
use std::sync::Arc;

const ISSUER: &str = "https://kubernetes.default.svc";

fn issuer() -> Issuer {
    let pem = include_bytes!("../testdata/ec.pem");
    let options =
        Options { issuers: vec![ISSUER.into()], extend_token_expiration: true, ..Default::default() };
    let keys = public_keys_from_pem(pem).unwrap();
    Issuer::with_keys(&options, Some(PrivateKey::from_pem(pem).unwrap()), keys, 7200)
}

fn registry() -> Arc<FakeRegistry> {
    FakeRegistry::with([
        (("", "serviceaccounts"), json!({"metadata": {"name": "sa", "namespace": "ns", "uid": "u1"}})),
        (("", "nodes"), json!({"metadata": {"name": "n1", "uid": "n-uid"}})),
        (
            ("", "pods"),
            json!({"metadata": {"name": "p", "namespace": "ns", "uid": "p-uid"},
                   "spec": {"serviceAccountName": "sa", "nodeName": "n1"}}),
        ),
        (
            ("", "pods"),
            json!({"metadata": {"name": "other", "namespace": "ns", "uid": "o"}, "spec": {"serviceAccountName": "x"}}),
        ),
    ])
}

async fn ask(request: Value) -> api::status::Result<(TokenReply, Value)> {
    let (issuer, registry) = (issuer(), registry());
    let request = prepare(&issuer, &*registry, "ns", "sa", request).await?;
    let reply = issuer.complete(&*registry, request).await?;
    let token = text(&reply.object, &["status", "token"]).to_owned();
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
    Ok((reply, serde_json::from_slice(&claims).unwrap()))
}

#[tokio::test]
async fn a_pod_bound_token_carries_pod_and_node() {
    let (reply, claims) = ask(json!({"spec": {
        "expirationSeconds": 3607,
        "boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "p", "uid": "p-uid"},
    }}))
    .await
    .unwrap();
    let private = &claims["kubernetes.io"];
    assert_eq!(private["pod"], json!({"name": "p", "uid": "p-uid"}));
    assert_eq!(private["node"], json!({"name": "n1", "uid": "n-uid"}));
    assert_eq!(claims["aud"], json!([ISSUER]));
    assert_eq!(claims["sub"], "system:serviceaccount:ns:sa");
    let issued = claims["iat"].as_i64().unwrap();
    assert_eq!(claims["exp"].as_i64().unwrap(), issued + EXTENDED_EXPIRATION_SECONDS);
    assert_eq!(private["warnafter"].as_i64().unwrap(), issued + 3607);
    let shown: jiff::Timestamp = text(&reply.object, &["status", "expirationTimestamp"]).parse().unwrap();
    assert_eq!(shown.as_second(), issued + 3607);
}

#[tokio::test]
async fn long_requests_are_shortened_with_a_warning() {
    let (reply, claims) = ask(json!({"spec": {"expirationSeconds": 100000}})).await.unwrap();
    assert_eq!(reply.warnings, ["requested expiration of 100000 seconds shortened to 7200 seconds"]);
    assert_eq!(claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(), 7200);
    assert!(at(&claims, &["kubernetes.io", "warnafter"]).is_null());
}

#[tokio::test]
async fn bad_requests_are_refused() {
    let bound = |name: &str, uid: &str| json!({"spec": {"boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": name, "uid": uid}}});
    for (request, code, part) in [
        (json!({"spec": {"expirationSeconds": 599}}), 422, "may not specify a duration less than 10 minutes"),
        (json!({"metadata": {"name": "zz"}}), 422, "must match the service account name"),
        (json!({"metadata": {"uid": "zz"}}), 409, "does not match the UID of the service account"),
        (bound("p", "zz"), 409, "does not match the UID in record"),
        (bound("other", ""), 400, "different serviceaccount name"),
        (bound("gone", ""), 404, "not found"),
        (
            json!({"spec": {"boundObjectRef": {"kind": "Job", "apiVersion": "batch/v1", "name": "j"}}}),
            400,
            "cannot bind token to object of type batch/v1, Kind=Job",
        ),
    ] {
        let error = ask(request).await.map(|_| ()).unwrap_err();
        assert_eq!(error.code, code, "{}", error.message);
        assert!(error.message.contains(part), "{}", error.message);
    }
}

#[test]
fn discovery_documents_describe_the_keys() {
    let issuer = issuer();
    let document = issuer.openid_configuration("10.0.0.1:6443").unwrap();
    assert_eq!(document["jwks_uri"], "https://10.0.0.1:6443/openid/v1/jwks");
    assert_eq!(document["id_token_signing_alg_values_supported"], json!(["ES256"]));
    let key = &issuer.jwks()["keys"][0];
    assert_eq!((key["kty"].as_str(), key["crv"].as_str()), (Some("EC"), Some("P-256")));
}
