//! daemonset-controller: one pod on every node that fits.

mod plan;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use controller_kit::claim::Claimant;
use controller_kit::expect::Expectations;
use controller_kit::meta::{Labels, MetaExt, controller_ref, selects_everything};
use controller_kit::{Context, Events, Key, Queue, Requeue, Shared, errors, now, revision, semantic};
use futures::future::join_all;
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, DaemonSetStatus};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use parking_lot::Mutex;
use serde_json::json;

use crate::history::{self, Subject};
use crate::pods::{PodControl, slow_start};
use crate::replicaset::{next_available, wake_owners};
use plan::{ByNode, Plan};

/// How many pods one pass makes or deletes at most.
const BURST: usize = 250;

struct Controller {
    ctx: Context,
    events: Events,
    sets: Arc<Shared<DaemonSet>>,
    pods: Arc<Shared<Pod>>,
    nodes: Arc<Shared<Node>>,
    revisions: Arc<Shared<ControllerRevision>>,
    expect: Expectations,
    /// Pods that fail again and again on a node are replaced ever more slowly.
    backoff: Mutex<HashMap<(Key, String), (Instant, Duration)>>,
}

/// Runs until shutdown.
pub async fn run(ctx: Context) -> anyhow::Result<()> {
    let queue = Queue::new();
    let (sets, pods) = (ctx.informer::<DaemonSet>(), ctx.informer::<Pod>());
    let (nodes, revisions) = (ctx.informer::<Node>(), ctx.informer::<ControllerRevision>());
    sets.synced().await;
    pods.synced().await;
    nodes.synced().await;
    revisions.synced().await;
    watch(&queue, &sets, &pods, &nodes);
    let workers = ctx.workers("daemonset", "daemonset", 2);
    let events = ctx.events("daemonset-controller");
    let expect = Expectations::default();
    let controller =
        Controller { ctx, events, sets, pods, nodes, revisions, expect, backoff: Mutex::default() };
    let controller = &controller;
    workers.run(queue, |key| async move { controller.reconcile(key).await }).await;
    Ok(())
}

fn watch(queue: &Queue, sets: &Arc<Shared<DaemonSet>>, pods: &Shared<Pod>, nodes: &Shared<Node>) {
    let q = queue.clone();
    sets.watch(move |change| q.add(change.object().key()));
    let (q, cache) = (queue.clone(), sets.clone());
    pods.watch(move |change| {
        wake_owners(&q, "DaemonSet", change, |pod| {
            let all = cache.namespace(pod.ns()).into_iter();
            let matching = all.filter(|s| {
                let selector = s.spec.as_ref().map(|s| Labels::new(&s.selector));
                selector.is_some_and(|l| l.matches(pod.metadata.labels.as_ref()))
            });
            Some(matching.map(|s| s.key()).collect())
        })
    });
    let (q, cache) = (queue.clone(), sets.clone());
    nodes.watch(move |change| {
        let now = change.object();
        for set in cache.list() {
            let fits = plan::should_run(&set, now);
            let changed = change.old().is_none_or(|old| plan::should_run(&set, old) != fits);
            if changed && (change.deleted() || change.old().is_some() || fits.0) {
                q.add(set.key());
            }
        }
    });
}

impl Controller {
    async fn reconcile(&self, key: Key) -> anyhow::Result<Requeue> {
        let Some(set) = self.sets.get(&key) else {
            self.expect.forget(&key);
            self.backoff.lock().retain(|(k, _), _| *k != key);
            return Ok(None);
        };
        let Some(spec) = &set.spec else { return Ok(None) };
        if selects_everything(&spec.selector) {
            let text = "This daemon set is selecting all pods. A non-empty selector is required.";
            self.events.warning(&*set, "SelectingAll", text);
            return Ok(None);
        }
        if set.deleting() {
            return Ok(None);
        }
        let subject = Subject {
            owner: &*set,
            selector: &spec.selector,
            template: &spec.template,
            labels: revision::labels(&*set, &spec.template),
            collisions: set.status.as_ref().and_then(|s| s.collision_count).unwrap_or(0),
        };
        let history = history::sync(&self.ctx, &self.revisions, &subject).await?;
        let hash = history.update.label(revision::HASH_LABEL).unwrap_or_default().to_owned();
        let nodes = self.nodes.list();
        let mut requeue = None;
        let mut outcome = Ok(());
        if self.expect.satisfied(&key, &self.pods) {
            let pods = self.by_node(&set).await?;
            self.relabel(&history.all).await?;
            let first = plan::manage(&set, &nodes, &pods, &hash, now());
            outcome = self.carry_out(&set, first, &hash, &mut requeue).await;
            if outcome.is_ok() && self.expect.satisfied(&key, &self.pods) {
                let next = plan::roll(&set, &nodes, &pods, &hash, now());
                outcome = self.carry_out(&set, next, &hash, &mut requeue).await;
            }
        } else {
            requeue = Some(Duration::from_secs(300));
        }
        let pods = self.by_node(&set).await?;
        let now = now();
        let status = plan::status(&set, &nodes, &pods, &hash, Some(history.collisions), now);
        self.write(&set, status).await?;
        outcome?;
        let used = |r: &ControllerRevision| {
            let hash = r.label(revision::HASH_LABEL);
            r.uid() == history.update.uid()
                || pods.values().flatten().any(|p| p.label(revision::HASH_LABEL) == hash)
        };
        history::truncate(&self.ctx, &history.all, spec.revision_history_limit.unwrap_or(10), used).await?;
        let all: Vec<_> = pods.into_values().flatten().collect();
        Ok(next_available(&all, spec.min_ready_seconds.unwrap_or(0), now).or(requeue))
    }

    async fn by_node(&self, set: &DaemonSet) -> anyhow::Result<ByNode> {
        let claimant = Claimant {
            client: &self.ctx.client,
            owner: set,
            reference: controller_ref(set),
            selector: Labels::optional(set.spec.as_ref().map(|s| &s.selector)),
            finalizer: None,
        };
        let mut map = ByNode::new();
        for pod in claimant.claim(&self.pods).await? {
            if let Some(node) = plan::target(&pod) {
                map.entry(node).or_default().push(pod);
            }
        }
        Ok(map)
    }

    /// Revisions from before the label existed get it here.
    async fn relabel(&self, revisions: &[Arc<ControllerRevision>]) -> anyhow::Result<()> {
        for revision in revisions.iter().filter(|r| r.label(revision::HASH_LABEL).is_none()) {
            let api: Api<ControllerRevision> = Api::namespaced(self.ctx.client.clone(), revision.ns());
            let patch = json!({"metadata": {"labels": {revision::HASH_LABEL: revision.name()}}});
            errors::optional(
                api.patch(revision.name(), &PatchParams::default(), &Patch::Merge(patch)).await,
            )?;
        }
        Ok(())
    }

    async fn carry_out(
        &self,
        set: &DaemonSet,
        mut plan: Plan,
        hash: &str,
        requeue: &mut Requeue,
    ) -> anyhow::Result<()> {
        for pod in std::mem::take(&mut plan.failed) {
            let node = plan::target(&pod).unwrap_or_default();
            match self.wait_after_failure(&set.key(), &node) {
                Some(wait) => *requeue = Some(requeue.map_or(wait, |r| r.min(wait))),
                None => {
                    let text =
                        format!("Found failed daemon pod {} on node {node}, will try to kill it", pod.key());
                    self.events.warning(set, "FailedDaemonPod", text);
                    plan.delete.push(pod);
                }
            }
        }
        for pod in std::mem::take(&mut plan.succeeded) {
            let node = plan::target(&pod).unwrap_or_default();
            let text =
                format!("Found succeeded daemon pod {} on node {node}, will try to delete it", pod.key());
            self.events.normal(set, "SucceededDaemonPod", text);
            plan.delete.push(pod);
        }
        let key = set.key();
        let control = PodControl { client: &self.ctx.client, events: &self.events, owner: set };
        plan.create.truncate(BURST);
        let create = &plan.create;
        let (_, error) = slow_start(create.len(), |i| {
            let (control, key) = (&control, &key);
            async move {
                match control.create(&plan::new_pod(set, &create[i], hash)).await {
                    Ok(pod) => {
                        self.expect.created(key, &pod);
                        Ok(())
                    }
                    Err(error) if errors::namespace_terminating(&error) => Ok(()),
                    Err(error) => Err(error),
                }
            }
        })
        .await;
        let deleted = join_all(
            plan.delete
                .iter()
                .take(BURST)
                .map(|pod| async { control.delete(pod).await.inspect(|()| self.expect.deleted(&key, pod)) }),
        )
        .await;
        match error.or_else(|| deleted.into_iter().find_map(Result::err)) {
            Some(error) => Err(error.into()),
            None => Ok(()),
        }
    }

    /// How long a failed pod still stays; `None` once it may go.
    fn wait_after_failure(&self, set: &Key, node: &str) -> Option<Duration> {
        let mut all = self.backoff.lock();
        let slot = (set.clone(), node.to_owned());
        let last = all.get(&slot).copied();
        if let Some((since, wait)) = last {
            let passed = since.elapsed();
            if passed < wait {
                return Some(wait - passed);
            }
            if passed > Duration::from_secs(1800) {
                all.remove(&slot);
            }
        }
        let next =
            all.get(&slot).map_or(Duration::from_secs(1), |(_, w)| (*w * 2).min(Duration::from_secs(900)));
        all.insert(slot, (Instant::now(), next));
        None
    }

    async fn write(&self, set: &DaemonSet, status: DaemonSetStatus) -> anyhow::Result<()> {
        if set.status.as_ref().is_some_and(|old| semantic::same(old, &status)) {
            return Ok(());
        }
        let api: Api<DaemonSet> = Api::namespaced(self.ctx.client.clone(), set.ns());
        let new = DaemonSet { status: Some(status), ..set.clone() };
        errors::optional(api.replace_status(set.name(), &PostParams::default(), &new).await)?;
        Ok(())
    }
}
