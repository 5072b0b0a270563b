//! Calls to webhooks over TLS. Connections are kept for reuse, redirects are not followed, bodies are
//! bounded, and nothing of a body goes into an error.

use super::hooks::Hook;
use crate::live::fetch;
use crate::objects::{at, items, text};
use api::Value;
use api::registry::Registry;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

const MAX_RESPONSE: usize = 16 * 1024 * 1024;
/// Idle connections to one webhook, and webhooks whose connections are kept.
const IDLE_EACH: usize = 8;
const ENDPOINTS: usize = 200;

/// A connection and the task that drives it.
struct Link {
    sender: SendRequest<Full<Bytes>>,
    _driver: AbortOnDropHandle<()>,
}

/// Where a webhook is.
struct Endpoint {
    /// What is dialled.
    address: String,
    /// What the certificate must be for.
    server_name: String,
    /// `host:port` of the URL.
    authority: String,
    path: String,
    roots: Vec<u8>,
}

/// The connections to all webhooks of a server.
#[derive(Default)]
pub struct Clients {
    idle: Mutex<HashMap<String, Vec<Link>>>,
}

impl Clients {
    /// Posts a review and reads the answer, within the hook's time.
    pub async fn call(&self, registry: &dyn Registry, hook: &Hook, body: &Value) -> Result<Value, String> {
        self.post(registry, &hook.client_config, hook.timeout, body).await
    }

    /// Posts to wherever a `clientConfig` points.
    pub async fn post(
        &self,
        registry: &dyn Registry,
        client_config: &Value,
        timeout: Duration,
        body: &Value,
    ) -> Result<Value, String> {
        let endpoint = endpoint(registry, client_config).await?;
        let seconds = timeout.as_secs();
        let path = match endpoint.path.contains('?') {
            true => format!("{}&timeout={seconds}s", endpoint.path),
            false => format!("{}?timeout={seconds}s", endpoint.path),
        };
        let url = format!("Post \"https://{}{path}\"", endpoint.authority);
        let payload = Bytes::from(body.to_string());
        match tokio::time::timeout(timeout, self.exchange(&endpoint, &path, payload)).await {
            Err(_) => Err(format!("{url}: context deadline exceeded")),
            Ok(Err(why)) => Err(format!("{url}: {why}")),
            Ok(Ok(answer)) => Ok(answer),
        }
    }

    async fn exchange(&self, endpoint: &Endpoint, path: &str, payload: Bytes) -> Result<Value, String> {
        let key = format!("{}|{}|{}", endpoint.address, endpoint.server_name, hash(&endpoint.roots));
        let request = || {
            Request::post(path)
                .header(header::HOST, &endpoint.authority)
                .header(header::CONTENT_TYPE, "application/json")
                .header(header::ACCEPT, "application/json, */*")
                .header(header::USER_AGENT, "kube-apiserver-admission")
                .body(Full::new(payload.clone()))
                .map_err(|e| e.to_string())
        };
        let reused = match self.take(&key).await {
            None => None,
            // An idle connection may have been closed at the other end: then a fresh one is tried.
            Some(mut link) => link.sender.send_request(request()?).await.ok().map(|r| (link, r)),
        };
        let (link, response) = match reused {
            Some(done) => done,
            None => {
                let mut link = connect(endpoint).await?;
                let response = link.sender.send_request(request()?).await.map_err(|e| e.to_string())?;
                (link, response)
            }
        };
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_RESPONSE).collect().await;
        let body = body.map_err(|_| "the response could not be read or is too large".to_owned())?.to_bytes();
        self.put_back(key, link);
        if !status.is_success() {
            return Err(status_text(status));
        }
        serde_json::from_slice(&body).map_err(|_| "the response is not JSON".to_owned())
    }

    async fn take(&self, key: &str) -> Option<Link> {
        loop {
            let mut link = self.idle.lock().get_mut(key)?.pop()?;
            if link.sender.ready().await.is_ok() {
                return Some(link);
            }
        }
    }

    fn put_back(&self, key: String, link: Link) {
        if link.sender.is_closed() {
            return;
        }
        let mut idle = self.idle.lock();
        if idle.len() >= ENDPOINTS && !idle.contains_key(&key) {
            idle.clear();
        }
        let links = idle.entry(key).or_default();
        links.retain(|l| !l.sender.is_closed());
        if links.len() < IDLE_EACH {
            links.push(link);
        }
    }
}

fn status_text(status: http::StatusCode) -> String {
    match status.as_u16() {
        404 => "the server could not find the requested resource".into(),
        503 => "the server is currently unable to handle the request".into(),
        500 => "an error on the server (\"\") has prevented the request from succeeding".into(),
        code => {
            format!("the server responded with the status code {code} but did not return more information")
        }
    }
}

fn hash(bytes: &[u8]) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}

async fn connect(endpoint: &Endpoint) -> Result<Link, String> {
    let tcp = TcpStream::connect(&endpoint.address)
        .await
        .map_err(|e| format!("dial tcp {}: connect: {}", endpoint.address, plain(&e)))?;
    let _ = tcp.set_nodelay(true);
    let name = ServerName::try_from(endpoint.server_name.clone()).map_err(|e| e.to_string())?;
    let config = tls(&endpoint.roots).map_err(|e| e.to_string())?;
    let stream = TlsConnector::from(config).connect(name, tcp).await.map_err(|e| format!("tls: {e}"))?;
    let (sender, driver) = handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    let driver = AbortOnDropHandle::new(tokio::spawn(async move {
        let _ = driver.await;
    }));
    Ok(Link { sender, _driver: driver })
}

fn plain(e: &std::io::Error) -> String {
    match e.kind() {
        std::io::ErrorKind::ConnectionRefused => "connection refused".into(),
        _ => e.to_string(),
    }
}

/// Believes the hook's own authorities, or the system's if it names none.
fn tls(bundle: &[u8]) -> pki::Result<Arc<ClientConfig>> {
    let mut config = pki::trust::client(Some(pki::trust::authorities_or_system(bundle)?), None)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

async fn endpoint(registry: &dyn Registry, config: &Value) -> Result<Endpoint, String> {
    let roots = STANDARD.decode(text(config, &["caBundle"])).map_err(|e| format!("caBundle: {e}"))?;
    let service = at(config, &["service"]);
    if service.is_object() {
        let (name, namespace) = (text(service, &["name"]), text(service, &["namespace"]));
        let port = at(service, &["port"]).as_u64().filter(|p| *p != 0).unwrap_or(443);
        let server_name = format!("{name}.{namespace}.svc");
        let path = text(service, &["path"]);
        return Ok(Endpoint {
            address: resolve(registry, namespace, name, port).await?,
            authority: format!("{server_name}:{port}"),
            server_name,
            path: if path.is_empty() { "/".to_owned() } else { path.to_owned() },
            roots,
        });
    }
    let url = text(config, &["url"]);
    if url.is_empty() {
        return Err("webhook configuration must have either service or URL".into());
    }
    let uri: http::Uri = url.parse().map_err(|e| format!("Unparsable URL: {e}"))?;
    let host = uri
        .host()
        .filter(|_| uri.scheme_str() == Some("https"))
        .ok_or("the URL of a webhook must be https")?;
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let port = uri.port_u16().unwrap_or(443);
    Ok(Endpoint {
        address: if bare.contains(':') { format!("[{bare}]:{port}") } else { format!("{bare}:{port}") },
        server_name: bare.to_owned(),
        authority: uri.authority().map_or_else(String::new, ToString::to_string),
        path: uri.path_and_query().map_or("/", |p| p.as_str()).to_owned(),
        roots,
    })
}

/// The cluster address of a service, which the node's proxy takes further.
async fn resolve(registry: &dyn Registry, namespace: &str, name: &str, port: u64) -> Result<String, String> {
    let service = fetch(registry, ("", "services"), namespace, name).await.map_err(|e| e.message)?;
    if text(&service, &["spec", "type"]) == "ExternalName" {
        return Ok(format!("{}:{port}", text(&service, &["spec", "externalName"])));
    }
    let listens = items(&service, &["spec", "ports"]).iter().any(|p| at(p, &["port"]).as_u64() == Some(port));
    if !listens {
        return Err(format!(
            "service {name:?} does not have port {port}: no service port {port} found for service {name:?}"
        ));
    }
    match text(&service, &["spec", "clusterIP"]) {
        "" | "None" => Err(format!("no endpoints available for service {name:?}")),
        ip if ip.contains(':') => Ok(format!("[{ip}]:{port}")),
        ip => Ok(format!("{ip}:{port}")),
    }
}
