//! Credentials that are not what they say: tokens and certificates.

use anyhow::{Context, Result};
use auth::keys::PrivateKey;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::Method;
use integration::{ADMIN, LIMIT, Server};
use serde_json::{Value, json};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const ISSUER: &str = "https://kubernetes.default.svc";

fn part(v: &Value) -> String {
    URL_SAFE_NO_PAD.encode(v.to_string())
}

fn signed(key: &PrivateKey, claims: &Value) -> Result<String> {
    let algorithm = key.public().algorithm();
    let text = format!("{}.{}", part(&json!({"alg": algorithm})), part(claims));
    let signature = key.sign(text.as_bytes())?;
    Ok(format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature)))
}

#[tokio::test]
async fn tokens_are_believed_only_as_they_were_issued() -> Result<()> {
    let server = Server::start().await?;
    let post = async |path: &str, body: Value| {
        server
            .request(Some(ADMIN), Method::POST, path, "application/json", body.to_string().into_bytes())
            .await
    };
    let accounts = "/api/v1/namespaces/kube-public/serviceaccounts";
    let account = post(accounts, json!({"metadata": {"name": "robot"}})).await?.body;
    let request = json!({"spec": {"expirationSeconds": 600}});
    let issued = post(&format!("{accounts}/robot/token"), request).await?.body;
    let token = issued["status"]["token"].as_str().context("a token")?.to_owned();
    let status = async |token: &str| {
        let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
        let body = b"{\"apiVersion\":\"authentication.k8s.io/v1\",\"kind\":\"SelfSubjectReview\"}".to_vec();
        let said = server.request(Some(token), Method::POST, path, "application/json", body).await?;
        anyhow::Ok((said.status, said.reason().to_owned()))
    };
    assert_eq!(status(&token).await?.0, 201, "as issued");
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let claims = |from: u64, to: u64, audience: &str| {
        json!({"iss": ISSUER, "aud": [audience], "sub": "system:serviceaccount:kube-public:robot",
            "iat": from, "nbf": from, "exp": to, "kubernetes.io": {"namespace": "kube-public",
                "serviceaccount": {"name": "robot", "uid": account["metadata"]["uid"]}}})
    };
    let own = PrivateKey::from_pem(&std::fs::read(server.file("sa.key"))?)?;
    let foreign = PrivateKey::from_pem(pki::service_account_keys()?.private_pem.as_bytes())?;
    let good = claims(now - 60, now + 600, ISSUER);
    assert_eq!(status(&signed(&own, &good)?).await?.0, 201, "the claims are right");
    let (head, rest) = token.split_once('.').context("a JWT")?;
    let (body, signature) = rest.split_once('.').context("a JWT")?;
    let mut other = good.clone();
    other["sub"] = "system:serviceaccount:kube-system:admin".into();
    for (what, bad) in [
        ("expired", signed(&own, &claims(now - 7200, now - 3600, ISSUER))?),
        ("not yet", signed(&own, &claims(now + 3600, now + 7200, ISSUER))?),
        ("for somebody else", signed(&own, &claims(now - 60, now + 600, "https://elsewhere"))?),
        ("signed by another key", signed(&foreign, &good)?),
        ("unsigned", format!("{}.{}.", part(&json!({"alg": "none"})), part(&good))),
        ("other claims", format!("{head}.{}.{signature}", part(&other))),
        ("a cut signature", format!("{head}.{body}.{}", &signature[..signature.len() - 8])),
        ("no signature", format!("{head}.{body}")),
        ("nonsense", "a.b.c".to_owned()),
    ] {
        assert_eq!(status(&bad).await?, (401, "Unauthorized".to_owned()), "{what}");
    }
    // A token dies with its account.
    let gone =
        server.request(Some(ADMIN), Method::DELETE, &format!("{accounts}/robot"), "", Vec::new()).await?;
    assert_eq!(gone.status, 200);
    let end = Instant::now() + LIMIT;
    while status(&token).await?.0 != 401 {
        assert!(Instant::now() < end, "the token of a deleted account still works");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

#[tokio::test]
async fn certificates_count_only_from_the_right_authority() -> Result<()> {
    let server = Server::start().await?;
    let right = pki::Ca::load(
        &server.file("clients.crt").display().to_string(),
        &server.file("clients.key").display().to_string(),
    )?;
    let wrong = pki::Ca::new("clients")?;
    for (authority, status) in [(&right, 200), (&wrong, 401)] {
        let cert = authority.issue(pki::Request {
            cn: "admin".to_owned(),
            orgs: vec!["system:masters".to_owned()],
            client: true,
            ..Default::default()
        })?;
        let mut raw = server.raw_with(&cert.cert_pem, &cert.key_pem).await?;
        let said = raw.ask("GET /api/v1/namespaces", "", "", &[]).await?;
        assert_eq!(said.status, status, "{}", said.text());
    }
    Ok(())
}
