//! root-ca-certificate-publisher-controller: the cluster's CA bundle in every namespace's ConfigMap
//! `kube-root-ca.crt`, for pods that verify the API server.

use std::collections::BTreeMap;
use std::sync::Arc;

use controller_kit::meta::MetaExt;
use controller_kit::{Context, Key, Queue, Requeue, Shared, errors};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;
use kube::{Api, Client};

use crate::serviceaccount::active;

const NAME: &str = "kube-root-ca.crt";
const NOTE: &str = "kubernetes.io/description";
const NOTE_TEXT: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters.";

/// Runs until shutdown. Without `--root-ca-file` an empty bundle is published, as pods mount it either way.
pub async fn run(ctx: Context) -> anyhow::Result<()> {
    let queue = Queue::new();
    let namespaces = ctx.informer::<Namespace>();
    let maps = ctx.informers.selected::<ConfigMap>("metadata.name=kube-root-ca.crt");
    namespaces.synced().await;
    maps.synced().await;
    let q = queue.clone();
    namespaces.watch(move |change| {
        if !change.deleted() {
            q.add(Key::cluster(change.object().name()));
        }
    });
    let q = queue.clone();
    maps.watch(move |change| q.add(Key::cluster(change.object().ns())));
    let ca = ctx.settings.root_ca.clone().unwrap_or_default();
    let workers = ctx.workers("root-ca-cert-publisher", "root-ca", 1);
    let (client, namespaces, maps, ca) = (&ctx.client, &namespaces, &maps, &ca);
    workers.run(queue, |key| async move { reconcile(client, namespaces, maps, ca, &key.name).await }).await;
    Ok(())
}

async fn reconcile(
    client: &Client,
    namespaces: &Arc<Shared<Namespace>>,
    maps: &Arc<Shared<ConfigMap>>,
    ca: &str,
    namespace: &str,
) -> anyhow::Result<Requeue> {
    if !namespaces.get(&Key::cluster(namespace)).is_some_and(|n| active(&n)) {
        return Ok(None);
    }
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let data = BTreeMap::from([("ca.crt".to_owned(), ca.to_owned())]);
    let result = match maps.get(&Key::new(namespace, NAME)) {
        None => {
            let metadata = ObjectMeta {
                name: Some(NAME.into()),
                namespace: Some(namespace.to_owned()),
                annotations: Some(BTreeMap::from([(NOTE.into(), NOTE_TEXT.into())])),
                ..ObjectMeta::default()
            };
            let map = ConfigMap { metadata, data: Some(data), ..ConfigMap::default() };
            api.create(&PostParams::default(), &map).await
        }
        Some(map) if map.data.as_ref() == Some(&data) && map.annotation(NOTE).is_some() => return Ok(None),
        Some(map) => {
            let mut map = (*map).clone();
            map.data = Some(data);
            map.binary_data = None;
            map.metadata.annotations.get_or_insert_default().insert(NOTE.into(), NOTE_TEXT.into());
            api.replace(NAME, &PostParams::default(), &map).await
        }
    };
    match result {
        Ok(_) => Ok(None),
        Err(e)
            if errors::already_exists(&e) || errors::namespace_terminating(&e) || errors::not_found(&e) =>
        {
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}
