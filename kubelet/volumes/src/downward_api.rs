//! `downwardAPI`: what a pod may know of itself, as files.

use std::path::PathBuf;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Container, DownwardAPIVolumeFile, DownwardAPIVolumeSource, Pod};

use crate::projected::write;
use crate::{Error, File, Payload, Result, Setup, Volume, field, layout};

/// A `downwardAPI` volume.
pub struct DownwardVolume {
    pub source: DownwardAPIVolumeSource,
}

#[async_trait]
impl Volume for DownwardVolume {
    async fn set_up(&self, setup: &Setup<'_>) -> Result<PathBuf> {
        let mode = self.source.default_mode.unwrap_or(0o644);
        let payload = payload(setup, self.source.items.as_deref().unwrap_or_default(), mode)?;
        write(setup, layout::DOWNWARD_API, payload, true).await
    }

    fn refreshes(&self) -> bool {
        true
    }
}

/// The files of a downward API volume or projection.
pub fn payload(setup: &Setup<'_>, items: &[DownwardAPIVolumeFile], mode: i32) -> Result<Payload> {
    let mut payload = Payload::new();
    for item in items {
        let value = value(setup, item).map_err(Error::other)?;
        let mode = item.mode.unwrap_or(mode) as u32 & 0o7777;
        payload.insert(item.path.clone(), File { data: value.into_bytes(), mode, owner: None });
    }
    Ok(payload)
}

fn value(setup: &Setup<'_>, item: &DownwardAPIVolumeFile) -> std::result::Result<String, String> {
    let downward = &setup.facts.downward;
    if let Some(field) = &item.field_ref {
        return field::value(setup.pod, &field.field_path, downward);
    }
    let Some(selector) = &item.resource_field_ref else { return Ok(String::new()) };
    let name = selector.container_name.as_deref().unwrap_or_default();
    let container = find_container(setup.pod, name).ok_or_else(|| format!("container {name} not found"))?;
    field::resource(selector, container, downward)
}

fn find_container<'a>(pod: &'a Pod, name: &str) -> Option<&'a Container> {
    let spec = pod.spec.as_ref()?;
    let init = spec.init_containers.iter().flatten();
    spec.containers.iter().chain(init).find(|container| container.name == name)
}
