//! Delegated authentication and authorization: a daemon that has users asks the API server who they are
//! (TokenReview) and what they may do (SubjectAccessReview), and remembers the answers for a while.
//!
//! Client certificates are verified here, against `--client-ca-file` and the authorities that the API server publishes
//! in `kube-system/extension-apiserver-authentication`; so are the headers of an authenticating front proxy.

mod cache;
mod headers;
mod published;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::middleware::Next;
use axum::response::Response;
use http::{HeaderMap, HeaderValue, Request, StatusCode, header};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::authorization::v1::{
    NonResourceAttributes, ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use kube::Api;
use kube::api::PostParams;
use rustls_pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use crate::Flags;
use crate::serve::ConnInfo;
use crate::serve::tls::ClientCa;
use cache::Cache;
pub use headers::FrontProxy;

/// The group of everybody who is somebody.
pub const AUTHENTICATED: &str = "system:authenticated";
/// The group of everybody else.
pub const UNAUTHENTICATED: &str = "system:unauthenticated";
const PRIVILEGED: &str = "system:masters";

/// Who sent a request; handlers find it among the request's extensions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// User name.
    pub name: String,
    /// UID, often empty.
    pub uid: String,
    /// Groups.
    pub groups: Vec<String>,
    /// Further facts.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl User {
    /// `system:anonymous`.
    pub fn anonymous() -> User {
        User { name: "system:anonymous".into(), groups: vec![UNAUTHENTICATED.into()], ..User::default() }
    }

    /// The user of a verified client certificate: common name and organizations.
    pub fn from_certificate(cert: &CertificateDer<'_>) -> Option<User> {
        let (_, parsed) = x509_parser::parse_x509_certificate(cert).ok()?;
        let text = |a: &x509_parser::x509::AttributeTypeAndValue<'_>| a.as_str().map(str::to_owned).ok();
        let name = parsed.subject().iter_common_name().filter_map(text).last()?;
        let groups = parsed.subject().iter_organization().filter_map(text).collect();
        let id = format!("X509SHA256={}", hex(&Sha256::digest(cert)));
        let extra = BTreeMap::from([("authentication.kubernetes.io/credential-id".to_owned(), vec![id])]);
        (!name.is_empty()).then_some(User { name, uid: String::new(), groups, extra })
    }

    fn authenticated(mut self) -> User {
        let known = |g: &String| g == AUTHENTICATED || g == UNAUTHENTICATED;
        if !self.groups.iter().any(known) {
            self.groups.push(AUTHENTICATED.to_owned());
        }
        self
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// What a user wants to do.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Attributes {
    /// A path that is no resource.
    Path {
        /// `get`, `post`, …
        verb: String,
        /// The URL path.
        path: String,
    },
    /// A resource of the API (kubelet: `nodes/proxy` and its kin).
    Resource {
        /// `get`, `create`, …
        verb: String,
        /// API group.
        group: String,
        /// API version.
        version: String,
        /// Plural.
        resource: String,
        /// Subresource, or empty.
        subresource: String,
        /// Object's name, or empty.
        name: String,
    },
}

/// The flags that [`AuthOptions::from_flags`] reads, with their help, and the two that name its client's kubeconfig;
/// [`FRONT_PROXY_FLAGS`] beside them.
pub const FLAGS: &[(&str, &str)] = &[
    ("authentication-kubeconfig", "Kubeconfig for asking the API server who a token belongs to."),
    ("authentication-skip-lookup", "Do not read the authentication settings that the API server publishes."),
    ("authentication-token-webhook-cache-ttl", "How long a token's user is remembered."),
    ("authorization-always-allow-paths", "Paths that need no authorization."),
    ("authorization-kubeconfig", "Kubeconfig for asking the API server what a user may do."),
    ("authorization-webhook-cache-authorized-ttl", "How long a permission is remembered."),
    ("authorization-webhook-cache-unauthorized-ttl", "How long a refusal is remembered."),
    ("client-ca-file", "Authorities of client certificates."),
];

/// The flags that say which front proxies are believed, and in which headers they speak, with their help.
pub const FRONT_PROXY_FLAGS: &[(&str, &str)] = &[
    ("requestheader-allowed-names", "Common names of front proxies; any if empty."),
    ("requestheader-client-ca-file", "Authorities of front proxies' certificates."),
    ("requestheader-extra-headers-prefix", "Prefixes of headers with a user's extra attributes."),
    ("requestheader-group-headers", "Headers with a user's groups."),
    ("requestheader-uid-headers", "Headers with a user's UID."),
    ("requestheader-username-headers", "Headers with a user's name."),
];

/// The settings of [`Auth`].
pub struct AuthOptions {
    /// Asks the API server; without it tokens are unknown and nobody is allowed anything.
    pub client: Option<kube::Client>,
    /// Paths that need no authorization; `*` at the end matches any rest.
    pub always_allow: Vec<String>,
    /// Requests without credentials are `system:anonymous` rather than refused.
    pub anonymous: bool,
    /// Ask TokenReview for bearer tokens.
    pub token_review: bool,
    /// Ask SubjectAccessReview; otherwise every authenticated user may do everything.
    pub access_review: bool,
    /// Client certificate authorities.
    pub client_ca_file: Option<String>,
    /// A front proxy to believe and the file of its authorities, where they are not those that the API server publishes.
    pub front_proxy: Option<(String, FrontProxy)>,
    /// Read the authorities that the API server publishes.
    pub published: bool,
    /// How long a token's user is remembered.
    pub token_ttl: Duration,
    /// How long a yes is remembered.
    pub allow_ttl: Duration,
    /// How long a no is remembered.
    pub deny_ttl: Duration,
}

impl AuthOptions {
    /// Upstream's defaults for a control-plane daemon.
    pub fn new(client: kube::Client, always_allow: Vec<String>) -> AuthOptions {
        AuthOptions {
            client: Some(client),
            always_allow,
            anonymous: true,
            token_review: true,
            access_review: true,
            client_ca_file: None,
            front_proxy: None,
            published: true,
            token_ttl: Duration::from_secs(10),
            allow_ttl: Duration::from_secs(10),
            deny_ttl: Duration::from_secs(10),
        }
    }

    /// As the standard flags say; `None` as client means that neither `--authentication-kubeconfig` nor
    /// `--authorization-kubeconfig` was given.
    pub fn from_flags(flags: &Flags, client: Option<kube::Client>) -> AuthOptions {
        let front_proxy = flags.opt("requestheader-client-ca-file").map(|path| {
            let proxy = FrontProxy {
                ca: ClientCa::empty(),
                allowed_names: flags.list("requestheader-allowed-names"),
                username: flags.list("requestheader-username-headers"),
                uid: flags.list("requestheader-uid-headers"),
                group: flags.list("requestheader-group-headers"),
                extra_prefix: flags.list("requestheader-extra-headers-prefix"),
            };
            (path.to_owned(), proxy)
        });
        AuthOptions {
            token_review: client.is_some(),
            access_review: true,
            published: client.is_some() && !flags.bool("authentication-skip-lookup"),
            client,
            always_allow: flags.list("authorization-always-allow-paths"),
            anonymous: true,
            client_ca_file: flags.opt("client-ca-file").map(str::to_owned),
            front_proxy,
            token_ttl: flags.duration("authentication-token-webhook-cache-ttl"),
            allow_ttl: flags.duration("authorization-webhook-cache-authorized-ttl"),
            deny_ttl: flags.duration("authorization-webhook-cache-unauthorized-ttl"),
        }
    }
}

/// Authenticates and authorizes requests.
pub struct Auth {
    options: AuthOptions,
    client_ca: Option<ClientCa>,
    published: Arc<published::Published>,
    tokens: Cache<[u8; 32], Option<User>>,
    decisions: Cache<(String, Vec<String>, Attributes), Decision>,
}

/// Whether something is allowed, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Allowed.
    pub allowed: bool,
    /// Why, for the message of a refusal.
    pub reason: String,
}

/// Why there is no user.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// The credentials are no good.
    #[error("Unauthorized")]
    Unauthorized,
    /// The API server could not be asked.
    #[error("{0}")]
    Unavailable(String),
}

impl Auth {
    /// Reads the authorities' file; mistakes show at start.
    pub fn new(mut options: AuthOptions) -> anyhow::Result<Auth> {
        if let Some((path, proxy)) = &mut options.front_proxy {
            proxy.ca = ClientCa::file(path)?;
        }
        let client_ca = match &options.client_ca_file {
            Some(path) => Some(ClientCa::file(path)?),
            None => None,
        };
        Ok(Auth {
            options,
            client_ca,
            published: Arc::default(),
            tokens: Cache::new(),
            decisions: Cache::new(),
        })
    }

    /// Keeps the published authorities up to date until shutdown. Its owner runs it beside the server.
    pub async fn follow(&self, shutdown: CancellationToken) {
        if let (true, Some(client)) = (self.options.published, &self.options.client) {
            published::follow(client.clone(), self.published.clone(), shutdown).await;
        }
    }

    /// The user who sent a request.
    pub async fn authenticate(&self, info: &ConnInfo, headers: &HeaderMap) -> Result<User, AuthError> {
        let by_proxy = match &self.options.front_proxy {
            Some((_, proxy)) => proxy.user(&info.peer_certs, headers),
            None => self.published.front_proxy_user(&info.peer_certs, headers),
        };
        if let Some(user) = by_proxy {
            return Ok(user.authenticated());
        }
        if let Some(user) = self.certificate_user(&info.peer_certs) {
            return Ok(user.authenticated());
        }
        match bearer(headers) {
            Some(token) if self.options.token_review => self.token_user(token).await,
            // A token that nobody is set up to look at is no credential.
            _ if self.options.anonymous => Ok(User::anonymous()),
            _ => Err(AuthError::Unauthorized),
        }
    }

    fn certificate_user(&self, chain: &[CertificateDer<'static>]) -> Option<User> {
        let leaf = chain.first()?;
        let verified = |ca: &ClientCa| ca.verify(chain).is_ok();
        let known = self.client_ca.as_ref().is_some_and(verified) || verified(&self.published.client_ca);
        known.then(|| User::from_certificate(leaf)).flatten()
    }

    async fn token_user(&self, token: &str) -> Result<User, AuthError> {
        let key: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        let found = match self.tokens.get(&key) {
            Some(found) => found,
            None => {
                let found = self.review_token(token).await?;
                self.tokens.put(key, found.clone(), self.options.token_ttl);
                found
            }
        };
        found.map(User::authenticated).ok_or(AuthError::Unauthorized)
    }

    async fn review_token(&self, token: &str) -> Result<Option<User>, AuthError> {
        let Some(client) = &self.options.client else { return Ok(None) };
        let spec = TokenReviewSpec { token: token.to_owned(), audiences: None };
        let review = TokenReview { spec, ..TokenReview::default() };
        let answer = Api::all(client.clone()).create(&PostParams::default(), &review).await;
        let status = answer.map_err(|e| AuthError::Unavailable(e.to_string()))?.status.unwrap_or_default();
        let user = status.user.filter(|_| status.authenticated == Some(true)).map(|u| User {
            name: u.username.unwrap_or_default(),
            uid: u.uid.unwrap_or_default(),
            groups: u.groups.unwrap_or_default(),
            extra: u.extra.unwrap_or_default(),
        });
        Ok(user)
    }

    /// Whether a user may do something.
    pub async fn authorize(&self, user: &User, attributes: &Attributes) -> Result<Decision, AuthError> {
        if !self.options.access_review || user.groups.iter().any(|g| g == PRIVILEGED) {
            return Ok(Decision { allowed: true, reason: String::new() });
        }
        let key = (user.name.clone(), user.groups.clone(), attributes.clone());
        if let Some(decision) = self.decisions.get(&key) {
            return Ok(decision);
        }
        let decision = self.review_access(user, attributes).await?;
        let ttl = if decision.allowed { self.options.allow_ttl } else { self.options.deny_ttl };
        self.decisions.put(key, decision.clone(), ttl);
        Ok(decision)
    }

    async fn review_access(&self, user: &User, attributes: &Attributes) -> Result<Decision, AuthError> {
        let Some(client) = &self.options.client else {
            return Ok(Decision { allowed: false, reason: "no authorizer is configured".to_owned() });
        };
        let review =
            SubjectAccessReview { spec: review_spec(user, attributes), ..SubjectAccessReview::default() };
        let answer = Api::all(client.clone()).create(&PostParams::default(), &review).await;
        let status = answer.map_err(|e| AuthError::Unavailable(e.to_string()))?.status.unwrap_or_default();
        let allowed = status.allowed && status.denied != Some(true);
        Ok(Decision { allowed, reason: status.reason.unwrap_or_default() })
    }

    /// Middleware: lets a request through if its user may `get`/`post`/… its path.
    pub async fn guard(&self, mut request: Request<Body>, next: Next) -> Response {
        let path = request.uri().path().to_owned();
        let info = request.extensions().get::<ConnInfo>().cloned();
        let Some(info) = info else {
            return refusal(StatusCode::UNAUTHORIZED, "Unauthorized", "Unauthorized");
        };
        if self.options.always_allow.iter().any(|p| path_matches(p, &path)) {
            return next.run(request).await;
        }
        let user = match self.authenticate(&info, request.headers()).await {
            Ok(user) => user,
            Err(error) => {
                if let AuthError::Unavailable(why) = &error {
                    tracing::error!(error = why, "Unable to authenticate the request");
                }
                return refusal(StatusCode::UNAUTHORIZED, "Unauthorized", "Unauthorized");
            }
        };
        let verb = verb(request.method());
        match self.authorize(&user, &Attributes::Path { verb: verb.clone(), path: path.clone() }).await {
            Ok(decision) if decision.allowed => {
                request.extensions_mut().insert(user);
                next.run(request).await
            }
            Ok(decision) => {
                let why =
                    if decision.reason.is_empty() { String::new() } else { format!(": {}", decision.reason) };
                let message = format!("forbidden: User {:?} cannot {verb} path {path:?}{why}", user.name);
                refusal(StatusCode::FORBIDDEN, "Forbidden", &message)
            }
            Err(error) => {
                tracing::error!(%error, "Unable to authorize the request");
                refusal(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", "Internal Server Error")
            }
        }
    }
}

fn review_spec(user: &User, attributes: &Attributes) -> SubjectAccessReviewSpec {
    let mut spec = SubjectAccessReviewSpec {
        user: Some(user.name.clone()),
        uid: Some(user.uid.clone()).filter(|u| !u.is_empty()),
        groups: Some(user.groups.clone()),
        extra: Some(user.extra.clone()).filter(|e| !e.is_empty()),
        ..SubjectAccessReviewSpec::default()
    };
    let some = |s: &String| Some(s.clone()).filter(|s| !s.is_empty());
    match attributes {
        Attributes::Path { verb, path } => {
            spec.non_resource_attributes = Some(NonResourceAttributes { verb: some(verb), path: some(path) });
        }
        Attributes::Resource { verb, group, version, resource, subresource, name } => {
            spec.resource_attributes = Some(ResourceAttributes {
                verb: some(verb),
                group: some(group),
                version: some(version),
                resource: some(resource),
                subresource: some(subresource),
                name: some(name),
                ..ResourceAttributes::default()
            });
        }
    }
    spec
}

/// The verb of a method on a path that is no resource.
fn verb(method: &http::Method) -> String {
    method.as_str().to_ascii_lowercase()
}

fn path_matches(pattern: &str, path: &str) -> bool {
    let (pattern, path) = (pattern.trim_start_matches('/'), path.trim_start_matches('/'));
    match pattern.strip_suffix('*') {
        Some(prefix) => path.starts_with(prefix),
        None => pattern == path,
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?.trim();
    let (scheme, token) = value.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

/// A `Status` as the API server would send it.
fn refusal(status: StatusCode, reason: &str, message: &str) -> Response {
    let body = serde_json::json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "details": {}, "code": status.as_u16(),
    });
    let mut response = Response::new(Body::from(body.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod tests;
