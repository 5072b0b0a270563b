//! The API objects that pods refer to: each is read when first needed, then watched by name while pods use it.

use std::collections::{HashMap, HashSet};
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolume, PersistentVolumeClaim, Pod, Secret};
use kube::api::{Api, ListParams, WatchEvent, WatchParams};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use volumes::{Error, Objects, Result, TokenRequest, TrustBundle};

use crate::pod::PodExt;
use crate::tokens::Tokens;

/// Namespace and name.
pub type Key = (String, String);

/// Objects of one kind, by name.
struct Cache<K> {
    what: &'static str,
    client: kube::Client,
    entries: Mutex<HashMap<Key, Entry<K>>>,
    changed: Arc<Notify>,
}

struct Entry<K> {
    object: Option<Arc<K>>,
    watch: AbortHandle,
}

impl<K> Drop for Entry<K> {
    fn drop(&mut self) {
        self.watch.abort();
    }
}

impl<K> Cache<K>
where
    K: kube::Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    K: Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    fn new(what: &'static str, client: kube::Client, changed: Arc<Notify>) -> Arc<Self> {
        Arc::new(Self { what, client, entries: Mutex::default(), changed })
    }

    async fn get(self: &Arc<Self>, namespace: &str, name: &str) -> Result<Arc<K>> {
        let key = (namespace.to_string(), name.to_string());
        let known = self.entries.lock().get(&key).map(|entry| entry.object.clone());
        let object = match known {
            Some(object) => object,
            None => self.load(key).await?,
        };
        object.ok_or_else(|| Error::NotFound(format!("{} {name:?} not found", self.what)))
    }

    /// Reads an object and goes on watching it.
    async fn load(self: &Arc<Self>, key: Key) -> Result<Option<Arc<K>>> {
        let (object, version) = self.read(&key).await.map_err(|e| Error::other(e.to_string()))?;
        let cache = Arc::downgrade(self);
        let watched = key.clone();
        let task = tokio::spawn(async move {
            let mut version = version;
            let mut delay = Duration::from_secs(1);
            loop {
                let Some(cache) = cache.upgrade() else { return };
                match cache.follow(&watched, &version).await {
                    Ok(()) => delay = Duration::from_secs(1),
                    Err(error) => tracing::debug!(what = cache.what, name = watched.1, %error, "Watch ended"),
                }
                tokio::time::sleep(delay).await;
                delay = (delay * 2).min(Duration::from_secs(30));
                if let Ok((object, fresh)) = cache.read(&watched).await {
                    version = fresh;
                    cache.store(&watched, object);
                }
            }
        });
        let entry = Entry { object: object.clone(), watch: task.abort_handle() };
        self.entries.lock().insert(key, entry);
        Ok(object)
    }

    fn api(&self, key: &Key) -> Api<K> {
        Api::namespaced(self.client.clone(), &key.0)
    }

    async fn read(&self, key: &Key) -> kube::Result<(Option<Arc<K>>, String)> {
        let params = ListParams::default().fields(&format!("metadata.name={}", key.1));
        let list = self.api(key).list(&params).await?;
        let version = list.metadata.resource_version.unwrap_or_default();
        Ok((list.items.into_iter().next().map(Arc::new), version))
    }

    async fn follow(&self, key: &Key, version: &str) -> kube::Result<()> {
        let params = WatchParams::default().fields(&format!("metadata.name={}", key.1)).timeout(290);
        let api = self.api(key);
        let mut events = std::pin::pin!(api.watch(&params, version).await?);
        while let Some(event) = events.next().await {
            match event? {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                    self.store(key, Some(Arc::new(object)))
                }
                WatchEvent::Deleted(_) => self.store(key, None),
                WatchEvent::Bookmark(_) => {}
                WatchEvent::Error(_) => break,
            }
        }
        Ok(())
    }

    fn store(&self, key: &Key, object: Option<Arc<K>>) {
        let mut entries = self.entries.lock();
        let Some(entry) = entries.get_mut(key) else { return };
        let version = |o: &Option<Arc<K>>| o.as_ref().and_then(|o| o.meta().resource_version.clone());
        if version(&entry.object) != version(&object) || entry.object.is_some() != object.is_some() {
            entry.object = object;
            self.changed.notify_waiters();
        }
    }

    fn retain(&self, used: &HashSet<Key>) {
        self.entries.lock().retain(|key, _| used.contains(key));
    }
}

/// All objects that pods of this node refer to.
pub struct ObjectStore {
    client: kube::Client,
    config_maps: Arc<Cache<ConfigMap>>,
    secrets: Arc<Cache<Secret>>,
    tokens: Tokens,
    /// Told when a watched object changed.
    pub changed: Arc<Notify>,
}

impl ObjectStore {
    /// A store that reads with `client`.
    pub fn new(client: kube::Client) -> Self {
        let changed = Arc::new(Notify::new());
        Self {
            config_maps: Cache::new("configmap", client.clone(), changed.clone()),
            secrets: Cache::new("secret", client.clone(), changed.clone()),
            tokens: Tokens::new(client.clone()),
            client,
            changed,
        }
    }

    /// Forgets what no pod of `pods` refers to.
    pub fn retain<'a>(&self, pods: impl Iterator<Item = &'a Pod>) {
        let mut config_maps = HashSet::new();
        let mut secrets = HashSet::new();
        let mut uids = HashSet::new();
        for pod in pods {
            references(pod, &mut config_maps, &mut secrets);
            uids.insert(pod.uid().to_string());
        }
        self.config_maps.retain(&config_maps);
        self.secrets.retain(&secrets);
        self.tokens.retain(&uids);
    }
}

/// The ConfigMaps and Secrets that a pod refers to.
fn references(pod: &Pod, config_maps: &mut HashSet<Key>, secrets: &mut HashSet<Key>) {
    let namespace = pod.namespace();
    let key = |name: &str| (namespace.to_string(), name.to_string());
    let spec = pod.spec();
    of_containers(pod, config_maps, secrets);
    for volume in spec.volumes.iter().flatten() {
        config_maps.extend(volume.config_map.iter().map(|s| key(&s.name)));
        secrets.extend(volume.secret.iter().filter_map(|s| s.secret_name.as_deref()).map(key));
        for source in volume.projected.iter().flat_map(|p| p.sources.iter().flatten()) {
            config_maps.extend(source.config_map.iter().map(|s| key(&s.name)));
            secrets.extend(source.secret.iter().map(|s| key(&s.name)));
        }
    }
}

/// The ConfigMaps and Secrets that a pod's containers and their images refer to.
pub fn of_containers(pod: &Pod, config_maps: &mut HashSet<Key>, secrets: &mut HashSet<Key>) {
    let key = |name: &str| (pod.namespace().to_string(), name.to_string());
    for reference in pod.spec().image_pull_secrets.iter().flatten() {
        secrets.insert(key(&reference.name));
    }
    for (_, container) in pod.all_containers() {
        for from in container.env_from.iter().flatten() {
            config_maps.extend(from.config_map_ref.iter().map(|r| key(&r.name)));
            secrets.extend(from.secret_ref.iter().map(|r| key(&r.name)));
        }
        for source in container.env.iter().flatten().filter_map(|e| e.value_from.as_ref()) {
            config_maps.extend(source.config_map_key_ref.iter().map(|r| key(&r.name)));
            secrets.extend(source.secret_key_ref.iter().map(|r| key(&r.name)));
        }
    }
}

#[async_trait]
impl Objects for ObjectStore {
    async fn config_map(&self, namespace: &str, name: &str) -> Result<Arc<ConfigMap>> {
        self.config_maps.get(namespace, name).await
    }

    async fn secret(&self, namespace: &str, name: &str) -> Result<Arc<Secret>> {
        self.secrets.get(namespace, name).await
    }

    async fn token(&self, pod: &Pod, request: TokenRequest<'_>) -> Result<String> {
        self.tokens.get(pod, request).await
    }

    async fn claim(&self, namespace: &str, name: &str) -> Result<Arc<PersistentVolumeClaim>> {
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), namespace);
        found(api.get_opt(name).await, "persistentvolumeclaim", name)
    }

    async fn persistent_volume(&self, name: &str) -> Result<Arc<PersistentVolume>> {
        let api: Api<PersistentVolume> = Api::all(self.client.clone());
        found(api.get_opt(name).await, "persistentvolume", name)
    }

    async fn trust_bundle(&self, source: &TrustBundle) -> Result<String> {
        use k8s_openapi::api::certificates::v1beta1::ClusterTrustBundle;
        let api: Api<ClusterTrustBundle> = Api::all(self.client.clone());
        if let Some(name) = &source.name {
            let bundle = found(api.get_opt(name).await, "clustertrustbundle", name)?;
            return Ok(bundle.spec.trust_bundle.clone());
        }
        let signer = source.signer_name.as_deref().unwrap_or_default();
        let params = ListParams::default().fields(&format!("spec.signerName={signer}"));
        let list = api.list(&params).await.map_err(|e| Error::other(e.to_string()))?;
        let wanted = source.label_selector.clone().unwrap_or_default().match_labels.unwrap_or_default();
        let mut pems: Vec<String> = list
            .items
            .into_iter()
            .filter(|b| {
                let labels = b.metadata.labels.clone().unwrap_or_default();
                wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
            })
            .map(|b| b.spec.trust_bundle)
            .collect();
        if pems.is_empty() {
            return Err(Error::NotFound(format!("no ClusterTrustBundles match signer {signer}")));
        }
        pems.sort();
        Ok(pems.join("\n"))
    }
}

fn found<K>(result: kube::Result<Option<K>>, what: &str, name: &str) -> Result<Arc<K>> {
    match result {
        Ok(Some(object)) => Ok(Arc::new(object)),
        Ok(None) => Err(Error::NotFound(format!("{what} {name:?} not found"))),
        Err(error) => Err(Error::other(error.to_string())),
    }
}

/// What a kubelet without an apiserver has: nothing.
pub struct NoObjects;

#[async_trait]
impl Objects for NoObjects {
    async fn config_map(&self, namespace: &str, name: &str) -> Result<Arc<ConfigMap>> {
        Err(Error::other(format!("couldn't get configMap {namespace}/{name}, no kubeClient defined")))
    }
    async fn secret(&self, namespace: &str, name: &str) -> Result<Arc<Secret>> {
        Err(Error::other(format!("couldn't get secret {namespace}/{name}, no kubeClient defined")))
    }
    async fn token(&self, _: &Pod, _: TokenRequest<'_>) -> Result<String> {
        Err(Error::other("cannot use TokenManager when kubelet is in standalone mode"))
    }
    async fn claim(&self, _: &str, name: &str) -> Result<Arc<PersistentVolumeClaim>> {
        Err(Error::other(format!("couldn't get claim {name}, no kubeClient defined")))
    }
    async fn persistent_volume(&self, name: &str) -> Result<Arc<PersistentVolume>> {
        Err(Error::other(format!("couldn't get volume {name}, no kubeClient defined")))
    }
    async fn trust_bundle(&self, _: &TrustBundle) -> Result<String> {
        Err(Error::other("ClusterTrustBundle projection is not supported in static kubelet mode"))
    }
}
