//! Servers outside of the cluster that are asked: who somebody is, what they may do, or to keep a record. A kubeconfig
//! says where they are, whom to believe and how to prove who asks.
//!
//! What fails for a moment (no connection, 429, 5xx) is asked again a few times; redirects are not followed, answers
//! are bounded, and no credential goes into an error.

use anyhow::{Context, bail};
use api::Value;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderValue, Request, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kube::config::{AuthInfo, Cluster, Kubeconfig};
use secrecy::{ExposeSecret, SecretString};
use std::path::Path;
use std::time::Duration;

/// An answer may be this long.
const MAX_ANSWER: usize = 3 << 20;
/// How often one is asked, and the first pause between; each is half as long again as the one before.
const ATTEMPTS: usize = 5;
const PAUSE: Duration = Duration::from_millis(500);

/// One such server.
pub struct Backend {
    url: http::Uri,
    pool: legacy::Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    authorization: Option<HeaderValue>,
    pause: Duration,
}

/// Reads documents of servers that publish something, and believes those whom these authorities do.
pub struct Web {
    pool: legacy::Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

impl Web {
    /// `authorities` is PEM; the system's if it is empty.
    pub fn new(authorities: &[u8]) -> anyhow::Result<Web> {
        let roots = pki::trust::authorities_or_system(authorities)?;
        let https = HttpsConnectorBuilder::new().with_tls_config(pki::trust::client(Some(roots), None)?);
        Ok(Web { pool: pool(https.https_only()) })
    }

    /// One document, within this time.
    pub async fn get(&self, url: &str, limit: Duration) -> Result<Bytes, String> {
        let request = Request::get(url).header(header::USER_AGENT, "kube-apiserver");
        let request = request.body(Full::default()).map_err(|e| format!("{url}: {e}"))?;
        let asking = async {
            let response = self.pool.request(request).await;
            let response = response.map_err(|e| format!("Get {url:?}: {}", innermost(&e)))?;
            if !response.status().is_success() {
                return Err(format!("Get {url:?}: the server answered {}", response.status()));
            }
            let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
            body.map(|b| b.to_bytes()).map_err(|e| format!("Get {url:?}: {e}"))
        };
        tokio::time::timeout(limit, asking)
            .await
            .unwrap_or_else(|_| Err(format!("Get {url:?}: context deadline exceeded")))
    }
}

fn pool(
    https: HttpsConnectorBuilder<hyper_rustls::builderstates::WantsProtocols1>,
) -> legacy::Client<HttpsConnector<HttpConnector>, Full<Bytes>> {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_connect_timeout(Some(Duration::from_secs(30)));
    legacy::Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .build(https.enable_http1().enable_http2().wrap_connector(tcp))
}

/// Data that stands in the file, or in another one.
fn data(inline: Option<&str>, file: Option<&str>) -> anyhow::Result<Option<Vec<u8>>> {
    match (inline, file) {
        (Some(text), _) if !text.is_empty() => Ok(Some(STANDARD.decode(text).context("not base64")?)),
        (_, Some(path)) if !path.is_empty() => {
            Ok(Some(std::fs::read(path).with_context(|| format!("reading {path}"))?))
        }
        _ => Ok(None),
    }
}

/// The cluster and user of the current context, or the only ones there are.
fn chosen(mut config: Kubeconfig) -> (Cluster, AuthInfo) {
    let current = config.current_context.unwrap_or_default();
    let context = config.contexts.into_iter().find(|c| c.name == current).and_then(|c| c.context);
    let (cluster, user) = match context {
        Some(c) => (
            config.clusters.into_iter().find(|n| n.name == c.cluster),
            config.auth_infos.into_iter().find(|n| Some(&n.name) == c.user.as_ref()),
        ),
        None => (config.clusters.pop(), config.auth_infos.pop()),
    };
    let user = user.and_then(|n| n.auth_info).unwrap_or_default();
    (cluster.and_then(|n| n.cluster).unwrap_or_default(), user)
}

impl Backend {
    /// Reads a kubeconfig; all that it names is read now, so that mistakes show at the start.
    pub fn open(path: &Path) -> anyhow::Result<Backend> {
        let config = Kubeconfig::read_from(path).with_context(|| format!("reading {}", path.display()))?;
        Self::new(config).with_context(|| format!("in {}", path.display()))
    }

    fn new(config: Kubeconfig) -> anyhow::Result<Backend> {
        let (cluster, user) = chosen(config);
        let server = cluster.server.filter(|s| !s.is_empty()).context("the kubeconfig names no server")?;
        let authorities = match cluster.insecure_skip_tls_verify {
            Some(true) => None,
            _ => {
                let (inline, file) = (&cluster.certificate_authority_data, &cluster.certificate_authority);
                let bundle = data(inline.as_deref(), file.as_deref())?;
                Some(pki::trust::authorities_or_system(&bundle.unwrap_or_default())?)
            }
        };
        let certificate = data(user.client_certificate_data.as_deref(), user.client_certificate.as_deref())?;
        let key = data(exposed(&user.client_key_data), user.client_key.as_deref())?;
        let config = pki::trust::client(authorities, certificate.as_deref().zip(key.as_deref()))?;
        let url: http::Uri = server.parse().context("the server is no URL")?;
        if !matches!(url.scheme_str(), Some("http" | "https")) || url.host().is_none() {
            bail!("the server {server:?} is no URL");
        }
        let https = HttpsConnectorBuilder::new().with_tls_config(config).https_or_http();
        let https = match cluster.tls_server_name {
            None => https,
            Some(name) => https.with_server_name_resolver(hyper_rustls::FixedServerNameResolver::new(
                name.try_into().context("tls-server-name")?,
            )),
        };
        Ok(Backend { url, pool: pool(https), authorization: authorization(&user)?, pause: PAUSE })
    }

    /// Pauses of another length between attempts.
    pub fn pausing(mut self, pause: Duration) -> Backend {
        self.pause = pause;
        self
    }

    /// Posts an object and reads the answer, within this time.
    pub async fn post(&self, body: &Value, limit: Duration) -> Result<Value, String> {
        let answer = match tokio::time::timeout(limit, self.insist(body)).await {
            Ok(answer) => answer?,
            Err(_) => return Err(format!("Post {:?}: context deadline exceeded", self.url.to_string())),
        };
        serde_json::from_slice(&answer).map_err(|_| "the response is not JSON".to_owned())
    }

    /// Posts an object whose answer does not matter as long as it is a success.
    pub async fn send(&self, body: &Value, limit: Duration) -> Result<(), String> {
        match tokio::time::timeout(limit, self.insist(body)).await {
            Ok(answer) => answer.map(drop),
            Err(_) => Err(format!("Post {:?}: context deadline exceeded", self.url.to_string())),
        }
    }

    async fn insist(&self, body: &Value) -> Result<Bytes, String> {
        let (payload, mut pause) = (Bytes::from(body.to_string()), self.pause);
        let mut attempt = 1;
        loop {
            match self.once(payload.clone()).await {
                Err(Failure { passing: true, .. }) if attempt < ATTEMPTS => {
                    tokio::time::sleep(pause).await;
                    pause = pause.mul_f64(1.5);
                    attempt += 1;
                }
                answer => return answer.map_err(|f| f.why),
            }
        }
    }

    async fn once(&self, payload: Bytes) -> Result<Bytes, Failure> {
        let lasting = |why: String| Failure { passing: false, why };
        let passing = |why: String| Failure { passing: true, why };
        let mut request = Request::post(self.url.clone())
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "application/json, */*")
            .header(header::USER_AGENT, "kube-apiserver");
        if let Some(authorization) = &self.authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        let request = request.body(Full::new(payload)).map_err(|e| lasting(e.to_string()))?;
        let url = self.url.to_string();
        let response = self.pool.request(request).await;
        let response = response.map_err(|e| passing(format!("Post {url:?}: {}", innermost(&e))))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
        let body = body.map_err(|_| passing(format!("Post {url:?}: the response could not be read")))?;
        match status.as_u16() {
            code if status.is_server_error() || code == 429 => {
                Err(passing(format!("the server answered {status}")))
            }
            _ if status.is_success() => Ok(body.to_bytes()),
            _ => Err(lasting(format!("the server answered {status}"))),
        }
    }
}

struct Failure {
    /// Whether it may be better in a moment.
    passing: bool,
    why: String,
}

fn exposed(secret: &Option<SecretString>) -> Option<&str> {
    secret.as_ref().map(ExposeSecret::expose_secret).filter(|text| !text.is_empty())
}

fn authorization(user: &AuthInfo) -> anyhow::Result<Option<HeaderValue>> {
    let token = match (exposed(&user.token), &user.token_file) {
        (Some(token), _) => Some(token.to_owned()),
        (None, Some(path)) => {
            let token = std::fs::read_to_string(path).with_context(|| format!("reading {path}"))?;
            Some(token.trim().to_owned())
        }
        (None, None) => None,
    };
    let text = match (token, &user.username) {
        (Some(token), _) => format!("Bearer {token}"),
        (None, Some(name)) => {
            let password = exposed(&user.password).unwrap_or_default();
            format!("Basic {}", STANDARD.encode(format!("{name}:{password}")))
        }
        (None, None) => return Ok(None),
    };
    let mut value =
        HeaderValue::from_str(&text).map_err(|_| anyhow::anyhow!("the token is no text of a header"))?;
    value.set_sensitive(true);
    Ok(Some(value))
}

/// The reason that has no other behind it.
fn innermost(e: &dyn std::error::Error) -> String {
    let mut last = e;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use api::json;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    /// A server that answers what it is told to, and remembers what it was asked.
    pub(crate) struct Fake {
        pub backend: Backend,
        pub asked: Arc<parking_lot::Mutex<Vec<String>>>,
        _task: tokio_util::task::AbortOnDropHandle<()>,
    }

    pub(crate) async fn fake(
        answers: impl Fn(usize, &Value) -> (u16, Value) + Send + Sync + 'static,
    ) -> Fake {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = Arc::<parking_lot::Mutex<Vec<String>>>::default();
        let (told, count) = (asked.clone(), AtomicUsize::new(0));
        let task = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut read = Vec::new();
                let mut piece = [0; 4096];
                let body = loop {
                    let n = stream.read(&mut piece).await.unwrap();
                    read.extend_from_slice(&piece[..n]);
                    let text = String::from_utf8_lossy(&read).into_owned();
                    if let Some((_, body)) = text.split_once("\r\n\r\n")
                        && let Ok(body) = serde_json::from_str::<Value>(body)
                    {
                        told.lock().push(text.clone());
                        break body;
                    }
                    assert!(n > 0, "{text}");
                };
                let (code, answer) = answers(count.fetch_add(1, Ordering::Relaxed), &body);
                let text = answer.to_string();
                let head = format!(
                    "HTTP/1.1 {code} X\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                    text.len()
                );
                stream.write_all(format!("{head}{text}").as_bytes()).await.unwrap();
            }
        });
        let config = json!({"clusters": [{"name": "c", "cluster": {"server": format!("http://127.0.0.1:{port}/ask?x=1")}}],
            "users": [{"name": "u", "user": {"token": "t0ken"}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}], "current-context": "x"});
        let backend = Backend::new(Kubeconfig::from_yaml(&config.to_string()).unwrap()).unwrap();
        let _task = tokio_util::task::AbortOnDropHandle::new(task);
        Fake { backend: backend.pausing(Duration::from_millis(1)), asked, _task }
    }

    #[tokio::test]
    async fn what_fails_for_a_moment_is_asked_again() {
        let fake = fake(|n, _| if n < 2 { (503, json!({})) } else { (200, json!({"n": n})) }).await;
        let answer = fake.backend.post(&json!({"q": 1}), Duration::from_secs(10)).await.unwrap();
        assert_eq!(answer, json!({"n": 2}));
        let first = fake.asked.lock()[0].to_ascii_lowercase();
        assert!(first.starts_with("post /ask?x=1 http/1.1") && first.contains("authorization: bearer t0ken"));
        let refused = super::tests::fake(|_, _| (403, json!({}))).await;
        let why = refused.backend.post(&json!({}), Duration::from_secs(10)).await.unwrap_err();
        assert!(why.contains("403") && refused.asked.lock().len() == 1, "{why}");
    }

    #[test]
    fn bad_files_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config");
        for text in [
            "clusters: []",
            "clusters: [{name: a, cluster: {server: ftp://x}}]",
            "clusters: [{name: a, cluster: {server: 'https://x', certificate-authority: missing.crt}}]",
            "][",
        ] {
            std::fs::write(&file, text).unwrap();
            assert!(Backend::open(&file).is_err(), "{text}");
        }
        assert!(Backend::open(&folder.path().join("none")).is_err());
    }
}
