//! How the devices of dynamic resources are, as far as their drivers tell.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tonic::transport::Channel;

use crate::dra_api::health::dra_resource_health_client::DraResourceHealthClient;
use crate::dra_api::health::{DeviceHealth, HealthStatus, NodeWatchResourcesRequest};

/// What was said of a device is believed so long, unless the driver says otherwise.
const BELIEVE: Duration = Duration::from_secs(30);
/// How long a driver whose stream broke is left alone.
const PAUSE: Duration = Duration::from_secs(5);

/// What was said of a device.
#[derive(Debug, Clone)]
struct Said {
    status: HealthStatus,
    message: String,
    at: Instant,
    believe: Duration,
}

/// By driver, pool and device.
type Known = HashMap<(String, String, String), Said>;

/// How devices are.
#[derive(Default)]
pub struct Health {
    known: Mutex<Known>,
    /// Told when a device's health has changed.
    pub changed: Notify,
}

impl Health {
    /// `Healthy`, `Unhealthy` or `Unknown`, and what the driver said about it.
    pub fn of(&self, driver: &str, pool: &str, device: &str) -> (&'static str, Option<String>) {
        let known = self.known.lock();
        match known.get(&(driver.to_string(), pool.to_string(), device.to_string())) {
            Some(said) if said.at.elapsed() <= said.believe => {
                (name(said.status), Some(said.message.clone()).filter(|m| !m.is_empty()))
            }
            _ => ("Unknown", None),
        }
    }

    /// Hears a driver for as long as the task lives.
    pub async fn listen(self: Arc<Self>, driver: String, channel: Channel) {
        loop {
            let mut client = DraResourceHealthClient::new(channel.clone());
            let why = match client.node_watch_resources(NodeWatchResourcesRequest {}).await {
                Ok(stream) => {
                    let mut stream = stream.into_inner();
                    loop {
                        match stream.message().await {
                            Ok(Some(news)) => self.take(&driver, news.devices),
                            Ok(None) => break "its list ended".to_string(),
                            Err(status) => break status.message().to_string(),
                        }
                    }
                }
                Err(status) if status.code() == tonic::Code::Unimplemented => return,
                Err(status) => status.message().to_string(),
            };
            tracing::debug!(driver, why, "The driver tells nothing of its devices' health");
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn take(&self, driver: &str, devices: Vec<DeviceHealth>) {
        let mut changed = false;
        let mut known = self.known.lock();
        for said in devices {
            let (status, seconds) = (said.health(), u64::try_from(said.health_check_timeout_seconds));
            let Some(device) = said.device else { continue };
            let believe = seconds.ok().filter(|s| *s > 0).map_or(BELIEVE, Duration::from_secs);
            let new = Said { status, message: said.message, at: Instant::now(), believe };
            let key = (driver.to_string(), device.pool_name, device.device_name);
            let old = known.insert(key, new.clone());
            changed |= old.is_none_or(|o| o.status != new.status || o.message != new.message);
        }
        drop(known);
        if changed {
            self.changed.notify_one();
        }
    }

    /// Forgets what a driver said.
    pub fn forget(&self, driver: &str) {
        self.known.lock().retain(|(d, ..), _| d != driver);
        self.changed.notify_one();
    }
}

fn name(status: HealthStatus) -> &'static str {
    match status {
        HealthStatus::Healthy => "Healthy",
        HealthStatus::Unhealthy => "Unhealthy",
        HealthStatus::Unknown => "Unknown",
    }
}
