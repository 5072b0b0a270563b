//! Credential providers: programs of the node's owner that know how to get into a registry.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;
use volumes::{Objects, TokenRequest};

use super::names::without_tag;
use crate::pod::PodExt;
use crate::pull_secrets::{Credential, Keyring, Source, full_name, url_matches};

mod config;

use config::{Provider, TokenAttributes, duration_of, files, parse};

/// How long a program may take.
const TIMEOUT: Duration = Duration::from_secs(60);

/// How much of its answer is read.
const MAX_ANSWER: usize = 1 << 20;

const GROUP: &str = "credentialprovider.kubelet.k8s.io";

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Request<'a> {
    kind: &'static str,
    api_version: &'a str,
    image: &'a str,
    #[serde(skip_serializing_if = "String::is_empty")]
    service_account_token: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    service_account_annotations: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Response {
    #[serde(default)]
    kind: String,
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    cache_key_type: String,
    cache_duration: Option<String>,
    #[serde(default)]
    auth: BTreeMap<String, Auth>,
}

#[derive(Debug, Clone, Deserialize)]
struct Auth {
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
}

/// A service account as a program gets to know it.
#[derive(Default)]
struct Account {
    uid: String,
    token: String,
    annotations: BTreeMap<String, String>,
}

/// Credentials by image, and until when they are good.
type Answer = (BTreeMap<String, Auth>, Instant);

/// One program, with the answers that still count.
struct Program {
    provider: Provider,
    path: PathBuf,
    default_duration: Duration,
    answers: Mutex<HashMap<String, Answer>>,
    /// One question at a time: the next one may find its answer kept.
    asking: tokio::sync::Mutex<()>,
}

/// All programs.
#[derive(Default)]
pub struct Providers {
    programs: Vec<Program>,
}

impl Providers {
    /// Reads the configuration (a file, or a folder of them) and finds the programs in `bin_dir`.
    pub fn load(config: &Path, bin_dir: &Path) -> anyhow::Result<Self> {
        ensure!(bin_dir.exists(), "plugin binary directory {} did not exist", bin_dir.display());
        let mut providers = Vec::new();
        for file in files(config)? {
            let text = std::fs::read_to_string(&file).with_context(|| {
                format!(
                    "unable to read external registry credential provider configuration from {:?}",
                    file.display()
                )
            })?;
            let found = parse(&text)
                .with_context(|| format!("error decoding config {:?}", file.display().to_string()))?;
            providers.extend(found);
        }
        config::check(&providers)?;
        let programs = providers.into_iter().map(|provider| Program::new(provider, bin_dir));
        Ok(Self { programs: programs.collect::<anyhow::Result<_>>()? })
    }

    /// What the programs have for an image.
    pub async fn lookup(&self, image: &str, pod: &Pod, objects: &dyn Objects) -> Vec<Credential> {
        let name = full_name(without_tag(image));
        let mut all = Vec::new();
        for program in &self.programs {
            match program.credentials(&name, pod, objects).await {
                Ok(found) => all.extend(found),
                Err(error) => tracing::error!(
                    provider = program.provider.name,
                    image,
                    error = format!("{error:#}"),
                    "Failed to provide credentials for image"
                ),
            }
        }
        all
    }
}

impl Program {
    fn new(provider: Provider, bin_dir: &Path) -> anyhow::Result<Self> {
        let path = bin_dir.join(&provider.name);
        ensure!(path.is_file(), "plugin binary executable {} did not exist", path.display());
        let default_duration = duration_of(provider.default_cache_duration.as_deref().unwrap_or("0"))?;
        Ok(Self {
            provider,
            path,
            default_duration,
            answers: Mutex::default(),
            asking: tokio::sync::Mutex::default(),
        })
    }

    async fn credentials(
        &self,
        image: &str,
        pod: &Pod,
        objects: &dyn Objects,
    ) -> anyhow::Result<Vec<Credential>> {
        if !self.provider.match_images.iter().any(|pattern| url_matches(pattern, image)) {
            return Ok(Vec::new());
        }
        let account = match &self.provider.token_attributes {
            None => None,
            Some(attributes) => match self.account(attributes, pod, objects).await? {
                Some(account) => Some(account),
                None => return Ok(Vec::new()),
            },
        };
        let whose = self.cache_part(account.as_ref(), pod);
        let auth = self.answer(image, &whose, account.as_ref()).await?;
        let source = match account.filter(|a| !a.uid.is_empty()) {
            Some(account) => Source::Account {
                uid: account.uid,
                namespace: pod.namespace().into(),
                name: pod.spec().service_account_name.clone().unwrap_or_default(),
            },
            None => Source::Node,
        };
        let mut keyring = Keyring::default();
        for (registry, auth) in auth {
            keyring.add_login(&registry, auth.username, auth.password, source.clone());
        }
        Ok(keyring.lookup(image))
    }

    /// The pod's service account; `None` if the program is not to be asked for it.
    async fn account(
        &self,
        attributes: &TokenAttributes,
        pod: &Pod,
        objects: &dyn Objects,
    ) -> anyhow::Result<Option<Account>> {
        let name = pod.spec().service_account_name.clone().unwrap_or_default();
        if name.is_empty() {
            return Ok((attributes.require_service_account != Some(true)).then(Account::default));
        }
        let object = objects
            .service_account(pod.namespace(), &name)
            .await
            .map_err(|e| anyhow::anyhow!("failed to get service account: {e}"))?;
        let all = object.metadata.annotations.clone().unwrap_or_default();
        let required = &attributes.required_service_account_annotation_keys;
        if !required.iter().all(|key| all.contains_key(key)) {
            return Ok(None);
        }
        let wanted = required.iter().chain(&attributes.optional_service_account_annotation_keys);
        let annotations = wanted.filter_map(|key| Some((key.clone(), all.get(key)?.clone()))).collect();
        let audience = attributes.service_account_token_audience.as_str();
        let token = objects
            .token(pod, TokenRequest { audience, expiration_seconds: 3600 })
            .await
            .map_err(|e| anyhow::anyhow!("failed to get service account token: {e}"))?;
        Ok(Some(Account {
            uid: object.metadata.uid.clone().unwrap_or_default(),
            token: token.token,
            annotations,
        }))
    }

    /// What makes answers for one account differ from those for another.
    fn cache_part(&self, account: Option<&Account>, pod: &Pod) -> String {
        let Some(account) = account else { return String::new() };
        let name = pod.spec().service_account_name.as_deref().unwrap_or_default();
        let by_token =
            self.provider.token_attributes.as_ref().and_then(|t| t.cache_type.as_deref()) == Some("Token");
        let token =
            if by_token { format!("{:?}", Sha256::digest(account.token.as_bytes())) } else { String::new() };
        serde_json::json!([pod.namespace(), name, account.uid, account.annotations, token]).to_string()
    }

    fn kept(&self, image: &str, whose: &str) -> Option<BTreeMap<String, Auth>> {
        let registry = image.split('/').next().unwrap_or_default();
        let mut answers = self.answers.lock();
        answers.retain(|_, (_, until)| *until > Instant::now());
        let found =
            [image, registry, "<global>"].into_iter().find_map(|key| answers.get(&format!("{key}\n{whose}")));
        found.map(|(auth, _)| auth.clone())
    }

    async fn answer(
        &self,
        image: &str,
        whose: &str,
        account: Option<&Account>,
    ) -> anyhow::Result<BTreeMap<String, Auth>> {
        let _one = self.asking.lock().await;
        if let Some(kept) = self.kept(image, whose) {
            return Ok(kept);
        }
        let response = self.ask(image, account).await?;
        let by_token =
            self.provider.token_attributes.as_ref().and_then(|t| t.cache_type.as_deref()) == Some("Token");
        if let Some(account) = account.filter(|a| !a.token.is_empty() && !by_token) {
            let leaked = response.auth.values().any(|auth| auth.password == account.token);
            ensure!(
                !leaked,
                "credential provider plugin returned the service account token as the password which is not allowed when service account cache type is not set to 'Token'"
            );
        }
        let key = match response.cache_key_type.as_str() {
            "Image" => image,
            "Registry" => image.split('/').next().unwrap_or_default(),
            "Global" => "<global>",
            other => bail!("credential provider plugin did not return a valid cacheKeyType: {other}"),
        };
        let duration = match &response.cache_duration {
            Some(text) => duration_of(text)?,
            None => self.default_duration,
        };
        if !duration.is_zero() {
            let entry = (response.auth.clone(), Instant::now() + duration);
            self.answers.lock().insert(format!("{key}\n{whose}"), entry);
        }
        Ok(response.auth)
    }

    async fn ask(&self, image: &str, account: Option<&Account>) -> anyhow::Result<Response> {
        let request = Request {
            kind: "CredentialProviderRequest",
            api_version: &self.provider.api_version,
            image,
            service_account_token: account.map(|a| a.token.clone()).unwrap_or_default(),
            service_account_annotations: account.map(|a| a.annotations.clone()).unwrap_or_default(),
        };
        let text = serde_json::to_vec(&request)?;
        let run = async {
            let mut child = tokio::process::Command::new(&self.path)
                .args(&self.provider.args)
                .envs(self.provider.env.iter().map(|v| (&v.name, &v.value)))
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .kill_on_drop(true)
                .spawn()?;
            if let Some(mut stdin) = child.stdin.take() {
                // A program that does not care to read is no failure.
                let _ = stdin.write_all(&text).await;
            }
            child.wait_with_output().await
        };
        let output = tokio::time::timeout(TIMEOUT, run)
            .await
            .with_context(|| {
                format!(
                    "error execing credential provider plugin {} for image {image}: timed out",
                    self.provider.name
                )
            })?
            .with_context(|| {
                format!("error execing credential provider plugin {} for image {image}", self.provider.name)
            })?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!(
                "error execing credential provider plugin {} for image {image}: {}: {}",
                self.provider.name,
                output.status,
                said.trim()
            );
        }
        ensure!(output.stdout.len() <= MAX_ANSWER, "the answer is too long");
        let response: Response = serde_json::from_slice(&output.stdout)
            .context("error decoding credential provider plugin response from stdout")?;
        ensure!(
            response.kind == "CredentialProviderResponse",
            "failed to convert credential provider response: unexpected kind {:?}",
            response.kind
        );
        ensure!(
            response.api_version == self.provider.api_version,
            "apiVersion from credential plugin response did not match expected apiVersion:{}, actual apiVersion:{}",
            self.provider.api_version,
            response.api_version
        );
        Ok(response)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::NoObjects;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn durations() {
        for (text, expected) in [
            ("12h", Some(43_200)),
            ("1m30s", Some(90)),
            ("0", Some(0)),
            ("0s", Some(0)),
            ("5", None),
            ("-1s", None),
            ("", None),
        ] {
            assert_eq!(duration_of(text).ok().map(|d| d.as_secs()), expected, "{text}");
        }
    }

    const CONFIG: &str = r#"
apiVersion: kubelet.config.k8s.io/v1
kind: CredentialProviderConfig
providers:
- name: ask
  apiVersion: credentialprovider.kubelet.k8s.io/v1
  matchImages: ["*.example.com"]
  defaultCacheDuration: 1h
  args: [extra]
  env: [{name: WHO, value: bob}]
"#;

    #[tokio::test]
    async fn a_program_is_asked_once_a_registry() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("ask");
        let script = format!(
            r#"#!/bin/sh
read request
echo "$1 $request" >> {0}/asked
echo '{{"kind":"CredentialProviderResponse","apiVersion":"credentialprovider.kubelet.k8s.io/v1","cacheKeyType":"Registry","auth":{{"r.example.com":{{"username":"'$WHO'","password":"pw"}}}}}}'
"#,
            dir.path().display()
        );
        std::fs::write(&program, script).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let config = dir.path().join("config.yaml");
        std::fs::write(&config, CONFIG).unwrap();
        let providers = Providers::load(&config, dir.path()).unwrap();
        let pod = Pod::default();
        for (image, expected) in
            [("r.example.com/a:1", Some("bob")), ("r.example.com/b", Some("bob")), ("other.org/a", None)]
        {
            let found = providers.lookup(image, &pod, &NoObjects).await;
            assert_eq!(found.first().map(|c| c.auth.username.as_str()), expected, "{image}");
        }
        let asked = std::fs::read_to_string(dir.path().join("asked")).unwrap();
        assert_eq!(
            asked,
            "extra {\"kind\":\"CredentialProviderRequest\",\"apiVersion\":\"credentialprovider.kubelet.k8s.io/v1\",\"image\":\"r.example.com/a\"}\n"
        );
    }

    #[test]
    fn bad_configurations_are_refused() {
        for (from, to) in [
            ("name: ask", "name: a/b"),
            ("kind: CredentialProviderConfig", "kind: X"),
            ("  defaultCacheDuration: 1h\n", ""),
            ("matchImages: [\"*.example.com\"]", "matchImages: []"),
            ("kubelet.k8s.io/v1\n  match", "kubelet.k8s.io/v9\n  match"),
        ] {
            assert!(CONFIG.contains(from), "{from}");
            let all = parse(&CONFIG.replace(from, to));
            assert!(all.and_then(|all| config::check(&all)).is_err(), "{to}");
        }
        assert!(Providers::load(Path::new("/nonexistent"), Path::new("/nonexistent")).is_err());
    }
}
