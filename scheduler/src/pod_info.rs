//! A pod with everything that scheduling asks of it, worked out once.

use k8s_openapi::api::core::v1::{Pod, PodAffinityTerm, WeightedPodAffinityTerm};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use scheduling::affinity::RequiredNodes;
use scheduling::resources::{Resources, pod_requests, pod_requests_non_zero};
use scheduling::selector::{Labels, Selector};
use std::collections::BTreeSet;
use std::sync::Arc;

/// A port that the pod takes on its node's own addresses.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostPort {
    pub ip: String,
    pub protocol: String,
    pub port: i32,
}

impl HostPort {
    /// The unspecified address clashes with every address.
    pub fn conflicts(&self, other: &HostPort) -> bool {
        let any = |h: &HostPort| h.ip == "0.0.0.0";
        self.port == other.port
            && self.protocol == other.protocol
            && (any(self) || any(other) || self.ip == other.ip)
    }
}

/// One (anti-)affinity term: which pods, in which namespaces, by which topology.
#[derive(Clone, Debug)]
pub struct AffinityTerm {
    namespaces: BTreeSet<String>,
    namespace_selector: Option<Selector>,
    selector: Selector,
    pub topology_key: String,
}

impl AffinityTerm {
    fn of(term: &PodAffinityTerm, pod: &Pod) -> AffinityTerm {
        let own = pod.metadata.namespace.clone().unwrap_or_default();
        let mut namespaces: BTreeSet<String> = term.namespaces.iter().flatten().cloned().collect();
        if namespaces.is_empty() && term.namespace_selector.is_none() {
            namespaces.insert(own);
        }
        AffinityTerm {
            namespaces,
            namespace_selector: term.namespace_selector.as_ref().map(|s| Selector::of(Some(s))),
            selector: Selector::of(with_label_keys(term, pod).as_ref()),
            topology_key: term.topology_key.clone(),
        }
    }

    /// `namespace_labels` are those of the other pod's namespace.
    pub fn matches(&self, other: &PodInfo, namespace_labels: &dyn Fn(&str) -> Option<Labels>) -> bool {
        let namespace = self.namespaces.contains(other.namespace())
            || self
                .namespace_selector
                .as_ref()
                .is_some_and(|s| s.is_empty() || s.matches(namespace_labels(other.namespace()).as_ref()));
        namespace && self.selector.matches(other.labels())
    }
}

/// Adds what `matchLabelKeys` and `mismatchLabelKeys` say; the apiserver has usually done so already.
fn with_label_keys(term: &PodAffinityTerm, pod: &Pod) -> Option<LabelSelector> {
    let mut selector = term.label_selector.clone()?;
    let labels = pod.metadata.labels.as_ref();
    let mut add = |key: &String, operator: &str| {
        if let Some(value) = labels.and_then(|l| l.get(key)) {
            let wanted = LabelSelectorRequirement {
                key: key.clone(),
                operator: operator.into(),
                values: Some(vec![value.clone()]),
            };
            let expressions = selector.match_expressions.get_or_insert_default();
            if !expressions.contains(&wanted) {
                expressions.push(wanted);
            }
        }
    };
    term.match_label_keys.iter().flatten().for_each(|k| add(k, "In"));
    term.mismatch_label_keys.iter().flatten().for_each(|k| add(k, "NotIn"));
    Some(selector)
}

/// A pod, its sums and its terms.
#[derive(Clone, Debug)]
pub struct PodInfo {
    pub pod: Arc<Pod>,
    pub requests: Resources,
    pub non_zero_requests: Resources,
    pub host_ports: Vec<HostPort>,
    pub required_nodes: RequiredNodes,
    pub required_affinity: Vec<AffinityTerm>,
    pub required_anti_affinity: Vec<AffinityTerm>,
    pub preferred_affinity: Vec<(i64, AffinityTerm)>,
    pub preferred_anti_affinity: Vec<(i64, AffinityTerm)>,
}

impl PodInfo {
    pub fn new(pod: Arc<Pod>) -> PodInfo {
        let affinity = pod.spec.as_ref().and_then(|s| s.affinity.as_ref());
        let with = affinity.and_then(|a| a.pod_affinity.as_ref());
        let apart = affinity.and_then(|a| a.pod_anti_affinity.as_ref());
        let required = |terms: Option<&Vec<PodAffinityTerm>>| -> Vec<AffinityTerm> {
            terms.into_iter().flatten().map(|t| AffinityTerm::of(t, &pod)).collect()
        };
        let preferred = |terms: Option<&Vec<WeightedPodAffinityTerm>>| -> Vec<(i64, AffinityTerm)> {
            let of = |t: &WeightedPodAffinityTerm| {
                (i64::from(t.weight), AffinityTerm::of(&t.pod_affinity_term, &pod))
            };
            terms.into_iter().flatten().map(of).collect()
        };
        PodInfo {
            requests: pod_requests(&pod),
            non_zero_requests: pod_requests_non_zero(&pod),
            host_ports: host_ports(&pod),
            required_nodes: RequiredNodes::of(&pod),
            required_affinity: required(
                with.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref()),
            ),
            required_anti_affinity: required(
                apart.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref()),
            ),
            preferred_affinity: preferred(
                with.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref()),
            ),
            preferred_anti_affinity: preferred(
                apart.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref()),
            ),
            pod,
        }
    }

    pub fn name(&self) -> &str {
        self.pod.metadata.name.as_deref().unwrap_or("")
    }
    pub fn namespace(&self) -> &str {
        self.pod.metadata.namespace.as_deref().unwrap_or("")
    }
    pub fn uid(&self) -> &str {
        self.pod.metadata.uid.as_deref().unwrap_or("")
    }
    pub fn labels(&self) -> Option<&Labels> {
        self.pod.metadata.labels.as_ref()
    }
    pub fn key(&self) -> String {
        format!("{}/{}", self.namespace(), self.name())
    }
    pub fn priority(&self) -> i32 {
        self.pod.spec.as_ref().and_then(|s| s.priority).unwrap_or(0)
    }
    pub fn node_name(&self) -> Option<&str> {
        self.pod.spec.as_ref()?.node_name.as_deref().filter(|n| !n.is_empty())
    }
    pub fn nominated_node(&self) -> Option<&str> {
        self.pod.status.as_ref()?.nominated_node_name.as_deref().filter(|n| !n.is_empty())
    }
    pub fn scheduler_name(&self) -> &str {
        self.pod.spec.as_ref().and_then(|s| s.scheduler_name.as_deref()).unwrap_or("default-scheduler")
    }
    pub fn deleting(&self) -> bool {
        self.pod.metadata.deletion_timestamp.is_some()
    }
    /// Succeeded or failed: takes nothing from its node any more.
    pub fn finished(&self) -> bool {
        matches!(self.pod.status.as_ref().and_then(|s| s.phase.as_deref()), Some("Succeeded" | "Failed"))
    }
    pub fn has_affinity(&self) -> bool {
        !self.required_affinity.is_empty()
            || !self.required_anti_affinity.is_empty()
            || !self.preferred_affinity.is_empty()
            || !self.preferred_anti_affinity.is_empty()
    }
}

fn host_ports(pod: &Pod) -> Vec<HostPort> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let sidecars = spec.init_containers.iter().flatten().filter(|c| scheduling::resources::is_sidecar(c));
    let ports = spec.containers.iter().chain(sidecars).flat_map(|c| c.ports.iter().flatten());
    ports
        .filter_map(|p| {
            let port = p.host_port.filter(|p| *p > 0)?;
            let ip = p.host_ip.clone().filter(|i| !i.is_empty()).unwrap_or_else(|| "0.0.0.0".into());
            let protocol = p.protocol.clone().filter(|x| !x.is_empty()).unwrap_or_else(|| "TCP".into());
            Some(HostPort { ip, protocol, port })
        })
        .collect()
}

#[cfg(test)]
pub mod testing {
    //! Pods and nodes for tests, from JSON.
    use super::*;
    use k8s_openapi::api::core::v1::Node;
    use serde_json::{Value, json};

    pub fn pod(name: &str, spec: Value) -> PodInfo {
        labelled(name, json!({}), spec)
    }

    pub fn labelled(name: &str, labels: Value, mut spec: Value) -> PodInfo {
        if spec.get("containers").is_none() {
            spec["containers"] = json!([{"name": "c", "image": "i"}]);
        }
        let pod = json!({
            "metadata": {"name": name, "namespace": "default", "uid": name, "labels": labels}, "spec": spec,
        });
        PodInfo::new(Arc::new(serde_json::from_value(pod).expect("a pod")))
    }

    pub fn node(name: &str, labels: Value, spec: Value, allocatable: Value) -> Arc<Node> {
        let node = json!({
            "metadata": {"name": name, "labels": labels}, "spec": spec, "status": {"allocatable": allocatable},
        });
        Arc::new(serde_json::from_value(node).expect("a node"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn host_ports_clash_by_address_protocol_and_number() {
        let port =
            |ip: &str, protocol: &str, port| HostPort { ip: ip.into(), protocol: protocol.into(), port };
        assert!(port("0.0.0.0", "TCP", 80).conflicts(&port("127.0.0.1", "TCP", 80)));
        assert!(!port("10.0.0.1", "TCP", 80).conflicts(&port("127.0.0.1", "TCP", 80)));
        assert!(!port("0.0.0.0", "TCP", 80).conflicts(&port("0.0.0.0", "UDP", 80)));
    }

    #[test]
    fn affinity_terms_default_to_the_own_namespace() {
        let term = json!({"topologyKey": "zone", "labelSelector": {"matchLabels": {"a": "b"}}});
        let p = testing::pod(
            "p",
            json!({"affinity": {"podAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": [term]}}}),
        );
        let other = testing::labelled("q", json!({"a": "b"}), json!({}));
        assert!(p.required_affinity[0].matches(&other, &|_| None));
        let mut elsewhere = (*other.pod).clone();
        elsewhere.metadata.namespace = Some("else".into());
        assert!(!p.required_affinity[0].matches(&PodInfo::new(Arc::new(elsewhere)), &|_| None));
    }
}
