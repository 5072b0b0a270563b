//! Which plugins may register, and who takes them. A new type of plugin is one more line here.

use std::sync::Arc;

use kubelet_plugins::Watcher;
use tokio_util::sync::CancellationToken;

use crate::kubelet::Kubelet;
use crate::{claims, storage};

/// The watcher of the plugin folder with all handlers.
pub fn watcher(kubelet: &Arc<Kubelet>, shutdown: &CancellationToken) -> Watcher {
    Watcher::new(kubelet.root.join("plugins_registry"))
        .handle("CSIPlugin", Arc::new(storage::Csi::new(kubelet.clone())))
        .handle("DRAPlugin", claims::Registrar::new(kubelet.clone(), shutdown.clone()))
        .handle("DevicePlugin", Arc::new(kubelet.managers.devices.clone()))
}
