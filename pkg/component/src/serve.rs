//! Secure serving: what a daemon's HTTPS port is made of, and a ready-made [`Server`] for the daemons whose port carries
//! health, metrics and a few routes. The API server uses the parts: [`tls`] and [`accept`].

pub mod accept;
mod debug;
pub mod tls;
mod zpages;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use anyhow::Context;
use axum::Router;
use axum::routing::get;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::delegated::{Auth, AuthOptions};
use crate::gates::Gates;
use crate::health::Checks;
use crate::{Flags, metrics};

pub use accept::{ConnInfo, Limits};
pub use debug::set_verbosity;
pub use zpages::{flagz_routes, statusz_routes};

/// The flags that [`Server::from_flags`] reads, with their help.
pub const FLAGS: &[(&str, &str)] = &[
    ("bind-address", "Address of the secure port."),
    ("cert-dir", "Folder of a self-signed serving certificate, made when no other is given."),
    ("disable-http2-serving", "Serve HTTP/1.1 only."),
    ("secure-port", "The secure port; 0 is none."),
    ("tls-cert-file", "Serving certificate."),
    ("tls-cipher-suites", "Cipher suites of TLS 1.2."),
    ("tls-min-version", "VersionTLS12 or VersionTLS13."),
    ("tls-private-key-file", "Key of the serving certificate."),
    ("tls-sni-cert-key", "Further certificates, by server name."),
];

/// A daemon's HTTP(S) server.
pub struct Server {
    address: String,
    port: u16,
    tls: Option<tls::Options>,
    limits: Limits,
    sharing: accept::Sharing,
    router: Router,
    auth: Option<AuthOptions>,
    configz: serde_json::Map<String, Value>,
}

impl Server {
    /// A server on this address and port, plain HTTP until [`Server::tls`] is called.
    pub fn new(address: &str, port: u16) -> Server {
        Server {
            address: address.to_owned(),
            port,
            tls: None,
            limits: Limits::default(),
            sharing: accept::Sharing::default(),
            router: Router::new(),
            auth: None,
            configz: serde_json::Map::new(),
        }
    }

    /// The secure server that the standard flags describe (`--bind-address`, `--secure-port`, `--tls-*`, `--cert-dir`,
    /// `--client-ca-file`); `None` when `--secure-port=0`.
    pub fn from_flags(flags: &Flags, name: &str) -> anyhow::Result<Option<Server>> {
        let port =
            u16::try_from(flags.int("secure-port")).context("--secure-port must be between 0 and 65535")?;
        if port == 0 {
            return Ok(None);
        }
        let server = Server::new(flags.str("bind-address"), port);
        let limits = Limits::from_flags(flags);
        let on = |f: &str| flags.has(f) && flags.bool(f);
        let sharing =
            accept::Sharing { port: on("permit-port-sharing"), address: on("permit-address-sharing") };
        Ok(Some(Server { tls: Some(tls::Options::from_flags(flags, name)?), limits, sharing, ..server }))
    }

    /// Serves TLS with these files; when none are given, with `<cert_dir>/<name>.crt` and `.key`, made if missing, or
    /// with a certificate in memory if there is no directory either.
    #[must_use]
    pub fn tls(mut self, cert_file: &str, key_file: &str, cert_dir: &str, name: &str) -> Server {
        let mut options = self.tls.take().unwrap_or_default();
        options.cert_file = cert_file.to_owned();
        options.key_file = key_file.to_owned();
        options.cert_dir = cert_dir.to_owned();
        options.name = name.to_owned();
        self.tls = Some(options);
        self
    }

    /// TLS settings in full.
    #[must_use]
    pub fn tls_options(mut self, options: tls::Options) -> Server {
        self.tls = Some(options);
        self
    }

    /// Connection limits other than the default.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Server {
        self.limits = limits;
        self
    }

    /// `/healthz`, `/livez` and `/readyz`, all of the same checks.
    #[must_use]
    pub fn health(self, checks: &Checks) -> Server {
        let routes = checks.routes("healthz").merge(checks.routes("livez")).merge(checks.routes("readyz"));
        self.routes(routes)
    }

    /// `/metrics`.
    #[must_use]
    pub fn metrics(self) -> Server {
        let handler =
            async || ([(http::header::CONTENT_TYPE, metrics::CONTENT_TYPE)], metrics::registry().render());
        self.routes(Router::new().route("/metrics", get(handler)))
    }

    /// `/configz`: a component's effective configuration under its name.
    #[must_use]
    pub fn configz(mut self, name: &str, config: Value) -> Server {
        self.configz.insert(name.to_owned(), config);
        self
    }

    /// `/debug/flags/v`, `/version`.
    #[must_use]
    pub fn debug(self) -> Server {
        self.routes(debug::routes())
    }

    /// `/statusz` and `/flagz`, as far as their feature gates are on; `paths` is what `/statusz` lists.
    #[must_use]
    pub fn zpages(self, flags: &Flags, gates: &Gates, paths: &[&str]) -> Server {
        self.routes(zpages(flags, gates, paths))
    }

    /// Further routes.
    #[must_use]
    pub fn routes(mut self, routes: Router) -> Server {
        self.router = self.router.merge(routes);
        self
    }

    /// Every path but `always_allow` needs a user whom the API server knows and allows it to.
    #[must_use]
    pub fn delegated_auth(mut self, client: kube::Client, always_allow: Vec<String>) -> Server {
        self.auth = Some(AuthOptions::new(client, always_allow));
        self
    }

    /// As [`Server::delegated_auth`], with every setting.
    #[must_use]
    pub fn auth(mut self, options: AuthOptions) -> Server {
        self.auth = Some(options);
        self
    }

    /// Opens the port; errors are one clear line.
    pub async fn bind(self) -> anyhow::Result<Bound> {
        let ip: IpAddr =
            self.address.parse().with_context(|| format!("invalid bind address {:?}", self.address))?;
        let address = SocketAddr::new(ip, self.port);
        let listener = accept::bind_shared(address, self.sharing).await?;
        Ok(Bound { server: self, listener })
    }

    /// Opens the port and serves until shutdown.
    pub async fn run(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        self.bind().await?.run(shutdown).await
    }

    fn finish(&mut self) -> Router {
        if !self.configz.is_empty() {
            let body = Value::Object(std::mem::take(&mut self.configz));
            let handler = move || std::future::ready(axum::Json(body.clone()));
            self.router = std::mem::take(&mut self.router).route("/configz", get(handler));
        }
        std::mem::take(&mut self.router)
    }
}

/// `/statusz` and `/flagz`, as far as their feature gates are on; `paths` is what `/statusz` lists.
pub fn zpages(flags: &Flags, gates: &Gates, paths: &[&str]) -> Router {
    let mut router = Router::new();
    if gates.enabled("ComponentStatusz") {
        router = router.merge(zpages::statusz_routes(flags.component(), paths));
    }
    if gates.enabled("ComponentFlagz") {
        router = router.merge(zpages::flagz_routes(flags.component(), flags));
    }
    router
}

/// A server whose port is open and not served yet.
pub struct Bound {
    server: Server,
    listener: TcpListener,
}

impl Bound {
    /// Where it listens; with port 0 the kernel has chosen.
    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until shutdown, then drains.
    pub async fn run(mut self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let router = self.server.finish();
        let auth = match self.server.auth.take() {
            Some(options) => Some(Arc::new(Auth::new(options)?)),
            None => None,
        };
        let router = match auth.clone() {
            Some(auth) => router.layer(axum::middleware::from_fn(move |request, next| {
                let auth = auth.clone();
                async move { auth.guard(request, next).await }
            })),
            None => router,
        };
        let router = router.layer(axum::middleware::from_fn(traced));
        let acceptor = match &self.server.tls {
            Some(options) => Some(options.acceptor()?),
            None => None,
        };
        let address = self.local_addr()?;
        tracing::info!(%address, secure = acceptor.is_some(), "Serving");
        let follow = async {
            if let Some(auth) = &auth {
                auth.follow(shutdown.clone()).await;
            }
        };
        tokio::join!(
            accept::serve(self.listener, acceptor, router, self.server.limits, shutdown.clone()),
            follow
        );
        Ok(())
    }
}

/// A span around each request, named by its route.
async fn traced(request: axum::extract::Request, next: axum::middleware::Next) -> axum::response::Response {
    let route = request.extensions().get::<axum::extract::MatchedPath>().map_or("", |p| p.as_str());
    let span = crate::traces::begin(request.method(), route, request.headers());
    let response = next.run(request).await;
    if let Some(span) = span {
        span.finish(response.status());
    }
    response
}

#[cfg(test)]
mod tests;
