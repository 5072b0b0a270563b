//! Tokens from the `Authorization` header or a WebSocket subprotocol, verified once and then
//! remembered for a few seconds: verification is a public-key operation, and every request needs it.

use super::{Authenticated, Authenticator, Outcome, Request};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use parking_lot::Mutex;
use ring::hmac;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// A kind of token.
#[async_trait::async_trait]
pub trait TokenAuthenticator: Send + Sync {
    /// `audiences` are those that the token must be good for; never empty unless the server has none.
    async fn verify(&self, token: &str, audiences: &[String]) -> Outcome;

    /// How long its answers are remembered, if not as long as usual.
    fn remembered(&self) -> Option<Duration> {
        None
    }
}

const TTL: Duration = Duration::from_secs(10);
const SHARDS: usize = 16;
const SHARD_CAPACITY: usize = 1024;
/// Longer than any real token; nobody gets us to hash megabytes.
const MAX_TOKEN: usize = 64 * 1024;
const PROTOCOL_PREFIX: &str = "base64url.bearer.authorization.k8s.io.";

type Key = [u8; 32];

/// All token authenticators of a server, behind one bounded cache of successes.
pub struct Bearer {
    kinds: Vec<Box<dyn TokenAuthenticator>>,
    audiences: Vec<String>,
    secret: hmac::Key,
    shards: Vec<Mutex<HashMap<Key, (Instant, Authenticated)>>>,
}

impl Bearer {
    pub fn new(kinds: Vec<Box<dyn TokenAuthenticator>>, audiences: Vec<String>) -> Self {
        let secret: [u8; 32] = rand::random();
        Bearer {
            kinds,
            audiences,
            secret: hmac::Key::new(hmac::HMAC_SHA256, &secret),
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
        }
    }

    /// The user of a token, for the given audiences or else the server's own.
    pub async fn verify(&self, token: &str, audiences: &[String]) -> Outcome {
        if token.is_empty() || token.len() > MAX_TOKEN {
            return Ok(None);
        }
        let audiences = if audiences.is_empty() { &self.audiences } else { audiences };
        let key = self.key(token, audiences);
        let shard = &self.shards[usize::from(key[0]) % SHARDS];
        if let Some((until, found)) = shard.lock().get(&key)
            && *until > Instant::now()
        {
            return Ok(Some(found.clone()));
        }
        let Some((found, ttl)) = self.verify_uncached(token, audiences).await? else { return Ok(None) };
        remember(&mut shard.lock(), key, &found, ttl);
        Ok(Some(found))
    }

    /// The user, and how long that may be remembered.
    async fn verify_uncached(
        &self,
        token: &str,
        audiences: &[String],
    ) -> Result<Option<(Authenticated, Duration)>, super::Error> {
        let mut first_error = None;
        for kind in &self.kinds {
            match kind.verify(token, audiences).await {
                Ok(None) => {}
                Ok(Some(found)) => {
                    let ttl = kind.remembered().unwrap_or(TTL);
                    return Ok(self.for_audiences(found, audiences).map(|found| (found, ttl)));
                }
                Err(e) => first_error = first_error.or(Some(e)),
            }
        }
        first_error.map_or(Ok(None), Err)
    }

    /// A credential that names no audience is meant for this server, and for nobody else.
    fn for_audiences(&self, mut found: Authenticated, asked: &[String]) -> Option<Authenticated> {
        if !found.audiences.is_empty() || self.audiences.is_empty() {
            return Some(found);
        }
        found.audiences = asked.iter().filter(|a| self.audiences.contains(a)).cloned().collect();
        (!found.audiences.is_empty()).then_some(found)
    }

    /// Keyed, so that nobody who controls tokens can aim at one shard or guess an entry.
    fn key(&self, token: &str, audiences: &[String]) -> Key {
        let mut mac = hmac::Context::with_key(&self.secret);
        mac.update(&(token.len() as u64).to_le_bytes());
        mac.update(token.as_bytes());
        for audience in audiences {
            mac.update(&(audience.len() as u64).to_le_bytes());
            mac.update(audience.as_bytes());
        }
        let mut key = Key::default();
        key.copy_from_slice(mac.sign().as_ref());
        key
    }
}

fn remember(
    shard: &mut HashMap<Key, (Instant, Authenticated)>,
    key: Key,
    found: &Authenticated,
    ttl: Duration,
) {
    let now = Instant::now();
    if shard.len() >= SHARD_CAPACITY {
        shard.retain(|_, (until, _)| *until > now);
    }
    if shard.len() >= SHARD_CAPACITY {
        shard.clear();
    }
    shard.insert(key, (now + ttl, found.clone()));
}

#[async_trait::async_trait]
impl Authenticator for Bearer {
    async fn authenticate(&self, request: &Request<'_>) -> Outcome {
        if let Some(token) = header_token(request) {
            return match self.verify(token, &[]).await {
                Ok(None) => Err(super::Error::new("invalid bearer token")),
                other => other,
            };
        }
        match protocol_token(request) {
            None => Ok(None),
            Some(token) => match self.verify(&token, &[]).await {
                Ok(None) => Err(super::Error::new("invalid bearer token")),
                other => other,
            },
        }
    }
}

fn header_token<'a>(request: &Request<'a>) -> Option<&'a str> {
    let value = request.headers.get(http::header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.trim().split_once(' ')?;
    let token = token.split(' ').next().unwrap_or("");
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

/// Browsers cannot set headers on a WebSocket: the token comes as one of the subprotocols.
fn protocol_token(request: &Request<'_>) -> Option<String> {
    let upgrade = request.headers.get(http::header::UPGRADE)?.to_str().ok()?;
    if !upgrade.eq_ignore_ascii_case("websocket") {
        return None;
    }
    let encoded = request
        .headers
        .get_all(http::header::SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .find_map(|p| p.trim().strip_prefix(PROTOCOL_PREFIX))?;
    String::from_utf8(URL_SAFE_NO_PAD.decode(encoded).ok()?).ok()
}
