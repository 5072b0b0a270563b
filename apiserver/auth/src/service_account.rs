//! Service account tokens from the side that issues them: keys, issuers, the TokenRequest
//! subresource, and the documents by which others can verify our tokens.

mod request;

pub use request::{TokenReply, prepare};

use crate::keys::{PrivateKey, PublicKey, public_keys_from_pem};
use anyhow::{Context, Result, bail};
use api::{Value, json};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use std::path::PathBuf;
use std::time::Duration;

/// What a pod's projected token asks for by default, a little odd so that it can be told apart.
pub const WARN_ONLY_EXPIRATION_SECONDS: i64 = 60 * 60 + 7;
/// How long such a token lives instead, for clients that do not read it again.
pub const EXTENDED_EXPIRATION_SECONDS: i64 = 365 * 24 * 60 * 60;
/// Issuer of tokens that are stored in secrets.
pub const LEGACY_ISSUER: &str = "kubernetes/serviceaccount";

/// `--service-account-*` and `--api-audiences`.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// `--service-account-key-file`; the caller puts `--tls-private-key-file` here if none is given
    pub key_files: Vec<PathBuf>,
    /// `--service-account-signing-key-file`
    pub signing_key_file: Option<PathBuf>,
    /// `--service-account-issuer`: the first signs, all are accepted
    pub issuers: Vec<String>,
    /// `--api-audiences`; defaults to the issuers
    pub api_audiences: Vec<String>,
    /// `--service-account-max-token-expiration`; zero is no limit
    pub max_token_expiration: Duration,
    /// `--service-account-extend-token-expiration`
    pub extend_token_expiration: bool,
    /// `--service-account-jwks-uri`
    pub jwks_uri: Option<String>,
}

/// The keys and names by which tokens are made and recognised.
pub struct Issuer {
    signing: Option<PrivateKey>,
    keys: Vec<PublicKey>,
    issuers: Vec<String>,
    api_audiences: Vec<String>,
    max_expiration_seconds: i64,
    extend: bool,
    jwks_uri: Option<String>,
}

impl Issuer {
    /// `None` if the flags name no key at all.
    pub fn open(options: &Options) -> Result<Option<Self>> {
        let mut keys: Vec<PublicKey> = Vec::new();
        for path in &options.key_files {
            let text = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
            let found = public_keys_from_pem(&text).with_context(|| format!("in {}", path.display()))?;
            keys.extend(found);
        }
        let signing = match &options.signing_key_file {
            None => None,
            Some(path) => {
                let text = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
                Some(PrivateKey::from_pem(&text).with_context(|| format!("in {}", path.display()))?)
            }
        };
        if keys.is_empty() && signing.is_none() {
            return Ok(None);
        }
        if signing.is_some() && options.issuers.first().is_none_or(String::is_empty) {
            bail!("service-account-issuer is a required flag");
        }
        let max = i64::try_from(options.max_token_expiration.as_secs()).unwrap_or(i64::MAX);
        if max != 0 && !(3600..=1 << 32).contains(&max) {
            bail!("the service-account-max-token-expiration must be between 1 hour and 2^32 seconds");
        }
        Ok(Some(Self::with_keys(options, signing, keys, max)))
    }

    fn with_keys(o: &Options, signing: Option<PrivateKey>, keys: Vec<PublicKey>, max: i64) -> Self {
        let audiences = if o.api_audiences.is_empty() { &o.issuers } else { &o.api_audiences };
        Issuer {
            signing,
            keys,
            issuers: o.issuers.clone(),
            api_audiences: audiences.clone(),
            max_expiration_seconds: max,
            extend: o.extend_token_expiration,
            jwks_uri: o.jwks_uri.clone(),
        }
    }

    /// The audiences of tokens for this apiserver itself.
    pub fn api_audiences(&self) -> &[String] {
        &self.api_audiences
    }
    pub fn issuers(&self) -> &[String] {
        &self.issuers
    }
    pub fn can_sign(&self) -> bool {
        self.signing.is_some()
    }

    /// The keys that a token with this key id may be signed by; all of them if it names none.
    pub fn keys_for<'a>(&'a self, id: &'a str) -> impl Iterator<Item = &'a PublicKey> {
        self.keys.iter().filter(move |k| id.is_empty() || k.id == id)
    }

    /// A signed token with these claims.
    pub fn sign(&self, claims: &Value) -> Result<String> {
        let key = self.signing.as_ref().context("the server has no service account signing key")?;
        let header = json!({"alg": key.public().algorithm(), "kid": key.public().id});
        let mut token = URL_SAFE_NO_PAD.encode(header.to_string());
        token.push('.');
        token.push_str(&URL_SAFE_NO_PAD.encode(claims.to_string()));
        let signature = key.sign(token.as_bytes())?;
        token.push('.');
        token.push_str(&URL_SAFE_NO_PAD.encode(signature));
        Ok(token)
    }

    /// `/.well-known/openid-configuration`, if the issuer is a URL that can have one.
    /// `external_address` is `host:port` of this apiserver.
    pub fn openid_configuration(&self, external_address: &str) -> Result<Value> {
        let issuer = self.issuers.first().map(String::as_str).unwrap_or("");
        let Some(rest) = issuer.strip_prefix("https://") else {
            bail!("issuer URL must use https scheme, got: {issuer}");
        };
        if rest.contains('?') {
            bail!("issuer URL may not include a query, got: {issuer}");
        }
        if rest.contains('#') {
            bail!("issuer URL may not include a fragment, got: {issuer}");
        }
        let jwks_uri = match &self.jwks_uri {
            Some(uri) if uri.starts_with("https://") => uri.clone(),
            Some(uri) => bail!("jwksURI requires https scheme, parsed as: {uri}"),
            None => format!("https://{external_address}/openid/v1/jwks"),
        };
        let mut algorithms: Vec<&str> = self.keys.iter().map(PublicKey::algorithm).collect();
        algorithms.sort_unstable();
        algorithms.dedup();
        Ok(json!({
            "issuer": issuer,
            "jwks_uri": jwks_uri,
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": algorithms,
        }))
    }

    /// `/openid/v1/jwks`
    pub fn jwks(&self) -> Value {
        json!({"keys": self.keys.iter().map(PublicKey::to_jwk).collect::<Vec<_>>()})
    }
}

#[cfg(test)]
mod tests;
