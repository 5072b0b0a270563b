//! Bootstrap tokens: secrets of type `bootstrap.kubernetes.io/token` in kube-system, with which a
//! new node introduces itself.

use super::{Authenticated, Outcome, TokenAuthenticator};
use crate::user::UserInfo;
use crate::values::{at, text};
use api::Value;
use api::registry::Registry;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::sync::Arc;
use subtle::ConstantTimeEq;

const DEFAULT_GROUP: &str = "system:bootstrappers";

pub struct BootstrapTokens {
    registry: Arc<dyn Registry>,
}

impl BootstrapTokens {
    pub fn new(registry: Arc<dyn Registry>) -> Self {
        BootstrapTokens { registry }
    }
}

/// `[a-z0-9]{6}.[a-z0-9]{16}`
fn split(token: &str) -> Option<(&str, &str)> {
    let (id, secret) = token.split_once('.')?;
    let plain = |s: &str| s.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    (id.len() == 6 && secret.len() == 16 && plain(id) && plain(secret)).then_some((id, secret))
}

fn datum(secret: &Value, key: &str) -> Option<String> {
    let encoded = at(secret, &["data", key]).as_str()?;
    String::from_utf8(STANDARD.decode(encoded).ok()?).ok()
}

/// The user of a secret, if it is good for `id` and `key` now.
fn user_of(secret: &Value, id: &str, key: &str, now: jiff::Timestamp) -> Option<UserInfo> {
    if !at(secret, &["metadata", "deletionTimestamp"]).is_null()
        || text(secret, &["type"]) != "bootstrap.kubernetes.io/token"
    {
        return None;
    }
    let expected = datum(secret, "token-secret").filter(|s| !s.is_empty())?;
    if !bool::from(expected.as_bytes().ct_eq(key.as_bytes())) || datum(secret, "token-id")? != id {
        return None;
    }
    if let Some(expiration) = datum(secret, "expiration")
        && !expiration.is_empty()
        && expiration.parse::<jiff::Timestamp>().map_or(true, |t| t <= now)
    {
        return None;
    }
    if datum(secret, "usage-bootstrap-authentication")? != "true" {
        return None;
    }
    let mut groups = vec![DEFAULT_GROUP.to_owned()];
    for group in datum(secret, "auth-extra-groups").unwrap_or_default().split(',').filter(|g| !g.is_empty()) {
        let rest = group.strip_prefix("system:bootstrappers:")?;
        if rest.is_empty() {
            return None;
        }
        if !groups.iter().any(|g| g == group) {
            groups.push(group.to_owned());
        }
    }
    groups.sort();
    Some(UserInfo { name: format!("system:bootstrap:{id}"), groups, ..Default::default() })
}

#[async_trait::async_trait]
impl TokenAuthenticator for BootstrapTokens {
    async fn verify(&self, token: &str, _audiences: &[String]) -> Outcome {
        let Some((id, key)) = split(token) else { return Ok(None) };
        let name = format!("bootstrap-token-{id}");
        let Some(secret) = self.registry.get(("", "secrets"), "kube-system", &name) else { return Ok(None) };
        Ok(user_of(&secret, id, key, jiff::Timestamp::now()).map(Authenticated::new))
    }
}
