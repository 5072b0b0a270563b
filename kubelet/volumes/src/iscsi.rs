//! `iscsi` volumes, through `iscsiadm`: logged in once a node, mounted once, bound into each pod's folder.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{ISCSIPersistentVolumeSource, ISCSIVolumeSource, Pod, Secret};

use crate::teardown::entries;
use crate::{Error, Manager, Result, Setup, Volume, device, layout, mount, ownership};

const PLUGIN: &str = "kubernetes.io/iscsi";

/// How long a disk may take to appear after the login.
const APPEARS_WITHIN: Duration = Duration::from_secs(10);

/// An `iscsi` volume.
pub struct Iscsi {
    portals: Vec<String>,
    iqn: String,
    lun: i32,
    interface: String,
    initiator: Option<String>,
    fs_type: Option<String>,
    options: Vec<String>,
    read_only: bool,
    block: bool,
    discovery_chap: bool,
    session_chap: bool,
    /// Namespace and name of the secret with the CHAP passwords.
    secret: Option<(String, String)>,
}

impl Iscsi {
    /// From a pod's spec.
    pub fn inline(source: &ISCSIVolumeSource, pod: &Pod) -> Self {
        let namespace = pod.metadata.namespace.clone().unwrap_or_default();
        Self {
            portals: portals(&source.target_portal, source.portals.as_deref()),
            iqn: source.iqn.clone(),
            lun: source.lun,
            interface: source.iscsi_interface.clone().unwrap_or_else(|| "default".into()),
            initiator: source.initiator_name.clone(),
            fs_type: source.fs_type.clone(),
            options: Vec::new(),
            read_only: source.read_only.unwrap_or(false),
            block: false,
            discovery_chap: source.chap_auth_discovery.unwrap_or(false),
            session_chap: source.chap_auth_session.unwrap_or(false),
            secret: source.secret_ref.as_ref().map(|s| (namespace, s.name.clone())),
        }
    }

    /// From a persistent volume.
    pub fn persistent(source: ISCSIPersistentVolumeSource, options: Vec<String>, block: bool) -> Self {
        let secret = source.secret_ref.as_ref();
        Self {
            portals: portals(&source.target_portal, source.portals.as_deref()),
            secret: secret
                .map(|s| (s.namespace.clone().unwrap_or_default(), s.name.clone().unwrap_or_default())),
            iqn: source.iqn,
            lun: source.lun,
            interface: source.iscsi_interface.unwrap_or_else(|| "default".into()),
            initiator: source.initiator_name,
            fs_type: source.fs_type,
            options,
            read_only: source.read_only.unwrap_or(false),
            block,
            discovery_chap: source.chap_auth_discovery.unwrap_or(false),
            session_chap: source.chap_auth_session.unwrap_or(false),
        }
    }

    fn global(&self, root: &Path, folder: &str) -> PathBuf {
        let portal = self.portals.first().map(String::as_str).unwrap_or_default();
        let name = format!("{portal}-{}-lun-{}", self.iqn, self.lun);
        layout::plugin_dir(root, PLUGIN).join(folder).join(format!("iface-{}", self.interface)).join(name)
    }

    /// Logs in at all portals; the disk of the first at which that works.
    async fn attach(&self, setup: &Setup<'_>) -> Result<PathBuf> {
        let secret = match &self.secret {
            Some((namespace, name)) if self.discovery_chap || self.session_chap => {
                Some(setup.objects().secret(namespace, name).await?)
            }
            _ => None,
        };
        let interface = self.prepare_interface(setup).await?;
        let mut last = Error::other("no portal");
        let mut disk = None;
        for portal in &self.portals {
            match self.log_in(portal, &interface, secret.as_deref()).await {
                Ok(found) => disk = disk.or(Some(found)),
                Err(error) => last = error,
            }
        }
        disk.ok_or(last)
    }

    /// A pod may ask for an initiator name of its own: then it gets an interface of its own.
    async fn prepare_interface(&self, setup: &Setup<'_>) -> Result<String> {
        let Some(initiator) = self.initiator.as_deref().filter(|i| !i.is_empty()) else {
            return Ok(self.interface.clone());
        };
        let portal = self.portals.first().map(String::as_str).unwrap_or_default();
        let name = format!("{portal}:{}", setup.name);
        let _ = admin(&["-m", "iface", "-I", &name, "-o", "new"]).await;
        let update =
            ["-m", "iface", "-I", &name, "-o", "update", "-n", "iface.initiatorname", "-v", initiator];
        admin(&update).await?;
        Ok(name)
    }

    async fn log_in(&self, portal: &str, interface: &str, secret: Option<&Secret>) -> Result<PathBuf> {
        let disk =
            PathBuf::from(format!("/dev/disk/by-path/ip-{portal}-iscsi-{}-lun-{}", self.iqn, self.lun));
        if disk.exists() {
            return Ok(disk);
        }
        let discovery = ["-m", "discoverydb", "-t", "sendtargets", "-p", portal, "-I", interface];
        admin(&[&discovery[..], &["-o", "new"]].concat()).await?;
        if self.discovery_chap {
            chap(&discovery, "discovery.sendtargets.auth", secret).await?;
        }
        if let Err(error) = admin(&[&discovery[..], &["--discover"]].concat()).await {
            let _ = admin(&[&discovery[..], &["-o", "delete"]].concat()).await;
            let text = format!("failed to sendtargets to portal {portal} output: , err {error}");
            return Err(Error::other(text));
        }
        let node = ["-m", "node", "-p", portal, "-T", &self.iqn, "-I", interface];
        if self.session_chap {
            chap(&node, "node.session.auth", secret).await?;
        }
        if let Err(error) = admin(&[&node[..], &["--login"]].concat()).await {
            let _ = admin(&[&node[..], &["-o", "delete"]].concat()).await;
            return Err(Error::other(format!("failed to attach disk: Error: {error}")));
        }
        // A node that starts again logs in when a pod asks for it, not before.
        let _ = admin(&[&node[..], &["-o", "update", "-n", "node.startup", "-v", "manual"]].concat()).await;
        let deadline = tokio::time::Instant::now() + APPEARS_WITHIN;
        while !disk.exists() {
            if tokio::time::Instant::now() > deadline {
                return Err(Error::other(format!(
                    "Could not attach disk: Timeout after {}s",
                    APPEARS_WITHIN.as_secs()
                )));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(disk)
    }
}

#[async_trait]
impl Volume for Iscsi {
    async fn set_up(&self, setup: &Setup<'_>) -> Result<PathBuf> {
        let root = &setup.manager.root;
        let global = self.global(root, if self.block { "volumeDevices" } else { "" });
        let _one = setup.manager.lock(&global.to_string_lossy()).await;
        if self.block {
            let disk = self.attach(setup).await.map_err(|e| e.at("MapVolume.WaitForAttach"))?;
            let disk = fs::canonicalize(&disk).map_err(|e| Error::io("resolve", &disk, e))?;
            return device::map(
                &disk,
                &global,
                layout::ISCSI,
                setup.name,
                (setup.pod_dir, &|m| setup.mapped(&m)),
            )
            .map_err(|e| e.at("MapVolume.MapBlockVolume"));
        }
        let dir = setup.dir(layout::ISCSI);
        if mount::is_mount_point(&dir) {
            return Ok(dir);
        }
        if !mount::is_mount_point(&global) {
            let disk = self.attach(setup).await.map_err(|e| e.at("MountVolume.WaitForAttach"))?;
            device::make_dir(&global)?;
            let fs_type = self.fs_type.as_deref();
            let mut options = self.options.clone();
            options.extend((!self.read_only).then(|| "rw".to_string()));
            let done = device::format_and_mount(&disk, &global, fs_type, &options, self.read_only).await;
            if let Err(error) = done {
                return Err(setup.tell_mismatch(error).await.at("MountVolume.MountDevice"));
            }
        }
        device::make_dir(&dir)?;
        mount::bind(&global, &dir, self.read_only)?;
        if !self.read_only {
            ownership::give(&dir, setup.pod, setup.manager.recorder.as_ref()).await?;
        }
        Ok(dir)
    }
}

fn portals(first: &str, more: Option<&[String]>) -> Vec<String> {
    let all = std::iter::once(first).chain(more.unwrap_or_default().iter().map(String::as_str));
    all.map(|portal| {
        let has_port = portal.rsplit_once(':').is_some_and(|(host, port)| {
            port.chars().all(|c| c.is_ascii_digit()) && (!host.contains(':') || host.ends_with(']'))
        });
        if has_port { portal.to_string() } else { format!("{portal}:3260") }
    })
    .collect()
}

async fn admin(args: &[&str]) -> Result<String> {
    let args: Vec<String> = args.iter().map(ToString::to_string).collect();
    device::run("iscsiadm", &args).await.map_err(|e| Error::other(format!("iscsi: {e}")))
}

async fn chap(record: &[&str], prefix: &str, secret: Option<&Secret>) -> Result<()> {
    let set = async |key: &str, value: &str| {
        admin(&[record, &["-o", "update", "-n", key, "-v", value]].concat()).await.map(drop)
    };
    set(&format!("{prefix}.authmethod"), "CHAP").await?;
    let data = secret.and_then(|s| s.data.as_ref());
    for part in ["username", "password", "username_in", "password_in"] {
        let key = format!("{prefix}.{part}");
        if let Some(value) = data.and_then(|d| d.get(&key)) {
            set(&key, &String::from_utf8_lossy(&value.0)).await?;
        }
    }
    Ok(())
}

/// Unmounts and logs out of what no pod has mounted any more.
pub async fn tear_down_unused(manager: &Arc<Manager>) -> Result<()> {
    let plugin = layout::plugin_dir(&manager.root, PLUGIN);
    for interface in entries(&plugin)? {
        let Some(name) =
            interface.file_name().to_str().and_then(|n| n.strip_prefix("iface-").map(String::from))
        else {
            continue;
        };
        for volume in entries(&interface.path())? {
            let path = volume.path();
            let _one = manager.lock(&path.to_string_lossy()).await;
            if mount::is_mount_point(&path) {
                if mount::others_of(&path)? > 0 {
                    continue;
                }
                mount::unmount(&path)?;
            }
            fs::remove_dir(&path).map_err(|e| Error::io("rmdir", &path, e))?;
            log_out(&volume.file_name().to_string_lossy(), &interface.path(), &name).await?;
        }
    }
    Ok(())
}

/// Portal and target of a folder's name.
fn parse(name: &str) -> Option<(&str, &str)> {
    let (rest, _) = name.rsplit_once("-lun-")?;
    let at = ["-iqn.", "-eui.", "-naa."].iter().filter_map(|start| rest.find(start)).min()?;
    Some((&rest[..at], &rest[at + 1..]))
}

async fn log_out(name: &str, siblings: &Path, interface: &str) -> Result<()> {
    let Some((portal, iqn)) = parse(name) else { return Ok(()) };
    let same = |other: &fs::DirEntry| parse(&other.file_name().to_string_lossy()) == Some((portal, iqn));
    if entries(siblings)?.iter().any(same) {
        // Another disk of the same target is in use.
        return Ok(());
    }
    let node = ["-m", "node", "-p", portal, "-T", iqn, "-I", interface];
    admin(&[&node[..], &["--logout"]].concat()).await?;
    let _ = admin(&[&node[..], &["-o", "delete"]].concat()).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert_eq!(
            portals("10.0.0.1", Some(&["[fd::1]".into(), "h:1".into()])),
            ["10.0.0.1:3260", "[fd::1]:3260", "h:1"]
        );
        assert_eq!(
            parse("10.0.0.1:3260-iqn.2001-04.com.example:a-lun-b-lun-0"),
            Some(("10.0.0.1:3260", "iqn.2001-04.com.example:a-lun-b"))
        );
        assert_eq!(parse("x"), None);
    }
}
