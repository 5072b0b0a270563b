//! A tiny aggregated server: says what it was asked, by whom, and echoes on upgraded connections.

use anyhow::{Context, Result};
use rustls::RootCertStore;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// The group that it serves, in version `v1`.
pub const GROUP: &str = "cats.example.org";
const V2: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// A running server; it ends with its value.
pub struct Extension {
    pub port: u16,
    /// What a client has to believe.
    pub authority: String,
    heads: Arc<Mutex<Vec<String>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Extension {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Extension {
    /// Starts one with the name `host`, for clients with certificates of `clients`.
    pub async fn start(host: &str, clients: &str) -> Result<Extension> {
        let ca = pki::Ca::new("extension")?;
        let request =
            pki::Request { cn: host.into(), dns: vec![host.into()], server: true, ..Default::default() };
        let cert = ca.issue(request)?;
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(clients.as_bytes())?)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build()?;
        let chain =
            CertificateDer::pem_slice_iter(cert.cert_pem.as_bytes()).collect::<Result<Vec<_>, _>>()?;
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, PrivateKeyDer::from_pem_slice(cert.key_pem.as_bytes())?)?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let heads = Arc::<Mutex<Vec<String>>>::default();
        let (acceptor, told) = (TlsAcceptor::from(Arc::new(config)), heads.clone());
        let task = tokio::spawn(async move {
            let mut open = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, told) = (acceptor.clone(), told.clone());
                open.spawn(async move {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        let _ = converse(stream, &told).await;
                    }
                });
            }
        });
        Ok(Extension { port, authority: ca.cert_pem().to_owned(), heads, task })
    }

    /// The head of the last request for a path, in lower case.
    pub fn asked(&self, path: &str) -> Result<String> {
        let heads = self.heads.lock().unwrap_or_else(PoisonError::into_inner);
        let found = heads.iter().rev().find(|h| h.split(' ').nth(1) == Some(path));
        found.cloned().with_context(|| format!("{path} was never asked for"))
    }
}

async fn converse(mut stream: TlsStream<TcpStream>, told: &Mutex<Vec<String>>) -> Result<()> {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await?);
        }
        let head = String::from_utf8_lossy(&head).to_lowercase();
        told.lock().unwrap_or_else(PoisonError::into_inner).push(head.clone());
        let length = head.lines().find_map(|l| l.strip_prefix("content-length: ")?.parse::<usize>().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        stream.read_exact(&mut body).await?;
        if head.contains("upgrade: websocket") {
            stream
                .write_all(
                    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
                )
                .await?;
            let mut piece = vec![0; 1024];
            loop {
                let n = stream.read(&mut piece).await?;
                if n == 0 {
                    return Ok(());
                }
                stream.write_all(&piece[..n]).await?;
                stream.flush().await?;
            }
        }
        let path = head.split(' ').nth(1).unwrap_or_default();
        let (status, media, body) = answer(path, &head, &body);
        let more = if status == "302 Found" { "Location: https://elsewhere.example.org/\r\n" } else { "" };
        let text = format!(
            "HTTP/1.1 {status}\r\nContent-Type: {media}\r\n{more}Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(text.as_bytes()).await?;
        stream.flush().await?;
    }
}

fn answer(path: &str, head: &str, body: &[u8]) -> (&'static str, &'static str, String) {
    let json_media = "application/json";
    let kind = json!({"group": GROUP, "version": "v1", "kind": "Cat"});
    let own = format!("/apis/{GROUP}/v1");
    let said: Value = match path {
        "/apis" if head.contains("as=apigroupdiscoverylist") => {
            let list = json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "items": [
                {"metadata": {"name": GROUP}, "versions": [{"version": "v1", "resources": [
                    {"resource": "cats", "responseKind": kind, "scope": "Namespaced", "singularResource": "cat", "verbs": ["get", "list"]}]}]}]});
            return ("200 OK", V2, list.to_string());
        }
        "/openapi/v2" => json!({"swagger": "2.0", "paths": {
                (format!("{own}/cats")): {"get": {"responses": {"200": {"schema": {"$ref": "#/definitions/Cat"}}}}}, "/version/": {}},
            "definitions": {"Cat": {"type": "object"}, "Dog": {"type": "object"}}}),
        "/openapi/v3" => json!({"paths": {
            (own.trim_start_matches('/')): {"serverRelativeURL": format!("/openapi/v3{own}?hash=1")}, "version": {"serverRelativeURL": "/x"}}}),
        p if p == own => {
            json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": format!("{GROUP}/v1"), "resources": [
            {"name": "cats", "singularName": "cat", "namespaced": true, "kind": "Cat", "verbs": ["get", "list"]}]})
        }
        p if p.ends_with("/moved") => return ("302 Found", json_media, String::new()),
        p if p.starts_with(&own) || p.starts_with("/openapi/v3/") => {
            json!({"kind": "Echo", "path": path, "body": String::from_utf8_lossy(body)})
        }
        _ => return ("404 Not Found", json_media, "{}".to_owned()),
    };
    ("200 OK", json_media, said.to_string())
}
