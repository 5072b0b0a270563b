//! `EncryptionConfiguration` (`apiserver.config.k8s.io/v1`): its form, and what is wrong with it in
//! the words that operators know.

use std::collections::BTreeSet;
use std::time::Duration;

use api::field::{Error, Path};
use api::json;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct File {
    kind: String,
    api_version: String,
    #[serde(default)]
    pub(super) resources: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Entry {
    #[serde(default)]
    pub(super) resources: Vec<String>,
    #[serde(default)]
    pub(super) providers: Vec<Provider>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Provider {
    pub(super) aesgcm: Option<Keys>,
    pub(super) aescbc: Option<Keys>,
    pub(super) secretbox: Option<Keys>,
    pub(super) identity: Option<Empty>,
    pub(super) kms: Option<Kms>,
}

#[derive(Deserialize)]
pub(super) struct Empty {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Keys {
    #[serde(default)]
    pub(super) keys: Vec<Key>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Key {
    #[serde(default)]
    pub(super) name: String,
    #[serde(default)]
    secret: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Kms {
    #[serde(default = "v1")]
    pub(super) api_version: String,
    #[serde(default)]
    pub(super) name: String,
    #[serde(default)]
    pub(super) endpoint: String,
    #[serde(default)]
    timeout: Option<String>,
    #[serde(default)]
    cachesize: Option<i64>,
}

fn v1() -> String {
    "v1".to_owned()
}

impl Kms {
    /// How long one call may take.
    pub(super) fn timeout(&self) -> Option<Duration> {
        match &self.timeout {
            None => Some(Duration::from_secs(3)),
            Some(text) => component::duration::parse(text),
        }
    }

    /// The path of the socket.
    pub(super) fn socket(&self) -> Option<&str> {
        let rest = self.endpoint.strip_prefix("unix:")?;
        let path = rest.strip_prefix("//").unwrap_or(rest);
        // A name in Linux' abstract namespace is written with an @.
        (path.starts_with('/') || path.starts_with('@')).then_some(path)
    }
}

impl Key {
    /// The key's bytes; validation has made sure that they are there.
    pub(super) fn secret(&self) -> Result<Vec<u8>, String> {
        STANDARD.decode(&self.secret).map_err(|_| "secrets must be base64 encoded".to_owned())
    }
}

/// Reads and checks the file's content. Errors name the place and never a secret.
pub(super) fn read(text: &str, reload: bool) -> Result<File, String> {
    // The parser's own message would quote the line, which may hold a key.
    let file: File = serde_saphyr::from_str(text)
        .map_err(|_| "not a valid EncryptionConfiguration of apiserver.config.k8s.io/v1".to_owned())?;
    if file.kind != "EncryptionConfiguration" || file.api_version != "apiserver.config.k8s.io/v1" {
        return Err(format!("no kind {:?} is registered for version {:?}", file.kind, file.api_version));
    }
    let errors: Vec<String> = validate(&file, reload).iter().map(ToString::to_string).collect();
    match errors.as_slice() {
        [] => Ok(file),
        [one] => Err(one.clone()),
        many => Err(format!("[{}]", many.join(", "))),
    }
}

fn at_least_one(what: impl std::fmt::Display) -> String {
    format!("at least one {what} is required")
}

fn validate(file: &File, reload: bool) -> Vec<Error> {
    let root = Path::new("resources");
    if file.resources.is_empty() {
        return vec![Error::required(&root, at_least_one("resources"))];
    }
    let (mut errors, mut names) = (Vec::new(), BTreeSet::new());
    for (i, entry) in file.resources.iter().enumerate() {
        let (r, p) = (root.index(i).child("resources"), root.index(i).child("providers"));
        if entry.resources.is_empty() {
            errors.push(Error::required(&r, at_least_one(&r)));
        }
        errors.extend(overlap(&entry.resources, &r));
        errors.extend(entry.resources.iter().enumerate().filter_map(|(j, name)| {
            let why = resource_name(name)?;
            Some(Error::invalid(&r.index(j), name.as_str(), why))
        }));
        if entry.providers.is_empty() {
            errors.push(Error::required(&p, at_least_one(&p)));
        }
        for (j, provider) in entry.providers.iter().enumerate() {
            errors.extend(one_provider(provider, &p.index(j), &mut names, reload));
        }
    }
    errors
}

/// `(resource, group)` of `resource.group`.
pub(super) fn group_resource(name: &str) -> (&str, &str) {
    name.split_once('.').unwrap_or((name, ""))
}

fn overlap(resources: &[String], path: &Path) -> Vec<Error> {
    let all: Vec<_> = resources.iter().map(|r| group_resource(r)).collect();
    let (mut duplicate, mut masked) = (false, false);
    for (i, a) in all.iter().enumerate() {
        for (j, b) in all.iter().enumerate().filter(|(j, _)| *j != i) {
            if a == b && !duplicate {
                duplicate = true;
            } else {
                let star = a.0 == "*" || b.0 == "*";
                masked |= *a == ("*", "*") || (a.1 == b.1 && star) && i != j;
            }
        }
    }
    let why = |on: bool, text: &str| on.then(|| Error::invalid(path, json!(resources), text));
    let same = why(duplicate, "the same resource cannot be specified multiple times");
    let over = why(
        masked,
        "using overlapping resources such as 'secrets' and '*.' in the same resource list is not allowed \
         as they will be masked",
    );
    same.into_iter().chain(over).collect()
}

fn resource_name(name: &str) -> Option<&'static str> {
    let (resource, group) = group_resource(name);
    if name.to_lowercase() != name {
        return Some("resource name should not contain capital letters");
    }
    match (name, resource, group) {
        ("*", ..) => {
            Some("use '*.' to encrypt all the resources from core API group or *.* to encrypt all resources")
        }
        ("apiserveripinfo" | "serviceipallocations" | "servicenodeportallocations", ..) => {
            Some("resources which do not have REST API/s cannot be encrypted")
        }
        (_, _, "events.k8s.io") => Some(
            "'*.events.k8s.io' objects are stored using the 'events' API group in etcd. Use 'events' instead in the config file",
        ),
        (_, _, "extensions") => Some("'extensions' group has been removed and cannot be used for encryption"),
        (_, resource, "*") if resource != "*" => {
            Some("encrypting the same resource across groups is not supported")
        }
        _ => None,
    }
}

fn one_provider(p: &Provider, path: &Path, names: &mut BTreeSet<String>, reload: bool) -> Vec<Error> {
    let found = [
        p.aesgcm.is_some(),
        p.aescbc.is_some(),
        p.secretbox.is_some(),
        p.identity.is_some(),
        p.kms.is_some(),
    ];
    match found.iter().filter(|f| **f).count() {
        1 => {}
        0 => {
            let why = "provider does not contain any of the expected providers: KMS, AESGCM, AESCBC, Secretbox, Identity";
            return vec![Error::invalid(path, json!({}), why)];
        }
        _ => {
            let why = "more than one provider specified in a single element, should split into different list elements";
            return vec![Error::invalid(path, "REDACTED", why)];
        }
    }
    if let Some(kms) = &p.kms {
        let errors = kms_provider(kms, &path.child("kms"), names, reload);
        names.insert(kms.name.clone());
        return errors;
    }
    let schemes: [(&str, &Option<Keys>, &[usize]); 3] = [
        ("aesgcm", &p.aesgcm, &[16, 24, 32]),
        ("aescbc", &p.aescbc, &[16, 24, 32]),
        ("secretbox", &p.secretbox, &[32]),
    ];
    let mut errors = Vec::new();
    for (scheme, keys, lengths) in schemes {
        let Some(keys) = keys else { continue };
        let path = path.child(scheme).child("keys");
        if keys.keys.is_empty() {
            errors.push(Error::required(&path, at_least_one("keys")));
        }
        for (i, key) in keys.keys.iter().enumerate() {
            errors.extend(one_key(key, &path.index(i), lengths));
        }
    }
    errors
}

fn one_key(key: &Key, path: &Path, lengths: &[usize]) -> Vec<Error> {
    let mut errors = Vec::new();
    let mandatory =
        |field: &str| Error::required(&path.child(field), format!("{field} is a mandatory field for a key"));
    if key.name.is_empty() {
        errors.push(mandatory("name"));
    }
    if key.secret.is_empty() {
        errors.push(mandatory("secret"));
        return errors;
    }
    let wrong = |why: String| Error::invalid(&path.child("secret"), "REDACTED", why);
    match key.secret() {
        Err(why) => errors.push(wrong(why)),
        Ok(secret) if !lengths.contains(&secret.len()) => {
            let expected: Vec<String> = lengths.iter().map(ToString::to_string).collect();
            errors.push(wrong(super::ciphers::length(secret.len(), &format!("[{}]", expected.join(" ")))));
        }
        Ok(_) => {}
    }
    errors
}

fn kms_provider(kms: &Kms, path: &Path, names: &BTreeSet<String>, reload: bool) -> Vec<Error> {
    let (mut errors, old) = (Vec::new(), kms.api_version == "v1");
    let name = path.child("name");
    if kms.name.is_empty() {
        errors.push(Error::required(&name, "name is a mandatory field for a provider"));
    }
    if !old && kms.name.contains(':') {
        let why = format!("invalid KMS provider name {}, must not contain ':'", kms.name);
        errors.push(Error::invalid(&name, kms.name.as_str(), why));
    }
    if (reload || !old) && names.contains(&kms.name) {
        let why = format!("duplicate KMS provider name {}, names must be unique", kms.name);
        errors.push(Error::invalid(&name, kms.name.as_str(), why));
    }
    if kms.timeout().is_none_or(|t| t.is_zero()) {
        let text = kms.timeout.as_deref().unwrap_or_default();
        errors.push(Error::invalid(&path.child("timeout"), text, "timeout should be a positive value"));
    }
    let endpoint = path.child("endpoint");
    if kms.endpoint.is_empty() {
        errors.push(Error::invalid(&endpoint, "", "endpoint is a mandatory field for a kms"));
    } else if kms.socket().is_none() {
        let scheme = kms.endpoint.split_once(':').map_or("", |(s, _)| s);
        let why = format!("unsupported scheme {scheme:?} for KMS provider, only unix is supported");
        errors.push(Error::invalid(&endpoint, kms.endpoint.as_str(), why));
    }
    if let Some(size) = kms.cachesize {
        let wrong = |why: &str| Error::invalid(&path.child("cachesize"), size, why);
        errors.extend((!old).then(|| wrong("cachesize is not supported in v2")));
        errors.extend(
            (old && size == 0).then(|| wrong("cachesize should be a positive value, or negative to disable")),
        );
    }
    if !matches!(kms.api_version.as_str(), "v1" | "v2") {
        let why = "unsupported apiVersion apiVersion for KMS provider, only v1 and v2 are supported";
        errors.push(Error::invalid(&path.child("apiVersion"), kms.api_version.as_str(), why));
    }
    errors
}
