//! Drivers of dynamic resources: they prepare a pod's claims before its containers start and take that back after they
//! have ended. What is prepared is kept in `dra_manager_state`, so that a kubelet that was restarted takes back what
//! the one before it prepared.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tonic::transport::Channel;

use crate::connect;
use crate::dra_api::{v1, v1beta1};
use crate::watcher::PluginInfo;

mod health;
mod state;

pub use health::Health;
pub use state::{ClaimState, Device};

/// How long a driver may take.
const TIMEOUT: Duration = Duration::from_secs(45);

/// A claim of a pod, as allocated.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Claim {
    /// Its UID.
    pub uid: String,
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// The drivers of the devices that were allocated for it.
    pub drivers: BTreeSet<String>,
}

/// A driver that is there.
#[derive(Clone)]
enum Driver {
    V1(Channel),
    V1Beta1(Channel),
}

/// A driver, the socket it registered with, and who hears how its devices are.
struct Known {
    driver: Driver,
    socket: PathBuf,
    hearing: Option<tokio::task::AbortHandle>,
}

impl Drop for Known {
    fn drop(&mut self) {
        if let Some(hearing) = &self.hearing {
            hearing.abort();
        }
    }
}

/// The drivers and what they have prepared.
pub struct Drivers {
    file: PathBuf,
    known: Mutex<HashMap<String, Known>>,
    /// How their devices are.
    pub health: Arc<Health>,
    claims: Mutex<BTreeMap<String, ClaimState>>,
    /// One pod at a time: a claim that two pods share is prepared once.
    turn: tokio::sync::Mutex<()>,
}

impl Drivers {
    /// With what `file` says was prepared before.
    pub fn new(file: PathBuf) -> Result<Arc<Self>, String> {
        let claims = state::read(&file)?.into_iter().map(|c| (c.uid.clone(), c)).collect();
        Ok(Arc::new(Self {
            file,
            known: Mutex::default(),
            health: Arc::default(),
            claims: Mutex::new(claims),
            turn: tokio::sync::Mutex::new(()),
        }))
    }

    /// Takes a driver in.
    pub async fn add(&self, plugin: &PluginInfo) -> Result<(), String> {
        if plugin.versions.is_empty() {
            return Err("empty list for supported versions".into());
        }
        let speaks = |name: &str| plugin.versions.iter().any(|v| v == name);
        let old = plugin.versions.iter().any(|v| v.starts_with("1.") || v.starts_with("v1."));
        let make = match () {
            () if speaks("v1.DRAPlugin") => Driver::V1,
            // Drivers of old told a version instead of services.
            () if speaks("v1beta1.DRAPlugin") || old => Driver::V1Beta1,
            () => {
                return Err(format!(
                    "none of the DRA gRPC services supported by the kubelet is implemented by driver {}: {:?}",
                    plugin.name, plugin.versions
                ));
            }
        };
        let channel = connect(&plugin.endpoint).await?;
        let hearing = speaks("v1alpha1.DRAResourceHealth").then(|| {
            let health = self.health.clone().listen(plugin.name.clone(), channel.clone());
            tokio::spawn(health).abort_handle()
        });
        let known = Known { driver: make(channel), socket: plugin.socket.clone(), hearing };
        self.known.lock().insert(plugin.name.clone(), known);
        Ok(())
    }

    /// Forgets a driver, unless another socket of it has come meanwhile. Returns whether it is gone.
    pub fn remove(&self, plugin: &PluginInfo) -> bool {
        let mut known = self.known.lock();
        if known.get(&plugin.name).is_some_and(|k| k.socket == plugin.socket) {
            known.remove(&plugin.name);
            self.health.forget(&plugin.name);
        }
        !known.contains_key(&plugin.name)
    }

    /// Whether a driver is there.
    pub fn has(&self, name: &str) -> bool {
        self.known.lock().contains_key(name)
    }

    /// Prepares the claims of a pod that are not prepared yet.
    pub async fn prepare(&self, pod: &str, claims: &[Claim]) -> Result<(), String> {
        let _turn = self.turn.lock().await;
        let mut batches: BTreeMap<String, Vec<&Claim>> = BTreeMap::new();
        {
            let mut known = self.claims.lock();
            for claim in claims {
                let namesake =
                    known.values().find(|c| c.name == claim.name && c.namespace == claim.namespace);
                if let Some(old) = namesake.filter(|c| c.uid != claim.uid) {
                    return Err(format!(
                        "old ResourceClaim with same name {} and different UID {} still exists (previous pod force-deleted?!)",
                        claim.name, old.uid
                    ));
                }
                let state = known.entry(claim.uid.clone()).or_insert_with(|| ClaimState::new(claim));
                state.pods.insert(pod.to_string());
                if !state.prepared {
                    for driver in &claim.drivers {
                        batches.entry(driver.clone()).or_default().push(claim);
                    }
                }
            }
            self.save(&known)?;
        }
        for (driver, batch) in &batches {
            let prepared = self.ask_prepare(driver, batch).await?;
            let mut known = self.claims.lock();
            for (uid, devices) in prepared {
                if let Some(state) = known.get_mut(&uid) {
                    state.drivers.insert(driver.clone(), devices);
                }
            }
        }
        let mut known = self.claims.lock();
        for claim in claims {
            if let Some(state) = known.get_mut(&claim.uid) {
                state.prepared = true;
            }
        }
        self.save(&known)
    }

    async fn ask_prepare(&self, name: &str, batch: &[&Claim]) -> Result<Vec<(String, Vec<Device>)>, String> {
        let answers = match self.driver(name)? {
            Driver::V1(channel) => {
                let claims = batch.iter().map(|c| v1::Claim::from(*c)).collect();
                let request = v1::NodePrepareResourcesRequest { claims };
                let mut client = v1::dra_plugin_client::DraPluginClient::new(channel);
                let reply = tokio::time::timeout(TIMEOUT, client.node_prepare_resources(request)).await;
                let reply = finished(reply).map_err(|e| format!("NodePrepareResources: {e}"))?;
                let of = |(uid, r): (String, v1::NodePrepareResourceResponse)| {
                    (uid, (r.error, r.devices.into_iter().map(Device::from).collect::<Vec<_>>()))
                };
                reply.claims.into_iter().map(of).collect::<HashMap<_, _>>()
            }
            Driver::V1Beta1(channel) => {
                let claims = batch.iter().map(|c| v1beta1::Claim::from(*c)).collect();
                let request = v1beta1::NodePrepareResourcesRequest { claims };
                let mut client = v1beta1::dra_plugin_client::DraPluginClient::new(channel);
                let reply = tokio::time::timeout(TIMEOUT, client.node_prepare_resources(request)).await;
                let reply = finished(reply).map_err(|e| format!("NodePrepareResources: {e}"))?;
                let of = |(uid, r): (String, v1beta1::NodePrepareResourceResponse)| {
                    (uid, (r.error, r.devices.into_iter().map(Device::from).collect::<Vec<_>>()))
                };
                reply.claims.into_iter().map(of).collect()
            }
        };
        let mut out = Vec::new();
        for (uid, (error, devices)) in answers {
            let Some(claim) = batch.iter().find(|c| c.uid == uid) else {
                return Err(format!("NodePrepareResources returned result for unknown claim UID {uid}"));
            };
            if !error.is_empty() {
                let name = &claim.name;
                return Err(format!("NodePrepareResources failed for ResourceClaim {name}: {error}"));
            }
            out.push((uid, devices));
        }
        match batch.len() - out.len() {
            0 => Ok(out),
            n => Err(format!("NodePrepareResources skipped {n} ResourceClaims")),
        }
    }

    /// Takes back what was prepared for a pod alone, and its part in what others use too.
    pub async fn unprepare(&self, pod: &str) -> Result<(), String> {
        if !self.claims.lock().values().any(|c| c.pods.contains(pod)) {
            return Ok(());
        }
        let _turn = self.turn.lock().await;
        let alone: Vec<ClaimState> = {
            let mut known = self.claims.lock();
            let mut alone = Vec::new();
            for state in known.values_mut().filter(|c| c.pods.contains(pod)) {
                if state.pods.len() > 1 {
                    state.pods.remove(pod);
                } else {
                    alone.push(state.clone());
                }
            }
            alone
        };
        let mut batches: BTreeMap<String, Vec<Claim>> = BTreeMap::new();
        for state in &alone {
            for driver in state.drivers.keys() {
                batches.entry(driver.clone()).or_default().push(state.claim());
            }
        }
        for (driver, batch) in &batches {
            self.ask_unprepare(driver, batch).await?;
        }
        let mut known = self.claims.lock();
        for state in alone {
            known.remove(&state.uid);
        }
        self.save(&known)
    }

    async fn ask_unprepare(&self, name: &str, batch: &[Claim]) -> Result<(), String> {
        let errors: HashMap<String, String> = match self.driver(name)? {
            Driver::V1(channel) => {
                let request =
                    v1::NodeUnprepareResourcesRequest { claims: batch.iter().map(v1::Claim::from).collect() };
                let mut client = v1::dra_plugin_client::DraPluginClient::new(channel);
                let reply = tokio::time::timeout(TIMEOUT, client.node_unprepare_resources(request)).await;
                let reply = finished(reply).map_err(|e| format!("NodeUnprepareResources: {e}"))?;
                reply.claims.into_iter().map(|(uid, r)| (uid, r.error)).collect()
            }
            Driver::V1Beta1(channel) => {
                let claims = batch.iter().map(v1beta1::Claim::from).collect();
                let request = v1beta1::NodeUnprepareResourcesRequest { claims };
                let mut client = v1beta1::dra_plugin_client::DraPluginClient::new(channel);
                let reply = tokio::time::timeout(TIMEOUT, client.node_unprepare_resources(request)).await;
                let reply = finished(reply).map_err(|e| format!("NodeUnprepareResources: {e}"))?;
                reply.claims.into_iter().map(|(uid, r)| (uid, r.error)).collect()
            }
        };
        for claim in batch {
            match errors.get(&claim.uid) {
                None => return Err("NodeUnprepareResources skipped 1 ResourceClaims".into()),
                Some(error) if !error.is_empty() => {
                    let name = &claim.name;
                    return Err(format!("NodeUnprepareResources failed for ResourceClaim {name}: {error}"));
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    fn driver(&self, name: &str) -> Result<Driver, String> {
        let known = self.known.lock();
        known
            .get(name)
            .map(|k| k.driver.clone())
            .ok_or_else(|| format!("DRA driver {name} is not registered"))
    }

    /// The CDI devices of a claim's request; of all its requests if none is named.
    pub fn cdi_devices(&self, namespace: &str, claim: &str, request: &str) -> Result<Vec<String>, String> {
        let claims = self.claims.lock();
        let state = claims.values().find(|c| c.name == claim && c.namespace == namespace);
        let Some(state) = state else {
            return Err(format!(
                "internal error: unable to get claim info for ResourceClaim {claim} in namespace {namespace}"
            ));
        };
        // A device is for a request, or for one of its alternatives: `request/alternative`.
        let meant = |device: &&Device| {
            let names = &device.requests;
            request.is_empty()
                || names.is_empty()
                || names.iter().any(|n| n.split('/').next() == Some(request))
        };
        let devices = state.drivers.values().flatten().filter(meant);
        Ok(devices.flat_map(|d| d.cdi_ids.iter().cloned()).collect())
    }

    /// Everything that is prepared for a claim.
    pub fn state(&self, namespace: &str, claim: &str) -> Option<ClaimState> {
        let claims = self.claims.lock();
        claims.values().find(|c| c.name == claim && c.namespace == namespace).cloned()
    }

    /// The pods for which something is prepared.
    pub fn pods(&self) -> BTreeSet<String> {
        self.claims.lock().values().flat_map(|c| c.pods.iter().cloned()).collect()
    }

    /// How many claims are in use of each driver, and of all together.
    pub fn in_use(&self) -> (BTreeMap<String, usize>, usize) {
        let claims = self.claims.lock();
        let mut counts = BTreeMap::new();
        for driver in claims.values().flat_map(|c| c.drivers.keys()) {
            *counts.entry(driver.clone()).or_default() += 1;
        }
        (counts, claims.len())
    }

    fn save(&self, claims: &BTreeMap<String, ClaimState>) -> Result<(), String> {
        state::write(&self.file, claims.values()).map_err(|e| format!("checkpoint ResourceClaim state: {e}"))
    }
}

type Reply<T> = Result<Result<tonic::Response<T>, tonic::Status>, tokio::time::error::Elapsed>;

fn finished<T>(reply: Reply<T>) -> Result<T, String> {
    match reply {
        Err(_) => Err("context deadline exceeded".into()),
        Ok(Err(status)) => Err(format!("rpc error: code = {:?} desc = {}", status.code(), status.message())),
        Ok(Ok(reply)) => Ok(reply.into_inner()),
    }
}

impl From<&Claim> for v1::Claim {
    fn from(c: &Claim) -> Self {
        Self { namespace: c.namespace.clone(), uid: c.uid.clone(), name: c.name.clone() }
    }
}

impl From<&Claim> for v1beta1::Claim {
    fn from(c: &Claim) -> Self {
        Self { namespace: c.namespace.clone(), uid: c.uid.clone(), name: c.name.clone() }
    }
}

impl From<v1::Device> for Device {
    fn from(d: v1::Device) -> Self {
        Self {
            pool: d.pool_name,
            name: d.device_name,
            share: d.share_id,
            requests: d.request_names,
            cdi_ids: d.cdi_device_ids,
        }
    }
}

impl From<v1beta1::Device> for Device {
    fn from(d: v1beta1::Device) -> Self {
        Self {
            pool: d.pool_name,
            name: d.device_name,
            share: None,
            requests: d.request_names,
            cdi_ids: d.cdi_device_ids,
        }
    }
}

#[cfg(test)]
mod tests;
