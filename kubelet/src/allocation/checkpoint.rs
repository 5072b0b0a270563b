//! The file in which the resources of pods survive a restart: upstream's form, so that either kubelet reads what the
//! other left.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::ResourceRequirements;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

/// The resources of a pod: of its containers by name, and of the pod as a whole.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PodResources {
    #[serde(rename = "ContainerResources", default, deserialize_with = "or_empty")]
    pub containers: BTreeMap<String, ResourceRequirements>,
    #[serde(rename = "PodLevelResources", default)]
    pub pod: Option<ResourceRequirements>,
}

fn or_empty<'de, D>(from: D) -> Result<BTreeMap<String, ResourceRequirements>, D::Error>
where
    D: serde::Deserializer<'de>,
{
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

#[derive(Default, Serialize, Deserialize)]
struct Entries {
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    entries: BTreeMap<String, PodResources>,
}

#[derive(Serialize, Deserialize)]
struct File {
    data: String,
    checksum: u64,
}

/// Resources by pod UID, kept in a file.
pub struct Checkpoint {
    path: PathBuf,
    entries: Mutex<BTreeMap<String, PodResources>>,
}

impl Checkpoint {
    /// What the file says; nothing if there is none. One that cannot be read is reported and begun anew: its pods
    /// are then taken as their specs have them.
    pub fn open(path: PathBuf) -> Self {
        let entries = match read(&path) {
            Ok(entries) => entries,
            Err(error) => {
                tracing::error!(path = %path.display(), error, "Could not restore state from checkpoint; beginning anew");
                BTreeMap::new()
            }
        };
        Self { path, entries: Mutex::new(entries) }
    }

    /// The resources of a pod.
    pub fn get(&self, uid: &str) -> Option<PodResources> {
        self.entries.lock().get(uid).cloned()
    }

    /// Changes the resources of a pod; the file is written if that made a difference.
    pub fn change(&self, uid: &str, change: impl FnOnce(&mut PodResources)) {
        let mut entries = self.entries.lock();
        let before = entries.get(uid).cloned();
        let mut now = before.clone().unwrap_or_default();
        change(&mut now);
        if before.as_ref() != Some(&now) {
            entries.insert(uid.to_string(), now);
            self.write(&entries);
        }
    }

    /// Forgets a pod.
    pub fn remove(&self, uid: &str) {
        let mut entries = self.entries.lock();
        if entries.remove(uid).is_some() {
            self.write(&entries);
        }
    }

    /// Forgets all pods but these.
    pub fn retain(&self, uids: &HashSet<String>) {
        let mut entries = self.entries.lock();
        let before = entries.len();
        entries.retain(|uid, _| uids.contains(uid));
        if entries.len() != before {
            self.write(&entries);
        }
    }

    fn write(&self, entries: &BTreeMap<String, PodResources>) {
        if let Err(error) = write(&self.path, entries) {
            tracing::error!(path = %self.path.display(), %error, "Failed to write the checkpoint");
        }
    }
}

fn read(path: &Path) -> Result<BTreeMap<String, PodResources>, String> {
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(error.to_string()),
    };
    let file: File = serde_json::from_slice(&text).map_err(|e| e.to_string())?;
    if checksum(&file.data) != file.checksum {
        return Err("checkpoint is corrupted".into());
    }
    let entries: Entries = serde_json::from_str(&file.data).map_err(|e| e.to_string())?;
    Ok(entries.entries)
}

fn write(path: &Path, entries: &BTreeMap<String, PodResources>) -> std::io::Result<()> {
    let data = serde_json::to_string(&Entries { entries: entries.clone() })?;
    let checksum = checksum(&data);
    let text = serde_json::to_vec(&File { data, checksum })?;
    // A reader, or a kubelet that is killed here, sees the old file or the new one.
    let fresh = path.with_extension("new");
    std::fs::write(&fresh, text)?;
    std::fs::rename(fresh, path)
}

/// Upstream's checksum: of the debug form of a Go string.
fn checksum(data: &str) -> u64 {
    let hash = |hash: u32, byte: &u8| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
    u64::from(b"(string)".iter().chain(data.as_bytes()).fold(0x811c_9dc5, hash))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survives_and_notices_damage() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        let resources: ResourceRequirements =
            serde_json::from_value(serde_json::json!({"requests": {"cpu": "10m"}})).unwrap();
        let checkpoint = Checkpoint::open(path.clone());
        checkpoint.change("u", |pod| drop(pod.containers.insert("c".into(), resources.clone())));
        checkpoint.change("v", |_| {});
        checkpoint.retain(&HashSet::from(["u".to_string()]));
        let again = Checkpoint::open(path.clone());
        assert_eq!(again.get("u").unwrap().containers["c"], resources);
        assert_eq!(again.get("v"), None);
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replace("10m", "20m")).unwrap();
        assert_eq!(Checkpoint::open(path).get("u"), None);
    }
}
