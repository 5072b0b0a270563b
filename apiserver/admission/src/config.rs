//! `--admission-control-config-file`: an AdmissionConfiguration, with the configuration of single
//! plugins inside or in files beside it.

use anyhow::{Context, Result, bail};
use api::Value;
use serde::Deserialize;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Document {
    api_version: String,
    kind: String,
    #[serde(default)]
    plugins: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    #[serde(default)]
    path: PathBuf,
    #[serde(default)]
    configuration: Option<Value>,
}

/// The configuration of each plugin that has one.
pub fn load(path: &Path) -> Result<HashMap<String, Value>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let document: Document =
        serde_saphyr::from_str(&text).with_context(|| format!("in {}", path.display()))?;
    let known = ["apiserver.config.k8s.io/v1", "apiserver.k8s.io/v1alpha1"];
    if document.kind != "AdmissionConfiguration" || !known.contains(&document.api_version.as_str()) {
        bail!(
            "no kind {:?} is registered for version {:?} in {}",
            document.kind,
            document.api_version,
            path.display()
        );
    }
    let base = path.parent().unwrap_or(Path::new("."));
    document.plugins.into_iter().map(|e| entry(base, e)).collect()
}

fn entry(base: &Path, entry: Entry) -> Result<(String, Value)> {
    if let Some(value) = entry.configuration {
        return Ok((entry.name, value));
    }
    if entry.path.as_os_str().is_empty() {
        return Ok((entry.name, Value::Null));
    }
    let path = base.join(&entry.path);
    let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let value = serde_saphyr::from_str(&text).with_context(|| format!("in {}", path.display()))?;
    Ok((entry.name, value))
}
