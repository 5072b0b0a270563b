//! A driver of dynamic resources. A claim whose name begins with `bad` cannot be prepared; its only device is not well.

use std::collections::HashMap;
use std::path::Path;
use std::pin::Pin;

use anyhow::Context;
use kubelet_plugins::dra_api::health::dra_resource_health_server::{
    DraResourceHealth, DraResourceHealthServer,
};
use kubelet_plugins::dra_api::health::{
    DeviceHealth, DeviceIdentifier, HealthStatus, NodeWatchResourcesRequest, NodeWatchResourcesResponse,
};
use kubelet_plugins::dra_api::v1::dra_plugin_server::{DraPlugin, DraPluginServer};
use kubelet_plugins::dra_api::v1::{
    Device, NodePrepareResourceResponse, NodePrepareResourcesRequest, NodePrepareResourcesResponse,
    NodeUnprepareResourceResponse, NodeUnprepareResourcesRequest, NodeUnprepareResourcesResponse,
};
use kubelet_plugins::registration::registration_server::{Registration, RegistrationServer};
use kubelet_plugins::registration::{
    InfoRequest, PluginInfo, RegistrationStatus, RegistrationStatusResponse,
};
use tokio_stream::StreamExt;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

use crate::Data;

#[derive(Clone)]
struct Driver {
    name: String,
    endpoint: String,
    data: Data,
}

#[tonic::async_trait]
impl Registration for Driver {
    async fn get_info(&self, _: Request<InfoRequest>) -> Result<Response<PluginInfo>, Status> {
        Ok(Response::new(PluginInfo {
            r#type: "DRAPlugin".into(),
            name: self.name.clone(),
            endpoint: self.endpoint.clone(),
            supported_versions: vec!["v1.DRAPlugin".into(), "v1alpha1.DRAResourceHealth".into()],
        }))
    }

    async fn notify_registration_status(
        &self,
        status: Request<RegistrationStatus>,
    ) -> Result<Response<RegistrationStatusResponse>, Status> {
        let status = status.into_inner();
        self.data.note(&format!("registered {} {}", status.plugin_registered, status.error));
        Ok(Response::new(RegistrationStatusResponse {}))
    }
}

#[tonic::async_trait]
impl DraPlugin for Driver {
    async fn node_prepare_resources(
        &self,
        request: Request<NodePrepareResourcesRequest>,
    ) -> Result<Response<NodePrepareResourcesResponse>, Status> {
        let mut claims = HashMap::new();
        for claim in request.into_inner().claims {
            self.data.note(&format!("prepare {}", claim.name));
            let answer = if claim.name.starts_with("bad") {
                NodePrepareResourceResponse { devices: Vec::new(), error: "it is bad".into() }
            } else {
                let device = Device {
                    pool_name: "pool".into(),
                    device_name: "one".into(),
                    cdi_device_ids: vec![format!("{}/thing=one", self.name)],
                    ..Default::default()
                };
                NodePrepareResourceResponse { devices: vec![device], error: String::new() }
            };
            claims.insert(claim.uid, answer);
        }
        Ok(Response::new(NodePrepareResourcesResponse { claims }))
    }

    async fn node_unprepare_resources(
        &self,
        request: Request<NodeUnprepareResourcesRequest>,
    ) -> Result<Response<NodeUnprepareResourcesResponse>, Status> {
        let mut claims = HashMap::new();
        for claim in request.into_inner().claims {
            self.data.note(&format!("unprepare {}", claim.name));
            claims.insert(claim.uid, NodeUnprepareResourceResponse { error: String::new() });
        }
        Ok(Response::new(NodeUnprepareResourcesResponse { claims }))
    }
}

type News = Pin<Box<dyn tokio_stream::Stream<Item = Result<NodeWatchResourcesResponse, Status>> + Send>>;

#[tonic::async_trait]
impl DraResourceHealth for Driver {
    type NodeWatchResourcesStream = News;

    async fn node_watch_resources(
        &self,
        _: Request<NodeWatchResourcesRequest>,
    ) -> Result<Response<News>, Status> {
        let device = DeviceIdentifier { pool_name: "pool".into(), device_name: "one".into() };
        let health = DeviceHealth {
            device: Some(device),
            health: HealthStatus::Unhealthy as i32,
            health_check_timeout_seconds: 3600,
            message: "it hums".into(),
            ..Default::default()
        };
        let first = tokio_stream::once(Ok(NodeWatchResourcesResponse { devices: vec![health] }));
        Ok(Response::new(Box::pin(first.chain(tokio_stream::pending()))))
    }
}

/// Serves and registers.
pub async fn run(kubelet: &Path, name: &str, data: Data) -> anyhow::Result<()> {
    std::fs::create_dir_all(data.path(""))?;
    let endpoint = kubelet.join("plugins").join(name).join("dra.sock");
    let registration = kubelet.join("plugins_registry").join(format!("{name}-reg.sock"));
    let driver =
        Driver { name: name.into(), endpoint: endpoint.to_string_lossy().into_owned(), data: data.clone() };
    let serve = Server::builder()
        .add_service(DraPluginServer::new(driver.clone()))
        .add_service(DraResourceHealthServer::new(driver.clone()))
        .serve_with_incoming(crate::listen(&endpoint)?);
    let register = Server::builder()
        .add_service(RegistrationServer::new(driver))
        .serve_with_incoming(crate::listen(&registration)?);
    tokio::select! {
        result = serve => result.context("serving DRA"),
        result = register => result.context("serving registration"),
    }
}
