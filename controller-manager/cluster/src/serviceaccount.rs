//! serviceaccount-controller: every active namespace has a service account `default`.

use std::sync::Arc;

use controller_kit::meta::MetaExt;
use controller_kit::{Context, Key, Queue, Requeue, Shared, errors};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;
use kube::{Api, Client};

/// Runs until shutdown.
pub async fn run(ctx: Context) -> anyhow::Result<()> {
    let queue = Queue::new();
    let namespaces = ctx.informer::<Namespace>();
    let accounts = ctx.informers.selected::<ServiceAccount>("metadata.name=default");
    namespaces.synced().await;
    accounts.synced().await;
    let q = queue.clone();
    namespaces.watch(move |change| {
        if !change.deleted() {
            q.add(Key::cluster(change.object().name()));
        }
    });
    let q = queue.clone();
    accounts.watch(move |change| {
        if change.deleted() {
            q.add(Key::cluster(change.object().ns()));
        }
    });
    let workers = ctx.workers("serviceaccount", "serviceaccount", 1);
    let (client, namespaces, accounts) = (&ctx.client, &namespaces, &accounts);
    workers.run(queue, |key| async move { reconcile(client, namespaces, accounts, &key.name).await }).await;
    Ok(())
}

/// Whether new objects can be made in a namespace.
pub(crate) fn active(namespace: &Namespace) -> bool {
    let phase = namespace.status.as_ref().and_then(|s| s.phase.as_deref());
    !namespace.deleting() && phase.is_none_or(|p| p == "Active")
}

async fn reconcile(
    client: &Client,
    namespaces: &Arc<Shared<Namespace>>,
    accounts: &Arc<Shared<ServiceAccount>>,
    namespace: &str,
) -> anyhow::Result<Requeue> {
    let known = namespaces.get(&Key::cluster(namespace));
    if !known.is_some_and(|n| active(&n)) || accounts.get(&Key::new(namespace, "default")).is_some() {
        return Ok(None);
    }
    let account = ServiceAccount {
        metadata: ObjectMeta {
            name: Some("default".into()),
            namespace: Some(namespace.to_owned()),
            ..ObjectMeta::default()
        },
        ..ServiceAccount::default()
    };
    let api: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
    match api.create(&PostParams::default(), &account).await {
        Ok(_) => Ok(None),
        Err(e)
            if errors::already_exists(&e) || errors::namespace_terminating(&e) || errors::not_found(&e) =>
        {
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}
