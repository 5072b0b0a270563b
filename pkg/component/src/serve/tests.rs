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
