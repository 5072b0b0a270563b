//! CSI drivers that register: asked who they are, told to the cluster, handed to the volumes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use kubelet_plugins::{Handler, PluginInfo};
use parking_lot::Mutex;
use tokio::task::AbortHandle;

use super::csi_node;
use crate::kubelet::Kubelet;

/// The least time between two questions how many volumes fit.
const LEAST_PERIOD: Duration = Duration::from_secs(10);

/// Takes plugins of type `CSIPlugin`.
pub struct Csi {
    kubelet: Arc<Kubelet>,
    updates: Mutex<HashMap<String, AbortHandle>>,
}

impl Csi {
    /// Hands drivers to the volumes of `kubelet`.
    pub fn new(kubelet: Arc<Kubelet>) -> Self {
        Self { kubelet, updates: Mutex::default() }
    }

    /// Asks a driver from time to time how many volumes fit, if its CSIDriver wants that.
    async fn keep_count(&self, name: &str, driver: csi::Driver) {
        let object = self.kubelet.objects().csi_driver(name).await.ok().flatten();
        let seconds = object.and_then(|o| o.spec.node_allocatable_update_period_seconds);
        let Some(period) = seconds.and_then(|s| u64::try_from(s).ok()).map(Duration::from_secs) else {
            return;
        };
        let (kubelet, name_of) = (self.kubelet.clone(), name.to_string());
        let task = tokio::spawn(async move {
            let mut tick = tokio::time::interval(period.max(LEAST_PERIOD));
            tick.tick().await;
            loop {
                tick.tick().await;
                if let Ok(info) = driver.node_info().await
                    && let Err(error) = csi_node::install(&kubelet, &name_of, &info).await
                {
                    tracing::warn!(driver = name_of, error, "Failed to update CSINode");
                }
            }
        });
        if let Some(old) = self.updates.lock().insert(name.to_string(), task.abort_handle()) {
            old.abort();
        }
    }
}

impl Drop for Csi {
    fn drop(&mut self) {
        self.updates.lock().values().for_each(AbortHandle::abort);
    }
}

#[async_trait]
impl Handler for Csi {
    async fn register(&self, plugin: &PluginInfo) -> Result<(), String> {
        let name = &plugin.name;
        if !plugin.versions.iter().any(|v| v.trim_start_matches('v').starts_with("1.")) {
            return Err(format!(
                "CSI plugin validation failed for plugin name {name}: none of the CSI versions reported by this driver are supported"
            ));
        }
        let driver = csi::Driver::new(&plugin.endpoint);
        let info = driver.node_info().await.map_err(|e| {
            format!("kubernetes.io/csi: registrationHandler.RegisterPlugin failed at CSI.NodeGetInfo: {e}")
        })?;
        self.kubelet.volumes.drivers.insert(name, driver.clone());
        if self.kubelet.client.is_some()
            && let Err(error) = csi_node::install(&self.kubelet, name, &info).await
        {
            self.kubelet.volumes.drivers.remove(name);
            return Err(error);
        }
        tracing::info!(driver = name, socket = %plugin.endpoint.display(), "Registered CSI driver");
        self.keep_count(name, driver).await;
        volumes::csi::sweep(&self.kubelet.volumes).await;
        Ok(())
    }

    async fn deregister(&self, plugin: &PluginInfo) {
        self.kubelet.volumes.drivers.remove(&plugin.name);
        if let Some(task) = self.updates.lock().remove(&plugin.name) {
            task.abort();
        }
        if self.kubelet.client.is_some()
            && let Err(error) = csi_node::uninstall(&self.kubelet, &plugin.name).await
        {
            tracing::warn!(driver = plugin.name, error, "Failed to remove the driver from CSINode");
        }
    }
}
