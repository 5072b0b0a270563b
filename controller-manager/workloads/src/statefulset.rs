//! statefulset-controller: pods with a name, an order and storage of their own.

mod identity;
mod plan;

use std::sync::Arc;
use std::time::Duration;

use controller_kit::claim::Claimant;
use controller_kit::expect::Expectations;
use controller_kit::meta::{Labels, MetaExt, controller_ref, selects_everything};
use controller_kit::{Context, Events, Key, Queue, Requeue, Shared, errors, now, revision, semantic};
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet, StatefulSetStatus};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, PodTemplateSpec};
use kube::Api;
use kube::api::{DeleteParams, PostParams, Preconditions};

use crate::history::{self, History, Subject};
use crate::replicaset::{next_available, wake_owners};
use plan::{Action, Revisions};

struct Controller {
    ctx: Context,
    events: Events,
    sets: Arc<Shared<StatefulSet>>,
    pods: Arc<Shared<Pod>>,
    claims: Arc<Shared<PersistentVolumeClaim>>,
    revisions: Arc<Shared<ControllerRevision>>,
    expect: Expectations,
}

/// Runs until shutdown.
pub async fn run(ctx: Context) -> anyhow::Result<()> {
    let queue = Queue::new();
    let (sets, pods) = (ctx.informer::<StatefulSet>(), ctx.informer::<Pod>());
    let (claims, revisions) = (ctx.informer::<PersistentVolumeClaim>(), ctx.informer::<ControllerRevision>());
    sets.synced().await;
    pods.synced().await;
    claims.synced().await;
    revisions.synced().await;
    let q = queue.clone();
    sets.watch(move |change| q.add(change.object().key()));
    let (q, cache) = (queue.clone(), sets.clone());
    pods.watch(move |change| {
        wake_owners(&q, "StatefulSet", change, |pod| {
            let all = cache.namespace(pod.ns()).into_iter();
            let matching = all.filter(|s| {
                let selector = s.spec.as_ref().map(|s| Labels::new(&s.selector));
                selector.is_some_and(|l| l.matches(pod.metadata.labels.as_ref()))
            });
            Some(matching.map(|s| s.key()).collect())
        })
    });
    let workers = ctx.workers("statefulset", "statefulset", 5);
    let events = ctx.events("statefulset-controller");
    let controller =
        Controller { ctx, events, sets, pods, claims, revisions, expect: Expectations::default() };
    let controller = &controller;
    workers.run(queue, |key| async move { controller.reconcile(key).await }).await;
    Ok(())
}

impl Controller {
    async fn reconcile(&self, key: Key) -> anyhow::Result<Requeue> {
        let Some(set) = self.sets.get(&key) else {
            self.expect.forget(&key);
            return Ok(None);
        };
        let Some(spec) = &set.spec else { return Ok(None) };
        if selects_everything(&spec.selector) {
            let text = "This StatefulSet is selecting all pods. A non-empty selector is required.";
            self.events.warning(&*set, "SelectingAll", text);
            return Ok(None);
        }
        if !self.expect.satisfied(&key, &self.pods) {
            return Ok(Some(Duration::from_secs(300)));
        }
        let claimant = Claimant {
            client: &self.ctx.client,
            owner: &*set,
            reference: controller_ref(&*set),
            selector: Labels::new(&spec.selector),
            finalizer: None,
        };
        let mut pods = claimant.claim(&self.pods).await?;
        pods.retain(|p| identity::member(&set, p));
        let subject = Subject {
            owner: &*set,
            selector: &spec.selector,
            template: &spec.template,
            labels: revision::labels(&*set, &spec.template),
            collisions: set.status.as_ref().and_then(|s| s.collision_count).unwrap_or(0),
        };
        let history = history::sync(&self.ctx, &self.revisions, &subject).await?;
        self.act(&set, pods, &history).await
    }

    async fn act(
        &self,
        set: &StatefulSet,
        mut pods: Vec<Arc<Pod>>,
        history: &History,
    ) -> anyhow::Result<Requeue> {
        let noted = set.status.as_ref().and_then(|s| s.current_revision.as_deref());
        let current = history.all.iter().find(|r| Some(r.name()) == noted).unwrap_or(&history.update);
        let revisions = Revisions { current: current.name(), update: history.update.name() };
        let many = self.ctx.settings.gate("MaxUnavailableStatefulSet");
        let mut outcome = Ok(());
        if !set.deleting() {
            let steps = plan::actions(set, &pods, revisions, many, now());
            for step in steps {
                match self.step(set, step, current, &history.update).await {
                    Ok(Some(made)) => pods.push(Arc::new(made)),
                    Ok(None) => {}
                    Err(error) => {
                        outcome = Err(error);
                        break;
                    }
                }
            }
        }
        let now = now();
        let status = plan::status(set, &pods, revisions, history.collisions, now);
        self.write(set, status).await?;
        outcome?;
        let limit = set.spec.as_ref().and_then(|s| s.revision_history_limit).unwrap_or(10);
        let live = |r: &ControllerRevision| {
            r.name() == revisions.current
                || r.name() == revisions.update
                || pods.iter().any(|p| plan::revision(p) == r.name())
        };
        history::truncate(&self.ctx, &history.all, limit, live).await?;
        let min_ready = set.spec.as_ref().and_then(|s| s.min_ready_seconds).unwrap_or(0);
        Ok(next_available(&pods, min_ready, now))
    }

    async fn step(
        &self,
        set: &StatefulSet,
        step: Action,
        current: &ControllerRevision,
        update: &ControllerRevision,
    ) -> anyhow::Result<Option<Pod>> {
        match step {
            Action::Create { ordinal, update: newer } => {
                let from = if newer { update } else { current };
                return self.create(set, ordinal, from).await;
            }
            Action::Claims(pod) => {
                if let Some(ordinal) = identity::ordinal(&pod) {
                    self.make_claims(set, &pod, ordinal).await?;
                }
            }
            Action::Repair(pod) => self.repair(set, &pod).await?,
            Action::Retain(pod) => self.retain(set, &pod).await?,
            Action::Delete(pod) => self.delete(set, &pod).await?,
        }
        Ok(None)
    }

    async fn create(
        &self,
        set: &StatefulSet,
        ordinal: i64,
        from: &ControllerRevision,
    ) -> anyhow::Result<Option<Pod>> {
        let fallback: PodTemplateSpec = set.spec.as_ref().map(|s| s.template.clone()).unwrap_or_default();
        let template = revision::template(from).unwrap_or(fallback);
        let pod = identity::new_pod(set, &template, ordinal, from.name());
        for claim in identity::claims(set, ordinal) {
            let known = self.claims.get(&claim.key());
            if known.is_some_and(|c| identity::stale_claim(set, &c, pod.name(), "")) {
                return Ok(None);
            }
        }
        self.make_claims(set, &pod, ordinal)
            .await
            .inspect_err(|e| self.told_pod("create", set, &pod, Some(&format!("{e:#}"))))?;
        let api: Api<Pod> = Api::namespaced(self.ctx.client.clone(), set.ns());
        match api.create(&PostParams::default(), &pod).await {
            Ok(made) => {
                self.told_pod("create", set, &pod, None);
                self.expect.created(&set.key(), &made);
                Ok(Some(made))
            }
            Err(error) if errors::namespace_terminating(&error) => Ok(None),
            Err(error) => {
                if !errors::already_exists(&error) {
                    self.told_pod("create", set, &pod, Some(&errors::text(&error)));
                }
                Err(error.into())
            }
        }
    }

    async fn make_claims(&self, set: &StatefulSet, pod: &Pod, ordinal: i64) -> anyhow::Result<()> {
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.ctx.client.clone(), set.ns());
        for mut claim in identity::claims(set, ordinal) {
            if let Some(known) = self.claims.get(&claim.key()) {
                anyhow::ensure!(!known.deleting(), "pvc {} is being deleted", claim.name());
                continue;
            }
            if identity::retention(set, pod).0 {
                claim.metadata.owner_references = Some(vec![controller_ref(set)]);
            }
            match api.create(&PostParams::default(), &claim).await {
                Ok(_) => {
                    let text = format!(
                        "create Claim {} Pod {} in StatefulSet {} success",
                        claim.name(),
                        pod.name(),
                        set.name()
                    );
                    self.events.normal(set, "SuccessfulCreate", text);
                }
                Err(error) if errors::already_exists(&error) => {}
                Err(error) => {
                    let text = format!(
                        "create Claim {} for Pod {} in StatefulSet {} failed error: {}",
                        claim.name(),
                        pod.name(),
                        set.name(),
                        errors::text(&error)
                    );
                    self.events.warning(set, "FailedCreate", text);
                    return Err(error.into());
                }
            }
        }
        Ok(())
    }

    async fn repair(&self, set: &StatefulSet, pod: &Pod) -> anyhow::Result<()> {
        let Some(ordinal) = identity::ordinal(pod) else { return Ok(()) };
        let mut next = pod.clone();
        identity::identify(set, &mut next, ordinal);
        self.make_claims(set, &next, ordinal).await?;
        let api: Api<Pod> = Api::namespaced(self.ctx.client.clone(), set.ns());
        let result = api.replace(pod.name(), &PostParams::default(), &next).await;
        match &result {
            Ok(_) => self.told_pod("update", set, pod, None),
            Err(error) if errors::conflict(error) => {}
            Err(error) => self.told_pod("update", set, pod, Some(&errors::text(error))),
        }
        errors::optional(result)?;
        Ok(())
    }

    /// Owner references of the pod's claims, by the retention policy.
    async fn retain(&self, set: &StatefulSet, pod: &Pod) -> anyhow::Result<()> {
        let Some(ordinal) = identity::ordinal(pod) else { return Ok(()) };
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.ctx.client.clone(), set.ns());
        for wanted in identity::claims(set, ordinal) {
            let Some(claim) = self.claims.get(&wanted.key()) else { continue };
            let Some(owners) = identity::claim_owners(set, pod, &claim) else { continue };
            let mut next = (*claim).clone();
            next.metadata.owner_references = Some(owners);
            errors::optional(api.replace(claim.name(), &PostParams::default(), &next).await)?;
        }
        Ok(())
    }

    async fn delete(&self, set: &StatefulSet, pod: &Pod) -> anyhow::Result<()> {
        let api: Api<Pod> = Api::namespaced(self.ctx.client.clone(), set.ns());
        let only = Preconditions { uid: pod.metadata.uid.clone(), resource_version: None };
        let params = DeleteParams { preconditions: Some(only), ..DeleteParams::default() };
        match api.delete(pod.name(), &params).await {
            Ok(_) => {
                self.told_pod("delete", set, pod, None);
                self.expect.deleted(&set.key(), pod);
                Ok(())
            }
            Err(error) if errors::not_found(&error) => Ok(()),
            Err(error) => {
                self.told_pod("delete", set, pod, Some(&errors::text(&error)));
                Err(error.into())
            }
        }
    }

    fn told_pod(&self, verb: &str, set: &StatefulSet, pod: &Pod, error: Option<&str>) {
        let mut title = verb.to_owned();
        title[..1].make_ascii_uppercase();
        let about = format!("{verb} Pod {} in StatefulSet {}", pod.name(), set.name());
        match error {
            None => self.events.normal(set, &format!("Successful{title}"), format!("{about} successful")),
            Some(error) => {
                self.events.warning(set, &format!("Failed{title}"), format!("{about} failed error: {error}"))
            }
        }
    }

    async fn write(&self, set: &StatefulSet, status: StatefulSetStatus) -> anyhow::Result<()> {
        if set.status.as_ref().is_some_and(|old| semantic::same(old, &status)) {
            return Ok(());
        }
        let api: Api<StatefulSet> = Api::namespaced(self.ctx.client.clone(), set.ns());
        let new = StatefulSet { status: Some(status), ..set.clone() };
        errors::optional(api.replace_status(set.name(), &PostParams::default(), &new).await)?;
        Ok(())
    }
}
