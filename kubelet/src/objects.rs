//! The API objects that pods refer to: each is read when first needed, then watched by name while pods use it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Debug;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures::StreamExt;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{
    ConfigMap, Node, PersistentVolume, PersistentVolumeClaim, Pod, Secret, ServiceAccount,
};
use k8s_openapi::api::storage::v1::{CSIDriver, VolumeAttachment};
use kube::api::{Api, ListParams, Patch, PatchParams, WatchEvent, WatchParams};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use volumes::{Credentials, Error, Objects, PodCertificate, Result, Token, TokenRequest, TrustBundle};

use crate::config::KubeletConfiguration;
use crate::pod::PodExt;
use crate::tokens::Tokens;

mod certificates;
mod trust;

/// Namespace and name.
pub type Key = (String, String);

/// How changes of ConfigMaps and Secrets become known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Strategy {
    /// Each is watched.
    Watch,
    /// Each is read again when it is this old.
    Cache(Duration),
    /// Each is read whenever it is needed.
    Get,
}

/// Objects of one kind, by name.
struct Cache<K> {
    what: &'static str,
    strategy: Strategy,
    /// Whether an object says that it will never change.
    immutable: fn(&K) -> bool,
    client: kube::Client,
    entries: Mutex<HashMap<Key, Entry<K>>>,
    changed: Arc<Notify>,
}

struct Entry<K> {
    object: Option<Arc<K>>,
    read_at: Instant,
    watch: Option<AbortHandle>,
}

impl<K> Drop for Entry<K> {
    fn drop(&mut self) {
        if let Some(watch) = &self.watch {
            watch.abort();
        }
    }
}

impl<K> Cache<K>
where
    K: kube::Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    K: Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    fn new(
        what: &'static str,
        strategy: Strategy,
        immutable: fn(&K) -> bool,
        client: kube::Client,
        changed: Arc<Notify>,
    ) -> Arc<Self> {
        Arc::new(Self { what, strategy, immutable, client, entries: Mutex::default(), changed })
    }

    /// Whether what was read then may still be shown.
    fn is_fresh(&self, entry: &Entry<K>) -> bool {
        match self.strategy {
            Strategy::Watch => true,
            _ if entry.object.as_deref().is_some_and(self.immutable) => true,
            Strategy::Cache(age) => entry.read_at.elapsed() < age,
            Strategy::Get => false,
        }
    }

    async fn get(self: &Arc<Self>, namespace: &str, name: &str) -> Result<Arc<K>> {
        let key = (namespace.to_string(), name.to_string());
        let known = {
            let entries = self.entries.lock();
            entries.get(&key).filter(|entry| self.is_fresh(entry)).map(|entry| entry.object.clone())
        };
        let object = match known {
            Some(object) => object,
            None => self.load(key).await?,
        };
        object.ok_or_else(|| Error::NotFound(format!("{} {name:?} not found", self.what)))
    }

    /// Reads an object and goes on watching it.
    async fn load(self: &Arc<Self>, key: Key) -> Result<Option<Arc<K>>> {
        let (object, version) = self.read(&key).await.map_err(|e| Error::other(words(&e)))?;
        let read_at = Instant::now();
        if self.strategy != Strategy::Watch || object.as_deref().is_some_and(self.immutable) {
            let entry = Entry { object: object.clone(), read_at, watch: None };
            self.entries.lock().insert(key, entry);
            return Ok(object);
        }
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
        let entry = Entry { object: object.clone(), read_at, watch: Some(task.abort_handle()) };
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
    node: String,
    certificates: certificates::Certificates,
    config_maps: Arc<Cache<ConfigMap>>,
    secrets: Arc<Cache<Secret>>,
    tokens: Tokens,
    /// Told when a watched object changed.
    pub changed: Arc<Notify>,
}

impl ObjectStore {
    /// A store that reads with `client`, for pods on `node`.
    pub fn new(client: kube::Client, node: &str, config: &KubeletConfiguration) -> Self {
        let changed = Arc::new(Notify::new());
        let strategy = match config.config_map_and_secret_change_detection_strategy.as_str() {
            "Get" => Strategy::Get,
            "Cache" => Strategy::Cache(config.sync_frequency),
            _ => Strategy::Watch,
        };
        let fixed_map: fn(&ConfigMap) -> bool = |o| o.immutable == Some(true);
        let fixed_secret: fn(&Secret) -> bool = |o| o.immutable == Some(true);
        Self {
            config_maps: Cache::new("configmap", strategy, fixed_map, client.clone(), changed.clone()),
            secrets: Cache::new("secret", strategy, fixed_secret, client.clone(), changed.clone()),
            tokens: Tokens::new(client.clone()),
            certificates: certificates::Certificates::new(client.clone(), node),
            node: node.to_string(),
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
        self.certificates.retain(&uids);
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

    async fn token(&self, pod: &Pod, request: TokenRequest<'_>) -> Result<Token> {
        self.tokens.get(pod, request).await
    }

    async fn claim(&self, namespace: &str, name: &str) -> Result<Arc<PersistentVolumeClaim>> {
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), namespace);
        found(api.get_opt(name).await, "persistentvolumeclaim", name)
    }

    async fn service_account(&self, namespace: &str, name: &str) -> Result<Arc<ServiceAccount>> {
        let api: Api<ServiceAccount> = Api::namespaced(self.client.clone(), namespace);
        found(api.get_opt(name).await, "serviceaccount", name)
    }

    async fn persistent_volume(&self, name: &str) -> Result<Arc<PersistentVolume>> {
        let api: Api<PersistentVolume> = Api::all(self.client.clone());
        found(api.get_opt(name).await, "persistentvolume", name)
    }

    async fn trust_bundle(&self, source: &TrustBundle) -> Result<String> {
        trust::read(&self.client, source).await
    }

    async fn pod_certificate(&self, pod: &Pod, source: &PodCertificate) -> Result<Credentials> {
        self.certificates.get(pod, source).await
    }

    async fn csi_driver(&self, name: &str) -> Result<Option<Arc<CSIDriver>>> {
        let api: Api<CSIDriver> = Api::all(self.client.clone());
        let found = api.get_opt(name).await.map_err(|e| Error::other(words(&e)))?;
        Ok(found.map(Arc::new))
    }

    async fn attachment_metadata(&self, attachment: &str) -> Result<BTreeMap<String, String>> {
        let api: Api<VolumeAttachment> = Api::all(self.client.clone());
        let found = api.get(attachment).await.map_err(|e| Error::other(words(&e)))?;
        Ok(found.status.and_then(|s| s.attachment_metadata).unwrap_or_default())
    }

    async fn node_is_full(&self, attachment: &str) -> Result<bool> {
        /// What gRPC calls an exhausted resource.
        const RESOURCE_EXHAUSTED: i32 = 8;
        let api: Api<VolumeAttachment> = Api::all(self.client.clone());
        let found = api.get(attachment).await.map_err(|e| Error::other(words(&e)))?;
        let code = found.status.and_then(|s| s.attach_error).and_then(|e| e.error_code);
        Ok(code == Some(RESOURCE_EXHAUSTED))
    }

    async fn attached(&self, unique_name: &str) -> Result<()> {
        let api: Api<Node> = Api::all(self.client.clone());
        let fields = format!("metadata.name={}", self.node);
        let failed = |e: kube::Error| Error::other(words(&e));
        loop {
            let list = api.list(&ListParams::default().fields(&fields)).await.map_err(failed)?;
            if list.items.iter().any(|node| is_attached(node, unique_name)) {
                return Ok(());
            }
            let version = list.metadata.resource_version.unwrap_or_default();
            let params = WatchParams::default().fields(&fields).timeout(290);
            let mut events = std::pin::pin!(api.watch(&params, &version).await.map_err(failed)?);
            while let Some(event) = events.next().await {
                match event {
                    Ok(WatchEvent::Added(node) | WatchEvent::Modified(node))
                        if is_attached(&node, unique_name) =>
                    {
                        return Ok(());
                    }
                    Ok(WatchEvent::Error(_)) | Err(_) => break,
                    Ok(_) => {}
                }
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    async fn patch_claim_status(
        &self,
        claim: &PersistentVolumeClaim,
        status: serde_json::Value,
    ) -> Result<PersistentVolumeClaim> {
        let meta = &claim.metadata;
        let namespace = meta.namespace.as_deref().unwrap_or_default();
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), namespace);
        let body = Patch::Merge(serde_json::json!({"status": status}));
        let name = meta.name.as_deref().unwrap_or_default();
        let patched = api.patch_status(name, &PatchParams::default(), &body).await;
        patched.map_err(|e| Error::other(words(&e)))
    }

    async fn changed(&self) {
        self.changed.notified().await;
    }
}

/// A volume may be mounted once the node's status says that it is in use, so that nobody detaches it meanwhile, and
/// that it is attached.
fn is_attached(node: &Node, volume: &str) -> bool {
    let Some(status) = &node.status else { return false };
    status.volumes_in_use.iter().flatten().any(|v| v == volume)
        && status.volumes_attached.iter().flatten().any(|v| v.name == volume)
}

/// What the apiserver said, without the client's own words around it.
pub fn words(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

fn found<K>(result: kube::Result<Option<K>>, what: &str, name: &str) -> Result<Arc<K>> {
    match result {
        Ok(Some(object)) => Ok(Arc::new(object)),
        Ok(None) => Err(Error::NotFound(format!("{what} {name:?} not found"))),
        Err(error) => Err(Error::other(words(&error))),
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
    async fn token(&self, _: &Pod, _: TokenRequest<'_>) -> Result<Token> {
        Err(Error::other("cannot use TokenManager when kubelet is in standalone mode"))
    }
    async fn claim(&self, _: &str, name: &str) -> Result<Arc<PersistentVolumeClaim>> {
        Err(Error::other(format!("couldn't get claim {name}, no kubeClient defined")))
    }
    async fn service_account(&self, _: &str, name: &str) -> Result<Arc<ServiceAccount>> {
        Err(Error::other(format!("couldn't get service account {name}, no kubeClient defined")))
    }
    async fn persistent_volume(&self, name: &str) -> Result<Arc<PersistentVolume>> {
        Err(Error::other(format!("couldn't get volume {name}, no kubeClient defined")))
    }
    async fn trust_bundle(&self, _: &TrustBundle) -> Result<String> {
        Err(Error::other("ClusterTrustBundle projection is not supported in static kubelet mode"))
    }
    async fn pod_certificate(&self, _: &Pod, _: &PodCertificate) -> Result<Credentials> {
        Err(Error::other("podCertificate projection is not supported in static kubelet mode"))
    }
    async fn csi_driver(&self, _: &str) -> Result<Option<Arc<CSIDriver>>> {
        Ok(None)
    }
    async fn attachment_metadata(&self, _: &str) -> Result<BTreeMap<String, String>> {
        Err(Error::other("no kubeClient defined"))
    }
    async fn node_is_full(&self, _: &str) -> Result<bool> {
        Ok(false)
    }
    async fn attached(&self, _: &str) -> Result<()> {
        Err(Error::other("no kubeClient defined"))
    }
    async fn patch_claim_status(
        &self,
        _: &PersistentVolumeClaim,
        _: serde_json::Value,
    ) -> Result<PersistentVolumeClaim> {
        Err(Error::other("no kubeClient defined"))
    }
    async fn changed(&self) {
        std::future::pending().await
    }
}
