//! The node's Lease: renewed every quarter of its duration, the cheapest sign of life.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};
use kube::api::{Api, PostParams};
use tokio_util::sync::CancellationToken;

use crate::kubelet::Kubelet;

const NAMESPACE: &str = "kube-node-lease";

/// Renews the lease until the shutdown.
pub async fn run(kubelet: Arc<Kubelet>, shutdown: CancellationToken) {
    let Some(client) = kubelet.heartbeats.clone() else { return };
    let api: Api<Lease> = Api::namespaced(client, NAMESPACE);
    let duration = kubelet.config.node_lease_duration_seconds;
    let period = Duration::from_secs(u64::try_from(duration).unwrap_or(40)) / 4;
    let mut held: Option<Lease> = None;
    let mut delay = Duration::from_millis(200);
    loop {
        let renewed = renew(&kubelet, &api, held.take(), duration).await;
        let wait = match renewed {
            Ok(lease) => {
                held = Some(lease);
                delay = Duration::from_millis(200);
                period
            }
            Err(error) => {
                tracing::debug!(%error, "Failed to renew the node lease");
                delay = (delay * 2).min(Duration::from_secs(7));
                delay
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
    }
}

async fn renew(
    kubelet: &Kubelet,
    api: &Api<Lease>,
    held: Option<Lease>,
    duration: i32,
) -> kube::Result<Lease> {
    let name = &kubelet.node_name;
    let held = match held {
        Some(lease) => Some(lease),
        None => api.get_opt(name).await?,
    };
    let fresh = LeaseSpec {
        holder_identity: Some(name.clone()),
        lease_duration_seconds: Some(duration),
        renew_time: Some(MicroTime(jiff::Timestamp::now())),
        ..Default::default()
    };
    match held {
        Some(mut lease) => {
            own(kubelet, &mut lease.metadata);
            lease.spec = Some(fresh);
            lease.metadata.managed_fields = None;
            api.replace(name, &PostParams::default(), &lease).await
        }
        None => {
            let mut metadata = ObjectMeta {
                name: Some(name.clone()),
                namespace: Some(NAMESPACE.into()),
                ..Default::default()
            };
            own(kubelet, &mut metadata);
            api.create(&PostParams::default(), &Lease { metadata, spec: Some(fresh) }).await
        }
    }
}

/// The node owns its lease, so that it goes with the node.
fn own(kubelet: &Kubelet, metadata: &mut ObjectMeta) {
    let uid = kubelet.node.load().as_ref().and_then(|n| n.metadata.uid.clone());
    if let (Some(uid), None) = (uid, &metadata.owner_references) {
        metadata.owner_references = Some(vec![OwnerReference {
            api_version: "v1".into(),
            kind: "Node".into(),
            name: kubelet.node_name.clone(),
            uid,
            ..Default::default()
        }]);
    }
}
