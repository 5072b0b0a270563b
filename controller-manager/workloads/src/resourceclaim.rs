//! resourceclaim-controller: makes the device claims that pods have templates for, and frees claims whose pods
//! are done.

use std::sync::Arc;

use controller_kit::expect::Written;
use controller_kit::meta::{MetaExt, controller_of, controller_ref};
use controller_kit::{Context, Events, Key, Queue, Requeue, Shared, errors, pod};
use k8s_openapi::api::core::v1::{Pod, PodResourceClaim};
use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceClaimConsumerReference, ResourceClaimTemplate};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use serde_json::json;

const POD_CLAIM: &str = "resource.kubernetes.io/pod-claim-name";
const FINALIZER: &str = "resource.kubernetes.io/delete-protection";

struct Controller {
    ctx: Context,
    events: Events,
    pods: Arc<Shared<Pod>>,
    claims: Arc<Shared<ResourceClaim>>,
    written: Written,
}

/// Runs until shutdown.
pub async fn run(ctx: Context) -> anyhow::Result<()> {
    let (pods_queue, claims_queue) = (Queue::new(), Queue::new());
    let (pods, claims) = (ctx.informer::<Pod>(), ctx.informer::<ResourceClaim>());
    pods.synced().await;
    claims.synced().await;
    let (q, cq) = (pods_queue.clone(), claims_queue.clone());
    pods.watch(move |change| {
        let pod = change.object();
        if wanted(pod).is_empty() {
            return;
        }
        if change.deleted() || pod::finished(pod) {
            names(pod).into_iter().for_each(|name| cq.add(Key::new(pod.ns(), name)));
        } else {
            q.add(pod.key());
        }
    });
    let (q, cq) = (pods_queue.clone(), claims_queue.clone());
    claims.watch(move |change| {
        let claim = change.object();
        if !change.deleted() {
            cq.add(claim.key());
        }
        if let Some(owner) = controller_of(&claim.metadata).filter(|o| o.kind == "Pod") {
            q.add(Key::new(claim.ns(), &owner.name));
        }
    });
    let makers = ctx.workers("resourceclaim-pods", "resourceclaim", 10);
    let keepers = ctx.workers("resourceclaim", "resourceclaim", 10);
    let events = ctx.events("resource_claim");
    let controller = Controller { ctx, events, pods, claims, written: Written::default() };
    let c = &controller;
    tokio::join!(
        makers.run(pods_queue, |key| async move { c.pod(&key).await }),
        keepers.run(claims_queue, |key| async move { c.claim(&key).await }),
    );
    Ok(())
}

fn wanted(pod: &Pod) -> &[PodResourceClaim] {
    pod.spec.as_ref().and_then(|s| s.resource_claims.as_deref()).unwrap_or_default()
}

/// The claims a pod uses, by name.
fn names(pod: &Pod) -> Vec<String> {
    let made = pod.status.iter().flat_map(|s| s.resource_claim_statuses.iter().flatten());
    let made = made.filter_map(|s| s.resource_claim_name.clone());
    wanted(pod).iter().filter_map(|c| c.resource_claim_name.clone()).chain(made).collect()
}

/// Whether a consumer no longer needs the claim.
fn done(consumer: &ResourceClaimConsumerReference, pod: Option<&Pod>) -> bool {
    let same = pod.filter(|p| p.uid() == consumer.uid);
    same.is_none_or(pod::finished)
}

impl Controller {
    async fn pod(&self, key: &Key) -> anyhow::Result<Requeue> {
        let Some(pod) = self.pods.get(key).filter(|p| !p.deleting() && !pod::finished(p)) else {
            return Ok(None);
        };
        if !self.written.seen(key, self.claims.newest()) {
            return Ok(Some(std::time::Duration::from_secs(30)));
        }
        let mut statuses = Vec::new();
        for wish in wanted(&pod) {
            let Some(template) = &wish.resource_claim_template_name else { continue };
            let name = match self.find(&pod, &wish.name) {
                Some(claim) => claim.name().to_owned(),
                None => self.make(&pod, wish, template).await.inspect_err(|error| {
                    let text = format!("PodResourceClaim {}: {error:#}", wish.name);
                    self.events.warning(&*pod, "FailedResourceClaimCreation", text);
                })?,
            };
            statuses.push(json!({"name": wish.name, "resourceClaimName": name}));
        }
        let known = pod.status.iter().flat_map(|s| s.resource_claim_statuses.iter().flatten());
        let known: Vec<_> =
            known.map(|s| json!({"name": s.name, "resourceClaimName": s.resource_claim_name})).collect();
        if statuses.iter().all(|s| known.contains(s)) {
            return Ok(None);
        }
        let api: Api<Pod> = Api::namespaced(self.ctx.client.clone(), pod.ns());
        let patch = json!({"metadata": {"uid": pod.uid()}, "status": {"resourceClaimStatuses": statuses}});
        errors::optional(
            api.patch_status(pod.name(), &PatchParams::default(), &Patch::Strategic(patch)).await,
        )?;
        Ok(None)
    }

    fn find(&self, pod: &Pod, wish: &str) -> Option<Arc<ResourceClaim>> {
        self.claims
            .owned(pod.uid())
            .into_iter()
            .find(|c| c.annotation(POD_CLAIM) == Some(wish) && !c.deleting())
    }

    async fn make(&self, pod: &Pod, wish: &PodResourceClaim, template: &str) -> anyhow::Result<String> {
        let templates: Api<ResourceClaimTemplate> = Api::namespaced(self.ctx.client.clone(), pod.ns());
        let template = templates.get(template).await?;
        let meta = template.spec.metadata.unwrap_or_default();
        let mut annotations = meta.annotations.unwrap_or_default();
        annotations.insert(POD_CLAIM.into(), wish.name.clone());
        let claim = ResourceClaim {
            metadata: ObjectMeta {
                generate_name: Some(format!("{}-{}-", pod.name(), wish.name)),
                namespace: pod.metadata.namespace.clone(),
                labels: meta.labels,
                annotations: Some(annotations),
                owner_references: Some(vec![controller_ref(pod)]),
                ..ObjectMeta::default()
            },
            spec: template.spec.spec,
            status: None,
        };
        let api: Api<ResourceClaim> = Api::namespaced(self.ctx.client.clone(), pod.ns());
        let made = api.create(&PostParams::default(), &claim).await?;
        self.written.note(&pod.key(), made.rv());
        Ok(made.name().to_owned())
    }

    async fn claim(&self, key: &Key) -> anyhow::Result<Requeue> {
        let Some(claim) = self.claims.get(key) else { return Ok(None) };
        let reserved = claim.status.as_ref().and_then(|s| s.reserved_for.clone()).unwrap_or_default();
        let mut left = Vec::new();
        for consumer in &reserved {
            let other =
                consumer.resource != "pods" || consumer.api_group.as_deref().is_some_and(|g| !g.is_empty());
            if other || !self.consumer_done(key, consumer).await? {
                left.push(consumer.clone());
            }
        }
        let mut current = (*claim).clone();
        let allocated = claim.status.as_ref().is_some_and(|s| s.allocation.is_some());
        let free = left.is_empty() && allocated && (!reserved.is_empty() || claim.deleting());
        if left.len() != reserved.len() || free {
            let status = current.status.get_or_insert_default();
            status.reserved_for = Some(left.clone()).filter(|l| !l.is_empty());
            if free {
                status.allocation = None;
                status.devices = None;
            }
            let api: Api<ResourceClaim> = Api::namespaced(self.ctx.client.clone(), &key.namespace);
            let Some(next) =
                errors::optional(api.replace_status(&key.name, &PostParams::default(), &current).await)?
            else {
                return Ok(None);
            };
            current = next;
        }
        let idle = left.is_empty() && current.status.as_ref().is_none_or(|s| s.allocation.is_none());
        if idle && claim.has_finalizer(FINALIZER) {
            self.release(&current).await?;
        }
        self.delete_with_pod(&current, left.is_empty()).await?;
        Ok(None)
    }

    async fn consumer_done(
        &self,
        key: &Key,
        consumer: &ResourceClaimConsumerReference,
    ) -> anyhow::Result<bool> {
        let cached = self.pods.get(&Key::new(&key.namespace, &consumer.name));
        if let Some(pod) = cached.filter(|p| p.uid() == consumer.uid) {
            return Ok(done(consumer, Some(&pod)));
        }
        // The cache may not know a new pod yet.
        let api: Api<Pod> = Api::namespaced(self.ctx.client.clone(), &key.namespace);
        Ok(done(consumer, errors::optional(api.get(&consumer.name).await)?.as_ref()))
    }

    async fn release(&self, claim: &ResourceClaim) -> anyhow::Result<()> {
        let api: Api<ResourceClaim> = Api::namespaced(self.ctx.client.clone(), claim.ns());
        let left: Vec<_> = claim.metadata.finalizers.iter().flatten().filter(|f| *f != FINALIZER).collect();
        let patch =
            json!({"metadata": {"finalizers": left, "resourceVersion": claim.metadata.resource_version}});
        errors::optional(api.patch(claim.name(), &PatchParams::default(), &Patch::Merge(patch)).await)?;
        Ok(())
    }

    /// A claim made for a pod goes once the pod has ended; one whose pod is gone is garbage anyway.
    async fn delete_with_pod(&self, claim: &ResourceClaim, unused: bool) -> anyhow::Result<()> {
        let Some(owner) = controller_of(&claim.metadata).filter(|o| o.kind == "Pod") else { return Ok(()) };
        let pod = self.pods.get(&Key::new(claim.ns(), &owner.name)).filter(|p| p.uid() == owner.uid);
        if !unused || claim.deleting() || !pod.is_some_and(|p| pod::finished(&p)) {
            return Ok(());
        }
        let api: Api<ResourceClaim> = Api::namespaced(self.ctx.client.clone(), claim.ns());
        let only = Preconditions { uid: claim.metadata.uid.clone(), resource_version: None };
        let params = DeleteParams { preconditions: Some(only), ..DeleteParams::default() };
        errors::optional(api.delete(claim.name(), &params).await)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn consumers_are_done_when_their_pod_is() {
        let consumer = ResourceClaimConsumerReference {
            name: "p".into(),
            resource: "pods".into(),
            uid: "u".into(),
            ..Default::default()
        };
        let pod = |uid: &str, phase: &str| -> Pod {
            serde_json::from_value(json!({"metadata": {"name": "p", "uid": uid}, "status": {"phase": phase}}))
                .unwrap()
        };
        assert!(done(&consumer, None));
        assert!(done(&consumer, Some(&pod("other", "Running"))));
        assert!(done(&consumer, Some(&pod("u", "Succeeded"))));
        assert!(!done(&consumer, Some(&pod("u", "Running"))));
    }
}
