//! A real server on a loopback port, spoken to over real TLS.

use std::time::Duration;

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;

async fn get_tls(addr: SocketAddr, ca_pem: &str, path: &str) -> anyhow::Result<String> {
    let mut roots = rustls::RootCertStore::empty();
    for cert in CertificateDer::pem_slice_iter(ca_pem.as_bytes()) {
        roots.add(cert?)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let name = ServerName::try_from("localhost")?;
    let mut stream = connector.connect(name, TcpStream::connect(addr).await?).await?;
    stream
        .write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes())
        .await?;
    let mut out = String::new();
    stream.read_to_string(&mut out).await?;
    Ok(out)
}

fn write_pair(dir: &str, ca: &pki::Ca) {
    let cert = ca.issue(pki::Request {
        cn: "s".into(),
        dns: vec!["localhost".into()],
        server: true,
        ..Default::default()
    });
    pki::files::write_pair(dir, "x", &cert.unwrap()).unwrap();
}

#[tokio::test]
async fn serves_tls_reloads_certificates_and_drains() {
    tls::install_provider();
    let dir = std::env::temp_dir().join(format!("component-serve-{}", std::process::id()));
    let dir_text = dir.to_string_lossy().into_owned();
    let (first, second) = (pki::Ca::new("first").unwrap(), pki::Ca::new("second").unwrap());
    write_pair(&dir_text, &first);
    let server = Server::new("127.0.0.1", 0)
        .tls(&format!("{dir_text}/x.crt"), &format!("{dir_text}/x.key"), "", "x")
        .health(&Checks::new())
        .metrics()
        .configz("kube-test", serde_json::json!({"a": 1}));
    let bound = server.bind().await.unwrap();
    let addr = bound.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let task = tokio::spawn(bound.run(shutdown.clone()));
    assert!(get_tls(addr, first.cert_pem(), "/healthz").await.unwrap().ends_with("ok"));
    assert!(get_tls(addr, first.cert_pem(), "/configz").await.unwrap().ends_with(r#"{"kube-test":{"a":1}}"#));
    assert!(get_tls(addr, first.cert_pem(), "/metrics").await.unwrap().contains("process_cpu_seconds_total"));

    write_pair(&dir_text, &second);
    let reloaded = async {
        while get_tls(addr, second.cert_pem(), "/livez").await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), reloaded).await.expect("the new certificate is served");
    shutdown.cancel();
    tokio::time::timeout(Duration::from_secs(5), task).await.expect("drains").unwrap().unwrap();
    let _ = std::fs::remove_dir_all(dir);
}

#[tokio::test]
async fn a_taken_port_is_one_clear_line() {
    let first = Server::new("127.0.0.1", 0).bind().await.unwrap();
    let port = first.local_addr().unwrap().port();
    let error = Server::new("127.0.0.1", port).bind().await.err().unwrap();
    let text = format!("{error:#}");
    assert!(text.contains(&format!("127.0.0.1:{port}")) && text.contains("in use"), "{text}");
    assert!(!text.contains('\n'));
}

#[test]
fn cipher_names_are_gos() {
    let options = |names: &[&str]| tls::Options {
        cipher_suites: names.iter().map(|n| (*n).to_owned()).collect(),
        ..Default::default()
    };
    let good =
        ["TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", "TLS_RSA_WITH_AES_128_CBC_SHA", "TLS_AES_128_GCM_SHA256"];
    assert!(options(&good).server_config().is_ok());
    assert!(options(&["TLS_NONE"]).server_config().is_err());
}

/// A plain server with short limits.
async fn short_server(
    connections: usize,
) -> (SocketAddr, CancellationToken, tokio::task::JoinHandle<anyhow::Result<()>>) {
    let short = Duration::from_millis(200);
    let limits = Limits { connections, handshake: short, header: short, ..Limits::default() };
    let bound = Server::new("127.0.0.1", 0).health(&Checks::new()).limits(limits).bind().await.unwrap();
    let (addr, stop) = (bound.local_addr().unwrap(), CancellationToken::new());
    (addr, stop.clone(), tokio::spawn(bound.run(stop)))
}

/// Whether the server ends the connection in time.
async fn ends(mut stream: TcpStream) -> bool {
    let mut sink = Vec::new();
    tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut sink)).await.is_ok()
}

#[tokio::test]
async fn clients_that_stall_are_let_go_and_others_served() {
    let (addr, stop, task) = short_server(2).await;
    let mut head = TcpStream::connect(addr).await.unwrap();
    head.write_all(b"GET /healthz HTTP/1.1\r\nHost:").await.unwrap();
    let silent = TcpStream::connect(addr).await.unwrap();
    // Both places are taken by clients that say nothing more; a third is served as soon as they are let go.
    let mut third = TcpStream::connect(addr).await.unwrap();
    third.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(Duration::from_secs(10), third.read_to_string(&mut answer))
        .await
        .expect("served")
        .unwrap();
    assert!(answer.ends_with("ok"), "{answer}");
    assert!(ends(head).await && ends(silent).await);
    stop.cancel();
    task.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_silent_tls_client_is_let_go() {
    tls::install_provider();
    let limits = Limits { handshake: Duration::from_millis(200), ..Limits::default() };
    let bound = Server::new("127.0.0.1", 0).tls("", "", "", "x").limits(limits).bind().await.unwrap();
    let (addr, stop) = (bound.local_addr().unwrap(), CancellationToken::new());
    let task = tokio::spawn(bound.run(stop.clone()));
    assert!(ends(TcpStream::connect(addr).await.unwrap()).await);
    stop.cancel();
    task.await.unwrap().unwrap();
}

/// CVE-2023-44487: streams that are opened and reset at once end the connection, and cost others nothing.
#[tokio::test]
async fn rapid_resets_end_the_connection() {
    tls::install_provider();
    let bound = Server::new("127.0.0.1", 0).tls("", "", "", "x").health(&Checks::new()).bind().await.unwrap();
    let (addr, stop) = (bound.local_addr().unwrap(), CancellationToken::new());
    let task = tokio::spawn(bound.run(stop.clone()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyServer(provider)))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let name = ServerName::try_from("localhost").unwrap();
    let stream = connector.connect(name, TcpStream::connect(addr).await.unwrap()).await.unwrap();
    let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    for _ in 0..5000 {
        let Ok(ready) = client.clone().ready().await else { break };
        client = ready;
        let request = http::Request::get("https://localhost/healthz").body(()).unwrap();
        let Ok((response, mut body)) = client.send_request(request, true) else { break };
        body.send_reset(h2::Reason::CANCEL);
        drop(response);
    }
    let ended = tokio::time::timeout(Duration::from_secs(10), connection).await.expect("ends").unwrap();
    assert!(ended.is_err(), "the server has enough of it");
    stop.cancel();
    task.await.unwrap().unwrap();
}

#[derive(Debug)]
struct AnyServer(Arc<rustls::crypto::CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: rustls_pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }
    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
