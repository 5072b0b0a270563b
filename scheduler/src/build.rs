//! Putting the plugins and profiles together.

use crate::config::{Arguments, Configuration, NOT_YET, ProfileConfig};
use crate::framework::Plugin;
use crate::plugins::balanced_allocation::BalancedAllocation;
use crate::plugins::default_binder::DefaultBinder;
use crate::plugins::default_preemption::DefaultPreemption;
use crate::plugins::image_locality::ImageLocality;
use crate::plugins::inter_pod_affinity::InterPodAffinity;
use crate::plugins::node_affinity::NodeAffinity;
use crate::plugins::node_name::NodeName;
use crate::plugins::node_ports::NodePorts;
use crate::plugins::node_resources_fit::NodeResourcesFit;
use crate::plugins::node_unschedulable::NodeUnschedulable;
use crate::plugins::node_volume_limits::NodeVolumeLimits;
use crate::plugins::pod_topology_spread::{DefaultSelector, PodTopologySpread};
use crate::plugins::priority_sort::PrioritySort;
use crate::plugins::scheduling_gates::SchedulingGates;
use crate::plugins::taint_toleration::TaintToleration;
use crate::plugins::volume_binding::VolumeBinding;
use crate::plugins::volume_restrictions::VolumeRestrictions;
use crate::plugins::volume_zone::VolumeZone;
use crate::pod_info::PodInfo;
use crate::profile::Profile;
use crate::queue::{Limits, Queue};
use crate::views::Views;
use anyhow::{Context, Result};
use client::{Key, Recorder};
use kube::Client;
use scheduling::selector::Selector;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

/// All profiles of a configuration by scheduler name.
pub fn profiles(
    config: &Configuration,
    client: &Client,
    views: &Views,
    recorder: &Recorder,
) -> Result<HashMap<String, Arc<Profile>>> {
    let of = |p: &ProfileConfig| -> Result<(String, Arc<Profile>)> {
        let plugins = plugins(p.arguments()?, client, views, recorder);
        let enabled = p.enabled(&plugins)?;
        let profile = Profile::new(&p.scheduler_name, p.percentage_of_nodes_to_score, &plugins, &enabled);
        Ok((p.scheduler_name.clone(), Arc::new(profile)))
    };
    config.profiles.iter().map(|p| of(p).with_context(|| format!("profile {:?}", p.scheduler_name))).collect()
}

fn plugins(
    args: Arguments,
    client: &Client,
    views: &Views,
    recorder: &Recorder,
) -> BTreeMap<&'static str, Arc<dyn Plugin>> {
    let bind_timeout = Duration::from_secs(args.volume_binding.bind_timeout_seconds);
    let all: Vec<Arc<dyn Plugin>> = vec![
        Arc::new(SchedulingGates),
        Arc::new(PrioritySort),
        Arc::new(NodeUnschedulable),
        Arc::new(NodeName),
        Arc::new(TaintToleration),
        Arc::new(NodeAffinity::new(args.node_affinity.added_affinity.as_ref())),
        Arc::new(NodePorts),
        Arc::new(NodeResourcesFit::new(args.fit)),
        Arc::new(VolumeRestrictions(views.clone())),
        Arc::new(NodeVolumeLimits(views.clone())),
        Arc::new(VolumeBinding::new(client.clone(), views.clone(), bind_timeout)),
        Arc::new(VolumeZone(views.clone())),
        Arc::new(PodTopologySpread::new(args.spread, default_selector(views.clone()))),
        Arc::new(InterPodAffinity(args.inter_pod_affinity)),
        Arc::new(DefaultPreemption::new(args.preemption, client.clone(), views.clone(), recorder.clone())),
        Arc::new(BalancedAllocation(args.balanced)),
        Arc::new(ImageLocality),
        Arc::new(DefaultBinder(client.clone())),
    ];
    debug_assert!(all.iter().all(|p| !NOT_YET.contains(&p.name())));
    all.into_iter().map(|p| (p.name(), p)).collect()
}

/// The group that a pod belongs to by the Services and the owner that select it.
fn default_selector(views: Views) -> DefaultSelector {
    Arc::new(move |pod: &PodInfo| {
        let mut wanted: BTreeMap<String, String> = BTreeMap::new();
        for service in views.services.by_namespace(pod.namespace()) {
            let selector = service.spec.as_ref().and_then(|s| s.selector.as_ref()).filter(|s| !s.is_empty());
            if let Some(selector) = selector.filter(|s| Selector::of_map(s.iter()).matches(pod.labels())) {
                wanted.extend(selector.iter().map(|(k, v)| (k.clone(), v.clone())));
            }
        }
        let owner = owner_selector(&views, pod);
        match (wanted.is_empty(), owner) {
            (true, owner) => owner,
            (false, None) => Some(Selector::of_map(wanted.iter())),
            (false, Some(owner)) => Some(owner.and(&Selector::of_map(wanted.iter()))),
        }
    })
}

fn owner_selector(views: &Views, pod: &PodInfo) -> Option<Selector> {
    let owners = pod.pod.metadata.owner_references.as_deref().unwrap_or_default();
    let owner = owners.iter().find(|o| o.controller == Some(true))?;
    let key = Key::new(pod.namespace(), &owner.name);
    match owner.kind.as_str() {
        "ReplicaSet" => Some(Selector::of(Some(&views.replica_sets.get(&key)?.spec.as_ref()?.selector))),
        "StatefulSet" => Some(Selector::of(Some(&views.stateful_sets.get(&key)?.spec.as_ref()?.selector))),
        "ReplicationController" => {
            let selector = views.controllers.get(&key)?.spec.as_ref()?.selector.clone()?;
            Some(Selector::of_map(selector.iter()))
        }
        _ => None,
    }
}

/// The queue for these profiles; all sort alike, as the configuration demands.
pub fn queue(config: &Configuration, profiles: &HashMap<String, Arc<Profile>>) -> Queue {
    let seconds = |s: i64| Duration::from_secs(u64::try_from(s).unwrap_or(1));
    let limits = Limits {
        initial_backoff: seconds(config.pod_initial_backoff_seconds),
        max_backoff: seconds(config.pod_max_backoff_seconds),
    };
    let events = profiles.values().flat_map(|p| p.events()).collect();
    let any = profiles.values().next().cloned();
    Queue::new(limits, Box::new(move |pod| any.as_ref().map_or(0, |p| p.sort_key(pod))), events)
}
