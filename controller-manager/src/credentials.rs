//! A service account a controller (`--use-service-account-credentials`): each controller writes as itself, with no more
//! rights than its own role, and the audit log shows which one it was.
//!
//! All controllers share one pool of connections without credentials of its own; a controller's client adds the bearer
//! token of its service account, which is renewed before it expires. In either mode each controller has a request
//! budget (`--kube-api-qps`, `--kube-api-burst`) of its own, so that a busy one holds up no other.

use std::time::Duration;

use anyhow::{Context as _, Result};
use client::TokenBucket;
use http::HeaderValue;
use http::header::AUTHORIZATION;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::api::PostParams;
use kube::client::Body;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const NAMESPACE: &str = "kube-system";
/// What is asked for; the apiserver may give less.
const LIFETIME: Duration = Duration::from_secs(3600);
/// Pause after a failed renewal.
const RETRY: Duration = Duration::from_secs(10);

/// The service accounts whose names are not those of their controllers.
const ACCOUNTS: &[(&str, &str)] = &[
    ("endpoints-controller", "endpoint-controller"),
    ("endpointslice-mirroring-controller", "endpointslicemirroring-controller"),
    ("replicationcontroller-controller", "replication-controller"),
    ("pod-garbage-collector-controller", "pod-garbage-collector"),
    ("serviceaccount-controller", "service-account-controller"),
    ("garbage-collector-controller", "generic-garbage-collector"),
    ("daemonset-controller", "daemon-set-controller"),
    ("horizontal-pod-autoscaler-controller", "horizontal-pod-autoscaler"),
    ("certificatesigningrequest-signing-controller", "certificate-controller"),
    ("certificatesigningrequest-approving-controller", "certificate-controller"),
    ("certificatesigningrequest-cleaner-controller", "certificate-controller"),
    ("bootstrap-signer-controller", "bootstrap-signer"),
    ("token-cleaner-controller", "token-cleaner"),
    ("node-ipam-controller", "node-controller"),
    ("node-lifecycle-controller", "node-controller"),
    ("taint-eviction-controller", "node-controller"),
    ("persistentvolume-binder-controller", "persistent-volume-binder"),
    ("persistentvolume-attach-detach-controller", "attachdetach-controller"),
    ("persistentvolume-expander-controller", "expand-controller"),
    ("persistentvolumeclaim-protection-controller", "pvc-protection-controller"),
    ("persistentvolume-protection-controller", "pv-protection-controller"),
    ("root-ca-certificate-publisher-controller", "root-ca-cert-publisher"),
    ("resourceclaim-controller", "resource-claim-controller"),
    ("legacy-serviceaccount-token-cleaner-controller", "legacy-service-account-token-cleaner"),
    ("service-cidr-controller", "service-cidrs-controller"),
];

fn account(controller: &'static str) -> &'static str {
    ACCOUNTS.iter().find(|(name, _)| *name == controller).map_or(controller, |(_, account)| account)
}

/// Makes the clients of the controllers.
#[derive(Clone)]
pub struct Credentials {
    /// Creates accounts and asks for their tokens.
    root: kube::Client,
    /// Connections without credentials; `None` when all controllers work as the kubeconfig's user.
    anonymous: Option<kube::Client>,
    budget: Budget,
}

/// Requests a second, and at once, of each controller.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    pub qps: f64,
    pub burst: u32,
}

impl Budget {
    /// The garbage collector asks the server before each deletion: it gets twice as much.
    fn of(self, controller: &str) -> TokenBucket {
        let factor = if controller == "garbage-collector-controller" { 2 } else { 1 };
        TokenBucket::new(self.qps * f64::from(factor), self.burst.saturating_mul(factor))
    }
}

impl Credentials {
    /// Every controller works as the kubeconfig's user.
    pub fn of_kubeconfig(root: kube::Client, budget: Budget) -> Credentials {
        Credentials { root, anonymous: None, budget }
    }

    /// Every controller works as its own service account.
    pub fn of_service_accounts(root: kube::Client, anonymous: kube::Client, budget: Budget) -> Credentials {
        Credentials { root, anonymous: Some(anonymous), budget }
    }

    /// The client of one controller. Its token is renewed until shutdown.
    pub async fn client(
        &self,
        controller: &'static str,
        shutdown: &CancellationToken,
    ) -> Result<kube::Client> {
        let bucket = self.budget.of(controller);
        let Some(anonymous) = self.anonymous.clone() else {
            return Ok(limited(self.root.clone(), None, bucket));
        };
        let name = account(controller);
        let (token, lifetime) = self.token(name).await?;
        let (sender, receiver) = watch::channel(token);
        // Ends with the token that it is given, which ends with the process.
        tokio::spawn(self.clone().renew(name, lifetime, sender, shutdown.clone()));
        Ok(limited(anonymous, Some(receiver), bucket))
    }

    async fn renew(
        self,
        name: &'static str,
        mut lifetime: Duration,
        sender: watch::Sender<HeaderValue>,
        shutdown: CancellationToken,
    ) {
        loop {
            // At four fifths, so that a few failures do no harm.
            let wait = lifetime * 4 / 5;
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = sender.closed() => return,
                () = tokio::time::sleep(wait) => {}
            }
            match self.token(name).await {
                Ok((token, new_lifetime)) => {
                    sender.send_replace(token);
                    lifetime = new_lifetime;
                }
                Err(e) => {
                    tracing::error!(account = name, "cannot renew the token of a service account: {e:#}");
                    lifetime = RETRY;
                }
            }
        }
    }

    async fn token(&self, name: &str) -> Result<(HeaderValue, Duration)> {
        let api: Api<ServiceAccount> = Api::namespaced(self.root.clone(), NAMESPACE);
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                expiration_seconds: Some(LIFETIME.as_secs() as i64),
                ..TokenRequestSpec::default()
            }),
            ..TokenRequest::default()
        };
        let params = PostParams::default();
        let asked = match api.create_token_request(name, &params, &request).await {
            Err(e) if client::is_not_found(&e) => {
                create(&api, name).await?;
                api.create_token_request(name, &params, &request).await
            }
            other => other,
        };
        let answer = asked.with_context(|| format!("no token for service account {name}"))?;
        let status = answer.status.context("the apiserver gave no token")?;
        let mut header = HeaderValue::from_str(&format!("Bearer {}", status.token.unwrap_or_default()))?;
        header.set_sensitive(true);
        let end = status.expiration_timestamp.context("the apiserver gave no end of the token")?.0;
        let left = end.as_second() - k8s_openapi::jiff::Timestamp::now().as_second();
        Ok((header, Duration::from_secs(u64::try_from(left).unwrap_or(0)).max(RETRY)))
    }
}

/// A client over another's connections, with a budget and, where given, a token of its own. Watches cost nothing:
/// they are few and long.
fn limited(
    inner: kube::Client,
    token: Option<watch::Receiver<HeaderValue>>,
    bucket: TokenBucket,
) -> kube::Client {
    let service = tower::service_fn(move |mut request: http::Request<Body>| {
        if let Some(token) = &token {
            request.headers_mut().insert(AUTHORIZATION, token.borrow().clone());
        }
        let watches = request.uri().query().is_some_and(|q| q.contains("watch=true"));
        let (client, bucket) = (inner.clone(), bucket.clone());
        async move {
            if !watches {
                bucket.wait().await;
            }
            client.send(request).await
        }
    });
    kube::Client::new(service, "default")
}

async fn create(api: &Api<ServiceAccount>, name: &str) -> Result<()> {
    let account = ServiceAccount {
        metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
        ..ServiceAccount::default()
    };
    match api.create(&PostParams::default(), &account).await {
        // Another manager was faster.
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        other => other.map(drop).with_context(|| format!("cannot create service account {name}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controllers::ALL;

    #[test]
    fn accounts_belong_to_controllers() {
        for (controller, _) in ACCOUNTS {
            assert!(ALL.iter().any(|c| c.name == *controller), "{controller} is no controller");
        }
        assert_eq!(account("deployment-controller"), "deployment-controller");
        assert_eq!(account("garbage-collector-controller"), "generic-garbage-collector");
    }
}
