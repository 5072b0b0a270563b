//! `CredentialProviderConfig`: which programs there are, and what may not be said of them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde::Deserialize;

use super::GROUP;

/// The file.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    #[serde(rename = "apiVersion")]
    _api_version: String,
    #[serde(rename = "kind")]
    _kind: String,
    #[serde(default)]
    providers: Vec<Provider>,
}

/// A program and which images it knows about.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Provider {
    #[serde(default)]
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
#[serde(rename_all = "camelCase")]
pub struct TokenAttributes {
    #[serde(default)]
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

/// The providers of a text, as they are written.
pub fn parse(text: &str) -> anyhow::Result<Vec<Provider>> {
    let value = match text.trim() {
        "" => serde_json::Value::Null,
        text => component::config::yaml(text)?,
    };
    let (version, kind) = (value["apiVersion"].as_str(), value["kind"].as_str().unwrap_or_default());
    ensure!(!kind.is_empty(), "Object 'Kind' is missing in '{}'", text.trim());
    let version = version.unwrap_or_default();
    let known = ["v1", "v1beta1", "v1alpha1"].map(|v| format!("kubelet.config.k8s.io/{v}"));
    ensure!(
        kind == "CredentialProviderConfig" && known.iter().any(|v| v == version),
        "no kind {kind:?} is registered for version {version:?} in scheme \"pkg/credentialprovider/plugin/plugin.go:69\""
    );
    let (file, unknown): (File, Vec<String>) = component::config::typed(value)?;
    if !unknown.is_empty() {
        let unknown: Vec<String> =
            unknown.iter().map(|f| format!("unknown field \"{}\"", place(f))).collect();
        bail!("strict decoding error: {}", unknown.join(", "));
    }
    Ok(file.providers)
}

/// A path as messages write it: `providers[0].foo`.
fn place(path: &str) -> String {
    let mut out = String::new();
    for part in path.split('.').filter(|part| *part != "?") {
        match part.parse::<usize>() {
            Ok(index) => out.push_str(&format!("[{index}]")),
            Err(_) if out.is_empty() => out.push_str(part),
            Err(_) => out.push_str(&format!(".{part}")),
        }
    }
    out
}

/// Refuses what cannot work, all of it at once.
pub fn check(providers: &[Provider]) -> anyhow::Result<()> {
    let mut errors = Vec::new();
    if providers.is_empty() {
        errors.push("providers: Required value: at least 1 item in plugins is required".into());
    }
    for (index, provider) in providers.iter().enumerate() {
        let name = &provider.name;
        if providers[..index].iter().any(|other| other.name == *name) {
            bail!("duplicate provider name {name:?} found in configuration file(s)");
        }
        check_one(provider, &mut errors);
    }
    match errors.as_slice() {
        [] => Ok(()),
        [one] => bail!("failed to validate credential provider config: {one}"),
        many => bail!("failed to validate credential provider config: [{}]", many.join(", ")),
    }
}

fn check_one(provider: &Provider, errors: &mut Vec<String>) {
    let mut wrong = |field: &str, why: String| errors.push(format!("providers.{field}: {why}"));
    let name = provider.name.as_str();
    for (found, why) in [
        (name.contains('/'), "contain '/'"),
        (name.contains(' '), "contain spaces"),
        (name == ".", "be '.'"),
        (name == "..", "be '..'"),
    ] {
        if found {
            wrong("name", format!("Invalid value: {name:?}: provider name cannot {why}"));
        }
    }
    let version = provider.api_version.as_str();
    let versions = ["v1", "v1alpha1", "v1beta1"].map(|v| format!("{GROUP}/{v}"));
    if version.is_empty() {
        wrong("apiVersion", "Required value".into());
    } else if !versions.iter().any(|v| v == version) {
        let known = versions.join("\", \"");
        wrong("apiVersion", format!("Unsupported value: {version:?}: supported values: \"{known}\""));
    }
    if provider.match_images.is_empty() {
        wrong("matchImages", "Required value: at least 1 item in matchImages is required".into());
    }
    for image in &provider.match_images {
        if let Some(why) = no_url(image) {
            wrong("matchImages", format!("Invalid value: {image:?}: match image is invalid: {why}"));
        }
    }
    match provider.default_cache_duration.as_deref() {
        None => wrong("defaultCacheDuration", "Required value".into()),
        Some(text) if text.starts_with('-') => {
            let why = "must be greater than or equal to 0";
            wrong("defaultCacheDuration", format!("Invalid value: {text:?}: {why}"));
        }
        Some(text) => {
            if let Err(error) = duration_of(text) {
                wrong("defaultCacheDuration", format!("Invalid value: {text:?}: {error}"));
            }
        }
    }
    if let Some(token) = &provider.token_attributes {
        check_token(token, version, &mut |field, why| wrong(&format!("tokenAttributes{field}"), why));
    }
}

/// Why an image pattern is no address.
fn no_url(image: &str) -> Option<String> {
    let mut rest = image;
    while let Some(at) = rest.find('%') {
        let code: String = rest[at..].chars().take(3).collect();
        if code.len() < 3 || !code[1..].chars().all(|c| c.is_ascii_hexdigit()) {
            return Some(format!("parse \"https://{image}\": invalid URL escape {code:?}"));
        }
        rest = &rest[at + 1..];
    }
    let bad = image.chars().find(|c| c.is_whitespace() || c.is_control());
    bad.map(|c| format!("parse \"https://{image}\": invalid character {:?} in host name", c.to_string()))
}

fn check_token(token: &TokenAttributes, version: &str, wrong: &mut dyn FnMut(&str, String)) {
    if token.service_account_token_audience.is_empty() {
        wrong(".serviceAccountTokenAudience", "Required value".into());
    }
    let v1 = format!("{GROUP}/v1");
    if version != v1 {
        wrong("", format!("Forbidden: tokenAttributes is only supported for {v1} API version"));
    }
    let (required, optional) =
        (&token.required_service_account_annotation_keys, &token.optional_service_account_annotation_keys);
    match token.require_service_account {
        None => wrong(".requireServiceAccount", "Required value".into()),
        Some(false) if !required.is_empty() => wrong(
            ".requiredServiceAccountAnnotationKeys",
            "Forbidden: requireServiceAccount cannot be false when requiredServiceAccountAnnotationKeys is set"
                .into(),
        ),
        Some(_) => {}
    }
    for (field, keys) in [
        (".requiredServiceAccountAnnotationKeys", required),
        (".optionalServiceAccountAnnotationKeys", optional),
    ] {
        for (index, key) in keys.iter().enumerate() {
            for why in api::names::qualified_name(&key.to_lowercase()) {
                wrong(field, format!("Invalid value: {key:?}: {why}"));
            }
            if keys[..index].contains(key) {
                wrong(field, format!("Duplicate value: {key:?}"));
            }
        }
    }
    let both: Vec<String> =
        required.iter().filter(|k| optional.contains(k)).map(|k| format!("{k:?}")).collect();
    if !both.is_empty() {
        let both = both.join(",");
        wrong("", format!("Invalid value: [{both}]: annotation keys cannot be both required and optional"));
    }
    match token.cache_type.as_deref() {
        None | Some("") => wrong(
            ".cacheType",
            "Required value: cacheType is required to be set when tokenAttributes is specified. Supported values are: ServiceAccount, Token"
                .into(),
        ),
        Some("ServiceAccount" | "Token") => {}
        Some(other) => {
            let known = "supported values: \"ServiceAccount\", \"Token\"";
            wrong(".cacheType", format!("Unsupported value: {other:?}: {known}"));
        }
    }
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
