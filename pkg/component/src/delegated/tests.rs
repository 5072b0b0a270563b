//! Certificates and front proxies; reviews are tested where there is an API server.

use super::*;

fn chain(cert: &pki::Cert) -> Vec<CertificateDer<'static>> {
    use rustls_pki_types::pem::PemObject;
    CertificateDer::pem_slice_iter(cert.cert_pem.as_bytes()).collect::<Result<_, _>>().unwrap()
}

fn client_cert(ca: &pki::Ca, cn: &str) -> pki::Cert {
    ca.issue(pki::Request {
        cn: cn.into(),
        orgs: vec!["g1".into(), "g2".into()],
        client: true,
        ..Default::default()
    })
    .unwrap()
}

/// Options by which nobody is let in.
fn nobody() -> AuthOptions {
    AuthOptions {
        client: None,
        always_allow: vec![],
        anonymous: false,
        token_review: false,
        access_review: true,
        client_ca_file: None,
        front_proxy: None,
        published: false,
        token_ttl: Duration::ZERO,
        allow_ttl: Duration::ZERO,
        deny_ttl: Duration::ZERO,
    }
}

#[tokio::test]
async fn a_token_that_nobody_looks_at_counts_as_none() {
    let mut headers = HeaderMap::new();
    headers.insert("authorization", HeaderValue::from_static("Bearer abc"));
    let info = ConnInfo {
        remote: ([127, 0, 0, 1], 1).into(),
        local: None,
        peer_certs: Vec::new().into(),
        secure: true,
        goaway: CancellationToken::new(),
    };
    for (anonymous, token_review, let_in) in [(true, false, true), (false, false, false), (true, true, false)]
    {
        let auth = Auth::new(AuthOptions { anonymous, token_review, ..nobody() }).unwrap();
        let user = auth.authenticate(&info, &headers).await;
        let name = user.ok().map(|u| u.name);
        assert_eq!(name.is_some(), let_in, "anonymous {anonymous}, reviews {token_review}: {name:?}");
    }
}

#[tokio::test]
async fn certificates_of_our_authority_name_users_and_others_do_not() {
    crate::serve::tls::install_provider();
    let dir = std::env::temp_dir().join(format!("component-ca-{}", std::process::id()));
    let path = dir.join("ca.crt").to_string_lossy().into_owned();
    let (ours, theirs) = (pki::Ca::new("ours").unwrap(), pki::Ca::new("theirs").unwrap());
    pki::files::write_public(&path, ours.cert_pem().as_bytes()).unwrap();
    let options = AuthOptions { client_ca_file: Some(path), ..nobody() };
    let auth = Auth::new(options).unwrap();
    let _ = std::fs::remove_dir_all(dir);
    let ask = async |ca: &pki::Ca| {
        let peer_certs = chain(&client_cert(ca, "jane")).into();
        let info = ConnInfo {
            remote: ([127, 0, 0, 1], 1).into(),
            local: None,
            peer_certs,
            secure: true,
            goaway: CancellationToken::new(),
        };
        auth.authenticate(&info, &HeaderMap::new()).await
    };
    let jane = ask(&ours).await.unwrap();
    assert_eq!(
        (jane.name.as_str(), jane.groups),
        ("jane", vec!["g1".into(), "g2".into(), AUTHENTICATED.to_owned()])
    );
    assert!(ask(&theirs).await.is_err());
}

#[test]
fn front_proxies_are_believed_by_their_own_authority_and_name_only() {
    crate::serve::tls::install_provider();
    let (front, clients) = (pki::Ca::new("front").unwrap(), pki::Ca::new("clients").unwrap());
    let ca = ClientCa::empty();
    ca.set_pem(front.cert_pem().as_bytes()).unwrap();
    let list = |s: &str| vec![s.to_owned()];
    let proxy = FrontProxy {
        ca,
        allowed_names: list("front-proxy-client"),
        username: list("X-Remote-User"),
        uid: vec![],
        group: list("X-Remote-Group"),
        extra_prefix: list("X-Remote-Extra-"),
    };
    let mut headers = HeaderMap::new();
    headers.insert("x-remote-user", HeaderValue::from_static("jane"));
    headers.append("x-remote-group", HeaderValue::from_static("a"));
    headers.append("x-remote-group", HeaderValue::from_static("b"));
    headers.insert("x-remote-extra-scopes%2fx", HeaderValue::from_static("v"));
    let user = |ca: &pki::Ca, cn: &str| proxy.user(&chain(&client_cert(ca, cn)), &headers);
    let jane = user(&front, "front-proxy-client").unwrap();
    assert_eq!((jane.name.as_str(), jane.groups), ("jane", vec!["a".to_owned(), "b".to_owned()]));
    assert_eq!(jane.extra["scopes/x"], ["v"]);
    assert!(user(&front, "somebody").is_none());
    assert!(user(&clients, "front-proxy-client").is_none());
}

#[test]
fn paths() {
    for (pattern, path, fits) in
        [("/healthz", "/healthz", true), ("/healthz", "/healthz/x", false), ("/livez/*", "/livez/etcd", true)]
    {
        assert_eq!(path_matches(pattern, path), fits, "{pattern} {path}");
    }
}
