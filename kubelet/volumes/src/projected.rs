//! `projected`: several sources in one volume, and how all file-like volumes are written.

use std::fs;
use std::path::PathBuf;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Pod, PodCertificateProjection, ProjectedVolumeSource, VolumeProjection};

use crate::{Credentials, Error, File, Payload, Result, Setup, TokenRequest, Volume};
use crate::{atomic, config_map, downward_api, layout, mount, secret};

/// A `projected` volume.
pub struct ProjectedVolume {
    pub source: ProjectedVolumeSource,
}

#[async_trait]
impl Volume for ProjectedVolume {
    async fn set_up(&self, setup: &Setup<'_>) -> Result<PathBuf> {
        let mode = self.source.default_mode.unwrap_or(0o644);
        let mut payload = Payload::new();
        let mut errors = Vec::new();
        for source in self.source.sources.iter().flatten() {
            match project(source, setup, mode).await {
                Ok(files) => payload.extend(files),
                Err(error) => errors.push(error.to_string()),
            }
        }
        match errors.as_slice() {
            [] => write(setup, layout::PROJECTED, payload, true).await,
            [one] => Err(Error::other(one)),
            many => Err(Error::other(format!("[{}]", many.join(", ")))),
        }
    }

    fn refreshes(&self) -> bool {
        true
    }
}

async fn project(source: &VolumeProjection, setup: &Setup<'_>, mode: i32) -> Result<Payload> {
    let namespace = setup.namespace();
    if let Some(source) = &source.config_map {
        let optional = source.optional.unwrap_or(false);
        return match setup.objects().config_map(namespace, &source.name).await {
            Ok(object) => config_map::payload(&object, source.items.as_deref(), mode, optional),
            Err(Error::NotFound(_)) if optional => Ok(Payload::new()),
            Err(error) => Err(error),
        };
    }
    if let Some(source) = &source.secret {
        let optional = source.optional.unwrap_or(false);
        return match setup.objects().secret(namespace, &source.name).await {
            Ok(object) => secret::payload(&object, source.items.as_deref(), mode, optional),
            Err(Error::NotFound(_)) if optional => Ok(Payload::new()),
            Err(error) => Err(error),
        };
    }
    if let Some(source) = &source.downward_api {
        return downward_api::payload(setup, source.items.as_deref().unwrap_or_default(), mode);
    }
    if let Some(source) = &source.service_account_token {
        let request = TokenRequest {
            audience: source.audience.as_deref().unwrap_or_default(),
            expiration_seconds: source.expiration_seconds.unwrap_or(3600),
        };
        let token = setup.objects().token(setup.pod, request).await?;
        let owner = common_user(setup.pod);
        // A token that one user or one group is meant to read is nobody else's business.
        let mode = if owner.is_some() || setup.fs_group().is_some() { 0o600 } else { mode as u32 & 0o7777 };
        return Ok(Payload::from([(
            source.path.clone(),
            File { data: token.token.into_bytes(), mode, owner },
        )]));
    }
    if let Some(source) = &source.cluster_trust_bundle {
        let optional = source.optional.unwrap_or(false);
        let pem = match setup.objects().trust_bundle(source).await {
            Ok(pem) => pem,
            Err(Error::NotFound(_)) if optional => String::new(),
            Err(error) => return Err(error),
        };
        let file = File { data: pem.into_bytes(), mode: mode as u32 & 0o7777, owner: None };
        return Ok(Payload::from([(source.path.clone(), file)]));
    }
    if let Some(source) = &source.pod_certificate {
        return pod_certificate(source, setup, mode).await;
    }
    // A source that the apiserver has emptied, as it does with those behind a gate that is off: nothing to show.
    Ok(Payload::new())
}

/// A private key and its certificates, in one file or in two.
async fn pod_certificate(source: &PodCertificateProjection, setup: &Setup<'_>, mode: i32) -> Result<Payload> {
    let Credentials { key, chain } = setup.objects().pod_certificate(setup.pod, source).await?;
    let owner = common_user(setup.pod);
    let mode = if owner.is_some() || setup.fs_group().is_some() { 0o600 } else { mode as u32 & 0o7777 };
    let bundle = format!("{key}{chain}");
    let files = [
        (&source.credential_bundle_path, bundle),
        (&source.key_path, key),
        (&source.certificate_chain_path, chain),
    ];
    let wanted = files.into_iter().filter_map(|(path, text)| {
        let path = path.as_ref().filter(|p| !p.is_empty())?;
        Some((path.clone(), File { data: text.into_bytes(), mode, owner }))
    });
    Ok(wanted.collect())
}

/// The user that all containers run as, if it is the same and said.
fn common_user(pod: &Pod) -> Option<u32> {
    let spec = pod.spec.as_ref()?;
    let default = spec.security_context.as_ref().and_then(|c| c.run_as_user);
    let init = spec.init_containers.iter().flatten();
    let mut users = spec.containers.iter().chain(init).map(|container| {
        let own = container.security_context.as_ref().and_then(|c| c.run_as_user);
        own.or(default)
    });
    let first = users.next()??;
    users.all(|user| user == Some(first)).then(|| u32::try_from(first).ok())?
}

/// Writes the files of a volume; in memory if `tmpfs`.
pub async fn write(setup: &Setup<'_>, plugin: &str, payload: Payload, tmpfs: bool) -> Result<PathBuf> {
    let dir = setup.dir(plugin);
    let fs_group = setup.fs_group();
    let target = dir.clone();
    let write = move || {
        fs::create_dir_all(&target).map_err(|e| Error::io("mkdir", &target, e))?;
        if tmpfs && !mount::is_mount_point(&target) {
            mount::mount_tmpfs(&target, None)?;
        }
        crate::ownership::open_to_all(&target)?;
        atomic::write(&target, &payload, fs_group)?;
        if let Some(group) = fs_group {
            crate::ownership::apply(&target, group, true)?;
        }
        Ok(())
    };
    tokio::task::spawn_blocking(write).await.map_err(|e| Error::other(e.to_string()))??;
    Ok(dir)
}
