//! Follows a pod's volume to what it really is: through claims to persistent volumes, to the [`Volume`] that does it.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{self, PersistentVolume, PersistentVolumeClaim, Pod};

use crate::host_path::HostPath;
use crate::iscsi::Iscsi;
use crate::local::Local;
use crate::nfs::Nfs;
use crate::{Error, Objects, Result, Volume};
use crate::{config_map, csi, downward_api, empty_dir, projected, secret};

/// A volume and what is to be known of it before it is set up.
pub struct Found {
    /// What its folder and its events call it.
    pub name: String,
    /// What does it.
    pub volume: Box<dyn Volume>,
    /// Whether it may only be read.
    pub read_only: bool,
    /// Whether it is a device.
    pub block: bool,
    /// The claim it comes through.
    pub claim: Option<String>,
}

/// A bound claim with its volume.
#[derive(Clone)]
pub struct Bound {
    /// The claim.
    pub claim: Arc<PersistentVolumeClaim>,
    /// The volume.
    pub volume: Arc<PersistentVolume>,
}

/// The name of the plugin of a volume, as far as the pod says it.
pub fn plugin(spec: &v1::Volume) -> &'static str {
    let kinds = [
        (spec.empty_dir.is_some(), "kubernetes.io/empty-dir"),
        (spec.host_path.is_some(), "kubernetes.io/host-path"),
        (spec.config_map.is_some(), "kubernetes.io/configmap"),
        (spec.secret.is_some(), "kubernetes.io/secret"),
        (spec.downward_api.is_some(), "kubernetes.io/downward-api"),
        (spec.projected.is_some(), "kubernetes.io/projected"),
        (spec.nfs.is_some(), "kubernetes.io/nfs"),
        (spec.iscsi.is_some(), "kubernetes.io/iscsi"),
        (spec.image.is_some(), "kubernetes.io/image"),
    ];
    kinds.into_iter().find(|(is, _)| *is).map_or("kubernetes.io/csi", |(_, name)| name)
}

/// What a volume of a pod is.
pub async fn find(spec: &v1::Volume, pod: &Pod, objects: &dyn Objects) -> Result<Found> {
    if let Some(claim) = &spec.persistent_volume_claim {
        let read_only = claim.read_only.unwrap_or(false);
        return through_claim(spec, &claim.claim_name, read_only, pod, objects).await;
    }
    if spec.ephemeral.is_some() {
        let claim = format!("{}-{}", pod.metadata.name.as_deref().unwrap_or_default(), spec.name);
        return through_claim(spec, &claim, false, pod, objects).await;
    }
    let (volume, read_only): (Box<dyn Volume>, bool) = if let Some(source) = &spec.empty_dir {
        (Box::new(empty_dir::EmptyDir::new(source, pod)?), false)
    } else if let Some(source) = &spec.host_path {
        (Box::new(HostPath::new(source.clone())), false)
    } else if let Some(source) = &spec.config_map {
        (Box::new(config_map::ConfigMapVolume { source: source.clone() }), true)
    } else if let Some(source) = &spec.secret {
        (Box::new(secret::SecretVolume { source: source.clone() }), true)
    } else if let Some(source) = &spec.downward_api {
        (Box::new(downward_api::DownwardVolume { source: source.clone() }), true)
    } else if let Some(source) = &spec.projected {
        (Box::new(projected::ProjectedVolume { source: source.clone() }), true)
    } else if let Some(source) = &spec.nfs {
        (Box::new(Nfs { source: source.clone(), options: Vec::new() }), source.read_only.unwrap_or(false))
    } else if let Some(source) = &spec.iscsi {
        (Box::new(Iscsi::inline(source, pod)), source.read_only.unwrap_or(false))
    } else if let Some(source) = &spec.csi {
        let volume = csi::Csi::inline(source, &spec.name, pod, objects).await?;
        (Box::new(volume), source.read_only.unwrap_or(false))
    } else {
        let why = "failed to get Plugin from volumeSpec for volume";
        return Err(Error::Unprocessed(format!("{why} {:?} err=no volume plugin matched", spec.name)));
    };
    Ok(Found { name: spec.name.clone(), volume, read_only, block: false, claim: None })
}

async fn through_claim(
    spec: &v1::Volume,
    claim: &str,
    read_only: bool,
    pod: &Pod,
    objects: &dyn Objects,
) -> Result<Found> {
    let bound = follow(claim, spec.ephemeral.is_some(), pod, objects).await?;
    let mode = bound.volume.spec.as_ref().and_then(|s| s.volume_mode.clone());
    let mode = mode.as_deref().unwrap_or("Filesystem");
    check_mode(&spec.name, mode, pod)?;
    persistent(bound, mode == "Block", read_only, objects).await
}

/// The volume that a claim is bound to.
async fn follow(name: &str, owned: bool, pod: &Pod, objects: &dyn Objects) -> Result<Bound> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let failed = |why: String| Error::Unprocessed(format!("error processing PVC {namespace}/{name}: {why}"));
    let claim = objects
        .claim(namespace, name)
        .await
        .map_err(|e| failed(format!("failed to fetch PVC from API server: {e}")))?;
    let protected = claim.metadata.finalizers.iter().flatten().any(|f| f == "kubernetes.io/pvc-protection");
    if claim.metadata.deletion_timestamp.is_some() && !protected {
        return Err(failed("PVC is being deleted".into()));
    }
    if claim.status.as_ref().and_then(|s| s.phase.as_deref()) != Some("Bound") {
        return Err(failed("PVC is not bound".into()));
    }
    if owned && !is_owned(&claim, pod) {
        let pod_name = pod.metadata.name.as_deref().unwrap_or_default();
        return Err(Error::Unprocessed(format!(
            "PVC {namespace}/{name} was not created for pod {namespace}/{pod_name} (pod is not owner)"
        )));
    }
    let volume_name = claim.spec.as_ref().and_then(|s| s.volume_name.as_deref()).unwrap_or_default();
    if volume_name.is_empty() {
        return Err(failed("PVC has empty pvc.Spec.VolumeName".into()));
    }
    let volume = objects
        .persistent_volume(volume_name)
        .await
        .map_err(|e| failed(format!("failed to fetch PV {volume_name} from API server: {e}")))?;
    let claim_uid = claim.metadata.uid.as_deref().unwrap_or_default();
    match volume.spec.as_ref().and_then(|s| s.claim_ref.as_ref()) {
        None => Err(failed(format!(
            "found PV object {volume_name} but it has a nil pv.Spec.ClaimRef indicating it is not yet bound to the claim"
        ))),
        Some(reference) if reference.uid.as_deref() != Some(claim_uid) => {
            let uid = reference.uid.as_deref().unwrap_or_default();
            Err(failed(format!(
                "found PV object {volume_name} but its pv.Spec.ClaimRef.UID {uid} does not point to claim.UID {claim_uid}"
            )))
        }
        Some(_) => Ok(Bound { claim, volume }),
    }
}

fn is_owned(claim: &PersistentVolumeClaim, pod: &Pod) -> bool {
    let owners = claim.metadata.owner_references.iter().flatten();
    owners.filter(|o| o.controller == Some(true)).any(|o| Some(&o.uid) == pod.metadata.uid.as_ref())
}

/// A file system is mounted and a device is not.
fn check_mode(name: &str, mode: &str, pod: &Pod) -> Result<()> {
    let Some(spec) = &pod.spec else { return Ok(()) };
    let containers = || spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let mounted = containers().any(|c| c.volume_mounts.iter().flatten().any(|m| m.name == name));
    let mapped = containers().any(|c| c.volume_devices.iter().flatten().any(|d| d.name == name));
    let wrong = if mounted && mode != "Filesystem" {
        "volumeMounts"
    } else if mapped && mode != "Block" {
        "volumeDevices"
    } else {
        return Ok(());
    };
    Err(Error::Unprocessed(format!("volume {name} has volumeMode {mode}, but is specified in {wrong}")))
}

async fn persistent(bound: Bound, block: bool, read_only: bool, objects: &dyn Objects) -> Result<Found> {
    let name = bound.volume.metadata.name.clone().unwrap_or_default();
    let claim = bound.claim.metadata.name.clone();
    let Some(spec) = bound.volume.spec.clone() else {
        return Err(Error::Unprocessed(format!("persistent volume {name} has no spec")));
    };
    let options = spec.mount_options.clone().unwrap_or_default();
    let (volume, own_read_only): (Box<dyn Volume>, bool) = if let Some(source) = spec.host_path {
        (Box::new(HostPath::new(source)), false)
    } else if let Some(source) = spec.local {
        (
            Box::new(Local { path: source.path.into(), fs_type: source.fs_type, options, block, read_only }),
            false,
        )
    } else if let Some(source) = spec.nfs {
        let own = source.read_only.unwrap_or(false);
        (Box::new(Nfs { source, options }), own)
    } else if let Some(source) = spec.iscsi {
        let own = source.read_only.unwrap_or(false);
        (Box::new(Iscsi::persistent(source, options, block)), own)
    } else if let Some(source) = spec.csi {
        let own = source.read_only.unwrap_or(false);
        (Box::new(csi::Csi::persistent(source, bound, block, read_only, objects).await?), own)
    } else {
        let why = "failed to get Plugin from volumeSpec for volume";
        return Err(Error::Unprocessed(format!("{why} {name:?} err=no volume plugin matched")));
    };
    Ok(Found { name, volume, read_only: read_only || own_read_only, block, claim })
}
