//! Claims of dynamic resources: which a pod has, making drivers prepare them, and clearing away what drivers that are
//! gone have told of this node.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceSlice};
use kube::api::{Api, DeleteParams, ListParams};
use kubelet_plugins::dra::Claim;
use kubelet_plugins::{Handler, PluginInfo};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::kubelet::Kubelet;
use crate::pod::PodExt;

/// How long a driver may be away before what it told of the node's devices is deleted.
const WIPE_AFTER: Duration = Duration::from_secs(30);

/// The names of the claims of a pod, by the pod's own name for each.
pub fn names(pod: &Pod) -> Result<Vec<(String, String)>, String> {
    let statuses = pod.status.iter().flat_map(|s| s.resource_claim_statuses.iter().flatten());
    let mut out = Vec::new();
    for claim in pod.spec().resource_claims.iter().flatten() {
        if let Some(name) = &claim.resource_claim_name {
            out.push((claim.name.clone(), name.clone()));
            continue;
        }
        let Some(made) = statuses.clone().find(|s| s.name == claim.name) else {
            return Err(format!(
                "pod \"{}/{}\": pod claim {}: resource claim not created yet",
                pod.namespace(),
                pod.name(),
                claim.name
            ));
        };
        // One that nobody needed to make has no name.
        out.extend(made.resource_claim_name.clone().map(|name| (claim.name.clone(), name)));
    }
    Ok(out)
}

/// The claim that stands for extended resources of a pod.
fn of_extended(pod: &Pod) -> Option<&str> {
    let status = pod.status.as_ref()?.extended_resource_claim_status.as_ref()?;
    Some(&status.resource_claim_name)
}

/// Makes drivers prepare what a pod claims. Costs nothing for pods without claims.
pub async fn prepare(kubelet: &Kubelet, pod: &Pod) -> Result<(), String> {
    let mut wanted: Vec<String> = names(pod)?.into_iter().map(|(_, claim)| claim).collect();
    wanted.extend(of_extended(pod).map(str::to_string));
    if wanted.is_empty() {
        return Ok(());
    }
    let client = kubelet.client.clone().ok_or("no apiserver to read ResourceClaims from")?;
    let api: Api<ResourceClaim> = Api::namespaced(client, pod.namespace());
    let mut claims = Vec::new();
    for name in wanted {
        let claim = api
            .get(&name)
            .await
            .map_err(|e| format!("fetch ResourceClaim {name}: {}", crate::objects::words(&e)))?;
        claims.push(allocated(pod, &name, claim)?);
    }
    let began = std::time::Instant::now();
    let done = kubelet.drivers.prepare(pod.uid(), &claims).await;
    crate::metrics::node::claims("PrepareResources", done.is_ok(), began.elapsed());
    done.map_err(|e| format!("prepare dynamic resources: {e}"))
}

fn allocated(pod: &Pod, name: &str, claim: ResourceClaim) -> Result<Claim, String> {
    let uid = claim.metadata.uid.unwrap_or_default();
    let status = claim.status.unwrap_or_default();
    if !status.reserved_for.iter().flatten().any(|r| r.uid == pod.uid()) {
        let (pod_name, pod_uid) = (pod.name(), pod.uid());
        return Err(format!("pod {pod_name} ({pod_uid}) is not allowed to use ResourceClaim {name} ({uid})"));
    }
    let allocation =
        status.allocation.ok_or_else(|| format!("ResourceClaim {name}: claim is not allocated"))?;
    let results = allocation.devices.and_then(|d| d.results).unwrap_or_default();
    Ok(Claim {
        uid,
        name: name.to_string(),
        namespace: pod.namespace().to_string(),
        drivers: results.into_iter().map(|r| r.driver).collect(),
    })
}

/// The CDI devices of a container.
pub fn cdi_devices(kubelet: &Kubelet, pod: &Pod, container: &Container) -> Result<Vec<String>, String> {
    let resources = container.resources.as_ref();
    let claims = resources.and_then(|r| r.claims.as_deref()).unwrap_or_default();
    let mut out = Vec::new();
    if !claims.is_empty() {
        let names = names(pod)?;
        for claim in claims {
            let Some((_, name)) = names.iter().find(|(own, _)| *own == claim.name) else { continue };
            let request = claim.request.as_deref().unwrap_or_default();
            out.extend(kubelet.drivers.cdi_devices(pod.namespace(), name, request)?);
        }
    }
    let extended = pod.status.as_ref().and_then(|s| s.extended_resource_claim_status.as_ref());
    for mapping in extended.iter().flat_map(|s| &s.request_mappings) {
        if mapping.container_name == container.name {
            let name = of_extended(pod).unwrap_or_default();
            out.extend(kubelet.drivers.cdi_devices(pod.namespace(), name, &mapping.request_name)?);
        }
    }
    Ok(out)
}

/// Takes drivers in, and clears up after those that go.
pub struct Registrar {
    kubelet: Arc<Kubelet>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

impl Registrar {
    /// A registrar that clears up at once after drivers that did not come back with this kubelet.
    pub fn new(kubelet: Arc<Kubelet>, shutdown: CancellationToken) -> Arc<Self> {
        let registrar = Arc::new(Self { kubelet, tasks: TaskTracker::new(), shutdown });
        registrar.wipe_later();
        registrar
    }

    fn wipe_later(&self) {
        let (kubelet, shutdown) = (self.kubelet.clone(), self.shutdown.clone());
        self.tasks.spawn(async move {
            let wipe = async {
                tokio::time::sleep(WIPE_AFTER).await;
                // Without an apiserver there is nothing to wipe; with one that is away, it is tried again for a while.
                for _ in 0..10 {
                    match wipe(&kubelet).await {
                        Ok(()) => return,
                        Err(error) => tracing::debug!(%error, "Cannot wipe ResourceSlices yet"),
                    }
                    tokio::time::sleep(WIPE_AFTER).await;
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = wipe => {}
            }
        });
    }
}

/// Deletes what drivers that are not there have told of this node.
async fn wipe(kubelet: &Kubelet) -> kube::Result<()> {
    let Some(client) = kubelet.client.clone() else { return Ok(()) };
    let api: Api<ResourceSlice> = Api::all(client);
    let own = format!("spec.nodeName={}", kubelet.node_name);
    let list = match api.list(&ListParams::default().fields(&own)).await {
        Ok(list) => list,
        // An apiserver without the API has no slices.
        Err(kube::Error::Api(error)) if error.code == 404 => return Ok(()),
        Err(error) => return Err(error),
    };
    let drivers: BTreeSet<String> = list.items.into_iter().map(|s| s.spec.driver).collect();
    for driver in drivers.into_iter().filter(|d| !kubelet.drivers.has(d)) {
        tracing::info!(driver, "Deleting the ResourceSlices of a driver that is gone");
        let params = ListParams::default().fields(&format!("{own},spec.driver={driver}"));
        api.delete_collection(&DeleteParams::default(), &params).await?;
    }
    Ok(())
}

#[async_trait]
impl Handler for Registrar {
    async fn register(&self, plugin: &PluginInfo) -> Result<(), String> {
        self.kubelet.drivers.add(plugin).await
    }

    async fn deregister(&self, plugin: &PluginInfo) {
        if self.kubelet.drivers.remove(plugin) {
            self.wipe_later();
        }
    }
}
