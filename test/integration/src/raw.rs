//! HTTP/1.1 by hand over TLS: half requests, odd paths, clients that stop.

use anyhow::{Context, Result, bail};
use rustls::pki_types::ServerName;
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
        let identity = identity.map(|(cert, key)| (cert.as_bytes(), key.as_bytes()));
        let config = pki::trust::client(None, identity)?;
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
