//! bootstrap-signer-controller and token-cleaner-controller: the public `cluster-info` is signed by every
//! bootstrap token, so that who joins with a token can trust it; expired tokens are deleted.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use controller_kit::meta::MetaExt;
use controller_kit::{Context, Key, Queue, Requeue, Shared, errors, now};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::Api;
use kube::api::{DeleteParams, PostParams, Preconditions};
use sha2::{Digest, Sha256};

const TOKENS: &str = "type=bootstrap.kubernetes.io/token,metadata.namespace=kube-system";
const CLUSTER_INFO: &str = "metadata.name=cluster-info,metadata.namespace=kube-public";
const SIGNATURE: &str = "jws-kubeconfig-";

fn text<'a>(secret: &'a Secret, key: &str) -> Option<&'a str> {
    std::str::from_utf8(&secret.data.as_ref()?.get(key)?.0).ok()
}

/// Seconds until a token expires; `None` for one that does not.
fn left(secret: &Secret, now: jiff::Timestamp) -> Option<i64> {
    let at = text(secret, "expiration").filter(|t| !t.is_empty())?;
    // A time that cannot be read counts as past: the token is of no use.
    let at: jiff::Timestamp = at.parse().unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    Some(at.duration_since(now).as_secs())
}

/// Id and secret of a token that signs.
fn signing(secret: &Secret, now: jiff::Timestamp) -> Option<(String, String)> {
    let id = text(secret, "token-id")?;
    let key = text(secret, "token-secret")?;
    let named = secret.name() == format!("bootstrap-token-{id}");
    let lower =
        |t: &str, n: usize| t.len() == n && t.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let valid = named && lower(id, 6) && lower(key, 16) && left(secret, now).is_none_or(|l| l > 0);
    (valid && text(secret, "usage-bootstrap-signing") == Some("true"))
        .then(|| (id.to_owned(), key.to_owned()))
}

/// A JWS with detached content, HS256.
fn sign(content: &str, id: &str, secret: &str) -> String {
    let header = URL_SAFE_NO_PAD.encode(format!(r#"{{"alg":"HS256","kid":"{id}"}}"#));
    let message = format!("{header}.{}", URL_SAFE_NO_PAD.encode(content));
    let key = format!("{id}.{secret}");
    format!("{header}..{}", URL_SAFE_NO_PAD.encode(hmac(key.as_bytes(), message.as_bytes())))
}

/// HMAC with SHA-256; the key is shorter than a block here.
fn hmac(key: &[u8], message: &[u8]) -> [u8; 32] {
    let pad = |byte: u8| {
        let mut block = [byte; 64];
        block.iter_mut().zip(key).for_each(|(b, k)| *b ^= k);
        block
    };
    let inner = Sha256::new().chain_update(pad(0x36)).chain_update(message).finalize();
    Sha256::new().chain_update(pad(0x5c)).chain_update(inner).finalize().into()
}

/// Signs `cluster-info` until shutdown.
pub async fn sign_cluster_info(ctx: Context) -> anyhow::Result<()> {
    let queue = Queue::new();
    let secrets = ctx.informers.selected::<Secret>(TOKENS);
    let maps = ctx.informers.selected::<ConfigMap>(CLUSTER_INFO);
    secrets.synced().await;
    maps.synced().await;
    let key = || Key::new("kube-public", "cluster-info");
    let q = queue.clone();
    secrets.watch(move |_| q.add(key()));
    let q = queue.clone();
    maps.watch(move |_| q.add(key()));
    let workers = ctx.workers("bootstrapsigner", "bootstrapsigner", 1);
    let (ctx, secrets, maps) = (&ctx, &secrets, &maps);
    workers.run(queue, |key| async move { update(ctx, secrets, maps, &key).await }).await;
    Ok(())
}

async fn update(
    ctx: &Context,
    secrets: &Arc<Shared<Secret>>,
    maps: &Arc<Shared<ConfigMap>>,
    key: &Key,
) -> anyhow::Result<Requeue> {
    let Some(map) = maps.get(key) else { return Ok(None) };
    let Some(content) = map.data.as_ref().and_then(|d| d.get("kubeconfig")) else { return Ok(None) };
    let now = now();
    let tokens = secrets.list();
    let mut data: BTreeMap<String, String> = map.data.clone().unwrap_or_default();
    data.retain(|key, _| !key.starts_with(SIGNATURE));
    for (id, secret) in tokens.iter().filter_map(|s| signing(s, now)) {
        data.insert(format!("{SIGNATURE}{id}"), sign(content, &id, &secret));
    }
    let next = tokens.iter().filter_map(|s| left(s, now)).filter(|l| *l > 0).min();
    if map.data.as_ref() != Some(&data) {
        let api: Api<ConfigMap> = Api::namespaced(ctx.client.clone(), &key.namespace);
        let next = ConfigMap { data: Some(data), ..(*map).clone() };
        errors::optional(api.replace(&key.name, &PostParams::default(), &next).await)?;
    }
    Ok(next.map(|l| Duration::from_secs(l.unsigned_abs() + 1)))
}

/// Deletes expired tokens until shutdown.
pub async fn clean_tokens(ctx: Context) -> anyhow::Result<()> {
    let queue = Queue::new();
    let secrets = ctx.informers.selected::<Secret>(TOKENS);
    secrets.synced().await;
    let q = queue.clone();
    secrets.watch(move |change| {
        if !change.deleted() {
            q.add(change.object().key());
        }
    });
    let workers = ctx.workers("tokencleaner", "tokencleaner", 1);
    let (ctx, secrets) = (&ctx, &secrets);
    workers
        .run(queue, |key: Key| async move {
            let Some(secret) = secrets.get(&key) else { return Ok(None) };
            let Some(left) = left(&secret, now()) else { return Ok(None) };
            if left > 0 {
                return Ok::<Requeue, anyhow::Error>(Some(Duration::from_secs(left.unsigned_abs() + 1)));
            }
            let api: Api<Secret> = Api::namespaced(ctx.client.clone(), &key.namespace);
            let only = Preconditions { uid: secret.metadata.uid.clone(), resource_version: None };
            let params = DeleteParams { preconditions: Some(only), ..DeleteParams::default() };
            errors::optional(api.delete(&key.name, &params).await)?;
            Ok(None)
        })
        .await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::ByteString;

    #[test]
    fn hmac_known_answer() {
        let hex: String =
            hmac(b"Jefe", b"what do ya want for nothing?").iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    }

    #[test]
    fn only_valid_tokens_sign() {
        let secret = |pairs: &[(&str, &str)]| {
            let mut s = Secret::default();
            s.metadata.name = Some("bootstrap-token-abcdef".into());
            let data = pairs.iter().map(|(k, v)| ((*k).to_owned(), ByteString(v.as_bytes().to_vec())));
            s.data = Some(data.collect());
            s
        };
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        let base = [
            ("token-id", "abcdef"),
            ("token-secret", "0123456789abcdef"),
            ("usage-bootstrap-signing", "true"),
        ];
        assert!(signing(&secret(&base), now).is_some());
        assert!(signing(&secret(&base[..2]), now).is_none());
        let mut expired = base.to_vec();
        expired.push(("expiration", "2025-12-31T00:00:00Z"));
        assert!(signing(&secret(&expired), now).is_none());
        assert_eq!(left(&secret(&base), now), None);
        assert!(
            sign("x", "abcdef", "0123456789abcdef").starts_with("eyJhbGciOiJIUzI1NiIsImtpZCI6ImFiY2RlZiJ9..")
        );
    }
}
