//! Who sent the request? A chain of authenticators, each of which proves a user, finds nothing that
//! it knows, or finds a credential that is wrong. The first user wins; a wrong credential is refused
//! only when no other authenticator accepts the request.

mod anonymous;
mod bearer;
mod bootstrap_token;
mod jwt;
mod options;
mod service_account;
mod token_file;
mod webhook;
mod x509;

pub use anonymous::Anonymous;
pub use bearer::{Bearer, TokenAuthenticator};
pub use bootstrap_token::BootstrapTokens;
pub use jwt::{Issuers, OidcOptions};
pub use options::{Options, RequestHeaderOptions, build};
pub use service_account::{ServiceAccountTokens, requested_audiences};
pub use token_file::TokenFile;
pub use webhook::{TokenWebhook, WebhookOptions};
pub(crate) use x509::unescape;
pub use x509::{ClientCertificates, PeerCertificates, RequestHeaders};

use crate::user::{ALL_AUTHENTICATED, UserInfo};
use http::HeaderMap;
use std::sync::Arc;

/// What of a request can carry a credential.
pub struct Request<'a> {
    pub headers: &'a HeaderMap,
    pub peer: Option<&'a PeerCertificates>,
    pub path: &'a str,
}

/// A proven user, and the audiences that the credential was meant for (empty: not restricted).
#[derive(Clone, Debug)]
pub struct Authenticated {
    pub user: Arc<UserInfo>,
    pub audiences: Vec<String>,
    /// Annotations for the audit event, e.g. `authentication.k8s.io/stale-token`.
    pub audit: Vec<(String, String)>,
}

impl Authenticated {
    pub fn new(user: UserInfo) -> Self {
        Authenticated { user: Arc::new(user), audiences: Vec::new(), audit: Vec::new() }
    }
}

/// Why a credential does not count. Never carries the credential.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct Error(pub String);

impl Error {
    pub fn new(text: impl Into<String>) -> Self {
        Error(text.into())
    }
}

pub type Outcome = Result<Option<Authenticated>, Error>;

#[async_trait::async_trait]
pub trait Authenticator: Send + Sync {
    async fn authenticate(&self, request: &Request<'_>) -> Outcome;
}

/// The authenticators of a server in order.
pub struct Chain {
    links: Vec<Arc<dyn Authenticator>>,
    anonymous: Option<Anonymous>,
    bearer: Option<Arc<Bearer>>,
    credential_headers: Vec<String>,
    extra_prefixes: Vec<String>,
}

impl Chain {
    /// `Err` and `Ok(None)` are both a 401; the error is for the log only.
    pub async fn authenticate(&self, request: &Request<'_>) -> Outcome {
        let mut errors = Vec::new();
        for link in &self.links {
            match link.authenticate(request).await {
                Ok(Some(found)) => return Ok(Some(with_authenticated_group(found))),
                Ok(None) => {}
                Err(e) => errors.push(e.0),
            }
        }
        if !errors.is_empty() {
            return Err(Error(errors.join(", ")));
        }
        Ok(self.anonymous.as_ref().and_then(|a| a.authenticate(request.path)))
    }

    /// For TokenReview: the user of a token for these audiences (the server's own if empty).
    pub async fn authenticate_token(&self, token: &str, audiences: &[String]) -> Outcome {
        let Some(bearer) = &self.bearer else { return Ok(None) };
        Ok(bearer.verify(token, audiences).await?.map(with_authenticated_group))
    }

    /// Removes the headers that carried the credential, so that nothing further in can leak or forward them.
    pub fn strip_credentials(&self, headers: &mut HeaderMap) {
        for name in &self.credential_headers {
            headers.remove(name.as_str());
        }
        let prefixed: Vec<_> = headers
            .keys()
            .filter(|k| self.extra_prefixes.iter().any(|p| k.as_str().starts_with(p.as_str())))
            .cloned()
            .collect();
        for name in prefixed {
            headers.remove(name);
        }
    }
}

fn with_authenticated_group(mut found: Authenticated) -> Authenticated {
    let user = &found.user;
    if user.in_group(ALL_AUTHENTICATED) || user.name == crate::user::ANONYMOUS {
        return found;
    }
    let mut user = UserInfo::clone(user);
    user.groups.push(ALL_AUTHENTICATED.to_owned());
    found.user = Arc::new(user);
    found
}

#[cfg(test)]
mod tests;
