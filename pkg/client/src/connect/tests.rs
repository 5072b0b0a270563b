//! A client over real TLS to a real server.

use axum::Router;
use axum::extract::Request;
use axum::routing::get;
use component::delegated::User;
use component::serve::{ConnInfo, Server};
use tokio_util::sync::CancellationToken;

use super::*;

/// Says who the connection's certificate is, and over which HTTP.
async fn who(request: Request) -> String {
    let info = request.extensions().get::<ConnInfo>().cloned();
    let user = info.and_then(|i| User::from_certificate(i.peer_certs.first()?)).unwrap_or_default();
    let agent =
        request.headers().get("user-agent").and_then(|a| a.to_str().ok()).unwrap_or_default().to_owned();
    format!("{} {:?} {agent}", user.name, request.version())
}

async fn ask(client: &kube::Client) -> String {
    client.request_text(http::Request::get("/who").body(Vec::new()).unwrap()).await.unwrap()
}

#[tokio::test]
async fn http2_with_certificates_that_rotate() {
    let dir = std::env::temp_dir().join(format!("client-connect-{}", std::process::id()));
    let dir_text = dir.to_string_lossy().into_owned();
    let path = |name: &str| format!("{dir_text}/{name}");
    let ca = pki::Ca::new("kubernetes").unwrap();
    let issue = |cn: &str| {
        let request = pki::Request {
            cn: cn.into(),
            client: true,
            server: true,
            ips: vec!["127.0.0.1".parse().unwrap()],
            ..Default::default()
        };
        ca.issue(request).unwrap()
    };
    pki::files::write_pair(&dir_text, "server", &issue("server")).unwrap();
    pki::files::write_pair(&dir_text, "client", &issue("one")).unwrap();
    component::serve::tls::install_provider();
    let server = Server::new("127.0.0.1", 0).tls(&path("server.crt"), &path("server.key"), "", "x");
    let bound = server.routes(Router::new().route("/who", get(who))).bind().await.unwrap();
    let url = format!("https://{}", bound.local_addr().unwrap());
    let stop = CancellationToken::new();
    let task = tokio::spawn(bound.run(stop.clone()));

    let kubeconfig = pki::Kubeconfig {
        cert_files: Some((&path("client.crt"), &path("client.key"))),
        ..pki::Kubeconfig::new(&url, ca.cert_pem())
    }
    .render();
    pki::files::write_secret(&path("kubeconfig"), kubeconfig.as_bytes()).unwrap();
    let client = connect(Some(&path("kubeconfig")), None, "kube-test/v1", 0.0, 1).await.unwrap();
    assert_eq!(ask(&client).await, "one HTTP/2.0 kube-test/v1");
    pki::files::write_pair(&dir_text, "client", &issue("two")).unwrap();
    let rotated = async {
        while !ask(&client).await.starts_with("two ") {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), rotated).await.expect("the new certificate is used");
    assert!(connect(Some("/nonexistent"), None, "x", 0.0, 1).await.is_err());

    let connection = Connection::open(&path("kubeconfig"), "kube-test/v1").await.unwrap();
    let (slow, free) = (connection.client(0.001, 1).unwrap(), connection.client(0.0, 0).unwrap());
    ask(&slow).await;
    let waits = tokio::spawn(async move { ask(&slow).await });
    let asked = tokio::time::timeout(Duration::from_secs(10), ask(&free)).await;
    asked.expect("a client whose limit is used up holds up no other");
    assert!(!waits.is_finished());
    waits.abort();
    drop((client, free, connection));
    stop.cancel();
    task.await.unwrap().unwrap();
    let _ = std::fs::remove_dir_all(dir);
}

#[tokio::test(start_paused = true)]
async fn the_rate_is_limited_in_order() {
    let bucket = TokenBucket::new(10.0, 2);
    let begin = tokio::time::Instant::now();
    for _ in 0..12 {
        bucket.wait().await;
    }
    let took = begin.elapsed().as_secs_f64();
    assert!((0.9..1.2).contains(&took), "{took}");
}
