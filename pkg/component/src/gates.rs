//! Feature gates: which exist, what they default to, and what the command line or a configuration file makes of them.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use anyhow::bail;

use crate::Flags;

/// Gate name to stage, default and whether it is locked to it.
static TABLE: LazyLock<BTreeMap<&'static str, Gate>> = LazyLock::new(|| {
    let rows: BTreeMap<&'static str, (&'static str, bool, bool)> =
        serde_json::from_str(include_str!("gates.json")).unwrap_or_default();
    rows.into_iter().map(|(n, (stage, default, locked))| (n, Gate { stage, default, locked })).collect()
});

/// Gates that can only be on while others are.
const DEPENDENCIES: &[(&str, &[&str])] = &[
    ("AuthorizeNodeWithSelectors", &["AuthorizeWithSelectors"]),
    ("ClusterTrustBundleProjection", &["ClusterTrustBundle"]),
    ("DRAAdminAccess", &["DynamicResourceAllocation"]),
    ("DRAConsumableCapacity", &["DynamicResourceAllocation"]),
    ("DRADeviceBindingConditions", &["DRAResourceClaimDeviceStatus", "DynamicResourceAllocation"]),
    ("DRADeviceTaintRules", &["DRADeviceTaints"]),
    ("DRADeviceTaints", &["DynamicResourceAllocation"]),
    ("DRAExtendedResource", &["DynamicResourceAllocation"]),
    ("DRAListTypeAttributes", &["DynamicResourceAllocation"]),
    ("DRANodeAllocatableResources", &["DynamicResourceAllocation"]),
    ("DRAPartitionableDevices", &["DynamicResourceAllocation"]),
    ("DRAPrioritizedList", &["DynamicResourceAllocation"]),
    (
        "DRAResourceClaimGranularStatusAuthorization",
        &["DRAResourceClaimDeviceStatus", "DynamicResourceAllocation"],
    ),
    ("DRAResourcePoolStatus", &["DynamicResourceAllocation"]),
    ("DRASchedulerFilterTimeout", &["DynamicResourceAllocation"]),
    ("DRAWorkloadResourceClaims", &["DynamicResourceAllocation", "GenericWorkload"]),
    ("DisableAllocatorDualWrite", &["MultiCIDRServiceAllocator"]),
    ("ExtendWebSocketsToKubelet", &["NodeDeclaredFeatures"]),
    ("GangScheduling", &["GenericWorkload"]),
    ("GracefulNodeShutdownBasedOnPodPriority", &["GracefulNodeShutdown"]),
    ("ImageVolumeWithDigest", &["ImageVolume"]),
    (
        "InPlacePodLevelResourcesVerticalScaling",
        &["InPlacePodVerticalScaling", "NodeDeclaredFeatures", "PodLevelResources"],
    ),
    ("InPlacePodVerticalScalingExclusiveCPUs", &["InPlacePodVerticalScaling"]),
    ("InPlacePodVerticalScalingExclusiveMemory", &["InPlacePodVerticalScaling"]),
    ("InPlacePodVerticalScalingInitContainers", &["InPlacePodVerticalScaling", "NodeDeclaredFeatures"]),
    ("MatchLabelKeysInPodTopologySpreadSelectorMerge", &["MatchLabelKeysInPodTopologySpread"]),
    ("PodCertificateRequest", &["AuthorizeNodeWithSelectors"]),
    ("PodLevelResourceManagers", &["PodLevelResources"]),
    ("PodLifecycleSleepActionAllowZero", &["PodLifecycleSleepAction"]),
    ("ProcMountType", &["UserNamespacesSupport"]),
    ("ResourceHealthStatus", &["DynamicResourceAllocation"]),
    ("ResourceHealthStatusMessage", &["ResourceHealthStatus"]),
    ("RestartAllContainersOnContainerExits", &["ContainerRestartRules", "NodeDeclaredFeatures"]),
    ("ServiceAccountTokenNodeBinding", &["ServiceAccountTokenNodeBindingValidation"]),
    ("StaleControllerConsistencyDaemonSet", &["AtomicFIFO"]),
    ("StaleControllerConsistencyJob", &["AtomicFIFO"]),
    ("StaleControllerConsistencyReplicaSet", &["AtomicFIFO"]),
    ("StaleControllerConsistencyStatefulSet", &["AtomicFIFO"]),
    ("TopologyAwareWorkloadScheduling", &["GenericWorkload"]),
];

#[derive(Clone, Copy, Debug)]
struct Gate {
    stage: &'static str,
    default: bool,
    locked: bool,
}

/// The gates of a daemon; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Gates {
    set: Arc<BTreeMap<String, bool>>,
}

impl Gates {
    /// The gates as `--feature-gates` sets them.
    pub fn from_flags(flags: &Flags) -> anyhow::Result<Gates> {
        Gates::default().with_list(&flags.list("feature-gates"))
    }

    /// These gates changed by `Name=bool` pairs; a `kube:` prefix names the component and is accepted.
    pub fn with_list(&self, pairs: &[String]) -> anyhow::Result<Gates> {
        let mut map = BTreeMap::new();
        for pair in pairs.iter().map(|p| p.trim()).filter(|p| !p.is_empty()) {
            let pair = pair.strip_prefix("kube:").unwrap_or(pair);
            let Some((name, value)) = pair.split_once('=') else { bail!("missing bool value for {pair}") };
            let (name, value) = (name.trim(), value.trim());
            let Ok(value) = value.to_ascii_lowercase().parse::<bool>() else {
                bail!(
                    "invalid value of {name}={value}, err: strconv.ParseBool: parsing {value:?}: invalid syntax"
                )
            };
            map.insert(name.to_owned(), value);
        }
        self.with(&map)
    }

    /// These gates changed by a configuration file's `featureGates`.
    pub fn with(&self, map: &BTreeMap<String, bool>) -> anyhow::Result<Gates> {
        let mut set = (*self.set).clone();
        for (stage, all) in [("Alpha", "AllAlpha"), ("Beta", "AllBeta")] {
            if let Some(value) = map.get(all) {
                let of_stage = TABLE.iter().filter(|(n, g)| {
                    g.stage.eq_ignore_ascii_case(stage) && !g.locked && !set.contains_key(**n)
                });
                let names: Vec<String> = of_stage.map(|(n, _)| (*n).to_owned()).collect();
                set.extend(names.into_iter().map(|n| (n, *value)));
                set.insert(all.to_owned(), *value);
            }
        }
        for (name, value) in map.iter().filter(|(n, _)| *n != "AllAlpha" && *n != "AllBeta") {
            let Some(gate) = TABLE.get(name.as_str()) else { bail!("unrecognized feature gate: {name}") };
            if gate.locked && gate.default != *value {
                bail!("cannot set feature gate {name} to {value}, feature is locked to {}", gate.default);
            }
            set.insert(name.clone(), *value);
        }
        let gates = Gates { set: Arc::new(set) };
        match gates.unmet().as_slice() {
            [] => Ok(gates),
            [one] => bail!("{one}"),
            many => bail!("[{}]", many.join(", ")),
        }
    }

    /// What is on although something that it needs is off.
    fn unmet(&self) -> Vec<String> {
        let on = |name: &str| self.get(name).unwrap_or(true);
        let missing = DEPENDENCIES
            .iter()
            .filter(|(name, _)| self.get(name) == Some(true))
            .map(|(name, needs)| (name, needs.iter().filter(|need| !on(need)).copied().collect::<Vec<_>>()));
        let missing = missing.filter(|(_, needs)| !needs.is_empty());
        missing
            .map(|(name, needs)| {
                format!("{name} is enabled, but depends on features that are disabled: [{}]", needs.join(" "))
            })
            .collect()
    }

    /// Whether a gate of this name exists.
    pub fn exists(name: &str) -> bool {
        TABLE.contains_key(name)
    }

    /// Whether a feature is on. Names that no table knows are off.
    pub fn enabled(&self, name: &str) -> bool {
        let default = || TABLE.get(name).is_some_and(|g| g.default);
        debug_assert!(TABLE.contains_key(name), "no feature gate {name}");
        self.set.get(name).copied().unwrap_or_else(default)
    }

    /// Whether a feature is on; none if no table knows it.
    pub fn get(&self, name: &str) -> Option<bool> {
        Self::exists(name).then(|| self.enabled(name))
    }

    /// Every gate with its stage and state, for the `kubernetes_feature_enabled` metric and `/flagz`.
    pub fn all(&self) -> Vec<(&'static str, &'static str, bool)> {
        TABLE.iter().map(|(n, g)| (*n, g.stage, self.set.get(*n).copied().unwrap_or(g.default))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gates_follow_table_and_pairs() {
        assert_eq!(TABLE.len(), 240);
        let (locked, gate) = TABLE.iter().find(|(_, g)| g.locked).unwrap();
        let (alpha, _) = TABLE.iter().find(|(_, g)| g.stage == "Alpha" && !g.default).unwrap();
        let set = |s: String| Gates::default().with_list(&[s]).map_err(|e| e.to_string());
        assert!(set(format!("{alpha}=true")).unwrap().enabled(alpha));
        assert!(set("AllAlpha=true".into()).unwrap().enabled(alpha));
        assert!(!Gates::default().enabled(alpha));
        assert_eq!(set("NoSuch=true".into()).unwrap_err(), "unrecognized feature gate: NoSuch");
        assert_eq!(
            set(format!("{locked}={}", !gate.default)).unwrap_err(),
            format!(
                "cannot set feature gate {locked} to {}, feature is locked to {}",
                !gate.default, gate.default
            )
        );
        assert!(set(format!("{alpha}=maybe")).is_err());
        assert!(Gates::default().unmet().is_empty(), "the defaults fit each other");
        let lonely = "ClusterTrustBundleProjection is enabled, but depends on features that are disabled: [ClusterTrustBundle]";
        assert_eq!(set("ClusterTrustBundleProjection=true".into()).unwrap_err(), lonely);
        let all = ["AllAlpha=true", "AllBeta=true"].map(String::from);
        assert!(Gates::default().with_list(&all).unwrap().unmet().is_empty(), "all of them fit each other");
    }
}
