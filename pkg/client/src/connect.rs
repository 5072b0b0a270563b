//! A connection to the API server: kubeconfig or in-cluster, HTTP/2, rotating credentials, limited rate.

mod identity;
mod transport;

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, header};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kube::client::{ClientBuilder, ConfigExt};
use kube::config::{KubeConfigOptions, Kubeconfig};
use tower::{BoxError, ServiceBuilder, ServiceExt};

use crate::limit::{LimitLayer, TokenBucket};
use identity::RotatingIdentity;
use transport::{Http, Transport};

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The kubeconfig is not usable.
    #[error("error loading kubeconfig {path:?}: {source}")]
    Kubeconfig {
        /// The file.
        path: String,
        /// Why.
        source: Box<kube::config::KubeconfigError>,
    },
    /// Not in a cluster either.
    #[error("unable to load in-cluster configuration: {0}")]
    InCluster(Box<kube::config::InClusterError>),
    /// `--master` is no URL.
    #[error("invalid API server address {0:?}")]
    Master(String),
    /// A client certificate or authority is not usable.
    #[error("{0}")]
    Credentials(String),
}

/// Connects as a kubeconfig says, or as a pod's service account if there is none; `master` overrides the server's URL.
///
/// A `qps` of zero or less is no limit. Token files and client certificate files are read again when they change.
pub async fn connect(
    kubeconfig_path: Option<&str>,
    master: Option<&str>,
    user_agent: &str,
    qps: f64,
    burst: u32,
) -> Result<kube::Client, ConnectError> {
    let config = config(kubeconfig_path, master).await?;
    from_config(config, user_agent, qps, burst)
}

/// A client of the same server without any credentials: for callers that add their own to each request.
pub async fn connect_anonymous(
    kubeconfig_path: Option<&str>,
    master: Option<&str>,
    user_agent: &str,
) -> Result<kube::Client, ConnectError> {
    let mut config = config(kubeconfig_path, master).await?;
    config.auth_info = Default::default();
    from_config(config, user_agent, 0.0, 0)
}

async fn config(kubeconfig_path: Option<&str>, master: Option<&str>) -> Result<kube::Config, ConnectError> {
    let master = master.filter(|m| !m.is_empty());
    let mut config = match (kubeconfig_path.filter(|p| !p.is_empty()), master) {
        (Some(path), _) => load(path).await?,
        (None, Some(url)) => kube::Config::new(parse_url(url)?),
        (None, None) => kube::Config::incluster().map_err(|e| ConnectError::InCluster(Box::new(e)))?,
    };
    if let Some(url) = master {
        config.cluster_url = parse_url(url)?;
    }
    Ok(config)
}

async fn load(path: &str) -> Result<kube::Config, ConnectError> {
    let wrap = |source| ConnectError::Kubeconfig { path: path.to_owned(), source: Box::new(source) };
    let kubeconfig = Kubeconfig::read_from(path).map_err(wrap)?;
    kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.map_err(wrap)
}

fn parse_url(url: &str) -> Result<http::Uri, ConnectError> {
    let full = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
    full.parse().map_err(|_| ConnectError::Master(url.to_owned()))
}

/// A client of a configuration that has been read already.
pub fn from_config(
    config: kube::Config,
    user_agent: &str,
    qps: f64,
    burst: u32,
) -> Result<kube::Client, ConnectError> {
    Connection::new(config, user_agent)?.client(qps, burst)
}

/// What clients of one identity share. Each has a rate limit of its own, so that a burst of one sort of requests holds
/// up no other.
pub struct Connection {
    config: kube::Config,
    host: Arc<str>,
    transport: Transport,
}

impl Connection {
    /// As a kubeconfig says.
    pub async fn open(kubeconfig_path: &str, user_agent: &str) -> Result<Connection, ConnectError> {
        Connection::new(config(Some(kubeconfig_path), None).await?, user_agent)
    }

    fn new(mut config: kube::Config, user_agent: &str) -> Result<Connection, ConnectError> {
        component::serve::tls::install_provider();
        let agent = HeaderValue::from_str(user_agent).map_err(|e| bad(&e))?;
        config.headers.push((header::USER_AGENT, agent));
        let mut tls = config.rustls_client_config().map_err(|e| bad(&e))?;
        let mut identity = None;
        if let (Some(cert), Some(key)) = (&config.auth_info.client_certificate, &config.auth_info.client_key)
        {
            let files = Arc::new(RotatingIdentity::files(cert, key).map_err(|e| bad(&format!("{e:#}")))?);
            tls.client_auth_cert_resolver = files.clone();
            // A resumed session would go on with the certificate that it began with.
            tls.resumption = rustls::client::Resumption::disabled();
            identity = Some(files);
        }
        let mut tcp = hyper_util::client::legacy::connect::HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(Duration::from_secs(30)));
        tcp.set_keepalive(Some(Duration::from_secs(30)));
        let mut https = hyper_rustls::HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http();
        if let Some(name) = &config.tls_server_name {
            let name = rustls_pki_types::ServerName::try_from(name.clone()).map_err(|e| bad(&e))?;
            https = https.with_server_name_resolver(hyper_rustls::FixedServerNameResolver::new(name));
        }
        let connector = https.enable_http1().enable_http2().wrap_connector(tcp);
        let host = config.cluster_url.authority().map(|a| a.as_str()).unwrap_or_default().into();
        Ok(Connection { config, host, transport: Transport::new(identity, move || pool(connector.clone())) })
    }

    /// A client that asks `qps` times a second, and `burst` times at once; zero or less is no limit.
    pub fn client(&self, qps: f64, burst: u32) -> Result<kube::Client, ConnectError> {
        let limit = LimitLayer { bucket: TokenBucket::new(qps, burst), host: self.host.clone() };
        let service = ServiceBuilder::new()
            .layer(self.config.base_uri_layer())
            .option_layer(self.config.auth_layer().map_err(|e| bad(&e))?)
            .layer(self.config.extra_headers_layer().map_err(|e| bad(&e))?)
            .layer(limit)
            .map_err(BoxError::from)
            .service(self.transport.clone());
        Ok(ClientBuilder::new(service.boxed(), self.config.default_namespace.clone()).build())
    }
}

fn bad(why: &dyn std::fmt::Display) -> ConnectError {
    ConnectError::Credentials(why.to_string())
}

fn pool(connector: hyper_rustls::HttpsConnector<hyper_util::client::legacy::connect::HttpConnector>) -> Http {
    hyper_util::client::legacy::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        // A connection whose other end has vanished is found within 45 seconds, as in client-go.
        .http2_keep_alive_interval(Duration::from_secs(30))
        .http2_keep_alive_timeout(Duration::from_secs(15))
        .http2_adaptive_window(true)
        .build(connector)
}

#[cfg(test)]
mod tests;
