//! What a pod, and a volume that it mounts, refer to.

use super::{containers, is_mirror};
use crate::values::{at, items, name, text};
use api::Value;

/// The sorts of objects that a node may have a relation to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    Secret,
    ConfigMap,
    Claim,
    Volume,
    ResourceClaim,
    Attachment,
    ServiceAccount,
    Slice,
    Pod,
    PodCertificate,
}

/// Whether the pod refers to the object of that name in its own namespace.
pub fn pod_refers(pod: &Value, target: Target, wanted: &str) -> bool {
    if wanted.is_empty() || is_mirror(pod) {
        return false;
    }
    match target {
        Target::ServiceAccount => text(pod, &["spec", "serviceAccountName"]) == wanted,
        Target::Secret => secrets(pod).any(|s| s == wanted),
        Target::ConfigMap => config_maps(pod).any(|s| s == wanted),
        Target::Claim => claims(pod).iter().any(|c| c == wanted),
        Target::ResourceClaim => resource_claims(pod).any(|s| s == wanted),
        _ => false,
    }
}

/// Names of all secrets that a pod uses, in any way.
pub fn secrets(pod: &Value) -> impl Iterator<Item = &str> {
    let pull = items(pod, &["spec", "imagePullSecrets"]).iter().map(|s| text(s, &["name"]));
    let volumes = items(pod, &["spec", "volumes"]).iter().flat_map(volume_secret_names);
    pull.chain(environment(pod, "secretRef", "secretKeyRef")).chain(volumes).filter(|s| !s.is_empty())
}

/// Names of all config maps that a pod uses, in any way.
pub fn config_maps(pod: &Value) -> impl Iterator<Item = &str> {
    let volumes = items(pod, &["spec", "volumes"]).iter().flat_map(|v| {
        let projected = items(v, &["projected", "sources"]).iter().map(|s| text(s, &["configMap", "name"]));
        std::iter::once(text(v, &["configMap", "name"])).chain(projected)
    });
    environment(pod, "configMapRef", "configMapKeyRef").chain(volumes).filter(|s| !s.is_empty())
}

fn environment<'a>(pod: &'a Value, from: &'static str, key: &'static str) -> impl Iterator<Item = &'a str> {
    containers(pod).flat_map(move |c| {
        let whole = items(c, &["envFrom"]).iter().map(move |e| text(e, &[from, "name"]));
        let single = items(c, &["env"]).iter().map(move |e| text(e, &["valueFrom", key, "name"]));
        whole.chain(single)
    })
}

fn volume_secret_names(volume: &Value) -> Vec<&str> {
    let mut out = vec![
        text(volume, &["secret", "secretName"]),
        text(volume, &["azureFile", "secretName"]),
        text(volume, &["csi", "nodePublishSecretRef", "name"]),
    ];
    let plain = ["cephfs", "cinder", "flexVolume", "rbd", "scaleIO", "iscsi", "storageos"];
    out.extend(plain.iter().map(|sort| text(volume, &[sort, "secretRef", "name"])));
    out.extend(items(volume, &["projected", "sources"]).iter().map(|s| text(s, &["secret", "name"])));
    out
}

/// Names of the claims that a pod mounts, generic ephemeral volumes included.
pub fn claims(pod: &Value) -> Vec<String> {
    if is_mirror(pod) {
        return Vec::new();
    }
    let of = |v: &Value| {
        let claim = text(v, &["persistentVolumeClaim", "claimName"]);
        match (claim, v.get("ephemeral").is_some_and(Value::is_object)) {
            ("", true) => Some(format!("{}-{}", name(pod), text(v, &["name"]))),
            ("", false) => None,
            (claim, _) => Some(claim.to_owned()),
        }
    };
    items(pod, &["spec", "volumes"]).iter().filter_map(of).collect()
}

fn resource_claims(pod: &Value) -> impl Iterator<Item = &str> {
    let named = items(pod, &["spec", "resourceClaims"]).iter().map(|c| text(c, &["resourceClaimName"]));
    let made = items(pod, &["status", "resourceClaimStatuses"]).iter().filter(move |s| {
        let entry = text(s, &["name"]);
        items(pod, &["spec", "resourceClaims"]).iter().any(|c| text(c, &["name"]) == entry)
    });
    let extended = text(pod, &["status", "extendedResourceClaimStatus", "resourceClaimName"]);
    named
        .chain(made.map(|s| text(s, &["resourceClaimName"])))
        .chain(std::iter::once(extended))
        .filter(|s| !s.is_empty())
}

/// `(namespace, name)` of the secrets that a kubelet needs to mount a volume.
pub fn volume_secrets(volume: &Value) -> Vec<(String, String)> {
    let spec = at(volume, &["spec"]);
    let claim_namespace = text(spec, &["claimRef", "namespace"]);
    let mut out = Vec::new();
    let mut add = |ns: &str, default: &str, secret: &str| {
        if !secret.is_empty() {
            out.push((if ns.is_empty() { default } else { ns }.to_owned(), secret.to_owned()));
        }
    };
    let azure = at(spec, &["azureFile"]);
    add(text(azure, &["secretNamespace"]), claim_namespace, text(azure, &["secretName"]));
    for sort in ["cephfs", "flexVolume", "rbd", "scaleIO", "iscsi"] {
        let secret = at(spec, &[sort, "secretRef"]);
        add(text(secret, &["namespace"]), claim_namespace, text(secret, &["name"]));
    }
    for sort in ["cinder", "storageos"] {
        let secret = at(spec, &[sort, "secretRef"]);
        add(text(secret, &["namespace"]), "", text(secret, &["name"]));
    }
    for role in ["nodePublishSecretRef", "nodeStageSecretRef", "nodeExpandSecretRef"] {
        let secret = at(spec, &["csi", role]);
        add(text(secret, &["namespace"]), "", text(secret, &["name"]));
    }
    out
}
