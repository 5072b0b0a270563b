//! Which devices a container gets.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use kubelet_resources::{ContainerKind, ContainerRequest, Hint, Hints, Mask, PodRequest, Provider, Refusal};

use super::{Device, DeviceManager, Given, Inner};
use crate::device_api::{
    AllocateRequest, ContainerAllocateRequest, ContainerAllocateResponse,
    ContainerPreferredAllocationRequest, PreferredAllocationRequest,
};

/// How long a plugin may take to allocate.
const TIMEOUT: Duration = Duration::from_secs(60);
/// The place of devices that are near no NUMA node.
const NOWHERE: i64 = -1;

type Ids = BTreeSet<String>;

/// The device manager as one of those who give resources to pods.
pub struct Allocator {
    /// The manager.
    pub manager: Arc<DeviceManager>,
    /// Containers of the pod that run already, as found after a restart of the kubelet; they keep what they have
    /// although their plugin may not be back yet.
    pub running: Vec<String>,
}

impl Inner {
    fn reusable(&self, uid: &str, resource: &str) -> Ids {
        let (of, reusable) = &self.reusable;
        if of == uid { reusable.get(resource).cloned().unwrap_or_default() } else { Ids::new() }
    }

    fn healthy(&self, resource: &str) -> Ids {
        let devices = self.devices.get(resource).into_iter().flatten();
        devices.filter(|(_, d)| d.healthy).map(|(id, _)| id.clone()).collect()
    }

    fn available(&self, resource: &str) -> Ids {
        let in_use = self.in_use(resource);
        self.healthy(resource).into_iter().filter(|id| !in_use.contains(id)).collect()
    }

    fn has_topology(&self, resource: &str) -> bool {
        self.devices.get(resource).is_some_and(|d| d.values().any(|d| !d.numas.is_empty()))
    }

    fn near(&self, resource: &str, id: &str, mask: Mask) -> bool {
        let device = self.devices.get(resource).and_then(|d| d.get(id));
        device.is_some_and(|d| is_near(d, mask))
    }

    fn had(&self, uid: &str, container: &str, resource: &str) -> Option<Ids> {
        self.given.get(uid)?.get(container)?.get(resource).map(Given::all)
    }

    /// The wishes for `count` devices out of `available`, among which all of `reusable` must be.
    fn make_hints(
        &self,
        resource: &str,
        numas: &[u32],
        available: &Ids,
        reusable: &Ids,
        count: usize,
    ) -> Vec<Hint> {
        let Some(devices) = self.devices.get(resource) else { return Vec::new() };
        let near_some = |n: &u32| devices.values().any(|d| d.numas.contains(&i64::from(*n)));
        let mut nodes: Vec<u32> = numas.iter().copied().filter(near_some).collect();
        if nodes.is_empty() {
            nodes = numas.to_vec();
        }
        let mut smallest = nodes.len();
        let mut fitting = Vec::new();
        for mask in Mask::all_of(&nodes) {
            if devices.values().filter(|d| is_near(d, mask)).count() >= count {
                smallest = smallest.min(mask.count());
            }
            let placed = |id: &&String| devices.get(*id).is_some_and(|d| !d.numas.is_empty());
            if reusable.iter().filter(placed).any(|id| !self.near(resource, id, mask)) {
                continue;
            }
            let usable = available.union(reusable).filter(|id| self.near(resource, id, mask)).count();
            if usable >= count {
                fitting.push(mask);
            }
        }
        let hint = |mask: Mask| Hint { nodes: Some(mask), preferred: mask.count() == smallest };
        fitting.into_iter().map(hint).collect()
    }

    fn hints_for(
        &self,
        numas: &[u32],
        pod: &str,
        had: Option<Ids>,
        resource: &str,
        count: usize,
    ) -> Option<Vec<Hint>> {
        if !self.has_topology(resource) {
            return None;
        }
        if let Some(had) = had.filter(|had| !had.is_empty()) {
            let fits = had.len() == count;
            let none = Ids::new();
            return Some(if fits {
                self.make_hints(resource, numas, &had, &none, count)
            } else {
                Vec::new()
            });
        }
        let (available, reusable) = (self.available(resource), self.reusable(pod, resource));
        if available.union(&reusable).count() < count {
            return Some(Vec::new());
        }
        Some(self.make_hints(resource, numas, &available, &reusable, count))
    }

    /// Available devices near the nodes, away from them, and nowhere.
    fn by_place(&self, resource: &str, hint: Hint, available: &Ids) -> [Ids; 3] {
        let mut out = [Ids::new(), Ids::new(), Ids::new()];
        let mask = hint.nodes.filter(|_| self.has_topology(resource));
        for id in available {
            let numas = self.devices[resource].get(id).map(|d| d.numas.as_slice()).unwrap_or_default();
            let place = match mask {
                None => 2,
                Some(_) if numas.is_empty() => 2,
                Some(mask) => usize::from(!self.near(resource, id, mask)),
            };
            out[place].insert(id.clone());
        }
        out
    }
}

fn is_near(device: &Device, mask: Mask) -> bool {
    device.numas.iter().any(|n| u32::try_from(*n).is_ok_and(|n| mask.has(n)))
}

/// Takes ids from `from` until `chosen` has `count`.
fn fill(chosen: &mut Ids, from: impl IntoIterator<Item = String>, count: usize) {
    for id in from {
        if chosen.len() >= count {
            return;
        }
        chosen.insert(id);
    }
}

impl DeviceManager {
    /// The devices to allocate; none if the container has them already.
    async fn choose(
        &self,
        pod: &PodRequest,
        container: &ContainerRequest,
        resource: &str,
        count: usize,
        hint: Hint,
        running: bool,
    ) -> Result<Ids, String> {
        let (mut chosen, places, available) = {
            let inner = self.inner.lock();
            let had = inner.had(&pod.uid, &container.name, resource);
            if let Some(had) = had.as_ref().filter(|had| had.len() != count) {
                return Err(format!(
                    "pod {:?} container {:?} changed request for resource {resource:?} from {} to {count}",
                    pod.uid,
                    container.name,
                    had.len()
                ));
            }
            if running && had.is_some() {
                return Ok(Ids::new());
            }
            if !inner.devices.contains_key(resource) {
                return Err(format!("cannot allocate unregistered device {resource}"));
            }
            let healthy = inner.healthy(resource);
            if healthy.is_empty() {
                return Err(format!(
                    "no healthy devices present; cannot allocate unhealthy devices {resource}"
                ));
            }
            if let Some(had) = had {
                return match had.is_subset(&healthy) {
                    true => Ok(Ids::new()),
                    false => Err(format!(
                        "previously allocated devices are no longer healthy; cannot allocate unhealthy devices {resource}"
                    )),
                };
            }
            let mut chosen = Ids::new();
            fill(&mut chosen, inner.reusable(&pod.uid, resource), count);
            if chosen.len() == count {
                return Ok(chosen);
            }
            let available = inner.available(resource);
            let needed = count - chosen.len();
            if available.len() < needed {
                return Err(format!(
                    "requested number of devices unavailable for {resource}. Requested: {needed}, Available: {}",
                    available.len()
                ));
            }
            (chosen, inner.by_place(resource, hint, &available), available)
        };
        let [near, away, nowhere] = places;
        let needed = count - chosen.len();
        let pool = if needed < near.len() { near.clone() } else { available };
        if needed >= near.len() {
            fill(&mut chosen, near.iter().cloned(), count);
        }
        if chosen.len() < count {
            let offered: Ids = pool.union(&chosen).cloned().collect();
            let preferred = self.ask_preferred(resource, &offered, &chosen, count).await?;
            fill(&mut chosen, preferred.into_iter().filter(|id| pool.contains(id)), count);
        }
        fill(&mut chosen, near.into_iter().chain(away).chain(nowhere), count);
        Ok(chosen)
    }

    async fn ask_preferred(
        &self,
        resource: &str,
        available: &Ids,
        must: &Ids,
        count: usize,
    ) -> Result<Vec<String>, String> {
        let endpoint = self.inner.lock().endpoints.get(resource).cloned();
        let Some(endpoint) = endpoint.filter(|e| e.options.get_preferred_allocation_available) else {
            return Ok(Vec::new());
        };
        let Some(mut client) = endpoint.client else { return Ok(Vec::new()) };
        let request = PreferredAllocationRequest {
            container_requests: vec![ContainerPreferredAllocationRequest {
                available_device_i_ds: available.iter().cloned().collect(),
                must_include_device_i_ds: must.iter().cloned().collect(),
                allocation_size: i32::try_from(count).unwrap_or(i32::MAX),
            }],
        };
        let reply = tokio::time::timeout(TIMEOUT, client.get_preferred_allocation(request)).await;
        let failed = |e: &str| format!("device plugin GetPreferredAllocation rpc failed with err: {e}");
        match reply {
            Err(_) => Err(failed("context deadline exceeded")),
            Ok(Err(status)) => Err(failed(&words(&status))),
            Ok(Ok(reply)) => {
                let first = reply.into_inner().container_responses.into_iter().next();
                Ok(first.map(|r| r.device_i_ds).unwrap_or_default())
            }
        }
    }

    async fn call_allocate(&self, resource: &str, ids: &Ids) -> Result<ContainerAllocateResponse, String> {
        let endpoint = self.inner.lock().endpoints.get(resource).cloned();
        let client = endpoint.and_then(|e| e.client);
        let mut client = client.ok_or_else(|| format!("unknown Device Plugin {resource}"))?;
        let devices_ids = ids.iter().cloned().collect();
        let request = AllocateRequest { container_requests: vec![ContainerAllocateRequest { devices_ids }] };
        let reply = tokio::time::timeout(TIMEOUT, client.allocate(request)).await;
        let reply = reply.map_err(|_| "context deadline exceeded")?.map_err(|s| words(&s))?.into_inner();
        reply
            .container_responses
            .into_iter()
            .next()
            .ok_or_else(|| "no containers return in allocation response".to_string())
    }

    fn note(
        &self,
        pod: &PodRequest,
        container: &ContainerRequest,
        resource: &str,
        ids: Ids,
        response: ContainerAllocateResponse,
    ) {
        let mut inner = self.inner.lock();
        let mut by_numa: BTreeMap<i64, Vec<String>> = BTreeMap::new();
        for id in ids {
            let device = inner.devices.get(resource).and_then(|d| d.get(&id));
            let numas = device.map(|d| d.numas.clone()).filter(|n| !n.is_empty());
            for numa in numas.unwrap_or_else(|| vec![NOWHERE]) {
                by_numa.entry(numa).or_default().push(id.clone());
            }
        }
        let given = Given { ids: by_numa, response };
        let containers = inner.given.entry(pod.uid.clone()).or_default();
        containers.entry(container.name.clone()).or_default().insert(resource.into(), given);
        self.save(&inner);
    }

    /// What init containers leave can be used by those after them; what lasts cannot.
    fn note_reuse(&self, pod: &PodRequest, container: &ContainerRequest) {
        let mut inner = self.inner.lock();
        let had: Vec<(String, Ids)> = inner
            .given
            .get(&pod.uid)
            .and_then(|c| c.get(&container.name))
            .map(|r| r.iter().map(|(name, given)| (name.clone(), given.all())).collect())
            .unwrap_or_default();
        if inner.reusable.0 != pod.uid {
            inner.reusable = (pod.uid.clone(), BTreeMap::new());
        }
        for (resource, ids) in had {
            let left = inner.reusable.1.entry(resource).or_default();
            match container.kind {
                ContainerKind::Init => left.extend(ids),
                _ => left.retain(|id| !ids.contains(id)),
            }
        }
    }
}

/// A failed call in the words of gRPC's Go library.
fn words(status: &tonic::Status) -> String {
    format!("rpc error: code = {:?} desc = {}", status.code(), status.message())
}

#[async_trait]
impl Provider for Allocator {
    fn hints(&mut self, pod: &PodRequest, container: &ContainerRequest) -> Hints {
        let inner = self.manager.inner.lock();
        let known = container.others.iter().filter(|(name, n)| **n > 0 && inner.devices.contains_key(*name));
        let of = |(resource, count): (&String, &u64)| {
            let had = inner.had(&pod.uid, &container.name, resource);
            let count = usize::try_from(*count).unwrap_or(usize::MAX);
            (resource.clone(), inner.hints_for(&self.manager.numas, &pod.uid, had, resource, count))
        };
        known.map(of).collect()
    }

    fn pod_hints(&mut self, pod: &PodRequest) -> Hints {
        let inner = self.manager.inner.lock();
        let mut out = Hints::new();
        for resource in inner.devices.keys() {
            let count = pod.peak(|c| c.others.get(resource).copied().unwrap_or(0));
            let count = usize::try_from(count).unwrap_or(usize::MAX);
            if count > 0 {
                let had: Ids = pod
                    .containers
                    .iter()
                    .filter_map(|c| inner.had(&pod.uid, &c.name, resource))
                    .flatten()
                    .collect();
                out.insert(
                    resource.clone(),
                    inner.hints_for(&self.manager.numas, &pod.uid, Some(had), resource, count),
                );
            }
        }
        out
    }

    async fn allocate(
        &mut self,
        pod: &PodRequest,
        container: &ContainerRequest,
        hint: Hint,
    ) -> Result<(), Refusal> {
        let running = self.running.contains(&container.name);
        for (resource, count) in container.others.iter().filter(|(_, n)| **n > 0) {
            if !self.manager.knows(resource) {
                continue;
            }
            let count = usize::try_from(*count).unwrap_or(usize::MAX);
            let ids = self.manager.choose(pod, container, resource, count, hint, running).await;
            let ids = ids.map_err(Refusal::unexpected)?;
            if ids.is_empty() {
                continue;
            }
            let response = self.manager.call_allocate(resource, &ids).await.map_err(Refusal::unexpected)?;
            self.manager.note(pod, container, resource, ids, response);
        }
        self.manager.note_reuse(pod, container);
        Ok(())
    }
}
