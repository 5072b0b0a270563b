//! Limits of local storage: emptyDir sizes, what a container may write, what a pod may hold in all.

use std::collections::HashMap;
use std::path::PathBuf;

use k8s_openapi::api::core::v1::Pod;
pub use kubelet_server::measure;
use volumes::quantity;

use crate::kubelet::Kubelet;
use crate::labels;
use crate::pod::{self, PodExt};

/// Why a pod has to go for holding more than it may: the limit's name in metrics, and the message; `None` for one that
/// keeps within its limits.
pub async fn exceeded(kubelet: &Kubelet, pod: &Pod) -> Option<(&'static str, String)> {
    let volumes = empty_dir_limits(pod);
    let containers = container_limits(pod);
    let total = pod::limit_milli(pod, "ephemeral-storage").map(|milli| milli / 1000);
    if volumes.is_empty() && containers.is_empty() && total.is_none() {
        return None;
    }
    let layers = if containers.is_empty() && total.is_none() {
        HashMap::new()
    } else {
        layers(kubelet, pod.uid()).await
    };
    let layers_apart = kubelet.places.get(&kubelet.runtime).await.images_apart(kubelet.root());
    let dir = kubelet.pod_dir(pod.uid());
    let logs = crate::sandbox::log_dir(kubelet, pod);
    let owned = owned(kubelet, pod);
    let first = containers.first().and_then(|(_, text, _)| api::quantity::Quantity::parse(text).ok());
    let format = first.map_or(api::quantity::Format::BinarySI, |q| q.format());
    let look = move || {
        let volume =
            |name: &str| measure(&volumes::layout::volume_dir(&dir, volumes::layout::EMPTY_DIR, name)).0;
        if let Some((name, text, _)) = volumes.iter().find(|(name, _, limit)| volume(name) > *limit) {
            let message = format!("Usage of EmptyDir volume {name:?} exceeds the limit {text:?}. ");
            return Some(("emptydirfs.limit", message));
        }
        let kept = owned.iter().map(|dir| measure(dir).0).sum::<i64>();
        if let Some(total) = total.filter(|total| kept + layers.values().sum::<i64>() > *total) {
            let limit = api::quantity::Quantity::new(total, format).to_string();
            let message =
                format!("Pod ephemeral local storage usage exceeds the total limit of containers {limit}. ");
            return Some(("ephemeralpodfs.limit", message));
        }
        let layer = |name: &str| layers.get(name).copied().filter(|_| !layers_apart).unwrap_or(0);
        let of_container = |name: &str| layer(name) + measure(&logs.join(name)).0;
        let (name, text, _) = containers.iter().find(|(name, _, limit)| of_container(name) > *limit)?;
        let message = format!("Container {name} exceeded its local ephemeral storage limit {text:?}. ");
        Some(("ephemeralcontainerfs.limit", message))
    };
    tokio::task::spawn_blocking(look).await.ok().flatten()
}

/// The folders and files that count as a pod's local storage: logs, its hosts file, and the volumes that live and die
/// with it on the node's disk. What is mounted from elsewhere counts where it came from.
pub fn owned(kubelet: &Kubelet, pod: &Pod) -> Vec<PathBuf> {
    let dir = kubelet.pod_dir(pod.uid());
    let mut out = vec![crate::sandbox::log_dir(kubelet, pod), dir.join("etc-hosts")];
    for volume in pod.spec().volumes.iter().flatten() {
        let on_disk = |medium: Option<&str>| matches!(medium, None | Some(""));
        let plugin = match volume {
            v if v.empty_dir.as_ref().is_some_and(|e| on_disk(e.medium.as_deref())) => {
                volumes::layout::EMPTY_DIR
            }
            v if v.config_map.is_some() => volumes::layout::CONFIG_MAP,
            _ => continue,
        };
        out.push(volumes::layout::volume_dir(&dir, plugin, &volume.name));
    }
    out
}

/// What a pod's containers have written, by name.
pub async fn layers(kubelet: &Kubelet, uid: &str) -> HashMap<String, i64> {
    let filter = cri::v1::ContainerStatsFilter {
        label_selector: [(labels::POD_UID.to_string(), uid.to_string())].into(),
        ..Default::default()
    };
    let stats = kubelet.runtime.list_container_stats(Some(filter)).await.unwrap_or_default();
    let of = |s: cri::v1::ContainerStats| {
        let name = s.attributes?.labels.get(labels::CONTAINER_NAME)?.clone();
        let used = s.writable_layer?.used_bytes?.value;
        Some((name, i64::try_from(used).unwrap_or(i64::MAX)))
    };
    stats.into_iter().filter_map(of).collect()
}

/// Volumes on disk with a limit: (name, limit as written, in bytes).
fn empty_dir_limits(pod: &Pod) -> Vec<(String, String, i64)> {
    let volumes = pod.spec().volumes.iter().flatten();
    let limit = |volume: &k8s_openapi::api::core::v1::Volume| {
        let source = volume.empty_dir.as_ref()?;
        // What lies in memory counts as memory, but its limit is the same.
        let limit = &source.size_limit.as_ref()?.0;
        Some((volume.name.clone(), canonical(limit), quantity::units(limit).filter(|l| *l > 0)?))
    };
    volumes.filter_map(limit).collect()
}

/// Containers with a limit of their own: (name, limit as written, in bytes).
fn container_limits(pod: &Pod) -> Vec<(String, String, i64)> {
    let limit = |c: &k8s_openapi::api::core::v1::Container| {
        let text = &c.resources.as_ref()?.limits.as_ref()?.get("ephemeral-storage")?.0;
        Some((c.name.clone(), canonical(text), quantity::units(text).filter(|l| *l > 0)?))
    };
    pod.spec().containers.iter().filter_map(limit).collect()
}

fn canonical(text: &str) -> String {
    api::quantity::Quantity::parse(text).map_or_else(|_| text.to_string(), |q| q.to_string())
}
