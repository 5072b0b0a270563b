//! replicationcontroller-controller: the elder of the replica set, with an exact selector.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use controller_kit::claim::Claimant;
use controller_kit::expect::Expectations;
use controller_kit::meta::{Labels, MetaExt, controller_ref};
use controller_kit::{Context, Events, Key, Queue, Requeue, Shared, errors, now, semantic};
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetSpec, ReplicaSetStatus};
use k8s_openapi::api::core::v1::{
    Pod, ReplicationController, ReplicationControllerCondition, ReplicationControllerStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::Api;
use kube::api::PostParams;

use crate::replicaset::{Outcome, Replicas, Scaler, next_available, status, wake_owners};

struct Controller {
    ctx: Context,
    events: Events,
    sets: Arc<Shared<ReplicationController>>,
    pods: Arc<Shared<Pod>>,
    expect: Expectations,
}

/// Runs until shutdown.
pub async fn run(ctx: Context) -> anyhow::Result<()> {
    let queue = Queue::new();
    let (sets, pods) = (ctx.informer::<ReplicationController>(), ctx.informer::<Pod>());
    sets.synced().await;
    pods.synced().await;
    let q = queue.clone();
    sets.watch(move |change| q.add(change.object().key()));
    let (q, cache) = (queue.clone(), sets.clone());
    pods.watch(move |change| {
        wake_owners(&q, "ReplicationController", change, |pod| {
            let labels = pod.metadata.labels.as_ref()?;
            let matching = cache.namespace(pod.ns()).into_iter();
            Some(
                matching
                    .filter(|s| Labels::exact(&selector(s)).matches(Some(labels)))
                    .map(|s| s.key())
                    .collect(),
            )
        })
    });
    let workers = ctx.workers("replicationcontroller", "rc", 5);
    let events = ctx.events("replication-controller");
    let controller = Controller { ctx, events, sets, pods, expect: Expectations::default() };
    let controller = &controller;
    workers.run(queue, |key| async move { controller.reconcile(key).await }).await;
    Ok(())
}

fn selector(set: &ReplicationController) -> BTreeMap<String, String> {
    set.spec.as_ref().and_then(|s| s.selector.clone()).unwrap_or_default()
}

/// The replica set that says the same.
fn as_replica_set(rc: &ReplicationController) -> ReplicaSet {
    let spec = rc.spec.clone().unwrap_or_default();
    let old = rc.status.clone().unwrap_or_default();
    ReplicaSet {
        metadata: rc.metadata.clone(),
        spec: Some(ReplicaSetSpec {
            replicas: spec.replicas,
            min_ready_seconds: spec.min_ready_seconds,
            selector: LabelSelector { match_labels: spec.selector, match_expressions: None },
            template: spec.template,
        }),
        status: Some(ReplicaSetStatus {
            conditions: old.conditions.map(|all| {
                let convert = |c: ReplicationControllerCondition| ReplicaSetCondition {
                    type_: c.type_,
                    status: c.status,
                    reason: c.reason,
                    message: c.message,
                    last_transition_time: c.last_transition_time,
                };
                all.into_iter().map(convert).collect()
            }),
            ..ReplicaSetStatus::default()
        }),
    }
}

fn as_rc_status(status: ReplicaSetStatus) -> ReplicationControllerStatus {
    ReplicationControllerStatus {
        replicas: status.replicas,
        fully_labeled_replicas: status.fully_labeled_replicas,
        ready_replicas: status.ready_replicas,
        available_replicas: status.available_replicas,
        observed_generation: status.observed_generation,
        conditions: status.conditions.map(|all| {
            let convert = |c: ReplicaSetCondition| ReplicationControllerCondition {
                type_: c.type_,
                status: c.status,
                reason: c.reason,
                message: c.message,
                last_transition_time: c.last_transition_time,
            };
            all.into_iter().map(convert).collect()
        }),
    }
}

impl Controller {
    async fn reconcile(&self, key: Key) -> anyhow::Result<Requeue> {
        let Some(rc) = self.sets.get(&key) else {
            self.expect.forget(&key);
            return Ok(None);
        };
        let caught_up = self.expect.satisfied(&key, &self.pods);
        let claimant = Claimant {
            client: &self.ctx.client,
            owner: &*rc,
            reference: controller_ref(&*rc),
            selector: Labels::exact(&selector(&rc)),
            finalizer: None,
        };
        let pods = claimant.claim(&self.pods).await?;
        let set = as_replica_set(&rc);
        let spec = set.spec.clone().unwrap_or_default();
        let replicas =
            Replicas { want: spec.replicas.unwrap_or(1), template: spec.template.unwrap_or_default() };
        let mut outcome = Outcome::default();
        if caught_up && !rc.deleting() {
            let scaler = Scaler { ctx: &self.ctx, events: &self.events, expect: &self.expect };
            outcome = scaler.scale(&*rc, &replicas, &pods, || pods.clone()).await;
        } else if !caught_up {
            outcome.retry = Some(Duration::from_secs(300));
        }
        let now = now();
        let new = as_rc_status(status(&set, &pods, outcome.error.as_deref(), now));
        self.write(&rc, new).await?;
        match outcome.error {
            Some(error) => anyhow::bail!(error),
            None => Ok(next_available(&pods, spec.min_ready_seconds.unwrap_or(0), now).or(outcome.retry)),
        }
    }

    async fn write(
        &self,
        rc: &ReplicationController,
        status: ReplicationControllerStatus,
    ) -> anyhow::Result<()> {
        if rc.status.as_ref().is_some_and(|old| semantic::same(old, &status)) {
            return Ok(());
        }
        let api: Api<ReplicationController> = Api::namespaced(self.ctx.client.clone(), rc.ns());
        let new = ReplicationController { status: Some(status), ..rc.clone() };
        errors::optional(api.replace_status(rc.name(), &PostParams::default(), &new).await)?;
        Ok(())
    }
}
