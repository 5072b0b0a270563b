//! Tokens of OpenID Connect issuers: `--oidc-*`, and the `jwt` authenticators of an AuthenticationConfiguration.
//!
//! An issuer is asked for its keys when the first token of its comes, and again when a token names a key that is not
//! known; not more often than every few seconds, so that nobody can make this server knock at another one.

mod claims;
mod config;

pub use config::{OidcOptions, configured, of_flags};

use super::{Authenticated, Error, Outcome, TokenAuthenticator};
use crate::webhook::Web;
use api::Value;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use claims::Mappings;
use jsonwebtoken::jwk::{Jwk, JwkSet};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Between two questions for keys.
const AGAIN: Duration = Duration::from_secs(10);
/// Time for one question.
const LIMIT: Duration = Duration::from_secs(30);

/// One issuer, and what its claims mean here.
pub struct Issuer {
    url: String,
    /// Where its configuration is, if not below its own address.
    discovery: Option<String>,
    audiences: Vec<String>,
    algorithms: Vec<Algorithm>,
    mappings: Mappings,
    web: Web,
    keys: Mutex<Keys>,
    /// One question at a time.
    asking: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Keys {
    set: Option<Arc<JwkSet>>,
    asked: Option<Instant>,
}

impl Issuer {
    fn found(&self, kid: Option<&str>) -> Option<Vec<Jwk>> {
        let keys = self.keys.lock();
        let set = keys.set.as_ref()?;
        let fits = |k: &&Jwk| kid.is_none_or(|kid| k.common.key_id.as_deref() == Some(kid));
        let found: Vec<Jwk> = set.keys.iter().filter(fits).cloned().collect();
        (!found.is_empty()).then_some(found)
    }

    /// The keys that may have signed.
    async fn keys(&self, kid: Option<&str>) -> Result<Vec<Jwk>, Error> {
        if let Some(found) = self.found(kid) {
            return Ok(found);
        }
        let _turn = self.asking.lock().await;
        let recently = self.keys.lock().asked.is_some_and(|at| at.elapsed() < AGAIN);
        if !recently {
            self.keys.lock().asked = Some(Instant::now());
            match self.ask().await {
                Ok(set) => self.keys.lock().set = Some(Arc::new(set)),
                Err(why) => tracing::warn!(issuer = self.url, why, "oidc authenticator: initializing plugin"),
            }
        }
        match (self.found(kid), self.keys.lock().set.is_some()) {
            (Some(found), _) => Ok(found),
            (None, true) => {
                Err(Error::new("oidc: verify token: failed to verify signature: no key of the issuer fits"))
            }
            (None, false) => Err(Error::new("oidc: authenticator not initialized")),
        }
    }

    async fn ask(&self) -> Result<JwkSet, String> {
        let base = self.url.trim_end_matches('/');
        let discovery =
            self.discovery.clone().unwrap_or_else(|| format!("{base}/.well-known/openid-configuration"));
        let document = self.web.get(&discovery, LIMIT).await?;
        let document: Value = serde_json::from_slice(&document).map_err(|e| format!("{discovery}: {e}"))?;
        if document["issuer"] != self.url.as_str() {
            return Err(format!(
                "oidc: issuer did not match the issuer returned by provider, expected {:?} got {}",
                self.url, document["issuer"]
            ));
        }
        let url = document["jwks_uri"].as_str().ok_or("the provider names no jwks_uri")?;
        if !url.starts_with("https://") {
            return Err(format!("jwks_uri {url:?} is not https"));
        }
        let keys = self.web.get(url, LIMIT).await?;
        serde_json::from_slice(&keys).map_err(|e| format!("{url}: {e}"))
    }

    fn claims(&self, token: &str, algorithm: Algorithm, keys: &[Jwk]) -> Result<Value, Error> {
        let mut validation = Validation::new(algorithm);
        validation.set_issuer(&[&self.url]);
        validation.set_audience(&self.audiences);
        validation.set_required_spec_claims(&["exp", "iss", "aud"]);
        validation.leeway = 0;
        let mut last = "no key of the issuer fits".to_owned();
        for key in keys {
            let read = DecodingKey::from_jwk(key)
                .and_then(|key| jsonwebtoken::decode::<Value>(token, &key, &validation));
            match read {
                Ok(data) => return Ok(data.claims),
                Err(e) => last = e.to_string(),
            }
        }
        Err(Error::new(format!("oidc: verify token: {last}")))
    }
}

/// All issuers of a server.
pub struct Issuers {
    all: Vec<Issuer>,
}

impl Issuers {
    pub fn new(all: Vec<Issuer>) -> Self {
        Issuers { all }
    }
}

/// The issuer that a token claims, not believed.
fn claimed_issuer(token: &str) -> Option<String> {
    let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    let claims: Value = serde_json::from_slice(&payload).ok()?;
    claims["iss"].as_str().map(str::to_owned)
}

#[async_trait::async_trait]
impl TokenAuthenticator for Issuers {
    async fn verify(&self, token: &str, _audiences: &[String]) -> Outcome {
        let Some(claimed) = claimed_issuer(token) else { return Ok(None) };
        let Some(issuer) = self.all.iter().find(|i| i.url == claimed) else { return Ok(None) };
        let header = jsonwebtoken::decode_header(token);
        let header = header.map_err(|e| Error::new(format!("oidc: verify token: {e}")))?;
        if !issuer.algorithms.contains(&header.alg) {
            let why =
                format!("oidc: verify token: id token signed with unsupported algorithm {:?}", header.alg);
            return Err(Error::new(why));
        }
        let keys = issuer.keys(header.kid.as_deref()).await?;
        let claims = issuer.claims(token, header.alg, &keys)?;
        let user = issuer.mappings.user(&claims).map_err(Error::new)?;
        Ok(Some(Authenticated::new(user)))
    }
}

#[cfg(test)]
mod tests;
