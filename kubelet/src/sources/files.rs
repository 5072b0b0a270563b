//! Static pods from a folder of manifests (or a single file), watched for changes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, Toleration};
use notify::{RecursiveMode, Watcher};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::pod::{HASH_ANNOTATION, PodExt, SEEN_ANNOTATION, SOURCE_ANNOTATION};
use crate::pods::Update;

/// A manifest larger than this is a mistake.
const MAX_BYTES: u64 = 10 << 20;

/// Follows the folder until the shutdown; looks again at `interval` even if nothing seems to have changed.
pub async fn run(
    path: PathBuf,
    node: String,
    interval: Duration,
    updates: mpsc::Sender<Update>,
    shutdown: CancellationToken,
) {
    let (hint, mut hints) = mpsc::channel(1);
    let notice = move |event: notify::Result<notify::Event>| {
        // Looking at the folder is an event, too: that one must not make us look again.
        if !event.is_ok_and(|event| event.kind.is_access()) {
            // A full channel has a hint in it already.
            let _ = hint.try_send(());
        }
    };
    let mut watcher = notify::recommended_watcher(notice);
    if let Ok(watcher) = &mut watcher
        && let Err(error) = watcher.watch(&path, RecursiveMode::NonRecursive)
    {
        tracing::warn!(path = %path.display(), %error, "Cannot watch static pods; looking at intervals");
    }
    let mut last: Option<Vec<Pod>> = None;
    loop {
        let (at, name) = (path.clone(), node.clone());
        let pods = tokio::task::spawn_blocking(move || read_all(&at, &name)).await.unwrap_or_default();
        let same = last.as_ref().is_some_and(|last| identities(last) == identities(&pods));
        if !same {
            last = Some(pods.clone());
            if updates.send(Update::Static(pods)).await.is_err() {
                return;
            }
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(interval) => {}
            // A file is often written in several steps.
            Some(()) = hints.recv() => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

fn identities(pods: &[Pod]) -> Vec<&str> {
    pods.iter().map(|p| p.uid()).collect()
}

/// Reads all manifests; a bad one is logged and skipped.
fn read_all(path: &Path, node: &str) -> Vec<Pod> {
    let mut files: Vec<PathBuf> = match std::fs::metadata(path) {
        Ok(meta) if meta.is_dir() => {
            std::fs::read_dir(path).into_iter().flatten().flatten().map(|e| e.path()).collect()
        }
        Ok(_) => vec![path.to_path_buf()],
        Err(_) => return Vec::new(),
    };
    // Editors and atomic writers leave hidden files.
    files.retain(|f| f.file_name().and_then(|n| n.to_str()).is_some_and(|n| !n.starts_with('.')));
    files.sort();
    let mut pods: BTreeMap<(String, String), Pod> = BTreeMap::new();
    for file in files.iter().filter(|f| f.is_file()) {
        match read_one(file, node) {
            Ok(pod) => {
                let key = (pod.namespace().to_string(), pod.name().to_string());
                let before = pods.entry(key).or_insert_with(|| pod.clone());
                if before.uid() != pod.uid() {
                    tracing::error!(file = %file.display(), "Another manifest has a pod of this name; skipped");
                }
            }
            Err(error) => tracing::error!(file = %file.display(), error, "Could not process manifest file"),
        }
    }
    pods.into_values().collect()
}

fn read_one(file: &Path, node: &str) -> Result<Pod, String> {
    let meta = std::fs::metadata(file).map_err(|e| e.to_string())?;
    if meta.len() > MAX_BYTES {
        return Err(format!("larger than {MAX_BYTES} bytes"));
    }
    let text = std::fs::read_to_string(file).map_err(|e| e.to_string())?;
    parse(&text, node)
}

/// A static pod from a manifest: named after the node, with a UID made from its content.
pub fn parse(text: &str, node: &str) -> Result<Pod, String> {
    let value = component::config::yaml(text).map_err(|e| format!("couldn't parse as pod: {e}"))?;
    if value["kind"] != "Pod" || value["apiVersion"] != "v1" {
        return Err("couldn't parse as pod: not a v1 Pod".into());
    }
    let mut pod: Pod = serde_json::from_value(value).map_err(|e| format!("couldn't parse as pod: {e}"))?;
    if pod.name().is_empty() || pod.spec().containers.is_empty() {
        return Err("invalid pod: it needs a name and containers".into());
    }
    let hash = hex(&Sha256::digest([node.as_bytes(), b"\0", text.as_bytes()].concat())[..16]);
    let meta = &mut pod.metadata;
    meta.name = Some(format!("{}-{}", meta.name.as_deref().unwrap_or_default(), node.to_lowercase()));
    meta.namespace.get_or_insert_with(|| "default".into());
    // An own UID would be shared by all nodes that have the file.
    meta.uid = Some(hash.clone());
    let annotations = meta.annotations.get_or_insert_default();
    annotations.insert(HASH_ANNOTATION.into(), hash);
    annotations.insert(SOURCE_ANNOTATION.into(), "file".into());
    annotations.insert(SEEN_ANNOTATION.into(), jiff::Timestamp::now().to_string());
    pod.status = None;
    defaults(&mut pod, node);
    forbid_references(&pod)?;
    Ok(pod)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// What the apiserver would fill in, as far as the kubelet reads it.
fn defaults(pod: &mut Pod, node: &str) {
    let Some(spec) = &mut pod.spec else { return };
    spec.node_name = Some(node.to_string());
    spec.restart_policy.get_or_insert_with(|| "Always".into());
    spec.dns_policy.get_or_insert_with(|| "ClusterFirst".into());
    spec.termination_grace_period_seconds.get_or_insert(30);
    spec.enable_service_links.get_or_insert(true);
    spec.scheduler_name.get_or_insert_with(|| "default-scheduler".into());
    spec.security_context.get_or_insert_default();
    let critical = spec.priority_class_name.as_deref() == Some("system-node-critical");
    if critical {
        spec.priority.get_or_insert(2_000_001_000);
    }
    // Static pods stay whatever befalls the node.
    let tolerations = spec.tolerations.get_or_insert_default();
    if !tolerations.iter().any(|t| {
        t.effect.as_deref() == Some("NoExecute") && t.operator.as_deref() == Some("Exists") && t.key.is_none()
    }) {
        tolerations.push(Toleration {
            operator: Some("Exists".into()),
            effect: Some("NoExecute".into()),
            ..Default::default()
        });
    }
    for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
        container.termination_message_path.get_or_insert_with(|| "/dev/termination-log".into());
        container.termination_message_policy.get_or_insert_with(|| "File".into());
        let image = container.image.clone().unwrap_or_default();
        let name = image.rsplit('/').next().unwrap_or_default();
        let latest = !name.contains('@') && (!name.contains(':') || name.ends_with(":latest"));
        container
            .image_pull_policy
            .get_or_insert_with(|| if latest { "Always".into() } else { "IfNotPresent".into() });
        for port in container.ports.iter_mut().flatten() {
            port.protocol.get_or_insert_with(|| "TCP".into());
            if spec.host_network == Some(true) {
                port.host_port.get_or_insert(port.container_port);
            }
        }
        for probe in
            [&mut container.liveness_probe, &mut container.readiness_probe, &mut container.startup_probe]
                .into_iter()
                .flatten()
        {
            probe.timeout_seconds.get_or_insert(1);
            probe.period_seconds.get_or_insert(10);
            probe.success_threshold.get_or_insert(1);
            probe.failure_threshold.get_or_insert(3);
            if let Some(get) = &mut probe.http_get {
                get.path.get_or_insert_with(|| "/".into());
                get.scheme.get_or_insert_with(|| "HTTP".into());
            }
        }
    }
}

/// Static pods run without the apiserver, so they cannot use its objects.
fn forbid_references(pod: &Pod) -> Result<(), String> {
    let refers = pod.spec().volumes.iter().flatten().any(|v| {
        v.secret.is_some()
            || v.config_map.is_some()
            || v.projected.is_some()
            || v.persistent_volume_claim.is_some()
    });
    if refers {
        return Err("static pods may not reference API objects".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifests() {
        let text =
            "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: {containers: [{name: c, image: x}]}\n";
        let pod = parse(text, "Node1").unwrap();
        assert_eq!((pod.name(), pod.namespace()), ("web-node1", "default"));
        assert_eq!(pod.uid().len(), 32);
        assert_eq!(pod.uid(), parse(text, "Node1").unwrap().uid());
        assert_ne!(pod.uid(), parse(text, "node2").unwrap().uid());
        assert!(pod.is_static());
        assert_eq!(pod.spec().containers[0].image_pull_policy.as_deref(), Some("Always"));
        for bad in ["", "{", "kind: Pod", "apiVersion: v1\nkind: Service\nmetadata: {name: x}", "[1]"] {
            assert!(parse(bad, "n").is_err(), "{bad}");
        }
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a.yaml"), text).unwrap();
        std::fs::write(dir.path().join("b.yaml"), "broken: [").unwrap();
        std::fs::write(dir.path().join(".c.yaml"), text.replace("web", "hidden")).unwrap();
        assert_eq!(read_all(dir.path(), "n").len(), 1);
    }
}
