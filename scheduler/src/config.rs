//! `KubeSchedulerConfiguration` (kubescheduler.config.k8s.io/v1): from file and flags to what the scheduler is made of.

use crate::framework::Plugin;
use crate::plugins::{
    balanced_allocation, default_preemption, inter_pod_affinity, node_resources_fit, pod_topology_spread,
};
use crate::profile::{Enabled, POINTS, takes_part};
use anyhow::{Context, Result, bail, ensure};
use component::Flags;
use k8s_openapi::api::core::v1::NodeAffinity;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

const API_VERSION: &str = "kubescheduler.config.k8s.io/v1";

/// All plugins in their default order; the number is their weight in scores.
pub const DEFAULT_PLUGINS: [(&str, i64); 18] = [
    ("SchedulingGates", 0),
    ("PrioritySort", 0),
    ("NodeUnschedulable", 0),
    ("NodeName", 0),
    ("TaintToleration", 3),
    ("NodeAffinity", 2),
    ("NodePorts", 0),
    ("NodeResourcesFit", 1),
    ("VolumeRestrictions", 0),
    ("NodeVolumeLimits", 0),
    ("VolumeBinding", 0),
    ("VolumeZone", 0),
    ("PodTopologySpread", 2),
    ("InterPodAffinity", 2),
    ("DefaultPreemption", 0),
    ("NodeResourcesBalancedAllocation", 1),
    ("ImageLocality", 1),
    ("DefaultBinder", 0),
];

/// Known upstream plugins that this scheduler does not have yet: enabling one is logged, not refused.
pub const NOT_YET: [&str; 5] = [
    "DynamicResources",
    "NodeDeclaredFeatures",
    "GangScheduling",
    "TopologyPlacementGenerator",
    "PodGroupPodsCount",
];

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Configuration {
    #[serde(rename = "apiVersion")]
    _api_version: String,
    #[serde(rename = "kind")]
    _kind: String,
    pub parallelism: i32,
    pub leader_election: LeaderElection,
    pub client_connection: ClientConnection,
    pub percentage_of_nodes_to_score: Option<i32>,
    pub pod_initial_backoff_seconds: i64,
    pub pod_max_backoff_seconds: i64,
    pub profiles: Vec<ProfileConfig>,
    pub extenders: Vec<Value>,
    pub enable_profiling: bool,
    pub enable_contention_profiling: bool,
    pub delay_cache_until_active: bool,
}

impl Default for Configuration {
    fn default() -> Self {
        Configuration {
            _api_version: String::new(),
            _kind: String::new(),
            parallelism: 16,
            leader_election: LeaderElection::default(),
            client_connection: ClientConnection::default(),
            percentage_of_nodes_to_score: None,
            pod_initial_backoff_seconds: 1,
            pod_max_backoff_seconds: 10,
            profiles: vec![ProfileConfig::default()],
            extenders: Vec::new(),
            enable_profiling: true,
            enable_contention_profiling: true,
            delay_cache_until_active: false,
        }
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct LeaderElection {
    pub leader_elect: bool,
    pub lease_duration: String,
    pub renew_deadline: String,
    pub retry_period: String,
    pub resource_lock: String,
    pub resource_name: String,
    pub resource_namespace: String,
}

impl Default for LeaderElection {
    fn default() -> Self {
        LeaderElection {
            leader_elect: true,
            lease_duration: "15s".into(),
            renew_deadline: "10s".into(),
            retry_period: "2s".into(),
            resource_lock: "leases".into(),
            resource_name: "kube-scheduler".into(),
            resource_namespace: "kube-system".into(),
        }
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ClientConnection {
    pub kubeconfig: String,
    pub accept_content_types: String,
    pub content_type: String,
    pub qps: f64,
    pub burst: u32,
}

impl Default for ClientConnection {
    fn default() -> Self {
        ClientConnection {
            kubeconfig: String::new(),
            accept_content_types: String::new(),
            content_type: String::new(),
            qps: 50.0,
            burst: 100,
        }
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ProfileConfig {
    pub scheduler_name: String,
    pub percentage_of_nodes_to_score: Option<i32>,
    pub plugins: BTreeMap<String, PluginSet>,
    pub plugin_config: Vec<PluginConfig>,
}

impl Default for ProfileConfig {
    fn default() -> Self {
        ProfileConfig {
            scheduler_name: "default-scheduler".into(),
            percentage_of_nodes_to_score: None,
            plugins: BTreeMap::new(),
            plugin_config: Vec::new(),
        }
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PluginSet {
    pub enabled: Vec<PluginRef>,
    pub disabled: Vec<PluginRef>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PluginRef {
    pub name: String,
    #[serde(default)]
    pub weight: Option<i64>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PluginConfig {
    pub name: String,
    #[serde(default)]
    pub args: Value,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeAffinityArgs {
    pub added_affinity: Option<NodeAffinity>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct VolumeBindingArgs {
    pub bind_timeout_seconds: u64,
}

impl Default for VolumeBindingArgs {
    fn default() -> Self {
        VolumeBindingArgs { bind_timeout_seconds: 600 }
    }
}

/// The arguments of the plugins that take any.
#[derive(Clone, Debug, Default)]
pub struct Arguments {
    pub preemption: default_preemption::Args,
    pub inter_pod_affinity: inter_pod_affinity::Args,
    pub node_affinity: NodeAffinityArgs,
    pub balanced: balanced_allocation::Args,
    pub fit: node_resources_fit::Args,
    pub spread: pod_topology_spread::Args,
    pub volume_binding: VolumeBindingArgs,
}

impl ProfileConfig {
    pub fn arguments(&self) -> Result<Arguments> {
        let mut a = Arguments::default();
        for c in &self.plugin_config {
            match c.name.as_str() {
                "DefaultPreemption" => a.preemption = args(c)?,
                "InterPodAffinity" => a.inter_pod_affinity = args(c)?,
                "NodeAffinity" => a.node_affinity = args(c)?,
                "NodeResourcesBalancedAllocation" => a.balanced = args(c)?,
                "NodeResourcesFit" => a.fit = args(c)?,
                "PodTopologySpread" => a.spread = args(c)?,
                "VolumeBinding" => a.volume_binding = args(c)?,
                other if NOT_YET.contains(&other) => {
                    tracing::warn!(plugin = other, "Arguments of this plugin have no effect yet");
                }
                other => bail!("pluginConfig: no plugin named {other:?} takes arguments"),
            }
        }
        Ok(a)
    }

    /// Which plugins run at which point: multiPoint first, then what the points themselves say.
    pub fn enabled(
        &self,
        plugins: &BTreeMap<&'static str, Arc<dyn Plugin>>,
    ) -> Result<HashMap<&'static str, Enabled>> {
        let empty = PluginSet::default();
        let known = |p: &PluginRef| -> Result<bool> {
            if NOT_YET.contains(&p.name.as_str()) {
                tracing::warn!(plugin = p.name, "This plugin is not part of the scheduler yet");
                return Ok(false);
            }
            ensure!(plugins.contains_key(p.name.as_str()), "no plugin named {:?}", p.name);
            Ok(true)
        };
        for point in self.plugins.keys() {
            let fine =
                point == "multiPoint" || POINTS.contains(&point.as_str()) || point.starts_with("placement");
            ensure!(fine, "no extension point named {point:?}");
        }
        let multi = self.plugins.get("multiPoint").unwrap_or(&empty);
        let all = merge(&DEFAULT_PLUGINS.map(|(n, w)| (n.to_owned(), w)), multi, &known)?;
        let mut enabled = HashMap::new();
        for point in POINTS {
            let here: Enabled =
                all.iter().filter(|(n, _)| takes_part(&*plugins[n.as_str()], point)).cloned().collect();
            let own = self.plugins.get(point).unwrap_or(&empty);
            for p in own.enabled.iter().filter(|p| plugins.contains_key(p.name.as_str())) {
                ensure!(
                    takes_part(&*plugins[p.name.as_str()], point),
                    "plugin {:?} does not extend {point}",
                    p.name
                );
            }
            let mut list = merge(&here, own, &known)?;
            if point == "score" {
                list.iter_mut().for_each(|(_, weight)| *weight = (*weight).max(1));
            }
            enabled.insert(point, list);
        }
        ensure!(enabled["queueSort"].len() == 1, "exactly one queueSort plugin is needed");
        ensure!(!enabled["bind"].is_empty(), "at least one bind plugin is needed");
        Ok(enabled)
    }
}

/// The defaults less the disabled ones, then the enabled ones; one that is in both keeps its place with a new weight.
fn merge(
    defaults: &[(String, i64)],
    set: &PluginSet,
    known: &dyn Fn(&PluginRef) -> Result<bool>,
) -> Result<Enabled> {
    let disabled = |name: &str| set.disabled.iter().any(|d| d.name == "*" || d.name == name);
    let mut list: Enabled = defaults.iter().filter(|(n, _)| !disabled(n)).cloned().collect();
    for p in &set.enabled {
        if !known(p)? {
            continue;
        }
        let weight = p.weight.unwrap_or(0);
        match list.iter_mut().find(|(n, _)| *n == p.name) {
            Some(existing) if weight > 0 => existing.1 = weight,
            Some(_) => {}
            None => list.push((p.name.clone(), weight)),
        }
    }
    Ok(list)
}

fn args<T: DeserializeOwned>(c: &PluginConfig) -> Result<T> {
    serde_json::from_value(c.args.clone()).with_context(|| format!("pluginConfig of {}", c.name))
}

impl Configuration {
    pub fn load(flags: &Flags) -> Result<Configuration> {
        let mut config = match flags.opt("config") {
            Some(path) => component::config::load(path, API_VERSION, "KubeSchedulerConfiguration")?,
            None => Configuration::default(),
        };
        if flags.opt("config").is_none() {
            config.client_connection.qps = flags.float("kube-api-qps");
            config.client_connection.burst =
                u32::try_from(flags.int("kube-api-burst")).context("--kube-api-burst")?;
        }
        if let Some(path) = flags.opt("kubeconfig") {
            config.client_connection.kubeconfig = path.to_owned();
        }
        config.leader_election.overlay(flags);
        config.validate()?;
        Ok(config)
    }

    fn validate(&self) -> Result<()> {
        ensure!(self.parallelism > 0, "parallelism: must be greater than 0");
        ensure!(!self.profiles.is_empty(), "profiles: at least one is needed");
        ensure!(self.pod_initial_backoff_seconds > 0, "podInitialBackoffSeconds: must be greater than 0");
        ensure!(
            self.pod_max_backoff_seconds >= self.pod_initial_backoff_seconds,
            "podMaxBackoffSeconds: must be greater than or equal to podInitialBackoffSeconds"
        );
        let percentages = self.profiles.iter().map(|p| p.percentage_of_nodes_to_score);
        for p in percentages.chain([self.percentage_of_nodes_to_score]).flatten() {
            ensure!((0..=100).contains(&p), "percentageOfNodesToScore: must be between 0 and 100");
        }
        let mut names: Vec<&str> = self.profiles.iter().map(|p| p.scheduler_name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        ensure!(names.len() == self.profiles.len(), "profiles: two have the same schedulerName");
        ensure!(
            self.leader_election.resource_lock == "leases",
            "leaderElection.resourceLock: must be leases"
        );
        if !self.extenders.is_empty() {
            bail!("extenders: scheduler extenders are not supported yet");
        }
        Ok(())
    }
}

impl LeaderElection {
    fn overlay(&mut self, flags: &Flags) {
        if flags.is_set("leader-elect") {
            self.leader_elect = flags.bool("leader-elect");
        }
        let texts = [
            ("leader-elect-lease-duration", &mut self.lease_duration),
            ("leader-elect-renew-deadline", &mut self.renew_deadline),
            ("leader-elect-retry-period", &mut self.retry_period),
            ("leader-elect-resource-lock", &mut self.resource_lock),
            ("leader-elect-resource-name", &mut self.resource_name),
            ("leader-elect-resource-namespace", &mut self.resource_namespace),
        ];
        for (flag, slot) in texts {
            if flags.is_set(flag) {
                *slot = flags.str(flag).to_owned();
            }
        }
    }
}

/// A duration in Go's notation.
pub fn duration(text: &str) -> Result<Duration> {
    let nanos = api::time::parse_duration(text).map_err(anyhow::Error::msg)?;
    Ok(Duration::from_nanos(u64::try_from(nanos).context("a duration cannot be negative")?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::{
        node_name::NodeName, priority_sort::PrioritySort, taint_toleration::TaintToleration,
    };

    #[test]
    fn disabling_and_reweighting() {
        let set: PluginSet = serde_json::from_value(serde_json::json!({
            "disabled": [{"name": "A"}], "enabled": [{"name": "B", "weight": 9}, {"name": "C"}],
        }))
        .expect("a set");
        let defaults = [("A".to_owned(), 1), ("B".to_owned(), 1)];
        let list = merge(&defaults, &set, &|_| Ok(true)).expect("merged");
        assert_eq!(list, [("B".to_owned(), 9), ("C".to_owned(), 0)]);
        let none: PluginSet =
            serde_json::from_value(serde_json::json!({"disabled": [{"name": "*"}]})).expect("a set");
        assert!(merge(&defaults, &none, &|_| Ok(true)).expect("merged").is_empty());
    }

    #[test]
    fn points_know_their_plugins() {
        assert!(takes_part(&NodeName, "filter") && !takes_part(&NodeName, "score"));
        assert!(takes_part(&TaintToleration, "score") && takes_part(&PrioritySort, "queueSort"));
    }
}
