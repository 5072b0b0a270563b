//! Makes sure that a container's image is there, as its pull policy says.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use cri::v1::{AuthConfig, ImageSpec, PodSandboxConfig};
use k8s_openapi::api::core::v1::{Container, Pod};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use volumes::Objects;

use crate::backoff::{Backoff, go_duration};
use crate::events::Events;
use crate::pod::{Kind, PodExt};
use crate::pull_secrets::{self, Keyring};
use crate::security::ImageUser;

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
}

/// Pulls images.
pub struct Images {
    runtime: cri::Runtime,
    backoff: Backoff,
    last_errors: Mutex<HashMap<String, String>>,
    slots: Option<Arc<Semaphore>>,
    events: Events,
    node_keyring: Keyring,
}

impl Images {
    /// With `parallel` pulls at a time; `None` for no limit.
    pub fn new(
        runtime: cri::Runtime,
        events: Events,
        parallel: Option<usize>,
        root: &std::path::Path,
    ) -> Self {
        Self {
            runtime,
            backoff: Backoff::new(Duration::from_secs(10), Duration::from_secs(300)),
            last_errors: Mutex::default(),
            slots: parallel.map(|n| Arc::new(Semaphore::new(n.max(1)))),
            events,
            node_keyring: pull_secrets::of_node(root),
        }
    }

    /// Makes sure that the container's image is there.
    pub async fn ensure(
        &self,
        pod: &Pod,
        kind: Kind,
        container: &Container,
        objects: &dyn Objects,
        sandbox: &PodSandboxConfig,
        handler: &str,
    ) -> Result<Image, Waiting> {
        let asked = container.image.as_deref().unwrap_or_default();
        let image = default_tag(asked).map_err(|error| {
            let message = format!("Failed to apply default image tag {asked:?}: {error}");
            self.events.container(pod, kind, &container.name, "Warning", "InspectFailed", &message);
            Waiting::new("InvalidImageName", message)
        })?;
        let spec = ImageSpec {
            image,
            annotations: pod.metadata.annotations.clone().unwrap_or_default().into_iter().collect(),
            user_specified_image: asked.to_string(),
            runtime_handler: handler.to_string(),
            ..Default::default()
        };
        let policy = container.image_pull_policy.as_deref().unwrap_or("IfNotPresent");
        if policy != "Always" {
            let found = self.runtime.image_status(spec.clone()).await.map_err(|error| {
                let message = format!("Failed to inspect image {asked:?}: {error}");
                self.events.container(pod, kind, &container.name, "Warning", "InspectFailed", &message);
                Waiting::new("ImageInspectError", message)
            })?;
            if let Some(image) = found {
                let message = format!(
                    "Container image {asked:?} already present on machine and can be accessed by the pod"
                );
                self.events.container(pod, kind, &container.name, "Normal", "Pulled", &message);
                return Ok(Image { reference: image.id.clone(), user: user(&image) });
            }
            if policy == "Never" {
                let message = format!("Container image {asked:?} is not present with pull policy of Never");
                self.events.container(pod, kind, &container.name, "Warning", "ErrImageNeverPull", &message);
                return Err(Waiting::new("ErrImageNeverPull", message));
            }
        }
        self.pull(pod, kind, container, asked, spec, objects, sandbox).await
    }

    #[expect(clippy::too_many_arguments, reason = "all of it is the pull")]
    async fn pull(
        &self,
        pod: &Pod,
        kind: Kind,
        container: &Container,
        asked: &str,
        spec: ImageSpec,
        objects: &dyn Objects,
        sandbox: &PodSandboxConfig,
    ) -> Result<Image, Waiting> {
        let event = |kind_of: &str, reason: &str, message: &str| {
            self.events.container(pod, kind, &container.name, kind_of, reason, message);
        };
        let key = format!("{}_{asked}", pod.uid());
        if self.backoff.remaining_since_update(&key, SystemTime::now()).is_some() {
            let mut message = format!("Back-off pulling image {asked:?}");
            event("Normal", "BackOff", &message);
            if let Some(last) = self.last_errors.lock().get(&key) {
                message = format!("{message}: {last}");
            }
            return Err(Waiting::new("ImagePullBackOff", message));
        }
        event("Normal", "Pulling", &format!("Pulling image {asked:?}"));
        let began = Instant::now();
        let _slot = match &self.slots {
            Some(slots) => slots.acquire().await.ok(),
            None => None,
        };
        let waited = Instant::now();
        match self.pull_with_credentials(pod, &spec, objects, sandbox).await {
            Ok(reference) => {
                let image = self.runtime.image_status(spec).await.ok().flatten();
                let size = image.as_ref().map_or(0, |i| i.size);
                let (pull, total) = (go_duration(waited.elapsed()), go_duration(began.elapsed()));
                let message = format!(
                    "Successfully pulled image {asked:?} in {pull} ({total} including waiting). Image size: {size} bytes."
                );
                event("Normal", "Pulled", &message);
                self.last_errors.lock().remove(&key);
                let reference = if reference.is_empty() {
                    image.as_ref().map(|i| i.id.clone()).unwrap_or_default()
                } else {
                    reference
                };
                Ok(Image { reference, user: image.as_ref().map(user).unwrap_or_default() })
            }
            Err(error) => {
                let failed = judge(asked, &error);
                event("Warning", "Failed", &format!("Failed to pull image {asked:?}: {error}"));
                let now = SystemTime::now();
                self.backoff.next(&key, now, now);
                self.last_errors.lock().insert(key, format!("{}: {}", failed.reason, failed.message));
                Err(failed)
            }
        }
    }

    async fn pull_with_credentials(
        &self,
        pod: &Pod,
        spec: &ImageSpec,
        objects: &dyn Objects,
        sandbox: &PodSandboxConfig,
    ) -> cri::Result<String> {
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
        let mut credentials: Vec<Option<AuthConfig>> =
            keyring.lookup(&spec.image).into_iter().map(Some).collect();
        credentials.extend(self.node_keyring.lookup(&spec.image).into_iter().map(Some));
        if credentials.is_empty() {
            credentials.push(None);
        }
        let mut last = None;
        for auth in credentials {
            match self.runtime.pull_image(spec.clone(), auth, Some(sandbox.clone())).await {
                Ok(reference) => return Ok(reference),
                Err(error) => last = Some(error),
            }
        }
        match last {
            Some(error) => Err(error),
            None => Ok(String::new()),
        }
    }

    /// Forgets the failures of a pod.
    pub fn forget(&self, uid: &str) {
        self.backoff.forget(uid);
        self.last_errors.lock().retain(|key, _| !key.starts_with(uid));
    }

    /// How long until the container's image is tried again.
    pub fn retry_in(&self, pod: &Pod, container: &Container) -> Option<Duration> {
        let key = format!("{}_{}", pod.uid(), container.image.as_deref().unwrap_or_default());
        self.backoff.remaining_since_update(&key, SystemTime::now())
    }
}

fn user(image: &cri::v1::Image) -> ImageUser {
    let uid = image.uid.as_ref().map(|u| u.value);
    // An image that names nobody runs as root.
    let uid = uid.or_else(|| image.username.is_empty().then_some(0));
    ImageUser { uid, name: image.username.clone() }
}

/// The reason and message of a failed pull.
fn judge(asked: &str, error: &cri::Error) -> Waiting {
    for (prefix, reason, what) in [
        ("RegistryUnavailable", "RegistryUnavailable", "the registry is unavailable"),
        ("SignatureValidationFailed", "SignatureValidationFailed", "the signature validation failed"),
    ] {
        if let Some(rest) = error.message.strip_prefix(prefix) {
            return Waiting::new(reason, format!("image pull failed for {asked} because {what}{rest}"));
        }
    }
    Waiting::new("ErrImagePull", error.to_string())
}

/// The image with `:latest` where it has neither tag nor digest. An error if it is no image name.
fn default_tag(image: &str) -> Result<String, String> {
    let invalid = |why: &str| Err(format!("couldn't parse image name {image:?}: {why}"));
    let (rest, digest) = match image.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (image, None),
    };
    let slash = rest.rfind('/').map_or(0, |at| at + 1);
    let (name, tag) = match rest[slash..].rfind(':') {
        Some(at) => (&rest[..slash + at], Some(&rest[slash + at + 1..])),
        None => (rest, None),
    };
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let tag_ok = tag.is_none_or(|t| {
        !t.is_empty()
            && t.len() <= 128
            && t.starts_with(word)
            && t.chars().all(|c| word(c) || c == '.' || c == '-')
    });
    let digest_ok = digest.is_none_or(|d| {
        d.split_once(':')
            .is_some_and(|(a, h)| !a.is_empty() && h.len() >= 32 && h.chars().all(|c| c.is_ascii_hexdigit()))
    });
    if name.is_empty() || !tag_ok || !digest_ok || !path_ok(name) {
        return invalid("invalid reference format");
    }
    Ok(if tag.is_none() && digest.is_none() { format!("{image}:latest") } else { image.to_string() })
}

fn path_ok(name: &str) -> bool {
    let mut parts = name.split('/').peekable();
    let mut first = true;
    while let Some(part) = parts.next() {
        let host = first && parts.peek().is_some();
        let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '_' | '-');
        let host_char = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '[' | ']');
        let edge = |c: Option<char>| {
            c.is_some_and(|c| c.is_ascii_alphanumeric() || (host && matches!(c, '[' | ']')))
        };
        let good = part.chars().all(|c| inner(c) || (host && host_char(c)));
        if !good || !edge(part.chars().next()) || !edge(part.chars().last()) {
            return false;
        }
        first = false;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn image_names() {
        for (image, expected) in [
            ("busybox", Some("busybox:latest")),
            ("localhost/busybox:local", Some("localhost/busybox:local")),
            ("localhost:5000/a/b", Some("localhost:5000/a/b:latest")),
            (
                "a@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
                Some("a@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"),
            ),
            ("", None),
            ("UPPER", None),
            ("a/B", None),
            ("a:", None),
            ("a b", None),
            ("/a", None),
            ("a//b", None),
            ("a@sha256:xyz", None),
        ] {
            assert_eq!(default_tag(image).ok().as_deref(), expected, "{image}");
        }
    }
}
