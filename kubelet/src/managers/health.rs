//! How the devices are that containers have, as pods' statuses show it.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodStatus, ResourceHealth, ResourceStatus};
use tokio_util::sync::CancellationToken;

use crate::kubelet::Kubelet;
use crate::pod::PodExt;

/// Shows in a status how the devices of the pod's containers are.
pub fn show(kubelet: &Kubelet, pod: &Pod, status: &mut PodStatus) {
    if !kubelet.gates.enabled("ResourceHealthStatus") {
        return;
    }
    for container in status.container_statuses.iter_mut().flatten() {
        let mut all = devices(kubelet, pod, container);
        all.extend(claims(kubelet, pod, container));
        container.allocated_resources_status = (!all.is_empty()).then_some(all);
    }
}

fn devices(kubelet: &Kubelet, pod: &Pod, container: &ContainerStatus) -> Vec<ResourceStatus> {
    let of = |(resource, devices): (String, Vec<(String, bool)>)| {
        let health = |(id, fine): (String, bool)| ResourceHealth {
            resource_id: id,
            health: Some(if fine { "Healthy" } else { "Unhealthy" }.into()),
            ..Default::default()
        };
        ResourceStatus { name: resource, resources: Some(devices.into_iter().map(health).collect()) }
    };
    kubelet.managers.devices.health(pod.uid(), &container.name).into_iter().map(of).collect()
}

fn claims(kubelet: &Kubelet, pod: &Pod, container: &ContainerStatus) -> Vec<ResourceStatus> {
    let spec = pod.spec().containers.iter().find(|c| c.name == container.name);
    let used = spec.and_then(|c| c.resources.as_ref()?.claims.as_deref()).unwrap_or_default();
    let names = if used.is_empty() { Vec::new() } else { crate::claims::names(pod).unwrap_or_default() };
    let told = kubelet.gates.enabled("ResourceHealthStatusMessage");
    let mut out = Vec::new();
    for claim in used {
        let Some((_, name)) = names.iter().find(|(own, _)| *own == claim.name) else { continue };
        let Some(state) = kubelet.drivers.state(pod.namespace(), name) else { continue };
        let request = claim.request.as_deref().unwrap_or_default();
        let mut found: BTreeMap<String, ResourceHealth> = BTreeMap::new();
        for (driver, device) in state.drivers.iter().flat_map(|(d, list)| list.iter().map(move |x| (d, x))) {
            if !request.is_empty()
                && !device.requests.is_empty()
                && !device.requests.iter().any(|r| r == request)
            {
                continue;
            }
            let (health, message) = kubelet.drivers.health.of(driver, &device.pool, &device.name);
            let id = device.cdi_ids.first().cloned();
            let id = id.unwrap_or_else(|| format!("{driver}/{}/{}", device.pool, device.name));
            let message = message.filter(|_| told);
            found.entry(id.clone()).or_insert(ResourceHealth {
                resource_id: id,
                health: Some(health.into()),
                message,
            });
        }
        let name = match request {
            "" => format!("claim:{}", claim.name),
            request => format!("claim:{}/{request}", claim.name),
        };
        if !found.is_empty() {
            out.push(ResourceStatus { name, resources: Some(found.into_values().collect()) });
        }
    }
    out
}

/// Wakes the pods that have devices whenever the health of any changes.
pub async fn watch(kubelet: Weak<Kubelet>, shutdown: CancellationToken) {
    loop {
        let Some(kubelet) = kubelet.upgrade() else { return };
        let (devices, drivers) = (kubelet.managers.devices.clone(), kubelet.drivers.clone());
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = devices.health_changed.notified() => {}
            () = drivers.health.changed.notified() => {}
        }
        let claiming = drivers.pods();
        for pod in kubelet.pods.active() {
            let uid = Arc::as_ref(&pod).uid();
            if devices.has_any(uid) || claiming.contains(uid) {
                kubelet.pods.wake(uid);
            }
        }
    }
}
