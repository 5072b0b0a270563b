//! The volumes of pods on this node.
//!
//! Each kind of volume is a file of this crate and a [`Volume`]: it can be set up, again and again, and some can be
//! refreshed when what they show has changed. Taking down needs no object at all: it reads from the disk what is
//! there ([`teardown`]), so that it also works after a restart and for pods nobody remembers.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolume, PersistentVolumeClaim, Pod, Secret};

mod atomic;
mod config_map;
mod downward_api;
mod empty_dir;
pub mod field;
mod host_path;
pub mod layout;
mod mount;
mod ownership;
mod persistent;
mod projected;
pub mod quantity;
mod secret;
pub mod subpath;
pub mod teardown;

pub use atomic::{File, Payload};
pub use mount::{mounts_below, unmount};

/// Why a volume could not be set up, in the words of upstream's event.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An object it refers to does not exist; the text is the apiserver's (`configmaps "x" not found`) shortened.
    #[error("{0}")]
    NotFound(String),
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

impl Error {
    /// An error with a text.
    pub fn other(text: impl Into<String>) -> Self {
        Self::Other(text.into())
    }

    pub(crate) fn io(what: &str, path: &Path, error: impl std::fmt::Display) -> Self {
        Self::Other(format!("{what} {}: {error}", path.display()))
    }
}

/// The result of work on a volume.
pub type Result<T> = std::result::Result<T, Error>;

/// A service account token for a pod.
#[derive(Debug, Clone)]
pub struct TokenRequest<'a> {
    /// The audience; empty for the apiserver's own.
    pub audience: &'a str,
    /// The lifetime asked for.
    pub expiration_seconds: i64,
}

/// The API objects that volumes show.
#[async_trait]
pub trait Objects: Send + Sync {
    /// A ConfigMap.
    async fn config_map(&self, namespace: &str, name: &str) -> Result<Arc<ConfigMap>>;
    /// A Secret.
    async fn secret(&self, namespace: &str, name: &str) -> Result<Arc<Secret>>;
    /// A token for the pod's service account, bound to the pod; a cached one while it is fresh.
    async fn token(&self, pod: &Pod, request: TokenRequest<'_>) -> Result<String>;
    /// A claim.
    async fn claim(&self, namespace: &str, name: &str) -> Result<Arc<PersistentVolumeClaim>>;
    /// A persistent volume.
    async fn persistent_volume(&self, name: &str) -> Result<Arc<PersistentVolume>>;
    /// The certificates of cluster trust bundles, by name or by signer and label selector; PEM.
    async fn trust_bundle(&self, source: &TrustBundle) -> Result<String>;
}

/// Which cluster trust bundles a projection shows.
pub type TrustBundle = k8s_openapi::api::core::v1::ClusterTrustBundleProjection;

/// What a pod's volumes need to know beyond its spec.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// The values of the downward API that are not in the pod's metadata.
    pub downward: field::Downward,
    /// The most a memory medium may hold unless the volume says less.
    pub memory_medium_limit: Option<u64>,
}

/// What a volume gets to be set up with.
pub struct Setup<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// The volume's name in the pod.
    pub name: &'a str,
    /// The pod's folder.
    pub pod_dir: &'a Path,
    /// Where its objects come from.
    pub objects: &'a dyn Objects,
    /// More about the pod.
    pub facts: &'a Facts,
}

impl Setup<'_> {
    pub(crate) fn namespace(&self) -> &str {
        self.pod.metadata.namespace.as_deref().unwrap_or("default")
    }

    pub(crate) fn fs_group(&self) -> Option<u32> {
        let context = self.pod.spec.as_ref()?.security_context.as_ref()?;
        context.fs_group.and_then(|g| u32::try_from(g).ok())
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

    /// Whether what it shows can change while it is in use, so that `set_up` should be called again at times.
    fn refreshes(&self) -> bool {
        false
    }
}

/// A volume that is ready for containers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mounted {
    /// Where it lies on the host.
    pub path: PathBuf,
    /// Whether it may only be mounted read-only.
    pub read_only: bool,
    /// Whether it should be set up again at times.
    pub refreshes: bool,
}

/// A volume that failed, for the event `FailedMount`.
#[derive(Debug, thiserror::Error)]
#[error("MountVolume.SetUp failed for volume {volume:?} : {error}")]
pub struct SetUpError {
    /// The volume's name in the pod.
    pub volume: String,
    /// Why.
    pub error: Error,
}

/// Makes the volumes of a pod ready. Returns those that are, and those that failed.
pub async fn set_up_all(
    pod: &Pod,
    pod_dir: &Path,
    objects: &dyn Objects,
    facts: &Facts,
) -> (BTreeMap<String, Mounted>, Vec<SetUpError>) {
    let specs = pod.spec.as_ref().and_then(|s| s.volumes.as_deref()).unwrap_or_default();
    let work = specs.iter().filter(|spec| spec.image.is_none()).map(|spec| async move {
        let setup = Setup { pod, name: &spec.name, pod_dir, objects, facts };
        let ready = set_up_one(spec, &setup).await;
        (spec.name.clone(), ready)
    });
    let mut ready = BTreeMap::new();
    let mut failed = Vec::new();
    for (volume, outcome) in futures::future::join_all(work).await {
        match outcome {
            Ok(mounted) => drop(ready.insert(volume, mounted)),
            Err(error) => failed.push(SetUpError { volume, error }),
        }
    }
    (ready, failed)
}

async fn set_up_one(spec: &k8s_openapi::api::core::v1::Volume, setup: &Setup<'_>) -> Result<Mounted> {
    let (volume, read_only) = room(spec, setup).await?;
    let path = volume.set_up(setup).await?;
    Ok(Mounted { path, read_only, refreshes: volume.refreshes() })
}

/// The volume behind a spec; claims are followed to what they are bound to.
async fn room<'a>(
    spec: &'a k8s_openapi::api::core::v1::Volume,
    setup: &Setup<'_>,
) -> Result<(Box<dyn Volume + 'a>, bool)> {
    if let Some(source) = &spec.empty_dir {
        return Ok((Box::new(empty_dir::EmptyDir::new(source)), false));
    }
    if let Some(source) = &spec.host_path {
        return Ok((Box::new(host_path::HostPath::new(source.clone())), false));
    }
    if let Some(source) = &spec.config_map {
        return Ok((Box::new(config_map::ConfigMapVolume { source }), true));
    }
    if let Some(source) = &spec.secret {
        return Ok((Box::new(secret::SecretVolume { source }), true));
    }
    if let Some(source) = &spec.downward_api {
        return Ok((Box::new(downward_api::DownwardVolume { source }), true));
    }
    if let Some(source) = &spec.projected {
        return Ok((Box::new(projected::ProjectedVolume { source }), true));
    }
    if let Some(source) = &spec.nfs {
        return Ok((Box::new(persistent::Nfs { source: source.clone(), options: Vec::new() }), false));
    }
    if let Some(claim) = &spec.persistent_volume_claim {
        let read_only = claim.read_only.unwrap_or(false);
        return persistent::room(&claim.claim_name, read_only, setup).await;
    }
    if spec.ephemeral.is_some() {
        let claim = format!("{}-{}", setup.pod.metadata.name.as_deref().unwrap_or_default(), spec.name);
        return persistent::room(&claim, false, setup).await;
    }
    Err(Error::other(format!("no volume plugin matched for volume {:?}", spec.name)))
}

#[cfg(test)]
mod tests;
