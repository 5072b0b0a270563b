//! The authorities that the API server publishes for daemons that serve on its behalf.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use futures::StreamExt;
use http::HeaderMap;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::runtime::{WatchStreamExt, watcher};
use rustls_pki_types::CertificateDer;
use tokio_util::sync::CancellationToken;

use super::User;
use super::headers::FrontProxy;
use crate::serve::tls::ClientCa;

const NAMESPACE: &str = "kube-system";
const NAME: &str = "extension-apiserver-authentication";

/// What the ConfigMap says at the moment.
pub(super) struct Published {
    pub(super) client_ca: ClientCa,
    proxy: ArcSwapOption<FrontProxy>,
}

impl Default for Published {
    fn default() -> Published {
        Published { client_ca: ClientCa::empty(), proxy: ArcSwapOption::empty() }
    }
}

impl Published {
    pub(super) fn front_proxy_user(
        &self,
        chain: &[CertificateDer<'static>],
        headers: &HeaderMap,
    ) -> Option<User> {
        self.proxy.load().as_ref()?.user(chain, headers)
    }

    fn apply(&self, data: &BTreeMap<String, String>) -> anyhow::Result<()> {
        if let Some(pem) = data.get("client-ca-file") {
            self.client_ca.set_pem(pem.as_bytes())?;
        }
        let Some(pem) = data.get("requestheader-client-ca-file") else { return Ok(()) };
        let list = |key: &str| -> Vec<String> {
            data.get(key).and_then(|v| serde_json::from_str(v).ok()).unwrap_or_default()
        };
        let ca = ClientCa::empty();
        ca.set_pem(pem.as_bytes())?;
        self.proxy.store(Some(Arc::new(FrontProxy {
            ca,
            allowed_names: list("requestheader-allowed-names"),
            username: list("requestheader-username-headers"),
            uid: list("requestheader-uid-headers"),
            group: list("requestheader-group-headers"),
            extra_prefix: list("requestheader-extra-headers-prefix"),
        })));
        Ok(())
    }
}

/// Follows the ConfigMap until shutdown. Without it (or without the right to read it) only other credentials work.
pub(super) async fn follow(client: kube::Client, published: Arc<Published>, shutdown: CancellationToken) {
    let api: Api<ConfigMap> = Api::namespaced(client, NAMESPACE);
    let mut stream = watcher::watch_object(api, NAME).default_backoff().boxed();
    loop {
        let event = tokio::select! {
            () = shutdown.cancelled() => return,
            event = stream.next() => event,
        };
        match event {
            Some(Ok(Some(map))) => {
                if let Err(error) = published.apply(&map.data.unwrap_or_default()) {
                    tracing::error!(%error, config_map = NAME, "Bad authorities published");
                }
            }
            Some(Ok(None)) => {}
            Some(Err(error)) => {
                tracing::warn!(%error, config_map = NAME, "Unable to get configmap/extension-apiserver-authentication in kube-system")
            }
            None => return,
        }
    }
}
