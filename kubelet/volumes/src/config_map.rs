//! `configMap`: the keys of a ConfigMap as files.

use std::path::PathBuf;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{ConfigMap, ConfigMapVolumeSource, KeyToPath};

use crate::projected::write;
use crate::{Error, File, Payload, Result, Setup, Volume, layout};

/// A `configMap` volume.
pub struct ConfigMapVolume {
    pub source: ConfigMapVolumeSource,
}

#[async_trait]
impl Volume for ConfigMapVolume {
    async fn set_up(&self, setup: &Setup<'_>) -> Result<PathBuf> {
        let optional = self.source.optional.unwrap_or(false);
        let mode = self.source.default_mode.unwrap_or(0o644);
        let found = setup.objects().config_map(setup.namespace(), &self.source.name).await;
        let payload = match found {
            Ok(object) => payload(&object, self.source.items.as_deref(), mode, optional)?,
            Err(Error::NotFound(_)) if optional => Payload::new(),
            Err(error) => return Err(error),
        };
        write(setup, layout::CONFIG_MAP, payload, false).await
    }

    fn refreshes(&self) -> bool {
        true
    }
}

/// The files of a ConfigMap: all keys, or those named.
pub fn payload(
    object: &ConfigMap,
    items: Option<&[KeyToPath]>,
    mode: i32,
    optional: bool,
) -> Result<Payload> {
    let data = |key: &str| {
        let text = object.data.as_ref().and_then(|d| d.get(key)).map(|v| v.clone().into_bytes());
        text.or_else(|| object.binary_data.as_ref().and_then(|d| d.get(key)).map(|v| v.0.clone()))
    };
    let keys =
        object.data.iter().flat_map(|d| d.keys()).chain(object.binary_data.iter().flat_map(|d| d.keys()));
    let missing = |key: &str| Error::other(format!("configmap references non-existent config key: {key}"));
    select(data, keys.cloned().collect(), items, mode, optional, missing)
}

/// Picks keys as a volume's `items` say; without items, all.
pub fn select(
    data: impl Fn(&str) -> Option<Vec<u8>>,
    keys: Vec<String>,
    items: Option<&[KeyToPath]>,
    mode: i32,
    optional: bool,
    missing: impl Fn(&str) -> Error,
) -> Result<Payload> {
    let file = |data, mode: i32| File { data, mode: mode as u32 & 0o7777, owner: None };
    let Some(items) = items.filter(|items| !items.is_empty()) else {
        let all = keys.into_iter().filter_map(|key| data(&key).map(|d| (key, file(d, mode))));
        return Ok(all.collect());
    };
    let mut payload = Payload::new();
    for item in items {
        match data(&item.key) {
            Some(data) => drop(payload.insert(item.path.clone(), file(data, item.mode.unwrap_or(mode)))),
            None if optional => {}
            None => return Err(missing(&item.key)),
        }
    }
    Ok(payload)
}
