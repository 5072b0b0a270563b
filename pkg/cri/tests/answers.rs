//! What runtimes beside containerd 1.6 answer, played by one that is made for it: containerd 2 and CRI-O tell their
//! cgroup driver, their features and what happens to containers; old ones refuse those calls.

use std::path::Path;
use std::pin::Pin;
use std::time::Duration;

use cri::Runtime;
use cri::events::Events;
use cri::v1::runtime_service_server::{RuntimeService, RuntimeServiceServer};
use cri::v1::*;
use futures::{Stream, StreamExt};
use tokio::sync::mpsc;
use tonic::{Request, Response, Status};

/// A runtime that knows as much as it is told to.
#[derive(Default)]
struct Fake {
    driver: Option<CgroupDriver>,
    /// What its configuration, and what its sandbox says in JSON.
    config: &'static str,
    sandbox: Option<&'static str>,
    events: Option<parking_lot::Mutex<Option<mpsc::UnboundedReceiver<ContainerEventResponse>>>>,
}

/// The service with all calls refused but those that are written out.
macro_rules! service {
    ({ $($call:ident($ask:ident) -> $answer:ident;)* } { $($own:tt)* }) => {
        #[tonic::async_trait]
        impl RuntimeService for Fake {
            $(async fn $call(&self, _: Request<$ask>) -> Result<Response<$answer>, Status> {
                Err(Status::unimplemented(stringify!($call)))
            })*
            $($own)*
        }
    };
}

type Told = Pin<Box<dyn Stream<Item = Result<ContainerEventResponse, Status>> + Send>>;
type Answer<T> = Result<Response<T>, Status>;

service! {{
    run_pod_sandbox(RunPodSandboxRequest) -> RunPodSandboxResponse;
    stop_pod_sandbox(StopPodSandboxRequest) -> StopPodSandboxResponse;
    remove_pod_sandbox(RemovePodSandboxRequest) -> RemovePodSandboxResponse;
    create_container(CreateContainerRequest) -> CreateContainerResponse;
    start_container(StartContainerRequest) -> StartContainerResponse;
    stop_container(StopContainerRequest) -> StopContainerResponse;
    remove_container(RemoveContainerRequest) -> RemoveContainerResponse;
    list_containers(ListContainersRequest) -> ListContainersResponse;
    container_status(ContainerStatusRequest) -> ContainerStatusResponse;
    update_container_resources(UpdateContainerResourcesRequest) -> UpdateContainerResourcesResponse;
    reopen_container_log(ReopenContainerLogRequest) -> ReopenContainerLogResponse;
    exec_sync(ExecSyncRequest) -> ExecSyncResponse;
    exec(ExecRequest) -> ExecResponse;
    attach(AttachRequest) -> AttachResponse;
    port_forward(PortForwardRequest) -> PortForwardResponse;
    container_stats(ContainerStatsRequest) -> ContainerStatsResponse;
    list_container_stats(ListContainerStatsRequest) -> ListContainerStatsResponse;
    pod_sandbox_stats(PodSandboxStatsRequest) -> PodSandboxStatsResponse;
    list_pod_sandbox_stats(ListPodSandboxStatsRequest) -> ListPodSandboxStatsResponse;
    update_runtime_config(UpdateRuntimeConfigRequest) -> UpdateRuntimeConfigResponse;
    checkpoint_container(CheckpointContainerRequest) -> CheckpointContainerResponse;
    list_metric_descriptors(ListMetricDescriptorsRequest) -> ListMetricDescriptorsResponse;
    list_pod_sandbox_metrics(ListPodSandboxMetricsRequest) -> ListPodSandboxMetricsResponse;
    update_pod_sandbox_resources(UpdatePodSandboxResourcesRequest) -> UpdatePodSandboxResourcesResponse;
} {
    type GetContainerEventsStream = Told;

    async fn get_container_events(&self, _: Request<GetEventsRequest>) -> Answer<Told> {
        let events = self.events.as_ref().and_then(|e| e.lock().take());
        let events = events.ok_or_else(|| Status::unimplemented("no events"))?;
        let stream = futures::stream::unfold(events, |mut events| async {
            events.recv().await.map(|event| (Ok(event), events))
        });
        Ok(Response::new(stream.boxed()))
    }

    async fn version(&self, _: Request<VersionRequest>) -> Answer<VersionResponse> {
        let (runtime_name, runtime_version) = ("cri-o".to_string(), "1.36.0".to_string());
        let (version, runtime_api_version) = ("0.1.0".to_string(), "v1".to_string());
        let answer = VersionResponse { version, runtime_name, runtime_version, runtime_api_version };
        Ok(Response::new(answer))
    }

    async fn status(&self, _: Request<StatusRequest>) -> Answer<StatusResponse> {
        let features = RuntimeHandlerFeatures { recursive_read_only_mounts: true, user_namespaces: true };
        let handler = RuntimeHandler { name: "runc".into(), features: Some(features) };
        let features = Some(RuntimeFeatures { supplemental_groups_policy: true, ..Default::default() });
        let status = Some(RuntimeStatus { conditions: Vec::new() });
        let runtime_handlers = vec![handler];
        let info = [("config".to_string(), self.config.to_string())].into();
        Ok(Response::new(StatusResponse { status, runtime_handlers, features, info }))
    }

    async fn list_pod_sandbox(&self, _: Request<ListPodSandboxRequest>) -> Answer<ListPodSandboxResponse> {
        let sandbox = |_| PodSandbox { id: "s".into(), ..Default::default() };
        Ok(Response::new(ListPodSandboxResponse { items: self.sandbox.map(sandbox).into_iter().collect() }))
    }

    async fn pod_sandbox_status(
        &self,
        asked: Request<PodSandboxStatusRequest>,
    ) -> Answer<PodSandboxStatusResponse> {
        let id = asked.into_inner().pod_sandbox_id;
        let text = || "x".to_string();
        let metadata = PodSandboxMetadata { name: text(), uid: text(), namespace: text(), attempt: 0 };
        let metadata = Some(metadata);
        let status = Some(PodSandboxStatus { id, metadata, created_at: 1, ..Default::default() });
        let info = self.sandbox.map(|text| ("info".to_string(), text.to_string())).into_iter().collect();
        Ok(Response::new(PodSandboxStatusResponse { status, info, ..Default::default() }))
    }

    async fn runtime_config(&self, _: Request<RuntimeConfigRequest>) -> Answer<RuntimeConfigResponse> {
        let driver = self.driver.ok_or_else(|| Status::unimplemented("too old"))?;
        let linux = Some(LinuxRuntimeConfiguration { cgroup_driver: driver.into() });
        Ok(Response::new(RuntimeConfigResponse { linux }))
    }
}}

/// Serves a runtime on a socket until the test ends.
fn serve(fake: Fake, socket: &Path) -> Runtime {
    let listener = tokio::net::UnixListener::bind(socket).unwrap();
    let incoming = futures::stream::unfold(listener, |listener| async {
        Some((listener.accept().await.map(|(stream, _)| stream), listener))
    });
    let server = tonic::transport::Server::builder().add_service(RuntimeServiceServer::new(fake));
    tokio::spawn(server.serve_with_incoming(Box::pin(incoming)));
    Runtime::new(&format!("unix://{}", socket.display()), None, Duration::from_secs(10)).unwrap()
}

#[tokio::test]
async fn a_runtime_that_tells_its_driver_and_features() {
    let dir = tempfile::tempdir().unwrap();
    for (name, driver) in [("a", CgroupDriver::Systemd), ("b", CgroupDriver::Cgroupfs)] {
        let runtime = serve(Fake { driver: Some(driver), ..Fake::default() }, &dir.path().join(name));
        let told = runtime.runtime_config().await.unwrap().linux.unwrap();
        assert_eq!(told.cgroup_driver(), driver);
        let status = runtime.status(false).await.unwrap();
        assert!(status.features.unwrap().supplemental_groups_policy);
        assert!(status.runtime_handlers[0].features.unwrap().user_namespaces);
        assert_eq!(runtime.version().await.unwrap().runtime_name, "cri-o");
    }
}

#[tokio::test]
async fn an_old_runtime_refuses() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = serve(Fake::default(), &dir.path().join("s"));
    assert!(runtime.runtime_config().await.unwrap_err().is_unimplemented());
    // Neither CRI's events nor containerd's own: whoever asks has to look by himself.
    assert!(Events::subscribe(&runtime).await.is_err());
}

#[tokio::test]
async fn the_image_of_sandboxes_is_found_where_it_is_told() {
    let dir = tempfile::tempdir().unwrap();
    for (name, config, sandbox, image) in [
        ("containerd 1", r#"{"sandboxImage": "pause:1"}"#, None, "pause:1"),
        ("containerd 2", r#"{"sandboxes": {}}"#, Some(r#"{"image": "pause:2"}"#), "pause:2"),
        ("containerd 2 before its first pod", "{}", None, ""),
        ("one that tells nothing", "", Some("no JSON"), ""),
    ] {
        let runtime = serve(Fake { config, sandbox, ..Fake::default() }, &dir.path().join(name));
        assert_eq!(runtime.sandbox_image().await.unwrap(), image, "{name}");
    }
}

#[tokio::test]
async fn what_happens_to_containers_is_a_hint() {
    let dir = tempfile::tempdir().unwrap();
    let (tell, told) = mpsc::unbounded_channel();
    let events = Some(parking_lot::Mutex::new(Some(told)));
    let runtime = serve(Fake { events, ..Fake::default() }, &dir.path().join("s"));
    let mut events = Events::subscribe(&runtime).await.unwrap();
    assert_eq!(events.source(), "CRI");
    tell.send(ContainerEventResponse::default()).unwrap();
    let hint = tokio::time::timeout(Duration::from_secs(20), events.next()).await.unwrap();
    assert!(matches!(hint, Some(Ok(()))));
    drop(tell);
    let end = tokio::time::timeout(Duration::from_secs(20), events.next()).await.unwrap();
    assert!(end.is_none(), "the stream ends with the runtime");
}
