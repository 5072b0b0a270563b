//! Registry credentials: pull secrets of pods, and the node's own files.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use cri::v1::AuthConfig;
use k8s_openapi::api::core::v1::Secret;
use serde::Deserialize;

/// The registry of images that name none.
const DEFAULT_REGISTRY: &str = "index.docker.io";

/// Credentials by registry and path.
#[derive(Debug, Default)]
pub struct Keyring {
    entries: Vec<(String, AuthConfig)>,
}

#[derive(Deserialize)]
struct DockerConfig {
    #[serde(default)]
    auths: std::collections::BTreeMap<String, DockerAuth>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "lowercase")]
struct DockerAuth {
    username: String,
    password: String,
    auth: String,
    identitytoken: String,
}

impl Keyring {
    /// Adds the credentials of a pull secret; one that cannot be read adds nothing.
    pub fn add_secret(&mut self, secret: &Secret) {
        let data = |key: &str| secret.data.as_ref().and_then(|d| d.get(key)).map(|v| v.0.as_slice());
        if let Some(json) = data(".dockerconfigjson") {
            self.add_json(json);
        } else if let Some(json) = data(".dockercfg")
            && let Ok(auths) = serde_json::from_slice(json)
        {
            self.add(DockerConfig { auths });
        }
    }

    fn add_json(&mut self, json: &[u8]) {
        if let Ok(config) = serde_json::from_slice::<DockerConfig>(json) {
            self.add(config);
        }
    }

    fn add(&mut self, config: DockerConfig) {
        for (registry, auth) in config.auths {
            let (mut username, mut password) = (auth.username, auth.password);
            if username.is_empty() {
                let decoded = STANDARD.decode(auth.auth.trim()).ok().and_then(|b| String::from_utf8(b).ok());
                if let Some((user, pass)) = decoded.as_deref().and_then(|text| text.split_once(':')) {
                    username = user.to_string();
                    password = pass.trim_end_matches('\0').to_string();
                }
            }
            let credentials =
                AuthConfig { username, password, identity_token: auth.identitytoken, ..Default::default() };
            self.entries.push((normalize(&registry), credentials));
        }
        // The longest path is the most precise.
        self.entries.sort_by_key(|(key, _)| std::cmp::Reverse(key.len()));
    }

    /// The credentials that fit an image, most precise first.
    pub fn lookup(&self, image: &str) -> Vec<AuthConfig> {
        let image = full_name(image);
        self.entries.iter().filter(|(key, _)| matches(key, &image)).map(|(_, auth)| auth.clone()).collect()
    }
}

/// A registry as people write it: with or without scheme and version.
fn normalize(registry: &str) -> String {
    let bare = registry.split_once("://").map_or(registry, |(_, rest)| rest).trim_end_matches('/');
    let bare = bare.strip_suffix("/v1").or_else(|| bare.strip_suffix("/v2")).unwrap_or(bare);
    bare.to_string()
}

/// The image's name with its registry.
fn full_name(image: &str) -> String {
    let name = image.split('@').next().unwrap_or(image);
    match name.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => name.to_string(),
        _ => format!("{DEFAULT_REGISTRY}/{name}"),
    }
}

/// Whether a key (`host[:port][/path]`, `*` for a part of a host) covers an image.
fn matches(key: &str, image: &str) -> bool {
    let (key_host, key_path) = key.split_once('/').unwrap_or((key, ""));
    let (host, path) = image.split_once('/').unwrap_or((image, ""));
    let (key_parts, parts): (Vec<&str>, Vec<&str>) =
        (key_host.split('.').collect(), host.split('.').collect());
    key_parts.len() == parts.len()
        && key_parts.iter().zip(&parts).all(|(pattern, part)| glob(pattern, part))
        && path.starts_with(key_path)
}

fn glob(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((start, end)) => {
            text.len() >= start.len() + end.len() && text.starts_with(start) && text.ends_with(end)
        }
    }
}

/// The node's own credentials.
pub fn of_node(root: &Path) -> Keyring {
    let mut keyring = Keyring::default();
    let home = std::env::var_os("HOME").map(|home| Path::new(&home).join(".docker/config.json"));
    for path in
        [Some(root.join("config.json")), home, Some("/root/.docker/config.json".into())].into_iter().flatten()
    {
        if let Ok(json) = std::fs::read(path) {
            keyring.add_json(&json);
            break;
        }
    }
    keyring
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_precise_credentials_first() {
        let mut keyring = Keyring::default();
        let auth = STANDARD.encode("bob:pw");
        let json = format!(
            r#"{{"auths": {{"https://r.example.com/v1/": {{"username": "a", "password": "x"}},
                "r.example.com/team": {{"auth": "{auth}"}}, "*.other.com": {{"username": "c"}}}}}}"#
        );
        keyring.add_json(json.as_bytes());
        let names = |image: &str| keyring.lookup(image).into_iter().map(|a| a.username).collect::<Vec<_>>();
        assert_eq!(names("r.example.com/team/app:1"), ["bob", "a"]);
        assert_eq!(names("r.example.com/x"), ["a"]);
        assert_eq!(names("q.other.com/x"), ["c"]);
        assert!(names("busybox").is_empty());
    }
}
