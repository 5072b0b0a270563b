//! The gRPC health protocol, for probes.

use tonic::Code;
use tonic::transport::Endpoint;

use crate::{Error, Result};

#[allow(clippy::all, missing_docs)]
mod v1 {
    tonic::include_proto!("grpc.health.v1");
}

/// The state of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    Unknown,
    Serving,
    NotServing,
    ServiceUnknown,
}

impl Status {
    /// As the protocol spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unknown => "UNKNOWN",
            Self::Serving => "SERVING",
            Self::NotServing => "NOT_SERVING",
            Self::ServiceUnknown => "SERVICE_UNKNOWN",
        }
    }
}

/// Asks the server at `host:port` how a service is; the empty name is the server as a whole.
pub async fn check(address: &str, service: &str) -> Result<Status> {
    use v1::health_check_response::ServingStatus;
    let failed = |e: String| Error::new("Check", Code::Unavailable, e);
    let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|e| failed(e.to_string()))?;
    let endpoint = endpoint.user_agent("kube-probe/1.36").map_err(|e| failed(e.to_string()))?;
    let channel = endpoint.connect().await.map_err(|e| failed(e.to_string()))?;
    let request = v1::HealthCheckRequest { service: service.to_string() };
    let reply = v1::health_client::HealthClient::new(channel).check(request).await;
    let reply = reply.map_err(|s| Error::from_status("Check", s))?.into_inner();
    Ok(match reply.status() {
        ServingStatus::Unknown => Status::Unknown,
        ServingStatus::Serving => Status::Serving,
        ServingStatus::NotServing => Status::NotServing,
        ServingStatus::ServiceUnknown => Status::ServiceUnknown,
    })
}
