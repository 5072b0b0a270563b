use super::*;
use crate::service_account::{self, Issuer};
use crate::testing::FakeRegistry;
use api::{Value, json};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use std::path::PathBuf;

const ISSUER: &str = "https://kubernetes.default.svc";

struct Bed {
    dir: tempfile::TempDir,
    registry: Arc<FakeRegistry>,
    options: Options,
    issuer: Option<Arc<Issuer>>,
}

impl Bed {
    fn new() -> Self {
        Bed {
            dir: tempfile::tempdir().unwrap(),
            registry: FakeRegistry::new(),
            options: Options {
                service_account_lookup: true,
                anonymous_auth: Some(false),
                ..Default::default()
            },
            issuer: None,
        }
    }
    fn file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }
    fn chain(&self) -> Chain {
        build(&self.options, self.issuer.clone(), self.registry.clone(), None).unwrap()
    }
    async fn ask(&self, headers: &[(&'static str, &str)], peer: Option<&PeerCertificates>) -> Outcome {
        ask(&self.chain(), headers, peer).await
    }
}

async fn ask(chain: &Chain, headers: &[(&'static str, &str)], peer: Option<&PeerCertificates>) -> Outcome {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(*name, value.parse().unwrap());
    }
    chain.authenticate(&Request { headers: &map, peer, path: "/api" }).await
}

fn peer(cert: &pki::Cert) -> PeerCertificates {
    let ders = pem::parse_many(&cert.cert_pem).unwrap();
    PeerCertificates::new(ders.into_iter().map(|p| p.into_contents().into()).collect())
}

fn client(ca: &pki::Ca, cn: &str, org: &str) -> PeerCertificates {
    let request = pki::Request { cn: cn.into(), orgs: vec![org.into()], client: true, ..Default::default() };
    peer(&ca.issue(request).unwrap())
}

#[tokio::test]
async fn certificates_name_user_and_groups_and_cas_do_not_mix() {
    let (clients, proxies) = (pki::Ca::new("clients").unwrap(), pki::Ca::new("proxies").unwrap());
    let mut bed = Bed::new();
    bed.options.client_ca_file = Some(bed.file("ca.crt", clients.cert_pem()));
    bed.options.request_header = Some(RequestHeaderOptions {
        client_ca_file: bed.file("front.crt", proxies.cert_pem()),
        allowed_names: vec!["front".into()],
        username_headers: vec!["X-Remote-User".into()],
        uid_headers: vec!["X-Remote-Uid".into()],
        group_headers: vec!["X-Remote-Group".into()],
        extra_headers_prefix: vec!["X-Remote-Extra-".into()],
    });
    let alice = bed.ask(&[], Some(&client(&clients, "alice", "dev"))).await.unwrap().unwrap().user;
    assert_eq!(
        (alice.name.as_str(), &alice.groups[..]),
        ("alice", &["dev".into(), ALL_AUTHENTICATED.into()][..])
    );
    assert!(alice.extra("authentication.kubernetes.io/credential-id").unwrap().starts_with("X509SHA256="));

    let asserted = [("x-remote-user", "bob"), ("x-remote-group", "g"), ("x-remote-extra-a%2fb", "v")];
    let bob = bed.ask(&asserted, Some(&client(&proxies, "front", "o"))).await.unwrap().unwrap().user;
    assert_eq!((bob.name.as_str(), bob.extra("a/b")), ("bob", Some("v")));

    // A client certificate never vouches for others, a proxy of another name neither, a proxy is no user.
    let alice = bed.ask(&asserted, Some(&client(&clients, "front", "o"))).await.unwrap().unwrap().user;
    assert_eq!(alice.name, "front");
    assert!(bed.ask(&asserted, Some(&client(&proxies, "back", "o"))).await.is_err());
    assert!(bed.ask(&[], Some(&client(&proxies, "front", "o"))).await.is_err());
    // A server's certificate is not a client's.
    let server = pki::Request { cn: "s".into(), server: true, ..Default::default() };
    assert!(bed.ask(&[], Some(&peer(&clients.issue(server).unwrap()))).await.is_err());

    let chain = bed.chain();
    let mut headers = HeaderMap::new();
    for (k, v) in asserted.iter().chain(&[("authorization", "Bearer x"), ("accept", "a")]) {
        headers.insert(*k, v.parse().unwrap());
    }
    chain.strip_credentials(&mut headers);
    assert_eq!(headers.keys().map(|k| k.as_str()).collect::<Vec<_>>(), ["accept"]);
}

#[tokio::test]
async fn a_rotated_client_ca_counts_without_restart() {
    let (old, new) = (pki::Ca::new("old").unwrap(), pki::Ca::new("new").unwrap());
    let bed = Bed::new();
    let path = bed.file("ca.crt", old.cert_pem());
    let certificates = ClientCertificates::open(&path).unwrap();
    let bob = client(&new, "bob", "o");
    let headers = HeaderMap::new();
    let request = Request { headers: &headers, peer: Some(&bob), path: "/" };
    assert!(certificates.authenticate(&request).await.is_err());
    bed.file("ca.crt", new.cert_pem());
    certificates.reload();
    assert!(certificates.authenticate(&request).await.unwrap().is_some());
}

#[tokio::test]
async fn static_tokens() {
    let mut bed = Bed::new();
    bed.options.token_auth_file = Some(bed.file("t", "secret,alice,u1,\"a,b\"\n\nplain,bob,u2\n"));
    let alice = bed.ask(&[("authorization", "Bearer secret")], None).await.unwrap().unwrap().user;
    assert_eq!((alice.uid.as_str(), &alice.groups[..2]), ("u1", &["a".to_owned(), "b".into()][..]));
    assert!(bed.ask(&[("authorization", "Bearer wrong")], None).await.is_err());
    assert!(bed.ask(&[], None).await.unwrap().is_none());
    let protocol = format!("base64url.bearer.authorization.k8s.io.{}", URL_SAFE_NO_PAD.encode("plain"));
    let upgrade = [("upgrade", "websocket"), ("sec-websocket-protocol", protocol.as_str())];
    assert_eq!(bed.ask(&upgrade, None).await.unwrap().unwrap().user.name, "bob");
    let broken = TokenFile::open(&bed.file("broken", "ok,a,b\nno,\n")).err().unwrap();
    assert!(format!("{broken:#}").contains("line 2: token file must have at least 3 columns"), "{broken:#}");
}

#[tokio::test]
async fn bootstrap_tokens() {
    let encode = |s: &str| STANDARD.encode(s);
    let secret = |expiration: &str, usage: &str, groups: &str| {
        json!({"metadata": {"name": "bootstrap-token-abcdef", "namespace": "kube-system"},
            "type": "bootstrap.kubernetes.io/token",
            "data": {"token-id": encode("abcdef"), "token-secret": encode("0123456789abcdef"),
                "expiration": encode(expiration), "usage-bootstrap-authentication": encode(usage),
                "auth-extra-groups": encode(groups)}})
    };
    let good = "system:bootstrappers:kubeadm:default-node-token";
    for (object, token, accepted) in [
        (secret("2999-01-01T00:00:00Z", "true", good), "abcdef.0123456789abcdef", true),
        (secret("", "true", ""), "abcdef.0123456789abcdef", true),
        (secret("2001-01-01T00:00:00Z", "true", good), "abcdef.0123456789abcdef", false),
        (secret("", "false", good), "abcdef.0123456789abcdef", false),
        (secret("", "true", "system:masters"), "abcdef.0123456789abcdef", false),
        (secret("", "true", good), "abcdef.0123456789abcdeX", false),
    ] {
        let mut bed = Bed::new();
        bed.options.bootstrap_token = true;
        bed.registry.put(("", "secrets"), object);
        let outcome = bed.ask(&[("authorization", &format!("Bearer {token}"))], None).await;
        assert_eq!(outcome.is_ok(), accepted, "{token} {outcome:?}");
        if let Ok(Some(found)) = outcome {
            assert_eq!(found.user.name, "system:bootstrap:abcdef");
            assert!(found.user.in_group("system:bootstrappers"));
        }
    }
}

fn service_account_bed() -> Bed {
    let mut bed = Bed::new();
    let key = bed.file("sa.key", include_str!("../testdata/rsa.pem"));
    let options = service_account::Options {
        key_files: vec![key.clone()],
        signing_key_file: Some(key),
        issuers: vec![ISSUER.into()],
        ..Default::default()
    };
    bed.issuer = Issuer::open(&options).unwrap().map(Arc::new);
    let meta = |name: &str, uid: &str| json!({"name": name, "namespace": "ns", "uid": uid});
    bed.registry.put(("", "serviceaccounts"), json!({"metadata": meta("sa", "sa-uid")}));
    bed.registry.put(("", "pods"), json!({"metadata": meta("p", "p-uid")}));
    bed
}

fn claims(change: &dyn Fn(&mut Value)) -> Value {
    let now = jiff::Timestamp::now().as_second();
    let mut claims = json!({
        "iss": ISSUER, "sub": "system:serviceaccount:ns:sa", "aud": [ISSUER], "iat": now, "nbf": now,
        "exp": now + 600, "jti": "j",
        "kubernetes.io": {"namespace": "ns", "serviceaccount": {"name": "sa", "uid": "sa-uid"},
            "pod": {"name": "p", "uid": "p-uid"}},
    });
    change(&mut claims);
    claims
}

#[tokio::test]
async fn service_account_tokens_die_with_what_they_are_bound_to() {
    let now = jiff::Timestamp::now().as_second();
    type Case = (&'static str, Box<dyn Fn(&mut Value)>, Option<&'static str>);
    let cases: Vec<Case> = vec![
        ("good", Box::new(|_| {}), None),
        ("expired", Box::new(move |c| c["exp"] = (now - 3600).into()), Some("expired")),
        ("early", Box::new(move |c| c["nbf"] = (now + 3600).into()), Some("not valid yet")),
        ("audience", Box::new(|c| c["aud"] = json!(["vault"])), Some("is invalid for the target audiences")),
        ("issuer", Box::new(|c| c["iss"] = "https://evil".into()), Some("invalid bearer token")),
        (
            "sa uid",
            Box::new(|c| c["kubernetes.io"]["serviceaccount"]["uid"] = "x".into()),
            Some("service account UID (sa-uid) does not match claim (x)"),
        ),
        ("pod uid", Box::new(|c| c["kubernetes.io"]["pod"]["uid"] = "x".into()), Some("pod UID")),
        ("pod gone", Box::new(|c| c["kubernetes.io"]["pod"]["name"] = "x".into()), Some("invalidated")),
        ("no audience", Box::new(|c| drop(c.as_object_mut().unwrap().remove("aud"))), None),
    ];
    let bed = service_account_bed();
    for (name, change, expected) in cases {
        let token = bed.issuer.as_ref().unwrap().sign(&claims(&*change)).unwrap();
        let outcome = bed.ask(&[("authorization", &format!("Bearer {token}"))], None).await;
        match expected {
            None => {
                let user = outcome.unwrap().unwrap().user;
                assert_eq!(user.name, "system:serviceaccount:ns:sa", "{name}");
                assert!(user.in_group("system:serviceaccounts:ns"));
                assert_eq!(user.extra("authentication.kubernetes.io/pod-name"), Some("p"));
                assert_eq!(user.extra("authentication.kubernetes.io/credential-id"), Some("JTI=j"));
            }
            Some(part) => {
                let error = outcome.map(|_| ()).unwrap_err().0;
                assert!(error.contains(part), "{name}: {error}");
            }
        }
    }
}

#[tokio::test]
async fn forged_tokens_are_refused() {
    let bed = service_account_bed();
    let token = bed.issuer.as_ref().unwrap().sign(&claims(&|_| {})).unwrap();
    let parts: Vec<&str> = token.split('.').collect();
    let other =
        URL_SAFE_NO_PAD.encode(claims(&|c| c["sub"] = "system:serviceaccount:ns:root".into()).to_string());
    let none = URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#);
    let hmac = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256"}"#);
    for forged in [
        format!("{}.{other}.{}", parts[0], parts[2]),
        format!("{none}.{}.", parts[1]),
        format!("{hmac}.{}.{}", parts[1], parts[2]),
        format!("{}.{}.{}x", parts[0], parts[1], parts[2]),
    ] {
        assert!(bed.ask(&[("authorization", &format!("Bearer {forged}"))], None).await.is_err(), "{forged}");
    }
}

#[tokio::test]
async fn token_review_looks_at_other_audiences() {
    let bed = service_account_bed();
    let token = bed.issuer.as_ref().unwrap().sign(&claims(&|c| c["aud"] = json!(["vault", "x"]))).unwrap();
    let chain = bed.chain();
    let found = chain.authenticate_token(&token, &["vault".into()]).await.unwrap().unwrap();
    assert_eq!(found.audiences, ["vault"]);
    assert!(chain.authenticate_token(&token, &[]).await.is_err());
}

#[tokio::test]
async fn plain_tokens_are_good_for_the_server_itself_only() {
    let mut bed = service_account_bed();
    bed.options.token_auth_file = Some(bed.file("t", "secret,alice,u1\n"));
    let chain = bed.chain();
    let own = chain.authenticate_token("secret", &[]).await.unwrap().unwrap().audiences;
    assert!(!own.is_empty());
    let asked = [own[0].clone(), "vault".into()];
    let found = chain.authenticate_token("secret", &asked).await.unwrap().unwrap();
    assert_eq!(found.audiences, own[..1]);
    assert!(chain.authenticate_token("secret", &["vault".into()]).await.is_ok_and(|found| found.is_none()));
}

#[tokio::test]
async fn anonymous_only_where_it_is_allowed() {
    let mut bed = Bed::new();
    bed.options.anonymous_auth = None;
    assert_eq!(bed.ask(&[], None).await.unwrap().unwrap().user.name, "system:anonymous");
    let config = "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\nanonymous:\n  enabled: true\n  conditions:\n  - path: /livez\n";
    bed.options.authentication_config = Some(bed.file("c", config));
    assert!(bed.ask(&[], None).await.unwrap().is_none());
    let headers = HeaderMap::new();
    let livez = Request { headers: &headers, peer: None, path: "/livez" };
    assert!(bed.chain().authenticate(&livez).await.unwrap().is_some());
    bed.options.anonymous_auth = Some(true);
    assert!(build(&bed.options, None, bed.registry.clone(), None).is_err());
}
