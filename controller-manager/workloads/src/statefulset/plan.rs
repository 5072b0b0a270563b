//! What a stateful set does next, and its status. Pure functions.

use std::sync::Arc;

use controller_kit::meta::MetaExt;
use controller_kit::pod;
use controller_kit::revision::HASH_LABEL;
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetStatus};
use k8s_openapi::api::core::v1::Pod;

use super::identity::{end_ordinal, identity_matches, ordinal, start_ordinal, storage_matches};

/// One step.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Action {
    /// Make the pod of this ordinal, from the current or the update revision.
    Create {
        ordinal: i64,
        update: bool,
    },
    /// Make claims that a pending pod may lack.
    Claims(Arc<Pod>),
    /// Give the pod its name, labels and volumes back.
    Repair(Arc<Pod>),
    /// Bring the claims of a pod that goes under the retention policy.
    Retain(Arc<Pod>),
    Delete(Arc<Pod>),
}

/// The two revisions a stateful set is between.
#[derive(Clone, Copy, Debug)]
pub(super) struct Revisions<'a> {
    pub current: &'a str,
    pub update: &'a str,
}

pub(super) fn replicas(set: &StatefulSet) -> i64 {
    set.spec.as_ref().and_then(|s| s.replicas).map_or(1, i64::from).max(0)
}

fn min_ready(set: &StatefulSet) -> i32 {
    set.spec.as_ref().and_then(|s| s.min_ready_seconds).unwrap_or(0)
}

pub(super) fn rolling(set: &StatefulSet) -> bool {
    let kind = set.spec.as_ref().and_then(|s| s.update_strategy.as_ref()).and_then(|s| s.type_.as_deref());
    kind.is_none_or(|kind| kind == "RollingUpdate")
}

fn partition(set: &StatefulSet) -> Option<i64> {
    let update = set.spec.as_ref()?.update_strategy.as_ref()?.rolling_update.as_ref()?;
    Some(i64::from(update.partition.unwrap_or(0)))
}

fn parallel(set: &StatefulSet) -> bool {
    set.spec.as_ref().and_then(|s| s.pod_management_policy.as_deref()) == Some("Parallel")
}

fn max_unavailable(set: &StatefulSet) -> i64 {
    let update =
        set.spec.as_ref().and_then(|s| s.update_strategy.as_ref()).and_then(|s| s.rolling_update.as_ref());
    let value = update.and_then(|u| u.max_unavailable.as_ref());
    if value.is_none() {
        return 1;
    }
    let whole = i32::try_from(replicas(set)).unwrap_or(i32::MAX);
    i64::from(crate::deployment::scaled(value, whole, false)).max(1)
}

/// The revision a pod was made from.
pub(super) fn revision(pod: &Pod) -> &str {
    pod.label(HASH_LABEL).unwrap_or_default()
}

fn running_ready(pod: &Pod) -> bool {
    pod::phase(pod) == "Running" && pod::ready(pod)
}

fn available(pod: &Pod, set: &StatefulSet, now: jiff::Timestamp) -> bool {
    running_ready(pod) && pod::available(pod, min_ready(set), now)
}

/// Whether the pod of an ordinal is to be made from the current revision still.
fn from_current(set: &StatefulSet, ordinal: i64) -> bool {
    if !rolling(set) {
        return false;
    }
    let start = start_ordinal(set);
    match partition(set) {
        Some(partition) => ordinal < start + partition,
        None => {
            let current = set.status.as_ref().and_then(|s| s.current_replicas).unwrap_or(0);
            ordinal < start + i64::from(current)
        }
    }
}

/// The pods by place: one slot an ordinal, and those beyond the range, highest ordinal first.
pub(super) struct Places {
    pub slots: Vec<(i64, Option<Arc<Pod>>)>,
    pub condemned: Vec<Arc<Pod>>,
}

pub(super) fn places(set: &StatefulSet, pods: &[Arc<Pod>]) -> Places {
    let (start, end) = (start_ordinal(set), end_ordinal(set));
    let mut slots: Vec<(i64, Option<Arc<Pod>>)> = (start..=end).map(|o| (o, None)).collect();
    let mut condemned = Vec::new();
    for pod in pods {
        let Some(ordinal) = ordinal(pod) else { continue };
        let index = usize::try_from(ordinal - start).ok().filter(|i| *i < slots.len());
        match index {
            Some(i) => slots[i].1 = Some(pod.clone()),
            None => condemned.push(pod.clone()),
        }
    }
    condemned.sort_by_key(|p| std::cmp::Reverse(ordinal(p)));
    Places { slots, condemned }
}

/// The steps to take now. An ordered set takes one at a time and waits for it; a parallel one takes all.
pub(super) fn actions(
    set: &StatefulSet,
    pods: &[Arc<Pod>],
    revisions: Revisions<'_>,
    many_unavailable: bool,
    now: jiff::Timestamp,
) -> Vec<Action> {
    let places = places(set, pods);
    let ordered = !parallel(set);
    let mut steps = Vec::new();
    for (ordinal, pod) in &places.slots {
        if replica(set, *ordinal, pod.as_ref(), ordered, now, &mut steps) && ordered {
            return steps;
        }
    }
    steps.extend(places.condemned.iter().cloned().map(Action::Retain));
    let first_unhealthy = first_unavailable(set, &places, now);
    for pod in &places.condemned {
        if condemned(set, pod, first_unhealthy.as_ref(), ordered, now, &mut steps) && ordered {
            return steps;
        }
    }
    if rolling(set) {
        roll(set, &places, revisions, many_unavailable, now, &mut steps);
    }
    steps
}

/// Says whether an ordered set has to stop here.
fn replica(
    set: &StatefulSet,
    ordinal: i64,
    pod: Option<&Arc<Pod>>,
    ordered: bool,
    now: jiff::Timestamp,
    steps: &mut Vec<Action>,
) -> bool {
    let Some(pod) = pod else {
        steps.push(Action::Create { ordinal, update: !from_current(set, ordinal) });
        return true;
    };
    if pod::finished(pod) {
        if !pod.deleting() {
            steps.push(Action::Delete(pod.clone()));
        }
        return true;
    }
    if pod::phase(pod) == "Pending" {
        steps.push(Action::Claims(pod.clone()));
    }
    if ordered && (pod.deleting() || !available(pod, set, now)) {
        return true;
    }
    let as_wanted = identity_matches(set, pod) && storage_matches(set, pod);
    if !pod.deleting() && !as_wanted {
        steps.push(Action::Repair(pod.clone()));
    }
    false
}

fn condemned(
    set: &StatefulSet,
    pod: &Arc<Pod>,
    first_unhealthy: Option<&Arc<Pod>>,
    ordered: bool,
    now: jiff::Timestamp,
    steps: &mut Vec<Action>,
) -> bool {
    if pod.deleting() {
        return true;
    }
    let is_first = first_unhealthy.is_some_and(|f| f.uid() == pod.uid());
    if ordered && !available(pod, set, now) && !is_first {
        return true;
    }
    steps.push(Action::Delete(pod.clone()));
    true
}

fn unavailable(set: &StatefulSet, pod: Option<&Arc<Pod>>, now: jiff::Timestamp) -> bool {
    pod.is_none_or(|p| p.deleting() || !available(p, set, now))
}

fn first_unavailable(set: &StatefulSet, places: &Places, now: jiff::Timestamp) -> Option<Arc<Pod>> {
    let slots = places.slots.iter().map(|(_, p)| p.as_ref());
    let all = slots.chain(places.condemned.iter().rev().map(Some));
    all.into_iter().find(|p| unavailable(set, *p, now)).flatten().cloned()
}

/// Replaces pods of another revision from the highest ordinal down, never making more unavailable than allowed.
fn roll(
    set: &StatefulSet,
    places: &Places,
    revisions: Revisions<'_>,
    many: bool,
    now: jiff::Timestamp,
    steps: &mut Vec<Action>,
) {
    let first = usize::try_from(partition(set).unwrap_or(0)).unwrap_or(0);
    let missing = places.slots.iter().filter(|(_, p)| unavailable(set, p.as_ref(), now)).count() as i64;
    let mut budget = if many { max_unavailable(set) - missing } else { 1 };
    for (_, pod) in places.slots.iter().skip(first).rev() {
        if budget <= 0 {
            return;
        }
        let Some(pod) = pod else { if many { continue } else { return } };
        if revision(pod) != revisions.update && !pod.deleting() {
            steps.push(Action::Delete(pod.clone()));
            budget -= 1;
        } else if !many && unavailable(set, Some(pod), now) {
            return;
        }
    }
}

/// The status that the pods amount to.
pub(super) fn status(
    set: &StatefulSet,
    pods: &[Arc<Pod>],
    revisions: Revisions<'_>,
    collisions: i32,
    now: jiff::Timestamp,
) -> StatefulSetStatus {
    let count = |test: &dyn Fn(&Pod) -> bool| pods.iter().filter(|p| test(p)).count() as i32;
    let made_from = |name: &str| count(&|p| !p.deleting() && revision(p) == name);
    let mut status = StatefulSetStatus {
        observed_generation: set.metadata.generation,
        replicas: count(&|_| true),
        ready_replicas: Some(count(&running_ready)),
        available_replicas: Some(count(&|p| available(p, set, now))),
        current_replicas: Some(made_from(revisions.current)),
        updated_replicas: Some(made_from(revisions.update)),
        current_revision: Some(revisions.current.to_owned()),
        update_revision: Some(revisions.update.to_owned()),
        collision_count: Some(collisions),
        conditions: set.status.as_ref().and_then(|s| s.conditions.clone()),
    };
    let all = i32::try_from(replicas(set)).unwrap_or(i32::MAX);
    let done =
        status.updated_replicas == Some(all) && status.ready_replicas == Some(all) && status.replicas == all;
    if rolling(set) && done {
        status.current_replicas = status.updated_replicas;
        status.current_revision = status.update_revision.clone();
    }
    status
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
