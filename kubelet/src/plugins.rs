//! Which plugins may register, and who takes them. A new type of plugin is one more line here.

use std::sync::Arc;

use kubelet_plugins::Watcher;

use crate::kubelet::Kubelet;
use crate::storage;

/// The watcher of the plugin folder with all handlers.
pub fn watcher(kubelet: &Arc<Kubelet>) -> Watcher {
    Watcher::new(kubelet.root.join("plugins_registry"))
        .handle("CSIPlugin", Arc::new(storage::Csi::new(kubelet.clone())))
        .handle("DevicePlugin", Arc::new(kubelet.managers.devices.clone()))
}
