//! The features of this kubelet that the scheduler and admission ask for before they let pods use them, and the pods
//! that need one which is not there.

use std::collections::BTreeMap;

use component::gates::Gates;
use k8s_openapi::api::core::v1::Pod;

use crate::kubelet::RuntimeInfo;
use crate::pod::{self, PodExt};

/// Their gates, in the order of their names.
const FEATURES: [&str; 4] = [
    "ExtendWebSocketsToKubelet",
    "InPlacePodLevelResourcesVerticalScaling",
    "InPlacePodVerticalScalingInitContainers",
    RESTART_ALL,
];

const RESTART_ALL: &str = "RestartAllContainersOnContainerExits";
/// Only with a runtime that can: containerd from 2.3 on.
const USERNS_ON_HOST_NETWORK: &str = "UserNamespacesHostNetworkSupport";

/// The features to declare; `None` where they are not to be declared at all.
pub fn features(set: &BTreeMap<String, bool>, runtime: &RuntimeInfo) -> Option<Vec<String>> {
    let gates = Gates::default().with(set).unwrap_or_default();
    let all = FEATURES.into_iter().chain([USERNS_ON_HOST_NETWORK]);
    let on = all.filter(|feature| is_there(&gates, runtime, feature)).map(str::to_string);
    gates.enabled("NodeDeclaredFeatures").then(|| on.collect())
}

fn is_there(gates: &Gates, runtime: &RuntimeInfo, feature: &str) -> bool {
    gates.enabled(feature) && (feature != USERNS_ON_HOST_NETWORK || runtime.user_namespaces_host_network)
}

/// What a pod needs to run and this kubelet has not declared.
pub fn missing(gates: &Gates, runtime: &RuntimeInfo, pod: &Pod) -> Vec<&'static str> {
    if !gates.enabled("NodeDeclaredFeatures") {
        return Vec::new();
    }
    let spec = pod.spec();
    let mut containers = spec.containers.iter().chain(pod.init_containers());
    let restarts_all = containers
        .any(|c| c.restart_policy_rules.iter().flatten().any(|rule| rule.action == "RestartAllContainers"));
    let host_userns = spec.host_network == Some(true) && spec.host_users == Some(false);
    let needs = [(RESTART_ALL, restarts_all), (USERNS_ON_HOST_NETWORK, host_userns)];
    let needs = needs.into_iter().filter(|(_, needed)| *needed).map(|(name, _)| name);
    needs.filter(|name| !is_there(gates, runtime, name)).collect()
}

/// What a change of a pod needs and this kubelet has not declared.
pub fn missing_for_update(gates: &Gates, before: &Pod, now: &Pod) -> Vec<&'static str> {
    if !gates.enabled("NodeDeclaredFeatures") {
        return Vec::new();
    }
    let of_pod = before.spec().resources != now.spec().resources;
    let init = before.init_containers().iter().zip(now.init_containers());
    let of_init = init.into_iter().any(|(a, b)| !pod::is_sidecar(a) && a.resources != b.resources);
    let needs = [(FEATURES[1], of_pod), (FEATURES[2], of_init)];
    let needs = needs.into_iter().filter(|(_, needed)| *needed).map(|(name, _)| name);
    needs.filter(|name| !gates.enabled(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn gates_decide() {
        let old = RuntimeInfo::default();
        let with = |gate: &str, on| features(&BTreeMap::from([(gate.to_string(), on)]), &old);
        assert!(features(&BTreeMap::new(), &old).unwrap().contains(&FEATURES[3].to_string()));
        assert!(!with(FEATURES[3], false).unwrap().contains(&FEATURES[3].to_string()));
        let host = USERNS_ON_HOST_NETWORK.to_string();
        let new = RuntimeInfo { user_namespaces_host_network: true, ..old.clone() };
        assert!(!with(&host, true).unwrap().contains(&host), "the runtime cannot");
        assert!(!features(&BTreeMap::new(), &new).unwrap().contains(&host), "the gate is off");
        assert!(features(&BTreeMap::from([(host.clone(), true)]), &new).unwrap().contains(&host));
        // What needs it goes with it.
        let needing = ["ExtendWebSocketsToKubelet", RESTART_ALL, FEATURES[1]];
        let needing =
            needing.into_iter().chain(["InPlacePodVerticalScalingInitContainers", "NodeDeclaredFeatures"]);
        assert_eq!(features(&needing.map(|gate| (gate.to_string(), false)).collect(), &old), None);
    }

    #[test]
    fn pods_that_need_what_is_not_there() {
        let gates =
            |on: bool| Gates::default().with(&BTreeMap::from([(RESTART_ALL.to_string(), on)])).unwrap();
        let pod = |spec: serde_json::Value| -> Pod { serde_json::from_value(json!({"spec": spec})).unwrap() };
        let old = RuntimeInfo::default();
        let rules = pod(json!({"containers": [{"name": "c", "restartPolicyRules": [
            {"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [1]}}]}]}));
        assert!(missing(&gates(true), &old, &rules).is_empty());
        assert_eq!(missing(&gates(false), &old, &rules), [RESTART_ALL]);
        let host = pod(json!({"hostNetwork": true, "hostUsers": false, "containers": []}));
        assert_eq!(missing(&gates(true), &old, &host), [USERNS_ON_HOST_NETWORK]);
        let sized = |cpu: &str| pod(json!({"resources": {"limits": {"cpu": cpu}}, "containers": []}));
        let off = Gates::default().with(&BTreeMap::from([(FEATURES[1].to_string(), false)])).unwrap();
        assert_eq!(missing_for_update(&off, &sized("1"), &sized("2")), [FEATURES[1]]);
        assert!(missing_for_update(&off, &sized("1"), &sized("1")).is_empty());
    }
}
