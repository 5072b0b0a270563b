//! ServiceAccount: every pod runs as one that exists, and has its token mounted unless it declines.

use crate::attributes::{Attributes, Operation};
use crate::chain::{Deps, Plugin};
use crate::objects::{annotation, at, containers_mut, items, list_at, text};
use api::registry::Registry;
use api::status::{Result, Status};
use api::{Value, json};
use auth::authz::node::{is_mirror, references};
use rand::RngExt;
use std::sync::Arc;
use std::time::Duration;

const DEFAULT_NAME: &str = "default";
const VOLUME_PREFIX: &str = "kube-api-access-";
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const ENFORCE_ANNOTATION: &str = "kubernetes.io/enforce-mountable-secrets";
/// What `metadata.generateName` uses too: no vowels, no look-alikes.
const SUFFIX_LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

pub struct ServiceAccount {
    registry: Arc<dyn Registry>,
}

impl ServiceAccount {
    pub fn new(deps: &Deps) -> Self {
        ServiceAccount { registry: deps.registry.clone() }
    }

    /// The default account is made by a controller a moment after its namespace: it is waited for.
    async fn account(&self, namespace: &str, name: &str) -> Result<Arc<Value>> {
        let gr = ("", "serviceaccounts");
        if let Some(found) = self.registry.get(gr, namespace, name) {
            return Ok(found);
        }
        let attempts = if name == DEFAULT_NAME { 10 } else { 1 };
        for attempt in 0..attempts {
            if attempt > 0 {
                let pause = rand::rng().random_range(100..200);
                tokio::time::sleep(Duration::from_millis(pause)).await;
            }
            match self.registry.get_live(gr, namespace, name).await {
                Ok(found) => return Ok(Arc::new(found)),
                Err(e) if e.code == 404 => {}
                Err(e) => return Err(e),
            }
        }
        Err(Status::not_found("", "serviceaccount", name))
    }

    async fn account_of(&self, a: &Attributes, pod: &Value) -> Result<Arc<Value>> {
        let account = text(pod, &["spec", "serviceAccountName"]);
        if account.is_empty() {
            let pod_name = text(pod, &["metadata", "name"]);
            return Err(
                a.forbidden(format!("no service account specified for pod {}/{pod_name}", a.namespace))
            );
        }
        self.account(&a.namespace, account).await.map_err(|e| {
            a.forbidden(format!("error looking up service account {}/{account}: {e}", a.namespace))
        })
    }

    async fn check(&self, a: &Attributes) -> Result<()> {
        let Some(pod) = a.object.as_ref() else { return Ok(()) };
        let ephemeral = a.operation == Operation::Update && a.subresource == "ephemeralcontainers";
        if a.operation != Operation::Create && !ephemeral {
            return Ok(());
        }
        if !ephemeral && is_mirror(pod) {
            return check_mirror(a, pod);
        }
        let account = self.account_of(a, pod).await?;
        if !annotation(&account, ENFORCE_ANNOTATION).is_some_and(parse_bool) {
            return Ok(());
        }
        let complaint = if ephemeral {
            environment_complaint(&account, pod, "ephemeralContainers", "ephemeral container")
        } else {
            secret_complaint(&account, pod)
        };
        complaint.map_or(Ok(()), |why| Err(a.forbidden(why)))
    }
}

fn parse_bool(text: &str) -> bool {
    matches!(text, "1" | "t" | "T" | "true" | "TRUE" | "True")
}

fn applies(a: &Attributes) -> bool {
    a.is("", "pods") && matches!(a.subresource.as_str(), "" | "ephemeralcontainers")
}

fn check_mirror(a: &Attributes, pod: &Value) -> Result<()> {
    if !text(pod, &["spec", "serviceAccountName"]).is_empty() {
        return Err(a.forbidden("a mirror pod may not reference service accounts"));
    }
    if references::secrets(pod).next().is_some() {
        return Err(a.forbidden("a mirror pod may not reference secrets"));
    }
    let sources = items(pod, &["spec", "volumes"]).iter().flat_map(|v| items(v, &["projected", "sources"]));
    if sources.into_iter().any(|s| at(s, &["serviceAccountToken"]).is_object()) {
        return Err(a.forbidden("a mirror pod may not use ServiceAccountToken volume projections"));
    }
    Ok(())
}

fn names<'a>(account: &'a Value, list: &str) -> Vec<&'a str> {
    items(account, &[list]).iter().map(|s| text(s, &["name"])).collect()
}

/// The first secret that the pod uses and its account does not list.
fn secret_complaint(account: &Value, pod: &Value) -> Option<String> {
    let (account_name, mountable) = (text(account, &["metadata", "name"]), names(account, "secrets"));
    for volume in items(pod, &["spec", "volumes"]) {
        let secret = text(volume, &["secret", "secretName"]);
        if at(volume, &["secret"]).is_object() && !mountable.contains(&secret) {
            return Some(format!(
                "volume with secret.secretName=\"{secret}\" is not allowed because service account {account_name} does not reference that secret"
            ));
        }
    }
    for (list, word) in [("initContainers", "init container"), ("containers", "container")] {
        if let Some(complaint) = environment_complaint(account, pod, list, word) {
            return Some(complaint);
        }
    }
    let pull = names(account, "imagePullSecrets");
    items(pod, &["spec", "imagePullSecrets"]).iter().enumerate().find_map(|(i, s)| {
        let secret = text(s, &["name"]);
        (!pull.contains(&secret)).then(|| {
            format!(
                "imagePullSecrets[{i}].name=\"{secret}\" is not allowed because service account {account_name} does not reference that imagePullSecret"
            )
        })
    })
}

fn environment_complaint(account: &Value, pod: &Value, list: &str, word: &str) -> Option<String> {
    let (account_name, mountable) = (text(account, &["metadata", "name"]), names(account, "secrets"));
    for container in items(pod, &["spec", list]) {
        let shown = format!("{word} {}", text(container, &["name"]));
        let tail = |secret: &str| {
            format!(
                "referencing secret.secretName=\"{secret}\" is not allowed because service account {account_name} does not reference that secret"
            )
        };
        for variable in items(container, &["env"]) {
            let reference = at(variable, &["valueFrom", "secretKeyRef"]);
            let secret = text(reference, &["name"]);
            if reference.is_object() && !mountable.contains(&secret) {
                return Some(format!("{shown} with envVar {} {}", text(variable, &["name"]), tail(secret)));
            }
        }
        for source in items(container, &["envFrom"]) {
            let reference = at(source, &["secretRef"]);
            let secret = text(reference, &["name"]);
            if reference.is_object() && !mountable.contains(&secret) {
                return Some(format!("{shown} with envFrom {}", tail(secret)));
            }
        }
    }
    None
}

fn wants_token(account: &Value, pod: &Value) -> bool {
    let choice = |v: &Value| v.as_bool();
    choice(at(pod, &["spec", "automountServiceAccountToken"]))
        .or_else(|| choice(at(account, &["automountServiceAccountToken"])))
        .unwrap_or(true)
}

fn mount_token(pod: &mut Value) {
    let existing = items(pod, &["spec", "volumes"])
        .iter()
        .map(|v| text(v, &["name"]))
        .find(|n| n.starts_with(VOLUME_PREFIX))
        .map(str::to_owned);
    let volume = existing.clone().unwrap_or_else(|| {
        let mut random = rand::rng();
        let suffix: String = (0..5)
            .map(|_| char::from(SUFFIX_LETTERS[random.random_range(0..SUFFIX_LETTERS.len())]))
            .collect();
        format!("{VOLUME_PREFIX}{suffix}")
    });
    let mut needed = false;
    containers_mut(pod, &["initContainers", "containers"], |container| {
        let mounted =
            items(container, &["volumeMounts"]).iter().any(|m| text(m, &["mountPath"]) == MOUNT_PATH);
        if !mounted {
            needed = true;
            list_at(container, "volumeMounts")
                .push(json!({"name": volume, "readOnly": true, "mountPath": MOUNT_PATH}));
        }
    });
    if needed && existing.is_none() {
        list_at(&mut pod["spec"], "volumes").push(token_volume(&volume));
    }
}

fn token_volume(name: &str) -> Value {
    json!({"name": name, "projected": {"defaultMode": 0o644, "sources": [
        {"serviceAccountToken": {
            "path": "token",
            "expirationSeconds": auth::service_account::WARN_ONLY_EXPIRATION_SECONDS,
        }},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [
            {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}},
        ]}},
    ]}})
}

#[async_trait::async_trait]
impl Plugin for ServiceAccount {
    fn name(&self) -> &'static str {
        "ServiceAccount"
    }
    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }
    async fn admit(&self, a: &mut Attributes) -> Result<()> {
        if !applies(a) || a.operation != Operation::Create {
            return Ok(());
        }
        let Some(mut pod) = a.object.take() else { return Ok(()) };
        if !is_mirror(&pod) {
            if text(&pod, &["spec", "serviceAccountName"]).is_empty() {
                pod["spec"]["serviceAccountName"] = DEFAULT_NAME.into();
                pod["spec"]["serviceAccount"] = DEFAULT_NAME.into();
            }
            let account = match self.account_of(a, &pod).await {
                Ok(account) => account,
                Err(e) => {
                    a.object = Some(pod);
                    return Err(e);
                }
            };
            if wants_token(&account, &pod) {
                mount_token(&mut pod);
            }
            let pull: Vec<Value> =
                names(&account, "imagePullSecrets").iter().map(|n| json!({"name": n})).collect();
            if items(&pod, &["spec", "imagePullSecrets"]).is_empty() && !pull.is_empty() {
                pod["spec"]["imagePullSecrets"] = pull.into();
            }
        }
        a.object = Some(pod);
        self.check(a).await
    }
    async fn validate(&self, a: &mut Attributes) -> Result<()> {
        if applies(a) { self.check(a).await } else { Ok(()) }
    }
}
