//! Every controller by name: its aliases, whether it runs by default, what it needs, and how it starts.

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;

use controller_kit::Context;
use controllers_cluster as cluster;
use controllers_network as network;
use controllers_storage as storage;
use controllers_workloads as workloads;

/// What a running controller is.
pub type Running = Pin<Box<dyn Future<Output = anyhow::Result<()>> + Send>>;
type Start = fn(Context) -> Running;

/// One row of the table.
pub struct Controller {
    pub name: &'static str,
    pub alias: &'static str,
    /// Runs under `*`.
    pub default_on: bool,
    /// Feature gates that all have to be on.
    pub gates: &'static [&'static str],
    /// Runs only with an in-tree cloud provider, of which there are none any more.
    pub cloud: bool,
    /// `None` where it is not implemented.
    pub start: Option<Start>,
}

const fn row(name: &'static str, alias: &'static str, start: Option<Start>) -> Controller {
    Controller { name, alias, default_on: true, gates: &[], cloud: false, start }
}

impl Controller {
    const fn off(mut self) -> Controller {
        self.default_on = false;
        self
    }
    const fn gated(mut self, gates: &'static [&'static str]) -> Controller {
        self.gates = gates;
        self
    }
    const fn cloud(mut self) -> Controller {
        self.cloud = true;
        self
    }

    /// Whether an entry of `--controllers` means this one.
    fn called(&self, name: &str) -> bool {
        self.name == name || (!self.alias.is_empty() && self.alias == name)
    }
}

macro_rules! start {
    ($($path:tt)+) => { Some(|ctx| Box::pin($($path)+(ctx))) };
}

/// The table, in the order controllers start: tokens first, as others wait for them.
pub static ALL: &[Controller] = &[
    row("serviceaccount-token-controller", "serviceaccount-token", start!(cluster::tokens::run)),
    row("endpoints-controller", "endpoint", start!(network::endpoints::run)),
    row("endpointslice-controller", "endpointslice", start!(network::endpointslice::run)),
    row("endpointslice-mirroring-controller", "endpointslicemirroring", start!(network::mirroring::run)),
    row("replicationcontroller-controller", "replicationcontroller", start!(workloads::replication::run)),
    row("pod-garbage-collector-controller", "podgc", start!(cluster::nodes::podgc::run)),
    row("resourcequota-controller", "resourcequota", start!(cluster::quota::run)),
    row("namespace-controller", "namespace", start!(cluster::namespace::run)),
    row("serviceaccount-controller", "serviceaccount", start!(cluster::serviceaccount::run)),
    row("garbage-collector-controller", "garbagecollector", start!(cluster::gc::run)),
    row("daemonset-controller", "daemonset", start!(workloads::daemonset::run)),
    row("job-controller", "job", start!(workloads::job::run)),
    row("deployment-controller", "deployment", start!(workloads::deployment::run)),
    row("replicaset-controller", "replicaset", start!(workloads::replicaset::run)),
    row("horizontal-pod-autoscaler-controller", "horizontalpodautoscaling", start!(workloads::hpa::run)),
    row("disruption-controller", "disruption", start!(workloads::disruption::run)),
    row("statefulset-controller", "statefulset", start!(workloads::statefulset::run)),
    row("cronjob-controller", "cronjob", start!(workloads::cronjob::run)),
    row("certificatesigningrequest-signing-controller", "csrsigning", start!(cluster::csr::sign::run)),
    row("certificatesigningrequest-approving-controller", "csrapproving", start!(cluster::csr::approve::run)),
    row("certificatesigningrequest-cleaner-controller", "csrcleaner", start!(cluster::csr::clean::run)),
    row("ttl-controller", "ttl", start!(cluster::nodes::ttl::run)),
    row("bootstrap-signer-controller", "bootstrapsigner", start!(cluster::bootstrap::sign_cluster_info))
        .off(),
    row("token-cleaner-controller", "tokencleaner", start!(cluster::bootstrap::clean_tokens)).off(),
    row("node-ipam-controller", "nodeipam", start!(cluster::nodes::ipam::run)),
    row("node-lifecycle-controller", "nodelifecycle", start!(cluster::nodes::lifecycle::run)),
    row("taint-eviction-controller", "", start!(cluster::nodes::taints::run))
        .gated(&["SeparateTaintEvictionController"]),
    row("device-taint-eviction-controller", "", None)
        .gated(&["DynamicResourceAllocation", "DRADeviceTaints"]),
    row("service-lb-controller", "service", None).cloud(),
    row("node-route-controller", "route", None).cloud(),
    row("cloud-node-lifecycle-controller", "cloud-node-lifecycle", None).cloud(),
    row("persistentvolume-binder-controller", "persistentvolume-binder", start!(storage::binder::run)),
    row("persistentvolume-attach-detach-controller", "attachdetach", start!(storage::attach::run)),
    row("persistentvolume-expander-controller", "persistentvolume-expander", start!(storage::expand::run)),
    row("clusterrole-aggregation-controller", "clusterrole-aggregation", start!(cluster::aggregation::run)),
    row(
        "persistentvolumeclaim-protection-controller",
        "pvc-protection",
        start!(storage::protection::run_claims),
    ),
    row("persistentvolume-protection-controller", "pv-protection", start!(storage::protection::run_volumes)),
    row("volumeattributesclass-protection-controller", "", start!(storage::attributes_class::run))
        .gated(&["VolumeAttributesClass"]),
    row("ttl-after-finished-controller", "ttl-after-finished", start!(workloads::ttl::run)),
    row("root-ca-certificate-publisher-controller", "root-ca-cert-publisher", start!(cluster::rootca::run)),
    row("kube-apiserver-serving-clustertrustbundle-publisher-controller", "", None)
        .gated(&["ClusterTrustBundle"]),
    row("ephemeral-volume-controller", "ephemeral-volume", start!(storage::ephemeral::run)),
    row("storageversion-garbage-collector-controller", "storage-version-gc", None)
        .gated(&["APIServerIdentity", "StorageVersionAPI"]),
    row("resourceclaim-controller", "resource-claim-controller", None).gated(&["DynamicResourceAllocation"]),
    row("resourcepoolstatusrequest-controller", "", None).gated(&["DRAResourcePoolStatus"]),
    row("legacy-serviceaccount-token-cleaner-controller", "legacy-service-account-token-cleaner", None),
    row("validatingadmissionpolicy-status-controller", "", start!(cluster::policystatus::run)),
    row("service-cidr-controller", "", start!(network::servicecidr::run))
        .gated(&["MultiCIDRServiceAllocator"]),
    row("storage-version-migrator-controller", "svm", None).gated(&[
        "StorageVersionMigrator",
        "InformerResourceVersion",
        "InOrderInformers",
    ]),
    row("selinux-warning-controller", "", None).off().gated(&["SELinuxChangePolicy"]),
    row("podcertificaterequest-cleaner-controller", "", None).gated(&["PodCertificateRequest"]),
    row("podgroup-protection-controller", "", None).gated(&["GenericWorkload"]),
];

/// `--controllers`, read.
#[derive(Debug)]
pub struct Selection {
    on: BTreeSet<&'static str>,
    off: BTreeSet<&'static str>,
    all: bool,
}

impl Selection {
    /// Reads the list; a name that no controller has is an error.
    pub fn parse(entries: &[String]) -> Result<Selection, String> {
        let mut selection = Selection { on: BTreeSet::new(), off: BTreeSet::new(), all: false };
        for entry in entries {
            if entry == "*" {
                selection.all = true;
                continue;
            }
            let name = entry.strip_prefix('-').unwrap_or(entry);
            let Some(found) = ALL.iter().find(|c| c.called(name)) else {
                return Err(format!("\"{name}\" is not in the list of known controllers"));
            };
            let set = if entry.starts_with('-') { &mut selection.off } else { &mut selection.on };
            set.insert(found.name);
        }
        Ok(selection)
    }

    /// Whether the controller is to run.
    pub fn enabled(&self, controller: &Controller) -> bool {
        if self.on.contains(controller.name) {
            return true;
        }
        !self.off.contains(controller.name) && self.all && controller.default_on
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(list: &[&str], name: &str) -> bool {
        let entries: Vec<String> = list.iter().map(|s| (*s).to_owned()).collect();
        let selection = Selection::parse(&entries).unwrap();
        selection.enabled(ALL.iter().find(|c| c.name == name).unwrap())
    }

    #[test]
    fn the_list_turns_controllers_on_and_off() {
        assert!(runs(&["*"], "deployment-controller"));
        assert!(!runs(&["*"], "token-cleaner-controller"));
        assert!(runs(&["*", "tokencleaner"], "token-cleaner-controller"));
        assert!(!runs(&["*", "-deployment"], "deployment-controller"));
        assert!(!runs(&["replicaset-controller"], "deployment-controller"));
        assert!(runs(&["replicaset"], "replicaset-controller"));
        assert!(Selection::parse(&["nope".into()]).is_err());
    }

    #[test]
    fn names_and_aliases_are_unique() {
        let mut seen = BTreeSet::new();
        for c in ALL {
            assert!(seen.insert(c.name));
            assert!(c.alias.is_empty() || seen.insert(c.alias));
        }
    }
}
