//! Volumes that are devices.

use std::fs;
use std::path::PathBuf;

use ::csi::v1;
use ::csi::v1::node_service_capability::rpc::Type as Rpc;

use super::data::{self, VolumeData};
use super::{Job, Origin};
use crate::{Error, Result, device, layout};

impl Job {
    /// Stages, publishes and maps the volume; returns the device.
    pub(super) async fn map_block(&self) -> Result<PathBuf> {
        self.stage_block().await.map_err(|e| e.at("MapVolume.SetUpDevice"))?;
        let published = self.publish_block().await.map_err(|e| e.at("MapVolume.MapPodDevice"))?;
        let dirs = data::block_dirs(&self.manager.root, &self.name);
        let device = fs::canonicalize(&published).map_err(|e| Error::io("resolve", &published, e));
        let device = device.map_err(|e| e.at("MapVolume.EvalHostSymlinks"))?;
        let tell = |message: String| {
            self.manager.recorder.pod(&self.pod, "Normal", "SuccessfulMountVolume", &message);
        };
        let path = device::map(&device, &dirs.dev, layout::CSI, &self.name, (&self.pod_dir, &tell))
            .map_err(|e| e.at("MapVolume.MapBlockVolume"))?;
        self.grow().await.map_err(|e| e.at("MapVolume.MarkVolumeAsMounted"))?;
        Ok(path)
    }

    fn driver_for(&self, step: &str) -> Result<::csi::Driver> {
        self.driver().map_err(|e| {
            Error::other(format!("kubernetes.io/csi: blockMapper.{step} failed to get CSI client: {e}"))
        })
    }

    async fn stage_block(&self) -> Result<()> {
        let Origin::Persistent(source, _) = &self.csi.origin else { return Ok(()) };
        let driver = self.driver_for("SetUpDevice")?;
        let dirs = data::block_dirs(&self.manager.root, &self.name);
        let unique = self.csi.unique_name();
        let record = VolumeData {
            attachment_id: data::attachment_name(&self.csi.handle, &self.csi.driver, &self.manager.node_name),
            driver_name: self.csi.driver.clone(),
            node_name: self.manager.node_name.clone(),
            spec_vol_id: self.name.clone(),
            volume_handle: self.csi.handle.clone(),
            ..VolumeData::default()
        };
        record.save(&dirs.data)?;
        let stages = driver.can(Rpc::StageUnstageVolume).await.map_err(|e| {
            Error::other(format!(
                "kubernetes.io/csi: blockMapper.stageVolumeForBlock failed to check STAGE_UNSTAGE_VOLUME capability: {e}"
            ))
        })?;
        let done = self.manager.device(&unique, |device| {
            let done = device.staged && device.confirmed;
            device.staged = true;
            done
        });
        if done || !stages {
            return Ok(());
        }
        let secret = source.node_stage_secret_ref.as_ref();
        let secret =
            secret.map(|s| (s.namespace.clone().unwrap_or_default(), s.name.clone().unwrap_or_default()));
        let secrets = self.secrets(secret, "NodeStageSecretRef").await?;
        device::make_dir(&dirs.staging)?;
        let capability =
            self.capability(&driver, Vec::new()).await.map_err(|e| Error::other(e.to_string()))?;
        let request = v1::NodeStageVolumeRequest {
            volume_id: self.csi.handle.clone(),
            publish_context: self.publish_context().await?.into_iter().collect(),
            staging_target_path: dirs.staging.to_string_lossy().into_owned(),
            volume_capability: Some(capability),
            secrets: secrets.into_iter().collect(),
            volume_context: self.csi.attributes().into_iter().collect(),
        };
        if let Err(error) = driver.stage(request).await {
            if error.is_final() {
                let _ = fs::remove_dir(&dirs.staging);
                let _ = VolumeData::remove(&dirs.data);
                let _ = fs::remove_dir(&dirs.data).and_then(|()| fs::remove_dir(&dirs.own));
                self.manager.device(&unique, |device| device.staged = false);
            }
            return Err(Error::other(error.to_string()));
        }
        self.manager.device(&unique, |device| device.confirmed = true);
        Ok(())
    }

    async fn publish_block(&self) -> Result<PathBuf> {
        let Origin::Persistent(source, _) = &self.csi.origin else {
            return Err(Error::other("a volume of the pod's own cannot be a device"));
        };
        let driver = self.driver_for("MapPodDevice")?;
        let dirs = data::block_dirs(&self.manager.root, &self.name);
        let path = dirs.publish.join(self.uid());
        device::make_dir(&dirs.publish)?;
        let secret = source.node_publish_secret_ref.as_ref();
        let secret =
            secret.map(|s| (s.namespace.clone().unwrap_or_default(), s.name.clone().unwrap_or_default()));
        let mut secrets = self.secrets(secret, "NodePublishSecretRef").await?;
        let (attributes, tokens) = self.extras().await?;
        secrets.extend(tokens);
        let capability =
            self.capability(&driver, Vec::new()).await.map_err(|e| Error::other(e.to_string()))?;
        let request = v1::NodePublishVolumeRequest {
            volume_id: self.csi.handle.clone(),
            publish_context: self.publish_context().await?.into_iter().collect(),
            staging_target_path: dirs.staging.to_string_lossy().into_owned(),
            target_path: path.to_string_lossy().into_owned(),
            volume_capability: Some(capability),
            readonly: self.csi.read_only,
            secrets: secrets.into_iter().collect(),
            volume_context: attributes.into_iter().collect(),
        };
        driver.publish(request).await.map_err(|e| Error::other(e.to_string()))?;
        Ok(path)
    }
}
