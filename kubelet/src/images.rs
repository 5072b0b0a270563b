//! Makes sure that a container's image is there, as its pull policy says, and that its pod may have it.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use cri::v1::{ImageSpec, PodSandboxConfig};
use k8s_openapi::api::core::v1::{Container, Pod};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use volumes::Objects;

use crate::backoff::{Backoff, go_duration};
use crate::config::KubeletConfiguration;
use crate::events::Events;
use crate::limiter::Limiter;
use crate::pod::{Kind, PodExt};
use crate::pull_secrets::{self, Credential, Keyring};
use crate::security::ImageUser;

mod names;
pub mod providers;
mod records;

pub use names::without_tag;

use names::default_tag;
use providers::Providers;
use records::Records;

/// Why a container waits: a reason that programs read, a message for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    pub reason: &'static str,
    pub message: String,
}

impl Waiting {
    /// A reason with its message.
    pub fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

/// An image that is there.
#[derive(Debug, Clone)]
pub struct Image {
    /// What to run it by.
    pub reference: String,
    /// Whom it runs as unless told otherwise.
    pub user: ImageUser,
    /// The images that the container mounts, by the name of the volume.
    pub volumes: BTreeMap<String, String>,
}

/// Pulls images.
pub struct Images {
    runtime: cri::Runtime,
    backoff: Backoff,
    last_errors: Mutex<HashMap<String, String>>,
    slots: Option<Arc<Semaphore>>,
    limiter: Option<Limiter>,
    events: Events,
    root: std::path::PathBuf,
    providers: Providers,
    records: Option<Records>,
}

/// An image that somebody needs.
struct Wish<'a> {
    pod: &'a Pod,
    asked: &'a str,
    policy: &'a str,
    objects: &'a dyn Objects,
    sandbox: &'a PodSandboxConfig,
    handler: &'a str,
    /// Tells people; type, reason and message.
    tell: &'a (dyn Fn(&str, &str, &str) + Sync),
}

impl Images {
    /// Pulls as the configuration says; `root` is the kubelet's folder.
    pub async fn new(
        runtime: cri::Runtime,
        events: Events,
        config: &KubeletConfiguration,
        root: &Path,
        providers: Providers,
    ) -> Self {
        let parallel = config.parallel_pulls();
        let verify = config.feature_gates.get("KubeletEnsureSecretPulledImages").copied().unwrap_or(true);
        let records = match verify {
            true => Some(Records::open(root, config, &runtime).await),
            false => None,
        };
        Self {
            runtime,
            backoff: Backoff::new(Duration::from_secs(10), Duration::from_secs(300)),
            last_errors: Mutex::default(),
            slots: parallel.map(|n| Arc::new(Semaphore::new(n.max(1)))),
            limiter: Limiter::new(config.registry_pull_qps, config.registry_burst),
            events,
            root: root.to_path_buf(),
            providers,
            records,
        }
    }

    /// Makes sure that the container's image is there, and those that it mounts.
    pub async fn ensure(
        &self,
        pod: &Pod,
        kind: Kind,
        container: &Container,
        objects: &dyn Objects,
        sandbox: &PodSandboxConfig,
        handler: &str,
    ) -> Result<Image, Waiting> {
        let tell = |type_: &str, reason: &str, message: &str| {
            self.events.container(pod, kind, &container.name, type_, reason, message);
        };
        let asked = container.image.as_deref().unwrap_or_default();
        let policy = container.image_pull_policy.as_deref().unwrap_or("IfNotPresent");
        let wish = Wish { pod, asked, policy, objects, sandbox, handler, tell: &tell };
        let found = self.grant(&wish).await?;
        let mut image = Image { volumes: BTreeMap::new(), ..found };
        for mount in container.volume_mounts.iter().flatten() {
            let volume = pod.spec().volumes.iter().flatten().find(|v| v.name == mount.name);
            let Some(source) = volume.and_then(|v| v.image.as_ref()) else { continue };
            let asked = source.reference.as_deref().unwrap_or_default();
            let policy = source.pull_policy.as_deref().unwrap_or("IfNotPresent");
            let tell =
                |type_: &str, reason: &str, message: &str| self.events.pod(pod, type_, reason, message);
            let wish = Wish { pod, asked, policy, objects, sandbox, handler, tell: &tell };
            let found = self.grant(&wish).await?;
            image.volumes.insert(mount.name.clone(), found.reference);
        }
        Ok(image)
    }

    async fn grant(&self, wish: &Wish<'_>) -> Result<Image, Waiting> {
        let asked = wish.asked;
        let image = default_tag(asked).map_err(|error| {
            let message = format!("Failed to apply default image tag {asked:?}: {error}");
            (wish.tell)("Warning", "InspectFailed", &message);
            Waiting::new("InvalidImageName", message)
        })?;
        let spec = ImageSpec {
            image,
            annotations: wish.pod.metadata.annotations.clone().unwrap_or_default().into_iter().collect(),
            user_specified_image: asked.to_string(),
            runtime_handler: wish.handler.to_string(),
            ..Default::default()
        };
        let never = || {
            let message = format!("Container image {asked:?} is not present with pull policy of Never");
            (wish.tell)("Warning", "ErrImageNeverPull", &message);
            Waiting::new("ErrImageNeverPull", message)
        };
        let mut credentials = None;
        if wish.policy != "Always" {
            let found = self.runtime.image_status(spec.clone()).await.map_err(|error| {
                let message = format!("Failed to inspect image {asked:?}: {error}");
                (wish.tell)("Warning", "InspectFailed", &message);
                Waiting::new("ImageInspectError", message)
            })?;
            match found {
                None if wish.policy == "Never" => {
                    crate::metrics::pods::ensured(wish.policy, Some(false), false);
                    return Err(never());
                }
                None => crate::metrics::pods::ensured(wish.policy, Some(false), true),
                Some(image) => {
                    let (allowed, known) = self.may_have(wish, &spec, &image.id).await;
                    credentials = known;
                    crate::metrics::pods::ensured(wish.policy, Some(true), !allowed);
                    if allowed {
                        let more =
                            if self.records.is_some() { " and can be accessed by the pod" } else { "" };
                        let message = format!("Container image {asked:?} already present on machine{more}");
                        (wish.tell)("Normal", "Pulled", &message);
                        let user = user(&image);
                        return Ok(Image { reference: image.id, user, volumes: BTreeMap::new() });
                    }
                    if wish.policy == "Never" {
                        return Err(never());
                    }
                }
            }
        }
        if wish.policy == "Always" {
            crate::metrics::pods::ensured(wish.policy, None, true);
        }
        self.pull(wish, spec, credentials).await
    }

    /// How many records of pulls there are, and of pulls that have not ended.
    pub fn records(&self) -> Option<(usize, usize)> {
        self.records.as_ref().map(Records::count)
    }

    /// Whether a pod may use an image that is there, and its credentials if they had to be looked up.
    async fn may_have(&self, wish: &Wish<'_>, spec: &ImageSpec, id: &str) -> (bool, Option<Vec<Credential>>) {
        let Some(records) = &self.records else { return (true, None) };
        let (result, may, credentials) = match records.judge(wish.asked, id) {
            records::Verdict::Unasked => ("credentialPolicyAllowed", true, None),
            records::Verdict::Free => ("credentialRecordFound", true, None),
            records::Verdict::Pull => ("mustAuthenticate", false, None),
            records::Verdict::Ask => {
                let credentials = self.credentials(wish, &spec.image).await;
                let known = records.admits(wish.asked, id, &credentials);
                let result = if known { "credentialRecordFound" } else { "mustAuthenticate" };
                (result, known, Some(credentials))
            }
        };
        crate::metrics::pods::must_pull(result);
        (may, credentials)
    }

    async fn pull(
        &self,
        wish: &Wish<'_>,
        spec: ImageSpec,
        credentials: Option<Vec<Credential>>,
    ) -> Result<Image, Waiting> {
        let asked = wish.asked;
        let key = format!("{}_{asked}", wish.pod.uid());
        if self.backoff.remaining_since_update(&key, SystemTime::now()).is_some() {
            let mut message = format!("Back-off pulling image {asked:?}");
            (wish.tell)("Normal", "BackOff", &message);
            if let Some(last) = self.last_errors.lock().get(&key) {
                message = format!("{message}: {last}");
            }
            return Err(Waiting::new("ImagePullBackOff", message));
        }
        let intent = match &self.records {
            Some(records) => Some(records.intend(asked).map_err(|error| {
                let message =
                    format!("Failed to record image pull intent for container image {asked:?}: {error}");
                Waiting::new("ErrImagePull", message)
            })?),
            None => None,
        };
        let credentials = match credentials {
            Some(known) => known,
            None => self.credentials(wish, &spec.image).await,
        };
        (wish.tell)("Normal", "Pulling", &format!("Pulling image {asked:?}"));
        let began = Instant::now();
        let _slot = match &self.slots {
            Some(slots) => slots.acquire().await.ok(),
            None => None,
        };
        let waited = Instant::now();
        match self.try_all(&spec, credentials, wish.sandbox).await {
            Ok((reference, used)) => {
                let image = self.runtime.image_status(spec).await.ok().flatten();
                let id = image.as_ref().map(|i| i.id.clone()).unwrap_or_default();
                let reference = if reference.is_empty() { id } else { reference };
                if let Some(intent) = intent {
                    intent.done(&reference, used.as_ref());
                }
                let size = image.as_ref().map_or(0, |i| i.size);
                crate::metrics::pods::pulled(size, waited.elapsed());
                let (pull, total) = (go_duration(waited.elapsed()), go_duration(began.elapsed()));
                let message = format!(
                    "Successfully pulled image {asked:?} in {pull} ({total} including waiting). Image size: {size} bytes."
                );
                (wish.tell)("Normal", "Pulled", &message);
                self.last_errors.lock().remove(&key);
                let user = image.as_ref().map(user).unwrap_or_default();
                Ok(Image { reference, user, volumes: BTreeMap::new() })
            }
            Err(error) => {
                let failed = judge(asked, &error);
                (wish.tell)("Warning", "Failed", &format!("Failed to pull image {asked:?}: {error}"));
                let now = SystemTime::now();
                self.backoff.next(&key, now, now);
                self.last_errors.lock().insert(key, format!("{}: {}", failed.reason, failed.message));
                Err(failed)
            }
        }
    }

    /// Tries the credentials one after the other; none at all if there are none. Returns which one was good.
    async fn try_all(
        &self,
        spec: &ImageSpec,
        credentials: Vec<Credential>,
        sandbox: &PodSandboxConfig,
    ) -> Result<(String, Option<Credential>), String> {
        let all: Vec<Option<Credential>> = match credentials.is_empty() {
            true => vec![None],
            false => credentials.into_iter().map(Some).collect(),
        };
        let mut errors: Vec<String> = Vec::new();
        for credential in all {
            if self.limiter.as_ref().is_some_and(|limiter| !limiter.take()) {
                return Err("pull QPS exceeded".into());
            }
            let auth = credential.as_ref().map(|c| c.auth.clone());
            match self.runtime.pull_image(spec.clone(), auth, Some(sandbox.clone())).await {
                Ok(reference) => return Ok((reference, credential)),
                Err(error) => {
                    let text = error.to_string();
                    let bare = bare(&text);
                    if !errors.iter().any(|known| known == bare) {
                        errors.push(bare.to_string());
                    }
                }
            }
        }
        match errors.as_slice() {
            [one] => Err(one.clone()),
            many => Err(format!("[{}]", many.join(", "))),
        }
    }

    /// All credentials that fit: those of the pod, of the node, and of the node's credential providers.
    async fn credentials(&self, wish: &Wish<'_>, image: &str) -> Vec<Credential> {
        let (pod, objects) = (wish.pod, wish.objects);
        let mut keyring = Keyring::default();
        let mut missing = Vec::new();
        for reference in pod.spec().image_pull_secrets.iter().flatten() {
            match objects.secret(pod.namespace(), &reference.name).await {
                Ok(secret) => keyring.add_secret(&secret),
                Err(_) => missing.push(reference.name.as_str()),
            }
        }
        if !missing.is_empty() {
            let message = format!(
                "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
                missing.join(", ")
            );
            self.events.pod(pod, "Warning", "FailedToRetrieveImagePullSecret", &message);
        }
        let mut all = keyring.lookup(image);
        all.extend(pull_secrets::of_node(&self.root).lookup(image));
        all.extend(self.providers.lookup(image, pod, objects).await);
        all
    }

    /// Forgets the failures of a pod.
    pub fn forget(&self, uid: &str) {
        self.backoff.forget(uid);
        self.last_errors.lock().retain(|key, _| !key.starts_with(uid));
    }

    /// Forgets who pulled images that are no longer there; `since` is when they were listed.
    pub fn prune(&self, present: &[String], since: SystemTime) {
        if let Some(records) = &self.records {
            records.prune(present, since);
        }
    }

    /// How long until the container's image is tried again.
    pub fn retry_in(&self, pod: &Pod, container: &Container) -> Option<Duration> {
        let now = SystemTime::now();
        let volumes = container.volume_mounts.iter().flatten().filter_map(|mount| {
            let volume = pod.spec().volumes.iter().flatten().find(|v| v.name == mount.name)?;
            volume.image.as_ref()?.reference.as_deref()
        });
        let images = container.image.as_deref().into_iter().chain(volumes);
        let left = images
            .filter_map(|image| self.backoff.remaining_since_update(&format!("{}_{image}", pod.uid()), now));
        left.max()
    }
}

fn user(image: &cri::v1::Image) -> ImageUser {
    let uid = image.uid.as_ref().map(|u| u.value);
    // An image that names nobody runs as root.
    let uid = uid.or_else(|| image.username.is_empty().then_some(0));
    ImageUser { uid, name: image.username.clone() }
}

/// The reason and message of a failed pull.
fn judge(asked: &str, error: &str) -> Waiting {
    let bare = bare(error);
    for (prefix, reason, what) in [
        ("RegistryUnavailable", "RegistryUnavailable", "the registry is unavailable"),
        ("SignatureValidationFailed", "SignatureValidationFailed", "the signature validation failed"),
    ] {
        if let Some(rest) = error.strip_prefix(prefix) {
            return Waiting::new(reason, format!("image pull failed for {asked} because {what}{rest}"));
        }
    }
    Waiting::new("ErrImagePull", bare)
}

/// What a runtime said that had no code for it; the code `Unknown` tells nobody anything.
fn bare(error: &str) -> &str {
    error.strip_prefix("rpc error: code = Unknown desc = ").unwrap_or(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts() {
        let pull = judge("a", "RegistryUnavailable: down");
        assert_eq!(
            (pull.reason, pull.message.as_str()),
            ("RegistryUnavailable", "image pull failed for a because the registry is unavailable: down")
        );
        assert_eq!(judge("a", "pull QPS exceeded"), Waiting::new("ErrImagePull", "pull QPS exceeded"));
    }
}
