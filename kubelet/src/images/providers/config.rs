//! `CredentialProviderConfig`: which programs there are, and what may not be said of them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde::Deserialize;

use super::GROUP;

/// The file.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    api_version: String,
    kind: String,
    #[serde(default)]
    providers: Vec<Provider>,
}

/// A program and which images it knows about.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Provider {
    pub name: String,
    #[serde(default)]
    pub match_images: Vec<String>,
    pub default_cache_duration: Option<String>,
    #[serde(default)]
    pub api_version: String,
    #[serde(default)]
    pub args: Vec<String>,
    #[serde(default)]
    pub env: Vec<Variable>,
    pub token_attributes: Option<TokenAttributes>,
}

/// A variable of a program's environment.
#[derive(Debug, Clone, Deserialize)]
pub struct Variable {
    pub name: String,
    pub value: String,
}

/// How a program gets to know the pod's service account.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TokenAttributes {
    pub service_account_token_audience: String,
    pub cache_type: Option<String>,
    pub require_service_account: Option<bool>,
    #[serde(default)]
    pub required_service_account_annotation_keys: Vec<String>,
    #[serde(default)]
    pub optional_service_account_annotation_keys: Vec<String>,
}

/// The file itself, or those of a folder in the order of their names.
pub fn files(config: &Path) -> anyhow::Result<Vec<PathBuf>> {
    if !config.is_dir() {
        return Ok(vec![config.to_path_buf()]);
    }
    let entries = std::fs::read_dir(config).with_context(|| format!("cannot read {}", config.display()))?;
    let named = |path: &PathBuf| {
        path.is_file() && path.extension().is_some_and(|e| e == "json" || e == "yaml" || e == "yml")
    };
    let mut files: Vec<PathBuf> = entries.flatten().map(|e| e.path()).filter(named).collect();
    files.sort();
    Ok(files)
}

pub fn parse(text: &str) -> anyhow::Result<Vec<Provider>> {
    let file: File = serde_saphyr::from_str(text)?;
    ensure!(file.kind == "CredentialProviderConfig", "unexpected kind {:?}", file.kind);
    let version = file.api_version.strip_prefix("kubelet.config.k8s.io/").unwrap_or_default();
    ensure!(["v1", "v1beta1", "v1alpha1"].contains(&version), "unexpected apiVersion {:?}", file.api_version);
    for provider in &file.providers {
        check(provider)
            .with_context(|| format!("failed to validate credential provider config: {}", provider.name))?;
    }
    Ok(file.providers)
}

pub fn check(provider: &Provider) -> anyhow::Result<()> {
    let name = provider.name.as_str();
    ensure!(!name.contains('/'), "provider name cannot contain '/'");
    ensure!(!name.contains(' '), "provider name cannot contain spaces");
    ensure!(!matches!(name, "" | "." | ".."), "provider name cannot be {name:?}");
    let version = provider.api_version.strip_prefix(GROUP).and_then(|v| v.strip_prefix('/'));
    ensure!(
        matches!(version, Some("v1" | "v1beta1" | "v1alpha1")),
        "invalid apiVersion: {:?}",
        provider.api_version
    );
    ensure!(!provider.match_images.is_empty(), "at least 1 item in matchImages is required");
    let duration =
        provider.default_cache_duration.as_deref().context("defaultCacheDuration: Required value")?;
    duration_of(duration).context("defaultCacheDuration")?;
    if let Some(token) = &provider.token_attributes {
        ensure!(
            !token.service_account_token_audience.is_empty(),
            "serviceAccountTokenAudience: Required value"
        );
        let required = token.require_service_account.context("requireServiceAccount: Required value")?;
        ensure!(
            required || token.required_service_account_annotation_keys.is_empty(),
            "requiredServiceAccountAnnotationKeys: Forbidden: requireServiceAccount cannot be false when requiredServiceAccountAnnotationKeys is set"
        );
        let twice = |key: &String| token.optional_service_account_annotation_keys.contains(key);
        let both = token.required_service_account_annotation_keys.iter().any(twice);
        ensure!(!both, "annotation keys cannot be both required and optional");
        let kind = token.cache_type.as_deref();
        ensure!(
            matches!(kind, Some("ServiceAccount" | "Token")),
            "cacheType is required to be set when tokenAttributes is specified. Supported values are: ServiceAccount, Token"
        );
    }
    Ok(())
}

/// A duration as Go writes it.
pub fn duration_of(text: &str) -> anyhow::Result<Duration> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut total = 0.0;
    let mut rest = text;
    ensure!(!rest.is_empty() && !rest.starts_with('-'), "invalid duration {text:?}");
    while !rest.is_empty() {
        let end =
            rest.find(|c: char| !c.is_ascii_digit() && c != '.').context("a duration lacks its unit")?;
        let number: f64 = rest[..end].parse().with_context(|| format!("invalid duration {text:?}"))?;
        let unit_end = rest[end..].find(|c: char| c.is_ascii_digit()).map_or(rest.len(), |at| end + at);
        let seconds = match &rest[end..unit_end] {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => bail!("invalid duration {text:?}"),
        };
        total += number * seconds;
        rest = &rest[unit_end..];
    }
    Duration::try_from_secs_f64(total).with_context(|| format!("invalid duration {text:?}"))
}
