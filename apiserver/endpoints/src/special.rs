//! What only one path or kind has: reviews, bindings, evictions, tokens, proxies.

use crate::body::Body;
use crate::call::Call;
use crate::served::Served;
use api::status::{Result, Status};
use http::Response;
use std::sync::Arc;

/// What these endpoints need beside the server.
#[derive(Default)]
pub struct Special {
    /// `host:port` by which clients reach this server.
    pub external_address: String,
    pub issuer: Option<Arc<auth::service_account::Issuer>>,
    /// For the escalation checks on role writes.
    pub rbac: Option<Arc<auth::authz::rbac::Rbac>>,
    /// Set once the objects that every cluster has are there.
    pub bootstrapped: std::sync::atomic::AtomicBool,
}

/// A resource that no table row describes: aggregated servers, later.
pub async fn unknown(_call: &Call) -> Result<Response<Body>> {
    Ok(crate::respond::text(404, "404 page not found\n"))
}

/// A path that is neither resource nor discovery.
pub async fn path(_call: &Call) -> Option<Result<Response<Body>>> {
    None
}

/// Resources that are answered without storage.
pub async fn virtual_resource(_call: &Call, served: &Arc<Served>) -> Option<Result<Response<Body>>> {
    served.stored.is_none().then(|| Err(Status::no_such_path()))
}

/// Subresources whose kind is not the resource's own.
pub async fn subresource(_call: &Call, _served: &Arc<Served>, _name: &str) -> Option<Result<Response<Body>>> {
    None
}
