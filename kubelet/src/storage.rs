//! Storage as the kubelet's other parts see it: the volumes of pods, the drivers that register, this node's CSINode.

use std::path::Path;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use tokio_util::sync::CancellationToken;
use volumes::{Manager, Objects, Recorder};

use crate::events::Events;
use crate::kubelet::Kubelet;
use crate::objects::{NoObjects, ObjectStore};

mod csi_node;
mod drivers;

pub use drivers::Csi;

/// The volumes of this node.
pub fn manager(root: &Path, node: &str, store: Option<Arc<ObjectStore>>, events: &Events) -> Arc<Manager> {
    let objects: Arc<dyn Objects> = match store {
        Some(store) => store,
        None => Arc::new(NoObjects),
    };
    Manager::new(root.to_path_buf(), node.to_string(), objects, Arc::new(events.clone()))
}

impl Recorder for Events {
    fn pod(&self, pod: &Pod, kind: &str, reason: &str, message: &str) {
        Events::pod(self, pod, kind, reason, message);
    }

    fn claim(&self, claim: &PersistentVolumeClaim, kind: &str, reason: &str, message: &str) {
        Events::claim(self, claim, kind, reason, message);
    }

    fn volume(&self, volume: &PersistentVolume, kind: &str, reason: &str, message: &str) {
        Events::volume(self, volume, kind, reason, message);
    }

    fn node(&self, kind: &str, reason: &str, message: &str) {
        Events::node(self, kind, reason, message);
    }

    fn operation(&self, name: &str, plugin: &str, fine: bool, took: std::time::Duration) {
        crate::metrics::pods::storage(name, plugin, fine, took);
    }

    fn reconstructed(&self, fine: bool) {
        crate::metrics::pods::reconstructed(fine);
    }
}

/// Keeps the cluster's view of this node's storage right until the shutdown.
pub async fn run(kubelet: Arc<Kubelet>, shutdown: CancellationToken) {
    let work = async {
        csi_node::initialize(&kubelet).await;
        loop {
            // The controller attaches and detaches by what the node says is in use: it has to know at once.
            kubelet.volumes.in_use_changed.notified().await;
            kubelet.node_changed.notify_one();
        }
    };
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = work => {}
    }
}

/// Asks a driver anew how many volumes fit on the node.
pub async fn recount(kubelet: &Kubelet, driver: &str) {
    let Ok(found) = kubelet.volumes.drivers.get(driver) else { return };
    let done = match found.node_info().await {
        Ok(info) => csi_node::install(kubelet, driver, &info).await,
        Err(error) => Err(error.to_string()),
    };
    if let Err(error) = done {
        tracing::warn!(driver, error, "Failed to update CSINode");
    }
}
