//! `nfs` volumes, mounted by the system's mount tool.

use std::fs;
use std::path::PathBuf;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::NFSVolumeSource;

use crate::{Result, Setup, Volume, device, layout, mount};

/// An `nfs` volume.
pub struct Nfs {
    pub source: NFSVolumeSource,
    pub options: Vec<String>,
}

#[async_trait]
impl Volume for Nfs {
    async fn set_up(&self, setup: &Setup<'_>) -> Result<PathBuf> {
        let dir = setup.dir(layout::NFS);
        if mount::is_mount_point(&dir) {
            return Ok(dir);
        }
        device::make_dir(&dir)?;
        let mut options = self.options.clone();
        if self.source.read_only.unwrap_or(false) {
            options.push("ro".into());
        }
        // An address of version 6 needs brackets before the colon.
        let server = &self.source.server;
        let server = if server.contains(':') && !server.starts_with('[') {
            format!("[{server}]")
        } else {
            server.clone()
        };
        let source = format!("{server}:{}", self.source.path);
        let mounted = device::mount_with_tool(&source, &dir, "nfs", &options).await;
        if mounted.is_err() {
            let _ = fs::remove_dir(&dir);
        }
        mounted.map(|()| dir)
    }
}
