//! The client: one method a CRI call.

mod verify;

use std::path::PathBuf;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::Code;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::v1::image_service_client::ImageServiceClient;
use crate::v1::runtime_service_client::RuntimeServiceClient;
use crate::v1::*;
use crate::{Error, Result};

/// The largest message taken from a runtime; a node full of containers lists in well under this.
const MAX_MESSAGE: usize = 16 << 20;

/// How long a dead connection to the runtime may take to be noticed while a call waits.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A client of a CRI runtime and its image service.
#[derive(Clone)]
pub struct Runtime {
    channel: Channel,
    runtime: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
    timeout: Duration,
}

/// Who is told of every call: its name, how long it took, and whether it went well.
type Observer = fn(&'static str, Duration, bool);

static OBSERVER: std::sync::OnceLock<Observer> = std::sync::OnceLock::new();

/// Tells `observer` of every call from now on; the first one who asks is told.
pub fn observe(observer: Observer) {
    let _ = OBSERVER.set(observer);
}

fn tell<T>(method: &'static str, began: std::time::Instant, result: Result<T>) -> Result<T> {
    if let Some(observer) = OBSERVER.get() {
        observer(method, began.elapsed(), result.is_ok());
    }
    result
}

/// Runs one unary call with a deadline on both sides.
macro_rules! call {
    ($client:expr, $name:literal, $method:ident, $request:expr, $timeout:expr) => {{
        let mut client = $client.clone();
        let mut request = tonic::Request::new($request);
        let began = std::time::Instant::now();
        let result = match $timeout {
            None => client
                .$method(request)
                .await
                .map(|r| r.into_inner())
                .map_err(|s| Error::from_status($name, s)),
            Some(timeout) => {
                request.set_timeout(timeout);
                // The runtime should give up first; a runtime that hangs must not hang us.
                match tokio::time::timeout(timeout + Duration::from_secs(1), client.$method(request)).await {
                    Ok(reply) => reply.map(|r| r.into_inner()).map_err(|s| Error::from_status($name, s)),
                    Err(_) => Err(Error::new($name, Code::DeadlineExceeded, "context deadline exceeded")),
                }
            }
        };
        tell($name, began, result)
    }};
}

impl Runtime {
    /// A client of the runtime at `endpoint` (`unix:///run/containerd/containerd.sock`, or a path), and of the image
    /// service at `image_endpoint` if that is another. Connects when first used. `timeout` bounds each call that has
    /// no longer one of its own.
    pub fn new(endpoint: &str, image_endpoint: Option<&str>, timeout: Duration) -> Result<Self> {
        let channel = channel(endpoint)?;
        let image_channel = match image_endpoint {
            Some(other) if !other.is_empty() && other != endpoint => self::channel(other)?,
            _ => channel.clone(),
        };
        Ok(Self {
            runtime: RuntimeServiceClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE),
            images: ImageServiceClient::new(image_channel).max_decoding_message_size(MAX_MESSAGE),
            channel,
            timeout,
        })
    }

    pub(crate) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// The runtime's name and version.
    pub async fn version(&self) -> Result<VersionResponse> {
        let request = VersionRequest { version: "v1".into() };
        call!(self.runtime, "Version", version, request, Some(self.timeout)).and_then(verify::version)
    }

    /// The runtime's conditions, handlers and features.
    pub async fn status(&self, verbose: bool) -> Result<StatusResponse> {
        call!(self.runtime, "Status", status, StatusRequest { verbose }, Some(self.timeout))
    }

    /// The image that the runtime makes sandboxes of, where its configuration tells, or one of its sandboxes, which
    /// know it from containerd 2 on; empty otherwise.
    pub async fn sandbox_image(&self) -> Result<String> {
        let told = |info: &std::collections::HashMap<String, String>, part: &str, field: &str| {
            let value = serde_json::from_str::<serde_json::Value>(info.get(part)?).ok()?;
            value[field].as_str().filter(|image| !image.is_empty()).map(str::to_owned)
        };
        let status = self.status(true).await?;
        if let Some(image) = told(&status.info, "config", "sandboxImage") {
            return Ok(image);
        }
        let ready = PodSandboxStateValue { state: PodSandboxState::SandboxReady.into() };
        let filter = PodSandboxFilter { state: Some(ready), ..Default::default() };
        let Some(any) = self.list_pod_sandbox(Some(filter)).await?.into_iter().next() else {
            return Ok(String::new());
        };
        let status = self.pod_sandbox_status(&any.id, true).await?;
        Ok(told(&status.info, "info", "image").unwrap_or_default())
    }

    /// Configuration the runtime wants the kubelet to share, such as the cgroup driver.
    pub async fn runtime_config(&self) -> Result<RuntimeConfigResponse> {
        call!(self.runtime, "RuntimeConfig", runtime_config, RuntimeConfigRequest {}, Some(self.timeout))
    }

    /// Tells the runtime the pod CIDR.
    pub async fn update_runtime_config(&self, pod_cidr: &str) -> Result<()> {
        let network_config = Some(NetworkConfig { pod_cidr: pod_cidr.into() });
        let request = UpdateRuntimeConfigRequest { runtime_config: Some(RuntimeConfig { network_config }) };
        call!(self.runtime, "UpdateRuntimeConfig", update_runtime_config, request, Some(self.timeout))
            .map(drop)
    }

    /// Makes and starts a sandbox; returns its id.
    pub async fn run_pod_sandbox(&self, config: PodSandboxConfig, runtime_handler: &str) -> Result<String> {
        let request = RunPodSandboxRequest { config: Some(config), runtime_handler: runtime_handler.into() };
        // Twice the usual time, as network plugins may be slow.
        call!(self.runtime, "RunPodSandbox", run_pod_sandbox, request, Some(self.timeout * 2))
            .and_then(|r| verify::id("RunPodSandbox", "PodSandboxId", r.pod_sandbox_id))
    }

    /// Stops a sandbox and all in it; its network is given back. Idempotent.
    pub async fn stop_pod_sandbox(&self, id: &str) -> Result<()> {
        let request = StopPodSandboxRequest { pod_sandbox_id: id.into() };
        call!(self.runtime, "StopPodSandbox", stop_pod_sandbox, request, Some(self.timeout)).map(drop)
    }

    /// Removes a sandbox and all containers in it. Idempotent.
    pub async fn remove_pod_sandbox(&self, id: &str) -> Result<()> {
        let request = RemovePodSandboxRequest { pod_sandbox_id: id.into() };
        call!(self.runtime, "RemovePodSandbox", remove_pod_sandbox, request, Some(self.timeout)).map(drop)
    }

    /// The state of one sandbox.
    pub async fn pod_sandbox_status(&self, id: &str, verbose: bool) -> Result<PodSandboxStatusResponse> {
        let request = PodSandboxStatusRequest { pod_sandbox_id: id.into(), verbose };
        call!(self.runtime, "PodSandboxStatus", pod_sandbox_status, request, Some(self.timeout))
            .and_then(|reply| verify::sandbox(id, reply))
    }

    /// All sandboxes that match.
    pub async fn list_pod_sandbox(&self, filter: Option<PodSandboxFilter>) -> Result<Vec<PodSandbox>> {
        let request = ListPodSandboxRequest { filter };
        call!(self.runtime, "ListPodSandbox", list_pod_sandbox, request, Some(self.timeout)).map(|r| r.items)
    }

    /// Changes the resources of a sandbox as a whole.
    pub async fn update_pod_sandbox_resources(
        &self,
        request: UpdatePodSandboxResourcesRequest,
    ) -> Result<()> {
        let timeout = Some(self.timeout);
        call!(self.runtime, "UpdatePodSandboxResources", update_pod_sandbox_resources, request, timeout)
            .map(drop)
    }

    /// Makes a container in a sandbox; returns its id.
    pub async fn create_container(
        &self,
        sandbox: &str,
        config: ContainerConfig,
        sandbox_config: PodSandboxConfig,
    ) -> Result<String> {
        let request = CreateContainerRequest {
            pod_sandbox_id: sandbox.into(),
            config: Some(config),
            sandbox_config: Some(sandbox_config),
        };
        call!(self.runtime, "CreateContainer", create_container, request, Some(self.timeout))
            .and_then(|r| verify::id("CreateContainer", "ContainerId", r.container_id))
    }

    /// Starts a created container.
    pub async fn start_container(&self, id: &str) -> Result<()> {
        let request = StartContainerRequest { container_id: id.into() };
        call!(self.runtime, "StartContainer", start_container, request, Some(self.timeout)).map(drop)
    }

    /// Stops a container: its stop signal, then SIGKILL after `grace` seconds. Idempotent.
    pub async fn stop_container(&self, id: &str, grace: i64) -> Result<()> {
        let request = StopContainerRequest { container_id: id.into(), timeout: grace };
        let timeout = self.timeout + Duration::from_secs(grace.max(0) as u64);
        call!(self.runtime, "StopContainer", stop_container, request, Some(timeout)).map(drop)
    }

    /// Removes a container, killing it if need be. Idempotent.
    pub async fn remove_container(&self, id: &str) -> Result<()> {
        let request = RemoveContainerRequest { container_id: id.into() };
        call!(self.runtime, "RemoveContainer", remove_container, request, Some(self.timeout)).map(drop)
    }

    /// All containers that match.
    pub async fn list_containers(&self, filter: Option<ContainerFilter>) -> Result<Vec<Container>> {
        let request = ListContainersRequest { filter };
        call!(self.runtime, "ListContainers", list_containers, request, Some(self.timeout))
            .map(|r| r.containers)
    }

    /// The state of one container.
    pub async fn container_status(&self, id: &str, verbose: bool) -> Result<ContainerStatusResponse> {
        let request = ContainerStatusRequest { container_id: id.into(), verbose };
        call!(self.runtime, "ContainerStatus", container_status, request, Some(self.timeout))
            .and_then(|reply| verify::container(id, reply))
    }

    /// Changes the cgroup limits of a running container.
    pub async fn update_container_resources(&self, id: &str, linux: LinuxContainerResources) -> Result<()> {
        let request = UpdateContainerResourcesRequest {
            container_id: id.into(),
            linux: Some(linux),
            ..Default::default()
        };
        let timeout = Some(self.timeout);
        call!(self.runtime, "UpdateContainerResources", update_container_resources, request, timeout)
            .map(drop)
    }

    /// Makes the runtime open the container's log file anew, after it was moved away.
    pub async fn reopen_container_log(&self, id: &str) -> Result<()> {
        let request = ReopenContainerLogRequest { container_id: id.into() };
        call!(self.runtime, "ReopenContainerLog", reopen_container_log, request, Some(self.timeout)).map(drop)
    }

    /// Runs a command in a container to its end; `timeout` of zero means none.
    pub async fn exec_sync(&self, id: &str, cmd: Vec<String>, timeout: Duration) -> Result<ExecSyncResponse> {
        let seconds = timeout.as_secs_f64().ceil() as i64;
        let request = ExecSyncRequest { container_id: id.into(), cmd, timeout: seconds };
        let deadline = (!timeout.is_zero()).then(|| self.timeout + timeout);
        call!(self.runtime, "ExecSync", exec_sync, request, deadline)
    }

    /// Prepares an interactive exec; returns the URL of the runtime's streaming server.
    pub async fn exec(&self, request: ExecRequest) -> Result<String> {
        call!(self.runtime, "Exec", exec, request, Some(self.timeout))
            .and_then(|r| verify::id("Exec", "URL", r.url))
    }

    /// Prepares an attach; returns the URL of the runtime's streaming server.
    pub async fn attach(&self, request: AttachRequest) -> Result<String> {
        call!(self.runtime, "Attach", attach, request, Some(self.timeout))
            .and_then(|r| verify::id("Attach", "URL", r.url))
    }

    /// Prepares a port forward; returns the URL of the runtime's streaming server.
    pub async fn port_forward(&self, request: PortForwardRequest) -> Result<String> {
        call!(self.runtime, "PortForward", port_forward, request, Some(self.timeout))
            .and_then(|r| verify::id("PortForward", "URL", r.url))
    }

    /// Writes a checkpoint of a container to `location`.
    pub async fn checkpoint_container(&self, id: &str, location: &str, timeout: Duration) -> Result<()> {
        let request = CheckpointContainerRequest {
            container_id: id.into(),
            location: location.into(),
            timeout: timeout.as_secs() as i64,
        };
        let deadline = Some(self.timeout.max(timeout));
        call!(self.runtime, "CheckpointContainer", checkpoint_container, request, deadline).map(drop)
    }

    /// The usage of one container.
    pub async fn container_stats(&self, id: &str) -> Result<Option<ContainerStats>> {
        let request = ContainerStatsRequest { container_id: id.into() };
        call!(self.runtime, "ContainerStats", container_stats, request, Some(self.timeout)).map(|r| r.stats)
    }

    /// The usage of all containers that match.
    pub async fn list_container_stats(
        &self,
        filter: Option<ContainerStatsFilter>,
    ) -> Result<Vec<ContainerStats>> {
        let request = ListContainerStatsRequest { filter };
        call!(self.runtime, "ListContainerStats", list_container_stats, request, Some(self.timeout))
            .map(|r| r.stats)
    }

    /// The usage of one sandbox and its containers.
    pub async fn pod_sandbox_stats(&self, id: &str) -> Result<Option<PodSandboxStats>> {
        let request = PodSandboxStatsRequest { pod_sandbox_id: id.into() };
        call!(self.runtime, "PodSandboxStats", pod_sandbox_stats, request, Some(self.timeout))
            .map(|r| r.stats)
    }

    /// The usage of all sandboxes that match.
    pub async fn list_pod_sandbox_stats(
        &self,
        filter: Option<PodSandboxStatsFilter>,
    ) -> Result<Vec<PodSandboxStats>> {
        let request = ListPodSandboxStatsRequest { filter };
        let timeout = Some(self.timeout);
        call!(self.runtime, "ListPodSandboxStats", list_pod_sandbox_stats, request, timeout).map(|r| r.stats)
    }

    /// The names and label keys of the metrics that [`Self::list_pod_sandbox_metrics`] gives.
    pub async fn list_metric_descriptors(&self) -> Result<Vec<MetricDescriptor>> {
        let request = ListMetricDescriptorsRequest {};
        let timeout = Some(self.timeout);
        call!(self.runtime, "ListMetricDescriptors", list_metric_descriptors, request, timeout)
            .map(|r| r.descriptors)
    }

    /// Metrics of all sandboxes and containers.
    pub async fn list_pod_sandbox_metrics(&self) -> Result<Vec<PodSandboxMetrics>> {
        let request = ListPodSandboxMetricsRequest {};
        let timeout = Some(self.timeout);
        call!(self.runtime, "ListPodSandboxMetrics", list_pod_sandbox_metrics, request, timeout)
            .map(|r| r.pod_metrics)
    }

    /// All images, or those that match a name.
    pub async fn list_images(&self, image: Option<ImageSpec>) -> Result<Vec<Image>> {
        let request = ListImagesRequest { filter: image.map(|image| ImageFilter { image: Some(image) }) };
        call!(self.images, "ListImages", list_images, request, Some(self.timeout)).map(|r| r.images)
    }

    /// One image, if it is there.
    pub async fn image_status(&self, image: ImageSpec) -> Result<Option<Image>> {
        let name = image.image.clone();
        let request = ImageStatusRequest { image: Some(image), verbose: false };
        call!(self.images, "ImageStatus", image_status, request, Some(self.timeout))
            .and_then(|reply| verify::image(&name, reply))
            .map(|r| r.image)
    }

    /// Pulls an image; returns the reference to run it by. A pull has no deadline; drop the future to give up.
    pub async fn pull_image(
        &self,
        image: ImageSpec,
        auth: Option<AuthConfig>,
        sandbox_config: Option<PodSandboxConfig>,
    ) -> Result<String> {
        let request = PullImageRequest { image: Some(image), auth, sandbox_config };
        call!(self.images, "PullImage", pull_image, request, None::<Duration>).map(|r| r.image_ref)
    }

    /// Removes an image. Idempotent.
    pub async fn remove_image(&self, image: ImageSpec) -> Result<()> {
        let request = RemoveImageRequest { image: Some(image) };
        call!(self.images, "RemoveImage", remove_image, request, Some(self.timeout)).map(drop)
    }

    /// How full the file systems of images and containers are.
    pub async fn image_fs_info(&self) -> Result<ImageFsInfoResponse> {
        call!(self.images, "ImageFsInfo", image_fs_info, ImageFsInfoRequest {}, Some(self.timeout))
    }
}

/// A lazily connected channel over a unix socket.
fn channel(endpoint: &str) -> Result<Channel> {
    let path = socket_path(endpoint)?;
    let connector = tower::service_fn(move |_: Uri| {
        let path = path.clone();
        async move { UnixStream::connect(&path).await.map(TokioIo::new) }
    });
    // The address is only the `:authority` of the requests.
    Ok(Endpoint::from_static("http://localhost")
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(false)
        .connect_with_connector_lazy(connector))
}

/// The path of a socket given as a path or a `unix:` URL.
fn socket_path(endpoint: &str) -> Result<PathBuf> {
    let path = match endpoint.strip_prefix("unix:") {
        Some(rest) => match rest.strip_prefix("//") {
            Some(path) => path,
            None => rest,
        },
        None if endpoint.contains("://") => {
            let text = format!("endpoint {endpoint:?} is not a unix socket");
            return Err(Error::new("Connect", Code::InvalidArgument, text));
        }
        None => endpoint,
    };
    if !path.starts_with('/') {
        let text = format!("endpoint {endpoint:?} has no absolute path");
        return Err(Error::new("Connect", Code::InvalidArgument, text));
    }
    Ok(PathBuf::from(path))
}

#[cfg(test)]
mod tests;
