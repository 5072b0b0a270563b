//! The kubelet's HTTPS API, and the seam to the kubelet behind it.
//!
//! The server knows the kubelet only as a [`Host`]: which pods it runs, the runtime they run in, where their files
//! lie. Everything it answers is read through that, so it can be tested with a host made of a few structs.

mod authz;
mod cadvisor;
mod exec;
mod logs;
mod metrics;
mod node_logs;
mod query;
mod requests;
mod routes;
mod shape;
mod stats;

pub use metrics::Took;
pub use routes::{Options, read_only, router};
pub use stats::{Usage, VolumeUse, measure};

use std::path::{Path, PathBuf};
use std::sync::Arc;

use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Node, Pod};

/// What the HTTPS API needs to know of the kubelet that it fronts.
#[async_trait]
pub trait Host: Send + Sync + 'static {
    /// The name of the Node object.
    fn node_name(&self) -> &str;

    /// The Node as last written to or read from the apiserver, if it was reached.
    fn node(&self) -> Option<Arc<Node>>;

    /// All pods bound to this node, each with its newest status (also the static ones, before the apiserver knows).
    fn pods(&self) -> Vec<Arc<Pod>>;

    /// One pod by namespace and name. A static pod is found under the name of its mirror pod; `uid`, when given, may
    /// be the static pod's or the mirror's.
    fn pod(&self, namespace: &str, name: &str, uid: Option<&str>) -> Option<Arc<Pod>>;

    /// The UID that the runtime's objects of this pod carry in the label `io.kubernetes.pod.uid` (a mirror pod's
    /// containers run under the UID of its static pod).
    fn runtime_uid(&self, pod: &Pod) -> String;

    /// The container runtime. Containers are found by the labels `io.kubernetes.pod.uid`,
    /// `io.kubernetes.container.name`; their log files by `ContainerStatus.log_path`.
    fn runtime(&self) -> &cri::Runtime;

    /// The cgroup of a pod relative to each hierarchy's root, e.g. `kubepods/burstable/pod<uid>`; `None` when pods have
    /// none of their own.
    fn pod_cgroup(&self, pod: &Pod) -> Option<PathBuf>;

    /// The cgroup under which all pods live, relative to each hierarchy's root.
    fn pods_cgroup(&self) -> PathBuf;

    /// Cgroups of the node's own programs by what `/stats/summary` calls them (`runtime`, `misc`), as far as the
    /// operator has told where they are.
    fn system_cgroups(&self) -> Vec<(&'static str, PathBuf)>;

    /// The kubelet's folder, usually `/var/lib/kubelet`.
    fn root_dir(&self) -> &Path;

    /// The folder of pod logs, usually `/var/log/pods`.
    fn pod_logs_dir(&self) -> &Path;

    /// The mounted volumes of a pod that hold data on this node.
    fn volumes(&self, pod: &Pod) -> Vec<VolumePath>;

    /// How full a volume is, where something else than the file system has to say it.
    async fn volume_use(&self, pod: &Pod, volume: &VolumePath) -> Option<VolumeUse>;

    /// How long what was found out about volumes is believed; `None` if nobody should look.
    fn volume_stats_period(&self) -> Option<Duration>;

    /// Whether it is told how well volumes are.
    fn volume_health(&self) -> bool;

    /// The configuration in force, for `/configz`.
    fn config(&self) -> serde_json::Value;

    /// Failing health checks by name, empty when all is well (`syncloop`).
    fn health(&self) -> Vec<(&'static str, String)>;

    /// Brings metrics that are a state up to date, before they are read.
    fn refresh_metrics(&self);

    /// The result of probes so far, for `/metrics/probes`.
    fn probe_counts(&self) -> Vec<ProbeCount>;

    /// How long probes took that succeeded, for `/metrics/probes`.
    fn probe_durations(&self) -> Vec<ProbeDuration>;
}

/// Where a volume of a pod lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumePath {
    /// Its name in the pod.
    pub name: String,
    /// The claim behind it.
    pub claim: Option<String>,
    /// The folder it is mounted at.
    pub path: PathBuf,
    /// Its content is the pod's own and lies among that of others.
    pub owned: bool,
}

/// How long the attempts of a probe took that succeeded.
#[derive(Debug, Clone, PartialEq)]
pub struct ProbeDuration {
    /// `Liveness`, `Readiness` or `Startup`.
    pub probe_type: &'static str,
    /// The container's name.
    pub container: String,
    /// The pod's name.
    pub pod: String,
    /// The pod's namespace.
    pub namespace: String,
    /// How long the attempts took.
    pub took: metrics::Took,
}

/// How often a probe of a container ended in a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeCount {
    /// `Liveness`, `Readiness` or `Startup`.
    pub probe_type: &'static str,
    /// The container's name.
    pub container: String,
    /// The pod's name.
    pub pod: String,
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's UID.
    pub pod_uid: String,
    /// `successful`, `failed` or `unknown`.
    pub result: &'static str,
    /// How often.
    pub count: u64,
}
