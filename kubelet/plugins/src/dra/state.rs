//! `dra_manager_state`: which claims are prepared for whom, in upstream's form: the state as text, with its CRC.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use kubelet_resources::checkpoint;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::Claim;

/// A device that a driver has prepared.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Its pool.
    #[serde(rename = "PoolName")]
    pub pool: String,
    /// Its name in the pool.
    #[serde(rename = "DeviceName")]
    pub name: String,
    /// Which share of it.
    #[serde(rename = "ShareID", default)]
    pub share: Option<String>,
    /// The requests that it is for; all if none are named.
    #[serde(rename = "RequestNames", default, deserialize_with = "list")]
    pub requests: Vec<String>,
    /// What the runtime is told.
    #[serde(rename = "CDIDeviceIDs", default, deserialize_with = "list")]
    pub cdi_ids: Vec<String>,
}

/// Go writes an empty list as null.
fn list<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::<Vec<String>>::deserialize(deserializer)?.unwrap_or_default())
}

/// A claim that is prepared or about to be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClaimState {
    /// Its UID.
    pub uid: String,
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// UIDs of the pods that use it.
    pub pods: BTreeSet<String>,
    /// Devices by driver.
    pub drivers: BTreeMap<String, Vec<Device>>,
    /// All drivers have done their part. Not kept: after a restart drivers are asked again, which they bear.
    pub prepared: bool,
}

impl ClaimState {
    pub(super) fn new(claim: &Claim) -> Self {
        Self {
            uid: claim.uid.clone(),
            name: claim.name.clone(),
            namespace: claim.namespace.clone(),
            drivers: claim.drivers.iter().map(|d| (d.clone(), Vec::new())).collect(),
            ..Self::default()
        }
    }

    pub(super) fn claim(&self) -> Claim {
        Claim {
            uid: self.uid.clone(),
            name: self.name.clone(),
            namespace: self.namespace.clone(),
            drivers: self.drivers.keys().cloned().collect(),
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Form {
    data: String,
    checksum: u32,
}

fn crc(text: &str) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(text.as_bytes());
    crc.sum()
}

/// Reads the file; nothing if there is none.
pub fn read(file: &Path) -> Result<Vec<ClaimState>, String> {
    let text = match std::fs::read(file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(format!("cannot read {}: {error}", file.display())),
    };
    let shown = file.display();
    let form: Form = serde_json::from_slice(&text).map_err(|e| format!("{shown}: {e}"))?;
    if crc(&form.data) != form.checksum {
        return Err(format!("checkpoint is corrupted: {shown}"));
    }
    let data: Value = serde_json::from_str(&form.data).map_err(|e| format!("{shown}: {e}"))?;
    let entries = data["ClaimInfoStateList"].as_array().cloned().unwrap_or_default();
    let of = |entry: &Value| {
        let text = |key: &str| entry[key].as_str().unwrap_or_default().to_string();
        let pods = entry["PodUIDs"].as_object().map(|m| m.keys().cloned().collect());
        let mut drivers = BTreeMap::new();
        for (name, driver) in entry["DriverState"].as_object().into_iter().flatten() {
            let devices: Option<Vec<Device>> =
                serde_json::from_value(driver["Devices"].clone()).map_err(|e| format!("{shown}: {e}"))?;
            drivers.insert(name.clone(), devices.unwrap_or_default());
        }
        Ok(ClaimState {
            uid: text("ClaimUID"),
            name: text("ClaimName"),
            namespace: text("Namespace"),
            pods: pods.unwrap_or_default(),
            drivers,
            prepared: false,
        })
    };
    entries.iter().map(of).collect()
}

/// Writes the file.
pub fn write<'a>(file: &Path, claims: impl Iterator<Item = &'a ClaimState>) -> Result<(), String> {
    let of = |c: &ClaimState| {
        let pods: Map<String, Value> = c.pods.iter().map(|p| (p.clone(), json!({}))).collect();
        let drivers: Map<String, Value> =
            c.drivers.iter().map(|(name, devices)| (name.clone(), json!({"Devices": devices}))).collect();
        json!({"ClaimUID": c.uid, "ClaimName": c.name, "Namespace": c.namespace, "PodUIDs": pods, "DriverState": drivers})
    };
    let list: Vec<Value> = claims.map(of).collect();
    let data = json!({"kind": "DRACheckpoint", "apiVersion": "checkpoint.dra.kubelet.k8s.io/v1",
        "ClaimInfoStateList": list})
    .to_string();
    let form = Form { checksum: crc(&data), data };
    let text = serde_json::to_vec(&form).map_err(|e| e.to_string())?;
    checkpoint::write(file, &text).map_err(|e| e.to_string())
}
