//! deployment-controller: rolls a template out over replica sets.

mod plan;
mod revise;
mod status;

use std::sync::Arc;

use controller_kit::claim::{Claimant, claim_may_change};
use controller_kit::meta::{Labels, MetaExt, controller_of, controller_ref, selects_everything};
use controller_kit::{Change, Context, Events, Key, Queue, Requeue, Shared, errors, now_time, pod, semantic};
use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{DeleteParams, PostParams};

pub(crate) use plan::scaled;
use plan::{Resize, Scale, Sets};

pub(super) struct Controller {
    ctx: Context,
    events: Events,
    deployments: Arc<Shared<Deployment>>,
    sets: Arc<Shared<ReplicaSet>>,
    pods: Arc<Shared<Pod>>,
}

/// Runs until shutdown.
pub async fn run(ctx: Context) -> anyhow::Result<()> {
    let queue = Queue::new();
    let (deployments, sets, pods) =
        (ctx.informer::<Deployment>(), ctx.informer::<ReplicaSet>(), ctx.informer::<Pod>());
    deployments.synced().await;
    sets.synced().await;
    pods.synced().await;
    watch(&queue, &deployments, &sets, &pods);
    let workers = ctx.workers("deployment", "deployment", 5);
    let events = ctx.events("deployment-controller");
    let controller = Controller { ctx, events, deployments, sets, pods };
    let controller = &controller;
    workers.run(queue, |key| async move { controller.reconcile(key).await }).await;
    Ok(())
}

fn watch(
    queue: &Queue,
    deployments: &Arc<Shared<Deployment>>,
    sets: &Arc<Shared<ReplicaSet>>,
    pods: &Shared<Pod>,
) {
    let q = queue.clone();
    deployments.watch(move |change| q.add(change.object().key()));
    let (q, cache) = (queue.clone(), deployments.clone());
    sets.watch(move |change| wake_for_set(&q, &cache, change));
    // Recreate waits for the last old pod to go.
    let (q, cache) = (queue.clone(), sets.clone());
    pods.watch(move |change| {
        let pod = change.object();
        if !change.deleted() && !pod::finished(pod) {
            return;
        }
        let Some(owner) = controller_of(&pod.metadata).filter(|o| o.kind == "ReplicaSet") else { return };
        let Some(set) = cache.get(&Key::new(pod.ns(), &owner.name)) else { return };
        if let Some(owner) = controller_of(&set.metadata).filter(|o| o.kind == "Deployment") {
            q.add(Key::new(set.ns(), &owner.name));
        }
    });
}

fn wake_for_set(queue: &Queue, deployments: &Shared<Deployment>, change: &Change<ReplicaSet>) {
    let set = change.object();
    let owner = |set: &ReplicaSet| {
        let owner = controller_of(&set.metadata).filter(|o| o.kind == "Deployment")?;
        Some(Key::new(set.ns(), &owner.name))
    };
    if let Some(key) = change.old().and_then(|old| owner(old)) {
        queue.add(key);
    }
    if let Some(key) = owner(set) {
        queue.add(key);
        return;
    }
    if controller_of(&set.metadata).is_some() || !claim_may_change(change.old(), &**set) {
        return;
    }
    for d in deployments.namespace(set.ns()) {
        let matches =
            d.spec.as_ref().is_some_and(|s| Labels::new(&s.selector).matches(set.metadata.labels.as_ref()));
        if matches {
            queue.add(d.key());
        }
    }
}

impl Controller {
    async fn reconcile(&self, key: Key) -> anyhow::Result<Requeue> {
        let Some(cached) = self.deployments.get(&key) else { return Ok(None) };
        let Some(spec) = &cached.spec else { return Ok(None) };
        let mut d = (*cached).clone();
        if selects_everything(&spec.selector) {
            self.events.warning(
                &d,
                "SelectingAll",
                "This deployment is selecting all pods. A non-empty selector is required.",
            );
            return self.observe(d).await;
        }
        let claimant = Claimant {
            client: &self.ctx.client,
            owner: &*cached,
            reference: controller_ref(&*cached),
            selector: Labels::new(&spec.selector),
            finalizer: None,
        };
        let sets = claimant.claim(&self.sets).await?;
        if d.deleting() {
            let (new, old) = plan::split(&d, &sets);
            return self.write_counts(&d, new, old).await;
        }
        self.note_pause(&mut d).await?;
        let paused = spec.paused == Some(true);
        if paused || self.scaling(&d, &sets) {
            return self.scale(d, sets, paused).await;
        }
        if plan::rolling(&d) { self.roll(d, sets).await } else { self.recreate(d, sets).await }
    }

    async fn observe(&self, mut d: Deployment) -> anyhow::Result<Requeue> {
        let status = d.status.get_or_insert_default();
        if status.observed_generation < d.metadata.generation {
            status.observed_generation = d.metadata.generation;
            self.write(&d).await?;
        }
        Ok(None)
    }

    /// A replica set still carries the size of before: this is scaling, not a rollout.
    fn scaling(&self, d: &Deployment, sets: &Sets) -> bool {
        let noted = |s: &Arc<ReplicaSet>| s.annotation(plan::DESIRED).and_then(|n| n.parse::<i32>().ok());
        plan::active(sets).iter().filter_map(noted).any(|n| n != plan::wanted(d))
    }

    async fn scale(&self, mut d: Deployment, sets: Sets, paused: bool) -> anyhow::Result<Requeue> {
        let (new, old) = self.current(&mut d, &sets, false).await?;
        match plan::scale(&d, new.as_ref(), &old) {
            Scale::Keep => {}
            Scale::Lazy(sizes) => self.resize_all(&d, &sets, &sizes, false).await?,
            Scale::Forced(sizes) => self.resize_all(&d, &sets, &sizes, true).await?,
        }
        if paused {
            self.clean_up(&d, &old).await?;
        }
        let status = status::counts(&d, new.as_ref(), &join(new.as_ref(), &old), &now_time());
        self.write_status(&d, status).await?;
        Ok(None)
    }

    async fn roll(&self, mut d: Deployment, sets: Sets) -> anyhow::Result<Requeue> {
        let (Some(new), old) = self.current(&mut d, &sets, true).await? else { return Ok(None) };
        let want = plan::wanted(&d);
        let all = join(Some(&new), &old);
        let size = match plan::size(&new) {
            n if n == want => n,
            n if n > want => want,
            n => plan::new_size(&d, plan::total(&all), n),
        };
        if size != plan::size(&new) {
            let new = self.resize(&d, &new, size, false).await?;
            return self.write_rollout(&d, Some(new), &old).await;
        }
        let shrink = plan::shrink_old(&d, &new, &old);
        if !shrink.is_empty() {
            let mut after = Vec::new();
            for set in &old {
                match shrink.iter().find(|r| r.name == set.name()) {
                    Some(resize) => after.push(self.resize(&d, set, resize.to, false).await?),
                    None => after.push(set.clone()),
                }
            }
            return self.write_rollout(&d, Some(new), &after).await;
        }
        if d.status.as_ref().is_some_and(|s| status::complete(&d, s)) {
            self.clean_up(&d, &old).await?;
        }
        self.write_rollout(&d, Some(new), &old).await
    }

    async fn recreate(&self, mut d: Deployment, sets: Sets) -> anyhow::Result<Requeue> {
        let (new, old) = self.current(&mut d, &sets, false).await?;
        let running = plan::active(&old);
        if !running.is_empty() {
            for set in &running {
                self.resize(&d, set, 0, false).await?;
            }
            return self.write_rollout(&d, new, &old).await;
        }
        if self.old_pods_run(new.as_ref(), &sets) {
            return self.write_rollout(&d, new, &old).await;
        }
        let mut new = match new {
            Some(new) => new,
            None => {
                let (Some(new), _) = self.current(&mut d, &sets, true).await? else { return Ok(None) };
                new
            }
        };
        if plan::size(&new) != plan::wanted(&d) {
            new = self.resize(&d, &new, plan::wanted(&d), false).await?;
        }
        if d.status.as_ref().is_some_and(|s| status::complete(&d, s)) {
            self.clean_up(&d, &old).await?;
        }
        self.write_rollout(&d, Some(new), &old).await
    }

    fn old_pods_run(&self, new: Option<&Arc<ReplicaSet>>, sets: &Sets) -> bool {
        let old = sets.iter().filter(|s| new.is_none_or(|n| n.uid() != s.uid()));
        old.flat_map(|s| self.pods.owned(s.uid())).any(|p| !pod::finished(&p))
    }

    async fn resize_all(
        &self,
        d: &Deployment,
        sets: &Sets,
        sizes: &[Resize],
        forced: bool,
    ) -> anyhow::Result<()> {
        for size in sizes {
            if let Some(set) = sets.iter().find(|s| s.name() == size.name) {
                self.resize(d, set, size.to, forced).await?;
            }
        }
        Ok(())
    }

    /// Gives a replica set its size; the annotations say for which size of the deployment.
    async fn resize(
        &self,
        d: &Deployment,
        set: &Arc<ReplicaSet>,
        to: i32,
        forced: bool,
    ) -> anyhow::Result<Arc<ReplicaSet>> {
        let from = plan::size(set);
        if !forced && from == to {
            return Ok(set.clone());
        }
        let mut next = (**set).clone();
        let noted = revise::note_sizes(next.metadata.annotations.get_or_insert_default(), d);
        if from == to && !noted {
            return Ok(set.clone());
        }
        next.spec.get_or_insert_default().replicas = Some(to);
        let api: Api<ReplicaSet> = Api::namespaced(self.ctx.client.clone(), d.ns());
        let next = api.replace(set.name(), &PostParams::default(), &next).await?;
        if from != to {
            let way = if from < to { "up" } else { "down" };
            let text = format!("Scaled {way} replica set {} from {from} to {to}", set.name());
            self.events.normal(d, "ScalingReplicaSet", text);
        }
        Ok(Arc::new(next))
    }

    async fn clean_up(&self, d: &Deployment, old: &Sets) -> anyhow::Result<()> {
        let api: Api<ReplicaSet> = Api::namespaced(self.ctx.client.clone(), d.ns());
        for set in plan::surplus_history(d, old) {
            errors::optional(api.delete(set.name(), &DeleteParams::default()).await)?;
        }
        Ok(())
    }

    async fn write_counts(
        &self,
        d: &Deployment,
        new: Option<Arc<ReplicaSet>>,
        old: Sets,
    ) -> anyhow::Result<Requeue> {
        let status = status::counts(d, new.as_ref(), &join(new.as_ref(), &old), &now_time());
        self.write_status(d, status).await?;
        Ok(None)
    }

    async fn write_rollout(
        &self,
        d: &Deployment,
        new: Option<Arc<ReplicaSet>>,
        old: &Sets,
    ) -> anyhow::Result<Requeue> {
        let now = now_time();
        let status = status::rollout(d, new.as_ref(), &join(new.as_ref(), old), &now);
        let check = status::next_check(d, &status, &now);
        self.write_status(d, status).await?;
        Ok(check)
    }

    async fn write_status(&self, d: &Deployment, status: DeploymentStatus) -> anyhow::Result<()> {
        if d.status.as_ref().is_some_and(|old| semantic::same(old, &status)) {
            return Ok(());
        }
        self.write(&Deployment { status: Some(status), ..d.clone() }).await?;
        Ok(())
    }

    /// Writes the status; the answer's resource version is what a further write in this pass builds on.
    async fn write(&self, d: &Deployment) -> anyhow::Result<Option<Deployment>> {
        let api: Api<Deployment> = Api::namespaced(self.ctx.client.clone(), d.ns());
        Ok(errors::optional(api.replace_status(d.name(), &PostParams::default(), d).await)?)
    }
}

fn join(new: Option<&Arc<ReplicaSet>>, old: &Sets) -> Sets {
    old.iter().cloned().chain(new.cloned()).collect()
}
