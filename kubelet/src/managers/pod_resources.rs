//! What the pod resources API tells: which container has which devices, CPUs and memory.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, Pod};
use kubelet_plugins::devices::{Device, Given};
use kubelet_plugins::pod_resources::{self, Source};
use kubelet_plugins::pod_resources_api::{
    AllocatableResourcesResponse, CdiDevice, ClaimResource, ContainerDevices, ContainerMemory,
    ContainerResources, DynamicResource, NumaNode, PodResources, TopologyInfo,
};
use kubelet_resources::memory::Block;
use tokio_util::sync::CancellationToken;

use crate::kubelet::Kubelet;
use crate::pod::{self, PodExt};

/// Serves the API until the shutdown.
pub async fn serve(kubelet: Arc<Kubelet>, shutdown: CancellationToken) {
    let socket = kubelet.root.join("pod-resources/kubelet.sock");
    if let Err(error) = pod_resources::serve(&socket, Arc::new(Teller(kubelet)), shutdown).await {
        tracing::error!(socket = %socket.display(), error, "Cannot serve the pod resources API");
    }
}

struct Teller(Arc<Kubelet>);

impl Teller {
    fn container(&self, pod: &Pod, container: &Container) -> ContainerResources {
        let managers = &self.0.managers;
        let mut devices = Vec::new();
        for (resource, given) in managers.devices.of_container(pod.uid(), &container.name) {
            devices.extend(of_given(&resource, &given));
        }
        let cpus = managers.cpus.as_ref();
        let cpu_ids = cpus.and_then(|c| {
            let cpus = c.lock();
            Some(cpus.exclusive(pod.uid(), &container.name)?.iter().map(i64::from).collect())
        });
        let memory = managers.memory.as_ref();
        let memory =
            memory.map(|m| m.lock().of_container(pod.uid(), &container.name).iter().map(block).collect());
        ContainerResources {
            name: container.name.clone(),
            devices,
            cpu_ids: cpu_ids.unwrap_or_default(),
            memory: memory.unwrap_or_default(),
            dynamic_resources: self.dynamic(pod, container),
        }
    }
}

impl Teller {
    /// What drivers have prepared of the claims that a container uses.
    fn dynamic(&self, pod: &Pod, container: &Container) -> Vec<DynamicResource> {
        let claims = container.resources.iter().flat_map(|r| r.claims.iter().flatten());
        let names = crate::claims::names(pod).unwrap_or_default();
        let of = |claim: &k8s_openapi::api::core::v1::ResourceClaim| {
            let (_, name) = names.iter().find(|(own, _)| *own == claim.name)?;
            let state = self.0.drivers.state(pod.namespace(), name)?;
            let mut resources = Vec::new();
            for (driver, devices) in state.drivers {
                resources.extend(devices.into_iter().map(|d| ClaimResource {
                    cdi_devices: d.cdi_ids.into_iter().map(|name| CdiDevice { name }).collect(),
                    driver_name: driver.clone(),
                    pool_name: d.pool,
                    device_name: d.name,
                    share_id: d.share,
                }));
            }
            Some(DynamicResource {
                claim_name: name.clone(),
                claim_namespace: pod.namespace().into(),
                claim_resources: resources,
            })
        };
        claims.filter_map(of).collect()
    }
}

impl Source for Teller {
    fn asked(&self, version: &'static str, what: &'static str, failed: bool) {
        crate::metrics::node::pod_resources_asked(version, what, failed);
    }

    fn pods(&self) -> Vec<PodResources> {
        let of_pod = |pod: Arc<Pod>| {
            let sidecars = pod.init_containers().iter().filter(|c| pod::is_sidecar(c));
            let all = sidecars.chain(&pod.spec().containers);
            PodResources {
                name: pod.name().into(),
                namespace: pod.namespace().into(),
                containers: all.map(|c| self.container(&pod, c)).collect(),
            }
        };
        self.0.pods.active().into_iter().map(of_pod).collect()
    }

    fn allocatable(&self) -> AllocatableResourcesResponse {
        let managers = &self.0.managers;
        let devices = managers.devices.allocatable().into_iter().flat_map(|(resource, devices)| {
            devices.into_iter().map(move |(id, device)| of_device(&resource, id, &device))
        });
        let cpus = managers.cpus.as_ref().map(|c| c.lock().allocatable());
        let memory = managers.memory.as_ref().map(|m| m.lock().allocatable());
        AllocatableResourcesResponse {
            devices: devices.collect(),
            cpu_ids: cpus.iter().flat_map(|c| c.iter()).map(i64::from).collect(),
            memory: memory.iter().flatten().map(block).collect(),
        }
    }
}

fn topology(numas: &[i64]) -> Option<TopologyInfo> {
    let nodes: Vec<NumaNode> = numas.iter().filter(|n| **n >= 0).map(|id| NumaNode { id: *id }).collect();
    (!nodes.is_empty()).then_some(TopologyInfo { nodes })
}

/// One entry a device, as upstream has it.
fn of_given(resource: &str, given: &Given) -> Vec<ContainerDevices> {
    let mut numas: BTreeMap<&str, Vec<i64>> = BTreeMap::new();
    for (numa, ids) in &given.ids {
        for id in ids {
            numas.entry(id).or_default().push(*numa);
        }
    }
    let entry = |(id, numas): (&str, Vec<i64>)| ContainerDevices {
        resource_name: resource.into(),
        device_ids: vec![id.into()],
        topology: topology(&numas),
    };
    numas.into_iter().map(entry).collect()
}

fn of_device(resource: &str, id: String, device: &Device) -> ContainerDevices {
    ContainerDevices {
        resource_name: resource.into(),
        device_ids: vec![id],
        topology: topology(&device.numas),
    }
}

fn block(block: &Block) -> ContainerMemory {
    let numas: Vec<i64> = block.nodes.iter().copied().map(i64::from).collect();
    ContainerMemory { memory_type: block.resource.clone(), size: block.size, topology: topology(&numas) }
}
