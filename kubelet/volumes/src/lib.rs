//! The volumes of pods on this node.
//!
//! [`Manager`] brings the volumes of a pod up and keeps them fresh, and takes them down. Each kind of volume is a file
//! of this crate and a [`Volume`]. Taking down needs no object at all: it reads from the disk what is there
//! ([`teardown`], [`csi`]), so that it also works after a restart and for pods nobody remembers.
//!
//! - files of the API: [`config_map`](mod@config_map), `secret`, `downward_api`, `projected`, written by [`atomic`](mod@atomic)
//! - folders of the node: `empty_dir`, `host_path`, `local`
//! - through mount tools: `nfs`, `iscsi`, `device` (format, mount, map block devices)
//! - through drivers: [`csi`]
//! - what containers see of them: [`subpath`]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{
    ConfigMap, PersistentVolume, PersistentVolumeClaim, Pod, Secret, ServiceAccount,
};
use k8s_openapi::api::storage::v1::CSIDriver;

mod atomic;
mod config_map;
pub mod csi;
mod device;
mod downward_api;
mod empty_dir;
pub mod field;
mod host_path;
mod iscsi;
pub mod layout;
mod local;
pub mod manager;
mod mount;
mod nfs;
mod ownership;
mod projected;
pub mod quantity;
mod secret;
pub mod source;
pub mod subpath;
pub mod teardown;

pub use atomic::{File, Payload};
pub use manager::{Manager, NotReady, PATIENCE, PodVolumes};
pub use mount::{memory_stays, mounts_below, unmount};

/// Why a volume could not be set up, in the words of upstream's event.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An object it refers to does not exist; the text is the apiserver's (`configmaps "x" not found`) shortened.
    #[error("{0}")]
    NotFound(String),
    /// It is not known yet what the volume is: its claim cannot be followed to a persistent volume.
    #[error("{0}")]
    Unprocessed(String),
    /// The node's status does not call it attached yet.
    #[error("{0}")]
    Unattached(String),
    /// A disk holds another file system than it is to be mounted with, and that failed.
    #[error("{0}")]
    Mismatch(String),
    /// A step before the last failed; first its name, e.g. `MountVolume.MountDevice`.
    #[error("{1}")]
    Step(&'static str, String),
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

impl Error {
    /// An error with a text.
    pub fn other(text: impl Into<String>) -> Self {
        Self::Other(text.into())
    }

    /// What the system refused to do with a path, as Unix tools put it: `open /x: no such file or directory`.
    pub(crate) fn io(what: &str, path: &Path, error: impl std::fmt::Display) -> Self {
        let text = error.to_string();
        // Rust adds the number, and nix the name, of the error.
        let text = text.split(" (os error").next().unwrap_or_default();
        let text = text.split_once(": ").filter(|(name, _)| is_errno(name)).map_or(text, |(_, text)| text);
        let mut rest = text.chars();
        let first = rest.next().map(|c| c.to_ascii_lowercase()).into_iter().collect::<String>();
        Self::Other(format!("{what} {}: {first}{}", path.display(), rest.as_str()))
    }

    pub(crate) fn at(self, step: &'static str) -> Self {
        match self {
            Self::Step(..) | Self::Unprocessed(_) | Self::Unattached(_) => self,
            Self::NotFound(text) | Self::Mismatch(text) | Self::Other(text) => Self::Step(step, text),
        }
    }
}

fn is_errno(name: &str) -> bool {
    name.starts_with('E') && name.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit())
}

/// The result of work on a volume.
pub type Result<T> = std::result::Result<T, Error>;

/// A service account token that a pod needs.
#[derive(Debug, Clone)]
pub struct TokenRequest<'a> {
    /// The audience; empty for the apiserver's own.
    pub audience: &'a str,
    /// The lifetime asked for.
    pub expiration_seconds: i64,
}

/// A service account token of a pod.
#[derive(Debug, Clone)]
pub struct Token {
    /// The token itself.
    pub token: String,
    /// When it ends.
    pub expires: jiff::Timestamp,
}

/// Private key and certificates of a pod, as `podCertificate` shows them.
#[derive(Debug, Clone, Default)]
pub struct Credentials {
    /// The private key, PEM.
    pub key: String,
    /// The certificate chain, PEM.
    pub chain: String,
}

/// The API objects that volumes show or are made from.
#[async_trait]
pub trait Objects: Send + Sync {
    /// A ConfigMap.
    async fn config_map(&self, namespace: &str, name: &str) -> Result<Arc<ConfigMap>>;
    /// A Secret.
    async fn secret(&self, namespace: &str, name: &str) -> Result<Arc<Secret>>;
    /// A token for the pod's service account, bound to the pod; a cached one while it is fresh.
    async fn token(&self, pod: &Pod, request: TokenRequest<'_>) -> Result<Token>;
    /// A claim.
    async fn claim(&self, namespace: &str, name: &str) -> Result<Arc<PersistentVolumeClaim>>;
    /// A service account.
    async fn service_account(&self, namespace: &str, name: &str) -> Result<Arc<ServiceAccount>>;
    /// A persistent volume.
    async fn persistent_volume(&self, name: &str) -> Result<Arc<PersistentVolume>>;
    /// The certificates of cluster trust bundles, by name or by signer and label selector; PEM.
    async fn trust_bundle(&self, source: &TrustBundle) -> Result<String>;
    /// A key and its certificate for the pod; kept while they are fresh.
    async fn pod_certificate(&self, pod: &Pod, source: &PodCertificate) -> Result<Credentials>;
    /// What the cluster knows of a driver, if anything.
    async fn csi_driver(&self, name: &str) -> Result<Option<Arc<CSIDriver>>>;
    /// What the attacher left for the node in the attachment of this name.
    async fn attachment_metadata(&self, attachment: &str) -> Result<BTreeMap<String, String>>;
    /// Whether the attacher failed at the attachment of this name because the node has no room for more volumes.
    async fn node_is_full(&self, attachment: &str) -> Result<bool>;
    /// Returns when the node's status calls a volume in use and attached.
    async fn attached(&self, unique_name: &str) -> Result<()>;
    /// Merges into the status of a claim and returns the claim.
    async fn patch_claim_status(
        &self,
        claim: &PersistentVolumeClaim,
        status: serde_json::Value,
    ) -> Result<PersistentVolumeClaim>;
    /// Returns when one of the watched objects has changed.
    async fn changed(&self);
}

/// Which cluster trust bundles a projection shows.
pub type TrustBundle = k8s_openapi::api::core::v1::ClusterTrustBundleProjection;

/// What certificate a projection asks for.
pub type PodCertificate = k8s_openapi::api::core::v1::PodCertificateProjection;

/// Tells people what happened to their volumes.
pub trait Recorder: Send + Sync {
    /// An event about a pod.
    fn pod(&self, pod: &Pod, kind: &str, reason: &str, message: &str);
    /// An event about a claim.
    fn claim(&self, claim: &PersistentVolumeClaim, kind: &str, reason: &str, message: &str);
    /// An event about a persistent volume.
    fn volume(&self, volume: &PersistentVolume, kind: &str, reason: &str, message: &str);
    /// An event about this node.
    fn node(&self, kind: &str, reason: &str, message: &str);
    /// Work on a volume has ended, well or not.
    fn operation(&self, name: &str, plugin: &str, fine: bool, took: std::time::Duration) {
        let _ = (name, plugin, fine, took);
    }
    /// What was left of a volume was taken in, or could not be read.
    fn reconstructed(&self, fine: bool) {
        let _ = fine;
    }
}

/// What a pod's volumes need to know beyond its spec.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// The values of the downward API that are not in the pod's metadata.
    pub downward: field::Downward,
    /// The most a memory medium may hold unless the volume says less.
    pub memory_medium_limit: Option<u64>,
}

/// What a volume gets to be set up with.
#[derive(Clone, Copy)]
pub struct Setup<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// What the volume's folder is called: its persistent volume's name if it has one, else its name in the pod.
    pub name: &'a str,
    /// The pod's folder.
    pub pod_dir: &'a Path,
    /// More about the pod.
    pub facts: &'a Facts,
    /// The node's volumes.
    pub manager: &'a Arc<Manager>,
}

impl Setup<'_> {
    pub(crate) fn objects(&self) -> &dyn Objects {
        self.manager.objects.as_ref()
    }

    pub(crate) fn mapped(&self, message: &str) {
        self.manager.recorder.pod(self.pod, "Normal", "SuccessfulMountVolume", message);
    }

    /// Tells people of a disk with another file system than the persistent volume says.
    pub(crate) async fn tell_mismatch(&self, error: Error) -> Error {
        if let Error::Mismatch(text) = &error
            && let Ok(volume) = self.objects().persistent_volume(self.name).await
        {
            let message = format!("MountVolume failed for volume {:?} {text}", self.name);
            self.manager.recorder.volume(&volume, "Warning", "FailedMountOnFilesystemMismatch", &message);
        }
        error
    }

    pub(crate) fn namespace(&self) -> &str {
        self.pod.metadata.namespace.as_deref().unwrap_or("default")
    }

    pub(crate) fn uid(&self) -> &str {
        self.pod.metadata.uid.as_deref().unwrap_or_default()
    }

    pub(crate) fn fs_group(&self) -> Option<u32> {
        ownership::group_of(self.pod)
    }

    pub(crate) fn dir(&self, plugin: &str) -> PathBuf {
        layout::volume_dir(self.pod_dir, plugin, self.name)
    }
}

/// One volume of a pod.
#[async_trait]
pub trait Volume: Send + Sync {
    /// Makes the volume ready and returns where it lies. May be called again for a volume that is ready.
    async fn set_up(&self, setup: &Setup<'_>) -> Result<PathBuf>;

    /// Whether what it shows can change while it is in use, so that [`Volume::refresh`] should be called at times.
    fn refreshes(&self) -> bool {
        false
    }

    /// Makes a volume that is ready show what it should show now.
    async fn refresh(&self, setup: &Setup<'_>) -> Result<()> {
        self.set_up(setup).await.map(drop)
    }
}

/// A volume that is ready for containers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mounted {
    /// Where it lies on the host.
    pub path: PathBuf,
    /// Whether it may only be mounted read-only.
    pub read_only: bool,
    /// Whether it should be refreshed at times.
    pub refreshes: bool,
    /// Whether it is a device, for `volumeDevices`.
    pub block: bool,
    /// The claim behind it.
    pub claim: Option<String>,
}

#[cfg(test)]
mod tests;
