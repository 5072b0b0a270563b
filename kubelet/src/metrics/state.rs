//! Metrics that are a state of the pods: written when somebody asks for them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use component::metrics::{GaugeVec, gauge_vec};
use k8s_openapi::api::core::v1::Pod;

use crate::kubelet::Kubelet;
use crate::pod::PodExt;
use crate::worker::Desired;

static WORKING: LazyLock<GaugeVec> = LazyLock::new(|| {
    gauge_vec(
        "kubelet_working_pods",
        "[ALPHA] Number of pods the kubelet is actually running, broken down by lifecycle phase, whether the pod is desired, orphaned, or runtime only (also orphaned), and whether the pod is static. An orphaned pod has been removed from local configuration or force deleted in the API and consumes resources that are not otherwise visible.",
        &["config", "lifecycle", "static"],
    )
});
static MIRRORS: LazyLock<GaugeVec> = LazyLock::new(|| {
    gauge_vec(
        "kubelet_mirror_pods",
        "[ALPHA] The number of mirror pods the kubelet will try to create (one per admitted static pod)",
        &[],
    )
});
static EPHEMERAL: LazyLock<GaugeVec> = LazyLock::new(|| {
    gauge_vec(
        "kubelet_managed_ephemeral_containers",
        "[ALPHA] Current number of ephemeral containers in pods managed by this kubelet.",
        &[],
    )
});

/// Writes them.
pub fn refresh(kubelet: &Kubelet, all: &[Desired]) {
    let active: BTreeSet<String> = kubelet.pods.active().iter().map(|p| p.uid().to_string()).collect();
    let mut working: BTreeMap<[&str; 3], usize> = BTreeMap::new();
    for config in ["desired", "orphan", "runtime_only"] {
        for lifecycle in ["sync", "terminating", "terminated"] {
            for is_static in ["", "true"] {
                let is_static = if config == "runtime_only" { "unknown" } else { is_static };
                working.insert([config, lifecycle, is_static], 0);
            }
        }
    }
    for desired in all {
        let pod = &desired.pod;
        let ends = desired.removed || desired.decree.is_some() || pod.is_deleting();
        let lifecycle = match (active.contains(pod.uid()), ends) {
            (false, _) => "terminated",
            (true, true) => "terminating",
            (true, false) => "sync",
        };
        let unknown = desired.target.is_none() && desired.removed && !pod.is_static();
        let config = if unknown {
            "runtime_only"
        } else if desired.removed {
            "orphan"
        } else {
            "desired"
        };
        let is_static = if unknown {
            "unknown"
        } else if pod.is_static() {
            "true"
        } else {
            ""
        };
        *working.entry([config, lifecycle, is_static]).or_default() += 1;
    }
    for (labels, count) in working {
        WORKING.with(&labels).set(count as f64);
    }
    MIRRORS.with(&[]).set(all.iter().filter(|d| d.pod.is_static() && !d.removed).count() as f64);
    let ephemeral = |pod: &Pod| pod.spec().ephemeral_containers.as_ref().map_or(0, Vec::len);
    EPHEMERAL.with(&[]).set(all.iter().map(|d| ephemeral(&d.pod)).sum::<usize>() as f64);
    volumes(kubelet, all);
}

/// How many volumes of each kind there are.
fn volumes(kubelet: &Kubelet, all: &[Desired]) {
    let mut counts: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for desired in all.iter().filter(|d| !d.removed) {
        let mounted = kubelet.volumes.mounted(desired.pod.uid());
        for volume in desired.pod.spec().volumes.iter().flatten() {
            let plugin = mounted.get(&volume.name).and_then(|m| volumes::layout::plugin_of(&m.path));
            let plugin = plugin.unwrap_or_else(|| volumes::source::plugin(volume).to_string());
            let count = counts.entry(plugin).or_default();
            count.0 += usize::from(mounted.contains_key(&volume.name));
            count.1 += 1;
        }
    }
    for (plugin, (actual, desired)) in counts {
        super::pods::volumes(&plugin, actual, desired);
    }
}
