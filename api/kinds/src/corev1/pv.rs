//! Persistent volumes.

use super::pvc::{basic_amount, validate_access_modes};
use crate::checks;
use crate::metadata::{Checks, immutable};
use crate::pod::resource_list;
use crate::pod::validate::{node_selector, volume_source};
use crate::prepare::Plan;
use crate::shown::difference;
use crate::table::{access_modes, age, name, opt_text, quantity};
use crate::value::{Get, Put};
use crate::value::{amount_value, same};
use crate::warnings::{Warnings, annotations, node_expressions};
use crate::{Context, Kind, Operation, PLAIN};
use api::field::{Error, ErrorList, Path};
use api::{Value, json};

const SOURCE: &str = "k8s.io.api.core.v1.PersistentVolumeSource";

pub static ROOM: Kind = Kind {
    defaults,
    plan: Plan::STATUS,
    prepare,
    validate,
    warnings,
    row: Some(row),
    metadata_checks: Checks::OBJECT_TWICE,
    ..PLAIN
};

fn defaults(o: &mut Value) {
    o.ensure("status").fill_zero("phase", "Pending");
    let Some(spec) = o.sub("spec") else { return };
    spec.fill_zero("persistentVolumeReclaimPolicy", "Retain");
    spec.fill("volumeMode", "Filesystem");
    if let Some(capacity) = spec.sub("capacity") {
        resource_list(capacity);
    }
    crate::pod::volume_source(spec);
}

fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn prepare(op: Operation, cx: &Context<'_>, new: &mut Value, old: Option<&Value>) {
    let Some(old) = old.filter(|_| op == Operation::Update) else {
        return new.set("status", json!({"phase": "Pending", "lastPhaseTransitionTime": now()}));
    };
    if cx.subresource != "status" {
        return;
    }
    let was = old.at("status");
    let status = new.ensure("status");
    let (at, before) = (status.text("lastPhaseTransitionTime"), was.text("lastPhaseTransitionTime"));
    if status.text("phase") != was.text("phase") {
        if at.is_empty() || at == before {
            status.set("lastPhaseTransitionTime", now());
        }
    } else if at.is_empty() {
        status.copy_from(was, "lastPhaseTransitionTime");
    }
}

fn row(o: &Value) -> Vec<Value> {
    let (spec, status) = (o.at("spec"), o.at("status"));
    let claim = match spec.at("claimRef") {
        Value::Null => String::new(),
        c => format!("{}/{}", c.text("namespace"), c.text("name")),
    };
    vec![
        name(o),
        quantity(spec.at("capacity").at("storage")).into(),
        access_modes(spec).into(),
        spec.text("persistentVolumeReclaimPolicy").into(),
        phase(o),
        claim.into(),
        class(o).into(),
        opt_text(spec.opt_text("volumeAttributesClassName")),
        status.text("reason").into(),
        age(o),
        opt_text(spec.opt_text("volumeMode")),
    ]
}

/// The phase, or that it is on its way out.
pub fn phase(o: &Value) -> Value {
    if o.at("metadata").has("deletionTimestamp") {
        "Terminating".into()
    } else {
        o.at("status").text("phase").into()
    }
}

/// The storage class of a volume or a claim; the old annotation wins.
pub fn class(o: &Value) -> &str {
    let beta = o.at("metadata").at("annotations").opt_text("volume.beta.kubernetes.io/storage-class");
    beta.unwrap_or_else(|| o.at("spec").text("storageClassName"))
}

/// Fields of the spec that are no volume source.
const NOT_SOURCES: [&str; 9] = [
    "accessModes",
    "capacity",
    "claimRef",
    "mountOptions",
    "nodeAffinity",
    "persistentVolumeReclaimPolicy",
    "storageClassName",
    "volumeAttributesClassName",
    "volumeMode",
];

/// Volumes that nothing mounts any more.
const GONE: [(&str, &str, &str); 6] = [
    ("cephfs", "cephfs", "deprecated in v1.28, non-functional in v1.31+"),
    ("photonPersistentDisk", "photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
    ("scaleIO", "scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
    ("storageos", "storageOS", "deprecated in v1.22, non-functional in v1.25+"),
    ("glusterfs", "glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
    ("rbd", "rbd", "deprecated in v1.28, non-functional in v1.31+"),
];

fn warnings(cx: &Context<'_>, new: &Value, _: Option<&Value>) -> Warnings {
    let mut out = Warnings::new();
    if cx.subresource == "status" {
        return out;
    }
    let deprecated = [
        (
            "volume.beta.kubernetes.io/storage-class",
            "deprecated since v1.8; use \"storageClassName\" attribute instead",
        ),
        (
            "volume.beta.kubernetes.io/mount-options",
            "deprecated since v1.31; use \"mountOptions\" attribute instead",
        ),
    ];
    annotations(new, &deprecated, &mut out);
    let spec = new.at("spec");
    if spec.text("persistentVolumeReclaimPolicy") == "Recycle" {
        out.push("spec.persistentVolumeReclaimPolicy: The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic provisioning.".to_owned());
    }
    let terms = spec.at("nodeAffinity").at("required").list("nodeSelectorTerms");
    for (i, term) in terms.iter().enumerate() {
        node_expressions(term, &format!("spec.nodeAffinity.required.nodeSelectorTerms[{i}]"), &mut out);
    }
    let gone = GONE.iter().filter(|(kind, ..)| spec.has(kind));
    out.extend(gone.map(|(_, shown, why)| format!("spec.{shown}: {why}")));
    out
}

/// The volume sources, in the order in which they are looked at.
const SOURCES: [&str; 22] = [
    "hostPath",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "glusterfs",
    "flocker",
    "nfs",
    "rbd",
    "quobyte",
    "cephfs",
    "iscsi",
    "cinder",
    "fc",
    "flexVolume",
    "azureFile",
    "vsphereVolume",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "scaleIO",
    "local",
    "storageos",
    "csi",
];

fn sources(spec: &Value) -> Value {
    let map = spec.as_object().into_iter().flatten();
    map.filter(|(k, v)| !NOT_SOURCES.contains(&k.as_str()) && !v.is_null())
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect::<api::Map<String, Value>>()
        .into()
}

fn validate(cx: &Context<'_>, new: &Value, old: Option<&Value>, e: &mut ErrorList) {
    if cx.subresource == "status" {
        return;
    }
    let (spec, at) = (new.at("spec"), Path::new("spec"));
    let name = new.at("metadata").text("name");
    validate_spec(spec, name, &at, e);
    mount_options(new, e);
    let Some(old) = old else { return };
    // An update is looked at as a new volume twice.
    validate_spec(spec, name, &at, e);
    let was = old.at("spec");
    let (mut now, before) = (sources(spec), sources(was));
    if !before.at("csi").has("controllerExpandSecretRef")
        && let Some(csi) = now.sub("csi")
    {
        csi.unset("controllerExpandSecretRef");
    }
    if !crate::semantic::equal(SOURCE, &now, &before) {
        let text = format!(
            "spec.persistentvolumesource is immutable after creation\n{}",
            difference(SOURCE, &before, &now)
        );
        e.push(Error::forbidden(&at.child("persistentvolumesource"), text));
    }
    immutable(spec.at("volumeMode"), was.at("volumeMode"), &Path::new("volumeMode"), e);
    if was.has("nodeAffinity") && !same(spec.at("nodeAffinity"), was.at("nodeAffinity")) {
        let text = "field is immutable, except for updating from beta label to GA";
        let shown = crate::shown::internal("k8s.io.api.core.v1.VolumeNodeAffinity", spec.at("nodeAffinity"));
        e.push(Error::invalid_printed(&Path::new("nodeAffinity"), shown, text));
    }
    if was.has("volumeAttributesClassName") && !spec.has("volumeAttributesClassName") {
        let text = "update from non-nil value to nil is forbidden";
        e.push(Error::forbidden(&at.child("volumeAttributesClassName"), text));
    }
}

/// The old annotation with options for mounting is for volumes of some types.
fn mount_options(new: &Value, e: &mut ErrorList) {
    const KEY: &str = "volume.beta.kubernetes.io/mount-options";
    const HAVE: [&str; 13] = [
        "awsElasticBlockStore",
        "azureDisk",
        "azureFile",
        "cephfs",
        "cinder",
        "gcePersistentDisk",
        "glusterfs",
        "iscsi",
        "nfs",
        "photonPersistentDisk",
        "quobyte",
        "rbd",
        "vsphereVolume",
    ];
    let asked = new.at("metadata").at("annotations").has(KEY);
    if asked && !HAVE.iter().any(|kind| new.at("spec").has(kind)) {
        let at = Path::new("metadata").child("annotations").child(KEY);
        e.push(Error::forbidden(&at, "may not specify mount options for this volume type"));
    }
}

/// A volume that stands in a volume attachment, without an object of its own.
pub fn inline_volume(spec: &Value, at: &Path, e: &mut ErrorList) {
    if spec.opt_text("volumeMode").is_some_and(|mode| mode != "Filesystem") {
        let text = "may not specify volumeMode other than Filesystem in the context of inline volumes";
        e.push(Error::forbidden(&at.child("volumeMode"), text));
    }
    for field in ["capacity", "claimRef", "persistentVolumeReclaimPolicy", "storageClassName"] {
        if spec.len(field) > 0 {
            let text = "may not be specified in the context of inline volumes";
            e.push(Error::forbidden(&at.child(field), text));
        }
    }
    if !spec.has("csi") {
        e.push(Error::required(&at.child("csi"), "has to be specified in the context of inline volumes"));
    }
    checks::required(spec, "accessModes", at, e);
    validate_access_modes(spec, &at.child("accessModes"), e);
    affinity_and_source(spec, None, at, e);
}

fn validate_spec(spec: &Value, name: &str, at: &Path, e: &mut ErrorList) {
    checks::required(spec, "accessModes", at, e);
    validate_access_modes(spec, &at.child("accessModes"), e);
    checks::required(spec, "capacity", at, e);
    let capacity = spec.at("capacity");
    if !capacity.has("storage") || spec.len("capacity") > 1 {
        e.push(Error::not_supported(&at.child("capacity"), capacity.clone(), &["storage"]));
    }
    for (key, v) in spec.entries("capacity") {
        basic_amount(v, &at.child("capacity").key(key), e);
        if amount_value(v).is_none_or(|n| n <= 0) {
            e.push(Error::invalid(&at.child("capacity").key(key), quantity(v), checks::POSITIVE));
        }
    }
    let policy = spec.text("persistentVolumeReclaimPolicy");
    let at_policy = at.child("persistentVolumeReclaimPolicy");
    if !policy.is_empty() {
        checks::one_of(policy, &["Delete", "Recycle", "Retain"], &at_policy, e);
    }
    affinity_and_source(spec, Some(name), at, e);
    if policy == "Recycle" && matches!(spec.at("hostPath").text("path"), "/" | "//" | "/.") {
        e.push(Error::forbidden(&at_policy, "may not be 'recycle' for a hostPath mount of '/'"));
    }
    if !spec.text("storageClassName").is_empty() {
        checks::subdomain(spec.text("storageClassName"), &at.child("storageClassName"), e);
    }
    checks::opt_one_of(spec, "volumeMode", &["Block", "Filesystem"], at, e);
    match spec.opt_text("volumeAttributesClassName") {
        None => return,
        Some("") => {
            e.push(Error::required(&at.child("volumeAttributesClassName"), "an empty string is disallowed"));
        }
        Some(class) => checks::subdomain(class, &at.child("volumeAttributesClassName"), e),
    }
    if !spec.has("csi") {
        let text = "has to be specified when using volumeAttributesClassName";
        e.push(Error::required(&at.child("csi"), text));
    }
}

fn affinity_and_source(spec: &Value, name: Option<&str>, at: &Path, e: &mut ErrorList) {
    let affinity = spec.at("nodeAffinity");
    if !affinity.is_null() {
        let at = at.child("nodeAffinity").child("required");
        if affinity.has("required") {
            node_selector(affinity.at("required"), &at, e);
        } else {
            e.push(Error::required(&at, "must specify required node constraints"));
        }
    }
    let found: Vec<&str> = SOURCES.into_iter().filter(|kind| spec.has(kind)).collect();
    for (i, kind) in found.iter().enumerate() {
        // Upstream counts these, but looks at them whatever else there is.
        if i > 0 && *kind != "flexVolume" {
            let shown = if *kind == "cephfs" { "cephFS" } else { kind };
            e.push(Error::forbidden(&at.child(shown), "may not specify more than 1 volume type"));
        } else {
            let shown = if *kind == "gcePersistentDisk" { "persistentDisk" } else { kind };
            volume_source(kind, spec.at(kind), name, &at.child(shown), e);
        }
    }
    if found.is_empty() {
        e.push(Error::required(at, "must specify a volume type"));
    }
    if spec.has("local") && affinity.is_null() {
        e.push(Error::required(&at.child("nodeAffinity"), "Local volume requires node affinity"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Room;

    #[test]
    fn checked() {
        let pv = |source: Value| {
            let mut spec = json!({"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}});
            for (k, v) in source.as_object().unwrap() {
                spec.set(k, v.clone());
            }
            let mut o = json!({"metadata": {"name": "v"}, "spec": spec});
            defaults(&mut o);
            o
        };
        let old = pv(json!({"hostPath": {"path": "/a"}}));
        for (new, old, want) in [
            (old.clone(), None, ""),
            (pv(json!({})), None, "spec: Required value: must specify a volume type"),
            (
                pv(json!({"hostPath": {"path": "/a"}, "nfs": {}})),
                None,
                "spec.nfs: Forbidden: may not specify more than 1",
            ),
            (
                pv(json!({"local": {"path": "/a"}})),
                None,
                "spec.nodeAffinity: Required value: Local volume requires node affinity",
            ),
            (
                pv(json!({"hostPath": {"path": "/a"}, "capacity": {"storage": "0"}})),
                None,
                "spec.capacity[storage]: Invalid value: \"0\": must be greater than zero",
            ),
            (
                pv(json!({"hostPath": {"path": "/b"}})),
                Some(&old),
                "spec.persistentvolumesource: Forbidden: spec.persistentvolumesource is immutable after creation\n",
            ),
            (pv(json!({"hostPath": {"path": "/a"}, "claimRef": {"name": "c"}})), Some(&old), ""),
        ] {
            let got = ROOM.validate(&Context::default(), &new, old);
            let first = got.first().map(ToString::to_string).unwrap_or_default();
            assert!(first.starts_with(want) && first.is_empty() == want.is_empty(), "{first:?} {want}");
        }
    }
}
