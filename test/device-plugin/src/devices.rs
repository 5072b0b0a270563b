//! A device plugin whose devices are files.

use std::collections::HashMap;
use std::path::Path;
use std::pin::Pin;

use anyhow::{Context, anyhow};
use kubelet_plugins::device_api::device_plugin_server::{DevicePlugin, DevicePluginServer};
use kubelet_plugins::device_api::registration_client::RegistrationClient;
use kubelet_plugins::device_api::{
    AllocateRequest, AllocateResponse, ContainerAllocateResponse, ContainerPreferredAllocationResponse,
    Device, DevicePluginOptions, DeviceSpec, Empty, ListAndWatchResponse, Mount, NumaNode,
    PreStartContainerRequest, PreStartContainerResponse, PreferredAllocationRequest,
    PreferredAllocationResponse, RegisterRequest, TopologyInfo,
};
use notify::{RecursiveMode, Watcher};
use tokio::sync::watch;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

use crate::Data;

#[derive(Clone)]
struct Plugin {
    data: Data,
    pre_start: bool,
    /// Devices were changed.
    changed: watch::Receiver<()>,
}

impl Plugin {
    fn options(&self) -> DevicePluginOptions {
        DevicePluginOptions { pre_start_required: self.pre_start, get_preferred_allocation_available: true }
    }

    fn list(&self) -> ListAndWatchResponse {
        let mut devices = Vec::new();
        for entry in std::fs::read_dir(self.data.path("devices")).into_iter().flatten().flatten() {
            let said = std::fs::read_to_string(entry.path()).unwrap_or_default();
            let mut words = said.split_whitespace();
            let health = words.next().unwrap_or("Unhealthy").to_string();
            let nodes: Vec<NumaNode> =
                words.filter_map(|w| w.parse().ok()).map(|id| NumaNode { id }).collect();
            let topology = (!nodes.is_empty()).then_some(TopologyInfo { nodes });
            let id = entry.file_name().to_string_lossy().into_owned();
            devices.push(Device { id, health, topology });
        }
        devices.sort_by(|a, b| a.id.cmp(&b.id));
        ListAndWatchResponse { devices }
    }

    /// What is done to a container that gets these devices: a variable, a mount, a device file and an annotation.
    fn answer(&self, ids: &[String]) -> ContainerAllocateResponse {
        let given = ids.join(",");
        ContainerAllocateResponse {
            envs: HashMap::from([("THINGS".to_string(), given.clone())]),
            mounts: vec![Mount {
                container_path: "/things".into(),
                host_path: self.data.path("devices").to_string_lossy().into_owned(),
                read_only: true,
            }],
            devices: vec![DeviceSpec {
                container_path: "/dev/thing".into(),
                host_path: "/dev/null".into(),
                permissions: "rw".into(),
            }],
            annotations: HashMap::from([("binnacle.dev/things".to_string(), given)]),
            ..Default::default()
        }
    }
}

type Lists = Pin<Box<dyn tokio_stream::Stream<Item = Result<ListAndWatchResponse, Status>> + Send>>;

#[tonic::async_trait]
impl DevicePlugin for Plugin {
    type ListAndWatchStream = Lists;

    async fn get_device_plugin_options(
        &self,
        _: Request<Empty>,
    ) -> Result<Response<DevicePluginOptions>, Status> {
        Ok(Response::new(self.options()))
    }

    async fn list_and_watch(&self, _: Request<Empty>) -> Result<Response<Lists>, Status> {
        let (send, lists) = tokio::sync::mpsc::channel(1);
        let mut plugin = self.clone();
        tokio::spawn(async move {
            while send.send(Ok(plugin.list())).await.is_ok() && plugin.changed.changed().await.is_ok() {}
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(lists))))
    }

    async fn get_preferred_allocation(
        &self,
        request: Request<PreferredAllocationRequest>,
    ) -> Result<Response<PreferredAllocationResponse>, Status> {
        // The last ones are liked best.
        let prefer = |r: kubelet_plugins::device_api::ContainerPreferredAllocationRequest| {
            let mut ids = r.available_device_i_ds;
            ids.sort();
            ids.reverse();
            let mut out = r.must_include_device_i_ds;
            for id in ids {
                if out.len() < usize::try_from(r.allocation_size).unwrap_or(0) && !out.contains(&id) {
                    out.push(id);
                }
            }
            ContainerPreferredAllocationResponse { device_i_ds: out }
        };
        let container_responses = request.into_inner().container_requests.into_iter().map(prefer).collect();
        Ok(Response::new(PreferredAllocationResponse { container_responses }))
    }

    async fn allocate(
        &self,
        request: Request<AllocateRequest>,
    ) -> Result<Response<AllocateResponse>, Status> {
        let mut container_responses = Vec::new();
        for container in request.into_inner().container_requests {
            self.data.note(&format!("allocate {}", container.devices_ids.join(",")));
            container_responses.push(self.answer(&container.devices_ids));
        }
        Ok(Response::new(AllocateResponse { container_responses }))
    }

    async fn pre_start_container(
        &self,
        request: Request<PreStartContainerRequest>,
    ) -> Result<Response<PreStartContainerResponse>, Status> {
        self.data.note(&format!("start {}", request.into_inner().devices_ids.join(",")));
        Ok(Response::new(PreStartContainerResponse {}))
    }
}

/// Serves and registers, each time that the kubelet starts.
pub async fn run(kubelet: &Path, resource: &str, data: Data, pre_start: bool) -> anyhow::Result<()> {
    let dir = kubelet.join("device-plugins");
    let devices = data.path("devices");
    std::fs::create_dir_all(&devices)?;
    let (news, changed) = watch::channel(());
    let (start, mut started) = watch::channel(());
    let ours = dir.join("test-things.sock");
    let (devices_dir, socket) = (devices.clone(), ours.clone());
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        let Ok(event) = event else { return };
        if event.paths.iter().any(|p| p.starts_with(&devices_dir)) && !event.kind.is_access() {
            let _ = news.send(());
        }
        // A kubelet that starts removes the sockets of those it does not know yet.
        if event.kind.is_remove() && event.paths.contains(&socket) {
            let _ = start.send(());
        }
    })?;
    watcher.watch(&devices, RecursiveMode::NonRecursive)?;
    watcher.watch(&dir, RecursiveMode::NonRecursive)?;
    let plugin = Plugin { data, pre_start, changed };
    loop {
        // Its own making anew of the socket is no start of the kubelet.
        let incoming = crate::listen(&ours)?;
        started.mark_unchanged();
        let serve = Server::builder()
            .add_service(DevicePluginServer::new(plugin.clone()))
            .serve_with_incoming(incoming);
        let serve = tokio::spawn(serve);
        register(&dir, &ours, resource, &plugin).await?;
        started.changed().await?;
        plugin.data.note("kubelet started");
        serve.abort();
    }
}

async fn register(dir: &Path, ours: &Path, resource: &str, plugin: &Plugin) -> anyhow::Result<()> {
    let socket = dir.join("kubelet.sock");
    let mut last = anyhow!("no kubelet");
    // The kubelet may be about to listen.
    for _ in 0..100 {
        match kubelet_plugins::connect(&socket).await {
            Ok(channel) => {
                let endpoint = ours.file_name().context("no name")?.to_string_lossy().into_owned();
                let request = RegisterRequest {
                    version: "v1beta1".into(),
                    endpoint,
                    resource_name: resource.into(),
                    options: Some(plugin.options()),
                };
                RegistrationClient::new(channel).register(request).await?;
                plugin.data.note("registered");
                return Ok(());
            }
            Err(error) => last = anyhow!(error),
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    Err(last)
}
