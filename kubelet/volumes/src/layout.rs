//! Where volumes lie below a pod's folder and the kubelet's; the names are upstream's, so that either kubelet finds
//! the other's.

use std::path::{Path, PathBuf};

/// Folder names of the volume kinds.
pub const EMPTY_DIR: &str = "kubernetes.io~empty-dir";
pub const CONFIG_MAP: &str = "kubernetes.io~configmap";
pub const SECRET: &str = "kubernetes.io~secret";
pub const DOWNWARD_API: &str = "kubernetes.io~downward-api";
pub const PROJECTED: &str = "kubernetes.io~projected";
pub const LOCAL: &str = "kubernetes.io~local-volume";
pub const NFS: &str = "kubernetes.io~nfs";
pub const ISCSI: &str = "kubernetes.io~iscsi";
pub const CSI: &str = "kubernetes.io~csi";

/// The kinds whose content belongs to the pod and goes with it. Of all others only the mount is taken away.
pub const OWNED: [&str; 5] = [EMPTY_DIR, CONFIG_MAP, SECRET, DOWNWARD_API, PROJECTED];

/// The name of the plugin that a mounted volume is of, by the folder that it lies in.
pub fn plugin_of(path: &Path) -> Option<String> {
    let mut parts = path.iter().skip_while(|part| *part != "volumes");
    parts.next()?;
    let name = parts.next()?.to_str()?;
    name.contains('~').then(|| name.replace('~', "/"))
}

/// The folder of a pod.
pub fn pod_dir(root: &Path, uid: &str) -> PathBuf {
    root.join("pods").join(uid)
}

/// The folder of all volumes of a pod.
pub fn volumes_dir(pod_dir: &Path) -> PathBuf {
    pod_dir.join("volumes")
}

/// The folder of one volume.
pub fn volume_dir(pod_dir: &Path, plugin: &str, name: &str) -> PathBuf {
    volumes_dir(pod_dir).join(plugin).join(name)
}

/// The folder of the links to a pod's block devices.
pub fn devices_dir(pod_dir: &Path) -> PathBuf {
    pod_dir.join("volumeDevices")
}

/// The marker that a volume was made ready once.
pub fn ready_marker(pod_dir: &Path, plugin: &str, name: &str) -> PathBuf {
    pod_dir.join("plugins").join(plugin).join(name).join("ready")
}

/// The folder of the bind mounts of subpaths.
pub fn subpaths_dir(pod_dir: &Path) -> PathBuf {
    pod_dir.join("volume-subpaths")
}

/// The folder in which a kind of volume keeps what belongs to no single pod, e.g. for `kubernetes.io/csi`.
pub fn plugin_dir(root: &Path, plugin: &str) -> PathBuf {
    root.join("plugins").join(plugin)
}
