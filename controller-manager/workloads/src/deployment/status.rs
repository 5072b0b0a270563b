//! A deployment's status and its Progressing, Available and ReplicaFailure conditions.

use std::sync::Arc;
use std::time::Duration;

use controller_kit::condition;
use controller_kit::meta::MetaExt;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::plan::{max_unavailable, total, wanted};

pub(super) const AVAILABLE_REASON: &str = "NewReplicaSetAvailable";
pub(super) const TIMED_OUT: &str = "ProgressDeadlineExceeded";

pub(super) fn new_condition(
    kind: &str,
    status: &str,
    reason: &str,
    message: String,
    now: &Time,
) -> DeploymentCondition {
    DeploymentCondition {
        type_: kind.into(),
        status: status.into(),
        reason: Some(reason.into()),
        message: Some(message),
        last_update_time: Some(now.clone()),
        last_transition_time: Some(now.clone()),
    }
}

/// The deadline for progress, unless there is none.
pub(super) fn deadline(d: &Deployment) -> Option<i32> {
    d.spec.as_ref().and_then(|s| s.progress_deadline_seconds).filter(|n| *n != i32::MAX)
}

/// The counts over all replica sets, with the Available condition.
pub(super) fn counts(
    d: &Deployment,
    new: Option<&Arc<ReplicaSet>>,
    all: &[Arc<ReplicaSet>],
    now: &Time,
) -> DeploymentStatus {
    let sum = |f: &dyn Fn(&k8s_openapi::api::apps::v1::ReplicaSetStatus) -> i32| -> i32 {
        all.iter().filter_map(|s| s.status.as_ref()).map(f).sum()
    };
    let available = sum(&|s| s.available_replicas.unwrap_or(0));
    let old = d.status.clone().unwrap_or_default();
    let mut conditions = old.conditions;
    let enough = available >= wanted(d) - max_unavailable(d);
    let condition = if enough {
        new_condition(
            "Available",
            "True",
            "MinimumReplicasAvailable",
            "Deployment has minimum availability.".into(),
            now,
        )
    } else {
        let text = "Deployment does not have minimum availability.";
        new_condition("Available", "False", "MinimumReplicasUnavailable", text.into(), now)
    };
    condition::set(&mut conditions, condition, false);
    DeploymentStatus {
        observed_generation: d.metadata.generation,
        replicas: Some(sum(&|s| s.replicas)),
        updated_replicas: Some(new.and_then(|s| s.status.as_ref()).map_or(0, |s| s.replicas)),
        ready_replicas: Some(sum(&|s| s.ready_replicas.unwrap_or(0))),
        available_replicas: Some(available),
        unavailable_replicas: Some((total(all) - available).max(0)),
        terminating_replicas: Some(sum(&|s| s.terminating_replicas.unwrap_or(0))),
        collision_count: old.collision_count,
        conditions,
    }
}

/// Every pod is of the current template, available, and none is left over.
pub(super) fn complete(d: &Deployment, s: &DeploymentStatus) -> bool {
    let want = wanted(d);
    s.updated_replicas.unwrap_or(0) == want
        && s.replicas.unwrap_or(0) == want
        && s.available_replicas.unwrap_or(0) == want
        && s.observed_generation.unwrap_or(0) >= d.generation()
}

fn progressing(d: &Deployment, new: &DeploymentStatus) -> bool {
    let old = d.status.clone().unwrap_or_default();
    let n = |v: Option<i32>| v.unwrap_or(0);
    let old_pods = |s: &DeploymentStatus| n(s.replicas) - n(s.updated_replicas);
    n(new.updated_replicas) > n(old.updated_replicas)
        || old_pods(new) < old_pods(&old)
        || n(new.ready_replicas) > n(old.ready_replicas)
        || n(new.available_replicas) > n(old.available_replicas)
}

fn timed_out(d: &Deployment, s: &DeploymentStatus, now: &Time) -> bool {
    let Some(condition) = condition::find(&s.conditions, "Progressing") else { return false };
    let reason = condition.reason.as_deref().unwrap_or_default();
    if reason == AVAILABLE_REASON {
        return false;
    }
    if reason == TIMED_OUT {
        return true;
    }
    let (Some(deadline), Some(from)) = (deadline(d), &condition.last_update_time) else { return false };
    now.0.duration_since(from.0).as_secs() > i64::from(deadline)
}

/// The status while a rollout goes on: progress, completion or time-out, and failures of replica sets.
pub(super) fn rollout(
    d: &Deployment,
    new: Option<&Arc<ReplicaSet>>,
    all: &[Arc<ReplicaSet>],
    now: &Time,
) -> DeploymentStatus {
    let mut status = counts(d, new, all, now);
    let subject = match new {
        Some(set) => format!("ReplicaSet \"{}\"", set.name()),
        None => format!("Deployment \"{}\"", d.name()),
    };
    let old = d.status.as_ref().and_then(|s| condition::find(&s.conditions, "Progressing")).cloned();
    if deadline(d).is_none() {
        condition::remove(&mut status.conditions, "Progressing");
    } else {
        let was_complete = status.replicas == status.updated_replicas
            && old.as_ref().is_some_and(|c| c.reason.as_deref() == Some(AVAILABLE_REASON));
        if !was_complete {
            progress(d, &mut status, &subject, old, now);
        }
    }
    match failure(new, all) {
        Some(condition) => {
            condition::set(&mut status.conditions, condition, false);
        }
        None => {
            condition::remove(&mut status.conditions, "ReplicaFailure");
        }
    }
    status
}

fn progress(
    d: &Deployment,
    status: &mut DeploymentStatus,
    subject: &str,
    old: Option<DeploymentCondition>,
    now: &Time,
) {
    if complete(d, status) {
        let text = format!("{subject} has successfully progressed.");
        condition::set(
            &mut status.conditions,
            new_condition("Progressing", "True", AVAILABLE_REASON, text, now),
            false,
        );
    } else if progressing(d, status) {
        let text = format!("{subject} is progressing.");
        let mut next = new_condition("Progressing", "True", "ReplicaSetUpdated", text, now);
        if let Some(old) = old.filter(|c| c.status == "True") {
            next.last_transition_time = old.last_transition_time;
        }
        condition::remove(&mut status.conditions, "Progressing");
        status.conditions.get_or_insert_default().push(next);
    } else if timed_out(d, status, now) {
        let text = format!("{subject} has timed out progressing.");
        condition::set(
            &mut status.conditions,
            new_condition("Progressing", "False", TIMED_OUT, text, now),
            false,
        );
    }
}

/// The new replica set's failure goes before those of old ones.
fn failure(new: Option<&Arc<ReplicaSet>>, all: &[Arc<ReplicaSet>]) -> Option<DeploymentCondition> {
    let sets = new.into_iter().chain(all);
    let found =
        sets.filter_map(|s| condition::find(&s.status.as_ref()?.conditions, "ReplicaFailure")).next()?;
    Some(DeploymentCondition {
        type_: found.type_.clone(),
        status: found.status.clone(),
        reason: found.reason.clone(),
        message: found.message.clone(),
        last_transition_time: found.last_transition_time.clone(),
        last_update_time: found.last_transition_time.clone(),
    })
}

/// When to look again whether the deadline has passed without progress.
pub(super) fn next_check(d: &Deployment, status: &DeploymentStatus, now: &Time) -> Option<Duration> {
    let condition = condition::find(&status.conditions, "Progressing")?;
    let deadline = deadline(d)?;
    if complete(d, status) || condition.reason.as_deref() == Some(TIMED_OUT) {
        return None;
    }
    let passed = now.0.duration_since(condition.last_update_time.as_ref()?.0).as_secs();
    let left = i64::from(deadline) - passed;
    Some(Duration::from_secs(left.max(0).unsigned_abs() + 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn at(text: &str) -> Time {
        Time(text.parse().unwrap())
    }

    fn deployment(status: serde_json::Value) -> Deployment {
        serde_json::from_value(json!({"metadata": {"name": "d", "generation": 1},
            "spec": {"replicas": 2, "selector": {}, "template": {}, "progressDeadlineSeconds": 600,
                     "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}},
            "status": status}))
        .unwrap()
    }

    fn set(replicas: i32, available: i32) -> Arc<ReplicaSet> {
        Arc::new(
            serde_json::from_value(
                json!({"metadata": {"name": "d-1"}, "spec": {"replicas": 2, "selector": {}},
            "status": {"replicas": replicas, "readyReplicas": available, "availableReplicas": available}}),
            )
            .unwrap(),
        )
    }

    fn reason(s: &DeploymentStatus, kind: &str) -> String {
        condition::find(&s.conditions, kind).and_then(|c| c.reason.clone()).unwrap_or_default()
    }

    #[test]
    fn a_rollout_progresses_completes_or_times_out() {
        let progressing = json!({"conditions": [{"type": "Progressing", "status": "True", "reason": "ReplicaSetUpdated",
            "lastUpdateTime": "2026-01-01T00:00:00Z", "lastTransitionTime": "2026-01-01T00:00:00Z"}],
            "replicas": 2, "updatedReplicas": 2});
        let cases = [
            (json!({}), set(2, 0), "2026-01-01T00:00:01Z", "ReplicaSetUpdated", "MinimumReplicasUnavailable"),
            (
                progressing.clone(),
                set(2, 2),
                "2026-01-01T00:00:01Z",
                "NewReplicaSetAvailable",
                "MinimumReplicasAvailable",
            ),
            (
                progressing.clone(),
                set(2, 0),
                "2026-01-01T00:10:01Z",
                "ProgressDeadlineExceeded",
                "MinimumReplicasUnavailable",
            ),
            (
                progressing.clone(),
                set(2, 0),
                "2026-01-01T00:09:59Z",
                "ReplicaSetUpdated",
                "MinimumReplicasUnavailable",
            ),
        ];
        for (old, new, now, progress, available) in cases {
            let d = deployment(old);
            let status = rollout(&d, Some(&new), std::slice::from_ref(&new), &at(now));
            assert_eq!(
                (reason(&status, "Progressing").as_str(), reason(&status, "Available").as_str()),
                (progress, available),
                "{now}"
            );
        }
        let d = deployment(progressing);
        assert_eq!(
            next_check(&d, d.status.as_ref().unwrap(), &at("2026-01-01T00:03:00Z")),
            Some(Duration::from_secs(421))
        );
    }
}
