//! Claims, and the persistent volumes they are bound to: `hostPath`, `local` and `nfs`.

use std::fs;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use k8s_openapi::api::core::v1::NFSVolumeSource;

use crate::host_path::HostPath;
use crate::{Error, Result, Setup, Volume, layout, mount, ownership};

/// The volume behind a claim, and whether it may only be read.
pub async fn room(claim: &str, read_only: bool, setup: &Setup<'_>) -> Result<(Box<dyn Volume>, bool)> {
    let claim = setup.objects.claim(setup.namespace(), claim).await?;
    let spec = claim.spec.as_ref();
    let bound = claim.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound");
    let Some(name) = spec.and_then(|s| s.volume_name.as_deref()).filter(|name| bound && !name.is_empty())
    else {
        return Err(Error::other("PVC is not bound"));
    };
    let volume = setup.objects.persistent_volume(name).await?;
    let Some(spec) = &volume.spec else { return Err(Error::other(format!("volume {name} has no spec"))) };
    if spec.claim_ref.as_ref().and_then(|c| c.uid.as_deref()) != claim.metadata.uid.as_deref() {
        let text = format!("the volume {name} is not bound to the claim {:?}", claim.metadata.name);
        return Err(Error::other(text));
    }
    if let Some(source) = &spec.host_path {
        return Ok((Box::new(HostPath::new(source.clone())), read_only));
    }
    if let Some(source) = &spec.local {
        return Ok((Box::new(Local { path: source.path.clone().into(), name: name.to_string() }), read_only));
    }
    if let Some(source) = &spec.nfs {
        let options = spec.mount_options.clone().unwrap_or_default();
        let read_only = read_only || source.read_only.unwrap_or(false);
        let source = NFSVolumeSource {
            path: source.path.clone(),
            read_only: source.read_only,
            server: source.server.clone(),
        };
        return Ok((Box::new(Nfs { source, options }), read_only));
    }
    Err(Error::other(format!("no volume plugin matched for persistent volume {name:?}")))
}

/// A `local` persistent volume: a folder or disk of this node, bound into the pod's folder.
pub struct Local {
    path: PathBuf,
    /// The persistent volume's name: its folder is called so, not by the volume's name in the pod.
    name: String,
}

#[async_trait]
impl Volume for Local {
    async fn set_up(&self, setup: &Setup<'_>) -> Result<PathBuf> {
        if !self.path.exists() {
            return Err(Error::other(format!("path {:?} does not exist", self.path.display().to_string())));
        }
        let dir = layout::volume_dir(setup.pod_dir, layout::LOCAL, &self.name);
        fs::create_dir_all(&dir).map_err(|e| Error::io("mkdir", &dir, e))?;
        if !mount::is_mount_point(&dir) {
            mount::bind(&self.path, &dir, false)?;
        }
        own(&dir, setup).await?;
        Ok(dir)
    }
}

/// An `nfs` volume, mounted by the system's mount tool.
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
        fs::create_dir_all(&dir).map_err(|e| Error::io("mkdir", &dir, e))?;
        let mut options = self.options.clone();
        if self.source.read_only.unwrap_or(false) {
            options.push("ro".into());
        }
        let mut command = tokio::process::Command::new("mount");
        command.args(["-t", "nfs"]);
        if !options.is_empty() {
            command.arg("-o").arg(options.join(","));
        }
        command.arg(format!("{}:{}", self.source.server, self.source.path)).arg(&dir).kill_on_drop(true);
        let output = command.output().await.map_err(|e| Error::io("run mount for", &dir, e))?;
        if !output.status.success() {
            let _ = fs::remove_dir(&dir);
            let said = String::from_utf8_lossy(&output.stderr).trim().to_string();
            return Err(Error::other(format!("mount failed: {}\nOutput: {said}", output.status)));
        }
        Ok(dir)
    }
}

/// Gives the volume to the pod's `fsGroup` as its change policy says.
async fn own(dir: &Path, setup: &Setup<'_>) -> Result<()> {
    let Some(group) = setup.fs_group() else { return Ok(()) };
    let context = setup.pod.spec.as_ref().and_then(|s| s.security_context.as_ref());
    let policy = context.and_then(|c| c.fs_group_change_policy.as_deref());
    if policy == Some("OnRootMismatch") && ownership::root_matches(dir, group, false) {
        return Ok(());
    }
    let dir = dir.to_path_buf();
    let work = move || ownership::apply(&dir, group, false);
    tokio::task::spawn_blocking(work).await.map_err(|e| Error::other(e.to_string()))?
}
