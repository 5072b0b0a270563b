//! HTTP requests of probes and lifecycle hooks: one connection each, certificates not verified.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::HTTPGetAction;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// The most of an answer's body that is read.
const MAX_BODY: usize = 10 << 10;
/// How often a redirect is followed.
const MAX_REDIRECTS: usize = 10;

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub body: String,
    /// A redirect that leads to another host is not followed.
    pub foreign_redirect: bool,
}

/// Where to send a request.
#[derive(Debug, Clone)]
pub struct Target {
    pub tls: bool,
    pub host: String,
    pub port: u16,
    pub path: String,
    pub headers: Vec<(String, String)>,
}

impl Target {
    /// From a probe's or hook's action; `port` has been looked up.
    pub fn new(action: &HTTPGetAction, default_host: &str, port: u16) -> Self {
        let headers =
            action.http_headers.iter().flatten().map(|h| (h.name.clone(), h.value.clone())).collect();
        let path = action.path.as_deref().unwrap_or("/");
        Self {
            tls: action.scheme.as_deref().is_some_and(|s| s.eq_ignore_ascii_case("https")),
            host: action.host.clone().filter(|h| !h.is_empty()).unwrap_or_else(|| default_host.to_string()),
            port,
            path: if path.starts_with('/') { path.to_string() } else { format!("/{path}") },
            headers,
        }
    }

    /// From a URL.
    pub fn of_url(url: &str, headers: Vec<(String, String)>) -> Result<Self, String> {
        let uri: Uri = url.parse().map_err(|e| format!("parse {url:?}: {e}"))?;
        let tls = uri.scheme_str() == Some("https");
        let host = uri.host().ok_or_else(|| format!("parse {url:?}: no host"))?;
        Ok(Self {
            tls,
            host: host.trim_matches(['[', ']']).to_string(),
            port: uri.port_u16().unwrap_or(if tls { 443 } else { 80 }),
            path: uri.path_and_query().map_or("/".into(), |p| p.to_string()),
            headers,
        })
    }

    /// The same without TLS, and without what only a secret way may carry.
    pub fn in_the_clear(&self) -> Self {
        let mut plain = self.clone();
        plain.tls = false;
        plain.headers.retain(|(name, _)| !name.eq_ignore_ascii_case("authorization"));
        plain
    }

    /// Host and port.
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        format!("{host}:{}", self.port)
    }

    /// The URL, for messages.
    pub fn url(&self) -> String {
        format!("{}://{}{}", if self.tls { "https" } else { "http" }, self.authority(), self.path)
    }
}

/// Sends a GET and follows redirects on the same host.
pub async fn get(target: &Target, timeout: Duration, agent: &str) -> Result<Answer, String> {
    get_up_to(target, timeout, agent, MAX_BODY).await
}

/// As [`get`], with as much of the body as `most` allows.
pub async fn get_up_to(
    target: &Target,
    timeout: Duration,
    agent: &str,
    most: usize,
) -> Result<Answer, String> {
    let url = target.url();
    match tokio::time::timeout(timeout, follow(target.clone(), agent, most)).await {
        Ok(result) => result.map_err(|error| format!("Get {url:?}: {error}")),
        Err(_) => Err(format!(
            "Get {url:?}: context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
        )),
    }
}

async fn follow(mut target: Target, agent: &str, most: usize) -> Result<Answer, String> {
    for _ in 0..MAX_REDIRECTS {
        let (status, location, body) = once(&target, agent, most).await?;
        let redirect = matches!(status, 301 | 302 | 303 | 307 | 308);
        let Some(location) = location.filter(|_| redirect) else {
            return Ok(Answer { status, body, foreign_redirect: false });
        };
        let uri: Uri = location.parse().map_err(|_| format!("bad redirect to {location:?}"))?;
        if let Some(host) = uri.host() {
            if host.trim_matches(['[', ']']) != target.host {
                return Ok(Answer { status, body, foreign_redirect: true });
            }
            target.tls = uri.scheme_str() == Some("https");
            target.port = uri.port_u16().unwrap_or(if target.tls { 443 } else { 80 });
        }
        target.path = uri.path_and_query().map_or("/".into(), |p| p.to_string());
    }
    Err("stopped after 10 redirects".into())
}

async fn once(target: &Target, agent: &str, most: usize) -> Result<(u16, Option<String>, String), String> {
    let address = target.authority();
    let dial = TcpStream::connect((target.host.as_str(), target.port)).await;
    let stream = dial.map_err(|e| format!("dial tcp {address}: connect: {}", reason(&e)))?;
    let _ = stream.set_nodelay(true);
    if target.tls {
        let connector = tokio_rustls::TlsConnector::from(insecure_tls());
        let name = rustls::pki_types::ServerName::try_from(target.host.clone()).map_err(|e| e.to_string())?;
        let stream = connector.connect(name, stream).await.map_err(|e| tls_words(&e))?;
        exchange(target, stream, agent, most).await
    } else {
        exchange(target, stream, agent, most).await
    }
}

/// What a client of TLS says of a server that answers in plain HTTP.
pub const HTTP_ANSWER: &str = "http: server gave HTTP response to HTTPS client";

fn tls_words(error: &std::io::Error) -> String {
    let inner = error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>());
    match inner {
        Some(rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType)) => HTTP_ANSWER.into(),
        _ => error.to_string(),
    }
}

/// The words of a failed connection as people know them.
pub fn reason(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "connection refused".into(),
        std::io::ErrorKind::HostUnreachable => "no route to host".into(),
        std::io::ErrorKind::NetworkUnreachable => "network is unreachable".into(),
        _ => error.to_string(),
    }
}

async fn exchange<S>(
    target: &Target,
    stream: S,
    agent: &str,
    most: usize,
) -> Result<(u16, Option<String>, String), String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    let mut request =
        Request::get(target.path.as_str()).body(Empty::<Bytes>::new()).map_err(|e| e.to_string())?;
    let headers = request.headers_mut();
    let mut defaults = vec![
        ("host", target.authority()),
        ("user-agent", agent.to_string()),
        ("accept", "*/*".into()),
        ("connection", "close".into()),
    ];
    defaults.retain(|(name, _)| !target.headers.iter().any(|(own, _)| own.eq_ignore_ascii_case(name)));
    for (name, value) in
        defaults.iter().map(|(n, v)| (*n, v)).chain(target.headers.iter().map(|(n, v)| (n.as_str(), v)))
    {
        let name: HeaderName = name.parse().map_err(|_| format!("invalid header name {name:?}"))?;
        let value: HeaderValue = value.parse().map_err(|_| format!("invalid header value {value:?}"))?;
        // An empty Accept asks that none be sent.
        if !(name == http::header::ACCEPT && value.is_empty()) {
            headers.append(name, value);
        }
    }
    let talk = async {
        let reply = sender.send_request(request).await.map_err(|e| e.to_string())?;
        let status = reply.status().as_u16();
        let location = reply.headers().get("location").and_then(|l| l.to_str().ok()).map(str::to_string);
        let body = read_some(reply.into_body(), most).await;
        Ok((status, location, body))
    };
    // The connection has to be driven; when it is over, what it brought is still to be read.
    let drive = async {
        let _ = connection.await;
        std::future::pending::<std::convert::Infallible>().await
    };
    tokio::select! {
        result = talk => result,
        never = drive => match never {},
    }
}

/// The beginning of a body; what could be read of a broken one.
async fn read_some(body: hyper::body::Incoming, most: usize) -> String {
    let mut body = Limited::new(body, most);
    let mut out = Vec::new();
    while let Some(Ok(frame)) = body.frame().await {
        if let Ok(data) = frame.into_data() {
            out.extend_from_slice(&data);
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// TLS that takes any certificate: probes ask whether it answers, not who it is. So the certificate is not even read, as
/// `pki::trust` would: servers with one of version 1 are alive, too.
fn insecure_tls() -> Arc<rustls::ClientConfig> {
    static CONFIG: std::sync::LazyLock<Arc<rustls::ClientConfig>> = std::sync::LazyLock::new(|| {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = Arc::new(AnyCertificate(provider.clone()));
        let config =
            rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = match config {
            Ok(builder) => {
                builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth()
            }
            // The provider supports the default versions, always.
            Err(error) => panic!("TLS provider: {error}"),
        };
        Arc::new(config)
    });
    CONFIG.clone()
}

#[derive(Debug)]
struct AnyCertificate(Arc<rustls::crypto::CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: &rustls::pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
