//! What the parts of the kubelet share.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};
use k8s_openapi::api::core::v1::{Node, VolumeMount};
use tokio::sync::Notify;
use volumes::Objects;
use volumes::field::Downward;

use crate::allocation::Allocations;
use crate::backoff::Backoff;
use crate::cgroups::Cgroups;
use crate::config::KubeletConfiguration;
use crate::dns::NodeDns;
use crate::events::Events;
use crate::images::Images;
use crate::machine::Machine;
use crate::managers::Managers;
use crate::objects::{NoObjects, ObjectStore};
use crate::pods::Pods;
use crate::prober::Prober;
use crate::resources::NodeResources;
use crate::security::NodeSecurity;
use crate::services::Services;
use crate::shutdown::Shutdown;
use crate::status::manager::Statuses;
use crate::userns::UserNamespaces;

/// The runtime's answers that change seldom.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RuntimeInfo {
    /// Its name, e.g. `containerd`.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its handlers with (recursive read-only mounts, user namespaces).
    pub handlers: Vec<(String, bool, bool)>,
    /// Whether it knows `supplementalGroupsPolicy`, if it tells.
    pub supplemental_groups_policy: Option<bool>,
    /// It gives user namespaces to pods on the node's network, too.
    pub user_namespaces_host_network: bool,
    /// Why it or its network is not ready, empty when they are.
    pub not_ready: Vec<String>,
    /// The network is not ready.
    pub network_down: Option<String>,
}

impl RuntimeInfo {
    /// An error if a handler cannot give pods user namespaces of their own.
    pub fn user_namespaces(&self, handler: &str) -> Result<(), String> {
        let found = self.handlers.iter().find(|(name, ..)| name == handler);
        if found.is_some_and(|(_, _, userns)| *userns) {
            return Ok(());
        }
        let mut message = match handler {
            "" => "can't set `spec.hostUsers: false`, runtime does not support user namespaces".to_string(),
            _ => format!(
                "can't set `spec.hostUsers: false`, RuntimeClass handler {handler:?} does not support user namespaces"
            ),
        };
        if found.is_none() && !handler.is_empty() {
            message.push_str(&format!(": the handler {handler:?} is not known"));
        }
        Err(message)
    }

    /// Why images cannot be mounted as volumes, if the runtime is known to be unable to.
    pub fn lacks_image_volumes(&self) -> Option<String> {
        let mut parts = self.version.trim_start_matches('v').split(['.', '~', '-']).map(str::parse::<u32>);
        let (major, minor) = (parts.next()?.ok()?, parts.next()?.ok()?);
        (self.name == "containerd" && (major, minor) < (2, 1))
            .then(|| format!("image volumes need containerd 2.1 or later, this is {}", self.version))
    }
}

/// The kubelet: everything that its parts share.
pub struct Kubelet {
    pub config: KubeletConfiguration,
    pub node_name: String,
    pub root: PathBuf,
    pub cert_dir: PathBuf,
    pub runtime: cri::Runtime,
    pub runtime_info: ArcSwap<RuntimeInfo>,
    pub client: Option<kube::Client>,
    /// For the Node and its Lease, which no other request may hold up.
    pub heartbeats: Option<kube::Client>,
    pub events: Events,
    pub images: Images,
    pub prober: Prober,
    pub statuses: Arc<Statuses>,
    pub pods: Pods,
    pub allocations: Allocations,
    pub shutdown: Shutdown,
    pub services: Services,
    pub store: Option<Arc<ObjectStore>>,
    /// The volumes of all pods.
    pub volumes: Arc<volumes::Manager>,
    pub cgroups: Cgroups,
    pub managers: Managers,
    /// Drivers of dynamic resources.
    pub drivers: Arc<kubelet_plugins::dra::Drivers>,
    pub gates: component::gates::Gates,
    pub user_namespaces: UserNamespaces,
    pub machine: Machine,
    pub node_resources: NodeResources,
    pub security: NodeSecurity,
    pub dns: NodeDns,
    pub crash_backoff: Backoff,
    /// The Node object as last seen.
    pub node: ArcSwapOption<Node>,
    pub host_ips: ArcSwap<Vec<String>>,
    /// Told when something should be reported at once.
    pub node_changed: Arc<Notify>,
    /// What the node is short of.
    pub pressure: ArcSwap<crate::eviction::Pressure>,
    /// Where the runtime keeps its files.
    pub places: crate::eviction::signals::KnownPlaces,
    /// How many dead containers are kept.
    pub container_gc: crate::gc::Policy,
    /// When images were used.
    pub image_use: crate::gc::ImageUse,
    /// What the runtime has.
    pub listing: crate::listing::Lister,
    /// Told to look at the runtime at once.
    pub relist: Notify,
}

impl Kubelet {
    /// The folder of a pod.
    pub fn pod_dir(&self, uid: &str) -> PathBuf {
        volumes::layout::pod_dir(&self.root, uid)
    }

    /// The objects that pods refer to.
    pub fn objects(&self) -> &dyn Objects {
        match &self.store {
            Some(store) => store.as_ref(),
            None => &NoObjects,
        }
    }

    /// The downward API's values that are the same for all pods.
    pub fn downward(&self) -> Downward {
        let allocatable = &self.machine.allocatable(&self.config);
        Downward {
            node_name: self.node_name.clone(),
            host_ips: self.host_ips.load().to_vec(),
            pod_ips: Vec::new(),
            allocatable_milli_cpu: allocatable.milli_cpu,
            allocatable_memory: allocatable.memory,
            allocatable_storage: allocatable.storage,
        }
    }

    /// The addresses of a pod as last reported.
    pub fn pod_ips(&self, uid: &str) -> Vec<String> {
        let ips = self.statuses.get(uid).and_then(|s| s.pod_ips).unwrap_or_default();
        ips.into_iter().map(|ip| ip.ip).collect()
    }

    /// Whether a mount wants to be read-only all the way down. An error if it insists and the runtime cannot.
    pub fn wants_recursive_read_only(&self, mount: &VolumeMount) -> Result<bool, String> {
        let Some(mode) = mount.recursive_read_only.as_deref().filter(|mode| *mode != "Disabled") else {
            return Ok(false);
        };
        let refused = |why: String| Err(format!("failed to resolve recursive read-only mode: {why}"));
        let asked = format!("volume {:?} requested recursive read-only mode, but it is not", mount.name);
        if mount.read_only != Some(true) {
            return refused(format!("{asked} read-only"));
        }
        if let Some(other) = mount.mount_propagation.as_deref().filter(|p| *p != "None") {
            return refused(format!("{asked} compatible with propagation {other:?}"));
        }
        match (mode, self.recursive_read_only()) {
            ("Enabled", false) => refused(format!("{asked} supported by the runtime")),
            ("Enabled" | "IfPossible", able) => Ok(able),
            _ => refused(format!("unknown recursive read-only mode {mode:?}")),
        }
    }

    /// Whether the runtime's default handler can mount read-only all the way down.
    pub fn recursive_read_only(&self) -> bool {
        self.runtime_info.load().handlers.iter().any(|(name, rro, _)| name.is_empty() && *rro)
    }

    /// The root folder.
    pub fn root(&self) -> &Path {
        &self.root
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_runtimes_lack() {
        let with = |version: &str, handlers: &[(&str, bool)]| RuntimeInfo {
            name: "containerd".into(),
            version: version.into(),
            handlers: handlers.iter().map(|(name, userns)| (name.to_string(), false, *userns)).collect(),
            ..Default::default()
        };
        assert!(with("1.6.20~ds1", &[]).lacks_image_volumes().is_some());
        assert!(with("v2.1.0", &[]).lacks_image_volumes().is_none());
        let info = with("2.0", &[("", true), ("old", false)]);
        assert_eq!(info.user_namespaces(""), Ok(()));
        for (handler, end) in
            [("old", "support user namespaces"), ("other", "handler \"other\" is not known")]
        {
            assert!(info.user_namespaces(handler).unwrap_err().ends_with(end), "{handler}");
        }
    }
}
