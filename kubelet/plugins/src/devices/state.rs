//! `kubelet_internal_checkpoint`: which devices were given to whom, in upstream's form.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kubelet_resources::checkpoint::{self, Dump, Fields};
use prost::Message;
use serde::{Deserialize, Serialize};

use super::{Allocations, Given};
use crate::device_api::ContainerAllocateResponse;

/// The file's name.
pub const FILE: &str = "kubelet_internal_checkpoint";

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Form {
    data: Data,
    checksum: u64,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Data {
    // An empty list is null, as in Go.
    pod_device_entries: Option<Vec<Entry>>,
    registered_devices: BTreeMap<String, Vec<String>>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Entry {
    #[serde(rename = "PodUID")]
    uid: String,
    #[serde(rename = "ContainerName")]
    container: String,
    #[serde(rename = "ResourceName")]
    resource: String,
    #[serde(rename = "DeviceIDs")]
    ids: BTreeMap<i64, Vec<String>>,
    #[serde(rename = "AllocResp")]
    response: String,
}

impl Data {
    fn sum(&self) -> u64 {
        Dump::of_value("checkpoint.checkpointData", |fields| {
            fields.field("PodDeviceEntries", "[]checkpoint.PodDevicesEntry", |d| {
                match &self.pod_device_entries {
                    None => d.plain("<nil>"),
                    Some(entries) => d.list(entries, |d, entry| d.fields(|f| entry.dump(f))),
                }
            });
            fields.field("RegisteredDevices", "map[string][]string", |d| {
                d.map(&self.registered_devices, |d, ids| d.list(ids, |d, id| d.plain(id)));
            });
        })
        .checksum()
    }
}

impl Entry {
    fn dump(&self, fields: &mut Fields<'_>) {
        fields.field("PodUID", "string", |d| d.plain(&self.uid));
        fields.field("ContainerName", "string", |d| d.plain(&self.container));
        fields.field("ResourceName", "string", |d| d.plain(&self.resource));
        fields.field("DeviceIDs", "checkpoint.DevicesPerNUMA", |d| {
            d.map(&self.ids, |d, ids| d.list(ids, |d, id| d.plain(id)));
        });
        let bytes = STANDARD.decode(&self.response).unwrap_or_default();
        fields.field("AllocResp", "[]uint8", |d| d.list(bytes, |d, byte| d.plain(byte)));
    }
}

/// What the file says.
#[derive(Debug, Default, PartialEq)]
pub struct Kept {
    pub given: Allocations,
    pub registered: BTreeSet<String>,
}

/// Reads the file; also whether there was none.
pub fn read(file: &Path) -> Result<(Kept, bool), String> {
    let text = match std::fs::read(file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok((Kept::default(), true)),
        Err(error) => return Err(format!("cannot read {}: {error}", file.display())),
    };
    let form: Form = serde_json::from_slice(&text).map_err(|e| format!("{}: {e}", file.display()))?;
    if form.data.sum() != form.checksum {
        return Err(format!("checkpoint is corrupted: {}", file.display()));
    }
    let mut kept =
        Kept { registered: form.data.registered_devices.into_keys().collect(), ..Default::default() };
    for entry in form.data.pod_device_entries.into_iter().flatten() {
        let bytes = STANDARD.decode(&entry.response).unwrap_or_default();
        let response = ContainerAllocateResponse::decode(bytes.as_slice()).unwrap_or_default();
        let given = Given { ids: entry.ids, response };
        let containers = kept.given.entry(entry.uid).or_default();
        containers.entry(entry.container).or_default().insert(entry.resource, given);
    }
    Ok((kept, false))
}

/// Writes the file.
pub fn write(
    file: &Path,
    given: &Allocations,
    registered: BTreeMap<String, Vec<String>>,
) -> Result<(), String> {
    let mut entries = Vec::new();
    for (uid, containers) in given {
        for (container, resources) in containers {
            for (resource, given) in resources {
                entries.push(Entry {
                    uid: uid.clone(),
                    container: container.clone(),
                    resource: resource.clone(),
                    ids: given.ids.clone(),
                    response: STANDARD.encode(given.response.encode_to_vec()),
                });
            }
        }
    }
    let pod_device_entries = (!entries.is_empty()).then_some(entries);
    let data = Data { pod_device_entries, registered_devices: registered };
    let form = Form { checksum: data.sum(), data };
    let text = serde_json::to_vec(&form).map_err(|e| e.to_string())?;
    checkpoint::write(file, &text).map_err(|e| e.to_string())
}
