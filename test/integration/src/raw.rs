//! HTTP/1.1 by hand over TLS: half requests, odd paths, clients that stop.

use anyhow::{Context, Result, bail};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use serde_json::Value;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// One connection.
pub struct Raw(TlsStream<TcpStream>);

/// An answer as it stood on the wire.
#[derive(Debug)]
pub struct Said {
    pub status: u16,
    /// Status line and headers, in lower case.
    pub head: String,
    pub body: Vec<u8>,
}

impl Said {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    pub fn reason(&self) -> String {
        self.json()["reason"].as_str().unwrap_or_default().to_owned()
    }
}

impl Raw {
    pub(crate) async fn connect(port: u16, identity: Option<(&str, &str)>) -> Result<Raw> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Any(provider)));
        let config = match identity {
            Some((cert, key)) => {
                let chain = CertificateDer::pem_slice_iter(cert.as_bytes()).collect::<Result<Vec<_>, _>>()?;
                builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(key.as_bytes())?)?
            }
            None => builder.with_no_client_auth(),
        };
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        let name = ServerName::try_from("localhost")?;
        Ok(Raw(TlsConnector::from(Arc::new(config)).connect(name, stream).await?))
    }

    pub async fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.0.write_all(bytes).await?;
        Ok(self.0.flush().await?)
    }

    /// The next bytes; none at the end.
    pub async fn read(&mut self) -> Result<Vec<u8>> {
        let mut piece = vec![0; 16 * 1024];
        let n = self.0.read(&mut piece).await?;
        piece.truncate(n);
        Ok(piece)
    }

    /// Sends a request with a token (none if it is empty) and reads the one answer.
    pub async fn ask(&mut self, line: &str, token: &str, headers: &str, body: &[u8]) -> Result<Said> {
        let token =
            if token.is_empty() { String::new() } else { format!("Authorization: Bearer {token}\r\n") };
        let length =
            if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
        let head = format!("{line} HTTP/1.1\r\nHost: localhost\r\n{token}{length}{headers}\r\n");
        self.send(head.as_bytes()).await?;
        if !body.is_empty() {
            // A server that has heard enough may stop reading: its answer is there all the same.
            let _ = self.send(body).await;
        }
        self.answer().await
    }

    /// Reads one answer with a length, or a chunked one to its end.
    pub async fn answer(&mut self) -> Result<Said> {
        let mut all = Vec::new();
        let end = loop {
            if let Some(i) = all.windows(4).position(|w| w == b"\r\n\r\n") {
                break i + 4;
            }
            let piece = self.read().await.context("reading the head of an answer")?;
            if piece.is_empty() {
                bail!("the connection ended before an answer: {:?}", String::from_utf8_lossy(&all));
            }
            all.extend(piece);
        };
        let head = String::from_utf8_lossy(&all[..end]).to_lowercase();
        let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).context("a status line")?;
        let mut body = all.split_off(end);
        let length =
            head.lines().find_map(|l| l.strip_prefix("content-length: ")?.trim().parse::<usize>().ok());
        let chunked = head.contains("transfer-encoding: chunked");
        while length.is_some_and(|n| body.len() < n) || (chunked && !body.ends_with(b"0\r\n\r\n")) {
            let piece = self.read().await?;
            if piece.is_empty() {
                break;
            }
            body.extend(piece);
        }
        Ok(Said { status, head, body })
    }
}

/// Believes any server: these tests look at clients.
#[derive(Debug)]
struct Any(Arc<rustls::crypto::CryptoProvider>);

impl ServerCertVerifier for Any {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
