//! `secret`: the keys of a Secret as files in memory.

use std::path::PathBuf;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{KeyToPath, Secret, SecretVolumeSource};

use crate::config_map::select;
use crate::projected::write;
use crate::{Error, Payload, Result, Setup, Volume, layout};

/// A `secret` volume.
pub struct SecretVolume {
    pub source: SecretVolumeSource,
}

#[async_trait]
impl Volume for SecretVolume {
    async fn set_up(&self, setup: &Setup<'_>) -> Result<PathBuf> {
        let optional = self.source.optional.unwrap_or(false);
        let mode = self.source.default_mode.unwrap_or(0o644);
        let name = self.source.secret_name.as_deref().unwrap_or_default();
        let payload = match setup.objects().secret(setup.namespace(), name).await {
            Ok(object) => payload(&object, self.source.items.as_deref(), mode, optional)?,
            Err(Error::NotFound(_)) if optional => Payload::new(),
            Err(error) => return Err(error),
        };
        write(setup, layout::SECRET, payload, true).await
    }

    fn refreshes(&self) -> bool {
        true
    }
}

/// The files of a Secret: all keys, or those named.
pub fn payload(object: &Secret, items: Option<&[KeyToPath]>, mode: i32, optional: bool) -> Result<Payload> {
    let data = |key: &str| object.data.as_ref().and_then(|d| d.get(key)).map(|v| v.0.clone());
    let keys = object.data.iter().flat_map(|d| d.keys()).cloned().collect();
    let missing = |key: &str| Error::other(format!("references non-existent secret key: {key}"));
    select(data, keys, items, mode, optional, missing)
}
