//! The pod resources API: monitoring agents ask over `pod-resources/kubelet.sock` which containers have which devices,
//! CPUs and memory, or in the API's first version which devices. Requests beyond a modest rate are refused.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::alpha_api as v1alpha1;
use crate::pod_resources_api::pod_resources_lister_server::{PodResourcesLister, PodResourcesListerServer};
use crate::pod_resources_api::{
    AllocatableResourcesRequest, AllocatableResourcesResponse, GetPodResourcesRequest,
    GetPodResourcesResponse, ListPodResourcesRequest, ListPodResourcesResponse, PodResources,
};

/// Requests a second, and at once.
const RATE: (u32, u32) = (100, 10);

/// What is asked.
pub trait Source: Send + Sync + 'static {
    /// What the containers of all pods that hold resources have.
    fn pods(&self) -> Vec<PodResources>;
    /// What could be given if nobody had anything.
    fn allocatable(&self) -> AllocatableResourcesResponse;
    /// Counts a request to a version of the API: for `list`, `get` or `get_allocatable`.
    fn asked(&self, version: &'static str, what: &'static str, failed: bool);
}

/// Serves the API at `socket` until the shutdown.
pub async fn serve(
    socket: &Path,
    source: Arc<dyn Source>,
    shutdown: CancellationToken,
) -> Result<(), String> {
    if let Some(dir) = socket.parent() {
        std::fs::create_dir_all(dir).map_err(|e| e.to_string())?;
    }
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.to_string()),
        _ => {}
    }
    let listener = UnixListener::bind(socket).map_err(|e| e.to_string())?;
    let front = Arc::new(Front { source, tokens: Mutex::new((f64::from(RATE.1), Instant::now())) });
    tonic::transport::Server::builder()
        .add_service(v1alpha1::pod_resources_lister_server::PodResourcesListerServer::new(First(
            front.clone(),
        )))
        .add_service(PodResourcesListerServer::from_arc(front))
        .serve_with_incoming_shutdown(crate::lenient::incoming(listener), shutdown.cancelled_owned())
        .await
        .map_err(|e| e.to_string())
}

struct Front {
    source: Arc<dyn Source>,
    /// How many requests are free, and since when.
    tokens: Mutex<(f64, Instant)>,
}

impl Front {
    fn take_token(&self) -> Result<(), Status> {
        let mut tokens = self.tokens.lock();
        let gained = tokens.1.elapsed().min(Duration::from_secs(1)).as_secs_f64() * f64::from(RATE.0);
        *tokens = ((tokens.0 + gained).min(f64::from(RATE.1)), Instant::now());
        if tokens.0 < 1.0 {
            return Err(Status::resource_exhausted("rejected by rate limit"));
        }
        tokens.0 -= 1.0;
        Ok(())
    }
}

#[async_trait]
impl PodResourcesLister for Front {
    async fn list(
        &self,
        _: Request<ListPodResourcesRequest>,
    ) -> Result<Response<ListPodResourcesResponse>, Status> {
        self.take_token()?;
        self.source.asked("v1", "list", false);
        Ok(Response::new(ListPodResourcesResponse { pod_resources: self.source.pods() }))
    }

    async fn get_allocatable_resources(
        &self,
        _: Request<AllocatableResourcesRequest>,
    ) -> Result<Response<AllocatableResourcesResponse>, Status> {
        self.take_token()?;
        self.source.asked("v1", "get_allocatable", false);
        Ok(Response::new(self.source.allocatable()))
    }

    async fn get(
        &self,
        request: Request<GetPodResourcesRequest>,
    ) -> Result<Response<GetPodResourcesResponse>, Status> {
        self.take_token()?;
        let GetPodResourcesRequest { pod_name, pod_namespace } = request.into_inner();
        let mut pods = self.source.pods().into_iter();
        let found = pods.find(|p| p.name == pod_name && p.namespace == pod_namespace);
        self.source.asked("v1", "get", found.is_none());
        match found {
            Some(pod) => Ok(Response::new(GetPodResourcesResponse { pod_resources: Some(pod) })),
            None => Err(Status::unknown(format!("pod {pod_name} in namespace {pod_namespace} not found"))),
        }
    }
}

/// The API's first version, which knows devices only.
struct First(Arc<Front>);

#[async_trait]
impl v1alpha1::pod_resources_lister_server::PodResourcesLister for First {
    async fn list(
        &self,
        _: Request<v1alpha1::ListPodResourcesRequest>,
    ) -> Result<Response<v1alpha1::ListPodResourcesResponse>, Status> {
        self.0.take_token()?;
        self.0.source.asked("v1alpha1", "list", false);
        let pod_resources = self.0.source.pods().into_iter().map(devices_of).collect();
        Ok(Response::new(v1alpha1::ListPodResourcesResponse { pod_resources }))
    }
}

fn devices_of(pod: PodResources) -> v1alpha1::PodResources {
    let containers = pod.containers.into_iter().map(|container| {
        let devices = container.devices.into_iter();
        let devices = devices
            .map(|d| v1alpha1::ContainerDevices { resource_name: d.resource_name, device_ids: d.device_ids });
        v1alpha1::ContainerResources { name: container.name, devices: devices.collect() }
    });
    v1alpha1::PodResources { name: pod.name, namespace: pod.namespace, containers: containers.collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod_resources_api::{ContainerDevices, ContainerResources};

    struct One;

    impl Source for One {
        fn pods(&self) -> Vec<PodResources> {
            let device = ContainerDevices {
                resource_name: "a.b/c".into(),
                device_ids: vec!["d1".into()],
                ..Default::default()
            };
            let container =
                ContainerResources { name: "c".into(), devices: vec![device], ..Default::default() };
            let (name, namespace) = ("p".into(), "n".into());
            vec![PodResources { name, namespace, containers: vec![container] }]
        }
        fn allocatable(&self) -> AllocatableResourcesResponse {
            AllocatableResourcesResponse::default()
        }
        fn asked(&self, _: &'static str, _: &'static str, _: bool) {}
    }

    #[tokio::test]
    async fn both_versions_tell_of_devices() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("pod-resources/kubelet.sock");
        let shutdown = CancellationToken::new();
        let (path, end) = (socket.clone(), shutdown.clone());
        let served = tokio::spawn(async move { serve(&path, Arc::new(One), end).await });
        let connected = async {
            loop {
                match crate::connect(&socket).await {
                    Ok(channel) => return channel,
                    Err(_) => tokio::task::yield_now().await,
                }
            }
        };
        let channel = tokio::time::timeout(Duration::from_secs(20), connected).await.expect("a server");
        let mut new = crate::pod_resources_api::pod_resources_lister_client::PodResourcesListerClient::new(
            channel.clone(),
        );
        let list = new.list(ListPodResourcesRequest {}).await.unwrap().into_inner();
        assert_eq!(list.pod_resources, One.pods());
        let mut old = v1alpha1::pod_resources_lister_client::PodResourcesListerClient::new(channel);
        let list = old.list(v1alpha1::ListPodResourcesRequest {}).await.unwrap().into_inner();
        let container = &list.pod_resources[0].containers[0];
        assert_eq!((list.pod_resources[0].name.as_str(), container.name.as_str()), ("p", "c"));
        assert_eq!(
            (&*container.devices[0].resource_name, &*container.devices[0].device_ids),
            ("a.b/c", &["d1".to_owned()][..])
        );
        shutdown.cancel();
        served.await.unwrap().unwrap();
    }
}
