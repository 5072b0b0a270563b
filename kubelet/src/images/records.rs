//! Who has pulled which image with what, so that a pod does not get a private image only because another pod's
//! credentials have brought it to the node. Kept on disk under upstream's names and in upstream's form.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::names::{default_tag, without_tag};
use crate::config::KubeletConfiguration;
use crate::pull_secrets::{Credential, Source, full_name};

const API_VERSION: &str = "kubelet.config.k8s.io/v1beta1";

/// How many secrets of one image are remembered beyond those that pulled it.
const MOST_SECRETS: usize = 100;

/// What is to be done about an image that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The policy does not ask who wants it.
    Unasked,
    /// Anybody may have it.
    Free,
    /// Nobody's word counts but the registry's.
    Pull,
    /// It depends on the pod's credentials.
    Ask,
}

/// When credentials have to be looked at.
enum Policy {
    Never,
    /// Unless the image was there before.
    Pulled,
    /// Unless the image is in a list of names and prefixes.
    Unlisted(Vec<String>),
    Always,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Intent {
    kind: String,
    api_version: String,
    image: String,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Pulled {
    kind: String,
    api_version: String,
    last_updated_time: String,
    image_ref: String,
    credential_mapping: BTreeMap<String, Credentials>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Credentials {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    kubernetes_secrets: Vec<Secret>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    kubernetes_service_accounts: Vec<Account>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    node_pods_accessible: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Secret {
    uid: String,
    namespace: String,
    name: String,
    credential_hash: String,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Account {
    uid: String,
    namespace: String,
    name: String,
}

/// The records of this node.
pub struct Records {
    dir: PathBuf,
    policy: Policy,
    /// Pulls under way, by image; also the lock for the files.
    intents: Arc<Mutex<HashMap<String, usize>>>,
}

/// A pull under way. Dropped without success, it leaves no trace.
pub struct Pull<'a> {
    records: &'a Records,
    image: String,
    kept: bool,
}

fn digest_name(text: &str) -> String {
    format!("sha256-{}", hex(&Sha256::digest(text.as_bytes())))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn repository(image: &str) -> String {
    full_name(without_tag(image))
}

fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

impl Records {
    /// The records below the kubelet's folder. Pulls that a kubelet before did not see the end of count as pulled if
    /// the image is there, but by nobody.
    pub async fn open(root: &Path, config: &KubeletConfiguration, runtime: &cri::Runtime) -> Self {
        let records = Self::new(root, config);
        let intents = records.read_all::<Intent>("pulling");
        if !intents.is_empty()
            && let Ok(images) = runtime.list_images(None).await
        {
            for intent in intents {
                let Ok(name) = default_tag(&intent.image) else { continue };
                let full = full_name(&name);
                let there = images
                    .iter()
                    .find(|i| i.repo_tags.iter().chain(&i.repo_digests).any(|t| *t == full || *t == name));
                if let Some(image) = there {
                    records.enter(&intent.image, &image.id, None);
                }
                let _ = fs::remove_file(records.path("pulling", &intent.image));
            }
        }
        records
    }

    fn new(root: &Path, config: &KubeletConfiguration) -> Self {
        let policy = match config.image_pull_credentials_verification_policy.as_str() {
            "NeverVerify" => Policy::Never,
            "AlwaysVerify" => Policy::Always,
            "NeverVerifyAllowlistedImages" => {
                Policy::Unlisted(config.preloaded_images_verification_allowlist.clone())
            }
            _ => Policy::Pulled,
        };
        Self { dir: root.join("image_manager"), policy, intents: Arc::default() }
    }

    fn path(&self, folder: &str, key: &str) -> PathBuf {
        self.dir.join(folder).join(digest_name(key))
    }

    fn read_all<T: for<'a> Deserialize<'a>>(&self, folder: &str) -> Vec<T> {
        let entries = fs::read_dir(self.dir.join(folder)).into_iter().flatten().flatten();
        let files = entries.filter(|e| e.file_name().to_string_lossy().starts_with("sha256-"));
        files.filter_map(|e| serde_json::from_slice(&fs::read(e.path()).ok()?).ok()).collect()
    }

    fn write<T: Serialize>(&self, folder: &str, key: &str, value: &T) -> std::io::Result<()> {
        let path = self.path(folder, key);
        crate::container::make_dir(&self.dir.join(folder), 0o755)?;
        let staged = path.with_extension("tmp");
        fs::write(&staged, serde_json::to_vec(value)?)?;
        fs::rename(staged, path)
    }

    fn pulled(&self, id: &str) -> Option<Pulled> {
        serde_json::from_slice(&fs::read(self.path("pulled", id)).ok()?).ok()
    }

    /// Notes that an image is about to be pulled: should the kubelet end now, the image is not taken for one that
    /// was there before.
    pub fn intend(&self, image: &str) -> std::io::Result<Pull<'_>> {
        let mut intents = self.intents.lock();
        let intent =
            Intent { kind: "ImagePullIntent".into(), api_version: API_VERSION.into(), image: image.into() };
        self.write("pulling", image, &intent)?;
        *intents.entry(image.to_string()).or_default() += 1;
        Ok(Pull { records: self, image: image.to_string(), kept: false })
    }

    /// How many records of pulls there are, and of pulls that have not ended.
    pub fn count(&self) -> (usize, usize) {
        let dir = |folder: &str| self.path(folder, "x").parent().map(std::path::Path::to_path_buf);
        let files =
            |folder: &str| dir(folder).and_then(|d| std::fs::read_dir(d).ok()).map_or(0, Iterator::count);
        (files("pulled"), files("pulling"))
    }

    /// What is to be done about an image that is there as `id`.
    pub fn judge(&self, image: &str, id: &str) -> Verdict {
        let record = self.pulled(id);
        let by_us = record.is_some()
            || self.path("pulled", id).exists()
            || self.intents.lock().contains_key(image)
            || self.path("pulling", image).exists();
        let verify = match &self.policy {
            Policy::Never => false,
            Policy::Always => true,
            Policy::Pulled => by_us,
            Policy::Unlisted(list) => !is_listed(list, &repository(image)),
        };
        if !verify {
            return Verdict::Unasked;
        }
        let known = record.and_then(|r| r.credential_mapping.get(&repository(image)).cloned());
        match known {
            Some(c) if c.node_pods_accessible => Verdict::Free,
            Some(c) if !c.kubernetes_secrets.is_empty() || !c.kubernetes_service_accounts.is_empty() => {
                Verdict::Ask
            }
            _ => Verdict::Pull,
        }
    }

    /// Whether one of a pod's credentials is among those that have pulled the image.
    pub fn admits(&self, image: &str, id: &str, credentials: &[Credential]) -> bool {
        let Some(record) = self.pulled(id) else { return false };
        let Some(known) = record.credential_mapping.get(&repository(image)) else { return false };
        for credential in credentials {
            let Some(one) = entry(credential) else { continue };
            let same_place =
                |a: &Secret, b: &Secret| (&a.uid, &a.namespace, &a.name) == (&b.uid, &b.namespace, &b.name);
            for secret in &one.kubernetes_secrets {
                let by_content =
                    known.kubernetes_secrets.iter().any(|k| k.credential_hash == secret.credential_hash);
                let by_place = known.kubernetes_secrets.iter().any(|k| same_place(k, secret));
                if by_content || by_place {
                    // The other half of it counts from now on, too.
                    if !(by_content && by_place) && known.kubernetes_secrets.len() < MOST_SECRETS {
                        self.enter(image, id, Some(credential));
                    }
                    return true;
                }
            }
            if one.kubernetes_service_accounts.iter().any(|a| known.kubernetes_service_accounts.contains(a)) {
                return true;
            }
        }
        false
    }

    /// Enters who has pulled an image; `None` if nobody knows.
    fn enter(&self, image: &str, id: &str, used: Option<&Credential>) {
        self.enter_as(image, id, used.and_then(entry));
    }

    fn enter_as(&self, image: &str, id: &str, new: Option<Credentials>) {
        let _one = self.intents.lock();
        let mut record = self.pulled(id).unwrap_or_default();
        record.kind = "ImagePulledRecord".into();
        record.api_version = API_VERSION.into();
        record.image_ref = id.into();
        record.last_updated_time = now();
        if let Some(new) = new {
            let all = record.credential_mapping.entry(repository(image)).or_default();
            if new.node_pods_accessible || all.node_pods_accessible {
                *all = Credentials { node_pods_accessible: true, ..Credentials::default() };
            } else {
                for secret in new.kubernetes_secrets {
                    all.kubernetes_secrets.retain(|k| {
                        (&k.uid, &k.namespace, &k.name) != (&secret.uid, &secret.namespace, &secret.name)
                    });
                    all.kubernetes_secrets.push(secret);
                }
                for account in new.kubernetes_service_accounts {
                    if !all.kubernetes_service_accounts.contains(&account) {
                        all.kubernetes_service_accounts.push(account);
                    }
                }
            }
        }
        if let Err(error) = self.write("pulled", id, &record) {
            tracing::warn!(image, %error, "Cannot record who pulled an image");
        }
    }

    /// Forgets images that are no longer there.
    pub fn prune(&self, present: &[String], since: SystemTime) {
        let _one = self.intents.lock();
        for record in self.read_all::<Pulled>("pulled") {
            let updated = record.last_updated_time.parse::<jiff::Timestamp>().map(SystemTime::from);
            let older = updated.is_ok_and(|at| at < since);
            if older && !present.contains(&record.image_ref) {
                let _ = fs::remove_file(self.path("pulled", &record.image_ref));
            }
        }
    }
}

impl Pull<'_> {
    /// The pull has succeeded with these credentials; without any, the image is for everybody.
    pub fn done(mut self, id: &str, used: Option<&Credential>) {
        let open = || Some(Credentials { node_pods_accessible: true, ..Credentials::default() });
        self.records.enter_as(&self.image, id, used.map_or_else(open, entry));
        // Without a record the intent stays: then nobody gets the image unasked.
        self.kept = !self.records.path("pulled", id).exists();
    }
}

impl Drop for Pull<'_> {
    fn drop(&mut self) {
        let mut intents = self.records.intents.lock();
        let left = intents.get(&self.image).copied().unwrap_or(1) - 1;
        if left > 0 {
            intents.insert(self.image.clone(), left);
            return;
        }
        intents.remove(&self.image);
        if !self.kept {
            let _ = fs::remove_file(self.records.path("pulling", &self.image));
        }
    }
}

/// What a record says of a credential.
fn entry(credential: &Credential) -> Option<Credentials> {
    let mut all = Credentials::default();
    match &credential.source {
        Source::Node => all.node_pods_accessible = true,
        Source::Secret { uid, namespace, name } => all.kubernetes_secrets.push(Secret {
            uid: uid.clone(),
            namespace: namespace.clone(),
            name: name.clone(),
            credential_hash: hash(credential),
        }),
        Source::Account { uid, namespace, name } => all.kubernetes_service_accounts.push(Account {
            uid: uid.clone(),
            namespace: namespace.clone(),
            name: name.clone(),
        }),
    }
    Some(all)
}

fn hash(credential: &Credential) -> String {
    let auth = &credential.auth;
    let text = serde_json::json!([auth.username, auth.password, auth.identity_token, auth.registry_token]);
    hex(&Sha256::digest(text.to_string().as_bytes()))
}

fn is_listed(list: &[String], name: &str) -> bool {
    list.iter().any(|pattern| match pattern.strip_suffix('*') {
        Some(prefix) if prefix.ends_with('/') => name.starts_with(prefix),
        _ => name == pattern,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(name: &str, password: &str) -> Credential {
        let auth = cri::v1::AuthConfig { password: password.into(), ..Default::default() };
        Credential {
            auth,
            source: Source::Secret { uid: name.into(), namespace: "n".into(), name: name.into() },
        }
    }

    fn records(dir: &Path, policy: &str) -> Records {
        let config = KubeletConfiguration {
            image_pull_credentials_verification_policy: policy.into(),
            preloaded_images_verification_allowlist: vec!["r.example.com/free/*".into()],
            ..Default::default()
        };
        Records::new(dir, &config)
    }

    #[test]
    fn a_private_image_is_for_those_who_may_pull_it() {
        let dir = tempfile::tempdir().unwrap();
        let records = records(dir.path(), "NeverVerifyPreloadedImages");
        let image = "r.example.com/app:1";
        assert_eq!(records.judge(image, "id"), Verdict::Unasked, "it was there before");
        let pull = records.intend(image).unwrap();
        assert_eq!(records.judge(image, "id"), Verdict::Pull, "it is being pulled");
        pull.done("id", Some(&secret("a", "pw")));
        assert!(!records.path("pulling", image).exists());
        assert_eq!(records.judge(image, "id"), Verdict::Ask);
        assert!(!records.admits(image, "id", &[secret("b", "other")]));
        assert!(records.admits(image, "id", &[secret("b", "pw")]), "the same content");
        assert!(records.admits(image, "id", &[secret("a", "changed")]), "the same secret");
        assert!(!records.admits("r.example.com/other", "id", &[secret("a", "pw")]));
        records.intend(image).unwrap().done("id", None);
        assert_eq!(records.judge(image, "id"), Verdict::Free, "it was pulled without credentials");
        records.prune(&[], SystemTime::now() + std::time::Duration::from_secs(5));
        assert!(!records.path("pulled", "id").exists());
    }

    #[test]
    fn a_failed_pull_leaves_no_trace() {
        let dir = tempfile::tempdir().unwrap();
        let records = records(dir.path(), "");
        drop(records.intend("a").unwrap());
        assert_eq!(records.judge("a", "id"), Verdict::Unasked);
    }

    #[test]
    fn policies() {
        let dir = tempfile::tempdir().unwrap();
        for (policy, image, expected) in [
            ("NeverVerify", "r.example.com/x", Verdict::Unasked),
            ("AlwaysVerify", "r.example.com/x", Verdict::Pull),
            ("NeverVerifyAllowlistedImages", "r.example.com/free/x:1", Verdict::Unasked),
            ("NeverVerifyAllowlistedImages", "r.example.com/x", Verdict::Pull),
        ] {
            assert_eq!(records(dir.path(), policy).judge(image, "id"), expected, "{policy} {image}");
        }
    }
}
