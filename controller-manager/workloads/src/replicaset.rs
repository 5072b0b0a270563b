//! replicaset-controller: as many pods as asked for, no more, no fewer.

use std::sync::Arc;
use std::time::Duration;

use controller_kit::claim::{Claimant, claim_may_change};
use controller_kit::expect::Expectations;
use controller_kit::meta::{Labels, MetaExt, controller_of, controller_ref};
use controller_kit::{
    Change, Context, Events, Key, Queue, Requeue, Shared, condition, errors, now, now_time, pod, rank,
    semantic, template,
};
use futures::future::join_all;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::PostParams;

use crate::pods::{BURST, PodControl, slow_start};

struct Controller {
    ctx: Context,
    events: Events,
    sets: Arc<Shared<ReplicaSet>>,
    pods: Arc<Shared<Pod>>,
    expect: Expectations,
}

/// Runs until shutdown.
pub async fn run(ctx: Context) -> anyhow::Result<()> {
    let queue = Queue::new();
    let (sets, pods) = (ctx.informer::<ReplicaSet>(), ctx.informer::<Pod>());
    sets.synced().await;
    pods.synced().await;
    watch(&queue, &sets, &pods);
    let workers = ctx.workers("replicaset", "replicaset", 5);
    let events = ctx.events("replicaset-controller");
    let controller = Controller { ctx, events, sets, pods, expect: Expectations::default() };
    let controller = &controller;
    workers.run(queue, |key| async move { controller.reconcile(key).await }).await;
    Ok(())
}

fn watch(queue: &Queue, sets: &Arc<Shared<ReplicaSet>>, pods: &Shared<Pod>) {
    let q = queue.clone();
    sets.watch(move |change| q.add(change.object().key()));
    let (q, cache) = (queue.clone(), sets.clone());
    pods.watch(move |change| {
        wake_owners(&q, "ReplicaSet", change, |pod| {
            let labels = pod.metadata.labels.as_ref()?;
            if labels.is_empty() {
                return None;
            }
            let matching = cache.namespace(pod.ns()).into_iter();
            Some(
                matching
                    .filter(|s| Labels::new(&selector(s)).matches(Some(labels)))
                    .map(|s| s.key())
                    .collect(),
            )
        })
    });
}

/// Enqueues the owner a pod has and the one it had, and for an orphan everyone who might want it.
pub(crate) fn wake_owners(
    queue: &Queue,
    kind: &str,
    change: &Change<Pod>,
    candidates: impl Fn(&Pod) -> Option<Vec<Key>>,
) {
    let pod = change.object();
    if let Some(old) = change.old()
        && let Some(owner) = controller_of(&old.metadata).filter(|o| o.kind == kind)
    {
        queue.add(Key::new(old.ns(), &owner.name));
    }
    if let Some(owner) = controller_of(&pod.metadata) {
        if owner.kind == kind {
            queue.add(Key::new(pod.ns(), &owner.name));
        }
        return;
    }
    if change.deleted() || pod.deleting() || !claim_may_change(change.old(), &**pod) {
        return;
    }
    for key in candidates(pod).unwrap_or_default() {
        queue.add(key);
    }
}

fn selector(set: &ReplicaSet) -> k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector {
    set.spec.as_ref().map(|s| s.selector.clone()).unwrap_or_default()
}

impl Controller {
    async fn reconcile(&self, key: Key) -> anyhow::Result<Requeue> {
        let Some(set) = self.sets.get(&key) else {
            self.expect.forget(&key);
            return Ok(None);
        };
        let caught_up = self.expect.satisfied(&key, &self.pods);
        let claimant = Claimant {
            client: &self.ctx.client,
            owner: &*set,
            reference: controller_ref(&*set),
            selector: Labels::new(&selector(&set)),
            finalizer: None,
        };
        let pods = claimant.claim(&self.pods).await?;
        let mut outcome = Outcome::default();
        if caught_up && !set.deleting() {
            let related = || self.related(&set);
            let scaler = Scaler { ctx: &self.ctx, events: &self.events, expect: &self.expect };
            outcome = scaler.scale(&*set, &replicas_of(&set), &pods, related).await;
        } else if !caught_up {
            outcome.retry = Some(Duration::from_secs(300));
        }
        let now = now();
        let status = status(&set, &pods, outcome.error.as_deref(), now);
        let waiting = next_available(&pods, min_ready(&set), now);
        self.write(&set, status).await?;
        match outcome.error {
            Some(error) => anyhow::bail!(error),
            None => Ok(waiting.or(outcome.retry)),
        }
    }

    /// The pods of every replica set with this one's owner: deletion prefers nodes that hold many of them.
    fn related(&self, set: &ReplicaSet) -> Vec<Arc<Pod>> {
        let siblings = match controller_of(&set.metadata) {
            Some(owner) => self.sets.owned(&owner.uid),
            None => vec![Arc::new(set.clone())],
        };
        siblings.iter().flat_map(|s| self.pods.owned(s.uid())).collect()
    }

    async fn write(&self, set: &ReplicaSet, status: ReplicaSetStatus) -> anyhow::Result<()> {
        if set.status.as_ref().is_some_and(|old| semantic::same(old, &status)) {
            return Ok(());
        }
        let api: Api<ReplicaSet> = Api::namespaced(self.ctx.client.clone(), set.ns());
        let new = ReplicaSet { status: Some(status), ..set.clone() };
        errors::optional(api.replace_status(set.name(), &PostParams::default(), &new).await)?;
        Ok(())
    }
}

/// What scaling needs to know of a replica set or a replication controller.
pub(crate) struct Replicas {
    pub want: i32,
    pub template: k8s_openapi::api::core::v1::PodTemplateSpec,
}

fn replicas_of(set: &ReplicaSet) -> Replicas {
    let spec = set.spec.clone().unwrap_or_default();
    Replicas { want: spec.replicas.unwrap_or(1), template: spec.template.unwrap_or_default() }
}

fn min_ready(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|s| s.min_ready_seconds).unwrap_or(0)
}

/// What came of scaling.
#[derive(Default)]
pub(crate) struct Outcome {
    pub error: Option<String>,
    pub retry: Requeue,
}

/// Creates or deletes pods until there are as many as wanted.
pub(crate) struct Scaler<'a> {
    pub ctx: &'a Context,
    pub events: &'a Events,
    pub expect: &'a Expectations,
}

impl Scaler<'_> {
    pub(crate) async fn scale<O: controller_kit::claim::Claimable>(
        &self,
        owner: &O,
        replicas: &Replicas,
        pods: &[Arc<Pod>],
        related: impl FnOnce() -> Vec<Arc<Pod>>,
    ) -> Outcome {
        let active: Vec<_> = pods.iter().filter(|p| pod::active(p)).cloned().collect();
        let want = usize::try_from(replicas.want).unwrap_or(0);
        let control = PodControl { client: &self.ctx.client, events: self.events, owner };
        let key = owner.key();
        if active.len() < want {
            let new = template::pod(&replicas.template, owner.ns(), controller_ref(owner));
            let missing = (want - active.len()).min(BURST);
            let (made, error) = slow_start(missing, |_| async {
                match control.create(&new).await {
                    Ok(pod) => {
                        self.expect.created(&key, &pod);
                        Ok(())
                    }
                    Err(error) if errors::namespace_terminating(&error) => Ok(()),
                    Err(error) => Err(error),
                }
            })
            .await;
            tracing::debug!(%key, made, missing, "created pods");
            return Outcome { error: error.map(|e| errors::text(&e)), retry: None };
        }
        if active.len() > want {
            let surplus = (active.len() - want).min(BURST);
            let victims = rank::to_delete(&active, &related(), surplus, now());
            let results = join_all(victims.iter().map(|victim| async {
                control.delete(victim).await.inspect(|()| self.expect.deleted(&key, victim))
            }))
            .await;
            let error = results.into_iter().find_map(Result::err);
            return Outcome { error: error.map(|e| errors::text(&e)), retry: None };
        }
        Outcome::default()
    }
}

/// The status that the owned pods amount to.
pub(crate) fn status(
    set: &ReplicaSet,
    pods: &[Arc<Pod>],
    error: Option<&str>,
    now: jiff::Timestamp,
) -> ReplicaSetStatus {
    let spec = set.spec.clone().unwrap_or_default();
    let old = set.status.clone().unwrap_or_default();
    let template = spec.template.as_ref().and_then(|t| t.metadata.as_ref()).and_then(|m| m.labels.clone());
    let full = Labels::exact(&template.unwrap_or_default());
    let min_ready = spec.min_ready_seconds.unwrap_or(0);
    let active: Vec<_> = pods.iter().filter(|p| pod::active(p)).collect();
    let count = |test: &dyn Fn(&Pod) -> bool| active.iter().filter(|p| test(p)).count() as i32;
    let mut conditions = old.conditions;
    let failing = condition::find(&conditions, "ReplicaFailure").is_some();
    match error {
        Some(message) if !failing => {
            let missing = (active.len() as i64) < i64::from(spec.replicas.unwrap_or(1));
            let reason = if missing { "FailedCreate" } else { "FailedDelete" };
            let new = ReplicaSetCondition {
                type_: "ReplicaFailure".into(),
                status: "True".into(),
                reason: Some(reason.into()),
                message: Some(message.to_owned()),
                last_transition_time: Some(now_time()),
            };
            condition::set(&mut conditions, new, false);
        }
        None if failing => {
            condition::remove(&mut conditions, "ReplicaFailure");
        }
        _ => {}
    }
    ReplicaSetStatus {
        replicas: active.len() as i32,
        fully_labeled_replicas: Some(count(&|p| full.matches(p.metadata.labels.as_ref()))),
        ready_replicas: Some(count(&pod::ready)),
        available_replicas: Some(count(&|p| pod::available(p, min_ready, now))),
        terminating_replicas: Some(pods.iter().filter(|p| pod::terminating(p)).count() as i32),
        observed_generation: set.metadata.generation,
        conditions: conditions.filter(|c| !c.is_empty()),
    }
}

/// How long until the next ready pod becomes available.
pub(crate) fn next_available(pods: &[Arc<Pod>], min_ready: i32, now: jiff::Timestamp) -> Requeue {
    if min_ready == 0 {
        return None;
    }
    let waits = pods
        .iter()
        .filter(|p| pod::active(p))
        .filter_map(|p| pod::seconds_until_available(p, min_ready, now));
    waits.filter(|s| *s > 0).min().map(|s| Duration::from_secs(s.unsigned_abs()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn status_counts_and_reports_failure_once() {
        let set: ReplicaSet = serde_json::from_value(json!({
            "metadata": {"name": "r", "namespace": "n", "generation": 3},
            "spec": {"replicas": 3, "minReadySeconds": 60, "selector": {"matchLabels": {"a": "b"}},
                     "template": {"metadata": {"labels": {"a": "b", "c": "d"}}}}}))
        .unwrap();
        let pod = |labels: serde_json::Value, ready: &str, extra: serde_json::Value| {
            let mut pod = json!({"metadata": {"labels": labels}, "status": {"phase": "Running", "conditions": [
                {"type": "Ready", "status": ready, "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
            if let Some(map) = extra.as_object() {
                pod["metadata"].as_object_mut().unwrap().extend(map.clone());
            }
            Arc::new(serde_json::from_value::<Pod>(pod).unwrap())
        };
        let pods = [
            pod(json!({"a": "b", "c": "d"}), "True", json!({})),
            pod(json!({"a": "b"}), "False", json!({})),
            pod(json!({"a": "b"}), "True", json!({"deletionTimestamp": "2026-01-01T00:00:00Z"})),
        ];
        let at = |t: &str| t.parse::<jiff::Timestamp>().unwrap();
        let early = status(&set, &pods, Some("quota"), at("2026-01-01T00:00:30Z"));
        assert_eq!(
            (early.replicas, early.fully_labeled_replicas, early.ready_replicas, early.available_replicas),
            (2, Some(1), Some(1), Some(0))
        );
        assert_eq!((early.terminating_replicas, early.observed_generation), (Some(1), Some(3)));
        let failure = &early.conditions.as_ref().unwrap()[0];
        assert_eq!(
            (failure.type_.as_str(), failure.reason.as_deref()),
            ("ReplicaFailure", Some("FailedCreate"))
        );
        assert_eq!(next_available(&pods, 60, at("2026-01-01T00:00:30Z")), Some(Duration::from_secs(30)));
        let next = ReplicaSet { status: Some(early), ..set };
        let late = status(&next, &pods, None, at("2026-01-01T00:01:00Z"));
        assert_eq!((late.available_replicas, late.conditions), (Some(1), None));
    }
}
