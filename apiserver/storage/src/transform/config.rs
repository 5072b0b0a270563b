//! `--encryption-provider-config`: which resources are stored how.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;

use super::ciphers::Cipher;
use super::{Identity, Transformed, Transformer};

/// An `EncryptionConfiguration` (`apiserver.config.k8s.io/v1`), read and checked.
pub struct Encryption {
    entries: Vec<(Vec<String>, Arc<dyn Transformer>)>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    kind: String,
    api_version: String,
    #[serde(default)]
    resources: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    #[serde(default)]
    resources: Vec<String>,
    #[serde(default)]
    providers: Vec<Provider>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Provider {
    aesgcm: Option<Keys>,
    aescbc: Option<Keys>,
    secretbox: Option<Keys>,
    identity: Option<Empty>,
    kms: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct Empty {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys {
    #[serde(default)]
    keys: Vec<Key>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Key {
    #[serde(default)]
    name: String,
    #[serde(default)]
    secret: String,
}

impl Encryption {
    /// Reads the file's content. Errors name the place and never a secret.
    pub fn parse(text: &str) -> Result<Encryption, String> {
        // The parser's own message would quote the line, which may hold a key.
        let file: File = serde_saphyr::from_str(text)
            .map_err(|_| "not a valid EncryptionConfiguration of apiserver.config.k8s.io/v1".to_owned())?;
        if file.kind != "EncryptionConfiguration" || file.api_version != "apiserver.config.k8s.io/v1" {
            return Err(format!("unknown configuration {} of {}", file.kind, file.api_version));
        }
        let mut entries = Vec::new();
        for (i, entry) in file.resources.into_iter().enumerate() {
            let place = format!("resources[{i}]");
            if entry.resources.is_empty() {
                return Err(format!("{place}.resources: Required value"));
            }
            if entry.providers.is_empty() {
                return Err(format!("{place}.providers: Required value"));
            }
            let mut keyed = Vec::new();
            for (j, provider) in entry.providers.into_iter().enumerate() {
                keyed.extend(provider.keys().map_err(|e| format!("{place}.providers[{j}]: {e}"))?);
            }
            entries.push((entry.resources, Arc::new(Keyed { keys: keyed }) as Arc<dyn Transformer>));
        }
        Ok(Encryption { entries })
    }

    /// How a resource is stored: the first entry that names it decides. `group` is empty for core.
    pub fn transformer(&self, resource: &str, group: &str) -> Arc<dyn Transformer> {
        let names = |name: &String| {
            let (r, g) = name.split_once('.').unwrap_or((name, ""));
            (r == "*" || r == resource) && (g == group || (r == "*" && g == "*"))
        };
        let found = self.entries.iter().find(|(resources, _)| resources.iter().any(names));
        found.map_or_else(|| Arc::new(Identity) as Arc<dyn Transformer>, |(_, t)| t.clone())
    }
}

impl Provider {
    /// The keys in order, each with the prefix that its values carry.
    fn keys(self) -> Result<Vec<(String, Option<Cipher>)>, String> {
        type Make = fn(&[u8]) -> Result<Cipher, String>;
        let schemes: [(&str, Option<Keys>, Make); 3] = [
            ("aesgcm", self.aesgcm, Cipher::gcm),
            ("aescbc", self.aescbc, Cipher::cbc),
            ("secretbox", self.secretbox, Cipher::secretbox),
        ];
        if self.kms.is_some() {
            return Err("kms: this provider is not supported".to_owned());
        }
        let mut all = Vec::new();
        let mut count = usize::from(self.identity.is_some());
        for (scheme, keys, make) in schemes {
            let Some(keys) = keys else { continue };
            count += 1;
            if keys.keys.is_empty() {
                return Err(format!("{scheme}.keys: Required value"));
            }
            for (i, key) in keys.keys.into_iter().enumerate() {
                if key.name.is_empty() {
                    return Err(format!("{scheme}.keys[{i}].name: Required value"));
                }
                let place = format!("{scheme}.keys[{i}].secret");
                let secret = STANDARD
                    .decode(&key.secret)
                    .map_err(|_| format!("{place}: secret must be base64 encoded"))?;
                let cipher = make(&secret).map_err(|e| format!("{place}: {e}"))?;
                all.push((format!("k8s:enc:{scheme}:v1:{}:", key.name), Some(cipher)));
            }
        }
        if self.identity.is_some() {
            all.push((String::new(), None));
        }
        match count {
            0 => Err("provider does not contain any of the expected providers".to_owned()),
            1 => Ok(all),
            _ => Err("more than one provider specified in a single element, should split into different list elements".to_owned()),
        }
    }
}

/// Writes with the first key, reads with whichever key a value names.
struct Keyed {
    keys: Vec<(String, Option<Cipher>)>,
}

impl Transformer for Keyed {
    fn transform_from_storage(&self, key: &str, stored: Bytes) -> Result<Transformed, String> {
        for (i, (prefix, cipher)) in self.keys.iter().enumerate() {
            match cipher {
                Some(cipher) if stored.starts_with(prefix.as_bytes()) => {
                    let plain = cipher.open(key, &stored[prefix.len()..])?;
                    return Ok(Transformed { bytes: plain.into(), stale: i > 0 });
                }
                None if !stored.starts_with(b"k8s:enc:") => {
                    return Ok(Transformed { bytes: stored, stale: i > 0 });
                }
                _ => {}
            }
        }
        Err("no matching prefix found".to_owned())
    }

    fn transform_to_storage(&self, key: &str, plain: Bytes) -> Result<Bytes, String> {
        match self.keys.first() {
            Some((prefix, Some(cipher))) => {
                Ok([prefix.as_bytes(), &cipher.seal(key, &plain)?].concat().into())
            }
            _ => Ok(plain),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "/registry/secrets/default/a";

    fn config(providers: &str) -> String {
        format!(
            "kind: EncryptionConfiguration\napiVersion: apiserver.config.k8s.io/v1\nresources:\n\
             - resources: [secrets, '*.apps']\n  providers:\n{providers}"
        )
    }

    fn provider(scheme: &str, names: &[&str]) -> String {
        let mut text = format!("  - {scheme}:\n      keys:\n");
        for name in names {
            let secret = STANDARD.encode([name.as_bytes()[0]; 32]);
            text += &format!("      - name: {name}\n        secret: {secret}\n");
        }
        text
    }

    fn secrets(text: &str) -> Arc<dyn Transformer> {
        Encryption::parse(text).unwrap().transformer("secrets", "")
    }

    #[test]
    fn every_scheme_round_trips_and_rotates() {
        for scheme in ["aescbc", "aesgcm", "secretbox"] {
            let old = secrets(&config(&provider(scheme, &["one"])));
            let new = secrets(&config(&(provider(scheme, &["two", "one"]) + "  - identity: {}\n")));
            for plain in [&b""[..], b"k8s\0value", &[7; 5000]] {
                let stored = old.transform_to_storage(KEY, Bytes::copy_from_slice(plain)).unwrap();
                assert!(stored.starts_with(format!("k8s:enc:{scheme}:v1:one:").as_bytes()));
                let read = old.transform_from_storage(KEY, stored.clone()).unwrap();
                assert_eq!((&read.bytes[..], read.stale), (plain, false));
                let read = new.transform_from_storage(KEY, stored.clone()).unwrap();
                assert_eq!((&read.bytes[..], read.stale), (plain, true), "written with a former key");
                assert!(old.transform_from_storage(KEY, stored.slice(..stored.len() - 1)).is_err());
                let moved = old.transform_from_storage("/registry/secrets/default/b", stored);
                assert_eq!(moved.is_err(), scheme == "aesgcm", "only GCM authenticates the place");
            }
            assert!(new.transform_from_storage(KEY, Bytes::from_static(b"k8s\0plain")).unwrap().stale);
            assert!(old.transform_from_storage(KEY, Bytes::from_static(b"k8s\0plain")).is_err());
        }
    }

    #[test]
    fn the_first_entry_that_names_a_resource_decides() {
        let e = Encryption::parse(&config(&provider("aesgcm", &["k"]))).unwrap();
        for (resource, group, encrypted) in [
            ("secrets", "", true),
            ("configmaps", "", false),
            ("deployments", "apps", true),
            ("secrets", "x.io", false),
        ] {
            let stored =
                e.transformer(resource, group).transform_to_storage("k", Bytes::from_static(b"v")).unwrap();
            assert_eq!(stored.starts_with(b"k8s:enc:"), encrypted, "{resource}.{group}");
        }
    }

    #[test]
    fn refuses_bad_configurations_without_quoting_secrets() {
        for (text, want) in [
            ("kind: [".to_owned(), "not a valid"),
            (config("  - kms: {name: x}\n"), "not supported"),
            (config("  - {}\n"), "does not contain any"),
            (config("  - aescbc: {keys: [{name: a, secret: c2hvcnQ=}]}\n"), "expected length"),
            (config("  - aescbc: {keys: [{name: a, secret: '!hidden'}]}\n"), "base64"),
            (config("  - identity: {}\n    aescbc: {keys: []}\n"), "keys: Required"),
        ] {
            let error = Encryption::parse(&text).err().unwrap();
            assert!(error.contains(want) && !error.contains("hidden"), "{error}");
        }
    }
}
