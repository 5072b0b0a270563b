//! `emptyDir`: a folder of the pod's own, on disk, in memory or in huge pages.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::EmptyDirVolumeSource;

use crate::{Error, Result, Setup, Volume, layout, mount, ownership, quantity};

/// An `emptyDir`.
pub struct EmptyDir {
    medium: String,
    size_limit: Option<u64>,
}

impl EmptyDir {
    /// From its spec.
    pub fn new(source: &EmptyDirVolumeSource) -> Self {
        let size_limit = source.size_limit.as_ref().and_then(|q| quantity::units(&q.0));
        Self {
            medium: source.medium.clone().unwrap_or_default(),
            size_limit: size_limit.and_then(|size| u64::try_from(size).ok()).filter(|size| *size > 0),
        }
    }

    fn tmpfs_size(&self, setup: &Setup<'_>) -> Option<u64> {
        match (self.size_limit, setup.facts.memory_medium_limit) {
            (Some(own), Some(most)) => Some(own.min(most)),
            (own, most) => own.or(most),
        }
    }
}

#[async_trait]
impl Volume for EmptyDir {
    async fn set_up(&self, setup: &Setup<'_>) -> Result<PathBuf> {
        let dir = setup.dir(layout::EMPTY_DIR);
        let ready = layout::ready_marker(setup.pod_dir, layout::EMPTY_DIR, setup.name);
        let on_disk = self.medium.is_empty();
        if ready.exists() && dir.is_dir() && (on_disk || mount::is_mount_point(&dir)) {
            return Ok(dir);
        }
        fs::create_dir_all(&dir).map_err(|e| Error::io("mkdir", &dir, e))?;
        if !on_disk && !mount::is_mount_point(&dir) {
            match self.medium.as_str() {
                "Memory" => mount::mount_tmpfs(&dir, self.tmpfs_size(setup))?,
                "HugePages" => mount::mount_hugetlbfs(&dir, "2Mi")?,
                other => match other.strip_prefix("HugePages-") {
                    Some(size) => mount::mount_hugetlbfs(&dir, size)?,
                    None => return Err(Error::other(format!("unknown storage medium {other:?}"))),
                },
            }
        }
        // Any user of the pod may write; not subject to the umask.
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o777))
            .map_err(|e| Error::io("chmod", &dir, e))?;
        if let Some(group) = setup.fs_group() {
            ownership::apply(&dir, group, false)?;
        }
        if let Some(parent) = ready.parent() {
            fs::create_dir_all(parent).map_err(|e| Error::io("mkdir", parent, e))?;
        }
        fs::write(&ready, "").map_err(|e| Error::io("write", &ready, e))?;
        Ok(dir)
    }
}
