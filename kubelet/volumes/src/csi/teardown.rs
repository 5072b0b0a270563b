//! Takes volumes down by what the disk says of them, and finds after a restart what there is.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use ::csi::v1;
use ::csi::v1::node_service_capability::rpc::Type as Rpc;

use super::data::{self, BlockDirs, VolumeData};
use crate::manager::blocking;
use crate::teardown::{entries, remove_own};
use crate::{Error, Manager, Result, device, layout, mount};

/// Takes down all volumes of drivers that a pod has.
pub async fn tear_down_pod(manager: &Arc<Manager>, uid: &str) -> Result<()> {
    let pod_dir = layout::pod_dir(&manager.root, uid);
    let mut failed = None;
    for volume in entries(&layout::volumes_dir(&pod_dir).join(layout::CSI))? {
        failed = unpublish(manager, uid, &volume.path()).await.err().or(failed);
    }
    for device in entries(&layout::devices_dir(&pod_dir).join(layout::CSI))? {
        let name = device.file_name().to_string_lossy().into_owned();
        failed = unmap(manager, uid, &name, &device.path()).await.err().or(failed);
    }
    // Volumes that this pod wanted but got no further than to be staged.
    for (name, record) in staged(manager)? {
        let users = manager.users(&name);
        if users.contains(uid) {
            manager.device(&name, |device| device.pods.remove(uid));
            failed = unstage_if_unused(manager, &record).await.err().or(failed);
        }
    }
    failed.map_or(Ok(()), Err)
}

fn client_error(step: &str, error: &str) -> Error {
    Error::other(format!("kubernetes.io/csi: {step} failed to get CSI client: {error}"))
}

async fn unpublish(manager: &Arc<Manager>, uid: &str, dir: &Path) -> Result<()> {
    let target = dir.join("mount");
    let Some(record) = VolumeData::load(dir)? else {
        // Never published, or unpublished already.
        return remove_dirs(&target, dir).await;
    };
    let _one = manager.lock(&record.unique_name()).await;
    let driver = manager.drivers.get(&record.driver_name);
    let driver = driver.map_err(|e| client_error("Unmounter.TearDownAt", &e))?;
    let request = v1::NodeUnpublishVolumeRequest {
        volume_id: record.volume_handle.clone(),
        target_path: target.to_string_lossy().into_owned(),
    };
    driver
        .unpublish(request)
        .await
        .map_err(|e| Error::other(format!("kubernetes.io/csi: Unmounter.TearDownAt failed: {e}")))?;
    VolumeData::remove(dir)?;
    remove_dirs(&target, dir).await?;
    if record.is_persistent() {
        manager.device(&record.unique_name(), |device| {
            device.pods.remove(uid);
            device.not_expandable = false;
        });
        unstage_locked(manager, &record).await?;
    }
    Ok(())
}

/// Removes the mount point, which the driver has left or not, and the folder around it.
async fn remove_dirs(target: &Path, dir: &Path) -> Result<()> {
    let (target, dir) = (target.to_path_buf(), dir.to_path_buf());
    blocking(move || {
        if mount::is_mount_point(&target) {
            mount::unmount(&target)?;
        }
        for path in [target, dir] {
            match fs::remove_dir(&path) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(Error::io("rmdir", &path, error)),
            }
        }
        Ok(())
    })
    .await
}

async fn unstage_if_unused(manager: &Arc<Manager>, record: &VolumeData) -> Result<()> {
    let _one = manager.lock(&record.unique_name()).await;
    unstage_locked(manager, record).await
}

/// Unstages a volume that no pod uses any more.
async fn unstage_locked(manager: &Arc<Manager>, record: &VolumeData) -> Result<()> {
    let name = record.unique_name();
    if !manager.users(&name).is_empty() {
        return Ok(());
    }
    let dir = data::staged_dir(&manager.root, &record.driver_name, &record.volume_handle);
    if VolumeData::load(&dir)?.is_none() {
        return Ok(());
    }
    let global = dir.join("globalmount");
    let driver = manager.drivers.get(&record.driver_name);
    let driver = driver.map_err(|e| client_error("attacher.UnmountDevice", &e))?;
    let stages = driver.can(Rpc::StageUnstageVolume).await;
    if stages.map_err(|e| {
        Error::other(format!(
            "kubernetes.io/csi: attacher.UnmountDevice failed to check whether STAGE_UNSTAGE_VOLUME set: {e}"
        ))
    })? {
        let request = v1::NodeUnstageVolumeRequest {
            volume_id: record.volume_handle.clone(),
            staging_target_path: global.to_string_lossy().into_owned(),
        };
        // Half undone if this fails: the next pod has it staged anew.
        manager.device(&name, |device| device.confirmed = false);
        driver
            .unstage(request)
            .await
            .map_err(|e| Error::other(format!("kubernetes.io/csi: attacher.UnmountDevice failed: {e}")))?;
    }
    let own = dir.clone();
    blocking(move || {
        if mount::is_mount_point(&global) {
            mount::unmount(&global)?;
        }
        let _ = fs::remove_dir(&global);
        VolumeData::remove(&own)?;
        remove_own(&own)
    })
    .await?;
    manager.device(&name, |device| {
        device.staged = false;
        device.confirmed = false;
    });
    Ok(())
}

async fn unmap(manager: &Arc<Manager>, uid: &str, name: &str, link: &Path) -> Result<()> {
    let dirs = data::block_dirs(&manager.root, name);
    let Some(record) = VolumeData::load(&dirs.data)? else {
        return fs::remove_file(link).map_err(|e| Error::io("remove", link, e));
    };
    let _one = manager.lock(&record.unique_name()).await;
    let driver = manager.drivers.get(&record.driver_name);
    let driver = driver.map_err(|e| client_error("blockMapper.UnmapPodDevice", &e))?;
    device::unmap_global(&dirs.dev, uid)?;
    let request = v1::NodeUnpublishVolumeRequest {
        volume_id: record.volume_handle.clone(),
        target_path: dirs.publish.join(uid).to_string_lossy().into_owned(),
    };
    driver.unpublish(request).await.map_err(|e| {
        Error::other(format!("kubernetes.io/csi: blockMapper.unpublishVolumeForBlock failed: {e}"))
    })?;
    let _ = fs::remove_file(dirs.publish.join(uid));
    manager.device(&record.unique_name(), |device| device.pods.remove(uid));
    if manager.users(&record.unique_name()).is_empty() {
        unstage_block(manager, &driver, &record, &dirs).await?;
    }
    fs::remove_file(link).map_err(|e| Error::io("remove", link, e))
}

async fn unstage_block(
    manager: &Arc<Manager>,
    driver: &::csi::Driver,
    record: &VolumeData,
    dirs: &BlockDirs,
) -> Result<()> {
    let failed = |e: ::csi::Error| {
        Error::other(format!("kubernetes.io/csi: blockMapper.unstageVolumeForBlock failed: {e}"))
    };
    if driver.can(Rpc::StageUnstageVolume).await.map_err(failed)? {
        let request = v1::NodeUnstageVolumeRequest {
            volume_id: record.volume_handle.clone(),
            staging_target_path: dirs.staging.to_string_lossy().into_owned(),
        };
        manager.device(&record.unique_name(), |device| device.confirmed = false);
        driver.unstage(request).await.map_err(failed)?;
    }
    for path in [&dirs.staging, &dirs.publish] {
        let _ = fs::remove_dir(path);
    }
    VolumeData::remove(&dirs.data)?;
    remove_own(&dirs.own)?;
    manager.device(&record.unique_name(), |device| {
        device.staged = false;
        device.confirmed = false;
    });
    Ok(())
}

/// All volumes staged as file systems.
fn staged(manager: &Manager) -> Result<Vec<(String, VolumeData)>> {
    let mut found = Vec::new();
    for driver in entries(&data::plugin_dir(&manager.root))? {
        if driver.file_name() == "volumeDevices" {
            continue;
        }
        for volume in entries(&driver.path())? {
            if let Ok(Some(record)) = VolumeData::load(&volume.path()) {
                found.push((record.unique_name(), record));
            }
        }
    }
    Ok(found)
}

/// Takes in what a kubelet before has left on the disk. What cannot be read is left for a human, and said.
pub fn reconstruct(manager: &Arc<Manager>) {
    let pods = entries(&manager.root.join("pods")).unwrap_or_default();
    for pod in pods {
        let uid = pod.file_name().to_string_lossy().into_owned();
        let mounts = layout::volumes_dir(&pod.path()).join(layout::CSI);
        let devices = layout::devices_dir(&pod.path()).join(layout::CSI);
        let mounted = entries(&mounts).unwrap_or_default().into_iter().map(|v| (v.path(), false));
        let mapped = entries(&devices)
            .unwrap_or_default()
            .into_iter()
            .map(|d| (data::block_dirs(&manager.root, &d.file_name().to_string_lossy()).data, true));
        for (dir, block) in mounted.chain(mapped) {
            match VolumeData::load(&dir) {
                Ok(Some(record)) if record.is_persistent() => {
                    manager.device(&record.unique_name(), |device| {
                        device.pods.insert(uid.clone());
                        device.staged |= block;
                    });
                    manager.recorder.reconstructed(true);
                }
                Ok(_) => manager.recorder.reconstructed(true),
                Err(error) => {
                    manager.recorder.reconstructed(false);
                    tracing::warn!(%error, "A volume's record cannot be read");
                }
            }
        }
    }
    for (name, _) in staged(manager).unwrap_or_default() {
        manager.device(&name, |device| device.staged = true);
    }
}

/// Unstages what is staged and no pod uses: left behind by a kubelet that ended at the wrong moment.
pub async fn sweep(manager: &Arc<Manager>) {
    for (name, record) in staged(manager).unwrap_or_default() {
        if manager.users(&name).is_empty()
            && let Err(error) = unstage_if_unused(manager, &record).await
        {
            tracing::warn!(volume = name, %error, "Volume cannot be unstaged yet");
        }
    }
}
