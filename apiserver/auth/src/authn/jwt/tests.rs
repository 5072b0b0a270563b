use super::*;
use crate::keys::PrivateKey;
use api::json;
use std::collections::BTreeMap;

const URL: &str = "https://issuer.example.org";

fn key() -> PrivateKey {
    PrivateKey::from_pem(include_bytes!("../../testdata/ec.pem")).unwrap()
}

fn token(key: &PrivateKey, algorithm: &str, claims: &Value) -> String {
    let header = json!({"alg": algorithm, "kid": key.public().id});
    let part = |v: &Value| URL_SAFE_NO_PAD.encode(v.to_string());
    let signed = format!("{}.{}", part(&header), part(claims));
    let signature = URL_SAFE_NO_PAD.encode(key.sign(signed.as_bytes()).unwrap());
    format!("{signed}.{signature}")
}

/// Knows its keys, so that nobody has to be asked.
fn knowing(issuer: Issuer) -> Issuers {
    let set = json!({"keys": [key().public().to_jwk()]});
    issuer.keys.lock().set = Some(Arc::new(serde_json::from_value(set).unwrap()));
    Issuers::new(vec![issuer])
}

fn claims(more: Value) -> Value {
    let exp = jiff::Timestamp::now().as_second() + 600;
    let mut claims = json!({"iss": URL, "aud": "kubernetes", "exp": exp, "sub": "jane"});
    for (k, v) in more.as_object().unwrap() {
        claims[k] = v.clone();
    }
    claims
}

fn flags() -> OidcOptions {
    OidcOptions {
        issuer_url: URL.into(),
        client_id: "kubernetes".into(),
        username_claim: "sub".into(),
        groups_claim: "groups".into(),
        groups_prefix: "g:".into(),
        required_claims: BTreeMap::from([("team".to_owned(), "a".to_owned())]),
        signing_algorithms: vec!["ES256".into(), "ES384".into()],
        ..OidcOptions::default()
    }
}

#[tokio::test]
async fn tokens_of_the_issuer_are_users() {
    let issuers = knowing(of_flags(&flags()).unwrap());
    let (key, algorithm) = (key(), key().public().algorithm());
    let verify = async |claims: Value| issuers.verify(&token(&key, algorithm, &claims), &[]).await;
    let good = claims(json!({"team": "a", "groups": ["x", "y"], "jti": "7"}));
    let user = verify(good.clone()).await.unwrap().unwrap().user;
    assert_eq!(
        (user.name.as_str(), user.groups.as_slice()),
        ("https://issuer.example.org#jane", &["g:x".to_owned(), "g:y".into()][..])
    );
    assert_eq!(user.extra["authentication.kubernetes.io/credential-id"], ["JTI=7"]);
    for (changed, why) in [
        (json!({"team": "b"}), "required claim team value does not match"),
        (json!({"team": "a", "exp": 1}), "verify token"),
        (json!({"team": "a", "aud": "other"}), "verify token"),
        (json!({"team": "a", "sub": ""}), "no username claim"),
    ] {
        let error = verify(claims(changed)).await.unwrap_err().0;
        assert!(error.contains(why), "{error}");
    }
    // Another one's token is another one's business; one that was tampered with is nobody's.
    assert!(verify(claims(json!({"iss": "https://other"}))).await.unwrap().is_none());
    let mut forged = token(&key, algorithm, &good);
    forged.replace_range(forged.len() - 6.., "AAAAAA");
    assert!(issuers.verify(&forged, &[]).await.is_err());
    let none = token(&key, "HS256", &good);
    assert!(issuers.verify(&none, &[]).await.unwrap_err().0.contains("unsupported algorithm"));
    assert!(issuers.verify("no token", &[]).await.unwrap().is_none());
}

#[tokio::test]
async fn configured_issuers_map_claims_by_expressions() {
    let entry = json!({
        "issuer": {"url": URL, "audiences": ["kubernetes", "second"], "audienceMatchPolicy": "MatchAny"},
        "claimValidationRules": [{"expression": "claims.hd == 'example.org'", "message": "wrong domain"}],
        "claimMappings": {
            "username": {"expression": "'ext:' + claims.sub"},
            "groups": {"claim": "roles", "prefix": ""},
            "uid": {"claim": "sub"},
            "extra": [{"key": "example.org/team", "valueExpression": "claims.?team.orValue('none')"}],
        },
        "userValidationRules": [{"expression": "!user.username.startsWith('system:')"}],
    });
    let issuers = knowing(configured(vec![entry.clone()]).unwrap().remove(0));
    let (key, algorithm) = (key(), key().public().algorithm());
    let verify = async |claims: Value| issuers.verify(&token(&key, algorithm, &claims), &[]).await;
    let user = verify(claims(json!({"hd": "example.org", "roles": "dev"}))).await.unwrap().unwrap().user;
    assert_eq!(
        (user.name.as_str(), user.uid.as_str(), user.groups.as_slice()),
        ("ext:jane", "jane", &["dev".to_owned()][..])
    );
    assert_eq!(user.extra["example.org/team"], ["none"]);
    let error = verify(claims(json!({"hd": "elsewhere"}))).await.unwrap_err().0;
    assert_eq!(error, "oidc: wrong domain");

    let refused = |change: &dyn Fn(&mut Value)| {
        let mut entry = entry.clone();
        change(&mut entry);
        format!("{:#}", configured(vec![entry]).err().unwrap())
    };
    for (error, why) in [
        (refused(&|e| e["issuer"]["url"] = "http://x".into()), "invalid scheme"),
        (refused(&|e| e["issuer"]["audiences"] = json!([])), "at least one"),
        (refused(&|e| e["claimMappings"]["groups"] = json!({"claim": "x"})), "prefix is required"),
        (
            refused(&|e| e["claimMappings"]["username"] = json!({"expression": "claims."})),
            "claimMappings.username",
        ),
        (refused(&|e| e["nope"] = 1.into()), "jwt[0]"),
    ] {
        assert!(error.contains(why), "{error}");
    }
}
