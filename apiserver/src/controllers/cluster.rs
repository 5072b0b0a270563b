//! What other servers and controllers have to know of this cluster: the range of Service addresses, and how
//! requests are authenticated.

use super::bootstrap::ensure;
use crate::options::Options;
use api::registry::Registry;
use api::status::Result;
use api::{Value, json};
use endpoints::server::Server;
use std::time::Duration;

const RETRY: Duration = Duration::from_millis(300);

/// Makes the objects, trying until it has worked once.
pub async fn run(server: &Server, options: &Options) {
    server.store.wait_ready().await;
    while let Err(error) = everything(&*server.registry, options).await {
        tracing::debug!(%error, "the cluster's own settings cannot be published yet, trying again");
        tokio::time::sleep(RETRY).await;
    }
}

async fn everything(registry: &dyn Registry, options: &Options) -> Result<()> {
    service_cidr(registry, options).await?;
    authentication(registry, options).await
}

/// The ServiceCIDR `kubernetes`, from which Services take their addresses (KEP-1880).
async fn service_cidr(registry: &dyn Registry, options: &Options) -> Result<()> {
    let gr = ("networking.k8s.io", "servicecidrs");
    if registry.get(gr, "", "kubernetes").is_some() {
        return Ok(());
    }
    let cidrs: Vec<String> = options.service_ranges.iter().map(ToString::to_string).collect();
    let made =
        registry.create(gr, "", json!({"metadata": {"name": "kubernetes"}, "spec": {"cidrs": cidrs}})).await;
    let mut object = match made {
        Err(e) if e.reason == "AlreadyExists" => return Ok(()),
        other => other?,
    };
    object["status"] = json!({"conditions": [{
        "type": "Ready", "status": "True", "reason": "", "message": "Kubernetes default Service CIDR is ready",
        "lastTransitionTime": api::time::now(),
    }]});
    registry.update(gr, "status", object).await.map(drop)
}

/// The ConfigMap by which aggregated servers and daemons learn whom to trust.
async fn authentication(registry: &dyn Registry, options: &Options) -> Result<()> {
    let (gr, namespace, name) = (("", "configmaps"), "kube-system", "extension-apiserver-authentication");
    let data = authentication_data(options);
    match registry.get(gr, namespace, name) {
        None => ensure(registry, gr, namespace, json!({"metadata": {"name": name}, "data": data})).await,
        Some(old) if old["data"] == data => Ok(()),
        Some(old) => {
            let mut new = (*old).clone();
            new["data"] = data;
            registry.update(gr, "", new).await.map(drop)
        }
    }
}

fn authentication_data(options: &Options) -> Value {
    let flags = &options.flags;
    let mut data = serde_json::Map::new();
    let mut file = |key: &str, flag: &str| {
        // A file that cannot be read has stopped the server before this.
        if let Some(text) = flags.opt(flag).and_then(|path| std::fs::read_to_string(path).ok()) {
            data.insert(key.to_owned(), text.into());
        }
    };
    file("client-ca-file", "client-ca-file");
    file("requestheader-client-ca-file", "requestheader-client-ca-file");
    if data.contains_key("requestheader-client-ca-file") {
        for name in [
            "requestheader-allowed-names",
            "requestheader-extra-headers-prefix",
            "requestheader-group-headers",
            "requestheader-uid-headers",
            "requestheader-username-headers",
        ] {
            data.insert(name.to_owned(), json!(flags.list(name)).to_string().into());
        }
    }
    data.into()
}
