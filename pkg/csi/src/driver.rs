//! A driver behind its socket.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::v1::identity_client::IdentityClient;
use crate::v1::node_client::NodeClient;
use crate::v1::node_service_capability::Type;
use crate::v1::node_service_capability::rpc::Type as Rpc;
use crate::{Error, Result, v1};

/// How long a call may take.
pub const TIMEOUT: Duration = Duration::from_secs(120);

/// A channel to a unix socket; it connects when first used, and again after the other end restarted.
pub fn channel(socket: impl Into<PathBuf>) -> Channel {
    let socket = socket.into();
    // The address is not used: the connector below knows the socket.
    Endpoint::from_static("http://localhost")
        .connect_timeout(Duration::from_secs(10))
        .connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
            let socket = socket.clone();
            async move { tokio::net::UnixStream::connect(socket).await.map(TokioIo::new) }
        }))
}

/// A client of a driver's node service.
#[derive(Debug, Clone)]
pub struct Driver {
    node: NodeClient<Channel>,
    identity: IdentityClient<Channel>,
    capabilities: Arc<Mutex<Option<HashSet<i32>>>>,
    /// Its socket.
    pub socket: PathBuf,
}

impl Driver {
    /// The driver that serves `socket`.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        let socket = socket.into();
        let channel = channel(socket.clone());
        Self {
            node: NodeClient::new(channel.clone()),
            identity: IdentityClient::new(channel),
            capabilities: Arc::default(),
            socket,
        }
    }

    /// Whether the node service can do something. The answer is kept: it does not change while a driver runs.
    pub async fn can(&self, what: Rpc) -> Result<bool> {
        let known =
            self.capabilities.lock().ok().and_then(|c| c.as_ref().map(|c| c.contains(&(what as i32))));
        if let Some(known) = known {
            return Ok(known);
        }
        let request = v1::NodeGetCapabilitiesRequest {};
        let reply = within(self.node.clone().node_get_capabilities(request)).await?;
        let all: HashSet<i32> = reply
            .capabilities
            .into_iter()
            .filter_map(|c| c.r#type.map(|Type::Rpc(rpc)| rpc.r#type))
            .collect();
        let can = all.contains(&(what as i32));
        if let Ok(mut known) = self.capabilities.lock() {
            *known = Some(all);
        }
        Ok(can)
    }

    /// Who the driver is.
    pub async fn plugin_info(&self) -> Result<v1::GetPluginInfoResponse> {
        within(self.identity.clone().get_plugin_info(v1::GetPluginInfoRequest {})).await
    }

    /// What the driver calls this node, and how many volumes fit on it.
    pub async fn node_info(&self) -> Result<v1::NodeGetInfoResponse> {
        within(self.node.clone().node_get_info(v1::NodeGetInfoRequest {})).await
    }

    /// Stages a volume on the node.
    pub async fn stage(&self, request: v1::NodeStageVolumeRequest) -> Result<()> {
        within(self.node.clone().node_stage_volume(request)).await.map(drop)
    }

    /// Undoes [`Driver::stage`].
    pub async fn unstage(&self, request: v1::NodeUnstageVolumeRequest) -> Result<()> {
        within(self.node.clone().node_unstage_volume(request)).await.map(drop)
    }

    /// Makes a volume appear in a pod's folder.
    pub async fn publish(&self, request: v1::NodePublishVolumeRequest) -> Result<()> {
        within(self.node.clone().node_publish_volume(request)).await.map(drop)
    }

    /// Undoes [`Driver::publish`].
    pub async fn unpublish(&self, request: v1::NodeUnpublishVolumeRequest) -> Result<()> {
        within(self.node.clone().node_unpublish_volume(request)).await.map(drop)
    }

    /// Makes what is on the volume fill it.
    pub async fn expand(&self, request: v1::NodeExpandVolumeRequest) -> Result<v1::NodeExpandVolumeResponse> {
        within(self.node.clone().node_expand_volume(request)).await
    }

    /// How full a volume is, and how well.
    pub async fn stats(
        &self,
        request: v1::NodeGetVolumeStatsRequest,
    ) -> Result<v1::NodeGetVolumeStatsResponse> {
        within(self.node.clone().node_get_volume_stats(request)).await
    }
}

async fn within<T>(
    call: impl Future<Output = std::result::Result<tonic::Response<T>, tonic::Status>>,
) -> Result<T> {
    match tokio::time::timeout(TIMEOUT, call).await {
        Ok(reply) => Ok(reply?.into_inner()),
        Err(_) => {
            Err(Error { code: tonic::Code::DeadlineExceeded, message: "context deadline exceeded".into() })
        }
    }
}
