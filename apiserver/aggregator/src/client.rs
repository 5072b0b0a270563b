//! Requests to aggregated servers: the front proxy's certificate proves who asks, headers tell for whom.

use crate::resolve;
use crate::service::Place;
use api::registry::Reader;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper_rustls::{FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::time::Duration;

/// A request's body.
pub type Out = UnsyncBoxBody<Bytes, hyper::Error>;
type Pool = legacy::Client<HttpsConnector<HttpConnector>, Out>;

/// Answers to our own questions may be this long.
const MAX_ANSWER: usize = 32 << 20;
/// Who asks when the server itself does.
const SELF: &str = "system:kube-aggregator";

/// `--proxy-client-cert-file` and its key, as they are in the files at one moment.
#[derive(Clone, Debug, Default)]
pub struct Identity {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

impl Identity {
    /// Reads the files; nothing without them.
    pub fn read(files: Option<&(PathBuf, PathBuf)>) -> std::io::Result<Identity> {
        let Some((certificate, key)) = files else { return Ok(Identity::default()) };
        Ok(Identity { certificate: std::fs::read(certificate)?, key: std::fs::read(key)? })
    }

    /// Tells one state of the files from another.
    pub fn hash(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (&self.certificate, &self.key).hash(&mut hasher);
        hasher.finish()
    }
}

/// The ways to one server.
#[derive(Clone, Debug)]
pub struct Client {
    pool: Pool,
    /// Connections that may leave HTTP are never of version 2.
    tunnels: Pool,
}

/// What was said to one of our own questions.
pub struct Said {
    pub status: u16,
    pub media: String,
    pub body: Bytes,
}

impl Client {
    /// A client that believes a server of that name if `bundle` (or the system's authorities) does.
    pub fn new(host: &str, bundle: &[u8], insecure: bool, identity: &Identity) -> Result<Client, String> {
        let config = tls(bundle, insecure, identity).map_err(|e| e.to_string())?;
        let name = ServerName::try_from(host.to_owned()).map_err(|e| e.to_string())?;
        let connector = |tunnel: bool| {
            let mut tcp = HttpConnector::new();
            tcp.enforce_http(false);
            tcp.set_nodelay(true);
            tcp.set_connect_timeout(Some(Duration::from_secs(30)));
            let https = HttpsConnectorBuilder::new()
                .with_tls_config(config.clone())
                .https_only()
                .with_server_name_resolver(FixedServerNameResolver::new(name.clone()));
            let https = https.enable_http1();
            if tunnel { https.wrap_connector(tcp) } else { https.enable_http2().wrap_connector(tcp) }
        };
        let build = |tunnel: bool| {
            legacy::Client::builder(TokioExecutor::new())
                .pool_timer(TokioTimer::new())
                .pool_idle_timeout(Duration::from_secs(90))
                .pool_max_idle_per_host(if tunnel { 0 } else { 25 })
                .build(connector(tunnel))
        };
        Ok(Client { pool: build(false), tunnels: build(true) })
    }

    /// Sends a request whose URI is whole.
    pub async fn send(&self, request: Request<Out>, tunnel: bool) -> Result<Response<Incoming>, String> {
        let pool = if tunnel { &self.tunnels } else { &self.pool };
        pool.request(request).await.map_err(|e| innermost(&e))
    }

    /// A question of our own.
    pub async fn ask(&self, to: &Question<'_>) -> Result<Said, String> {
        let authority = resolve::address(to.reader, to.place, to.routing)?;
        let url = format!("https://{authority}{}", to.path);
        let body = Empty::new().map_err(|never| match never {}).boxed_unsync();
        let mut request = Request::get(&url).body(body).map_err(|e| e.to_string())?;
        let headers = request.headers_mut();
        let accept = HeaderValue::from_str(to.accept).map_err(|e| e.to_string())?;
        headers.insert(header::ACCEPT, accept);
        headers.insert(header::USER_AGENT, HeaderValue::from_static("kube-apiserver"));
        for_user(headers, SELF, "", &[to.group.to_owned()], &BTreeMap::new());
        let asking = async {
            let response = self.send(request, false).await.map_err(|e| format!("Get \"{url}\": {e}"))?;
            let status = response.status().as_u16();
            let media = response.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok());
            let media = media.unwrap_or_default().to_owned();
            let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
            let body = body.map_err(|e| format!("Get \"{url}\": {e}"))?.to_bytes();
            Ok(Said { status, media, body })
        };
        match tokio::time::timeout(to.limit, asking).await {
            Ok(said) => said,
            Err(_) => Err(format!("Get \"{url}\": context deadline exceeded")),
        }
    }
}

/// What [`Client::ask`] asks.
pub struct Question<'a> {
    pub reader: &'a dyn Reader,
    pub place: &'a Place,
    /// Whether endpoints are chosen here rather than by the node's proxy.
    pub routing: bool,
    pub path: &'a str,
    pub accept: &'a str,
    /// In which the server asks.
    pub group: &'a str,
    pub limit: Duration,
}

/// The reason that has no other behind it.
fn innermost(e: &dyn std::error::Error) -> String {
    let mut last = e;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}

/// Tells for whom a request is, and nothing that the client itself said of that.
pub fn for_user(
    headers: &mut HeaderMap,
    name: &str,
    uid: &str,
    groups: &[String],
    extra: &BTreeMap<String, Vec<String>>,
) {
    let claims: Vec<HeaderName> = headers.keys().filter(|k| is_claim(k.as_str())).cloned().collect();
    for claim in claims {
        headers.remove(claim);
    }
    let mut put = |key: &str, value: &str| {
        if let (Ok(key), Ok(value)) = (HeaderName::from_bytes(key.as_bytes()), HeaderValue::from_str(value)) {
            headers.append(key, value);
        }
    };
    put("x-remote-user", name);
    if !uid.is_empty() {
        put("x-remote-uid", uid);
    }
    groups.iter().for_each(|g| put("x-remote-group", g));
    for (key, values) in extra {
        let key = format!("x-remote-extra-{}", escaped(key));
        values.iter().for_each(|v| put(&key, v));
    }
}

fn is_claim(header: &str) -> bool {
    matches!(header, "x-remote-user" | "x-remote-uid" | "x-remote-group")
        || header.starts_with("x-remote-extra-")
}

/// A key as part of a header's name: what cannot stand there is written in hexadecimal.
fn escaped(key: &str) -> String {
    let mut out = String::with_capacity(key.len());
    for b in key.bytes() {
        if b.is_ascii_alphanumeric() || b"!#$&'*+-.^_`|~".contains(&b) {
            out.push(b.into());
        } else {
            out.push_str(&format!("%{b:02X}"));
        }
    }
    out
}

fn tls(bundle: &[u8], insecure: bool, identity: &Identity) -> pki::Result<ClientConfig> {
    let authorities = if insecure { None } else { Some(pki::trust::authorities_or_system(bundle)?) };
    let shown = (!identity.certificate.is_empty()).then_some((&identity.certificate[..], &identity.key[..]));
    pki::trust::client(authorities, shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_told_and_not_believed() {
        let mut headers = HeaderMap::new();
        for claim in ["x-remote-user", "x-remote-group", "x-remote-extra-scopes", "x-remote-uid"] {
            headers.insert(claim, HeaderValue::from_static("forged"));
        }
        let extra = BTreeMap::from([("example.org/scopes".to_owned(), vec!["a".to_owned(), "b".to_owned()])]);
        for_user(&mut headers, "jane", "7", &["x".to_owned(), "y".to_owned()], &extra);
        let all = |name: &str| headers.get_all(name).iter().map(|v| v.to_str().unwrap()).collect::<Vec<_>>();
        assert_eq!(all("x-remote-user"), ["jane"]);
        assert_eq!(all("x-remote-uid"), ["7"]);
        assert_eq!(all("x-remote-group"), ["x", "y"]);
        assert_eq!(all("x-remote-extra-example.org%2fscopes"), ["a", "b"]);
        assert!(all("x-remote-extra-scopes").is_empty());
        for_user(&mut headers, "joe", "", &[], &BTreeMap::new());
        assert!(!headers.contains_key("x-remote-uid") && !headers.contains_key("x-remote-group"));
    }
}
