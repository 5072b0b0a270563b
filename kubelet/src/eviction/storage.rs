//! Limits of local storage: emptyDir sizes, what a container may write, what a pod may hold in all.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::Pod;
pub use kubelet_server::measure;
use volumes::quantity;

use crate::kubelet::Kubelet;
use crate::labels;
use crate::pod::{self, PodExt};

/// Why a pod has to go for holding more than it may; `None` for one that keeps within its limits.
pub async fn exceeded(kubelet: &Kubelet, pod: &Pod) -> Option<String> {
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
    let dir = kubelet.pod_dir(pod.uid());
    let logs = crate::sandbox::log_dir(kubelet, pod);
    let measure = move || {
        let volume =
            |name: &str| measure(&volumes::layout::volume_dir(&dir, volumes::layout::EMPTY_DIR, name)).0;
        if let Some((name, text, _)) = volumes.iter().find(|(name, _, limit)| volume(name) > *limit) {
            return Some(format!("Usage of EmptyDir volume {name:?} exceeds the limit {text:?}. "));
        }
        let of_container = |name: &str| layers.get(name).copied().unwrap_or(0) + measure(&logs.join(name)).0;
        if let Some((name, text, _)) = containers.iter().find(|(name, _, limit)| of_container(name) > *limit)
        {
            return Some(format!("Container {name} exceeded its local ephemeral storage limit {text:?}. "));
        }
        let total = total?;
        let kept = measure(&volumes::layout::volumes_dir(&dir)).0 + measure(&logs).0;
        (kept + layers.values().sum::<i64>() > total).then(|| {
            let limit = super::binary(total);
            format!("Pod ephemeral local storage usage exceeds the total limit of containers {limit}. ")
        })
    };
    tokio::task::spawn_blocking(measure).await.ok().flatten()
}

/// What a pod's containers have written, by name.
async fn layers(kubelet: &Kubelet, uid: &str) -> HashMap<String, i64> {
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
        Some((volume.name.clone(), limit.clone(), quantity::units(limit).filter(|l| *l > 0)?))
    };
    volumes.filter_map(limit).collect()
}

/// Containers with a limit of their own: (name, limit as written, in bytes).
fn container_limits(pod: &Pod) -> Vec<(String, String, i64)> {
    let limit = |c: &k8s_openapi::api::core::v1::Container| {
        let text = &c.resources.as_ref()?.limits.as_ref()?.get("ephemeral-storage")?.0;
        Some((c.name.clone(), text.clone(), quantity::units(text).filter(|l| *l > 0)?))
    };
    pod.spec().containers.iter().chain(pod.init_containers()).filter_map(limit).collect()
}
