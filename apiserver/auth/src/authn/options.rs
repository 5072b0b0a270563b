//! The authentication flags of the apiserver, and the chain that they describe.

use super::jwt;
use super::{
    Anonymous, Authenticator, Bearer, BootstrapTokens, Chain, ClientCertificates, Issuers, OidcOptions,
    RequestHeaders, ServiceAccountTokens, TokenAuthenticator, TokenFile, TokenWebhook, WebhookOptions,
};
use crate::service_account::Issuer;
use anyhow::bail;
use api::registry::Registry;
use std::path::PathBuf;
use std::sync::Arc;

/// `--requestheader-*`.
#[derive(Clone, Debug, Default)]
pub struct RequestHeaderOptions {
    pub client_ca_file: PathBuf,
    pub allowed_names: Vec<String>,
    pub username_headers: Vec<String>,
    pub uid_headers: Vec<String>,
    pub group_headers: Vec<String>,
    pub extra_headers_prefix: Vec<String>,
}

/// The flags; absent means off.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// `--client-ca-file`
    pub client_ca_file: Option<PathBuf>,
    /// `--requestheader-client-ca-file` and its companions
    pub request_header: Option<RequestHeaderOptions>,
    /// `--token-auth-file`
    pub token_auth_file: Option<PathBuf>,
    /// `--enable-bootstrap-token-auth`
    pub bootstrap_token: bool,
    /// `--oidc-*`
    pub oidc: Option<OidcOptions>,
    /// `--authentication-token-webhook-*`
    pub webhook: Option<WebhookOptions>,
    /// `--service-account-lookup`
    pub service_account_lookup: bool,
    /// `--anonymous-auth`; `None` if the flag was not given
    pub anonymous_auth: Option<bool>,
    /// `--authentication-config`
    pub authentication_config: Option<PathBuf>,
}

/// The chain of these flags. `issuer` has the service account keys (none: no service account tokens).
/// `loopback_token` is the secret of the server's own client, which is `system:apiserver`.
pub fn build(
    options: &Options,
    issuer: Option<Arc<Issuer>>,
    registry: Arc<dyn Registry>,
    loopback_token: Option<&str>,
) -> anyhow::Result<Chain> {
    let mut links: Vec<Arc<dyn Authenticator>> = Vec::new();
    let mut tokens: Vec<Box<dyn TokenAuthenticator>> = Vec::new();
    let mut credential_headers = vec!["authorization".to_owned()];
    let mut extra_prefixes = Vec::new();

    if let Some(o) = &options.request_header {
        for names in [&o.username_headers, &o.uid_headers, &o.group_headers] {
            credential_headers.extend(names.iter().map(|n| n.to_ascii_lowercase()));
        }
        extra_prefixes = o.extra_headers_prefix.iter().map(|p| p.to_ascii_lowercase()).collect();
        links.push(Arc::new(RequestHeaders::open(o)?));
    }
    if let Some(path) = &options.client_ca_file {
        links.push(Arc::new(ClientCertificates::open(path)?));
    }
    if let Some(token) = loopback_token {
        tokens.push(Box::new(TokenFile::single(token, crate::UserInfo::apiserver())));
    }
    if let Some(path) = &options.token_auth_file {
        tokens.push(Box::new(TokenFile::open(path)?));
    }
    let audiences = issuer.as_ref().map(|i| i.api_audiences().to_vec()).unwrap_or_default();
    if let Some(issuer) = issuer {
        tokens.push(Box::new(ServiceAccountTokens::new(
            issuer,
            registry.clone(),
            options.service_account_lookup,
        )));
    }
    if options.bootstrap_token {
        tokens.push(Box::new(BootstrapTokens::new(registry)));
    }
    let entries = super::anonymous::jwt(options)?;
    if !entries.is_empty() && options.oidc.is_some() {
        bail!("authentication-config file and oidc-* flags are mutually exclusive");
    }
    let issuers = match &options.oidc {
        Some(oidc) => vec![jwt::of_flags(oidc)?],
        None => jwt::configured(entries)?,
    };
    if !issuers.is_empty() {
        tokens.push(Box::new(Issuers::new(issuers)));
    }
    if let Some(webhook) = &options.webhook {
        tokens.push(Box::new(TokenWebhook::open(webhook)?));
    }
    let bearer = (!tokens.is_empty()).then(|| Arc::new(Bearer::new(tokens, audiences)));
    if let Some(bearer) = &bearer {
        links.push(bearer.clone());
    }
    let anonymous = Anonymous::from_options(options)?;
    Ok(Chain { links, anonymous, bearer, credential_headers, extra_prefixes })
}
