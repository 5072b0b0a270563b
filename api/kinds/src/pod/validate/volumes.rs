//! A pod's volumes: each named once, of one kind.

use super::container::pull_policy;
use super::env::{field_ref, file_mode, key_to_path, resource_ref};
use super::{Options, template_metadata, volumesources};
use crate::checks::{self, local_path};
use crate::names;
use crate::value::Get;
use api::Value;
use api::field::{Error, ErrorList, Path};
use std::collections::BTreeMap;

/// Well-formed volumes by name.
pub type Volumes<'a> = BTreeMap<&'a str, &'a Value>;

pub fn all<'a>(
    spec: &'a Value,
    metadata: Option<&Value>,
    options: Options,
    at: &Path,
    e: &mut ErrorList,
) -> Volumes<'a> {
    let mut good = Volumes::new();
    let list = spec.list("volumes");
    let pod_name = metadata.map(|m| m.text("name")).unwrap_or_default();
    for (i, volume) in list.iter().enumerate() {
        let (at, before, name) = (at.index(i), e.len(), volume.text("name"));
        source(volume, pod_name, options, &at, e);
        if checks::required(volume, "name", &at, e) {
            checks::label(name, &at.child("name"), e);
        }
        if good.contains_key(name) {
            e.push(Error::duplicate(&at.child("name"), name));
        }
        if e.len() == before {
            good.insert(name, volume);
        }
        let claim = volume.at("persistentVolumeClaim").text("claimName");
        let made = |v: &Value| v.has("ephemeral") && format!("{pod_name}-{}", v.text("name")) == claim;
        if !pod_name.is_empty() && !claim.is_empty() && list.iter().any(made) {
            let text = "must not reference a PVC that gets created for an ephemeral volume";
            e.push(Error::invalid(&at.child("persistentVolumeClaim").child("claimName"), claim, text));
        }
    }
    good
}

/// The sources a volume may have, in the order in which they are looked at: the first one counts.
const SOURCES: [&str; 30] = [
    "emptyDir",
    "hostPath",
    "gitRepo",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "secret",
    "nfs",
    "iscsi",
    "glusterfs",
    "flocker",
    "persistentVolumeClaim",
    "rbd",
    "cinder",
    "cephfs",
    "quobyte",
    "downwardAPI",
    "fc",
    "flexVolume",
    "configMap",
    "azureFile",
    "vsphereVolume",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "storageos",
    "projected",
    "scaleIO",
    "csi",
    "ephemeral",
    "image",
];

/// Clients match on the paths of errors, so two odd ones stay as they always were.
fn extra_name(kind: &str) -> &str {
    match kind {
        "cephfs" => "cephFS",
        "downwardAPI" => "downwarAPI",
        kind => kind,
    }
}

fn source(volume: &Value, pod_name: &str, options: Options, at: &Path, e: &mut ErrorList) {
    let mut found = 0;
    for kind in SOURCES {
        let v = volume.at(kind);
        if v.is_null() {
            continue;
        }
        found += 1;
        if kind == "iscsi" {
            volumesources::iscsi_total_length(volume, at, e);
        }
        if found > 1 {
            e.push(Error::forbidden(&at.child(extra_name(kind)), "may not specify more than 1 volume type"));
            continue;
        }
        let at_volume = at;
        let at = at.child(if kind == "gcePersistentDisk" { "persistentDisk" } else { kind });
        match kind {
            "emptyDir" => {
                if crate::value::amount_of(v, "sizeLimit").is_some_and(|n| n < 0) {
                    let text = "SizeLimit field must be a valid resource quantity";
                    e.push(Error::forbidden(&at.child("sizeLimit"), text));
                }
            }
            "secret" => {
                checks::required(v, "secretName", &at, e);
                keyed_files(v, &at, e);
            }
            "configMap" => {
                checks::required(v, "name", &at, e);
                keyed_files(v, &at, e);
            }
            "downwardAPI" => {
                file_mode(v, "defaultMode", &at, e);
                for file in v.list("items") {
                    downward_file(file, &at, e);
                }
            }
            "projected" => projected(v, &at, e),
            "persistentVolumeClaim" => {
                checks::required(v, "claimName", &at, e);
            }
            "ephemeral" => ephemeral(volume, v, pod_name, at_volume, &at, e),
            "image" => {
                if options.is_pod {
                    checks::required(v, "reference", &at, e);
                }
                pull_policy(v.text("pullPolicy"), &at.child("pullPolicy"), e);
            }
            "gitRepo" => {
                checks::required(v, "repository", &at, e);
                checks::descending_path(v.text("directory"), &at.child("directory"), e);
            }
            "csi" => {
                volumesources::csi_driver_name(v.text("driver"), &at.child("driver"), e);
                if v.has("nodePublishSecretRef") {
                    let name = v.at("nodePublishSecretRef").text("name");
                    if name.is_empty() {
                        e.push(Error::required(&at.child("nodePublishSecretRef").child("name"), ""));
                    } else {
                        checks::subdomain(name, &at.child("name"), e);
                    }
                }
            }
            other => volumesources::source(other, v, None, &at, e),
        }
    }
    if found == 0 {
        e.push(Error::required(at, "must specify a volume type"));
    }
}

fn keyed_files(v: &Value, at: &Path, e: &mut ErrorList) {
    file_mode(v, "defaultMode", at, e);
    for (i, item) in v.list("items").iter().enumerate() {
        key_to_path(item, &at.child("items").index(i), e);
    }
}

fn ephemeral(volume: &Value, v: &Value, pod_name: &str, at_volume: &Path, at: &Path, e: &mut ErrorList) {
    let template = v.at("volumeClaimTemplate");
    let at_template = at.child("volumeClaimTemplate");
    if template.is_null() {
        e.push(Error::required(&at_template, ""));
    } else {
        template_metadata(template.at("metadata"), &at_template.child("metadata"), e);
        crate::corev1::pvc::validate_spec(template.at("spec"), &at_template.child("spec"), e);
    }
    let name = volume.text("name");
    if !pod_name.is_empty() && !name.is_empty() {
        let claim = format!("{pod_name}-{name}");
        for text in names::dns_subdomain(&claim) {
            let text = format!("PVC name {claim:?}: {text}");
            e.push(Error::invalid(&at_volume.child("name"), name, text));
        }
    }
}

const VOLUME_FIELDS: [&str; 5] =
    ["metadata.name", "metadata.namespace", "metadata.labels", "metadata.annotations", "metadata.uid"];

fn downward_file(file: &Value, at: &Path, e: &mut ErrorList) {
    checks::required(file, "path", at, e);
    local_path(file.text("path"), &at.child("path"), e);
    match (file.at("fieldRef"), file.at("resourceFieldRef")) {
        (Value::Null, Value::Null) => {
            e.push(Error::required(at, "one of fieldRef and resourceFieldRef is required"));
        }
        (Value::Null, resource) => resource_ref(resource, true, &at.child("resourceFieldRef"), e),
        (field, resource) => {
            field_ref(field, &VOLUME_FIELDS, &at.child("fieldRef"), e);
            if !resource.is_null() {
                let text = "fieldRef and resourceFieldRef can not be specified simultaneously";
                e.push(Error::invalid(at, "resource", text));
            }
        }
    }
    file_mode(file, "mode", at, e);
}

fn projected(v: &Value, at: &Path, e: &mut ErrorList) {
    file_mode(v, "defaultMode", at, e);
    let mut paths: Vec<String> = Vec::new();
    // A path that two sources claim is reported with the first argument as its value.
    let claim = |path: &str, shown: &str, paths: &mut Vec<String>, e: &mut ErrorList| {
        if path.is_empty() {
            return;
        }
        if paths.iter().any(|p| p == path) {
            e.push(Error::invalid(at, shown, "conflicting duplicate paths"));
        } else {
            paths.push(path.to_owned());
        }
    };
    for (i, source) in v.list("sources").iter().enumerate() {
        let at_source = at.child("sources").index(i);
        let mut found = 0;
        for kind in ["secret", "configMap"] {
            let s = source.at(kind);
            if s.is_null() {
                continue;
            }
            found += 1;
            let at_kind = at_source.child(kind);
            checks::required(s, "name", &at_kind, e);
            for (j, item) in s.list("items").iter().enumerate() {
                key_to_path(item, &at_kind.child("items").index(j), e);
                claim(item.text("path"), s.text("name"), &mut paths, e);
            }
        }
        if source.has("downwardAPI") {
            found += 1;
            for file in source.at("downwardAPI").list("items") {
                downward_file(file, &at_source.child("downwardAPI"), e);
                claim(file.text("path"), file.text("path"), &mut paths, e);
            }
        }
        if source.has("serviceAccountToken") {
            found += 1;
            token(source.at("serviceAccountToken"), at, &at_source.child("serviceAccountToken"), e);
        }
        if source.has("clusterTrustBundle") {
            found += 1;
            let bundle = source.at("clusterTrustBundle");
            trust_bundle(bundle, &at_source.child("clusterTrustBundle"), e);
            claim(bundle.text("path"), bundle.text("path"), &mut paths, e);
        }
        if source.has("podCertificate") {
            found += 1;
            let certificate = source.at("podCertificate");
            let at_kind = at_source.child("podCertificate");
            pod_certificate(certificate, &at_kind, e);
            for field in ["credentialBundlePath", "keyPath", "certificateChainPath"] {
                claim(certificate.text(field), certificate.text(field), &mut paths, e);
            }
        }
        if found > 1 {
            e.push(Error::forbidden(&at_source, "may not specify more than 1 volume type per source"));
        }
    }
}

fn token(t: &Value, at_volume: &Path, at: &Path, e: &mut ErrorList) {
    let seconds = t.int("expirationSeconds");
    if seconds < 600 {
        let text = "may not specify a duration less than 10 minutes";
        e.push(Error::invalid(&at.child("expirationSeconds"), seconds, text));
    }
    if seconds > 1 << 32 {
        let text = "may not specify a duration larger than 2^32 seconds";
        e.push(Error::invalid(&at.child("expirationSeconds"), seconds, text));
    }
    if t.text("path").is_empty() {
        e.push(Error::required(&at_volume.child("path"), ""));
    } else {
        local_path(t.text("path"), &at_volume.child("path"), e);
    }
}

fn trust_bundle(b: &Value, at: &Path, e: &mut ErrorList) {
    match (b.opt_text("name"), b.opt_text("signerName")) {
        (Some(_), Some(_)) => {
            e.push(Error::invalid(at, b.clone(), "only one of name and signerName may be used"));
        }
        (None, None) => e.push(Error::required(at, "either name or signerName must be specified")),
        (Some(""), _) => e.push(Error::required(&at.child("name"), "must be a valid object name")),
        (Some(_), _) => {
            if b.has("labelSelector") {
                let text = "labelSelector must be unset if name is specified";
                e.push(Error::invalid(&at.child("labelSelector"), b.at("labelSelector").clone(), text));
            }
        }
        (_, Some(signer)) => {
            crate::certificates::signer_name(signer, &at.child("signerName"), e);
            let options = crate::metadata::SelectorOptions::default();
            crate::metadata::label_selector(b.at("labelSelector"), options, &at.child("labelSelector"), e);
        }
    }
    checks::required(b, "path", at, e);
    local_path(b.text("path"), &at.child("path"), e);
}

fn pod_certificate(c: &Value, at: &Path, e: &mut ErrorList) {
    crate::certificates::signer_name(c.text("signerName"), &at.child("signerName"), e);
    let types = ["RSA3072", "RSA4096", "ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519"];
    checks::one_of(c.text("keyType"), &types, &at.child("keyType"), e);
    if let Some(seconds) = c.opt_int("maxExpirationSeconds").filter(|s| *s < 3600) {
        let text = "if provided, maxExpirationSeconds must be >= 3600";
        e.push(Error::invalid(&at.child("maxExpirationSeconds"), seconds, text));
    }
    let mut any = false;
    for field in ["credentialBundlePath", "keyPath", "certificateChainPath"] {
        if !c.text(field).is_empty() {
            any = true;
            local_path(c.text(field), &at.child(field), e);
        }
    }
    if !any {
        let text = "specify at least one of credentialBundlePath, keyPath, and certificateChainPath";
        e.push(Error::required(at, text));
    }
}
