//! Bare HTTP connections: no pool, no redirects, no retries.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http::header::{AUTHORIZATION, HOST};
use http::{HeaderValue, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::target::Target;

pub type Body = Full<Bytes>;

const CONNECT: Duration = Duration::from_secs(10);

/// One connection, or (HTTP/2) one handle on a shared one.
pub struct Connection {
    sender: Sender,
    host: HeaderValue,
    authorization: Option<HeaderValue>,
}

enum Sender {
    Http1(http1::SendRequest<Body>),
    Http2(http2::SendRequest<Body>),
}

/// What came back, when the content does not matter.
pub struct Answer {
    pub status: u16,
    pub bytes: usize,
    /// The begin of the body of a failure, or all of what was asked to be kept.
    pub text: Bytes,
    pub took: Duration,
}

impl Connection {
    pub async fn open(target: &Target, http2: bool) -> Result<Connection> {
        let connect = async {
            let tcp = TcpStream::connect((target.host.as_str(), target.port)).await?;
            tcp.set_nodelay(true)?;
            let sender = match &target.tls {
                None => handshake(TokioIo::new(tcp), http2).await?,
                Some(config) => {
                    let mut config = config.clone();
                    config.alpn_protocols = vec![if http2 { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
                    let name = ServerName::try_from(target.host.clone())?;
                    let tls = TlsConnector::from(Arc::new(config)).connect(name, tcp).await?;
                    handshake(TokioIo::new(tls), http2).await?
                }
            };
            Ok::<_, anyhow::Error>(sender)
        };
        let sender = tokio::time::timeout(CONNECT, connect)
            .await
            .context("connecting takes too long")?
            .with_context(|| format!("connecting to {}", target.authority))?;
        let host = HeaderValue::from_str(&target.authority)?;
        Ok(Connection { sender, host, authorization: target.authorization.clone() })
    }

    /// Another handle on the same HTTP/2 connection.
    pub fn share(&self) -> Option<Connection> {
        let Sender::Http2(sender) = &self.sender else { return None };
        Some(Connection {
            sender: Sender::Http2(sender.clone()),
            host: self.host.clone(),
            authorization: self.authorization.clone(),
        })
    }

    pub async fn send(&mut self, mut request: Request<Body>) -> Result<Response<Incoming>> {
        let headers = request.headers_mut();
        if let Some(value) = &self.authorization {
            headers.insert(AUTHORIZATION, value.clone());
        }
        Ok(match &mut self.sender {
            Sender::Http1(sender) => {
                headers.insert(HOST, self.host.clone());
                sender.ready().await?;
                sender.send_request(request).await?
            }
            Sender::Http2(sender) => {
                // HTTP/2 has the authority in the URI.
                let path = request.uri().path_and_query().map_or("/", |p| p.as_str());
                let uri = format!("https://{}{path}", self.host.to_str().unwrap_or_default());
                *request.uri_mut() = uri.parse()?;
                sender.ready().await?;
                sender.send_request(request).await?
            }
        })
    }

    /// Sends, counts and drops the answer.
    pub async fn exchange(&mut self, request: Request<Body>, keep: bool) -> Result<Answer> {
        let started = Instant::now();
        let response = self.send(request).await?;
        let status = response.status().as_u16();
        let keep = keep || status >= 400;
        let (mut bytes, mut kept) = (0, Vec::new());
        let mut body = response.into_body();
        while let Some(frame) = body.frame().await {
            if let Some(data) = frame?.data_ref() {
                bytes += data.len();
                if keep {
                    kept.extend_from_slice(data);
                }
            }
        }
        Ok(Answer { status, bytes, text: kept.into(), took: started.elapsed() })
    }

    /// Sends and wants success; answers the body.
    pub async fn ok(&mut self, request: Request<Body>) -> Result<Bytes> {
        let what = format!("{} {}", request.method(), request.uri());
        let answer = self.exchange(request, true).await?;
        if answer.status >= 400 {
            bail!("{what}: {} {}", answer.status, String::from_utf8_lossy(&answer.text));
        }
        Ok(answer.text)
    }
}

async fn handshake<T>(io: TokioIo<T>, http2: bool) -> Result<Sender>
where
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    // The connection's task ends with the last handle on it.
    if http2 {
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(4 << 20)
            .initial_connection_window_size(64 << 20)
            .max_frame_size(1 << 20)
            .handshake(io)
            .await?;
        tokio::spawn(connection);
        Ok(Sender::Http2(sender))
    } else {
        let (sender, connection) = http1::Builder::new().max_buf_size(1 << 20).handshake(io).await?;
        tokio::spawn(connection);
        Ok(Sender::Http1(sender))
    }
}

/// A request without a body.
pub fn get(path: &str, accept: &'static str) -> Result<Request<Body>> {
    Ok(Request::get(path).header("accept", accept).body(Body::default())?)
}

/// A request with a JSON (or patch) body.
pub fn with_body(
    method: &str,
    path: &str,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> Result<Request<Body>> {
    Ok(Request::builder()
        .method(method)
        .uri(path)
        .header("accept", "application/json")
        .header("content-type", content_type)
        .body(Body::new(body.into()))?)
}
