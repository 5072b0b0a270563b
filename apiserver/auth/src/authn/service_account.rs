//! Service account tokens from the side that accepts them: bound tokens, which die with the pod,
//! node or secret that they name, and legacy tokens, which die with the secret that stores them.

use super::{Authenticated, Error, Outcome, TokenAuthenticator};
use crate::service_account::{Issuer, LEGACY_ISSUER};
use crate::user::{self, UserInfo, service_account_username};
use crate::values::{at, deleted_before, items, text, uid};
use api::Value;
use api::registry::Registry;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use std::sync::Arc;
use subtle::ConstantTimeEq;

/// How far clocks may differ.
const LEEWAY_SECONDS: i64 = 60;
const INVALIDATED: &str = "service account token has been invalidated";
const LAST_USED_LABEL: &str = "kubernetes.io/legacy-token-last-used";
const INVALID_SINCE_LABEL: &str = "kubernetes.io/legacy-token-invalid-since";

pub struct ServiceAccountTokens {
    issuer: Arc<Issuer>,
    registry: Arc<dyn Registry>,
    lookup_legacy: bool,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    kid: String,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audiences {
    One(String),
    Many(Vec<String>),
}

#[derive(Deserialize)]
struct Claims {
    #[serde(default)]
    iss: String,
    #[serde(default)]
    sub: String,
    aud: Option<Audiences>,
    exp: Option<f64>,
    nbf: Option<f64>,
    iat: Option<f64>,
    #[serde(default)]
    jti: String,
    #[serde(rename = "kubernetes.io", default)]
    bound: Value,
    #[serde(flatten)]
    rest: serde_json::Map<String, Value>,
}

/// The three parts of a compact JWT, decoded but not believed.
struct Unverified<'a> {
    signed: &'a str,
    header: Header,
    claims: Claims,
    signature: Vec<u8>,
}

fn split(token: &str) -> Option<Unverified<'_>> {
    let (signed, signature) = token.rsplit_once('.')?;
    let (header, payload) = signed.split_once('.')?;
    if payload.contains('.') {
        return None;
    }
    let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).ok();
    Some(Unverified {
        signed,
        header: serde_json::from_slice(&decode(header)?).ok()?,
        claims: serde_json::from_slice(&decode(payload)?).ok()?,
        signature: decode(signature)?,
    })
}

/// What both sides agree on; empty if nothing.
pub fn requested_audiences(token: &[String], requested: &[String]) -> Vec<String> {
    token.iter().filter(|a| requested.contains(a)).cloned().collect()
}

impl Claims {
    fn audiences(&self) -> Vec<String> {
        match &self.aud {
            None => Vec::new(),
            Some(Audiences::One(one)) => vec![one.clone()],
            Some(Audiences::Many(many)) => many.clone(),
        }
    }

    fn check_times(&self, now: i64) -> Result<(), Error> {
        let (now, leeway) = (now as f64, LEEWAY_SECONDS as f64);
        if self.nbf.is_some_and(|t| now + leeway < t) {
            return Err(Error::new("service account token is not valid yet"));
        }
        if self.exp.is_some_and(|t| now - leeway > t) {
            return Err(Error::new("service account token has expired"));
        }
        if self.iat.is_some_and(|t| now + leeway < t) {
            return Err(Error::new("service account token is issued in the future"));
        }
        Ok(())
    }
}

impl ServiceAccountTokens {
    pub fn new(issuer: Arc<Issuer>, registry: Arc<dyn Registry>, lookup_legacy: bool) -> Self {
        ServiceAccountTokens { issuer, registry, lookup_legacy }
    }

    fn check_signature(&self, token: &Unverified<'_>) -> Result<(), Error> {
        let mut keys = self.issuer.keys_for(&token.header.kid).peekable();
        if keys.peek().is_none() {
            return Err(Error::new("invalid signature, no keys found"));
        }
        let good = keys.any(|k| k.verify(&token.header.alg, token.signed.as_bytes(), &token.signature));
        if good { Ok(()) } else { Err(Error::new("error in cryptographic primitive")) }
    }

    async fn fetch(&self, resource: &str, namespace: &str, name: &str) -> Result<Arc<Value>, Error> {
        if let Some(found) = self.registry.get(("", resource), namespace, name) {
            return Ok(found);
        }
        let live = self.registry.get_live(("", resource), namespace, name).await;
        live.map(Arc::new).map_err(|e| Error(e.message))
    }

    /// The object that a claim names must still be that object.
    async fn check_bound(
        &self,
        resource: &str,
        namespace: &str,
        claim: &Value,
        before: Timestamp,
    ) -> Result<(), Error> {
        let (name, wanted) = (text(claim, &["name"]), text(claim, &["uid"]));
        let object = self.fetch(resource, namespace, name).await.map_err(|_| Error::new(INVALIDATED))?;
        if uid(&object) != wanted {
            let (word, role) = match resource {
                "pods" => ("pod", "service account pod ref"),
                "nodes" => ("node", "service account node ref"),
                _ => ("secret", "service account secret ref"),
            };
            return Err(Error(format!(
                "{word} UID ({}) does not match {role} claim ({wanted})",
                uid(&object)
            )));
        }
        if deleted_before(&object, before) {
            return Err(Error::new(INVALIDATED));
        }
        Ok(())
    }

    async fn bound_user(
        &self,
        claims: &Claims,
        audit: &mut Vec<(String, String)>,
    ) -> Result<UserInfo, Error> {
        let now = Timestamp::now();
        claims.check_times(now.as_second())?;
        let before = now - SignedDuration::from_secs(LEEWAY_SECONDS);
        let private = &claims.bound;
        let namespace = text(private, &["namespace"]);
        let (name, wanted) =
            (text(private, &["serviceaccount", "name"]), text(private, &["serviceaccount", "uid"]));
        let account = self.fetch("serviceaccounts", namespace, name).await?;
        if uid(&account) != wanted {
            return Err(Error(format!(
                "service account UID ({}) does not match claim ({wanted})",
                uid(&account)
            )));
        }
        if deleted_before(&account, before) {
            return Err(Error(format!("service account {namespace}/{name} has been deleted")));
        }
        let (pod, node, secret) = (at(private, &["pod"]), at(private, &["node"]), at(private, &["secret"]));
        if secret.is_object() {
            self.check_bound("secrets", namespace, secret, before).await?;
        }
        if pod.is_object() {
            self.check_bound("pods", namespace, pod, before).await?;
        } else if node.is_object() {
            self.check_bound("nodes", "", node, before).await?;
        }
        if let Some(after) = at(private, &["warnafter"]).as_i64().filter(|a| *a != 0 && now.as_second() > *a)
        {
            let late = now.as_second() - after;
            let text = format!("subject: {}, seconds after warning threshold: {late}", claims.sub);
            audit.push(("authentication.k8s.io/stale-token".to_owned(), text));
        }
        Ok(with_extra(UserInfo::service_account(namespace, name, wanted), pod, node, &claims.jti))
    }

    async fn legacy_user(&self, token: &str, claims: &Claims) -> Result<UserInfo, Error> {
        let claim = |key: &str| {
            let full = format!("kubernetes.io/serviceaccount/{key}");
            claims.rest.get(&full).and_then(Value::as_str).unwrap_or("").to_owned()
        };
        let (namespace, secret) = (claim("namespace"), claim("secret.name"));
        let (name, wanted) = (claim("service-account.name"), claim("service-account.uid"));
        for (value, what) in [
            (&namespace, "namespace"),
            (&secret, "secretName"),
            (&name, "serviceAccountName"),
            (&wanted, "serviceAccountUID"),
        ] {
            if value.is_empty() {
                return Err(Error(format!("{what} claim is missing")));
            }
        }
        if claims.sub != service_account_username(&namespace, &name) {
            return Err(Error::new("sub claim is invalid"));
        }
        if self.lookup_legacy {
            self.check_legacy(token, &namespace, &secret, &name, &wanted).await?;
        }
        Ok(UserInfo::service_account(&namespace, &name, &wanted))
    }

    async fn check_legacy(
        &self,
        token: &str,
        namespace: &str,
        secret_name: &str,
        name: &str,
        wanted: &str,
    ) -> Result<(), Error> {
        let secret = self.fetch("secrets", namespace, secret_name).await;
        let gone = || Error::new("Token has been invalidated");
        let secret = secret.map_err(|_| gone())?;
        if !at(&secret, &["metadata", "deletionTimestamp"]).is_null() {
            return Err(gone());
        }
        let stored = STANDARD.decode(text(&secret, &["data", "token"])).unwrap_or_default();
        if !bool::from(stored.ct_eq(token.as_bytes())) {
            return Err(Error::new("Token does not match server's copy"));
        }
        let account = self.fetch("serviceaccounts", namespace, name).await?;
        if !at(&account, &["metadata", "deletionTimestamp"]).is_null() {
            return Err(Error(format!("ServiceAccount {namespace}/{name} has been deleted")));
        }
        if uid(&account) != wanted {
            return Err(Error(format!(
                "ServiceAccount UID ({}) does not match claim ({wanted})",
                uid(&account)
            )));
        }
        let generated = items(&account, &["secrets"]).iter().any(|s| text(s, &["name"]) == secret_name);
        if generated && at(&secret, &["metadata", "labels", INVALID_SINCE_LABEL]).is_string() {
            return Err(Error(format!(
                "the token in secret {namespace}/{secret_name} for service account {namespace}/{name} has been marked invalid. Use tokens from the TokenRequest API or manually created secret-based tokens, or remove the '{INVALID_SINCE_LABEL}' label from the secret to temporarily allow use of this token"
            )));
        }
        self.mark_used(&secret).await;
        Ok(())
    }

    /// The day of last use, by which an operator finds tokens that nobody needs.
    async fn mark_used(&self, secret: &Value) {
        let today = Timestamp::now().to_string()[..10].to_owned();
        if text(secret, &["metadata", "labels", LAST_USED_LABEL]) == today {
            return;
        }
        let mut changed = secret.clone();
        if !changed["metadata"]["labels"].is_object() {
            changed["metadata"]["labels"] = api::json!({});
        }
        changed["metadata"]["labels"][LAST_USED_LABEL] = today.into();
        if let Err(error) = self.registry.update(("", "secrets"), "", changed).await {
            tracing::debug!(%error, "the day of last use of a legacy token was not recorded");
        }
    }
}

fn with_extra(mut user: UserInfo, pod: &Value, node: &Value, jti: &str) -> UserInfo {
    let mut put = |key: &str, value: &str| {
        if !value.is_empty() {
            user.extra.insert(key.to_owned(), vec![value.to_owned()]);
        }
    };
    let (pod_name, pod_uid) = (text(pod, &["name"]), text(pod, &["uid"]));
    if !pod_name.is_empty() && !pod_uid.is_empty() {
        put(user::EXTRA_POD_NAME, pod_name);
        put(user::EXTRA_POD_UID, pod_uid);
    }
    if !text(node, &["name"]).is_empty() {
        put(user::EXTRA_NODE_NAME, text(node, &["name"]));
        put(user::EXTRA_NODE_UID, text(node, &["uid"]));
    }
    if !jti.is_empty() {
        put(user::EXTRA_CREDENTIAL_ID, &format!("JTI={jti}"));
    }
    user
}

#[async_trait::async_trait]
impl TokenAuthenticator for ServiceAccountTokens {
    async fn verify(&self, token: &str, audiences: &[String]) -> Outcome {
        let Some(parts) = split(token) else { return Ok(None) };
        let claims = &parts.claims;
        let legacy = claims.iss == LEGACY_ISSUER;
        if !legacy && !self.issuer.issuers().contains(&claims.iss) {
            return Ok(None);
        }
        self.check_signature(&parts)?;
        let mut audit = Vec::new();
        let mut token_audiences = claims.audiences();
        if token_audiences.is_empty() {
            audit.push(("authentication.k8s.io/legacy-token".to_owned(), claims.sub.clone()));
            token_audiences = self.issuer.api_audiences().to_vec();
        }
        let agreed = requested_audiences(&token_audiences, audiences);
        if agreed.is_empty() && !self.issuer.api_audiences().is_empty() {
            return Err(Error(format!(
                "token audiences {token_audiences:?} is invalid for the target audiences {audiences:?}"
            )));
        }
        let user = if legacy {
            self.legacy_user(token, claims).await?
        } else {
            self.bound_user(claims, &mut audit).await?
        };
        Ok(Some(Authenticated { user: Arc::new(user), audiences: agreed, audit }))
    }
}
