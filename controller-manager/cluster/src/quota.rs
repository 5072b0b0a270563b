//! resourcequota-controller: keeps `status.used` of quotas true. Admission charges them; this gives back what
//! is no longer used and repairs what drifted.

mod counts;
mod usage;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api::quantity::{Format, Quantity};
use controller_kit::meta::MetaExt;
use controller_kit::{Context, Key, Queue, Requeue, Shared, errors, semantic};
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, Pod, ResourceQuota, ResourceQuotaSpec, ResourceQuotaStatus, Service,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use kube::Api;
use kube::api::PostParams;

use counts::Counts;
use usage::Amounts;

struct Controller {
    ctx: Context,
    quotas: Arc<Shared<ResourceQuota>>,
    pods: Arc<Shared<Pod>>,
    services: Arc<Shared<Service>>,
    claims: Arc<Shared<PersistentVolumeClaim>>,
    counts: Counts,
}

/// Runs until shutdown.
pub async fn run(ctx: Context) -> anyhow::Result<()> {
    let (queue, namespaces): (Queue, Queue<String>) = (Queue::new(), Queue::new());
    let quotas = ctx.informer::<ResourceQuota>();
    let (pods, services, claims) =
        (ctx.informer::<Pod>(), ctx.informer::<Service>(), ctx.informer::<PersistentVolumeClaim>());
    quotas.synced().await;
    pods.synced().await;
    services.synced().await;
    claims.synced().await;
    let q = queue.clone();
    quotas.watch(move |change| {
        let spec = |quota: &ResourceQuota| quota.spec.clone();
        if !change.deleted() && change.old().is_none_or(|old| spec(old) != spec(change.object())) {
            q.add(change.object().key());
        }
    });
    let q = namespaces.clone();
    pods.watch(move |change| {
        let pod = change.object();
        let given_back = change.deleted()
            || change.old().is_none_or(|old| {
                usage::pod_counts(old) != usage::pod_counts(pod) || usage::of_pod(old) != usage::of_pod(pod)
            });
        if given_back {
            q.add_after(pod.ns().to_owned(), Duration::from_millis(100));
        }
    });
    let q = namespaces.clone();
    services.watch(move |change| q.add_after(change.object().ns().to_owned(), Duration::from_millis(100)));
    let q = namespaces.clone();
    claims.watch(move |change| q.add_after(change.object().ns().to_owned(), Duration::from_millis(100)));
    let workers = ctx.workers("resourcequota", "resource-quota", 5);
    let spreaders = ctx.workers("resourcequota-namespaces", "resource-quota-namespaces", 1);
    let counts = Counts::new(ctx.clone(), namespaces.clone());
    let controller = Controller { ctx, quotas, pods, services, claims, counts };
    let (c, q) = (&controller, &queue);
    tokio::join!(
        workers.run(queue.clone(), |key| async move { c.reconcile(&key).await }),
        spreaders.run(namespaces, |namespace: String| async move {
            c.quotas.namespace(&namespace).iter().for_each(|quota| q.add(quota.key()));
            Ok(None)
        }),
    );
    Ok(())
}

impl Controller {
    async fn reconcile(&self, key: &Key) -> anyhow::Result<Requeue> {
        let Some(quota) = self.quotas.get(key) else { return Ok(None) };
        let Some(spec) = &quota.spec else { return Ok(None) };
        let hard = spec.hard.clone().unwrap_or_default();
        let used = self.usage(key, spec, hard.keys()).await?;
        let text = |q: &Quantity| Text(q.to_string());
        let status = ResourceQuotaStatus {
            hard: Some(hard),
            used: Some(used.iter().map(|(name, amount)| (name.clone(), text(amount))).collect()),
        };
        if !quota.status.as_ref().is_some_and(|old| semantic::same(old, &status)) {
            let api: Api<ResourceQuota> = Api::namespaced(self.ctx.client.clone(), &key.namespace);
            let next = ResourceQuota { status: Some(status), ..(*quota).clone() };
            errors::optional(api.replace_status(&key.name, &PostParams::default(), &next).await)?;
        }
        // Rarely, everything is counted anew: what another writer left wrong is put right.
        Ok(Some(self.ctx.settings.quota_resync.max(Duration::from_secs(60))))
    }

    async fn usage(
        &self,
        key: &Key,
        spec: &ResourceQuotaSpec,
        names: impl Iterator<Item = &String>,
    ) -> anyhow::Result<Amounts> {
        let namespace = &key.namespace;
        let scoped = usage::scoped(spec);
        let mut sum = Amounts::new();
        for pod in self.pods.namespace(namespace).iter().filter(|p| usage::includes(spec, p)) {
            usage::add(&mut sum, usage::of_pod(pod));
        }
        for claim in self.claims.namespace(namespace) {
            if !scoped || usage::claim_scoped(spec, &claim) {
                usage::add(&mut sum, usage::of_claim(&claim));
            }
        }
        if !scoped {
            self.services
                .namespace(namespace)
                .iter()
                .for_each(|s| usage::add(&mut sum, usage::of_service(s)));
        }
        let mut used = BTreeMap::new();
        for name in names {
            let amount = match sum.get(name) {
                Some(amount) => *amount,
                None => match usage::counted(name).filter(|_| !scoped) {
                    Some(resource)
                        if !["pods", "services", "persistentvolumeclaims"].contains(&resource.0.as_str()) =>
                    {
                        let count = self.counts.count(&resource, namespace).await?;
                        Quantity::new(
                            i64::try_from(count.unwrap_or(0)).unwrap_or(i64::MAX),
                            Format::DecimalSI,
                        )
                    }
                    _ => Quantity::ZERO,
                },
            };
            used.insert(name.clone(), amount);
        }
        Ok(used)
    }
}
