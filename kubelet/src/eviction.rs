//! Resource pressure: what is left of memory, disks and process ids, measured against the eviction thresholds.
//! [`manager`] watches and acts; everybody else reads [`Pressure`].

use k8s_openapi::api::core::v1::Pod;

use crate::kubelet::Kubelet;
use crate::pod::{self, PodExt};
use crate::status::Verdict;

pub mod manager;
mod rank;
pub mod signals;
mod storage;
pub mod thresholds;

/// Which resources are short, now or not long ago.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pressure {
    pub memory: bool,
    pub disk: bool,
    pub pid: bool,
}

/// The pressure as last measured.
pub fn pressure(kubelet: &Kubelet) -> Pressure {
    **kubelet.pressure.load()
}

/// Whether a node under pressure takes a pod. Critical pods are always taken.
pub fn admits(kubelet: &Kubelet, pod: &Pod) -> Result<(), Verdict> {
    let now = pressure(kubelet);
    // What ran before the kubelet was restarted goes on running; it may be evicted, but is not refused.
    let runs = pod.phase() == "Running";
    if now == Pressure::default() || pod.is_critical() || runs {
        return Ok(());
    }
    let tolerated = || {
        let tolerations = pod.spec().tolerations.as_deref().unwrap_or_default();
        let taint = k8s_openapi::api::core::v1::Taint {
            key: "node.kubernetes.io/memory-pressure".into(),
            effect: "NoSchedule".into(),
            ..Default::default()
        };
        tolerations.iter().any(|t| kinds::placement::tolerates(t, &taint))
    };
    // Only what has no requests makes a shortage of memory worse than foreseen.
    let only_memory = now.memory && !now.disk && !now.pid;
    if only_memory && (pod::qos(pod) != "BestEffort" || tolerated()) {
        return Ok(());
    }
    let names = [(now.memory, "MemoryPressure"), (now.disk, "DiskPressure"), (now.pid, "PIDPressure")];
    let names: Vec<&str> = names.into_iter().filter(|(on, _)| *on).map(|(_, name)| name).collect();
    let message = format!("The node had condition: [{}]. ", names.join(" "));
    Err(Verdict { reason: "Evicted".into(), message })
}

/// An amount as people write it: bytes with the largest binary suffix that leaves no fraction, numbers with a decimal one.
pub fn shown(resource: &str, amount: i64) -> String {
    use api::quantity::{Format, Quantity};
    let format = if matches!(resource, "inodes" | "pids") { Format::DecimalSI } else { Format::BinarySI };
    Quantity::new(amount, format).to_string()
}

#[cfg(test)]
mod tests {
    #[test]
    fn amounts() {
        for (bytes, text) in
            [(0, "0"), (100 << 20, "100Mi"), (1536, "1536"), (3 << 10, "3Ki"), (1 << 30, "1Gi")]
        {
            assert_eq!(super::shown("memory", bytes), text);
        }
        assert_eq!(super::shown("inodes", 12000), "12k");
    }
}
