//! The configuration in force, and how it is exchanged for a newer one without a restart.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures::future::BoxFuture;
use notify::Watcher;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::ciphers::Cipher;
use super::config;
use super::keyed::{Entry, Keyed, Scheme};
use super::kms::Provider;
use super::metrics::{METRICS, digest};
use super::{Identity, Transformed, Transformer};

/// The file is also looked at this often: a file system may not tell of changes.
const LOOK: Duration = Duration::from_secs(60);
/// A file is often written in several steps.
const SETTLE: Duration = Duration::from_millis(200);
/// The services of a new configuration have this long to become healthy.
const PATIENCE: Duration = Duration::from_secs(10);
/// Requests that still use the former configuration are over by then.
const GRACE: Duration = Duration::from_secs(20);

/// An `EncryptionConfiguration` in force: which resources are stored how.
pub struct Encryption {
    current: ArcSwap<Loaded>,
    reload: bool,
}

/// What one version of the file says.
struct Loaded {
    /// By `(resource, group)`, either of which may be `*`.
    rules: HashMap<(String, String), Arc<Keyed>>,
    providers: Vec<Arc<Provider>>,
    hash: String,
    /// Ends the probes of its services.
    cancel: CancellationToken,
}

impl Encryption {
    /// Reads the file, starts the probes of its services, and with `reload` follows its changes.
    /// `server` is this server's identity, for the metrics.
    pub async fn open(
        file: &Path,
        reload: bool,
        server: &str,
        cancel: &CancellationToken,
        tasks: &TaskTracker,
    ) -> Result<Arc<Encryption>, String> {
        METRICS.identify(server);
        let loaded = load(file, reload, cancel).await?;
        // Primed inline, so that the first write finds a key; a service that is not there yet is
        // no reason not to start.
        for provider in &loaded.providers {
            if let Err(error) = provider.check().await {
                tracing::warn!(name = provider.name(), %error, "KMS plugin failed health check probe");
            }
        }
        loaded.probe(tasks);
        METRICS.config(&loaded.hash);
        let encryption = Arc::new(Encryption { current: ArcSwap::from_pointee(loaded), reload });
        if reload {
            let (e, file, cancel, tasks) =
                (encryption.clone(), file.to_owned(), cancel.clone(), tasks.clone());
            tasks.clone().spawn(async move { e.follow(file, cancel, tasks).await });
        }
        Ok(encryption)
    }

    /// A configuration that never changes, from the file's content.
    pub fn parse(text: &str) -> Result<Arc<Encryption>, String> {
        let loaded = build(text, false, CancellationToken::new())?;
        Ok(Arc::new(Encryption { current: ArcSwap::from_pointee(loaded), reload: false }))
    }

    /// How a resource is stored, now and after every reload. `group` is empty for core.
    pub fn transformer(self: &Arc<Self>, resource: &str, group: &str) -> Arc<dyn Transformer> {
        let name = |r: &str, g: &str| (r.to_owned(), g.to_owned());
        // The most specific rule decides.
        let names = [name(resource, group), name("*", group), name("*", "*")];
        Arc::new(Dynamic { encryption: self.clone(), names })
    }

    /// Whether changes of the file are followed.
    pub fn reloads(&self) -> bool {
        self.reload
    }

    /// How many key management services there are now.
    pub fn providers(&self) -> usize {
        self.current.load().providers.len()
    }

    /// Whether one key management service works.
    pub async fn check_one(&self, index: usize) -> Result<(), String> {
        match self.current.load_full().providers.get(index) {
            Some(provider) => provider.check().await,
            None => Ok(()),
        }
    }

    /// Whether all key management services work.
    pub async fn check(&self) -> Result<(), String> {
        self.current.load_full().check().await
    }

    async fn follow(&self, file: PathBuf, cancel: CancellationToken, tasks: TaskTracker) {
        let changed = Arc::new(Notify::new());
        let _watcher = watch(&file, changed.clone());
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                () = changed.notified() => tokio::time::sleep(SETTLE).await,
                () = tokio::time::sleep(LOOK) => {}
            }
            match self.exchange(&file, &cancel, &tasks).await {
                Ok(false) => {}
                Ok(true) => {
                    METRICS.reloaded(true);
                    tracing::info!("Loaded new encryption config content");
                }
                Err(error) => {
                    METRICS.reloaded(false);
                    let file = file.display();
                    tracing::error!(%error, "error processing encryption config file {file}");
                }
            }
        }
    }

    /// Takes over the file if it has changed; answers whether it has.
    async fn exchange(
        &self,
        file: &Path,
        cancel: &CancellationToken,
        tasks: &TaskTracker,
    ) -> Result<bool, String> {
        if digest(&read(file).await?) == self.current.load().hash {
            return Ok(false);
        }
        let new = load(file, true, cancel).await?;
        if let Err(error) = healthy(&new).await {
            new.cancel.cancel();
            return Err(format!("health check for new transformers failed: {error}"));
        }
        new.probe(tasks);
        METRICS.config(&new.hash);
        let old = self.current.swap(Arc::new(new));
        let stop = cancel.clone();
        tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(GRACE) => {}
            }
            old.cancel.cancel();
        });
        Ok(true)
    }
}

/// Tells of changes of the file, however it is replaced: its folder is watched, for a mounted Secret
/// changes a link beside the file.
fn watch(file: &Path, changed: Arc<Notify>) -> Option<notify::RecommendedWatcher> {
    let folder = file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let watcher = notify::recommended_watcher(move |_| changed.notify_one());
    let watching = watcher.and_then(|mut w| {
        w.watch(folder, notify::RecursiveMode::NonRecursive)?;
        Ok(w)
    });
    watching.inspect_err(|error| tracing::warn!(%error, "The encryption config file cannot be watched")).ok()
}

async fn healthy(new: &Loaded) -> Result<(), String> {
    let end = tokio::time::Instant::now() + PATIENCE;
    loop {
        match new.check().await {
            Ok(()) => return Ok(()),
            Err(error) if tokio::time::Instant::now() >= end => return Err(error),
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

impl Loaded {
    async fn check(&self) -> Result<(), String> {
        let mut errors = Vec::new();
        for (i, provider) in self.providers.iter().enumerate() {
            errors.extend(provider.check().await.err().map(|e| format!("kms-provider-{i}: {e}")));
        }
        match errors.as_slice() {
            [] => Ok(()),
            [one] => Err(one.clone()),
            many => Err(format!("[{}]", many.join(", "))),
        }
    }

    fn probe(&self, tasks: &TaskTracker) {
        for provider in &self.providers {
            tasks.spawn(provider.clone().run(self.cancel.clone()));
        }
    }

    fn of(&self, names: &[(String, String)]) -> &dyn Transformer {
        match names.iter().find_map(|name| self.rules.get(name)) {
            Some(keyed) => &**keyed,
            None => &Identity,
        }
    }
}

async fn read(file: &Path) -> Result<Vec<u8>, String> {
    let name = file.display();
    let data = tokio::fs::read(file).await.map_err(|e| {
        format!("error reading encryption provider configuration file {:?}: {e}", name.to_string())
    })?;
    if data.is_empty() {
        return Err(format!("encryption provider configuration file {:?} is empty", name.to_string()));
    }
    Ok(data)
}

async fn load(file: &Path, reload: bool, cancel: &CancellationToken) -> Result<Loaded, String> {
    let data =
        read(file).await.map_err(|e| format!("error while parsing file: error while loading file: {e}"))?;
    let text = String::from_utf8(data).map_err(|_| "error while parsing file: it is not UTF-8".to_owned())?;
    build(&text, reload, cancel.child_token())
}

fn build(text: &str, reload: bool, cancel: CancellationToken) -> Result<Loaded, String> {
    let file = config::read(text, reload).map_err(|e| format!("error while parsing file: {e}"))?;
    let mut loaded =
        Loaded { rules: HashMap::new(), providers: Vec::new(), hash: digest(text.as_bytes()), cancel };
    for entry in file.resources {
        let mut entries = Vec::new();
        for provider in entry.providers {
            entries.extend(
                provider_entries(provider, &mut loaded.providers)
                    .map_err(|e| format!("error while building transformers: {e}"))?,
            );
        }
        for name in &entry.resources {
            let (resource, group) = config::group_resource(name);
            if let Some(mask) = masked(&loaded.rules, group) {
                return Err(format!(
                    "error while building transformers: resource {name:?} is masked by earlier rule {mask:?}"
                ));
            }
            let rule = loaded.rules.entry((resource.to_owned(), group.to_owned())).or_default();
            let all = rule.entries.iter().chain(&entries).cloned().collect();
            *rule = Arc::new(Keyed { entries: all });
        }
    }
    Ok(loaded)
}

/// The earlier rule that covers this resource already.
fn masked(rules: &HashMap<(String, String), Arc<Keyed>>, group: &str) -> Option<String> {
    let has = |r: &str, g: &str| rules.contains_key(&(r.to_owned(), g.to_owned()));
    if has("*", group) {
        return Some(format!("*.{group}"));
    }
    has("*", "*").then(|| "*.*".to_owned())
}

fn provider_entries(
    p: config::Provider,
    services: &mut Vec<Arc<Provider>>,
) -> Result<Vec<Arc<Entry>>, String> {
    type Make = fn(&[u8]) -> Result<Cipher, String>;
    let schemes: [(&str, Option<config::Keys>, Make); 3] = [
        ("aesgcm", p.aesgcm, Cipher::gcm),
        ("aescbc", p.aescbc, Cipher::cbc),
        ("secretbox", p.secretbox, Cipher::secretbox),
    ];
    let mut entries = Vec::new();
    for (scheme, keys, make) in schemes {
        for key in keys.into_iter().flat_map(|k| k.keys) {
            let cipher = make(&key.secret()?)?;
            let prefix = format!("k8s:enc:{scheme}:v1:{}:", key.name).into();
            entries.push(Arc::new(Entry { prefix, scheme: Scheme::Key(cipher) }));
        }
    }
    if let Some(kms) = p.kms {
        if kms.api_version == "v1" {
            return Err("KMSv1 is deprecated and will only receive security updates going forward. Use KMSv2 instead.".to_owned());
        }
        let (Some(socket), Some(timeout)) = (kms.socket(), kms.timeout()) else {
            return Err(format!("could not configure KMSv2-Plugin's probe {:?}", kms.name));
        };
        let service = Provider::new(&kms.name, socket, timeout);
        services.push(service.clone());
        let prefix = format!("k8s:enc:kms:v2:{}:", kms.name).into();
        entries.push(Arc::new(Entry { prefix, scheme: Scheme::Kms(service) }));
    }
    if p.identity.is_some() {
        entries.push(Arc::new(Entry { prefix: "".into(), scheme: Scheme::Plain }));
    }
    Ok(entries)
}

/// The transformer of one resource, whatever the configuration says at the moment.
struct Dynamic {
    encryption: Arc<Encryption>,
    names: [(String, String); 3],
}

impl Transformer for Dynamic {
    fn transform_from_storage(&self, key: &str, stored: Bytes) -> Result<Transformed, String> {
        self.encryption.current.load().of(&self.names).transform_from_storage(key, stored)
    }

    fn transform_to_storage(&self, key: &str, plain: Bytes) -> Result<Bytes, String> {
        self.encryption.current.load().of(&self.names).transform_to_storage(key, plain)
    }

    fn prepare(&self, stored: &[u8]) -> Option<BoxFuture<'static, ()>> {
        self.encryption.current.load().of(&self.names).prepare(stored)
    }
}
