//! Registry credentials: pull secrets of pods, and the node's own files.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use cri::v1::AuthConfig;
use k8s_openapi::api::core::v1::Secret;
use serde::Deserialize;

/// The registry of images that name none, as it is put before their names.
const DEFAULT_REGISTRY: &str = "docker.io";

/// What credentials for that registry have been filed under since the first of them.
const DEFAULT_KEY: &str = "index.docker.io";

/// Where credentials come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The node itself: they count for every pod.
    Node,
    /// A pull secret.
    Secret { uid: String, namespace: String, name: String },
    /// A credential provider that was asked on behalf of a service account.
    Account { uid: String, namespace: String, name: String },
}

/// Credentials and where they come from.
#[derive(Debug, Clone)]
pub struct Credential {
    pub auth: AuthConfig,
    pub source: Source,
}

/// Credentials by registry and path.
#[derive(Debug, Default)]
pub struct Keyring {
    entries: Vec<(String, Credential)>,
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
}

impl Keyring {
    /// Adds the credentials of a pull secret; one that cannot be read adds nothing.
    pub fn add_secret(&mut self, secret: &Secret) {
        let meta = &secret.metadata;
        let source = Source::Secret {
            uid: meta.uid.clone().unwrap_or_default(),
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
        };
        let data = |key: &str| secret.data.as_ref().and_then(|d| d.get(key)).map(|v| v.0.as_slice());
        if let Some(json) = data(".dockerconfigjson") {
            self.add_json(json, &source);
        } else if let Some(json) = data(".dockercfg")
            && let Ok(auths) = serde_json::from_slice(json)
        {
            self.add(DockerConfig { auths }, &source);
        }
    }

    fn add_json(&mut self, json: &[u8], source: &Source) {
        if let Ok(config) = serde_json::from_slice::<DockerConfig>(json) {
            self.add(config, source);
        }
    }

    fn add(&mut self, config: DockerConfig, source: &Source) {
        for (registry, auth) in config.auths {
            let (mut username, mut password) = (auth.username, auth.password);
            if !auth.auth.is_empty() {
                let decoded = STANDARD.decode(auth.auth.trim()).ok().and_then(|b| String::from_utf8(b).ok());
                if let Some((user, pass)) = decoded.as_deref().and_then(|text| text.split_once(':')) {
                    username = user.to_string();
                    password = pass.trim_end_matches('\0').to_string();
                }
            }
            self.add_login(&registry, username, password, source.clone());
        }
    }

    /// Adds one user of a registry.
    pub fn add_login(&mut self, registry: &str, username: String, password: String, source: Source) {
        let auth = AuthConfig { username, password, ..Default::default() };
        self.entries.push((normalize(registry), Credential { auth, source }));
        // Of keys that begin alike the longest comes first: it is the most precise.
        self.entries.sort_by(|(a, _), (b, _)| b.cmp(a));
    }

    /// The credentials that fit an image, most precise first.
    pub fn lookup(&self, image: &str) -> Vec<Credential> {
        let image = full_name(crate::images::without_tag(image));
        let of = |fits: &dyn Fn(&str) -> bool| -> Vec<Credential> {
            self.entries.iter().filter(|(key, _)| fits(key)).map(|(_, c)| c.clone()).collect()
        };
        let found = of(&|key| url_matches(key, &image));
        if found.is_empty() && image.split('/').next() == Some(DEFAULT_REGISTRY) {
            return of(&|key| key == DEFAULT_KEY);
        }
        found
    }
}

/// A registry as people write it: with or without scheme and version.
fn normalize(registry: &str) -> String {
    let bare =
        registry.strip_prefix("https://").or_else(|| registry.strip_prefix("http://")).unwrap_or(registry);
    let (host, path) = bare.split_once('/').unwrap_or((bare, ""));
    let path = path.strip_prefix("v1/").or_else(|| path.strip_prefix("v2/")).unwrap_or(path);
    if path.is_empty() { host.to_string() } else { format!("{host}/{path}") }
}

/// The image's name with its registry.
pub fn full_name(image: &str) -> String {
    match image.split_once('/') {
        Some((host, rest)) if host == DEFAULT_KEY => format!("{DEFAULT_REGISTRY}/{rest}"),
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => image.to_string(),
        Some(_) => format!("{DEFAULT_REGISTRY}/{image}"),
        None => format!("{DEFAULT_REGISTRY}/library/{image}"),
    }
}

/// Whether a key (`host[:port][/path]`, with wildcards in the parts of the host) covers an image.
pub fn url_matches(key: &str, image: &str) -> bool {
    let split = |url: &str| -> (String, String, String) {
        let (host, path) = url.split_once('/').map_or((url, String::new()), |(h, p)| (h, format!("/{p}")));
        let (host, port) = host.rsplit_once(':').unwrap_or((host, ""));
        (host.to_string(), port.to_string(), path)
    };
    let ((key_host, key_port, key_path), (host, port, path)) = (split(key), split(image));
    let (patterns, parts): (Vec<&str>, Vec<&str>) =
        (key_host.split('.').collect(), host.split('.').collect());
    key_port == port
        && patterns.len() == parts.len()
        && path.starts_with(&key_path)
        && patterns.iter().zip(&parts).all(|(pattern, part)| glob(pattern.as_bytes(), part.as_bytes()))
}

/// Whether a pattern of `*` and `?` fits a text.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern.split_first(), text.split_first()) {
        (None, rest) => rest.is_none(),
        (Some((b'*', more)), _) => (0..=text.len()).any(|skip| glob(more, &text[skip..])),
        (Some((b'?', more)), Some((_, rest))) => glob(more, rest),
        (Some((p, more)), Some((t, rest))) => p == t && glob(more, rest),
        (Some(_), None) => false,
    }
}

/// The node's own credentials, as its files say now.
pub fn of_node(root: &Path) -> Keyring {
    let mut keyring = Keyring::default();
    let home = std::env::var_os("HOME").map(|home| Path::new(&home).join(".docker/config.json"));
    for path in
        [Some(root.join("config.json")), home, Some("/root/.docker/config.json".into())].into_iter().flatten()
    {
        if let Ok(json) = std::fs::read(path) {
            keyring.add_json(&json, &Source::Node);
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
                "r.example.com/team": {{"auth": "{auth}"}}, "*.other.com": {{"username": "c"}},
                "p?rt.com:5000": {{"username": "d"}}, "https://{DEFAULT_KEY}/v1/": {{"username": "e"}}}}}}"#
        );
        keyring.add_json(json.as_bytes(), &Source::Node);
        let names =
            |image: &str| keyring.lookup(image).into_iter().map(|c| c.auth.username).collect::<Vec<_>>();
        for (image, expected) in [
            ("r.example.com/team/app:1", vec!["bob", "a"]),
            ("r.example.com/x", vec!["a"]),
            ("q.other.com/x", vec!["c"]),
            ("a.b.other.com/x", vec![]),
            ("port.com:5000/x@sha256:y", vec!["d"]),
            ("port.com/x", vec![]),
            ("busybox", vec!["e"]),
            ("team/busybox:1", vec!["e"]),
            ("localhost/busybox", vec![]),
        ] {
            assert_eq!(names(image), expected, "{image}");
        }
    }
}
