//! How device plugins come in: over the socket `kubelet.sock`, or through the plugin folder; and how they are heard.

use std::collections::BTreeMap;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::net::UnixListener;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Request, Response, Status, Streaming};

use super::{Device, DeviceManager, Endpoint, STOP_GRACE};
use crate::connect;
use crate::device_api::device_plugin_client::DevicePluginClient;
use crate::device_api::registration_server::{Registration, RegistrationServer};
use crate::device_api::{Empty, ListAndWatchResponse, RegisterRequest};
use crate::watcher::{Handler, PluginInfo};

const VERSION: &str = "v1beta1";
const SOCKET: &str = "kubelet.sock";
/// How long a plugin may take to say what it can.
const OPTIONS_TIMEOUT: Duration = Duration::from_secs(10);

impl DeviceManager {
    /// Serves registration until the shutdown. Sockets of plugins that an earlier kubelet knew are removed, which is
    /// how plugins learn that they have to register again.
    pub async fn run(self: Arc<Self>) {
        for entry in std::fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|t| t.is_socket()) {
                let _ = std::fs::remove_file(entry.path());
            }
        }
        // Those that do not come back are forgotten after a while.
        self.expire_later();
        let socket = self.dir.join(SOCKET);
        let listener = match UnixListener::bind(&socket) {
            Ok(listener) => listener,
            Err(error) => {
                tracing::error!(socket = %socket.display(), %error, "Cannot serve device plugin registration");
                return;
            }
        };
        let shutdown = self.shutdown.clone();
        let service = RegistrationServer::new(Front(self.clone()));
        let served = tonic::transport::Server::builder()
            .add_service(service)
            .serve_with_incoming_shutdown(crate::lenient::incoming(listener), shutdown.cancelled_owned());
        if let Err(error) = served.await {
            tracing::error!(%error, "Device plugin registration ended");
        }
        self.tasks.close();
        self.tasks.wait().await;
    }

    fn expire_later(self: &Arc<Self>) {
        let manager = self.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = manager.shutdown.cancelled() => {}
                () = tokio::time::sleep(STOP_GRACE + Duration::from_secs(1)) => manager.changed.notify_one(),
            }
        });
    }

    /// Takes a plugin in whose socket is at `socket`.
    async fn take_in(self: &Arc<Self>, resource: &str, socket: &Path) -> Result<(), String> {
        if !is_extended(resource) {
            return Err(format!("the ResourceName {resource:?} is invalid"));
        }
        let channel = connect(socket).await.map_err(|e| format!("failed to dial device plugin: {e}"))?;
        let mut client = DevicePluginClient::new(channel);
        // What the plugin says of itself counts, not what came with the registration: a plugin that cannot
        // answer is not used at all.
        let options =
            match tokio::time::timeout(OPTIONS_TIMEOUT, client.get_device_plugin_options(Empty {})).await {
                Ok(Ok(options)) => options.into_inner(),
                Ok(Err(status)) => {
                    return Err(format!("failed to get device plugin options: {}", status.message()));
                }
                Err(_) => return Err("failed to get device plugin options: context deadline exceeded".into()),
            };
        let listening = self.shutdown.child_token();
        let endpoint =
            Endpoint { client: Some(client.clone()), options, stopped: None, listening: listening.clone() };
        {
            let mut inner = self.inner.lock();
            if let Some(old) = inner.endpoints.insert(resource.to_string(), endpoint) {
                old.listening.cancel();
            }
            inner.devices.entry(resource.to_string()).or_default();
        }
        tracing::info!(resource, "Device plugin registered");
        let (manager, resource) = (self.clone(), resource.to_string());
        self.tasks.spawn(async move { manager.listen(&resource, client, listening).await });
        Ok(())
    }

    /// Hears a plugin until it ends or another takes its place.
    async fn listen(
        self: Arc<Self>,
        resource: &str,
        mut client: DevicePluginClient<Channel>,
        listening: CancellationToken,
    ) {
        let hear = async {
            match client.list_and_watch(Empty {}).await {
                Ok(stream) => self.hear(resource, stream.into_inner()).await,
                Err(status) => status.message().to_string(),
            }
        };
        let why = tokio::select! {
            () = listening.cancelled() => return,
            why = hear => why,
        };
        tracing::warn!(resource, why, "Device plugin has gone");
        {
            let mut inner = self.inner.lock();
            if let Some(endpoint) = inner.endpoints.get_mut(resource) {
                endpoint.stopped = Some(Instant::now());
                endpoint.client = None;
            }
            for device in inner.devices.get_mut(resource).into_iter().flat_map(BTreeMap::values_mut) {
                device.healthy = false;
            }
        }
        self.changed.notify_one();
        self.health_changed.notify_one();
        self.expire_later();
    }

    async fn hear(&self, resource: &str, mut stream: Streaming<ListAndWatchResponse>) -> String {
        loop {
            let list = match stream.message().await {
                Ok(Some(list)) => list.devices,
                Ok(None) => return "its list ended".into(),
                Err(status) => return status.message().to_string(),
            };
            let device = |d: crate::device_api::Device| {
                let numas = d.topology.map(|t| t.nodes.iter().map(|n| n.id).collect()).unwrap_or_default();
                (d.id, Device { healthy: d.health == "Healthy", numas })
            };
            let devices: BTreeMap<String, Device> = list.into_iter().map(device).collect();
            let mut inner = self.inner.lock();
            if inner.devices.get(resource) != Some(&devices) {
                inner.devices.insert(resource.to_string(), devices);
                self.save(&inner);
                drop(inner);
                self.changed.notify_one();
                self.health_changed.notify_one();
            }
        }
    }
}

/// An extended resource: `example.com/thing`, not of Kubernetes itself.
fn is_extended(resource: &str) -> bool {
    let Some((domain, name)) = resource.split_once('/') else { return false };
    let label = |text: &str, more: &str| {
        let alnum = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
        alnum(text.chars().next())
            && alnum(text.chars().last())
            && text.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(c))
    };
    let native = domain == "kubernetes.io" || domain.ends_with(".kubernetes.io");
    !native
        && !resource.starts_with("requests.")
        && domain.len() <= 253
        && name.len() <= 63
        && label(domain, "-.")
        && label(name, "-._")
}

struct Front(Arc<DeviceManager>);

#[async_trait]
impl Registration for Front {
    async fn register(&self, request: Request<RegisterRequest>) -> Result<Response<Empty>, Status> {
        let request = request.into_inner();
        let refused = |why: String| {
            tracing::warn!(
                resource = request.resource_name,
                why,
                "Bad registration request from device plugin"
            );
            Status::unknown(why)
        };
        if request.version != VERSION {
            return Err(refused(format!(
                "requested API version {:?} is not supported by kubelet. Supported version is [{VERSION:?}]",
                request.version
            )));
        }
        // Only a name in the folder: a plugin leads nowhere else.
        let name = PathBuf::from(&request.endpoint);
        if name.components().count() != 1 || name.file_name().is_none() {
            return Err(refused(format!("invalid endpoint {:?}", request.endpoint)));
        }
        let socket = self.0.dir.join(name);
        match self.0.take_in(&request.resource_name, &socket).await {
            Ok(()) => Ok(Response::new(Empty {})),
            Err(why) => Err(refused(why)),
        }
    }
}

/// Device plugins that come through the plugin folder.
#[async_trait]
impl Handler for Arc<DeviceManager> {
    async fn register(&self, plugin: &PluginInfo) -> Result<(), String> {
        if !plugin.versions.iter().any(|v| v == VERSION) {
            return Err(format!(
                "manager version, {VERSION}, is not among plugin supported versions {:?}",
                plugin.versions
            ));
        }
        self.take_in(&plugin.name, &plugin.endpoint).await
    }

    async fn deregister(&self, plugin: &PluginInfo) {
        // Its stream ends by itself.
        tracing::debug!(resource = plugin.name, "The socket of a device plugin is gone");
    }
}
