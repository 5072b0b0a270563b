//! What is known of a volume on the disk: where it lies and its `vol_data.json`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{Error, Result, device, layout};

/// The name of the file.
const FILE: &str = "vol_data.json";

/// What one needs to know to take a volume down; the field names are upstream's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct VolumeData {
    #[serde(rename = "attachmentID", skip_serializing_if = "String::is_empty")]
    pub attachment_id: String,
    pub driver_name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub node_name: String,
    #[serde(rename = "seLinuxMountContext", skip_serializing_if = "String::is_empty")]
    pub selinux_mount_context: String,
    #[serde(rename = "specVolID", skip_serializing_if = "String::is_empty")]
    pub spec_vol_id: String,
    pub volume_handle: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub volume_lifecycle_mode: String,
    #[serde(flatten)]
    pub more: BTreeMap<String, String>,
}

impl VolumeData {
    /// Reads the file in `dir`; `None` if there is none.
    pub fn load(dir: &Path) -> Result<Option<Self>> {
        let path = dir.join(FILE);
        match fs::read(&path) {
            Ok(json) => serde_json::from_slice(&json).map(Some).map_err(|e| Error::io("parse", &path, e)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io("read", &path, error)),
        }
    }

    /// Writes the file into `dir`, all or nothing.
    pub fn save(&self, dir: &Path) -> Result<()> {
        device::make_dir(dir)?;
        let (path, staged) = (dir.join(FILE), dir.join(".vol_data.json.tmp"));
        let json = serde_json::to_vec(self).map_err(|e| Error::other(e.to_string()))?;
        let written = fs::write(&staged, json).and_then(|()| fs::rename(&staged, &path));
        written.map_err(|e| Error::io("write", &path, e))
    }

    /// Removes the file from `dir`.
    pub fn remove(dir: &Path) -> Result<()> {
        match fs::remove_file(dir.join(FILE)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io("remove", dir, error))
            }
            _ => Ok(()),
        }
    }

    /// Whether it is a persistent volume.
    pub fn is_persistent(&self) -> bool {
        self.volume_lifecycle_mode != "Ephemeral"
    }

    /// What attacher, node status and kubelet call the volume.
    pub fn unique_name(&self) -> String {
        unique_name(&self.driver_name, &self.volume_handle)
    }
}

/// What attacher, node status and kubelet call a volume.
pub fn unique_name(driver: &str, handle: &str) -> String {
    format!("kubernetes.io/csi/{driver}^{handle}")
}

/// The name of the attachment of a volume to a node.
pub fn attachment_name(handle: &str, driver: &str, node: &str) -> String {
    format!("csi-{}", hex::encode(Sha256::digest(format!("{handle}{driver}{node}").as_bytes())))
}

/// Everything of CSI that belongs to no single pod.
pub fn plugin_dir(root: &Path) -> PathBuf {
    layout::plugin_dir(root, "kubernetes.io/csi")
}

/// The folder of a volume that is staged as a file system; it holds the file and `globalmount`.
pub fn staged_dir(root: &Path, driver: &str, handle: &str) -> PathBuf {
    plugin_dir(root).join(driver).join(hex::encode(Sha256::digest(handle.as_bytes())))
}

/// Where a volume is staged as a file system.
pub fn global_mount(root: &Path, driver: &str, handle: &str) -> PathBuf {
    staged_dir(root, driver, handle).join("globalmount")
}

/// The folders of a volume that is a device.
pub struct BlockDirs {
    /// Where it is staged.
    pub staging: PathBuf,
    /// Where it is published, a file a pod.
    pub publish: PathBuf,
    /// Where it is bound, a file a pod.
    pub dev: PathBuf,
    /// Where its file lies.
    pub data: PathBuf,
    /// The folder of the last two.
    pub own: PathBuf,
}

/// The folders of a volume that is a device.
pub fn block_dirs(root: &Path, name: &str) -> BlockDirs {
    let base = plugin_dir(root).join("volumeDevices");
    let own = base.join(name);
    BlockDirs {
        staging: base.join("staging").join(name),
        publish: base.join("publish").join(name),
        dev: own.join("dev"),
        data: own.join("data"),
        own,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_upstreams() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(VolumeData::load(dir.path()).unwrap(), None);
        let text = r#"{"attachmentID":"csi-x","driverName":"d","nodeName":"n","specVolID":"pv","volumeHandle":"h","volumeLifecycleMode":"Persistent"}"#;
        fs::write(dir.path().join(FILE), text).unwrap();
        let data = VolumeData::load(dir.path()).unwrap().unwrap();
        assert_eq!((data.unique_name().as_str(), data.is_persistent()), ("kubernetes.io/csi/d^h", true));
        data.save(dir.path()).unwrap();
        assert_eq!(fs::read_to_string(dir.path().join(FILE)).unwrap(), text);
        fs::write(dir.path().join(FILE), "{").unwrap();
        assert!(VolumeData::load(dir.path()).is_err());
    }
}
