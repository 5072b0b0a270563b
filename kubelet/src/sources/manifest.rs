//! A static pod from a manifest: defaulted and checked as the apiserver would, named after the node.

use std::collections::HashSet;

use api::Value;
use k8s_openapi::api::core::v1::{Pod, Toleration};
use kinds::Context;
use sha2::{Digest, Sha256};

use super::Source;
use crate::pod::{HASH_ANNOTATION, PodExt, SEEN_ANNOTATION, SOURCE_ANNOTATION};

/// Where a manifest was read.
#[derive(Debug, Clone, Copy)]
pub struct Origin<'a> {
    pub source: Source,
    /// The file's path, or the URL.
    pub place: &'a str,
    /// The node's name.
    pub node: &'a str,
}

/// The pods of a text: one pod, or a list of them.
pub fn parse_all(text: &str, origin: Origin<'_>) -> Result<Vec<Pod>, String> {
    let value = read(text)?;
    if value["kind"] == "PodList" && value["apiVersion"] == "v1" {
        let items = value["items"].as_array().cloned().unwrap_or_default();
        return items.into_iter().map(|item| finish(item, origin)).collect();
    }
    finish(value, origin).map(|pod| vec![pod])
}

/// The pod of a text.
pub fn parse(text: &str, origin: Origin<'_>) -> Result<Pod, String> {
    let value = read(text)?;
    if value["kind"] != "Pod" || value["apiVersion"] != "v1" {
        return Err("couldn't parse as pod: not a v1 Pod".into());
    }
    finish(value, origin)
}

fn read(text: &str) -> Result<Value, String> {
    let first = crate::config::first_document(text);
    if first.len() < text.len() {
        tracing::warn!("Only the first document of a manifest counts");
    }
    component::config::yaml_lenient(first).map_err(|e| format!("couldn't parse as pod: {e}"))
}

fn finish(mut value: Value, origin: Origin<'_>) -> Result<Pod, String> {
    if value["metadata"]["name"].as_str().is_none_or(str::is_empty) {
        return Err("invalid pod: name is needed for the pod".into());
    }
    value["apiVersion"] = "v1".into();
    value["kind"] = "Pod".into();
    // A field of a wrong type is told before anything is made of the rest.
    typed(&value)?;
    identify(&mut value, origin);
    let room = kinds::room("", "v1", "Pod");
    room.defaults(&mut value);
    let namespace = value["metadata"]["namespace"].as_str().unwrap_or_default().to_string();
    let context = Context { namespace: &namespace, ..Default::default() };
    let name = value["metadata"]["name"].as_str().unwrap_or_default();
    let invalid = |why: String| format!("metadata.name: Invalid value: {name:?}: {why}");
    let mut list: Vec<String> = api::names::dns_subdomain(name).into_iter().map(invalid).collect();
    list.extend(room.validate(&context, &value, None).iter().map(ToString::to_string));
    if !list.is_empty() {
        return Err(format!("invalid pod: [{}]", list.join(", ")));
    }
    let pod = typed(&value)?;
    match api_reference(&pod) {
        Some(what) => Err(format!("static pods may not reference {what}")),
        None => Ok(pod),
    }
}

fn typed(value: &Value) -> Result<Pod, String> {
    serde_json::from_value(value.clone()).map_err(|e| format!("couldn't parse as pod: {e}"))
}

/// Gives the pod a name and a UID that no other node's pod of the same manifest has.
fn identify(value: &mut Value, origin: Origin<'_>) {
    let place = match origin.source {
        Source::Http => format!("url:{}", origin.place),
        _ => format!("host:{}file:{}", origin.node, origin.place),
    };
    let content = value.to_string();
    let meta = &mut value["metadata"];
    let own = meta["uid"].as_str().filter(|uid| !uid.is_empty()).map(str::to_string);
    let uid = own.unwrap_or_else(|| {
        hex(&Sha256::digest([content.as_bytes(), b"\0", place.as_bytes()].concat())[..16])
    });
    let name = meta["name"].as_str().unwrap_or_default().to_string();
    meta["name"] = format!("{name}-{}", origin.node.to_lowercase()).into();
    if meta["namespace"].as_str().is_none_or(str::is_empty) {
        meta["namespace"] = "default".into();
    }
    meta["uid"] = uid.clone().into();
    if !meta["annotations"].is_object() {
        meta["annotations"] = Value::Object(Default::default());
    }
    let annotations = &mut meta["annotations"];
    annotations[HASH_ANNOTATION] = uid.into();
    annotations[SOURCE_ANNOTATION] = origin.source.name().into();
    annotations[SEEN_ANNOTATION] = jiff::Timestamp::now().to_string().into();
    if let Some(object) = value.as_object_mut() {
        object.remove("status");
    }
    let spec = &mut value["spec"];
    if !spec.is_object() {
        return;
    }
    spec["nodeName"] = origin.node.into();
    if spec["priorityClassName"] == "system-node-critical" && spec["priority"].is_null() {
        spec["priority"] = 2_000_001_000.into();
    }
    if spec["priorityClassName"] == "system-cluster-critical" && spec["priority"].is_null() {
        spec["priority"] = 2_000_000_000.into();
    }
    if !matches!(origin.source, Source::Http) {
        tolerate_all(spec);
    }
}

/// Pods from files stay whatever befalls the node.
fn tolerate_all(spec: &mut Value) {
    let mut list: Vec<Toleration> = serde_json::from_value(spec["tolerations"].clone()).unwrap_or_default();
    let any = |t: &Toleration| {
        t.effect.as_deref() == Some("NoExecute") && t.operator.as_deref() == Some("Exists") && t.key.is_none()
    };
    if !list.iter().any(any) {
        list.push(Toleration {
            operator: Some("Exists".into()),
            effect: Some("NoExecute".into()),
            ..Default::default()
        });
        spec["tolerations"] = serde_json::to_value(list).unwrap_or_default();
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// What the pod wants of the apiserver, if anything: static pods run without one.
fn api_reference(pod: &Pod) -> Option<&'static str> {
    let spec = pod.spec();
    let account = spec.service_account_name.as_deref().or(spec.service_account.as_deref());
    if account.is_some_and(|name| !name.is_empty()) {
        return Some("serviceaccounts");
    }
    let (mut config_maps, mut secrets) = (HashSet::new(), HashSet::new());
    crate::objects::of_containers(pod, &mut config_maps, &mut secrets);
    if !secrets.is_empty() {
        return Some("secrets");
    }
    if !config_maps.is_empty() {
        return Some("configmaps");
    }
    if spec.resource_claims.as_ref().is_some_and(|claims| !claims.is_empty()) {
        return Some("resourceclaims");
    }
    spec.volumes.iter().flatten().find_map(|volume| {
        let sources = || volume.projected.iter().flat_map(|p| p.sources.iter().flatten());
        let table = [
            (volume.config_map.is_some(), "configmaps (via configmap volumes)"),
            (volume.secret.is_some(), "secrets (via secret volumes)"),
            (volume.csi.is_some(), "csidrivers (via CSI volumes)"),
            (volume.glusterfs.is_some(), "endpoints (via glusterFS volumes)"),
            (volume.persistent_volume_claim.is_some(), "persistentvolumeclaims"),
            (volume.ephemeral.is_some(), "persistentvolumeclaims (via ephemeral volumes)"),
            (volume.azure_file.is_some(), "secrets (via azureFile volumes)"),
            (sources().any(|s| s.config_map.is_some()), "configmaps (via projected volumes)"),
            (sources().any(|s| s.secret.is_some()), "secrets (via projected volumes)"),
            (sources().any(|s| s.service_account_token.is_some()), "serviceaccounts (via projected volumes)"),
            (sources().any(|s| s.cluster_trust_bundle.is_some()), "clustertrustbundles"),
            (sources().any(|s| s.pod_certificate.is_some()), "podcertificates"),
        ];
        table.into_iter().find(|(uses, _)| *uses).map(|(_, what)| what)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(node: &str) -> Origin<'_> {
        Origin { source: Source::File, place: "/m/web.yaml", node }
    }

    const WEB: &str =
        "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: {containers: [{name: c, image: x}]}\n";

    #[test]
    fn a_manifest_becomes_a_pod_of_this_node() {
        let pod = parse(WEB, origin("node1")).unwrap();
        assert_eq!((pod.name(), pod.namespace()), ("web-node1", "default"));
        assert_eq!(pod.uid().len(), 32);
        assert_eq!(pod.uid(), parse(WEB, origin("node1")).unwrap().uid());
        assert_ne!(pod.uid(), parse(WEB, origin("node2")).unwrap().uid());
        assert!(pod.is_static());
        assert_eq!(pod.spec().containers[0].image_pull_policy.as_deref(), Some("Always"));
        assert_eq!(pod.spec().termination_grace_period_seconds, Some(30));
        let list = format!(
            "apiVersion: v1\nkind: PodList\nitems: [{}]",
            "{metadata: {name: a}, spec: {containers: [{name: c, image: x}]}}"
        );
        let from_url = Origin { source: Source::Http, place: "http://h/", node: "n" };
        let pods = parse_all(&list, from_url).unwrap();
        assert_eq!((pods.len(), pods[0].spec().tolerations.clone()), (1, None));
    }

    #[test]
    fn what_cannot_run_is_refused_with_the_reason() {
        let with = |spec: &str| WEB.replace("containers:", &format!("{spec}, containers:"));
        for (text, error) in [
            (String::new(), "couldn't parse as pod"),
            ("{".into(), "couldn't parse as pod"),
            ("kind: Pod".into(), "couldn't parse as pod: not a v1 Pod"),
            ("[1]".into(), "couldn't parse as pod"),
            (WEB.replace("name: web", "labels: {}"), "invalid pod: name is needed for the pod"),
            (WEB.replace("web", "Web Site"), "metadata.name: Invalid value: \"Web Site-n\""),
            (WEB.replace("image: x", "image: ''"), "spec.containers[0].image: Required value"),
            (WEB.replace("[{name: c, image: x}]", "7"), "couldn't parse as pod"),
            (with("serviceAccountName: a"), "static pods may not reference serviceaccounts"),
            (with("volumes: [{name: v, secret: {secretName: s}}]"), "static pods may not reference secrets"),
        ] {
            let got = parse(&text, origin("n")).unwrap_err();
            assert!(got.contains(error), "{text}: {got}");
        }
    }
}
