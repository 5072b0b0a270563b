//! The pod resources API: monitoring agents ask over `pod-resources/kubelet.sock` which containers have which devices,
//! CPUs and memory. Requests beyond a modest rate are refused.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

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
    let tokens = Mutex::new((f64::from(RATE.1), Instant::now()));
    let service = PodResourcesListerServer::new(Front { source, tokens });
    tonic::transport::Server::builder()
        .add_service(service)
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
        Ok(Response::new(ListPodResourcesResponse { pod_resources: self.source.pods() }))
    }

    async fn get_allocatable_resources(
        &self,
        _: Request<AllocatableResourcesRequest>,
    ) -> Result<Response<AllocatableResourcesResponse>, Status> {
        self.take_token()?;
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
        match found {
            Some(pod) => Ok(Response::new(GetPodResourcesResponse { pod_resources: Some(pod) })),
            None => Err(Status::unknown(format!("pod {pod_name} in namespace {pod_namespace} not found"))),
        }
    }
}
