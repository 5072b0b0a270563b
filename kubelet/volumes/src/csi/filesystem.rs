//! Volumes that are mounted: staged at the node's global mount, published in the pod's folder.

use std::fs;
use std::path::PathBuf;

use ::csi::v1;
use ::csi::v1::node_service_capability::rpc::Type as Rpc;

use super::data::{self, VolumeData};
use super::{Job, Origin, selinux};
use crate::{Error, Result, device, layout, ownership};

impl Job {
    /// Stages, publishes and grows the volume.
    pub(super) async fn mount(&self) -> Result<PathBuf> {
        self.csi.check_lifecycle()?;
        if !self.csi.is_inline() {
            self.stage().await.map_err(|e| e.at("MountVolume.MountDevice"))?;
        }
        let path = self.publish(false).await?;
        self.grow().await.map_err(|e| e.at("MountVolume.Setup"))?;
        Ok(path)
    }

    fn target_dir(&self) -> PathBuf {
        layout::volume_dir(&self.pod_dir, layout::CSI, &self.name)
    }

    async fn stage(&self) -> Result<()> {
        let unique = self.csi.unique_name();
        if self.manager.device(&unique, |device| device.staged && device.confirmed) {
            return Ok(());
        }
        let Origin::Persistent(source, _) = &self.csi.origin else { return Ok(()) };
        let driver = self.driver().map_err(|e| {
            Error::other(format!(
                "kubernetes.io/csi: attacher.MountDevice failed to create newCsiDriverClient: {e}"
            ))
        })?;
        let (root, csi) = (&self.manager.root, &self.csi);
        let global = data::global_mount(root, &csi.driver, &csi.handle);
        let dir = data::staged_dir(root, &csi.driver, &csi.handle);
        let stages = driver.can(Rpc::StageUnstageVolume).await.map_err(|e| Error::other(e.to_string()))?;
        let context = selinux::context(&self.csi, &self.pod);
        let record = VolumeData {
            driver_name: csi.driver.clone(),
            volume_handle: csi.handle.clone(),
            selinux_mount_context: context.clone().unwrap_or_default(),
            ..VolumeData::default()
        };
        record.save(&dir)?;
        device::make_dir(&global)?;
        self.manager.device(&unique, |device| device.staged = true);
        if stages {
            let secret = source.node_stage_secret_ref.as_ref();
            let secret =
                secret.map(|s| (s.namespace.clone().unwrap_or_default(), s.name.clone().unwrap_or_default()));
            let secrets = self.secrets(secret, "NodeStageSecretRef").await?;
            let options = selinux::with_context(csi.mount_options(), context.as_deref());
            let capability = self.capability(&driver, options).await;
            let request = v1::NodeStageVolumeRequest {
                volume_id: csi.handle.clone(),
                publish_context: self.publish_context().await?.into_iter().collect(),
                staging_target_path: global.to_string_lossy().into_owned(),
                volume_capability: Some(capability.map_err(|e| Error::other(e.to_string()))?),
                secrets: secrets.into_iter().collect(),
                volume_context: csi.attributes().into_iter().collect(),
            };
            if let Err(error) = driver.stage(request).await {
                if error.is_final() {
                    // The driver is done with it: nothing is there to be unstaged.
                    let _ = fs::remove_dir(&global);
                    let _ = VolumeData::remove(&dir);
                    let _ = fs::remove_dir(&dir);
                    self.manager.device(&unique, |device| device.staged = false);
                }
                return Err(Error::other(error.to_string()));
            }
        }
        self.manager.device(&unique, |device| device.confirmed = true);
        Ok(())
    }

    /// Makes the volume appear in the pod's folder; `again` if it does already.
    pub(super) async fn publish(&self, again: bool) -> Result<PathBuf> {
        let failed = |what: &str, error: &dyn std::fmt::Display| {
            Error::other(format!("kubernetes.io/csi: mounter.SetUpAt failed to {what}: {error}"))
        };
        let driver = self.driver().map_err(|e| failed("get CSI client", &e))?;
        let (dir, csi) = (self.target_dir(), &self.csi);
        let target = dir.join("mount");
        let mut staging = String::new();
        let secret = match &csi.origin {
            Origin::Persistent(source, _) => {
                let stages = driver.can(Rpc::StageUnstageVolume).await;
                if stages.map_err(|e| failed("check for STAGE_UNSTAGE_VOLUME capability", &e))? {
                    let path = data::global_mount(&self.manager.root, &csi.driver, &csi.handle);
                    staging = path.to_string_lossy().into_owned();
                }
                let secret = source.node_publish_secret_ref.as_ref();
                secret.map(|s| (s.namespace.clone().unwrap_or_default(), s.name.clone().unwrap_or_default()))
            }
            Origin::Inline(source) => {
                let namespace = self.pod.metadata.namespace.clone().unwrap_or_default();
                source.node_publish_secret_ref.as_ref().map(|s| (namespace, s.name.clone()))
            }
        };
        let mut secrets = self.secrets(secret, "NodePublishSecretRef").await?;
        let (attributes, tokens) = self.extras().await?;
        secrets.extend(tokens);
        let context = self.publish_context().await.map_err(|e| failed("fetch publishContext", &e))?;
        let label = selinux::context(csi, &self.pod);
        let options = selinux::with_context(csi.mount_options(), label.as_deref());
        let capability = self.capability(&driver, options).await;
        let capability = capability
            .map_err(|e| failed("determine if the node service has VOLUME_MOUNT_GROUP capability", &e))?;
        self.record(label).save(&dir)?;
        let request = v1::NodePublishVolumeRequest {
            volume_id: csi.handle.clone(),
            publish_context: context.into_iter().collect(),
            staging_target_path: staging,
            target_path: target.to_string_lossy().into_owned(),
            volume_capability: Some(capability),
            readonly: csi.read_only,
            secrets: secrets.into_iter().collect(),
            volume_context: attributes.into_iter().collect(),
        };
        if let Err(error) = driver.publish(request).await {
            // What a pod sees already stays even if the driver fails to refresh it.
            if error.is_final() && !again {
                let _ = fs::remove_dir(&target);
                let _ = VolumeData::remove(&dir);
                let _ = fs::remove_dir(&dir);
            }
            return Err(Error::other(error.to_string()));
        }
        let group_is_drivers = driver.can(Rpc::VolumeMountGroup).await.unwrap_or(false);
        if !again && !group_is_drivers && self.wants_group() {
            let given = ownership::give(&target, &self.pod, self.manager.recorder.as_ref()).await;
            given.map_err(|e| Error::other(format!("applyFSGroup failed for vol {}: {e}", csi.handle)))?;
        }
        Ok(target)
    }

    fn record(&self, label: Option<String>) -> VolumeData {
        let csi = &self.csi;
        VolumeData {
            attachment_id: data::attachment_name(&csi.handle, &csi.driver, &self.manager.node_name),
            driver_name: csi.driver.clone(),
            node_name: self.manager.node_name.clone(),
            selinux_mount_context: label.unwrap_or_default(),
            spec_vol_id: self.name.clone(),
            volume_handle: csi.handle.clone(),
            volume_lifecycle_mode: csi.lifecycle().into(),
            ..VolumeData::default()
        }
    }

    /// Whether the kubelet gives the volume to the pod's group.
    fn wants_group(&self) -> bool {
        let policy = self.csi.spec().and_then(|s| s.fs_group_policy.as_deref());
        if ownership::group_of(&self.pod).is_none() || self.csi.read_only {
            return false;
        }
        match policy.unwrap_or("ReadWriteOnceWithFSType") {
            "None" => false,
            "File" => true,
            _ if self.csi.fs_type().is_empty() => false,
            _ => {
                self.csi.is_inline() || self.csi.access_modes().iter().any(|m| m.starts_with("ReadWriteOnce"))
            }
        }
    }
}
