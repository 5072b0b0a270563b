//! `local` persistent volumes: a folder or disk of this node, bound into the pod's folder.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use async_trait::async_trait;

use crate::{Error, Result, Setup, Volume, device, layout, mount, ownership};

/// A `local` persistent volume.
pub struct Local {
    pub path: PathBuf,
    pub fs_type: Option<String>,
    pub options: Vec<String>,
    pub block: bool,
    pub read_only: bool,
}

#[async_trait]
impl Volume for Local {
    async fn set_up(&self, setup: &Setup<'_>) -> Result<PathBuf> {
        let text = self.path.display().to_string();
        let begun = if self.block {
            "MapVolume.NewBlockVolumeMapper initialization"
        } else {
            "MountVolume.NewMounter initialization"
        };
        if !self.path.exists() {
            return Err(Error::Step(begun, format!("path {text:?} does not exist")));
        }
        if self.block {
            return self.map(setup).await;
        }
        let dir = setup.dir(layout::LOCAL);
        if !mount::is_mount_point(&dir) {
            let source = self.source(setup).await.map_err(|e| e.at("MountVolume.MountDevice"))?;
            device::make_dir(&dir)?;
            if self.options.is_empty() {
                mount::bind(&source, &dir, self.read_only)?;
            } else {
                let mut options = vec!["bind".to_string()];
                options.extend(self.options.iter().cloned());
                options.extend(self.read_only.then(|| "ro".to_string()));
                device::mount_with_tool(&source.to_string_lossy(), &dir, "", &options).await?;
            }
        }
        if !self.read_only && !self.is_shared(&dir, setup) {
            ownership::give(&dir, setup.pod, setup.manager.recorder.as_ref()).await?;
        }
        Ok(dir)
    }
}

impl Local {
    /// The folder to bind: the volume's own, or where its disk is mounted.
    async fn source(&self, setup: &Setup<'_>) -> Result<PathBuf> {
        if self.path.is_dir() {
            return Ok(self.path.clone());
        }
        if !device::is_block(&self.path) {
            return Err(Error::other("only directory and block device are supported"));
        }
        let global = global_mount(&setup.manager.root, setup.name);
        let _one = setup.manager.lock(&global.to_string_lossy()).await;
        if !mount::is_mount_point(&global) {
            device::make_dir(&global)?;
            let fs_type = self.fs_type.as_deref();
            let done =
                device::format_and_mount(&self.path, &global, fs_type, &self.options, self.read_only).await;
            if let Err(error) = done {
                let _ = fs::remove_dir(&global);
                let error = self.explain(error, &global);
                return Err(setup.tell_mismatch(error).await);
            }
        }
        Ok(global)
    }

    fn explain(&self, error: Error, global: &Path) -> Error {
        let text = format!(
            "local: failed to mount device {} at {} (fstype: {}), error {error}",
            self.path.display(),
            global.display(),
            self.fs_type.as_deref().unwrap_or_default()
        );
        if matches!(error, Error::Mismatch(_)) { Error::Mismatch(text) } else { Error::other(text) }
    }

    async fn map(&self, setup: &Setup<'_>) -> Result<PathBuf> {
        let device = fs::canonicalize(&self.path).map_err(|e| Error::io("resolve", &self.path, e))?;
        if !device::is_block(&device) {
            let text = format!("{} is not a block device", self.path.display());
            return Err(Error::Step("MapVolume.SetUpDevice", text));
        }
        let plugin = layout::plugin_dir(&setup.manager.root, "kubernetes.io/local-volume");
        let global = plugin.join("volumeDevices").join(setup.name);
        device::map(&device, &global, layout::LOCAL, setup.name, (setup.pod_dir, &|m| setup.mapped(&m)))
            .map_err(|e| e.at("MapVolume.MapBlockVolume"))
    }

    /// Whether other pods use the volume now: then it keeps the group that it has.
    fn is_shared(&self, dir: &Path, setup: &Setup<'_>) -> bool {
        let Some(group) = setup.fs_group() else { return false };
        let others = users(&setup.manager.root, setup.name).into_iter().any(|other| other != dir);
        let own = fs::metadata(dir).map_or(group, |m| m.gid());
        if others && own != group {
            let text = format!(
                "The requested fsGroup is {group}, but the volume {} has GID {own}. The volume may not be shareable.",
                setup.name
            );
            setup.manager.recorder.pod(setup.pod, "Warning", "AlreadyMountedVolume", &text);
        }
        others
    }
}

fn global_mount(root: &Path, name: &str) -> PathBuf {
    layout::plugin_dir(root, "kubernetes.io/local-volume").join("mounts").join(name)
}

/// Where pods have a volume mounted.
fn users(root: &Path, name: &str) -> Vec<PathBuf> {
    let pods = fs::read_dir(root.join("pods")).into_iter().flatten().flatten();
    let dirs = pods.map(|pod| layout::volume_dir(&pod.path(), layout::LOCAL, name));
    dirs.filter(|dir| mount::is_mount_point(dir)).collect()
}

/// Unmounts the disk behind a volume once no pod has it any more.
pub fn release(root: &Path, name: &str) -> Result<()> {
    let global = global_mount(root, name);
    if !mount::is_mount_point(&global) || !users(root, name).is_empty() {
        return Ok(());
    }
    mount::unmount(&global)?;
    fs::remove_dir(&global).map_err(|e| Error::io("rmdir", &global, e))
}
