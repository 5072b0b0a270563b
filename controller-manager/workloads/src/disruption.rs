//! disruption-controller: keeps the status of pod disruption budgets, by which evictions are allowed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use controller_kit::expect::Written;
use controller_kit::meta::{Labels, MetaExt, controller_of};
use controller_kit::{
    Context, Events, Key, Queue, Requeue, Shared, condition, errors, now, now_time, pod, semantic,
};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::Api;
use kube::api::PostParams;

use crate::deployment::scaled;

/// An eviction that was allowed and has not happened after so long will not happen.
const PATIENCE: i64 = 120;

struct Controller {
    ctx: Context,
    events: Events,
    budgets: Arc<Shared<PodDisruptionBudget>>,
    pods: Arc<Shared<Pod>>,
    deployments: Arc<Shared<Deployment>>,
    replica_sets: Arc<Shared<ReplicaSet>>,
    stateful_sets: Arc<Shared<StatefulSet>>,
    replication: Arc<Shared<ReplicationController>>,
    written: Written,
}

/// Runs until shutdown.
pub async fn run(ctx: Context) -> anyhow::Result<()> {
    let queue = Queue::new();
    let controller = Controller {
        events: ctx.events("controllermanager"),
        budgets: ctx.informer(),
        pods: ctx.informer(),
        deployments: ctx.informer(),
        replica_sets: ctx.informer(),
        stateful_sets: ctx.informer(),
        replication: ctx.informer(),
        written: Written::default(),
        ctx,
    };
    controller.budgets.synced().await;
    controller.pods.synced().await;
    controller.deployments.synced().await;
    controller.replica_sets.synced().await;
    controller.stateful_sets.synced().await;
    controller.replication.synced().await;
    let q = queue.clone();
    controller.budgets.watch(move |change| q.add(change.object().key()));
    let (q, cache) = (queue.clone(), controller.budgets.clone());
    controller.pods.watch(move |change| {
        let pod = change.object();
        for budget in cache.namespace(pod.ns()) {
            let selector = selector(&budget);
            let was = change.old().is_some_and(|old| selector.matches(old.metadata.labels.as_ref()));
            if was || selector.matches(pod.metadata.labels.as_ref()) {
                q.add(budget.key());
            }
        }
    });
    let workers = controller.ctx.workers("disruption", "disruption", 1);
    let c = &controller;
    workers.run(queue, |key| async move { c.reconcile(&key).await }).await;
    Ok(())
}

fn selector(budget: &PodDisruptionBudget) -> Labels {
    Labels::optional(budget.spec.as_ref().and_then(|s| s.selector.as_ref()))
}

impl Controller {
    async fn reconcile(&self, key: &Key) -> anyhow::Result<Requeue> {
        if !self.written.seen(key, self.budgets.newest()) {
            return Ok(Some(Duration::from_secs(30)));
        }
        let Some(budget) = self.budgets.get(key) else { return Ok(None) };
        let selector = selector(&budget);
        let all = self.pods.namespace(&key.namespace);
        let pods: Vec<_> = all.into_iter().filter(|p| selector.matches(p.metadata.labels.as_ref())).collect();
        if pods.is_empty() {
            self.events.normal(&*budget, "NoPods", "No matching pods found");
        }
        let (expected, desired) = match self.expectation(&budget, &pods) {
            Ok(counts) => counts,
            Err(why) => {
                self.events.warning(
                    &*budget,
                    "CalculateExpectedPodCountFailed",
                    format!("Failed to calculate the number of expected pods: {why}"),
                );
                return self.fail(&budget, &why).await;
            }
        };
        let now = now();
        let (disrupted, again) = still_disrupted(&budget, &pods, now);
        let healthy = pods.iter().filter(|p| counts_as_healthy(p, &disrupted)).count() as i32;
        let allowed = if expected > 0 { (healthy - desired).max(0) } else { 0 };
        let mut conditions = budget.status.as_ref().and_then(|s| s.conditions.clone());
        let (status, reason) =
            if allowed > 0 { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
        condition::set_meta(&mut conditions, new_condition(status, reason, "", &budget));
        let status = PodDisruptionBudgetStatus {
            current_healthy: Some(healthy),
            desired_healthy: Some(desired),
            expected_pods: Some(expected),
            disruptions_allowed: Some(allowed),
            disrupted_pods: Some(disrupted).filter(|d| !d.is_empty()),
            observed_generation: budget.metadata.generation,
            conditions,
        };
        self.write(&budget, status).await?;
        Ok(again)
    }

    /// How many pods there should be, and how many of them have to be healthy.
    fn expectation(&self, budget: &PodDisruptionBudget, pods: &[Arc<Pod>]) -> Result<(i32, i32), String> {
        let spec = budget.spec.clone().unwrap_or_default();
        match (&spec.max_unavailable, &spec.min_available) {
            (Some(most), _) => {
                let expected = self.scale(pods)?;
                Ok((expected, (expected - scaled(Some(most), expected, true)).max(0)))
            }
            (None, Some(IntOrString::Int(n))) => Ok((pods.len() as i32, *n)),
            (None, Some(share)) => {
                let expected = self.scale(pods)?;
                Ok((expected, scaled(Some(share), expected, true)))
            }
            (None, None) => Ok((pods.len() as i32, 0)),
        }
    }

    /// The sum of the sizes of everything that owns the pods; pods without an owner stand for themselves.
    fn scale(&self, pods: &[Arc<Pod>]) -> Result<i32, String> {
        let mut sizes: BTreeMap<String, i32> = BTreeMap::new();
        for pod in pods {
            let Some(owner) = controller_of(&pod.metadata) else {
                sizes.insert(pod.uid().to_owned(), 1);
                continue;
            };
            let key = Key::new(pod.ns(), &owner.name);
            let size = match owner.kind.as_str() {
                "ReplicaSet" => self.replica_sets.get(&key).filter(|s| s.uid() == owner.uid).map(|set| {
                    let above = controller_of(&set.metadata).filter(|o| o.kind == "Deployment");
                    let deployment = above.and_then(|o| self.deployments.get(&Key::new(set.ns(), &o.name)));
                    match deployment {
                        Some(d) => {
                            (d.uid().to_owned(), d.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1))
                        }
                        None => {
                            (set.uid().to_owned(), set.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1))
                        }
                    }
                }),
                "StatefulSet" => self
                    .stateful_sets
                    .get(&key)
                    .filter(|s| s.uid() == owner.uid)
                    .map(|s| (s.uid().to_owned(), s.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1))),
                "ReplicationController" => self
                    .replication
                    .get(&key)
                    .filter(|s| s.uid() == owner.uid)
                    .map(|s| (s.uid().to_owned(), s.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1))),
                other => {
                    return Err(format!(
                        "found no controllers for pod \"{}\" ({other} has no scale)",
                        pod.name()
                    ));
                }
            };
            // An owner that is gone takes its pods along soon.
            if let Some((uid, size)) = size {
                sizes.insert(uid, size);
            }
        }
        Ok(sizes.values().sum())
    }

    async fn fail(&self, budget: &PodDisruptionBudget, why: &str) -> anyhow::Result<Requeue> {
        let mut status = budget.status.clone().unwrap_or_default();
        status.disruptions_allowed = Some(0);
        status.observed_generation = budget.metadata.generation;
        condition::set_meta(&mut status.conditions, new_condition("False", "SyncFailed", why, budget));
        self.write(budget, status).await?;
        Ok(None)
    }

    async fn write(
        &self,
        budget: &PodDisruptionBudget,
        status: PodDisruptionBudgetStatus,
    ) -> anyhow::Result<()> {
        if budget.status.as_ref().is_some_and(|old| semantic::same(old, &status)) {
            return Ok(());
        }
        let api: Api<PodDisruptionBudget> = Api::namespaced(self.ctx.client.clone(), budget.ns());
        let next = PodDisruptionBudget { status: Some(status), ..budget.clone() };
        if let Some(written) =
            errors::optional(api.replace_status(budget.name(), &PostParams::default(), &next).await)?
        {
            self.written.note(&budget.key(), written.rv());
        }
        Ok(())
    }
}

fn new_condition(status: &str, reason: &str, message: &str, budget: &PodDisruptionBudget) -> Condition {
    Condition {
        type_: "DisruptionAllowed".into(),
        status: status.into(),
        reason: reason.into(),
        message: message.into(),
        observed_generation: budget.metadata.generation,
        last_transition_time: now_time(),
    }
}

fn counts_as_healthy(pod: &Pod, disrupted: &BTreeMap<String, Time>) -> bool {
    !pod.deleting() && !disrupted.contains_key(pod.name()) && pod::ready(pod)
}

/// The allowed evictions that are still under way, and when to look again.
fn still_disrupted(
    budget: &PodDisruptionBudget,
    pods: &[Arc<Pod>],
    now: jiff::Timestamp,
) -> (BTreeMap<String, Time>, Requeue) {
    let noted = budget.status.as_ref().and_then(|s| s.disrupted_pods.clone()).unwrap_or_default();
    let mut left = BTreeMap::new();
    let mut again = None;
    for (name, since) in noted {
        let alive = pods.iter().any(|p| p.name() == name && !p.deleting());
        let wait = PATIENCE - now.duration_since(since.0).as_secs();
        if alive && wait > 0 {
            let wait = Duration::from_secs(wait.unsigned_abs());
            again = Some(again.map_or(wait, |a: Duration| a.min(wait)));
            left.insert(name, since);
        }
    }
    (left, again)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn evictions_under_way_count_until_they_are_overdue() {
        let budget: PodDisruptionBudget = serde_json::from_value(json!({"status": {"currentHealthy": 0, "desiredHealthy": 0,
            "disruptionsAllowed": 0, "expectedPods": 0, "disruptedPods": {"a": "2026-01-01T00:00:00Z", "b": "2026-01-01T00:00:00Z", "gone": "2026-01-01T00:00:00Z"}}}))
        .unwrap();
        let pod = |name: &str, extra: &str| {
            let mut p = json!({"metadata": {"name": name}, "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
            if extra == "deleting" {
                p["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            }
            Arc::new(serde_json::from_value::<Pod>(p).unwrap())
        };
        let pods = [pod("a", ""), pod("b", "deleting"), pod("c", "")];
        let (left, again) = still_disrupted(&budget, &pods, "2026-01-01T00:01:00Z".parse().unwrap());
        assert_eq!(left.keys().collect::<Vec<_>>(), ["a"]);
        assert_eq!(again, Some(Duration::from_secs(60)));
        assert!(
            !counts_as_healthy(&pods[0], &left)
                && !counts_as_healthy(&pods[1], &left)
                && counts_as_healthy(&pods[2], &left)
        );
        let (late, _) = still_disrupted(&budget, &pods, "2026-01-01T00:02:00Z".parse().unwrap());
        assert!(late.is_empty());
    }
}
