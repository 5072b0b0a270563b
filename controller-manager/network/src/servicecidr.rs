//! service-cidr-controller: a range of Service addresses stays while addresses of it are in use.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use controller_kit::meta::MetaExt;
use controller_kit::{Context, Key, Queue, Requeue, Shared, condition, errors, now, now_time};
use ipnet::IpNet;
use k8s_openapi::api::networking::v1::{IPAddress, ServiceCIDR};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;

const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";
const MANAGED_BY: &str = "ipaddress.kubernetes.io/managed-by";
const ALLOCATOR: &str = "ipallocator.k8s.io";
/// API servers need a moment to see that they may not allocate from the range any more.
const GRACE: i64 = 10;

/// Runs until shutdown.
pub async fn run(ctx: Context) -> anyhow::Result<()> {
    let queue = Queue::new();
    let (ranges, addresses) = (ctx.informer::<ServiceCIDR>(), ctx.informer::<IPAddress>());
    ranges.synced().await;
    addresses.synced().await;
    let (q, cache) = (queue.clone(), ranges.clone());
    ranges.watch(move |change| {
        q.add(change.object().key());
        if change.old().is_none() {
            cache.list().iter().filter(|r| r.deleting()).for_each(|r| q.add(r.key()));
        }
    });
    let (q, cache) = (queue.clone(), ranges.clone());
    addresses.watch(move |change| {
        if change.deleted() {
            cache.list().iter().filter(|r| r.deleting()).for_each(|r| q.add(r.key()));
        }
    });
    let workers = ctx.workers("service-cidr", "service-cidr", 5);
    let (ctx, ranges, addresses) = (&ctx, &ranges, &addresses);
    workers.run(queue, |key| async move { reconcile(ctx, ranges, addresses, &key).await }).await;
    Ok(())
}

fn nets(range: &ServiceCIDR) -> Vec<IpNet> {
    let texts = range.spec.iter().flat_map(|s| s.cidrs.iter().flatten());
    texts.filter_map(|t| t.parse().ok()).collect()
}

/// Whether every address of the range that is in use also lies in another range.
fn unused(range: &ServiceCIDR, ranges: &[Arc<ServiceCIDR>], addresses: &[Arc<IPAddress>]) -> bool {
    let others: Vec<IpNet> =
        ranges.iter().filter(|r| r.uid() != range.uid() && !r.deleting()).flat_map(|r| nets(r)).collect();
    let own = nets(range);
    let managed = addresses.iter().filter(|a| a.label(MANAGED_BY) == Some(ALLOCATOR));
    let used = managed
        .filter_map(|a| a.name().parse::<IpAddr>().ok())
        .filter(|ip| own.iter().any(|n| n.contains(ip)));
    used.into_iter().all(|ip| others.iter().any(|n| n.contains(&ip)))
}

async fn reconcile(
    ctx: &Context,
    ranges: &Arc<Shared<ServiceCIDR>>,
    addresses: &Arc<Shared<IPAddress>>,
    key: &Key,
) -> anyhow::Result<Requeue> {
    let Some(range) = ranges.get(key) else { return Ok(None) };
    let api: Api<ServiceCIDR> = Api::all(ctx.client.clone());
    let Some(deleted) = &range.metadata.deletion_timestamp else {
        if !range.has_finalizer(FINALIZER) {
            let mut all = range.metadata.finalizers.clone().unwrap_or_default();
            all.push(FINALIZER.into());
            set_finalizers(&api, &range, &all).await?;
        }
        write(&api, &range, "True", "", "Kubernetes Service CIDR is ready").await?;
        return Ok(None);
    };
    if !unused(&range, &ranges.list(), &addresses.list()) {
        let text = "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR";
        write(&api, &range, "False", "Terminating", text).await?;
        return Ok(None);
    }
    let left = GRACE - now().duration_since(deleted.0).as_secs();
    if left > 0 {
        return Ok(Some(Duration::from_secs(left.unsigned_abs())));
    }
    if range.has_finalizer(FINALIZER) {
        let all: Vec<_> =
            range.metadata.finalizers.iter().flatten().filter(|f| *f != FINALIZER).cloned().collect();
        set_finalizers(&api, &range, &all).await?;
    }
    Ok(None)
}

async fn set_finalizers(api: &Api<ServiceCIDR>, range: &ServiceCIDR, all: &[String]) -> anyhow::Result<()> {
    let patch = json!({"metadata": {"finalizers": all, "uid": range.uid(), "resourceVersion": range.metadata.resource_version}});
    errors::optional(api.patch(range.name(), &PatchParams::default(), &Patch::Merge(patch)).await)?;
    Ok(())
}

async fn write(
    api: &Api<ServiceCIDR>,
    range: &ServiceCIDR,
    status: &str,
    reason: &str,
    message: &str,
) -> anyhow::Result<()> {
    let mut next = range.clone();
    let conditions = &mut next.status.get_or_insert_default().conditions;
    if conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == status) {
        return Ok(());
    }
    condition::set_meta(
        conditions,
        Condition {
            type_: "Ready".into(),
            status: status.into(),
            reason: reason.into(),
            message: message.into(),
            last_transition_time: now_time(),
            observed_generation: None,
        },
    );
    match api.replace_status(range.name(), &PostParams::default(), &next).await {
        Err(error) if errors::conflict(&error) => Ok(()),
        other => {
            errors::optional(other)?;
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_free_when_others_cover_its_addresses() {
        let range = |name: &str, cidr: &str| -> Arc<ServiceCIDR> {
            Arc::new(
                serde_json::from_value(
                    json!({"metadata": {"name": name, "uid": name}, "spec": {"cidrs": [cidr]}}),
                )
                .unwrap(),
            )
        };
        let address: Arc<IPAddress> = Arc::new(
            serde_json::from_value(
                json!({"metadata": {"name": "10.0.0.5", "labels": {MANAGED_BY: ALLOCATOR}},
            "spec": {"parentRef": {"name": "s", "resource": "services"}}}),
            )
            .unwrap(),
        );
        let (small, wide, far) =
            (range("small", "10.0.0.0/28"), range("wide", "10.0.0.0/24"), range("far", "10.1.0.0/24"));
        let used = std::slice::from_ref(&address);
        assert!(!unused(&small, &[small.clone(), far.clone()], used));
        assert!(unused(&small, &[small.clone(), wide], used));
        assert!(unused(&far, &[small, far.clone()], used));
    }
}
