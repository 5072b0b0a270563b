//! What a Service selects: its pods, its ports on each of them, its address families.

use std::sync::Arc;

use controller_kit::claim::claim_may_change;
use controller_kit::meta::{Labels, MetaExt};
use controller_kit::{Change, Key, Queue, Shared, pod};
use k8s_openapi::api::core::v1::{Container, ContainerPort, Pod, Service, ServicePort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// The selector, compiled; `None` for a Service whose endpoints someone else writes.
pub(crate) fn selector(service: &Service) -> Option<Labels> {
    let spec = service.spec.as_ref()?;
    if spec.type_.as_deref() == Some("ExternalName") {
        return None;
    }
    spec.selector.as_ref().filter(|s| !s.is_empty()).map(Labels::exact)
}

/// Whether the Service has no cluster address of its own.
pub(crate) fn headless(service: &Service) -> bool {
    service.spec.as_ref().and_then(|s| s.cluster_ip.as_deref()) == Some("None")
}

/// The address families to publish, `IPv4` and `IPv6` as EndpointSlices spell them.
pub(crate) fn families(service: &Service) -> Vec<&'static str> {
    let spec = service.spec.as_ref();
    let listed = spec.and_then(|s| s.ip_families.clone()).unwrap_or_default();
    if listed.is_empty() {
        let v6 = spec.and_then(|s| s.cluster_ip.as_deref()).is_some_and(|ip| ip.contains(':'));
        return vec![if v6 { "IPv6" } else { "IPv4" }];
    }
    listed.iter().map(|f| if f == "IPv6" { "IPv6" } else { "IPv4" }).collect()
}

/// The pod's address of a family.
pub(crate) fn address(pod: &Pod, family: &str) -> Option<String> {
    let status = pod.status.as_ref()?;
    let listed = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str());
    let mut all = listed.chain(status.pod_ip.as_deref()).filter(|ip| !ip.is_empty());
    all.find(|ip| ip.contains(':') == (family == "IPv6")).map(str::to_owned)
}

/// Whether the pod can have an endpoint: it has an address and has not ended.
pub(crate) fn serves(pod: &Pod) -> bool {
    let has_ip = pod.status.as_ref().and_then(|s| s.pod_ip.as_deref()).is_some_and(|ip| !ip.is_empty());
    has_ip && !pod::finished(pod)
}

/// The port number behind a service port on this pod; a name that no container has gives none.
pub(crate) fn target_port(pod: &Pod, port: &ServicePort) -> Option<i32> {
    match &port.target_port {
        None => Some(port.port),
        Some(IntOrString::Int(0)) => Some(port.port),
        Some(IntOrString::Int(n)) => Some(*n),
        Some(IntOrString::String(name)) if name.is_empty() => Some(port.port),
        Some(IntOrString::String(name)) => {
            let spec = pod.spec.as_ref()?;
            let sidecar = |c: &&Container| c.restart_policy.as_deref() == Some("Always");
            let containers =
                spec.containers.iter().chain(spec.init_containers.iter().flatten().filter(sidecar));
            let matches = |p: &&ContainerPort| {
                p.name.as_deref() == Some(name.as_str())
                    && p.protocol.as_deref().unwrap_or("TCP") == port.protocol.as_deref().unwrap_or("TCP")
            };
            containers.flat_map(|c| c.ports.iter().flatten()).find(matches).map(|p| p.container_port)
        }
    }
}

/// Whether the pod is to be found under its own host name below the Service's.
pub(crate) fn hostname(pod: &Pod, service: &Service) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let host = spec.hostname.as_ref().filter(|h| !h.is_empty())?;
    (spec.subdomain.as_deref() == Some(service.name()) && pod.ns() == service.ns()).then(|| host.clone())
}

/// Enqueues the Services that select a pod, before or after a change that endpoints show.
pub(crate) fn wake_for_pod(queue: &Queue, services: &Shared<Service>, change: &Change<Pod>) {
    let pod = change.object();
    if let Some(old) = change.old()
        && !claim_may_change(Some(old), &**pod)
        && !endpoint_changed(old, pod)
    {
        return;
    }
    for service in services.namespace(pod.ns()) {
        let Some(selector) = selector(&service) else { continue };
        let was = change.old().is_some_and(|old| selector.matches(old.metadata.labels.as_ref()));
        if was || selector.matches(pod.metadata.labels.as_ref()) {
            queue.add(service.key());
        }
    }
}

fn endpoint_changed(old: &Pod, new: &Pod) -> bool {
    let ips = |p: &Pod| p.status.as_ref().map(|s| (s.pod_ip.clone(), s.pod_ips.clone()));
    ips(old) != ips(new)
        || pod::ready(old) != pod::ready(new)
        || old.deleting() != new.deleting()
        || pod::finished(old) != pod::finished(new)
        || pod::node(old) != pod::node(new)
        || old.spec.as_ref().map(|s| (&s.hostname, &s.subdomain))
            != new.spec.as_ref().map(|s| (&s.hostname, &s.subdomain))
}

/// The pods a Service selects.
pub(crate) fn pods(service: &Service, selector: &Labels, pods: &Shared<Pod>) -> Vec<Arc<Pod>> {
    let all = pods.namespace(service.ns());
    all.into_iter().filter(|p| selector.matches(p.metadata.labels.as_ref())).collect()
}

/// The key of a Service by the label that its slices carry.
pub(crate) fn by_label<K: kube::Resource>(object: &K) -> Option<Key> {
    Some(Key::new(object.ns(), object.label("kubernetes.io/service-name")?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn ports_are_found_by_number_or_name_and_protocol() {
        let pod: Pod = serde_json::from_value(json!({"spec": {"containers": [{"name": "c", "ports": [
            {"name": "dns", "containerPort": 53, "protocol": "UDP"}, {"name": "web", "containerPort": 8080}]}],
            "initContainers": [{"name": "s", "restartPolicy": "Always", "ports": [{"name": "side", "containerPort": 99}]}]}}))
        .unwrap();
        for (port, want) in [
            (json!({"port": 80}), Some(80)),
            (json!({"port": 80, "targetPort": 81}), Some(81)),
            (json!({"port": 80, "targetPort": "web"}), Some(8080)),
            (json!({"port": 53, "targetPort": "dns"}), None),
            (json!({"port": 53, "targetPort": "dns", "protocol": "UDP"}), Some(53)),
            (json!({"port": 80, "targetPort": "side"}), Some(99)),
        ] {
            assert_eq!(target_port(&pod, &serde_json::from_value(port.clone()).unwrap()), want, "{port}");
        }
    }

    #[test]
    fn addresses_by_family() {
        let pod: Pod = serde_json::from_value(json!({"status": {"podIP": "10.0.0.1",
            "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]}}))
        .unwrap();
        assert_eq!(address(&pod, "IPv6").as_deref(), Some("fd00::1"));
        assert_eq!(address(&pod, "IPv4").as_deref(), Some("10.0.0.1"));
    }
}
