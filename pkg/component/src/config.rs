//! Component configuration files: YAML or JSON, `apiVersion` and `kind` checked, unknown and duplicate fields refused.

use anyhow::{Context, bail};
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Configuration files are small; anything larger is a mistake.
const MAX_BYTES: u64 = 4 << 20;

/// Loads a configuration file strictly.
pub fn load<T: DeserializeOwned>(path: &str, api_version: &str, kind: &str) -> anyhow::Result<T> {
    parse(&read(path)?, api_version, kind).with_context(|| format!("failed to load config file {path}"))
}

/// Loads a configuration file; unknown fields are logged, not refused. kubelet and kube-proxy treat their files so.
pub fn load_lenient<T: DeserializeOwned>(path: &str, api_version: &str, kind: &str) -> anyhow::Result<T> {
    let value = to_value(&read(path)?, api_version, kind, false)
        .with_context(|| format!("failed to load config file {path}"))?;
    let (config, unknown) = typed(value).with_context(|| format!("failed to load config file {path}"))?;
    if !unknown.is_empty() {
        tracing::warn!(path, fields = unknown.join(","), "Using lenient decoding as strict decoding failed");
    }
    Ok(config)
}

/// Reads a configuration file's text.
pub fn read(path: &str) -> anyhow::Result<String> {
    let meta = std::fs::metadata(path).with_context(|| format!("open {path}"))?;
    if meta.len() > MAX_BYTES {
        bail!("{path} is larger than {MAX_BYTES} bytes");
    }
    std::fs::read_to_string(path).with_context(|| format!("open {path}"))
}

/// Strictly parses a configuration document.
pub fn parse<T: DeserializeOwned>(text: &str, api_version: &str, kind: &str) -> anyhow::Result<T> {
    let value = to_value(text, api_version, kind, true)?;
    let (config, unknown) = typed(value)?;
    if let Some(first) = unknown.first() {
        let more: Vec<String> = unknown.iter().map(|f| format!("unknown field \"{f}\"")).collect();
        debug_assert!(!first.is_empty());
        bail!("strict decoding error: {}", more.join(", "));
    }
    Ok(config)
}

/// Parses any YAML or JSON document to a value; duplicate keys are an error, anchors are bounded.
pub fn yaml(text: &str) -> anyhow::Result<Value> {
    parse_yaml(text, true)
}

/// Parses any YAML or JSON document to a value; of duplicate keys the last counts.
pub fn yaml_lenient(text: &str) -> anyhow::Result<Value> {
    parse_yaml(text, false)
}

fn parse_yaml(text: &str, strict: bool) -> anyhow::Result<Value> {
    let mut options = serde_saphyr::options! { strict_booleans: true, with_snippet: false };
    if !strict {
        options.duplicate_keys = serde_saphyr::DuplicateKeyPolicy::LastWins;
    }
    serde_saphyr::from_str_with_options(text, options).map_err(|e| anyhow::anyhow!("{e}"))
}

fn to_value(text: &str, api_version: &str, kind: &str, strict: bool) -> anyhow::Result<Value> {
    let mut value = parse_yaml(text, strict)?;
    let Some(object) = value.as_object_mut() else { bail!("the document is not an object") };
    let mut take = |key: &str| match object.remove(key) {
        Some(Value::String(s)) => s,
        _ => String::new(),
    };
    let (found_kind, found_version) = (take("kind"), take("apiVersion"));
    if found_kind.is_empty() {
        bail!("Object 'Kind' is missing");
    }
    if found_version.is_empty() {
        bail!("Object 'apiVersion' is missing");
    }
    if found_kind != kind || found_version != api_version {
        bail!(
            "no kind {found_kind:?} is registered for version {found_version:?} (want {kind} of {api_version})"
        );
    }
    Ok(value)
}

/// Reads a value into a type; also the paths of fields that the type has not.
pub fn typed<T: DeserializeOwned>(value: Value) -> anyhow::Result<(T, Vec<String>)> {
    let mut unknown = Vec::new();
    let config = serde_ignored::deserialize(value, |path| unknown.push(path.to_string()))?;
    Ok((config, unknown))
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Default, Deserialize, PartialEq)]
    #[serde(default, rename_all = "camelCase")]
    struct Inner {
        leader_elect: bool,
        #[serde(with = "crate::duration")]
        lease_duration: std::time::Duration,
    }

    #[derive(Debug, Default, Deserialize, PartialEq)]
    #[serde(default, rename_all = "camelCase")]
    struct Config {
        leader_election: Inner,
    }

    #[test]
    fn strictness() {
        let head = "apiVersion: x/v1\nkind: C\n";
        let load =
            |body: &str| parse::<Config>(&format!("{head}{body}"), "x/v1", "C").map_err(|e| e.to_string());
        let good = load("leaderElection:\n  leaderElect: true\n  leaseDuration: 15s\n").unwrap();
        assert!(good.leader_election.leader_elect);
        assert_eq!(good.leader_election.lease_duration.as_secs(), 15);
        assert_eq!(
            load("leaderElection: {leaderElekt: true}\n").unwrap_err(),
            "strict decoding error: unknown field \"leaderElection.leaderElekt\""
        );
        assert!(load("leaderElection: {}\nleaderElection: {}\n").unwrap_err().contains("duplicate"));
        assert!(parse::<Config>("apiVersion: x/v2\nkind: C\n", "x/v1", "C").is_err());
        assert!(parse::<Config>("kind: C\n", "x/v1", "C").unwrap_err().to_string().contains("apiVersion"));
    }
}
