//! Feature gates as rooms ask for them: one set a process, as the daemon was started with.

use std::sync::OnceLock;

/// The state of a gate by its name; none for a name that no table knows.
type Lookup = Box<dyn Fn(&str) -> Option<bool> + Send + Sync>;

static LOOKUP: OnceLock<Lookup> = OnceLock::new();

/// Gates that rooms and the field table name and that are off unless somebody turns them on.
const OFF: [&str; 25] = [
    "ClusterTrustBundle",
    "ClusterTrustBundleProjection",
    "ContainerStopSignals",
    "CoordinatedLeaderElection",
    "CrossNamespaceVolumeDataSource",
    "DRAListTypeAttributes",
    "DRANodeAllocatableResources",
    "DRAWorkloadResourceClaims",
    "GenericWorkload",
    "GitRepoVolumeDriver",
    "HPAScaleToZero",
    "ImageVolumeWithDigest",
    "MaxUnavailableStatefulSet",
    "MutablePVNodeAffinity",
    "PodCertificateRequest",
    "PodLogsQuerySplitStreams",
    "SELinuxMount",
    "ShardedListAndWatch",
    "StorageVersionMigrator",
    "TaintTolerationComparisonOperators",
    "TopologyAwareWorkloadScheduling",
    "UserNamespacesHostNetworkSupport",
    "VolumeLimitScaling",
    "WorkloadAwarePreemption",
    "WorkloadWithJob",
];

/// Takes over the gates of the daemon. Only the first call counts.
pub fn set(lookup: impl Fn(&str) -> Option<bool> + Send + Sync + 'static) {
    // A second server in the same process (a test) keeps the first one's gates.
    let _ = LOOKUP.set(Box::new(lookup));
}

/// Whether a feature is on. A name that is in no table belongs to a gate that has graduated and gone.
pub fn enabled(name: &str) -> bool {
    let Some(lookup) = LOOKUP.get() else { return !OFF.contains(&name) };
    lookup(name).unwrap_or(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_upstream_ships_them() {
        assert!(enabled("SidecarContainers") && !enabled("SELinuxMount") && enabled("LongGone"));
    }
}
