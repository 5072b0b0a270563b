//! Sources of storage that pods and persistent volumes share.

use crate::checks::{self, no_backsteps};
use crate::names;
use crate::value::Get;
use api::Value;
use api::field::{Error, ErrorList, Path};

const HOST_PATH_TYPES: [&str; 8] =
    ["", "DirectoryOrCreate", "Directory", "FileOrCreate", "File", "Socket", "CharDevice", "BlockDevice"];

/// Fields that must be there, by source.
const REQUIRED: &[(&str, &[&str])] = &[
    ("hostPath", &["path"]),
    ("local", &["path"]),
    ("gcePersistentDisk", &["pdName"]),
    ("awsElasticBlockStore", &["volumeID"]),
    ("nfs", &["server", "path"]),
    ("glusterfs", &["endpoints", "path"]),
    ("iscsi", &["targetPortal", "iqn"]),
    ("rbd", &["monitors", "image"]),
    ("cinder", &["volumeID"]),
    ("cephfs", &["monitors"]),
    ("flexVolume", &["driver"]),
    ("azureFile", &["secretName", "shareName"]),
    ("azureDisk", &["diskName", "diskURI"]),
    ("vsphereVolume", &["volumePath"]),
    ("photonPersistentDisk", &["pdID"]),
    ("portworxVolume", &["volumeID"]),
    ("scaleIO", &["gateway", "system", "volumeName"]),
    ("storageos", &["volumeName"]),
    ("quobyte", &["volume"]),
];

/// A volume source by its field name; with the volume's name if it is a persistent volume.
pub fn source(kind: &str, v: &Value, pv: Option<&str>, at: &Path, e: &mut ErrorList) {
    for field in REQUIRED.iter().find(|(k, _)| *k == kind).map(|(_, f)| *f).unwrap_or_default() {
        checks::required(v, field, at, e);
    }
    match kind {
        "hostPath" if !v.text("path").is_empty() => {
            no_backsteps(v.text("path"), &at.child("path"), e);
            checks::opt_one_of(v, "type", &HOST_PATH_TYPES, at, e);
        }
        "local" => no_backsteps(v.text("path"), &at.child("path"), e),
        "nfs" if !v.text("path").starts_with('/') => {
            e.push(Error::invalid(&at.child("path"), v.text("path"), "must be an absolute path"));
        }
        "gcePersistentDisk" | "awsElasticBlockStore" => {
            let n = v.int("partition");
            if !(0..=255).contains(&n) {
                e.push(Error::invalid(&at.child("partition"), n, names::range_error(1, 255)));
            }
        }
        "iscsi" => iscsi(v, pv, at, e),
        "fc" => fibre_channel(v, at, e),
        "flocker" => flocker(v, at, e),
        "flexVolume" => {
            for (key, _) in v.entries("options") {
                let namespace = format!(".{}", key.split('/').next().unwrap_or_default().to_lowercase());
                if key.contains('/')
                    && (namespace.ends_with(".kubernetes.io") || namespace.ends_with(".k8s.io"))
                {
                    let text = "kubernetes.io and k8s.io namespaces are reserved";
                    e.push(Error::invalid(&at.child("options").key(key), key, text));
                }
            }
        }
        "azureDisk" => azure_disk(v, at, e),
        "quobyte" => quobyte(v, at, e),
        "storageos" => {
            for field in ["volumeName", "volumeNamespace"] {
                if !v.text(field).is_empty() {
                    checks::label(v.text(field), &at.child(field), e);
                }
            }
        }
        _ => {}
    }
    if matches!(kind, "cinder" | "storageos") && v.has("secretRef") {
        let at = at.child("secretRef");
        checks::required(v.at("secretRef"), "name", &at, e);
        if pv.is_some() {
            checks::required(v.at("secretRef"), "namespace", &at, e);
        }
    }
    if pv.is_some() && kind == "glusterfs" {
        match v.opt_text("endpointsNamespace") {
            Some("") => {
                let text = "if the endpointnamespace is set, it must be a valid namespace name";
                e.push(Error::invalid(&at.child("endpointsNamespace"), "", text));
            }
            Some(namespace) => checks::label(namespace, &at.child("endpointsNamespace"), e),
            None => {}
        }
    }
    if pv.is_some() && kind == "azureFile" && v.opt_text("secretNamespace") == Some("") {
        e.push(Error::required(&at.child("secretNamespace"), ""));
    }
    if kind == "csi" && pv.is_some() {
        csi_persistent(v, at, e);
    }
}

fn iscsi(v: &Value, pv: Option<&str>, at: &Path, e: &mut ErrorList) {
    let check = |name: &str, at: &Path, e: &mut ErrorList| {
        let known = ["iqn", "eui", "naa"].iter().any(|p| name.starts_with(p));
        if !known {
            // Pods are told what it begins with, volumes are not.
            let hint = if pv.is_some() { "" } else { " starting with iqn, eui, or naa" };
            e.push(Error::invalid(at, name, format!("must be valid format{hint}")));
        } else if !is_initiator(name) {
            e.push(Error::invalid(at, name, "must be valid format"));
        }
    };
    if !v.text("iqn").is_empty() {
        check(v.text("iqn"), &at.child("iqn"), e);
    }
    let lun = v.int("lun");
    if !(0..=255).contains(&lun) {
        e.push(Error::invalid(&at.child("lun"), lun, names::range_error(0, 255)));
    }
    if (v.flag("chapAuthDiscovery") || v.flag("chapAuthSession")) && !v.has("secretRef") {
        e.push(Error::required(&at.child("secretRef"), ""));
    }
    if v.has("secretRef") && v.at("secretRef").text("name").is_empty() {
        e.push(Error::required(&at.child("secretRef").child("name"), ""));
    }
    if let Some(initiator) = v.opt_text("initiatorName") {
        check(initiator, &at.child("initiatorname"), e);
        let portal = v.text("targetPortal");
        if pv.is_some_and(|pv| pv.len() + 1 + portal.len() > 64) {
            e.push(Error::invalid(&at.child("targetportal"), portal, ISCSI_TOO_LONG));
        }
    }
}

/// `iqn.2001-04.com.example:disk`, `eui.` and 16, or `naa.` and 32 letters and digits.
fn is_initiator(name: &str) -> bool {
    let alnum = |s: &str, n| s.len() == n && s.bytes().all(|b| b.is_ascii_alphanumeric());
    let Some((kind, rest)) = name.split_once('.') else { return false };
    match kind {
        "eui" => alnum(rest, 16),
        "naa" => alnum(rest, 32),
        "iqn" => {
            let Some((authority, unique)) = rest.split_once(':') else { return false };
            let Some((date, domain)) = authority.split_once('.') else { return false };
            let date = date.as_bytes();
            date.len() == 7
                && date.iter().enumerate().all(|(i, b)| if i == 4 { *b == b'-' } else { b.is_ascii_digit() })
                && !domain.is_empty()
                && !unique.is_empty()
                && !unique.contains([',', ';', '*', '&', '$', '|', ' '])
        }
        _ => false,
    }
}

/// Name and portal make one identifier on the node.
pub fn iscsi_total_length(volume: &Value, at: &Path, e: &mut ErrorList) {
    let (name, iscsi) = (volume.text("name"), volume.at("iscsi"));
    if iscsi.has("initiatorName") && name.len() + 1 + iscsi.text("targetPortal").len() > 64 {
        e.push(Error::invalid(&at.child("name"), name, ISCSI_TOO_LONG));
    }
}

const ISCSI_TOO_LONG: &str = "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName is specified.";

fn quobyte(v: &Value, at: &Path, e: &mut ErrorList) {
    let (registry, text) =
        (v.text("registry"), "must be a host:port pair or multiple pairs separated by commas");
    if registry.is_empty() {
        e.push(Error::required(&at.child("registry"), text));
    } else if v.len("tenant") >= 65 {
        let text = "must be a UUID and may not exceed a length of 64 characters";
        e.push(Error::required(&at.child("tenant"), text));
    } else {
        for _ in registry.split(',').filter(|pair| !is_host_port(pair)) {
            e.push(Error::invalid(&at.child("registry"), registry, text));
        }
    }
}

fn is_host_port(pair: &str) -> bool {
    match pair.rsplit_once(':') {
        Some((host, _)) if host.starts_with('[') => host.ends_with(']'),
        Some((host, _)) => !host.contains([':', '[', ']']),
        None => false,
    }
}

fn fibre_channel(v: &Value, at: &Path, e: &mut ErrorList) {
    let at_names = at.child("targetWWNs");
    match (v.len("targetWWNs"), v.len("wwids")) {
        (0, 0) => {
            e.push(Error::required(&at_names, "must specify either targetWWNs or wwids, but not both"));
        }
        (0, _) => return,
        (_, 0) => {}
        _ => {
            let text = "targetWWNs and wwids can not be specified simultaneously";
            e.push(Error::invalid(&at_names, v.at("targetWWNs").clone(), text));
        }
    }
    match v.opt_int("lun") {
        None if v.len("targetWWNs") > 0 => {
            e.push(Error::required(&at.child("lun"), "lun is required if targetWWNs is specified"));
        }
        Some(lun) if v.len("targetWWNs") > 0 && !(0..=255).contains(&lun) => {
            e.push(Error::invalid(&at.child("lun"), lun, names::range_error(0, 255)));
        }
        _ => {}
    }
}

fn flocker(v: &Value, at: &Path, e: &mut ErrorList) {
    match (v.text("datasetName"), v.text("datasetUUID")) {
        ("", "") => e.push(Error::required(at, "one of datasetName and datasetUUID is required")),
        ("", _) | (_, "") => {}
        _ => {
            let text = "datasetName and datasetUUID can not be specified simultaneously";
            e.push(Error::invalid(at, "resource", text));
        }
    }
    if v.text("datasetName").contains('/') {
        e.push(Error::invalid(&at.child("datasetName"), v.text("datasetName"), "must not contain '/'"));
    }
}

fn azure_disk(v: &Value, at: &Path, e: &mut ErrorList) {
    checks::opt_one_of(v, "cachingMode", &["None", "ReadOnly", "ReadWrite"], at, e);
    checks::opt_one_of(v, "kind", &["Shared", "Dedicated", "Managed"], at, e);
    let (kind, uri) = (v.opt_text("kind"), v.text("diskURI"));
    let (prefix, form) = match kind {
        None => return,
        Some("Managed") => (
            "/subscriptions/",
            "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}",
        ),
        Some(_) => {
            ("https://", "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd")
        }
    };
    if !uri.starts_with(prefix) {
        e.push(Error::not_supported(&at.child("diskURI"), uri, &[form]));
    }
}

/// The name of a CSI driver.
pub fn csi_driver_name(name: &str, at: &Path, e: &mut ErrorList) {
    if name.is_empty() {
        return e.push(Error::required(at, ""));
    }
    if name.len() > 63 {
        e.push(Error::too_long(at, 63));
    }
    checks::texts(name, names::dns_subdomain(&name.to_lowercase()), at, e);
}

fn csi_persistent(v: &Value, at: &Path, e: &mut ErrorList) {
    csi_driver_name(v.text("driver"), &at.child("driver"), e);
    checks::required(v, "volumeHandle", at, e);
    for field in [
        "controllerPublishSecretRef",
        "controllerExpandSecretRef",
        "nodePublishSecretRef",
        "nodeExpandSecretRef",
    ] {
        if v.has(field) {
            let (secret, at) = (v.at(field), at.child(field));
            if checks::required(secret, "name", &at, e) {
                checks::subdomain(secret.text("name"), &at.child("name"), e);
            }
            if checks::required(secret, "namespace", &at, e) {
                checks::label(secret.text("namespace"), &at.child("namespace"), e);
            }
        }
    }
}
