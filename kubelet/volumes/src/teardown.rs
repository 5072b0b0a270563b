//! Takes a pod's volumes down by what lies on the disk, so that it works without knowing the pod.
//!
//! Nothing is ever deleted through a mount: all mounts at and below a folder go first, and a folder that still has one
//! is left for the next try. Of volumes whose data outlives the pod only the empty mount point is removed. Volumes of
//! CSI drivers are taken down before, by their drivers.

use std::fs;
use std::path::Path;

use crate::mount::{mounts_below, unmount};
use crate::{Error, Result, device, layout, local};

/// Takes the bind mounts of subpaths down, which keep their volumes busy.
pub fn subpaths(pod_dir: &Path) -> Result<()> {
    let subpaths = layout::subpaths_dir(pod_dir);
    if subpaths.exists() {
        unmount(&subpaths)?;
        remove_own(&subpaths)?;
    }
    Ok(())
}

/// Takes down all volumes of the pod at `pod_dir` that are not a CSI driver's.
pub fn volumes(root: &Path, pod_dir: &Path) -> Result<()> {
    let volumes = layout::volumes_dir(pod_dir);
    for plugin in entries(&volumes)? {
        let name = plugin.file_name();
        if name.to_str() == Some(layout::CSI) {
            // Goes once its driver has emptied it.
            let _ = fs::remove_dir(plugin.path());
            continue;
        }
        let owned = name.to_str().is_some_and(|name| layout::OWNED.contains(&name));
        for volume in entries(&plugin.path())? {
            unmount(&volume.path())?;
            if owned {
                remove_own(&volume.path())?;
            } else if volume.file_type().is_ok_and(|t| t.is_dir()) {
                // Fails when it is not empty, which is what keeps foreign data safe.
                let path = volume.path();
                fs::remove_dir(&path).map_err(|e| Error::io("rmdir", &path, e))?;
            }
            if name.to_str() == Some(layout::LOCAL) {
                local::release(root, &volume.file_name().to_string_lossy())?;
            }
        }
        let _ = fs::remove_dir(plugin.path());
    }
    device::unmap_pod(root, pod_dir)
}

/// Removes the folder of a pod whose volumes are down.
pub fn pod_dir(pod_dir: &Path) -> Result<()> {
    if !pod_dir.exists() {
        return Ok(());
    }
    for plugin in entries(&layout::volumes_dir(pod_dir))? {
        if fs::read_dir(plugin.path()).is_ok_and(|mut d| d.next().is_some()) {
            let uid = pod_dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
            return Err(Error::other(format!("orphaned pod {uid:?} found, but volumes are not cleaned up")));
        }
    }
    remove_own(pod_dir)
}

/// Removes a folder that is not and has no mount.
pub(crate) fn remove_own(path: &Path) -> Result<()> {
    let left = mounts_below(path)?;
    if let Some(point) = left.first() {
        return Err(Error::other(format!("{} is still mounted", point.display())));
    }
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path).map_err(|e| Error::io("remove", path, e)),
        Ok(_) => fs::remove_file(path).map_err(|e| Error::io("remove", path, e)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::io("stat", path, error)),
    }
}

pub(crate) fn entries(dir: &Path) -> Result<Vec<fs::DirEntry>> {
    match fs::read_dir(dir) {
        Ok(entries) => Ok(entries.flatten().collect()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(Error::io("read", dir, error)),
    }
}
