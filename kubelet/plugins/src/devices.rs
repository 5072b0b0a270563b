//! The device manager: takes device plugins in, knows which devices they have and how those are, and gives devices to
//! containers. What was given is kept in `kubelet_internal_checkpoint`.
//!
//! A plugin is heard over its own stream; when that ends its devices count as unhealthy, and after a while as gone.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::Channel;

use crate::device_api::device_plugin_client::DevicePluginClient;
use crate::device_api::{ContainerAllocateResponse, DevicePluginOptions, PreStartContainerRequest};

mod allocate;
mod registry;
mod state;

pub use allocate::Allocator;

/// How long the devices of a plugin that is gone are still counted.
const STOP_GRACE: Duration = Duration::from_secs(300);
/// How long a plugin may take to prepare a container.
const PRE_START_TIMEOUT: Duration = Duration::from_secs(30);

/// A device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Device {
    /// It can be used.
    pub healthy: bool,
    /// The NUMA nodes near it.
    pub numas: Vec<i64>,
}

/// What a container has of a resource.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Given {
    /// Device ids by NUMA node; -1 for none.
    pub ids: BTreeMap<i64, Vec<String>>,
    /// What the plugin wants done to the container.
    pub response: ContainerAllocateResponse,
}

impl Given {
    /// All ids, each once.
    pub fn all(&self) -> BTreeSet<String> {
        self.ids.values().flatten().cloned().collect()
    }
}

/// By pod UID, container and resource.
type Allocations = BTreeMap<String, BTreeMap<String, BTreeMap<String, Given>>>;

/// A plugin.
#[derive(Clone)]
struct Endpoint {
    client: Option<DevicePluginClient<Channel>>,
    options: DevicePluginOptions,
    /// When it went away.
    stopped: Option<Instant>,
    /// Ends the task that listens to it.
    listening: CancellationToken,
}

#[derive(Default)]
struct Inner {
    endpoints: HashMap<String, Endpoint>,
    devices: BTreeMap<String, BTreeMap<String, Device>>,
    given: Allocations,
    /// Devices that init containers of the pod being admitted leave to those after them.
    reusable: (String, BTreeMap<String, BTreeSet<String>>),
}

/// The device manager.
pub struct DeviceManager {
    dir: PathBuf,
    numas: Vec<u32>,
    inner: Mutex<Inner>,
    /// Told when capacity changed.
    changed: Arc<Notify>,
    /// Told when a device that somebody has became well or unwell.
    pub health_changed: Notify,
    tasks: TaskTracker,
    shutdown: CancellationToken,
    /// There was no checkpoint: what the Node object says of devices is of another life.
    fresh: bool,
}

/// Devices of the node by resource: all, and those that can be given.
pub type Capacity = BTreeMap<String, (usize, usize)>;

impl DeviceManager {
    /// A manager with its folder `dir` (`/var/lib/kubelet/device-plugins`); tells `changed` of news.
    pub fn new(
        dir: &Path,
        numas: Vec<u32>,
        changed: Arc<Notify>,
        shutdown: CancellationToken,
    ) -> Result<Arc<Self>, String> {
        std::fs::create_dir_all(dir).map_err(|e| format!("cannot make {}: {e}", dir.display()))?;
        let (kept, fresh) = state::read(&dir.join(state::FILE))?;
        let mut inner = Inner { given: kept.given, ..Default::default() };
        for resource in kept.registered {
            inner.devices.insert(resource.clone(), BTreeMap::new());
            inner.endpoints.insert(resource, Endpoint::gone());
        }
        Ok(Arc::new(Self {
            dir: dir.into(),
            numas,
            inner: Mutex::new(inner),
            changed,
            health_changed: Notify::new(),
            tasks: TaskTracker::new(),
            shutdown,
            fresh,
        }))
    }

    /// Whether a resource is one of devices.
    pub fn knows(&self, resource: &str) -> bool {
        let inner = self.inner.lock();
        inner.devices.contains_key(resource) || inner.holders(resource).next().is_some()
    }

    /// Whether nothing is known of the devices that the Node object tells of.
    pub fn is_fresh(&self) -> bool {
        self.fresh
    }

    /// The devices of the node, and resources that are no more.
    pub fn capacity(&self) -> (Capacity, Vec<String>) {
        let mut inner = self.inner.lock();
        let over = |e: &Endpoint| e.stopped.is_some_and(|at| at.elapsed() >= STOP_GRACE);
        let gone: Vec<String> =
            inner.endpoints.iter().filter(|(_, e)| over(e)).map(|(name, _)| name.clone()).collect();
        for resource in &gone {
            inner.endpoints.remove(resource);
            inner.devices.remove(resource);
        }
        let count = |(name, devices): (&String, &BTreeMap<String, Device>)| {
            (name.clone(), (devices.len(), devices.values().filter(|d| d.healthy).count()))
        };
        let capacity = inner.devices.iter().map(count).collect();
        if !gone.is_empty() {
            self.save(&inner);
        }
        (capacity, gone)
    }

    /// All devices that can be given, by resource.
    pub fn allocatable(&self) -> BTreeMap<String, BTreeMap<String, Device>> {
        let inner = self.inner.lock();
        let healthy = |devices: &BTreeMap<String, Device>| {
            devices.iter().filter(|(_, d)| d.healthy).map(|(id, d)| (id.clone(), d.clone())).collect()
        };
        inner.devices.iter().map(|(name, devices)| (name.clone(), healthy(devices))).collect()
    }

    /// What a container has, by resource.
    pub fn of_container(&self, uid: &str, container: &str) -> BTreeMap<String, Given> {
        let inner = self.inner.lock();
        inner.given.get(uid).and_then(|c| c.get(container)).cloned().unwrap_or_default()
    }

    /// Whether a pod has devices.
    pub fn has_any(&self, uid: &str) -> bool {
        self.inner.lock().given.contains_key(uid)
    }

    /// How the devices of a container are: id and whether it is healthy, by resource.
    pub fn health(&self, uid: &str, container: &str) -> BTreeMap<String, Vec<(String, bool)>> {
        let inner = self.inner.lock();
        let Some(resources) = inner.given.get(uid).and_then(|c| c.get(container)) else {
            return BTreeMap::new();
        };
        let healthy = |resource: &str, id: &str| {
            inner.devices.get(resource).and_then(|d| d.get(id)).is_none_or(|d| d.healthy)
        };
        let of = |(resource, given): (&String, &Given)| {
            let ids = given.all().into_iter();
            (resource.clone(), ids.map(|id| (id.clone(), healthy(resource, &id))).collect())
        };
        resources.iter().map(of).collect()
    }

    /// Takes back what all other pods have.
    pub fn retain(&self, uids: &HashSet<String>) {
        let mut inner = self.inner.lock();
        let before = inner.given.len();
        inner.given.retain(|uid, _| uids.contains(uid));
        if inner.given.len() != before {
            self.save(&inner);
        }
    }

    /// Takes back what a pod has.
    pub fn release(&self, uid: &str) {
        let mut inner = self.inner.lock();
        if inner.given.remove(uid).is_some() {
            self.save(&inner);
        }
    }

    /// Tells plugins that ask for it that a container is about to start; returns what is to be done to it.
    pub async fn before_start(
        &self,
        uid: &str,
        container: &str,
    ) -> Result<Vec<ContainerAllocateResponse>, String> {
        let mut out = Vec::new();
        for (resource, given) in self.of_container(uid, container) {
            let endpoint = self.inner.lock().endpoints.get(&resource).cloned();
            let Some(endpoint) = endpoint else {
                return Err(format!("endpoint not found in cache for a registered resource: {resource}"));
            };
            if endpoint.options.pre_start_required {
                let devices_ids = given.all().into_iter().collect();
                let call = async {
                    let mut client = endpoint.client.ok_or("the device plugin is not connected")?;
                    let request = PreStartContainerRequest { devices_ids };
                    client.pre_start_container(request).await.map_err(|s| s.message().to_string())
                };
                let done = tokio::time::timeout(PRE_START_TIMEOUT, call).await;
                let done = done.unwrap_or_else(|_| Err("context deadline exceeded".into()));
                done.map_err(|e: String| {
                    format!("device plugin PreStartContainer rpc failed with err: {e}")
                })?;
            }
            out.push(given.response);
        }
        Ok(out)
    }

    fn save(&self, inner: &Inner) {
        let registered = |(name, devices): (&String, &BTreeMap<String, Device>)| {
            let healthy = devices.iter().filter(|(_, d)| d.healthy);
            (name.clone(), healthy.map(|(id, _)| id.clone()).collect())
        };
        let registered = inner.devices.iter().map(registered).collect();
        if let Err(error) = state::write(&self.dir.join(state::FILE), &inner.given, registered) {
            tracing::error!(error, "Failed to write checkpoint file");
        }
    }
}

impl Endpoint {
    /// A plugin that was there once.
    fn gone() -> Self {
        Self {
            client: None,
            options: DevicePluginOptions::default(),
            stopped: Some(Instant::now()),
            listening: CancellationToken::new(),
        }
    }
}

impl Inner {
    /// What anybody has of a resource.
    fn holders(&self, resource: &str) -> impl Iterator<Item = &Given> {
        self.given.values().flat_map(|c| c.values()).filter_map(move |r| r.get(resource))
    }

    fn in_use(&self, resource: &str) -> BTreeSet<String> {
        self.holders(resource).flat_map(Given::all).collect()
    }
}

#[cfg(test)]
mod tests;
