//! Service account tokens of pods: asked for when needed, kept while fresh.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, SystemTime};

use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use serde_json::{Value, json};
use volumes::{Error, Result, TokenRequest};

use crate::pod::PodExt;

/// A token this old is replaced even if it is still far from its end.
const MAX_AGE: Duration = Duration::from_secs(24 * 3600);

/// How long to wait before asking again for the token of a pod that the apiserver does not know yet.
const PAUSES: [Duration; 4] = [
    Duration::from_millis(40),
    Duration::from_millis(80),
    Duration::from_millis(160),
    Duration::from_millis(320),
];

/// Pod UID, audience, lifetime.
type Key = (String, String, i64);

/// The tokens of this node's pods.
pub struct Tokens {
    client: kube::Client,
    known: Mutex<HashMap<Key, Known>>,
}

struct Known {
    token: volumes::Token,
    refresh_at: SystemTime,
    expires: SystemTime,
}

impl Tokens {
    /// Tokens asked for with `client`.
    pub fn new(client: kube::Client) -> Self {
        Self { client, known: Mutex::default() }
    }

    /// A token for the pod; a kept one if it is fresh, or if there is no other and it still works.
    pub async fn get(&self, pod: &Pod, request: TokenRequest<'_>) -> Result<volumes::Token> {
        let key = (pod.uid().to_string(), request.audience.to_string(), request.expiration_seconds);
        let now = SystemTime::now();
        if let Some(known) = self.known.lock().get(&key)
            && now < known.refresh_at
        {
            return Ok(known.token.clone());
        }
        match self.ask_patiently(pod, &request).await {
            Ok((token, expires)) => {
                let token = volumes::Token { token, expires };
                let expires = SystemTime::from(expires);
                let life = expires.duration_since(now).unwrap_or_default();
                let refresh_at = now + life.mul_f64(0.8).min(MAX_AGE);
                self.known.lock().insert(key, Known { token: token.clone(), refresh_at, expires });
                Ok(token)
            }
            Err(error) => {
                let known = self.known.lock();
                let old = known.get(&key).filter(|t| now < t.expires);
                old.map(|t| t.token.clone()).ok_or(Error::other(format!("failed to fetch token: {error}")))
            }
        }
    }

    /// Asks again a few times when the apiserver says that there is no such pod, or that it is not this node's: one
    /// that was bound a moment ago may not have got around to all of its caches.
    async fn ask_patiently(
        &self,
        pod: &Pod,
        request: &TokenRequest<'_>,
    ) -> std::result::Result<(String, jiff::Timestamp), String> {
        for pause in PAUSES {
            match self.ask(pod, request).await {
                Err((403 | 404, _)) => tokio::time::sleep(pause).await,
                other => return other.map_err(|(_, message)| message),
            }
        }
        self.ask(pod, request).await.map_err(|(_, message)| message)
    }

    async fn ask(
        &self,
        pod: &Pod,
        request: &TokenRequest<'_>,
    ) -> std::result::Result<(String, jiff::Timestamp), (u16, String)> {
        let account = pod.spec().service_account_name.as_deref().unwrap_or("default");
        let audiences = if request.audience.is_empty() { Vec::new() } else { vec![request.audience] };
        let body = json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {
                "audiences": audiences,
                "expirationSeconds": request.expiration_seconds,
                "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": pod.name(), "uid": pod.uid()},
            },
        });
        let path = format!("/api/v1/namespaces/{}/serviceaccounts/{account}/token", pod.namespace());
        let http = http::Request::post(path)
            .header("content-type", "application/json")
            .body(body.to_string().into_bytes());
        let reply: Value = self.client.request(http.map_err(|e| (0, e.to_string()))?).await.map_err(|e| {
            let code = if let kube::Error::Api(status) = &e { status.code } else { 0 };
            (code, crate::objects::words(&e))
        })?;
        let status = &reply["status"];
        let expires = status["expirationTimestamp"].as_str().and_then(|t| t.parse::<jiff::Timestamp>().ok());
        match (status["token"].as_str(), expires) {
            (Some(token), Some(expires)) => Ok((token.to_string(), expires)),
            _ => Err((0, "the reply holds no token".into())),
        }
    }

    /// Forgets the tokens of all other pods.
    pub fn retain(&self, uids: &HashSet<String>) {
        self.known.lock().retain(|(uid, ..), _| uids.contains(uid));
    }
}
