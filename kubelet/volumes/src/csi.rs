//! Volumes of CSI drivers: attached by the cluster, staged once a node, published once a pod, grown when asked for.
//!
//! A driver's work is never broken off half-way: once begun, a step goes on in a task of its own while it holds the
//! volume's lock, and whoever takes the volume down waits for that lock. What is on the disk (`vol_data.json`, under
//! upstream's names) is all that taking down needs.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use ::csi::v1::VolumeCapability;
use ::csi::v1::node_service_capability::rpc::Type as Rpc;
use ::csi::v1::volume_capability::{AccessMode, AccessType, BlockVolume, MountVolume, access_mode::Mode};
use async_trait::async_trait;
use k8s_openapi::api::core::v1::{CSIPersistentVolumeSource, CSIVolumeSource, Pod};
use k8s_openapi::api::storage::v1::{CSIDriver, CSIDriverSpec};
use parking_lot::RwLock;
use sha2::{Digest, Sha256};

use crate::source::Bound;
use crate::{Error, Manager, Objects, Result, Setup, TokenRequest, Volume};

mod block;
mod data;

pub(crate) use data::attachment_name;
mod expand;
mod filesystem;
mod selinux;
mod stats;
mod teardown;

pub use stats::{Usage, usage};
pub use teardown::{reconstruct, sweep, tear_down_pod};

/// The drivers that have registered on this node.
#[derive(Default)]
pub struct Drivers {
    known: RwLock<BTreeMap<String, ::csi::Driver>>,
}

impl Drivers {
    /// A driver has registered, or has come back at another socket.
    pub fn insert(&self, name: &str, driver: ::csi::Driver) {
        self.known.write().insert(name.to_string(), driver);
    }

    /// A driver is gone.
    pub fn remove(&self, name: &str) {
        self.known.write().remove(name);
    }

    /// The driver of this name; the error is upstream's.
    pub fn get(&self, name: &str) -> std::result::Result<::csi::Driver, String> {
        let known = self.known.read().get(name).cloned();
        known.ok_or_else(|| format!("driver name {name} not found in the list of registered CSI drivers"))
    }

    /// All names.
    pub fn names(&self) -> Vec<String> {
        self.known.read().keys().cloned().collect()
    }
}

/// Where a volume comes from.
#[derive(Clone)]
enum Origin {
    /// A persistent volume, bound to a claim.
    Persistent(Box<CSIPersistentVolumeSource>, Bound),
    /// The pod itself; the volume lives as long as the pod.
    Inline(Box<CSIVolumeSource>),
}

/// A volume of a driver.
#[derive(Clone)]
pub struct Csi {
    driver: String,
    handle: String,
    origin: Origin,
    /// What the cluster knows of the driver.
    object: Option<Arc<CSIDriver>>,
    block: bool,
    read_only: bool,
}

/// The work on a volume for a pod; it owns all it needs, so that it can outlive who waits for it.
struct Job {
    csi: Csi,
    pod: Pod,
    name: String,
    pod_dir: PathBuf,
    manager: Arc<Manager>,
}

impl Csi {
    /// A persistent volume.
    pub async fn persistent(
        source: CSIPersistentVolumeSource,
        bound: Bound,
        block: bool,
        read_only: bool,
        objects: &dyn Objects,
    ) -> Result<Self> {
        let object = objects.csi_driver(&source.driver).await?;
        let (driver, handle) = (source.driver.clone(), source.volume_handle.clone());
        let origin = Origin::Persistent(Box::new(source), bound);
        Ok(Self { driver, handle, origin, object, block, read_only })
    }

    /// A volume in a pod's spec.
    pub async fn inline(
        source: &CSIVolumeSource,
        name: &str,
        pod: &Pod,
        objects: &dyn Objects,
    ) -> Result<Self> {
        let object = objects.csi_driver(&source.driver).await?;
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let handle = format!("csi-{}", hex::encode(Sha256::digest(format!("{uid}{name}").as_bytes())));
        Ok(Self {
            driver: source.driver.clone(),
            handle,
            read_only: source.read_only.unwrap_or(false),
            origin: Origin::Inline(Box::new(source.clone())),
            object,
            block: false,
        })
    }

    fn spec(&self) -> Option<&CSIDriverSpec> {
        self.object.as_ref().map(|o| &o.spec)
    }

    fn is_inline(&self) -> bool {
        matches!(self.origin, Origin::Inline(_))
    }

    fn attach_required(&self) -> bool {
        !self.is_inline() && self.spec().and_then(|s| s.attach_required) != Some(false)
    }

    /// What attacher, node status and this kubelet call the volume.
    fn unique_name(&self) -> String {
        data::unique_name(&self.driver, &self.handle)
    }

    fn lifecycle(&self) -> &'static str {
        if self.is_inline() { "Ephemeral" } else { "Persistent" }
    }

    /// Whether the driver does what is asked of it.
    fn check_lifecycle(&self) -> Result<()> {
        let (mode, driver) = (self.lifecycle(), &self.driver);
        let text = match self.spec() {
            None if !self.is_inline() => return Ok(()),
            None => format!("volume mode {mode:?} not supported by driver {driver} (no CSIDriver object)"),
            Some(spec) => {
                let default = vec!["Persistent".to_string()];
                let modes =
                    spec.volume_lifecycle_modes.as_ref().filter(|m| !m.is_empty()).unwrap_or(&default);
                if modes.iter().any(|m| m == mode) {
                    return Ok(());
                }
                let modes: Vec<String> = modes.iter().map(|m| format!("{m:?}")).collect();
                format!(
                    "volume mode {mode:?} not supported by driver {driver} (only supports [{}])",
                    modes.join(" ")
                )
            }
        };
        let text =
            format!("kubernetes.io/csi: mounter.SetupAt failed to check volume lifecycle mode: {text}");
        Err(Error::other(text))
    }

    fn access_modes(&self) -> Vec<String> {
        match &self.origin {
            Origin::Persistent(_, bound) => {
                let modes = bound.volume.spec.as_ref().and_then(|s| s.access_modes.clone());
                modes.unwrap_or_default()
            }
            Origin::Inline(_) => vec!["ReadWriteOnce".into()],
        }
    }

    fn mount_options(&self) -> Vec<String> {
        match &self.origin {
            Origin::Persistent(_, bound) => {
                bound.volume.spec.as_ref().and_then(|s| s.mount_options.clone()).unwrap_or_default()
            }
            Origin::Inline(_) => Vec::new(),
        }
    }

    fn fs_type(&self) -> String {
        let own = match &self.origin {
            Origin::Persistent(source, _) => source.fs_type.clone(),
            Origin::Inline(source) => source.fs_type.clone(),
        };
        own.unwrap_or_default()
    }

    fn attributes(&self) -> BTreeMap<String, String> {
        let own = match &self.origin {
            Origin::Persistent(source, _) => source.volume_attributes.clone(),
            Origin::Inline(source) => source.volume_attributes.clone(),
        };
        own.unwrap_or_default()
    }
}

#[async_trait]
impl Volume for Csi {
    async fn set_up(&self, setup: &Setup<'_>) -> Result<PathBuf> {
        if !self.is_inline() {
            let attach = self.attach_required();
            setup.manager.device(&self.unique_name(), |device| {
                device.pods.insert(setup.uid().to_string());
                device.attachable = Some(attach);
            });
            if attach {
                setup.objects().attached(&self.unique_name()).await?;
            }
        }
        let job = self.job(setup);
        let work = async move {
            let _one = job.manager.lock(&job.csi.unique_name()).await;
            if job.csi.block { job.map_block().await } else { job.mount().await }
        };
        tokio::spawn(work).await.map_err(|e| Error::other(e.to_string()))?
    }

    fn refreshes(&self) -> bool {
        !self.is_inline() || self.spec().and_then(|s| s.requires_republish) == Some(true)
    }

    async fn refresh(&self, setup: &Setup<'_>) -> Result<()> {
        let republish = self.spec().and_then(|s| s.requires_republish) == Some(true) && !self.block;
        let job = self.job(setup);
        let work = async move {
            let _one = job.manager.lock(&job.csi.unique_name()).await;
            if republish {
                job.publish(true).await?;
            }
            job.grow().await
        };
        tokio::spawn(work).await.map_err(|e| Error::other(e.to_string()))?
    }
}

impl Csi {
    fn job(&self, setup: &Setup<'_>) -> Job {
        Job {
            csi: self.clone(),
            pod: setup.pod.clone(),
            name: setup.name.to_string(),
            pod_dir: setup.pod_dir.to_path_buf(),
            manager: setup.manager.clone(),
        }
    }
}

impl Job {
    fn uid(&self) -> &str {
        self.pod.metadata.uid.as_deref().unwrap_or_default()
    }

    fn driver(&self) -> std::result::Result<::csi::Driver, String> {
        self.manager.drivers.get(&self.csi.driver)
    }

    /// What the attacher said about the volume on this node.
    async fn publish_context(&self) -> Result<BTreeMap<String, String>> {
        if !self.csi.attach_required() {
            return Ok(BTreeMap::new());
        }
        let name = data::attachment_name(&self.csi.handle, &self.csi.driver, &self.manager.node_name);
        self.manager.objects.attachment_metadata(&name).await
    }

    /// The content of a secret that the driver is to get.
    async fn secrets(
        &self,
        reference: Option<(String, String)>,
        what: &str,
    ) -> Result<BTreeMap<String, String>> {
        let Some((namespace, name)) = reference else { return Ok(BTreeMap::new()) };
        let secret = self
            .manager
            .objects
            .secret(&namespace, &name)
            .await
            .map_err(|e| Error::other(format!("fetching {what} {namespace}/{name} failed: {e}")))?;
        let text = |value: &k8s_openapi::ByteString| String::from_utf8_lossy(&value.0).into_owned();
        Ok(secret.data.iter().flatten().map(|(key, value)| (key.clone(), text(value))).collect())
    }

    /// What is published with, beside the volume's own attributes: pod and tokens, if the driver wants them.
    /// The tokens come second where they belong to the secrets.
    async fn extras(&self) -> Result<(BTreeMap<String, String>, BTreeMap<String, String>)> {
        let mut attributes = self.csi.attributes();
        let Some(spec) = self.csi.spec() else { return Ok((attributes, BTreeMap::new())) };
        if spec.pod_info_on_mount == Some(true) {
            let meta = &self.pod.metadata;
            let account = self.pod.spec.as_ref().and_then(|s| s.service_account_name.clone());
            for (key, value) in [
                ("pod.name", meta.name.clone()),
                ("pod.namespace", meta.namespace.clone()),
                ("pod.uid", meta.uid.clone()),
                ("serviceAccount.name", account),
                ("ephemeral", Some(self.csi.is_inline().to_string())),
            ] {
                attributes.insert(format!("csi.storage.k8s.io/{key}"), value.unwrap_or_default());
            }
        }
        let tokens = self.tokens(spec).await?;
        if spec.service_account_token_in_secrets == Some(true) {
            return Ok((attributes, tokens));
        }
        attributes.extend(tokens);
        Ok((attributes, BTreeMap::new()))
    }

    async fn tokens(&self, spec: &CSIDriverSpec) -> Result<BTreeMap<String, String>> {
        let mut all = serde_json::Map::new();
        for request in spec.token_requests.iter().flatten() {
            let asked = TokenRequest {
                audience: &request.audience,
                expiration_seconds: request.expiration_seconds.unwrap_or(3600),
            };
            let token = self.manager.objects.token(&self.pod, asked).await.map_err(|e| {
                Error::other(format!(
                    "kubernetes.io/csi: mounter.SetUpAt failed to get service accoount token attributes: {e}"
                ))
            })?;
            let status = serde_json::json!({"token": token.token, "expirationTimestamp": token.expires.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()});
            all.insert(request.audience.clone(), status);
        }
        if all.is_empty() {
            return Ok(BTreeMap::new());
        }
        let text = serde_json::Value::Object(all).to_string();
        Ok(BTreeMap::from([("csi.storage.k8s.io/serviceAccount.tokens".to_string(), text)]))
    }

    /// What the volume has to be able to do.
    async fn capability(
        &self,
        driver: &::csi::Driver,
        options: Vec<String>,
    ) -> ::csi::Result<VolumeCapability> {
        let multi = driver.can(Rpc::SingleNodeMultiWriter).await?;
        let group = match crate::ownership::group_of(&self.pod) {
            Some(group) if driver.can(Rpc::VolumeMountGroup).await? => group.to_string(),
            _ => String::new(),
        };
        let access = if self.csi.block {
            AccessType::Block(BlockVolume {})
        } else {
            let fs_type = self.csi.fs_type();
            AccessType::Mount(MountVolume { fs_type, mount_flags: options, volume_mount_group: group })
        };
        let first = self.csi.access_modes().into_iter().next().unwrap_or_else(|| "ReadWriteOnce".into());
        let mode = mode(&first, multi) as i32;
        Ok(VolumeCapability { access_type: Some(access), access_mode: Some(AccessMode { mode }) })
    }
}

/// A claim's access mode as drivers call it.
fn mode(name: &str, single_node_multi_writer: bool) -> Mode {
    match (name, single_node_multi_writer) {
        ("ReadWriteOnce", true) => Mode::SingleNodeMultiWriter,
        ("ReadWriteOncePod", true) => Mode::SingleNodeSingleWriter,
        ("ReadWriteOnce" | "ReadWriteOncePod", false) => Mode::SingleNodeWriter,
        ("ReadOnlyMany", _) => Mode::MultiNodeReaderOnly,
        ("ReadWriteMany", _) => Mode::MultiNodeMultiWriter,
        _ => Mode::Unknown,
    }
}
