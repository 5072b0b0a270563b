//! The plugin folder (`/var/lib/kubelet/plugins_registry`): a socket that appears there is asked what it is and handed
//! to the handler of its type; when it goes, or another takes its name, the handler is told.
//!
//! A plugin that fails to register is tried again with growing delays for as long as its socket is there.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::join_all;
use notify::{RecursiveMode, Watcher as _};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::connect;
use crate::registration::registration_client::RegistrationClient;
use crate::registration::{InfoRequest, RegistrationStatus};

/// How long each word with a plugin may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// The first delay after a failure, and the longest.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(122));
/// Sockets that are looked at, at most: the folder is no place for more.
const MAX_SOCKETS: usize = 1024;
/// How deep sockets may lie.
const MAX_DEPTH: usize = 8;

/// What a plugin says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PluginInfo {
    /// `CSIPlugin`, `DevicePlugin`, `DRAPlugin`, …
    pub kind: String,
    /// The driver's or the resource's name.
    pub name: String,
    /// The socket on which it does its work: the one it named, else the one it registered with.
    pub endpoint: PathBuf,
    /// The versions of its API, or the services, that it speaks.
    pub versions: Vec<String>,
    /// The socket it registered with.
    pub socket: PathBuf,
}

/// Takes plugins of one type.
#[async_trait]
pub trait Handler: Send + Sync {
    /// Takes a plugin; the error is told to the plugin. Called again for the same name when it was restarted.
    async fn register(&self, plugin: &PluginInfo) -> Result<(), String>;
    /// The plugin's socket is gone.
    async fn deregister(&self, plugin: &PluginInfo);
}

/// Watches a folder for plugins.
pub struct Watcher {
    dir: PathBuf,
    handlers: HashMap<String, Arc<dyn Handler>>,
}

/// Which file a name stands for, to notice that another took it.
type Identity = (u64, u64, i64, i64);

/// A socket as it was last seen.
struct Socket {
    identity: Identity,
    plugin: Option<PluginInfo>,
    retry_at: Instant,
    delay: Duration,
}

impl Watcher {
    /// Watches `dir`, which is made if need be.
    pub fn new(dir: PathBuf) -> Self {
        Self { dir, handlers: HashMap::new() }
    }

    /// Hands plugins of a type to `handler`.
    pub fn handle(mut self, kind: &str, handler: Arc<dyn Handler>) -> Self {
        self.handlers.insert(kind.to_string(), handler);
        self
    }

    /// Watches until the shutdown.
    pub async fn run(self, shutdown: CancellationToken) {
        let (sender, mut changes) = mpsc::channel(1);
        let _watcher = match self.watch(sender) {
            Ok(watcher) => watcher,
            Err(error) => {
                tracing::error!(dir = %self.dir.display(), %error, "Cannot watch for plugins");
                return;
            }
        };
        let mut sockets = BTreeMap::new();
        loop {
            self.look(&mut sockets).await;
            let failed = sockets.values().filter(|s| s.plugin.is_none()).map(|s: &Socket| s.retry_at);
            let retry = async {
                match failed.min() {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = changes.recv() => {}
                () = retry => {}
            }
        }
    }

    fn watch(&self, sender: mpsc::Sender<()>) -> Result<notify::RecommendedWatcher, String> {
        std::fs::create_dir_all(&self.dir).map_err(|e| e.to_string())?;
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // Reading the folder is an event too, and no news. One notice that waits already is as good as many.
            if !event.is_ok_and(|e| e.kind.is_access()) {
                let _ = sender.try_send(());
            }
        })
        .map_err(|e| e.to_string())?;
        watcher.watch(&self.dir, RecursiveMode::Recursive).map_err(|e| e.to_string())?;
        Ok(watcher)
    }

    /// Compares the folder with what is known.
    async fn look(&self, sockets: &mut BTreeMap<PathBuf, Socket>) {
        let mut now = BTreeMap::new();
        scan(&self.dir, 0, &mut now);
        let gone: BTreeSet<PathBuf> = sockets
            .iter()
            .filter(|(path, socket)| now.get(*path) != Some(&socket.identity))
            .map(|(path, _)| path.clone())
            .collect();
        for path in gone {
            if let Some(plugin) = sockets.remove(&path).and_then(|s| s.plugin)
                && let Some(handler) = self.handlers.get(&plugin.kind)
            {
                tracing::info!(plugin = plugin.name, socket = %path.display(), "Plugin is gone");
                handler.deregister(&plugin).await;
            }
        }
        let due: Vec<(PathBuf, Identity, Duration)> = now
            .into_iter()
            .filter_map(|(path, identity)| match sockets.get(&path) {
                None => Some((path, identity, RETRY.0)),
                Some(s) if s.plugin.is_none() && s.retry_at <= Instant::now() => {
                    Some((path, identity, (s.delay * 2).min(RETRY.1)))
                }
                Some(_) => None,
            })
            .collect();
        let registered = join_all(due.iter().map(|(path, ..)| self.register(path))).await;
        for ((path, identity, delay), result) in due.into_iter().zip(registered) {
            let plugin = result
                .inspect_err(|error| {
                    tracing::warn!(socket = %path.display(), error, "Plugin registration failed");
                })
                .ok();
            sockets.insert(path, Socket { identity, plugin, retry_at: Instant::now() + delay, delay });
        }
    }

    /// Asks a socket what it is, hands it over and tells it how that went.
    async fn register(&self, socket: &Path) -> Result<PluginInfo, String> {
        let shown = socket.display();
        let channel = connect(socket)
            .await
            .map_err(|e| format!("RegisterPlugin error -- dial failed at socket {shown}, err: {e}"))?;
        let mut client = RegistrationClient::new(channel);
        let reply = tokio::time::timeout(CALL_TIMEOUT, client.get_info(InfoRequest {})).await;
        let info = match reply {
            Ok(Ok(reply)) => reply.into_inner(),
            Ok(Err(status)) => {
                let why = status.message();
                return Err(format!(
                    "RegisterPlugin error -- failed to get plugin info using RPC GetInfo at socket {shown}, err: {why}"
                ));
            }
            Err(_) => {
                return Err(format!("RegisterPlugin error -- plugin at socket {shown} does not answer"));
            }
        };
        let endpoint = if info.endpoint.is_empty() { socket.into() } else { PathBuf::from(info.endpoint) };
        let plugin = PluginInfo {
            kind: info.r#type,
            name: info.name,
            endpoint,
            versions: info.supported_versions,
            socket: socket.into(),
        };
        let taken = match self.handlers.get(&plugin.kind) {
            Some(handler) => handler
                .register(&plugin)
                .await
                .map_err(|e| format!("RegisterPlugin error -- plugin registration failed with err: {e}")),
            None => Err(format!(
                "RegisterPlugin error -- no handler registered for plugin type: {} at socket {shown}",
                plugin.kind
            )),
        };
        let status = RegistrationStatus {
            plugin_registered: taken.is_ok(),
            error: taken.as_ref().err().cloned().unwrap_or_default(),
        };
        let told = tokio::time::timeout(CALL_TIMEOUT, client.notify_registration_status(status)).await;
        if !matches!(told, Ok(Ok(_))) {
            tracing::warn!(plugin = plugin.name, "Plugin could not be told of its registration");
        }
        taken.map(|()| {
            tracing::info!(plugin = plugin.name, kind = plugin.kind, socket = %shown, "Plugin registered");
            plugin
        })
    }
}

/// The sockets of a folder and those below; hidden ones are being made and not meant yet.
fn scan(dir: &Path, depth: usize, out: &mut BTreeMap<PathBuf, Identity>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        if hidden || out.len() >= MAX_SOCKETS {
            continue;
        }
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() && depth < MAX_DEPTH {
            scan(&entry.path(), depth + 1, out);
        } else if let (true, Ok(identity)) = (kind.is_socket(), identity(&entry.path())) {
            out.insert(entry.path(), identity);
        }
    }
}

fn identity(path: &Path) -> io::Result<Identity> {
    let meta = std::fs::symlink_metadata(path)?;
    Ok((meta.dev(), meta.ino(), meta.ctime(), meta.ctime_nsec()))
}

#[cfg(test)]
mod tests;
