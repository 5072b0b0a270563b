//! `--authentication-token-webhook-config-file`: another server is asked whose a token is.

use super::{Authenticated, Error, Outcome, TokenAuthenticator};
use crate::user::UserInfo;
use crate::values::strings;
use crate::webhook::Backend;
use api::{Value, json};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Time for one question with all its attempts.
const LIMIT: Duration = Duration::from_secs(30);

/// The flags of token webhooks.
#[derive(Clone, Debug)]
pub struct WebhookOptions {
    /// `--authentication-token-webhook-config-file`
    pub config_file: PathBuf,
    /// `--authentication-token-webhook-version`: `v1` or `v1beta1`
    pub version: String,
    /// `--authentication-token-webhook-cache-ttl`
    pub cache_ttl: Duration,
}

/// Asks by TokenReview.
pub struct TokenWebhook {
    backend: Backend,
    version: String,
    ttl: Duration,
}

impl TokenWebhook {
    pub fn open(options: &WebhookOptions) -> anyhow::Result<Self> {
        if !matches!(options.version.as_str(), "v1" | "v1beta1") {
            anyhow::bail!("unsupported authentication webhook version {:?}", options.version);
        }
        let backend = Backend::open(&options.config_file)?;
        Ok(TokenWebhook { backend, version: options.version.clone(), ttl: options.cache_ttl })
    }
}

#[async_trait::async_trait]
impl TokenAuthenticator for TokenWebhook {
    async fn verify(&self, token: &str, audiences: &[String]) -> Outcome {
        let mut review = json!({
            "kind": "TokenReview",
            "apiVersion": format!("authentication.k8s.io/{}", self.version),
            "metadata": {"creationTimestamp": null},
            "spec": {"token": token},
            "status": {"user": {}},
        });
        if !audiences.is_empty() {
            review["spec"]["audiences"] = audiences.into();
        }
        let answer = self.backend.post(&review, LIMIT).await.map_err(Error::new)?;
        found(&answer["status"], audiences)
    }

    fn remembered(&self) -> Option<Duration> {
        Some(self.ttl)
    }
}

fn found(status: &Value, asked: &[String]) -> Outcome {
    if status["authenticated"] != true {
        return match status["error"].as_str().unwrap_or_default() {
            "" => Ok(None),
            error => Err(Error::new(error)),
        };
    }
    // A server that knows of no audiences vouches for none: then it must be the API server's own.
    let audiences: Vec<String> =
        strings(status, &["audiences"]).into_iter().filter(|a| asked.contains(a)).collect();
    if audiences.is_empty() && !strings(status, &["audiences"]).is_empty() {
        return Ok(None);
    }
    let user = &status["user"];
    let text = |key: &str| user[key].as_str().unwrap_or_default().to_owned();
    let extra = user["extra"].as_object().into_iter().flatten();
    let user = UserInfo {
        name: text("username"),
        uid: text("uid"),
        groups: strings(user, &["groups"]),
        extra: extra.map(|(k, v)| (k.clone(), strings(v, &[]))).collect(),
    };
    Ok(Some(Authenticated { user: Arc::new(user), audiences, audit: Vec::new() }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::webhook::tests::fake;

    #[tokio::test]
    async fn another_server_knows_the_user() {
        let fake = fake(|_, review| {
            assert_eq!(review["apiVersion"], "authentication.k8s.io/v1beta1");
            let answer = match review["spec"]["token"].as_str() {
                Some("good") => json!({"authenticated": true, "audiences": ["api"], "user": {
                    "username": "jane", "uid": "7", "groups": ["devs"], "extra": {"a": ["b"]}}}),
                Some("other") => {
                    json!({"authenticated": true, "audiences": ["elsewhere"], "user": {"username": "x"}})
                }
                Some("bad") => json!({"authenticated": false, "error": "expired"}),
                _ => json!({"authenticated": false}),
            };
            (200, json!({"status": answer}))
        })
        .await;
        let webhook =
            TokenWebhook { backend: fake.backend, version: "v1beta1".into(), ttl: Duration::from_secs(120) };
        let ask = async |token: &str| webhook.verify(token, &["api".to_owned()]).await;
        let good = ask("good").await.unwrap().unwrap();
        assert_eq!(
            (good.user.name.as_str(), good.user.groups.as_slice()),
            ("jane", &["devs".to_owned()][..])
        );
        assert_eq!(
            (good.user.extra["a"].as_slice(), good.audiences),
            (&["b".to_owned()][..], vec!["api".to_owned()])
        );
        assert!(ask("other").await.unwrap().is_none(), "meant for others");
        assert_eq!(ask("bad").await.unwrap_err().0, "expired");
        assert!(ask("unknown").await.unwrap().is_none());
    }
}
