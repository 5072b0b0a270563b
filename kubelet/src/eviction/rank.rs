//! In which order pods are evicted, and what each of them uses.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use crate::kubelet::Kubelet;
use crate::labels;
use crate::pod::{self, PodExt};

/// Use of one thing: of the pod, and of its containers by name.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Use {
    pub total: i64,
    pub containers: Vec<(String, i64)>,
}

/// A pod and its use of what is short.
pub type Used = (Arc<Pod>, Use);

/// Those who use more than they asked for first, then the less important, then those who use most beyond their request.
/// Nobody asks for process ids: there importance decides.
pub fn sort(pods: &mut [Used], resource: &str) {
    let request = |pod: &Pod| match resource {
        "memory" => pod::request_milli(pod, "memory") / 1000,
        "ephemeral-storage" => pod::request_milli(pod, "ephemeral-storage") / 1000,
        _ => 0,
    };
    let asked = matches!(resource, "memory" | "ephemeral-storage");
    pods.sort_by_key(|(pod, used)| {
        let over = used.total - request(pod);
        (asked && over <= 0, pod.spec().priority.unwrap_or(0), Reverse(over))
    });
}

/// What every pod uses of a resource. `parts` says which files count for a disk that is short.
pub async fn usage(kubelet: &Kubelet, resource: &str, parts: Parts) -> Vec<Used> {
    let pods = kubelet.pods.active();
    let disk = matches!(resource, "ephemeral-storage" | "inodes");
    let mut by_container = containers(kubelet, resource).await;
    let mut out = Vec::with_capacity(pods.len());
    for pod in pods {
        let mut used = Use { containers: by_container.remove(pod.uid()).unwrap_or_default(), total: 0 };
        if !disk || parts.layers {
            used.total = used.containers.iter().map(|(_, n)| n).sum();
        }
        if disk {
            let (files, logs) = files(kubelet, &pod, resource == "inodes").await;
            used.total += if parts.node_files { files } else { 0 };
            for (name, use_) in &mut used.containers {
                *use_ += logs.get(name).copied().unwrap_or(0);
            }
        } else {
            let cgroup = kubelet.cgroups.pod_path(&pod).and_then(|c| kubelet_server::Usage::of(&c));
            let of_pod = cgroup.and_then(|u| if resource == "memory" { u.working_set } else { u.pids });
            used.total = of_pod.map_or(used.total, |n| i64::try_from(n).unwrap_or(i64::MAX));
        }
        out.push((pod, used));
    }
    out
}

/// Which files lie on the file system that is short.
#[derive(Debug, Clone, Copy, Default)]
pub struct Parts {
    /// Logs and volumes.
    pub node_files: bool,
    /// The containers' own layers.
    pub layers: bool,
}

async fn containers(kubelet: &Kubelet, resource: &str) -> HashMap<String, Vec<(String, i64)>> {
    let mut out: HashMap<String, Vec<(String, i64)>> = HashMap::new();
    for stats in kubelet.runtime.list_container_stats(None).await.unwrap_or_default() {
        let Some(attributes) = stats.attributes else { continue };
        let label = |key: &str| attributes.labels.get(key).cloned().unwrap_or_default();
        let layer = stats.writable_layer;
        let value = match resource {
            "memory" => stats.memory.and_then(|m| m.working_set_bytes),
            "ephemeral-storage" => layer.and_then(|l| l.used_bytes),
            "inodes" => layer.and_then(|l| l.inodes_used),
            _ => None,
        };
        let value = value.and_then(|v| i64::try_from(v.value).ok()).unwrap_or(0);
        out.entry(label(labels::POD_UID)).or_default().push((label(labels::CONTAINER_NAME), value));
    }
    out
}

/// The pod's files on the node's file system, and those of them that are logs, by container.
async fn files(kubelet: &Kubelet, pod: &Pod, inodes: bool) -> (i64, HashMap<String, i64>) {
    let owned = super::storage::owned(kubelet, pod);
    let logs = crate::sandbox::log_dir(kubelet, pod);
    let names: Vec<String> =
        pod.spec().containers.iter().chain(pod.init_containers()).map(|c| c.name.clone()).collect();
    let look = move || {
        let size = |dir: &Path| {
            let (bytes, files) = super::storage::measure(dir);
            if inodes { files } else { bytes }
        };
        let all = owned.iter().map(|dir| size(dir)).sum();
        let logs = names.into_iter().map(|name| (size(&logs.join(&name)), name)).map(|(n, name)| (name, n));
        (all, logs.collect())
    };
    tokio::task::spawn_blocking(look).await.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn order() {
        let pod = |name: &str, priority: i32, request: &str, used: i64| -> Used {
            let resources = json!({"requests": {"memory": request}});
            let pod =
                serde_json::from_value(json!({"metadata": {"name": name}, "spec": {"priority": priority,
                "containers": [{"name": "c", "resources": resources}]}}))
                .unwrap();
            (Arc::new(pod), Use { total: used << 20, ..Default::default() })
        };
        let mut pods = vec![
            pod("within", 0, "100Mi", 50),
            pod("important", 10, "0", 500),
            pod("little", 0, "0", 10),
            pod("much", 0, "100Mi", 300),
        ];
        sort(&mut pods, "memory");
        let names: Vec<&str> = pods.iter().map(|(p, _)| p.name()).collect();
        assert_eq!(names, ["much", "little", "important", "within"]);
        sort(&mut pods, "pids");
        let names: Vec<&str> = pods.iter().map(|(p, _)| p.name()).collect();
        assert_eq!(names, ["much", "within", "little", "important"]);
    }
}
