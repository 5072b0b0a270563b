//! serviceaccount-token-controller: fills Secrets of type `kubernetes.io/service-account-token` with a token
//! that does not expire, and deletes them with their service account.

use std::sync::Arc;

use anyhow::Context as _;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use controller_kit::meta::MetaExt;
use controller_kit::{Context, Key, Queue, Requeue, Shared, errors};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use kube::Api;
use kube::api::{DeleteParams, PostParams, Preconditions};
use serde_json::json;
use sha2::{Digest, Sha256};

/// The field selector of token secrets, shared with whoever reads them too.
pub(crate) const TOKENS: &str = "type=kubernetes.io/service-account-token";
pub(crate) const ACCOUNT_NAME: &str = "kubernetes.io/service-account.name";
pub(crate) const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";

struct Controller {
    ctx: Context,
    accounts: Arc<Shared<ServiceAccount>>,
    secrets: Arc<Shared<Secret>>,
    signer: Signer,
}

/// Runs until shutdown.
pub async fn run(ctx: Context) -> anyhow::Result<()> {
    let Some(path) = ctx.settings.service_account_key.clone() else { return Ok(()) };
    let pem = std::fs::read_to_string(&path).with_context(|| {
        format!("error reading key for service account token controller from {}", path.display())
    })?;
    let signer = Signer::new(&pem)?;
    let queue = Queue::new();
    let accounts = ctx.informer::<ServiceAccount>();
    let secrets = ctx.informers.selected::<Secret>(TOKENS);
    secrets.index("account", |s: &Secret| Some(account_key(s)?.to_string()));
    accounts.synced().await;
    secrets.synced().await;
    let q = queue.clone();
    secrets.watch(move |change| {
        if !change.deleted() {
            q.add(change.object().key());
        }
    });
    let (q, cache) = (queue.clone(), secrets.clone());
    accounts.watch(move |change| {
        let new_uid = change.old().is_none_or(|old| old.uid() != change.object().uid());
        if change.deleted() || new_uid {
            cache.by("account", &change.object().key().to_string()).iter().for_each(|s| q.add(s.key()));
        }
    });
    let workers = ctx.workers("serviceaccount-token", "serviceaccount-token", 5);
    let controller = Controller { ctx, accounts, secrets, signer };
    let c = &controller;
    workers.run(queue, |key| async move { c.reconcile(&key).await }).await;
    Ok(())
}

fn account_key(secret: &Secret) -> Option<Key> {
    let name = secret.annotation(ACCOUNT_NAME).filter(|n| !n.is_empty())?;
    Some(Key::new(secret.ns(), name))
}

impl Controller {
    async fn reconcile(&self, key: &Key) -> anyhow::Result<Requeue> {
        let Some(secret) = self.secrets.get(key) else { return Ok(None) };
        let Some(owner) = account_key(&secret) else { return Ok(None) };
        let matches = |a: &ServiceAccount| {
            secret.annotation(ACCOUNT_UID).is_none_or(|uid| uid.is_empty() || uid == a.uid())
        };
        let account = match self.accounts.get(&owner).filter(|a| matches(a)) {
            Some(account) => Some(account),
            None => {
                let api: Api<ServiceAccount> = Api::namespaced(self.ctx.client.clone(), &owner.namespace);
                errors::optional(api.get(&owner.name).await)?.filter(matches).map(Arc::new)
            }
        };
        let api: Api<Secret> = Api::namespaced(self.ctx.client.clone(), &key.namespace);
        let Some(account) = account else {
            let only = Preconditions { uid: secret.metadata.uid.clone(), resource_version: None };
            let params = DeleteParams { preconditions: Some(only), ..DeleteParams::default() };
            errors::optional(api.delete(&key.name, &params).await)?;
            return Ok(None);
        };
        if let Some(next) = self.fill(&secret, &account)? {
            errors::optional(api.replace(&key.name, &PostParams::default(), &next).await)?;
        }
        Ok(None)
    }

    /// The secret with everything that belongs into it; `None` when nothing is missing.
    fn fill(&self, secret: &Secret, account: &ServiceAccount) -> anyhow::Result<Option<Secret>> {
        let mut next = secret.clone();
        let data = next.data.get_or_insert_default();
        if let Some(ca) = &self.ctx.settings.root_ca {
            data.insert("ca.crt".into(), ByteString(ca.clone().into_bytes()));
        }
        data.insert("namespace".into(), ByteString(secret.ns().as_bytes().to_vec()));
        if data.get("token").is_none_or(|t| t.0.is_empty()) {
            data.insert("token".into(), ByteString(self.signer.token(secret, account)?.into_bytes()));
        }
        next.metadata
            .annotations
            .get_or_insert_default()
            .insert(ACCOUNT_UID.into(), account.uid().to_owned());
        Ok((next != *secret).then_some(next))
    }
}

/// Signs tokens with the key that the API server verifies.
struct Signer {
    key: EncodingKey,
    header: Header,
}

impl Signer {
    fn new(pem: &str) -> anyhow::Result<Signer> {
        let pkcs8 = pki::to_pkcs8(pem)?;
        let pair = rcgen::KeyPair::from_pem(&pkcs8)?;
        let public = pem::parse(pair.public_key_pem())?;
        let id = Sha256::digest(public.contents());
        let (algorithm, key) = match EncodingKey::from_ec_pem(pkcs8.as_bytes()) {
            Ok(key) if pair.is_compatible(&rcgen::PKCS_ECDSA_P384_SHA384) => (Algorithm::ES384, key),
            Ok(key) => (Algorithm::ES256, key),
            Err(_) => (Algorithm::RS256, EncodingKey::from_rsa_pem(pkcs8.as_bytes())?),
        };
        let header = Header { typ: None, kid: Some(URL_SAFE_NO_PAD.encode(id)), ..Header::new(algorithm) };
        Ok(Signer { key, header })
    }

    fn token(&self, secret: &Secret, account: &ServiceAccount) -> anyhow::Result<String> {
        let (namespace, name) = (account.ns(), account.name());
        let claims = json!({
            "iss": "kubernetes/serviceaccount",
            "kubernetes.io/serviceaccount/namespace": namespace,
            "kubernetes.io/serviceaccount/secret.name": secret.name(),
            "kubernetes.io/serviceaccount/service-account.name": name,
            "kubernetes.io/serviceaccount/service-account.uid": account.uid(),
            "sub": format!("system:serviceaccount:{namespace}:{name}"),
        });
        Ok(jsonwebtoken::encode(&self.header, &claims, &self.key)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_name_account_and_secret() {
        let keys = pki::service_account_keys().unwrap();
        let signer = Signer::new(&keys.private_pem).unwrap();
        let secret: Secret =
            serde_json::from_value(json!({"metadata": {"name": "s", "namespace": "n"}})).unwrap();
        let account: ServiceAccount =
            serde_json::from_value(json!({"metadata": {"name": "a", "namespace": "n", "uid": "u"}})).unwrap();
        let token = signer.token(&secret, &account).unwrap();
        let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
        let claims: serde_json::Value = serde_json::from_slice(&claims).unwrap();
        assert_eq!(claims["sub"], "system:serviceaccount:n:a");
        assert_eq!(claims["kubernetes.io/serviceaccount/secret.name"], "s");
    }
}
